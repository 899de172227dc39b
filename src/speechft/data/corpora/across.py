"""What is wrong between utterances: ids twice, speakers shared, names alike, letters unseen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from speechft.data.corpora.base import Scan
from speechft.data.issues import Issue
from speechft.data.text import folded, words
from speechft.data.utterances import Utterance
from speechft.storage.scratch import Column, Names

_MISSING = ("nan", "NaN", "<NA>", "NaT")
"""How pandas writes a missing cell as text."""
_FEW = 100_000
"""Names; a column with more is no column of names but says something else in every row."""


def across_splits(splits: Mapping[str, Sequence[Utterance]], scan: Scan) -> list[Issue]:
    """Return an issue for everything that is wrong between utterances, none of which it drops."""
    return [
        *_duplicates(splits, scan),
        *_shared_speakers(splits, scan),
        *_unseen_characters(splits, scan),
        *_names_as_written(splits),
    ]


def characters_of(text: str | None) -> list[str]:
    """Return the characters of a transcript as CTC counts them, words separated by ``|``."""
    return list("|".join(words(text or "")))


def _triples(splits: Mapping[str, Any], scan: Scan) -> list[tuple[str, ...]]:
    """Return the (train, dev, test) splits that tasks use together."""
    named = scan.info.get("task_splits", {})
    folds = [fold for task in scan.info.get("folds", {}).values() for fold in task]
    triples = {tuple(names) for names in [*named.values(), *folds]} or {("train", "dev", "test")}
    return [tuple(n for n in dict.fromkeys(t) if n in splits) for t in sorted(triples)]


def _duplicates(splits: Mapping[str, Sequence[Utterance]], scan: Scan) -> list[Issue]:
    """Return an issue for every id that a split, or splits used together, hold twice."""
    issues: dict[tuple[str, str], Issue] = {}
    alone = [(name,) for name in splits]
    for group in [*alone, *_triples(splits, scan)]:
        names, numbers, begun = Names(), Column(), list[tuple[str, int]]()
        for split in group:
            begun.append((split, len(names)))
            for number, item in enumerate(splits[split]):
                known = len(names)
                place = names.add(item.id)
                if place == known:
                    numbers.add(number)
                    continue
                where = next(s for s, first in reversed(begun) if first <= place)
                before = splits[where][numbers[place]]
                problem = f"the id was used before, by {before.path} of split {where}"
                issues[item.id, split] = Issue("duplicate-id", problem, item.path, item.id, split)
    return list(issues.values())


def _shared_speakers(splits: Mapping[str, Sequence[Utterance]], scan: Scan) -> Iterator[Issue]:
    for group in scan.disjoint:
        found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        names: dict[str, dict[str, None]] = defaultdict(dict)
        for split in group:
            for item in splits.get(split, ()):
                if item.speaker:
                    found[folded(item.speaker)][split] += 1
                    names[folded(item.speaker)][item.speaker] = None
        for speaker, where in sorted(found.items()):
            if len(where) > 1:
                places = " and ".join(f"{name} ({n} utterances)" for name, n in where.items())
                shown = ", also written ".join(names[speaker])
                problem = f"speaker {shown} is in {places}, which must not share speakers"
                yield Issue("speaker-overlap", problem, id=shown, split="+".join(where))


def _unseen_characters(splits: Mapping[str, Sequence[Utterance]], scan: Scan) -> Iterator[Issue]:
    """Name transcripts with characters that the training split lacks: they count as errors."""
    if scan.alphabet is not None:
        return
    for triple in _triples(splits, scan):
        trained = splits[triple[0]] if triple else ()
        seen = {c for item in trained for c in characters_of(item.text)}
        if not seen:
            continue
        for split in triple[1:]:
            for item in splits[split]:
                if strange := sorted(set(characters_of(item.text)) - seen - {"|"}):
                    problem = f"{' '.join(map(repr, strange[:8]))} do not occur in {triple[0]}"
                    yield Issue("unseen-characters", problem, item.path, item.id, split)


def _names_as_written(splits: Mapping[str, Sequence[Utterance]]) -> Iterator[Issue]:
    """Name speakers and classes that are probably one (7 and 7.0), and cells that were missing."""
    alike: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    missing: dict[tuple[str, str, str], int] = defaultdict(int)
    for split, items in splits.items():
        for item in items:
            names = {"speaker": item.speaker or "", **item.labels}
            for column, name in {**names, "text": item.text or ""}.items():
                if name in _MISSING:
                    missing[column, name, split] += 1
            for column, name in names.items():
                if name and len(alike[column]) < _FEW:
                    alike[column][folded(name)][name] = None
    for column, groups in alike.items():
        for first, *others in groups.values() if len(groups) < _FEW else ():
            if others:
                also = " and ".join(map(repr, others))
                problem = f"the {column} {first!r} is also written {also}: they count as several"
                yield Issue("spelt-twice", problem, id=first)
    for (column, name, split), count in missing.items():
        problem = f"the {column} of {count} utterances is {name!r}, as tables write a missing cell"
        yield Issue("looks-missing", f"{problem}: it is taken as it stands", id=name, split=split)
