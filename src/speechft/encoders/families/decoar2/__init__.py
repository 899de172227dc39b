"""DeCoAR 2.0 (Ling and Liu 2020, arXiv 2012.06659): log-mel features and a transformer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from speechft.encoders.families.base import Family, Strides
from speechft.encoders.families.tables import (
    FIELDS,
    count_layers,
    normalise_weight_norm,
    old_weight_norm,
)
from speechft.encoders.hints import config_hint
from speechft.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from speechft.encoders.conversion.tensors import Tensor as StoredTensor

PUBLISHED: dict[str, Any] = {
    "model_type": "decoar2",
    "architectures": ["Decoar2Model"],
    "num_mel_bins": 80,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.1,
    "layerdrop": 0.05,
}
"""What the published file does not say about itself; sizes are read off its tensors."""


class Decoar2(Family):
    """Frame t covers samples [320 t, 320 t + 400); nothing is frozen: the front end has no weights.

    Parameters have the names of the published file, but for the spelling of the weight norm. In
    s3prl's mode hidden states are the same, and only the reported lengths differ.
    """

    name: ClassVar[str] = "decoar2"
    architecture: ClassVar[str] = "Decoar2Model"
    auto_model: ClassVar[bool] = False
    modes: ClassVar[tuple[str, ...]] = ("exact", "s3prl")
    dropouts: ClassVar[tuple[str, ...]] = (
        "hidden_dropout",
        "attention_dropout",
        "activation_dropout",
        "feat_proj_dropout",
        "layerdrop",
    )
    in_s3prl: ClassVar[bool] = True
    markers: ClassVar[tuple[str, ...]] = ("post_extract_proj.weight", "encoder.pos_conv.0.bias")
    s3prl_markers: ClassVar[tuple[str, ...]] = markers
    roots: ClassVar[tuple[str, ...]] = ("encoder", "post_extract_proj")
    bare_format: ClassVar[str] = "decoar2"

    def model_class(self, settings: Mapping[str, Any]) -> tuple[Any, Any]:
        """Register the model with transformers, which has no such class."""
        from speechft.encoders.families.decoar2 import model  # noqa: F401 - importing registers it

        return super().model_class(settings)

    def strides(self, settings: Mapping[str, Any]) -> Strides:
        """Return a window of 25 ms, every second 10 ms."""
        return [(400, 320)]

    def prepare(self, model: Any) -> Any:
        """Return the filterbank: it has no weights to train or to save."""
        from speechft.encoders.families.decoar2.model import log_mel_transform

        return log_mel_transform(model.config.num_mel_bins)

    def downsample(self, model: Any, beside: Any, waveforms: Tensor, valid: Tensor) -> Tensor:
        """Return (B, T, 80) normalised log-mel features, zero beyond each utterance."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        from speechft.encoders.families.decoar2.model import log_mel_features

        transform = beside.to(waveforms.device)
        with torch.autocast(waveforms.device.type, enabled=False):
            rows = [
                log_mel_features(transform, waveform[:samples].float())
                for waveform, samples in zip(waveforms, valid.tolist(), strict=True)
            ]
        return pad_sequence(rows, batch_first=True).to(model.dtype)

    def project(self, model: Any, features: Tensor) -> Tensor:
        """Return the projected features."""
        hidden: Tensor = model.feature_projection_dropout(model.post_extract_proj(features))
        return hidden

    def set_dropout(self, model: Any) -> None:
        """Make every module follow the configuration."""
        from torch import nn

        config = model.config
        model.feature_projection_dropout.p = config.feat_proj_dropout
        model.encoder.dropout.p = config.hidden_dropout
        for layer in model.encoder.layers:
            layer.self_attn.dropout = config.attention_dropout
            for name, module in layer.named_children():
                if isinstance(module, nn.Dropout):
                    is_inner = name == "intermediate_dropout"
                    module.p = config.activation_dropout if is_inner else config.hidden_dropout

    def recognises(self, names: set[str]) -> bool:
        """Tell by the projection of features that no convolution made."""
        convolutions = any(n.startswith("feature_ext") for n in names)
        return "post_extract_proj.weight" in names and not convolutions

    def to_s3prl(self, names: Iterable[str]) -> dict[str, str | None]:
        """Return the same names with the older spelling of the weight norm."""
        return {name: old_weight_norm(name) for name in names}

    def to_hugging_face(self, name: str) -> str | None:
        """Return the same name with the newer spelling of the weight norm."""
        return normalise_weight_norm(name)

    def known_sizes(self, tensors: Mapping[str, StoredTensor], source: str) -> dict[str, Any]:
        """Read sizes off the tensors; the rest is as published."""
        return self.read_fields(tensors, {})

    def read_fields(
        self, tensors: Mapping[str, StoredTensor], fields: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return sizes from the tensors, and the rest given or as published."""
        known = {right: fields[left] for left, right in FIELDS if left in fields}
        _, per_group, kernel = tensors["encoder.pos_conv.0.parametrizations.weight.original1"].shape
        hidden, bins = tensors["post_extract_proj.weight"].shape
        sizes = {
            "num_mel_bins": bins,
            "hidden_size": hidden,
            "num_hidden_layers": count_layers(tensors),
            "intermediate_size": tensors["encoder.layers.0.fc1.bias"].shape[0],
            "num_conv_pos_embeddings": kernel,
            "num_conv_pos_embedding_groups": hidden // per_group,
        }
        return PUBLISHED | {n: v for n, v in known.items() if n in PUBLISHED} | sizes

    def published(
        self, tensors: Mapping[str, StoredTensor], source: str
    ) -> tuple[dict[str, Any], str]:
        """Return sizes with the published number of heads."""
        settings = self.known_sizes(tensors, source)
        heads, dim = settings["num_attention_heads"], settings["hidden_size"]
        if dim % heads:
            raise CheckpointError(
                f"{source} holds no configuration, and its dimension {dim} does not go "
                f"with the published {heads} attention heads",
                hint=config_hint(source),
            )
        return settings, f"{heads} heads taken, as published"

    def sidecar(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the configuration, unless it is the published one."""
        other = any(settings.get(name) != value for name, value in PUBLISHED.items())
        return dict(settings) if other else None

    def s3prl_content(
        self, settings: Mapping[str, Any], model: dict[str, Any], weights: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the published layout."""
        return {"model": dict(weights)}


FAMILY = Decoar2()
