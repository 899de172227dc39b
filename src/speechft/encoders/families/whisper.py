"""Whisper's encoder (Radford et al. 2022, arXiv 2212.04356); exact mode only, 30 s at most.

The model always sees a window of 30 s, what is shorter with silence behind it, as it was trained.
Frames of the silence are cut off, so that the features of an utterance do not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from speechft.encoders.families.base import Family, Strides
from speechft.encoders.families.encoder_only import encoder_only
from speechft.encoders.timing import FrameTiming

if TYPE_CHECKING:
    from torch import Tensor

_WINDOW, _SHIFT = 400, 160
"""Samples of a frame of the spectrogram, and between two of them."""


class Whisper(Family):
    """Log-mel features, two convolutions, the frozen downsampler, and a pre-norm transformer.

    The decoder is left out: its weights count as those of a head.
    """

    name: ClassVar[str] = "whisper"
    architecture: ClassVar[str] = "WhisperModel"
    auto_model: ClassVar[bool] = False
    sizes: ClassVar[Mapping[str, str]] = {
        "num_hidden_layers": "encoder_layers",
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
    }
    dropouts: ClassVar[tuple[str, ...]] = (
        "dropout",
        "attention_dropout",
        "activation_dropout",
        "encoder_layerdrop",
    )
    downsampler: ClassVar[tuple[str, ...]] = ("encoder.conv1.", "encoder.conv2.")
    markers: ClassVar[tuple[str, ...]] = ("encoder.conv1.weight", "encoder.embed_positions.weight")
    roots: ClassVar[tuple[str, ...]] = ("encoder",)
    defaults: ClassVar[Mapping[str, Any]] = {"max_source_positions": 1500, "num_mel_bins": 80}

    def model_class(self, settings: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return the whole model without its decoder."""
        from transformers.models.whisper import modeling_whisper as whisper

        _, config = super().model_class(settings)
        return encoder_only(whisper.WhisperPreTrainedModel, whisper.WhisperEncoder), config

    def strides(self, settings: Mapping[str, Any]) -> Strides:
        """Return steps that give a frame for every 320 samples that have begun."""
        return [(1, _SHIFT), (1, 2)]

    def timing(self, settings: Mapping[str, Any]) -> FrameTiming:
        """Return frames around every 320th sample; each convolution sees three frames."""
        field = _WINDOW + 4 * _SHIFT
        return FrameTiming(2 * _SHIFT, field, -field // 2)

    def window(self, settings: Mapping[str, Any]) -> int | None:
        """Return the samples that there are positions for, 30 s in all published models."""
        return int(settings["max_source_positions"]) * 2 * _SHIFT

    def prepare(self, model: Any) -> Any:
        """Fix the positions, which are sines, and return the mel filters, (201, bins).

        A decoder goes: no gradient would reach it.
        """
        import torch
        from transformers.audio_utils import mel_filter_bank

        model._modules.pop("decoder", None)
        table = model.encoder.embed_positions
        if "weight" in table._parameters:
            fixed = table._parameters.pop("weight").detach()
            table.register_buffer("weight", fixed)
        filters = mel_filter_bank(
            num_frequency_bins=1 + _WINDOW // 2,
            num_mel_filters=model.config.num_mel_bins,
            min_frequency=0.0,
            max_frequency=8000.0,
            sampling_rate=16_000,
            norm="slaney",
            mel_scale="slaney",
        )
        return torch.from_numpy(filters).float()

    def downsample(self, model: Any, beside: Any, waveforms: Tensor, valid: Tensor) -> Tensor:
        """Return (B, T, D) outputs of the convolutions over the whole window."""
        import torch
        import torch.nn.functional as F

        samples = model.config.max_source_positions * 2 * _SHIFT
        with torch.autocast(waveforms.device.type, enabled=False):
            audio = waveforms[:, :samples].float()
            audio = F.pad(audio, (0, samples - audio.shape[1]))
            silent = torch.arange(samples, device=audio.device) >= valid[:, None]
            features = log_mel(audio.masked_fill(silent, 0.0), beside.to(audio.device))
        hidden = F.gelu(model.encoder.conv1(features.to(model.dtype)))
        return F.gelu(model.encoder.conv2(hidden)).transpose(1, 2)

    def project(self, model: Any, features: Tensor) -> Tensor:
        """Add the positions."""
        import torch.nn.functional as F

        hidden = features + model.encoder.embed_positions.weight
        return F.dropout(hidden, p=model.encoder.dropout, training=model.training)

    def encode(self, model: Any, hidden: Tensor, mask: Tensor) -> Tensor:
        """Run the layers; attention sees the silence of the window too, as in training."""
        import torch

        encoder = model.encoder
        for layer in encoder.layers:
            if model.training and float(torch.rand([])) < encoder.layerdrop:
                continue
            output = layer(hidden, None)
            hidden = output[0] if isinstance(output, tuple) else output
        last: Tensor = encoder.layer_norm(hidden)
        return last

    def set_dropout(self, model: Any) -> None:
        """Make every module follow the configuration."""
        config, encoder = model.config, model.encoder
        encoder.dropout, encoder.layerdrop = config.dropout, config.encoder_layerdrop
        for layer in encoder.layers:
            layer.dropout, layer.activation_dropout = config.dropout, config.activation_dropout
            layer.self_attn.dropout = config.attention_dropout

    def processor(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return ``preprocessor_config.json`` as the published models have it."""
        return {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "feature_size": settings["num_mel_bins"],
            "sampling_rate": 16000,
            "hop_length": _SHIFT,
            "chunk_length": int(settings["max_source_positions"]) * 2 * _SHIFT // 16_000,
            "n_fft": _WINDOW,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": False,
        }


def log_mel(waveforms: Tensor, filters: Tensor) -> Tensor:
    """Return the (B, bins, S / 160) log-mel features of (B, S) windows, scaled for each window.

    Source: ``WhisperFeatureExtractor`` of transformers 5.
    """
    import torch

    shape = torch.hann_window(_WINDOW, device=waveforms.device)
    spectrum = torch.stft(waveforms, _WINDOW, _SHIFT, window=shape, return_complex=True)
    power = spectrum[..., :-1].abs().square()
    features = (filters.T @ power).clamp(min=1e-10).log10()
    features = torch.maximum(features, features.amax((1, 2), keepdim=True) - 8.0)
    return (features + 4.0) / 4.0


FAMILY = Whisper()
