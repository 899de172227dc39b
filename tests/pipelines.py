"""Heads of random weights with tiny encoders, saved as fine-tuning and evaluation save them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from speechft.data.labels import Vocabulary
from speechft.encoders.base import Encoder
from speechft.encoders.load import digest_of
from speechft.evaluation.grid import Probe
from speechft.tasks import find_task
from speechft.tasks.saved import PIPELINE_FILE, SavedHead, write_record

SYMBOLS = {
    "asr": ("<blank>", "<unk>", "A", "B", "'", "|"),
    "pr": ("<blank>", "<unk>", "AH", "B", "IY"),
    "sf": ("<blank>", "<unk>", " ", " E-artist", "A", "B", "B-artist "),
    "sid": ("anna", "bert", "carl"),
    "ic": ("0:off", "0:on", "1:lamp", "1:music", "1:none"),
    "asv": ("anna", "bert"),
    "sd": ("speaker-0", "speaker-1"),
    "pc": ("<unk>", "AH", "B"),
}
SIZES: dict[str, dict[str, Any]] = {
    "asv": {"hidden": 6, "units": (8,)},
    "sd": {"units": (8,)},
    "sf": {"units": (6,)},
}


def save_head(
    folder: Path,
    task: str,
    encoder: Encoder,
    *,
    tuned: bool = False,
    seed: int = 0,
    hidden: int | None = None,
    units: Sequence[int] = (),
    symbols: Sequence[str] = (),
    **changes: Any,
) -> Path:
    """Save an encoder and a head of random weights; returns the folder of the head.

    Args:
        folder: The encoder goes into ``encoder`` below it.
        task: Key of the task.
        encoder: The encoder.
        tuned: Whether it is a head on the last hidden state, else a probe on all of them.
        seed: Of the weights.
        hidden: See `Model.head`.
        units: See `Model.head`.
        symbols: Its classes, if not the usual ones.
        **changes: Further fields of the description.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "encoder").exists():
        encoder.save(folder / "encoder")
    vocabulary = Vocabulary(tuple(symbols or SYMBOLS[task]))
    content: dict[str, Any] = {
        "task": task,
        "protocol": "finetuning" if tuned else "mini",
        "vocabulary": list(vocabulary.symbols),
        "states": 1 if tuned else encoder.num_layers + 1,
        "dim": encoder.dim,
        "hidden": hidden,
        "units": list(units),
        "encoder": {"name": "encoder", "source": "encoder", "relative": "encoder"},
        "encoder_digest": digest_of(folder / "encoder"),
        "precision": "fp32",
    }
    if tuned:
        content |= {"layers": "last", "weights": "head.safetensors", "weighted": False}
    known = SavedHead(**{**content, **changes})
    torch.manual_seed(seed)
    probe = Probe(known.states, known.head(find_task(task), vocabulary))
    with torch.no_grad():
        for parameter in probe.parameters():
            scale = 0.05 if parameter.dim() == 1 else 0.5  # else biases would say everything
            parameter.copy_(scale * torch.randn_like(parameter))
    part = probe if known.weighted else probe.head
    save_file(part.state_dict(), folder / known.weights)
    write_record(folder / PIPELINE_FILE, known)
    return folder
