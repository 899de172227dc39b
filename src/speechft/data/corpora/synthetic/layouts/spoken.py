"""An utterance with its samples, as the writers of layouts take it, and how they write audio."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from speechft.data.acoustics import SAMPLE_RATE


@dataclass(frozen=True)
class Spoken:
    """One utterance: (S,) samples at 16 kHz and what is known about them."""

    id: str
    waveform: npt.NDArray[np.float32]
    text: str = ""
    speaker: str = ""
    phones: Sequence[tuple[str, float, float]] = ()
    """(phone, start, end) in seconds."""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Return the duration."""
        return len(self.waveform) / SAMPLE_RATE


def write_audio(
    path: Path,
    waveform: npt.NDArray[np.float32],
    rate: int = SAMPLE_RATE,
    kind: str | None = None,
) -> None:
    """Write 16-bit audio; the kind (``NIST`` for SPHERE) goes by the suffix unless given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, rate, subtype="PCM_16", format=kind)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a label file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def numbers(splits: Mapping[str, Sequence[Spoken]], first: int = 0) -> dict[str, int]:
    """Number the speakers of all splits in the order of their names."""
    names = sorted({item.speaker for items in splits.values() for item in items})
    return {name: first + number for number, name in enumerate(names)}


def by_speaker(items: Sequence[Spoken]) -> dict[str, list[Spoken]]:
    """Group utterances by speaker, sorted."""
    groups: dict[str, list[Spoken]] = {}
    for item in sorted(items, key=lambda item: (item.speaker, item.id)):
        groups.setdefault(item.speaker, []).append(item)
    return groups
