"""Wav2Vec2-BERT (SeamlessM4T v2; Barrault et al. 2023, arXiv 2312.05187); exact mode only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from speechft.encoders.families.base import Family, Strides

if TYPE_CHECKING:
    from torch import Tensor

_WINDOW, _SHIFT, _STACKED = 400, 160, 2
"""Samples of a frame of the filterbank and between two of them; frames that are put together."""


class Wav2Vec2Bert(Family):
    """Kaldi log-mel features, two frames put together, and a conformer with causal convolutions.

    The front end has no weights: nothing is frozen where stable fine-tuning freezes the
    downsampler.
    """

    name: ClassVar[str] = "wav2vec2-bert"
    architecture: ClassVar[str] = "Wav2Vec2BertModel"
    dropouts: ClassVar[tuple[str, ...]] = (
        "hidden_dropout",
        "attention_dropout",
        "activation_dropout",
        "feat_proj_dropout",
        "conformer_conv_dropout",
        "layerdrop",
    )
    markers: ClassVar[tuple[str, ...]] = (
        "encoder.layers.0.conv_module.depthwise_layer_norm.weight",
        "feature_projection.projection.weight",
    )
    roots: ClassVar[tuple[str, ...]] = (
        "adapter",
        "encoder",
        "feature_projection",
        "intermediate_ffn",
        "masked_spec_embed",
    )
    defaults: ClassVar[Mapping[str, Any]] = {"feature_projection_input_dim": 160}

    def strides(self, settings: Mapping[str, Any]) -> Strides:
        """Return the filterbank's window and the stacking; a frame without its pair is dropped."""
        return [(_WINDOW, _SHIFT), (_STACKED, _STACKED)]

    def prepare(self, model: Any) -> Any:
        """Return window and mel filters, (400,) and (257, bins)."""
        import torch
        from transformers.audio_utils import mel_filter_bank, window_function

        filters = mel_filter_bank(
            num_frequency_bins=257,
            num_mel_filters=model.config.feature_projection_input_dim // _STACKED,
            min_frequency=20,
            max_frequency=8000,
            sampling_rate=16_000,
            norm=None,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
        window = window_function(_WINDOW, "povey", periodic=False)
        return torch.from_numpy(window), torch.from_numpy(filters)

    def downsample(self, model: Any, beside: Any, waveforms: Tensor, valid: Tensor) -> Tensor:
        """Return (B, T, 160) features, normalised over each utterance, zero beyond it."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        window, filters = (part.to(waveforms.device) for part in beside)
        with torch.autocast(waveforms.device.type, enabled=False):
            rows = [
                stacked_features(waveform[:samples], window, filters)
                for waveform, samples in zip(waveforms, valid.tolist(), strict=True)
            ]
        return pad_sequence(rows, batch_first=True).to(model.dtype)

    def project(self, model: Any, features: Tensor) -> Tensor:
        """Return the projected features."""
        hidden: Tensor = model.feature_projection(features)[0]
        return hidden

    def set_dropout(self, model: Any) -> None:
        """Make every module follow the configuration."""
        from torch import nn

        config = model.config
        rates = {
            "intermediate_dropout": config.activation_dropout,
            "self_attn_dropout": config.attention_dropout,
            "self_attn.dropout": config.attention_dropout,
            "feature_projection.dropout": config.feat_proj_dropout,
            "conv_module.dropout": config.conformer_conv_dropout,
        }
        for path, module in model.named_modules():
            if isinstance(module, nn.Dropout):
                ends = (rate for end, rate in rates.items() if path.endswith(end))
                module.p = next(ends, config.hidden_dropout)

    def processor(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return ``preprocessor_config.json`` as the published model has it."""
        bins = int(settings["feature_projection_input_dim"]) // _STACKED
        return {
            "feature_extractor_type": "SeamlessM4TFeatureExtractor",
            "feature_size": bins,
            "num_mel_bins": bins,
            "sampling_rate": 16000,
            "stride": _STACKED,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": True,
        }


def stacked_features(waveform: Tensor, window: Tensor, filters: Tensor) -> Tensor:
    """Return (T, 2 bins) Kaldi log-mel features of (S,) samples.

    Each bin is normalised over the utterance, by the unbiased variance, before the last frame
    without a pair is dropped. Rounded to single precision where the source rounds: over two or
    three frames the variance may be so small that rounding shows. Source:
    ``SeamlessM4TFeatureExtractor`` of transformers 5.
    """
    import torch

    frames = (waveform.float() * 2**15).double().unfold(0, _WINDOW, _SHIFT)
    frames = frames - frames.mean(1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    spectrum = torch.fft.rfft((frames - 0.97 * before) * window, 512).to(torch.complex64)
    power = spectrum.to(torch.complex128).abs().square()
    features = (power @ filters).clamp(min=1.192092955078125e-07).log().float()
    centred = features - features.mean(0)
    variance = centred.square().sum(0) / (len(features) - 1)
    pairs = len(features) // _STACKED
    normalized: Tensor = centred / (variance + 1e-7).sqrt()
    return normalized[: pairs * _STACKED].reshape(pairs, -1)


FAMILY = Wav2Vec2Bert()
