"""wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from speechft.encoders.families.fairseq import FINAL_DIM, FairseqFamily


class Wav2Vec2(FairseqFamily):
    """Contrastive prediction of quantised features."""

    name: ClassVar[str] = "wav2vec2"
    architecture: ClassVar[str] = "Wav2Vec2Model"
    aliases: ClassVar[tuple[str, ...]] = ("wav2vec_",)

    def recognises(self, names: set[str]) -> bool:
        """Tell by the quantizer and what is around it."""
        return any(n.startswith(("quantizer.", "project_q.", "project_hid.")) for n in names)

    def lacks_heads(self, weights: Mapping[str, Any]) -> bool:
        """Tell whether the quantizer was lost in fine-tuning."""
        return "quantizer.vars" not in weights

    def heads(self, settings: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
        """Return zeros for both projections."""
        import torch

        dim, channels = int(settings["hidden_size"]), int(settings["conv_dim"][-1])
        heads: dict[str, Any] = {}
        if "project_q.weight" not in weights:
            heads["project_q.weight"] = torch.zeros(FINAL_DIM, channels)
            heads["project_q.bias"] = torch.zeros(FINAL_DIM)
        if "final_proj.weight" not in weights:
            heads["final_proj.weight"] = torch.zeros(FINAL_DIM, dim)
            heads["final_proj.bias"] = torch.zeros(FINAL_DIM)
        return heads

    def described(
        self,
        settings: Mapping[str, Any],
        task: dict[str, Any],
        model: dict[str, Any],
        filled: dict[str, Any],
    ) -> dict[str, Any]:
        """Add the quantizer's fields."""
        model |= _quantizer(settings, filled)
        task |= {"_name": "audio_pretraining"}
        return {"task_cfg": task, "model_cfg": model, "model_weight": filled}


def _quantizer(settings: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that describe the quantizer, where it is there."""
    if "quantizer.vars" not in weights:
        return {"quantize_targets": False}
    _, entries, width = weights["quantizer.vars"].shape
    groups = int(settings.get("num_codevector_groups", 2))
    sizes = {"latent_vars": entries // groups, "latent_groups": groups}
    return sizes | {"quantize_targets": True, "latent_dim": width * groups}


FAMILY = Wav2Vec2()
