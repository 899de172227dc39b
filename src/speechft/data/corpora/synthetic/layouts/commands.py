"""Layouts of spoken commands: Audio SNIPS, Speech Commands v0.01, Fluent Speech Commands."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from speechft.data.corpora import snips as snips_corpus
from speechft.data.corpora import speech_commands as keywords
from speechft.data.corpora.synthetic.layouts.spoken import (
    Spoken,
    by_speaker,
    write_audio,
    write_lines,
)

Splits = Mapping[str, Sequence[Spoken]]

_FOLDERS = {"train": "train", "dev": "valid", "test": "test"}


def snips(root: Path, splits: Splits) -> None:
    """Write ``SNIPS/{train,valid,test}/VOICE-snips-SPLIT-N.wav`` and ``all.iob.snips.txt``.

    Slots come from the label ``slots`` (``O`` everywhere where there is none).
    """
    base = root / "SNIPS"
    lines, names = [], set()
    for split, items in splits.items():
        folder = _FOLDERS[split]
        voices = snips_corpus.SPEAKERS[folder]
        for turn, spoken in enumerate(by_speaker(items).values()):
            for number, item in enumerate(spoken):
                name = f"{voices[turn % len(voices)]}-snips-{folder}-{turn}{number:03d}"
                write_audio(base / folder / f"{name}.wav", item.waveform)
                words = item.text.split()
                slots = item.labels.get("slots", " ".join("O" for _ in words)).split()
                intent = item.labels.get("intent", "None").split("/")[0]
                text = " ".join(["BOS", *words, "EOS"])
                lines.append(f"{name} {text}\t{' '.join(['O', *slots, intent])}")
                names |= set(slots)
    write_lines(base / snips_corpus.LABEL_FILE, lines)
    write_lines(base / "slots.txt", ["slots", *sorted(names)])


def speech_commands(root: Path, splits: Splits) -> None:
    """Write the two archives of Speech Commands v0.01, a second a file, and noise.

    The word is the label ``word`` (``keyword`` where there is none). Speakers get names whose hash
    puts them into their split.
    """
    train, test = root / "speech_commands_v0.01", root / "speech_commands_test_set_v0.01"
    for split, items in splits.items():
        for speaker, spoken in by_speaker(items).items():
            hashed = next(_hashes(split, speaker))
            for number, item in enumerate(spoken):
                word = item.labels.get("word") or item.labels["keyword"]
                name = f"{hashed}_nohash_{number}.wav"
                if split == "test":
                    known = word in (*keywords.KEYWORDS, keywords.SILENCE)
                    folder = test / (word if known else keywords.UNKNOWN)
                else:
                    folder = train / word
                write_audio(folder / name, _one_second(item.waveform))
    rng = np.random.default_rng(0)
    for name in ("white_noise", "running_tap"):
        noise = (0.05 * rng.standard_normal(5 * 16_000)).astype(np.float32)
        write_audio(train / keywords.NOISE_FOLDER / f"{name}.wav", noise)
        write_audio(test / keywords.SILENCE / f"{name}.wav", noise[:16_000])
    write_lines(train / keywords.NOISE_FOLDER / "README.md", ["Noise."])


def _hashes(split: str, speaker: str) -> Iterator[str]:
    """Yield eight hexadecimal digits that s3prl's rule puts into a split."""
    wanted = {"train": "train", "dev": "dev", "test": None}[split]
    for number in range(10_000):
        digest = hashlib.sha256(f"{speaker}/{number}".encode()).hexdigest()[:8]
        if keywords.which_split(f"{digest}_nohash_0.wav") == wanted:
            yield digest


def _one_second(waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Cut or pad to the second that these recordings have."""
    return np.pad(waveform[:16_000], (0, max(0, 16_000 - len(waveform))))


def fluent_speech_commands(root: Path, splits: Splits) -> None:
    """Write ``fluent_speech_commands_dataset`` with its three tables.

    Action, object and location come from the label ``intent``, separated by slashes.
    """
    base = root / "fluent_speech_commands_dataset"
    header = ["", "path", "speakerId", "transcription", "action", "object", "location"]
    for split, items in splits.items():
        path = base / "data" / f"{_FOLDERS[split]}_data.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(header)
            for number, item in enumerate(items):
                relative = f"wavs/speakers/{item.speaker}/{item.id}.wav"
                write_audio(base / relative, item.waveform)
                slots = [*item.labels["intent"].split("/"), "none", "none"][:3]
                table.writerow([number, relative, item.speaker, item.text, *slots])
