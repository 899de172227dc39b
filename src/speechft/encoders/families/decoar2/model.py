"""DeCoAR 2.0 and its front end as a Hugging Face model; importing this module registers it."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutput


class Decoar2Config(PretrainedConfig):  # type: ignore[misc]
    """Configuration of DeCoAR 2.0; the defaults are those of the published model.

    The published file holds no configuration. The values are those of s3prl's expert.
    """

    model_type = "decoar2"

    num_mel_bins: int = 80
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    activation_dropout: float | int = 0.0
    feat_proj_dropout: float | int = 0.1
    layerdrop: float | int = 0.05
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    apply_spec_augment: bool = False


class _PositionConvolution(nn.Conv1d):
    """Convolution over time whose output is as long as its input, whatever its number of taps."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Convolve (B, D, T); an even kernel looks one frame further back than ahead."""
        return super().forward(inputs)[..., : inputs.shape[-1]]


class _SelfAttention(nn.Module):
    """Multi-head self-attention. Shapes: B batch, T frames, D dim."""

    def __init__(self, config: Decoar2Config) -> None:
        super().__init__()
        dim = config.hidden_size
        self.heads = config.num_attention_heads
        if dim % self.heads:
            raise ValueError(f"hidden_size {dim} is not divisible by {self.heads} attention heads")
        self.dropout = float(config.attention_dropout)
        self.k_proj, self.v_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.q_proj, self.out_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Attend (B, T, D) to the frames where the (B, 1, 1, T) mask is true."""
        split = (*hidden.shape[:2], self.heads, -1)
        query, key, value = (
            projection(hidden).view(split).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        rate = self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, mask, rate)
        result: Tensor = self.out_proj(context.transpose(1, 2).flatten(2))
        return result


class _Layer(nn.Module):
    """Post-norm transformer layer (Vaswani et al. 2017)."""

    def __init__(self, config: Decoar2Config) -> None:
        super().__init__()
        dim, epsilon = config.hidden_size, config.layer_norm_eps
        self.self_attn = _SelfAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(dim, eps=epsilon)
        self.fc1 = nn.Linear(dim, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, dim)
        self.final_layer_norm = nn.LayerNorm(dim, eps=epsilon)
        self.activation = ACT2FN[config.hidden_act]
        self.attention_output_dropout = nn.Dropout(config.hidden_dropout)
        self.intermediate_dropout = nn.Dropout(config.activation_dropout)
        self.output_dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Transform (B, T, D)."""
        attended = self.attention_output_dropout(self.self_attn(hidden, mask))
        hidden = self.self_attn_layer_norm(hidden + attended)
        inner = self.intermediate_dropout(self.activation(self.fc1(hidden)))
        output: Tensor = self.final_layer_norm(hidden + self.output_dropout(self.fc2(inner)))
        return output


class _TransformerEncoder(nn.Module):
    """Convolutional positions, layer norm, and the layers."""

    def __init__(self, config: Decoar2Config) -> None:
        super().__init__()
        dim, taps = config.hidden_size, config.num_conv_pos_embeddings
        groups = config.num_conv_pos_embedding_groups
        convolution = _PositionConvolution(dim, dim, taps, padding=taps // 2, groups=groups)
        self.config = config
        self.pos_conv = nn.Sequential(
            nn.utils.parametrizations.weight_norm(convolution, name="weight", dim=2), nn.GELU()
        )
        self.layer_norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList([_Layer(config) for _ in range(config.num_hidden_layers)])

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """Encode (B, T, D); the (B, T) mask is true on valid frames."""
        mask = None
        if attention_mask is not None:
            hidden = hidden.masked_fill(~attention_mask[..., None], 0.0)
            mask = attention_mask[:, None, None, :]
        position = self.pos_conv(hidden.transpose(1, 2)).transpose(1, 2)
        hidden = self.dropout(self.layer_norm(hidden + position))
        states = [hidden]
        for layer in self.layers:
            if self.training and torch.rand([]) < self.config.layerdrop:
                states.append(hidden)
                continue
            hidden = layer(hidden, mask)
            states.append(hidden)
        return hidden, *states


class Decoar2Model(PreTrainedModel):  # type: ignore[misc]
    """The encoder of DeCoAR 2.0 (Ling and Liu 2020, arXiv 2012.06659).

    A linear projection of 80 log-mel features and a post-norm transformer. Parameters have the
    names of the published file, so weights need no translation.
    """

    config_class = Decoar2Config
    base_model_prefix = "decoar2"
    main_input_name = "input_features"
    _supports_sdpa = True

    def __init__(self, config: Decoar2Config) -> None:
        super().__init__(config)
        self.post_extract_proj = nn.Linear(config.num_mel_bins, config.hidden_size)
        self.feature_projection_dropout = nn.Dropout(config.feat_proj_dropout)
        self.encoder = _TransformerEncoder(config)
        self.post_init()

    def forward(
        self,
        input_features: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool = False,
        **_: Any,
    ) -> BaseModelOutput:
        """Encode normalised log-mel features.

        Args:
            input_features: (B, T, 80) as `log_mel_features` makes them.
            attention_mask: (B, T), true or 1 on valid frames.
            output_hidden_states: Return the input of the first layer and each layer's output too.
        """
        hidden = self.feature_projection_dropout(self.post_extract_proj(input_features))
        mask = None if attention_mask is None else attention_mask.bool()
        last, *states = self.encoder(hidden, mask)
        return BaseModelOutput(last, tuple(states) if output_hidden_states else None)


def log_mel_transform(bins: int) -> nn.Module:
    """Return the map from (1, S) samples to (1, 2T, bins) Kaldi features with a shift of 10 ms."""
    from lhotse.features.kaldi.layers import Wav2LogFilterBank

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # snip_edges is what we want; NumPy 2 deprecations
        transform: nn.Module = Wav2LogFilterBank(
            sampling_rate=16_000,
            window_type="hamming",
            dither=0.0,
            snip_edges=True,
            num_filters=bins,
            high_freq=0.0,
        )
    # lhotse's bank differs by 1.4e-5, which normalisation and layers carry beyond 1e-5
    transform._fb = nn.Parameter(_mel_bank(bins))
    return transform.requires_grad_(False)


def log_mel_features(transform: nn.Module, waveform: Tensor) -> Tensor:
    """Return Kaldi log-mel features, normalised over the utterance, every second frame.

    Source: s3prl 0.4 ``upstream/decoar2/audio.py``: mean and unbiased standard deviation over all
    frames, taken before every second one is dropped. A single frame has no deviation: zeros.

    Args:
        transform: From (1, S) samples to (1, 2T, 80) features with a shift of 10 ms.
        waveform: (S,) samples in [-1, 1].

    Returns:
        (T, 80) features, 20 ms apart.
    """
    features: Tensor = transform(waveform[None])[0]
    centred = features - features.mean(0)
    if len(features) == 1:
        return centred
    return (centred / (1e-10 + features.std(0)))[::2]


def _mel_bank(bins: int, bands: int = 256, low: float = 20.0, nyquist: float = 8_000.0) -> Tensor:
    """Return Kaldi's triangular mel filters with torchaudio's float32 rounding.

    Returns:
        (bands + 1, bins) weights of the power spectrum, 0 for the Nyquist frequency.
    """

    def mel(frequency: Tensor | float) -> Any:
        return 1127.0 * (
            (1.0 + frequency / 700.0).log()
            if isinstance(frequency, Tensor)
            else math.log(1.0 + frequency / 700.0)
        )

    step = (mel(nyquist) - mel(low)) / (bins + 1)
    number = torch.arange(bins)[:, None]
    left, centre, right = (mel(low) + (number + shift) * step for shift in (0.0, 1.0, 2.0))
    position = mel(nyquist / bands * torch.arange(bands))[None]
    rising, falling = (position - left) / (centre - left), (right - position) / (right - centre)
    return F.pad(torch.minimum(rising, falling).clamp(min=0.0), (0, 1)).T.contiguous()


AutoConfig.register("decoar2", Decoar2Config, exist_ok=True)
AutoModel.register(Decoar2Config, Decoar2Model, exist_ok=True)
