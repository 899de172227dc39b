"""What is known of how an encoder was tuned: its tasks, its folder, the head that was kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechft.encoders.load import digest_of
from speechft.errors import CheckpointError
from speechft.files import read_json
from speechft.runs import STAGE_FILE


@dataclass(frozen=True)
class Tuning:
    """A fine-tuning of ours whose result is an encoder that the user gave."""

    folder: Path
    """With ``encoder``, ``head.safetensors`` and ``vocabulary.json``."""
    config: dict[str, Any]
    """Section ``finetuning`` of its recipe, as it was resolved."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return what it was tuned on."""
        several = self.config.get("tasks") or {}
        return tuple(several) or (str(self.config.get("task")),)


def find_tuning(encoder: Any) -> Tuning | None:
    """Return the fine-tuning that an encoder comes from; None where nothing around it tells.

    Looked at are the folder around the encoder and, in the folder of a run, its fine-tunings: the
    one whose encoder has the same digest.

    Args:
        encoder: As the user gave it.
    """
    if not isinstance(encoder, str | Path) or not Path(encoder).expanduser().is_dir():
        return None
    place = Path(encoder).expanduser().resolve()
    around = place.parent
    if place.name == "encoder" and (found := _read(around)) is not None:
        return found
    digest = digest_of(place)
    for file in sorted((around / "finetuning").glob(f"**/{STAGE_FILE}")):
        found = _read(file.parent)
        if found is not None and digest_of(found.folder / "encoder") == digest:
            return found
    return None


def _read(folder: Path) -> Tuning | None:
    if not (folder / STAGE_FILE).is_file():
        return None
    try:
        content = read_json(folder / STAGE_FILE)
    except CheckpointError:
        return None
    if not isinstance(content, dict) or content.get("stage") != "finetune":
        return None
    config = content.get("config")
    tuning = config.get("finetuning") if isinstance(config, dict) else None
    return Tuning(folder, tuning) if isinstance(tuning, dict) else None
