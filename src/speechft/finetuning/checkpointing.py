"""Training checkpoints: atomic, verified by digest, the last few kept."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from speechft.console import warn
from speechft.files import atomic_write, file_digest

KEEP = 2
"""Checkpoints kept: the newest, and one to go back to when that is damaged."""


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int = KEEP) -> None:
    """Write the state of a training after ``step`` updates; older checkpoints are removed.

    Args:
        folder: Where checkpoints live.
        step: Updates done.
        state: Tensors and plain values, nothing that ``weights_only`` loading refuses.
        keep: How many checkpoints stay.

    Raises:
        RunError: The disk is full or the folder cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    digest = hashlib.sha256(content).hexdigest()[:16]
    with atomic_write(folder / f"step-{step:08d}-{digest}.pt") as file:
        file.write(content)
    for path in sorted(folder.glob("step-*.pt"))[:-keep]:
        path.unlink(missing_ok=True)


def forget_after(folder: Path, step: int) -> None:
    """Remove the checkpoints of later steps below a folder: who goes back does them again."""
    for path in folder.rglob("step-*.pt"):
        if int(path.stem.split("-")[1]) > step:
            path.unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return the newest intact state, or None; a damaged file is passed over with a word."""
    for path in sorted(folder.glob("step-*.pt"), reverse=True):
        if file_digest(path)[:16] == path.stem.rpartition("-")[2]:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
        warn(f"checkpoint {path.name} is damaged; trying the one before it")
    return None
