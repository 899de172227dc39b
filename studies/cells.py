"""The matched corpora of hypothesis H1: domain {home, tuning} x voices {unseen, heard}.

    python studies/cells.py [NAME ...]

Item i of a split has the same command, the same noise and the same place of its speaker in all four
cells. ``home`` speaks with the accents of pre-training and as freely as there, ``tuning`` with the
accents and in the styles of ``synthetic-study``; ``heard`` voices are those of pre-training itself.
``tune-home`` has the texts and the speakers of the tuning splits of ``synthetic-study``, spoken at
home. ``home-heard-clean`` is the pilot's cell: ``home-heard`` without rooms and noise.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from speechft.data.corpora import cache_folder, find_corpus
from speechft.data.corpora.synthetic import GENERATOR_VERSION, LICENCE, run_jobs
from speechft.data.corpora.synthetic.espeak import variants
from speechft.data.corpora.synthetic.material import read_spoken
from speechft.data.corpora.synthetic.texts import Text, TextSet, make_text
from speechft.data.corpora.synthetic.voices import (
    FREE,
    PRETRAIN_ACCENTS,
    STYLES,
    TASK_ACCENTS,
    Speaker,
    VoicePool,
    make_speakers,
    prosody,
)
from speechft.data.labels import label_of
from speechft.data.manifest import Corpus, open_corpus, write_corpus
from speechft.runs import stage
from speechft.storage.files import json_digest
from speechft.storage.locks import waiting

VERSION = 1
"""Raised whenever the same cell would give other audio."""
STUDY = "synthetic-study"
SHARD = 200
Voices = Literal["unseen", "heard"]
Part = Literal["train", "dev", "test"]

SPLITS: dict[str, tuple[int, Part, TextSet]] = {
    "train": (960, "train", "train"),
    "dev": (160, "train", "test"),
    "dev-unseen": (160, "dev", "test"),
    "test": (640, "train", "test"),
    "test-unseen": (640, "test", "test"),
}
"""Items, speakers and text set of each split; sizes are the same in every cell."""
SPEAKERS: dict[Part, int] = {"train": 32, "dev": 12, "test": 30}
POOLS: dict[Part, VoicePool] = {"train": "new", "dev": "unseen-dev", "test": "unseen-test"}
"""Of unseen voices: heard neither in pre-training nor in tuning."""
HEARD: dict[Part, range] = {"train": range(10), "dev": range(10, 16), "test": range(16, 26)}
"""Of heard voices: which of the 40 variants of pre-training, as many as the pools above have."""
PRETRAINED = 440
"""Speakers of pre-training."""
TASK_SPLITS = {
    "sid": ("train", "dev", "test"),
    "*": ("train", "dev-unseen", "test-unseen"),
}


@dataclass(frozen=True)
class Cell:
    """How a corpus is spoken."""

    name: str
    home: bool
    voices: Voices = "unseen"
    noise: bool = True


CELLS = (
    Cell("home-unseen", home=True),
    Cell("home-heard", home=True, voices="heard"),
    Cell("tuning-unseen", home=False),
    Cell("tuning-heard", home=False, voices="heard"),
)
CLEAN = Cell("home-heard-clean", home=True, voices="heard", noise=False)
TUNE_HOME = Cell("tune-home", home=True)
ALL = {cell.name: cell for cell in (*CELLS, CLEAN, TUNE_HOME)}


def find_cell(name: str) -> Corpus:
    """Open a corpus by name, speaking it first where that is needed."""
    cell = ALL[name]
    return prepare(cell, tuning_lines(cell) if cell is TUNE_HOME else command_lines(cell))


def prepare(cell: Cell, lines: list[dict[str, Any]]) -> Corpus:
    """Speak lines into the cache unless they are there."""
    content = {"cell": cell.name, "version": VERSION, "generator": GENERATOR_VERSION}
    digest = json_digest({**content, "lines": json_digest(lines)})
    folder = cache_folder() / f"evidence-{cell.name}-{digest[:12]}"
    with waiting(), stage(folder, name="corpus", config=content, inputs={"lines": digest}) as work:
        if not work.done:
            run_jobs(list(_jobs(lines, work.scratch)), 1)
            info: dict[str, Any] = {"licence": LICENCE}
            splits = read_spoken(work.scratch)
            if "tune-train" in splits:
                info["tuning_splits"] = ["tune-train", "tune-dev"]
            else:
                info["task_splits"] = TASK_SPLITS
            write_corpus(work.scratch, f"evidence-{cell.name}", digest, splits, info)
    return open_corpus(folder)


def command_lines(
    cell: Cell, splits: dict[str, tuple[int, Part, TextSet]] = SPLITS
) -> list[dict[str, Any]]:
    """Return what is spoken in one of the four cells."""
    lines = []
    for split, (count, part, texts) in splits.items():
        people = speakers(cell, part)
        for index in range(count):
            text = make_text("command", texts, _rng("text", split, index))
            lines.append(_line(cell, split, index, people[index % len(people)], text))
    return lines


def tuning_lines(cell: Cell) -> list[dict[str, Any]]:
    """Return the texts and speakers of the study's tuning splits, as the cell speaks them."""
    corpus = find_corpus(STUDY, Path("runs/evidence/corpus"))
    seen = {s.name: _at(cell, s) for s in make_speakers("seen", 32, variants())}
    return [
        _line(cell, split, index, seen[str(label_of(cut, "speaker"))], Text(str(cut_text(cut))))
        for split in ("tune-train", "tune-dev")
        for index, cut in enumerate(corpus.split(split))
    ]


def cut_text(cut: Any) -> str:
    return str(cut.supervisions[0].text)


@cache
def speakers(cell: Cell, part: Part) -> list[Speaker]:
    """Return who speaks in a part of a cell, with the accents of its domain."""
    if cell.voices == "unseen":
        found = make_speakers(POOLS[part], SPEAKERS[part], variants())
    else:
        every = make_speakers("pretrain", PRETRAINED, variants())
        chosen = HEARD[part]
        found = [s for n, s in enumerate(every) if n % 40 in chosen][: SPEAKERS[part]]
    return [_at(cell, speaker) for speaker in found]


def _at(cell: Cell, speaker: Speaker) -> Speaker:
    """Return a speaker with an accent of the cell's domain, the own one where it is of it."""
    accents = PRETRAIN_ACCENTS if cell.home else TASK_ACCENTS
    if speaker.accent in accents:
        return speaker
    place = int(_rng("accent", speaker.name).integers(len(accents)))
    return replace(speaker, accent=accents[place])


def _line(cell: Cell, split: str, index: int, speaker: Speaker, text: Text) -> dict[str, Any]:
    rng = _rng("prosody", split, index)
    style = FREE if cell.home else str(rng.choice(STYLES))
    labels = {"style": style, "language": speaker.accent}
    if text.intent:
        labels["intent"] = "/".join(text.intent)
    return {
        "id": f"{split}-{index:06d}",
        "split": split,
        "text": text.words,
        "voice": f"{speaker.accent}+{speaker.variant}",
        "prosody": vars(prosody(speaker, style, rng)),
        "warp": speaker.warp,
        "seed": int(_rng("noise", split, index).integers(2**63)),
        "noise": cell.noise,
        "aligned": True,
        "speaker": speaker.name,
        "labels": labels,
    }


def _rng(*parts: object) -> np.random.Generator:
    """Return a generator that the parts alone decide: not the cell, so that items match."""
    text = "/".join(map(str, ("evidence", *parts)))
    return np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))


def _jobs(lines: list[dict[str, Any]], folder: Path) -> Iterator[dict[str, Any]]:
    for first in range(0, len(lines), SHARD):
        yield {
            "module": "speechft.data.corpora.synthetic.speak",
            "folder": str(folder / "spoken" / f"shard-{first // SHARD:04d}"),
            "lines": lines[first : first + SHARD],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *ALL], help="all where none is named")
    for name in parser.parse_args().names or ALL:
        corpus = find_cell(name)
        print(name, corpus.digest[:12], {k: v["hours"] for k, v in corpus.statistics.items()})


if __name__ == "__main__":
    main()
