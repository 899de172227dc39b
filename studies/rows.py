"""What the studies share: rows on disk that void themselves, and settings as they were fixed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechft.config import Config
from speechft.storage.files import atomic_write

KEPT = Path(__file__).with_name("pretraining")
"""Encoders of the lineages after the first."""
Rows = list[dict[str, Any]]
NO_FIGURE = ("cache", "frame_cache_gb", "frame_memory_gb")
"""Settings that decide no figure: where features are kept, and how much of them."""


def kept_base(number: int) -> str | None:
    """Return the encoder of a lineage: packaged, or kept in the repository; None if it is not."""
    if number == 1:
        return "tiny-hubert"
    kept = KEPT / f"lineage-{number}"
    return str(kept) if kept.is_dir() else None


def is_measured(path: Path, stamp: Mapping[str, Any]) -> bool:
    """Return whether a file holds rows with this stamp: of these inputs and of this design."""
    if not path.exists():
        return False
    first: dict[str, Any] = json.loads(path.read_text().split("\n", 1)[0])
    return stamp.items() <= first.items()


def write_measured(
    path: Path, stamp: Mapping[str, Any], about: Mapping[str, Any], rows: Sequence[Any]
) -> None:
    """Write rows with their stamp, atomically."""
    with atomic_write(path) as file:
        for row in rows:
            file.write((json.dumps({**stamp, **about, **row}) + "\n").encode())


def read_measured(folder: Path) -> Rows:
    """Return all rows of a folder, in the order of the files' names."""
    return [
        json.loads(line)
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def as_fixed(now: Any, changed: Any, fixed: Any) -> Any:
    """Return the settings that a design was fixed with, and later ones that are no defaults.

    What decides no figure, such as where features are kept, stands as it did.

    Args:
        now: All settings of today.
        changed: Those of them that differ from their defaults.
        fixed: The settings that there were.
    """
    if not isinstance(now, dict) or not isinstance(fixed, dict):
        return now
    changed = changed if isinstance(changed, dict) else {}
    return {
        key: fixed[key] if key in NO_FIGURE else as_fixed(value, changed.get(key), fixed.get(key))
        for key, value in now.items()
        if key in fixed or key in changed
    }


def changed_of(config: Config) -> dict[str, Any]:
    """Return the settings that differ from their defaults."""
    return config.model_dump(mode="json", exclude_defaults=True)


def packed(amounts: Sequence[int]) -> str:
    """Return amounts as text: digits without spaces where none has two."""
    return ("" if max(amounts, default=0) < 10 else " ").join(map(str, amounts))


def unpacked(text: str) -> list[int]:
    """Return the amounts of a text by `packed`."""
    return [int(part) for part in (text.split() if " " in text else text)]
