"""HuBERT (Hsu et al. 2021, arXiv 2106.07447), and SPIN, which is tuned from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from speechft.encoders.families.fairseq import FINAL_DIM, FairseqFamily
from speechft.encoders.families.shares import share_of_batch

if TYPE_CHECKING:
    from torch import Tensor, nn

_SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>"]


class Hubert(FairseqFamily):
    """Masked prediction of clusters: one head for each set, label embeddings beside it."""

    name: ClassVar[str] = "hubert"
    architecture: ClassVar[str] = "HubertModel"
    assumed_for: ClassVar[tuple[str, ...]] = ("spin",)

    def recognises(self, names: set[str]) -> bool:
        """Tell by the label embeddings."""
        return "label_embs_concat" in names

    def s3prl_attends(self, valid: Tensor, lengths: Tensor, frames: int) -> Tensor:
        """Return the shares of the batch that hold samples."""
        return share_of_batch(lengths, frames)

    def leaks(self, model: Any) -> Sequence[nn.Module]:
        """Return the position convolution where a batch norm before it moves padding off zero."""
        position = model.encoder.pos_conv_embed
        return [] if getattr(position, "batch_norm", None) is None else [position.conv]

    def heads(self, settings: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
        """Return zeros for the projection and the label embeddings."""
        return _heads(int(settings["hidden_size"]), FINAL_DIM, weights)

    def described(
        self,
        settings: Mapping[str, Any],
        task: dict[str, Any],
        model: dict[str, Any],
        filled: dict[str, Any],
    ) -> dict[str, Any]:
        """Add the rate of labels and their dictionary."""
        rate = self.timing(settings).frame_rate
        model |= {"label_rate": rate, "untie_final_proj": True}
        task |= {"label_rate": rate, "labels": ["km"], "_name": "hubert_pretraining"}
        content = {"task_cfg": task, "model_cfg": model, "model_weight": filled}
        return content | {"dictionaries_symbols": _symbols(filled)}

    def from_fairseq(
        self, content: Mapping[str, Any], model: Mapping[str, Any], weights: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the weights with heads where they are lacking, and the dictionary."""
        filled = dict(weights)
        if "label_embs_concat" not in filled:
            has_head = "final_proj.bias" in filled
            dim = int(filled["final_proj.bias"].shape[0]) if has_head else FINAL_DIM
            filled |= _heads(int(model["encoder_embed_dim"]), dim, filled)
        symbols = content.get("dictionaries_symbols") or _symbols(filled)
        return {"model_weight": filled, "dictionaries_symbols": symbols}


def _symbols(weights: Mapping[str, Any]) -> list[list[str]]:
    """Return a dictionary with as many symbols as the label embeddings have rows."""
    rows = int(weights["label_embs_concat"].shape[0])
    return [[*_SYMBOLS, *map(str, range(max(rows - len(_SYMBOLS), 0)))][:rows]]


def _heads(dim: int, final: int, weights: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    if "final_proj.bias" in weights:
        final = int(weights["final_proj.bias"].shape[0])
    zeros = {
        "final_proj.weight": torch.zeros(final, dim),
        "final_proj.bias": torch.zeros(final),
        "label_embs_concat": torch.zeros(len(_SYMBOLS), final),
    }
    return {name: value for name, value in zeros.items() if name not in weights}


FAMILY = Hubert()
