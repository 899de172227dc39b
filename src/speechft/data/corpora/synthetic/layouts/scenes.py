"""Layouts of mixtures and searches: Libri2Mix for diarization, QUESST 2014."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from speechft.data.corpora import quesst14 as quesst
from speechft.data.corpora.synthetic.layouts.spoken import Spoken, write_audio, write_lines

Splits = Mapping[str, Sequence[Spoken]]


def libri2mix(root: Path, splits: Splits) -> None:
    """Write ``Libri2Mix/wav16k/max`` and the Kaldi folders with segments, RTTM and lengths.

    Turns come from the label ``turns``: a JSON list of [speaker, start, end] in seconds.
    """
    for split, items in splits.items():
        part = "train-100" if split == "train" else split
        tables: dict[str, list[str]] = {
            name: [] for name in ("wav.scp", "utt2spk", "segments", "rttm", "reco2dur")
        }
        for item in items:
            path = root / "Libri2Mix" / "wav16k" / "max" / part / "mix_both" / f"{item.id}.wav"
            write_audio(path, item.waveform)
            tables["wav.scp"].append(f"{item.id} {path}")
            tables["reco2dur"].append(f"{item.id} {item.seconds:.3f}")
            for speaker, start, end in json.loads(item.labels["turns"]):
                turn = f"{speaker}_{item.id}_{round(start * 1000):06d}_{round(end * 1000):06d}"
                tables["utt2spk"].append(f"{turn} {speaker}")
                tables["segments"].append(f"{turn} {item.id} {start:.3f} {end:.3f}")
                span = f"{start:.3f} {end - start:.3f}"
                tables["rttm"].append(f"SPEAKER {item.id} 1 {span} <NA> <NA> {speaker} <NA>")
        for name, lines in tables.items():
            write_lines(root / "data" / split / name, sorted(lines))


def quesst14(root: Path, splits: Splits) -> None:
    """Write ``quesst14Database``: documents, queries, lists by language and ground truth.

    Train holds the documents, dev and test the queries. A document holds a query where the text
    of the query is among its words.
    """
    base = root / "quesst14Database"
    names = {"train": ("Audio", "quesst14"), "dev": ("dev_queries", "quesst14_dev")}
    names["test"] = ("eval_queries", "quesst14_eval")
    lists = dict(zip(("train", "dev", "test"), quesst.LISTS.values(), strict=True))
    texts: dict[str, dict[str, str]] = {}
    for split, items in splits.items():
        folder, prefix = names[split]
        lines, texts[split] = [], {}
        for number, item in enumerate(items, 1):
            name = f"{prefix}_{number:05d}" if split == "train" else f"{prefix}_{number:04d}"
            write_audio(base / folder / f"{name}.wav", item.waveform)
            language = item.labels.get("language", quesst.LANGUAGE)
            lines.append(f"quesst14Database/{folder}/{name}.wav {language}")
            texts[split][name] = item.text
        write_lines(base / "scoring" / lists[split], lines)
    for split, folder in zip(("dev", "test"), quesst.TRUTH.values(), strict=True):
        lines = [
            f"LEXEME {document} 1 0.00 1.00 {query} lex <NA> 0.5"
            for query, word in texts[split].items()
            for document, text in texts["train"].items()
            if word.lower() in text.lower().replace(".", " ").replace(",", " ").split()
        ]
        write_lines(base / "scoring" / folder / "quesst2014.rttm", lines)
