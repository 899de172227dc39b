"""Layouts of transcribed speech: TED-LIUM 3, LibriSpeech, TIMIT, AISHELL-3."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from speechft.data.acoustics import SAMPLE_RATE, resample
from speechft.data.corpora import timit as timit_corpus
from speechft.data.corpora.synthetic.layouts.spoken import (
    Spoken,
    by_speaker,
    numbers,
    write_audio,
    write_lines,
)

Splits = Mapping[str, Sequence[Spoken]]

_GAP = 0.25
"""Seconds between the segments of a talk."""
_PARTS = {"train": "train-clean-100", "dev": "dev-clean", "test": "test-clean"}
_AISHELL_RATE = 44_100


def _words(text: str) -> str:
    """Return a text in upper case with letters, apostrophes and single spaces."""
    return " ".join(re.sub(r"[^A-Z' ]", " ", text.upper()).split())


def tedlium3(root: Path, splits: Splits) -> None:
    """Write ``TEDLIUM_release-3/legacy``: a talk a speaker, SPHERE and STM."""
    for split, items in splits.items():
        folder = root / "TEDLIUM_release-3" / "legacy" / split
        for speaker, spoken in by_speaker(items).items():
            talk = re.sub(r"\W", "", speaker.title()) + "_2026"
            pieces, lines, now = [], [], 0.0
            gap = np.zeros(round(_GAP * SAMPLE_RATE), np.float32)
            for item in spoken:
                lines.append(_stm(talk, now, now + _GAP, "ignore_time_segment_in_scoring"))
                start, end = now + _GAP, now + _GAP + item.seconds
                lines.append(_stm(talk, start, end, _words(item.text).lower().replace("'", " '")))
                pieces += [gap, item.waveform]
                now = end
            write_audio(folder / "sph" / f"{talk}.sph", np.concatenate(pieces), kind="NIST")
            write_lines(folder / "stm" / f"{talk}.stm", lines)


def _stm(talk: str, start: float, end: float, words: str) -> str:
    return f"{talk} 1 {talk} {start:.2f} {end:.2f} <o,f0,unknown> {words}"


def librispeech(root: Path, splits: Splits) -> None:
    """Write ``LibriSpeech/part/speaker/chapter/*.flac`` with transcripts by chapter."""
    base = root / "LibriSpeech"
    known = numbers(splits, first=19)
    for split, items in splits.items():
        for speaker, spoken in by_speaker(items).items():
            reader, chapter = known[speaker], 198
            folder = base / _PARTS[split] / str(reader) / str(chapter)
            lines = []
            for number, item in enumerate(spoken):
                name = f"{reader}-{chapter}-{number:04d}"
                write_audio(folder / f"{name}.flac", item.waveform)
                lines.append(f"{name} {_words(item.text)}")
            write_lines(folder / f"{reader}-{chapter}.trans.txt", lines)


def timit(root: Path, splits: Splits) -> None:
    """Write ``data/{TRAIN,TEST}/DR1/SPEAKER/*.WAV`` (SPHERE inside) with PHN and TXT.

    Each speaker also reads SA1, which recipes have to leave out.
    """
    names = {
        "dev": sorted(timit_corpus.DEV),
        "test": sorted(timit_corpus.CORE_TEST),
        "train": [f"m{chr(97 + i % 26)}{chr(97 + i // 26)}z0" for i in range(462)],
    }
    for split, items in splits.items():
        part = "TRAIN" if split == "train" else "TEST"
        for speaker, spoken in zip(names[split], by_speaker(items).values(), strict=False):
            folder = root / "data" / part / "DR1" / speaker.upper()
            for number, item in enumerate([spoken[0], *spoken]):
                name = "SA1" if number == 0 else f"SX{number}"
                write_audio(folder / f"{name}.WAV", item.waveform, kind="NIST")
                write_lines(folder / f"{name}.TXT", [f"0 {len(item.waveform)} {item.text}"])
                phones = [
                    f"{round(start * SAMPLE_RATE)} {round(end * SAMPLE_RATE)} {_timit(phone)}"
                    for phone, start, end in item.phones
                ]
                write_lines(folder / f"{name}.PHN", phones)


def _timit(phone: str) -> str:
    return "h#" if phone == "SIL" else phone.lower()


def aishell3(root: Path, splits: Splits) -> None:
    """Write ``data_aishell3/{train,test}/wav/SSBxxxx/*.wav`` at 44.1 kHz and ``content.txt``.

    Characters come from the text, their syllables from the label ``pinyin`` (the characters
    themselves where there is none). There is no dev in this archive.
    """
    base = root / "data_aishell3"
    known = numbers(splits, first=5)
    counts = dict.fromkeys(known, 0)
    for split in ("train", "test"):
        lines = []
        items = list(splits.get(split, ())) + list(splits["dev"] if split == "train" else ())
        for speaker, spoken in by_speaker(items).items():
            name = f"SSB{known[speaker]:04d}"
            for item in spoken:
                file = f"{name}{counts[speaker]:04d}.wav"
                counts[speaker] += 1
                waveform = resample(item.waveform, _AISHELL_RATE / SAMPLE_RATE)
                write_audio(base / split / "wav" / name / file, waveform, _AISHELL_RATE)
                characters = item.text.replace(" ", "")
                pinyin = item.labels.get("pinyin", " ".join(characters)).split()
                pairs = [f"{c} {p}" for c, p in zip(characters, pinyin, strict=True)]
                lines.append(f"{file}\t{' '.join(pairs)}")
        write_lines(base / split / "content.txt", lines)
    info = [f"SSB{n:04d}\tB\tfemale\tnorth" for n in sorted(known.values())]
    write_lines(base / "spk-info.txt", ["# speaker\tage group\tgender\taccent", *info])
