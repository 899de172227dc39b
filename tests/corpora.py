"""Miniature archives for the tests of corpora: tones in the true layout, damage, a few steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from helpers import tiny_encoder
from speechft.data.batching import BatchPlan, StepDataset
from speechft.data.corpora.build import Options
from speechft.data.corpora.prepare import prepare
from speechft.data.corpora.synthetic.layouts import Spoken, write_layout
from speechft.data.issues import ISSUES_FILE
from speechft.data.manifest import Corpus
from speechft.tasks.base import Task

WORDS = ("go", "on", "yes", "left")
PHONES = ("SIL", "G", "OW", "AA", "N")


def speak(name: str, speaker: str, number: int = 0, seconds: float = 0.6, **known: Any) -> Spoken:
    """Return a tone whose pitch is the speaker's and whose timbre is the number's."""
    time = np.arange(round(seconds * 16_000)) / 16_000
    pitch = 110.0 * (1 + sum(map(ord, speaker)) % 17 / 8)
    voice = np.sign(np.sin(2 * np.pi * pitch * time)) * 0.5 + 0.5
    waveform = 0.3 * voice * np.sin(2 * np.pi * (500 + 400 * number) * time)
    span = seconds / len(PHONES)
    known.setdefault("text", f"{WORDS[number % 4]} {WORDS[(number + 1) % 4]}")
    known.setdefault(
        "phones",
        [(p, round(i * span, 4), round((i + 1) * span, 4)) for i, p in enumerate(PHONES)],
    )
    return Spoken(name, waveform.astype(np.float32), speaker=speaker, **known)


def miniature(
    root: Path,
    layout: str,
    *,
    speakers: int = 2,
    per_speaker: int = 3,
    shared: bool = False,
    labels: Any = None,
    **known: Any,
) -> None:
    """Write an archive of tones.

    Args:
        root: Where.
        layout: Name of the corpus.
        speakers: Speakers of each split.
        per_speaker: Utterances of each.
        shared: The same speakers in all splits.
        labels: From (split, speaker number, utterance number) to labels.
        **known: Fields of every utterance.
    """
    splits = {}
    for split in ("train", "dev", "test"):
        splits[split] = [
            speak(
                f"{split}-{who}-{number}",
                f"s{who}" if shared else f"{split}{who}",
                number,
                labels=labels(split, who, number) if labels else {},
                **known,
            )
            for who in range(speakers)
            for number in range(per_speaker)
        ]
    write_layout(layout, root, splits)


def prepared(
    name: str, root: Path, *settings: str, allow_missing: bool = False, samples: bool = True
) -> Corpus:
    """Prepare an archive into the folder beside it."""
    options = Options(allow_missing=allow_missing, samples=samples, jobs=2)
    return prepare(name, str(root), root.parent / f"{root.name}-manifests", options, settings)


def sizes(corpus: Corpus) -> dict[str, int]:
    """Return the number of utterances by split."""
    return {split: values["utterances"] for split, values in corpus.statistics.items()}


def issues(root: Path) -> list[list[str]]:
    """Return the lines of issues.tsv: kind, outcome, split, id, path, problem."""
    path = root.parent / f"{root.name}-manifests" / ISSUES_FILE
    return [line.split("\t") for line in path.read_text().splitlines()[1:]]


def train(corpus: Corpus, task: Task, splits: Sequence[str] | None = None, steps: int = 3) -> None:
    """Train a tiny encoder and the task's head for a few steps; both have to move."""
    name = (splits or corpus.task_splits(task.name))[0]
    cuts = corpus.split(name)
    vocabulary = task.vocabulary(cuts)
    encoder, head = tiny_encoder(), task.head(24, vocabulary, None)
    encoder.train()
    parameters = [p for p in [*encoder.parameters(), *head.parameters()] if p.requires_grad]
    before = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    dataset = StepDataset(
        BatchPlan(cuts, seconds=8.0, utterances=4, seed=0),
        target=lambda cut, n: task.target(
            cut, vocabulary, int(encoder.frame_lengths(torch.tensor(n)))
        ),
        collate=list,
    )
    for step in range(steps):
        batch = dataset[step]
        output = encoder(batch.waveforms, batch.lengths)
        logits = head(output.last_hidden_state, output.lengths)
        loss = task.losses(logits, output.lengths, batch.targets, vocabulary).mean()
        assert torch.isfinite(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = sum(not torch.equal(a, b) for a, b in zip(before, parameters, strict=True))
    assert moved > len(parameters) // 2
