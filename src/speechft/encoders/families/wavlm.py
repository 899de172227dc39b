"""WavLM (Chen et al. 2022, arXiv 2110.13900): gated relative position bias."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from speechft.encoders.families.fairseq import FairseqFamily
from speechft.encoders.families.shares import share_of_batch

if TYPE_CHECKING:
    from torch import Tensor


class WavLM(FairseqFamily):
    """A layout of its own: ``{cfg, model}`` without task and heads."""

    name: ClassVar[str] = "wavlm"
    architecture: ClassVar[str] = "WavLMModel"
    reads_weights: ClassVar[tuple[str, ...]] = ("WavLMAttention",)
    file_format: ClassVar[str] = "wavlm"
    config_fields: ClassVar[tuple[tuple[str, str], ...]] = (
        ("num_buckets", "num_buckets"),
        ("max_distance", "max_bucket_distance"),
    )

    def recognises(self, names: set[str]) -> bool:
        """Tell by the gates of the position bias."""
        return any("grep_a" in n or "gru_rel_pos_const" in n for n in names)

    def s3prl_attends(self, valid: Tensor, lengths: Tensor, frames: int) -> Tensor:
        """Return the shares of the batch that hold samples."""
        return share_of_batch(lengths, frames)

    def fairseq_fields(self, normalize: bool) -> dict[str, Any]:
        """Return what its own class reads."""
        return {"normalize": normalize, "relative_position_embedding": True, "gru_rel_pos": True}

    def s3prl_content(
        self, settings: Mapping[str, Any], model: dict[str, Any], weights: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the published layout."""
        return {"cfg": model, "model": self._placeholders(settings, weights) | dict(weights)}


FAMILY = WavLM()
