"""What families share whose downsampler is a stack of convolutions over the waveform."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from speechft.encoders.families.base import Family, Strides

if TYPE_CHECKING:
    from torch import Tensor

_ATTENTION = ("attention", "self_attn")


class ConvolutionalFamily(Family):
    """Convolutions, a projection and a transformer, as wav2vec 2.0 has them."""

    dropouts: ClassVar[tuple[str, ...]] = (
        "hidden_dropout",
        "attention_dropout",
        "activation_dropout",
        "feat_proj_dropout",
        "layerdrop",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "conv_dim": [512] * 7,
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "feat_extract_norm": "group",
    }
    downsampler: ClassVar[tuple[str, ...]] = ("feature_extractor.",)
    takes_normalized: ClassVar[bool] = True
    padding_leaks: ClassVar[bool] = True
    markers: ClassVar[tuple[str, ...]] = ("feature_extractor.conv_layers.0.conv.weight",)
    roots: ClassVar[tuple[str, ...]] = (
        "adapter",
        "encoder",
        "feature_extractor",
        "feature_projection",
        "masked_spec_embed",
        "pos_conv_embed",
    )

    def lacking(self, settings: Mapping[str, Any], names: set[str]) -> list[str]:
        """Add the convolutions, as many as the configuration has, and the projection."""
        count = len(settings.get("conv_dim") or ())
        own = [f"feature_extractor.conv_layers.{i}.conv.weight" for i in range(count)]
        own.append("feature_projection.projection.weight")
        return [n for n in own if n not in names] + super().lacking(settings, names)

    def strides(self, settings: Mapping[str, Any]) -> Strides:
        """Return kernel and stride of each convolution."""
        pairs = zip(settings["conv_kernel"], settings["conv_stride"], strict=True)
        return [(int(kernel), int(stride)) for kernel, stride in pairs]

    def prepare(self, model: Any) -> Any:
        """Make group normalisation leave padding out."""
        from torch import nn

        from speechft.encoders.group_norm import MaskedGroupNorm

        first = model.feature_extractor.conv_layers[0]
        if isinstance(getattr(first, "layer_norm", None), nn.GroupNorm):
            first.layer_norm = MaskedGroupNorm.from_group_norm(first.layer_norm)

    def downsample(self, model: Any, beside: Any, waveforms: Tensor, valid: Tensor) -> Tensor:
        """Run the convolutions; statistics over time are those of valid samples."""
        import torch

        kernel, stride = self.strides(vars(model.config))[0]
        frames = torch.div(valid - kernel, stride, rounding_mode="floor") + 1
        with _masked_statistics(model, frames):
            features: Tensor = model.feature_extractor(waveforms)
        return features.transpose(1, 2)

    def downsample_as_s3prl(
        self, model: Any, beside: Any, waveforms: Tensor, valid: Tensor
    ) -> Tensor:
        """Run the convolutions; padding is part of the statistics."""
        features: Tensor = model.feature_extractor(waveforms)
        return features.transpose(1, 2)

    def project(self, model: Any, features: Tensor) -> Tensor:
        """Return the input of the transformer; some models return the normalised features too."""
        projected = model.feature_projection(features)
        hidden: Tensor = projected[0] if isinstance(projected, tuple) else projected
        return hidden

    def set_dropout(self, model: Any) -> None:
        """Make every module follow the configuration."""
        from torch import nn

        config = model.config
        for path, module in model.named_modules():
            leaf = path.rpartition(".")[2]
            if isinstance(module, nn.Dropout):
                if leaf == "intermediate_dropout":
                    module.p = config.activation_dropout
                elif "feature_projection" in path:
                    module.p = config.feat_proj_dropout
                elif "self_attn" in path:
                    module.p = config.attention_dropout
                else:
                    module.p = config.hidden_dropout
            elif leaf in _ATTENTION and isinstance(getattr(module, "dropout", None), float):
                module.dropout = config.attention_dropout

    def processor(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return ``preprocessor_config.json`` for 16 kHz waveforms."""
        norm = self.whole(settings).get("feat_extract_norm", "layer")
        return {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "feature_size": 1,
            "sampling_rate": 16000,
            "padding_value": 0.0,
            "padding_side": "right",
            "do_normalize": bool(settings.get("do_normalize", False)),
            "return_attention_mask": norm == "layer",
        }


@contextlib.contextmanager
def _masked_statistics(model: Any, frames: Tensor) -> Iterator[None]:
    from speechft.encoders.group_norm import MaskedGroupNorm

    norm = getattr(model.feature_extractor.conv_layers[0], "layer_norm", None)
    if not isinstance(norm, MaskedGroupNorm):
        yield
        return
    norm.lengths = frames
    try:
        yield
    finally:
        norm.lengths = None
