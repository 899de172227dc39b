"""What encoders answered to the same items: aligned with the reference, errors apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rapidfuzz.distance import Levenshtein

from speechft.belonging import measured_on, newest_test
from speechft.data.text import units_of
from speechft.evaluation.predictions import items_of
from speechft.reporting.figures import Figures, Look, spread
from speechft.results import ResultRow
from speechft.tasks.measures import Item

SHOWN = 6
"""Items of a task."""
_ENCODERS = 4
_LONGEST = 200
"""Units of a text that are shown."""

Key = tuple[str, int]
"""Id of an item and its fold."""


@dataclass(frozen=True)
class Unit:
    """A place of an alignment: what was said and what was heard."""

    kind: Literal["same", "replaced", "inserted", "left-out"]
    said: str = ""
    heard: str = ""


@dataclass(frozen=True)
class Answer:
    """What one encoder made of an item."""

    encoder: str
    units: tuple[Unit, ...]
    """Of a label, a single one."""
    errors: int
    """Units that are not the same, in the whole text."""
    shortened: bool = False


@dataclass(frozen=True)
class Example:
    """One item and the answers of several encoders."""

    id: str
    reference: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class TaskExamples:
    """Items of a task, those first on which encoders differ most."""

    task: str
    is_text: bool
    """Whether it is about sequences of words, phones or slots, not about one label."""
    encoders: tuple[str, ...]
    examples: tuple[Example, ...]
    differing: int
    """Items that encoders do not solve equally well."""
    total: int


def examples_of(rows: Sequence[ResultRow], folder: Path) -> list[TaskExamples]:
    """Return examples by task: of texts, of which edits were counted, and of labels.

    Answers of other kinds, such as scores of trials, turns and classes of frames, have none.
    Where a task was measured on several tests, they are of the newest.

    Args:
        rows: Figures of probes on all layers.
        folder: Of the file that holds them.

    Raises:
        DataError: The scored items of a row cannot be read.
    """
    found = []
    for task in dict.fromkeys(row.task for row in rows):
        items: dict[str, dict[Key, Item]] = {}
        own = [row for row in rows if row.task == task]
        test = newest_test(own)
        for row in _chosen([row for row in own if measured_on(row) == test]):
            read = items_of(row, folder)
            if not (_are_texts(read) or _are_labels(read)):
                break
            items[row.encoder] = {(item.id, item.fold): item for item in read}
        made = _of_task(task, items)
        if made is not None:
            found.append(made)
    return found


def _are_texts(items: Sequence[Item]) -> bool:
    return bool(items) and all("substitutions" in item.counts for item in items)


def _are_labels(items: Sequence[Item]) -> bool:
    return bool(items) and all(
        (item.amount, item.total) == (float(item.prediction == item.reference), 1.0)
        for item in items
    )


def _chosen(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Return a row each of the encoders that are shown: the ends and the merge where known."""
    rows = [row for row in rows if row.predictions is not None]
    looks = Figures(rows).looks
    first = {row.encoder: row for row in reversed(rows)}
    names = [name for name in looks if looks[name] is not Look.FLOOR]
    leading = [n for n in names if looks[n] in (Look.REFERENCE, Look.TUNED, Look.MERGED)]
    alphas = sorted(
        (n for n in names if first[n].alpha is not None), key=lambda n: _alpha(first[n])
    )
    if len(alphas) > _ENCODERS:  # a sweep: both ends and what lies between
        leading = spread(alphas, _ENCODERS)
    shown = leading if len(leading) > 1 else names
    return [first[name] for name in shown[:_ENCODERS]]


def _alpha(row: ResultRow) -> float:
    return row.alpha or 0.0


def _of_task(task: str, items: Mapping[str, Mapping[Key, Item]]) -> TaskExamples | None:
    if not items:
        return None
    common = [
        key for key in next(iter(items.values())) if all(key in one for one in items.values())
    ]
    by_key = {key: [one[key] for one in items.values()] for key in common}
    by_key = {key: found for key, found in by_key.items() if len({i.reference for i in found}) == 1}
    if not by_key:
        return None
    is_text = _are_texts([found[0] for found in by_key.values()])
    wrong = {
        key: found
        for key, found in by_key.items()
        if any(i.prediction != i.reference for i in found)
    }
    ordered = sorted(wrong, key=lambda key: (-_spread(wrong[key]), -_kinds(wrong[key]), key))
    examples = tuple(
        Example(key[0], wrong[key][0].reference, _answers(items, wrong[key], is_text))
        for key in ordered[:SHOWN]
    )
    differing = sum(_spread(found) > 0 for found in by_key.values())
    return TaskExamples(task, is_text, tuple(items), examples, differing, len(by_key))


def _spread(items: Sequence[Item]) -> float:
    """Return how differently well an item was solved."""
    values = [item.amount / item.total if item.total else item.amount for item in items]
    return max(values) - min(values)


def _kinds(items: Sequence[Item]) -> int:
    return len({item.prediction for item in items})


def _answers(
    encoders: Sequence[str] | Mapping[str, object], items: Sequence[Item], is_text: bool
) -> tuple[Answer, ...]:
    return tuple(
        _text(name, item) if is_text else _label(name, item)
        for name, item in zip(encoders, items, strict=True)
    )


def _label(encoder: str, item: Item) -> Answer:
    same = item.prediction == item.reference
    unit = Unit("same" if same else "replaced", item.reference, item.prediction)
    return Answer(encoder, (unit,), int(not same))


def _text(encoder: str, item: Item) -> Answer:
    units = align(_units(item.reference), _units(item.prediction))
    errors = sum(unit.kind != "same" for unit in units)
    return Answer(encoder, tuple(units[:_LONGEST]), errors, len(units) > _LONGEST)


def _units(text: str) -> list[str]:
    return [unit for word in text.split() for unit in units_of(word)]


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Unit]:
    """Return a smallest alignment (Levenshtein), unit by unit.

    Args:
        reference: What was said.
        hypothesis: What was heard.
    """
    units: list[Unit] = []
    for code in Levenshtein.opcodes(reference, hypothesis):
        said = reference[code.src_start : code.src_end]
        heard = hypothesis[code.dest_start : code.dest_end]
        if code.tag == "equal":
            units += [Unit("same", one, one) for one in said]
        elif code.tag == "replace":
            units += [Unit("replaced", s, h) for s, h in zip(said, heard, strict=True)]
        elif code.tag == "delete":
            units += [Unit("left-out", one) for one in said]
        else:
            units += [Unit("inserted", heard=one) for one in heard]
    return units
