"""A miniature corpus with the labels of all ten SUPERB tasks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from helpers import tone_corpus
from speechft.data.labels import label_of, phones_of
from speechft.data.manifest import Corpus, load_waveform, open_corpus, write_corpus
from speechft.data.utterances import Utterance


def superb_corpus(folder: Path, per_speaker: int = 5) -> Corpus:
    """Write tones with labels for every task; speakers have pitches, phones formants."""
    (folder / "tones").mkdir()
    base = tone_corpus(folder / "tones", speakers=4, per_speaker=per_speaker)
    splits: dict[str, list[Utterance]] = {}
    waves = {}
    for split in ("train", "dev", "test"):
        splits[split] = []
        for number, cut in enumerate(base.split(split)):
            supervision = cut.supervisions[0]
            waves[cut.id] = load_waveform(cut)
            text = " ".join(phone for phone, _, _ in phones_of(cut))
            labels = {
                "intent": str(label_of(cut, "intent")),
                "emotion": "high" if number % 4 > 1 else "low",
                "keyword": _keyword(str(label_of(cut, "label"))),
                "slots": " ".join("vowel" if word == "A" else "O" for word in text.split()),
                "style": str(label_of(cut, "style")),
                "label": str(label_of(cut, "label")),
            }
            splits[split].append(
                Utterance(
                    id=cut.id,
                    path=str(folder / "tones" / f"{cut.id}.wav"),
                    samples=cut.num_samples,
                    text=text,
                    speaker=supervision.speaker,
                    phones=phones_of(cut),
                    labels=labels,
                )
            )
    every = [item for split in ("train", "dev", "test") for item in splits[split]]
    folds = []
    for fold in range(2):
        rest = [item for n, item in enumerate(every) if n % 2 != fold]
        names = [f"fold{fold + 1}-{part}" for part in ("train", "dev", "test")]
        parts = (rest[8:], rest[:8], [item for n, item in enumerate(every) if n % 2 == fold][:20])
        splits |= {name: list(part) for name, part in zip(names, parts, strict=True)}
        folds.append(names)
    for split in ("train", "dev", "test"):
        splits[f"sd-{split}"] = [_mixture(folder, split, n, splits[split], waves) for n in range(6)]
    splits["documents"] = splits["test"]
    queries = {"dev": "dev-queries", "test": "test-queries"}
    lines = []
    for split, name in queries.items():
        splits[name] = [replace(item, id=f"q-{item.id}") for item in splits[split][:4]]
        for query in splits[name]:
            lines += [
                f"{query.id}\t{document.id}\t{int(_same(query, document))}\n"
                for document in splits["documents"]
            ]
    (folder / "qbe.tsv").write_text("".join(lines))
    trials = [(a, b) for a in splits["test"][:8] for b in splits["test"][8:16]]
    (folder / "trials.txt").write_text(
        "".join(f"{int(a.speaker == b.speaker)} {a.id} {b.id}\n" for a, b in trials)
    )
    info = {
        "task_splits": {
            "*": ["train", "dev", "test"],
            "sd": ["sd-train", "sd-dev", "sd-test"],
            "qbe": ["documents", "dev-queries", "test-queries"],
            "er": folds[0],
        },
        "folds": {"er": folds},
        "trials": "trials.txt",
        "qbe": "qbe.tsv",
    }
    write_corpus(folder, "miniature", "1", splits, info)
    return open_corpus(folder)


def _keyword(label: str) -> str:
    return "_silence_" if label == "A" else label


def _same(query: Utterance, document: Utterance) -> bool:
    return query.labels["keyword"] == document.labels["keyword"]


def _mixture(
    folder: Path, split: str, number: int, items: list[Utterance], waves: dict[str, np.ndarray]
) -> Utterance:
    first, second = items[number % 4], items[4 + (number + 1) % 4]
    one, two = waves[first.id], waves[second.id]
    start = len(one) - 1600
    mixed = np.zeros(start + len(two), dtype=np.float32)
    mixed[: len(one)] += one
    mixed[start:] += two
    name = f"mix-{split}-{number}"
    soundfile.write(folder / f"{name}.wav", mixed, 16_000)
    turns = [
        (first.speaker, 0.0, len(one) / 16_000),
        (second.speaker, start / 16_000, len(mixed) / 16_000),
    ]
    return Utterance(name, f"{name}.wav", len(mixed), labels={"turns": json.dumps(turns)})
