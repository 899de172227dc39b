"""What the hidden states of one encoder are good for, layer by layer, without any probe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from speechft.analysis.abx import abx_error
from speechft.analysis.cca import KEPT_VARIANCE, RIDGE, label_cca
from speechft.analysis.choosing import KINDS, Choice, labels_of, speakers_of
from speechft.analysis.intervals import Estimate, Groups
from speechft.analysis.neighbours import neighbours_accuracy
from speechft.analysis.reading import States
from speechft.analysis.rows import Question
from speechft.analysis.speakers import speaker_eer
from speechft.storage.files import json_digest


@dataclass(frozen=True)
class Ability:
    """One measure of an encoder at all layers."""

    question: Question
    measure: str
    unit: str
    layers: list[Estimate]
    details: dict[str, Any] = field(default_factory=dict)


def abilities(
    states: States, choice: Choice, groups: Groups, wanted: set[str], seed: int
) -> Iterator[Ability]:
    """Yield the measures of an encoder that need no other one.

    Args:
        states: What was kept of it.
        choice: What was looked at.
        groups: (U,) number of the speaker of each utterance.
        wanted: Names of measures.
        seed: Of what is drawn.
    """
    layers = range(states.means.shape[1])
    if "cca" in wanted:
        for kind, segments in choice.segments.items():
            cuts = np.array([segment.cut for segment in segments])
            fitted = np.array([_half(choice.cuts[cut].id, seed) for cut in cuts])
            labels = [segment.label for segment in segments]
            values = states.segments[kind]
            found = [label_cca(values[:, n], labels, fitted, groups[cuts]) for n in layers]
            details: dict[str, Any] = {"ridge": RIDGE, "kept_variance": KEPT_VARIANCE}
            details["labels"] = len(set(labels))
            question: Question = "phones" if KINDS[kind] == "phones" else "words"
            yield Ability(question, f"cca_{kind}", "", found, details)
    if "abx" in wanted:
        for mode, cells in choice.cells.items():
            if cells:
                found = abx_error(states.triphones, states.spans, cells)
                details = {"cells": len(cells), "triphones": len(choice.triphones), "chance": 50}
                yield Ability("phones", f"abx_{mode}", "%", found, details)
    if "speaker" in wanted:
        found = [speaker_eer(states.means[:, n], groups, seed) for n in layers]
        yield Ability("speakers", "speaker_eer", "%", found, {"chance": 50})
    if "knn" in wanted:
        named = speakers_of(choice.cuts) is not None
        for kind, names in labels_of(choice.cuts).items():
            order = {name: n for n, name in enumerate(sorted({n for n in names if n is not None}))}
            numbers = np.array([-1 if name is None else order[name] for name in names])
            apart = kind != "speaker" and named
            found = [
                neighbours_accuracy(states.means[:, n], numbers, groups, apart=apart)
                for n in layers
            ]
            most = max(Counter(name for name in names if name is not None).values())
            details = {
                "label": kind,
                "chance": 100 * most / int((numbers >= 0).sum()),
                "other_speakers_only": apart,
            }
            question = "speakers" if kind == "speaker" else "labels"
            yield Ability(question, f"knn_{kind}", "%", found, details)


def _half(name: str, seed: int) -> bool:
    """Return whether an utterance is in the half that is fitted on: a coin of its own."""
    return bool(int(json_digest(["half", seed, name])[0], 16) % 2)
