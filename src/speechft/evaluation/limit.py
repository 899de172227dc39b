"""So many utterances of every split, for a quick look: the same ones for every encoder."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lhotse.cut import Cut


def limited(
    splits: Sequence[Sequence[Cut]], limit: int | None, label: Callable[[Cut], str | None]
) -> list[list[Cut]]:
    """Return at most ``limit`` cuts of each split, in the order of the split.

    Labels take turns, so that every class has as many cuts as the others while it lasts. Where
    there are more labels than places, the splits choose the same ones: those that most of them
    have come first. Within a label, and among labels alike, the order is that of a hash of the id
    or label: it does not depend on the corpus's own order, and a larger limit only adds.

    Args:
        splits: The splits that belong together, such as train, dev and test.
        limit: Cuts of each; None takes all.
        label: What to balance: the class of a cut, or its speaker; None where it has none.
    """
    if limit is None:
        return [list(cuts) for cuts in splits]
    labels = [[label(cut) for cut in cuts] for cuts in splits]
    common = Counter(name for found in labels for name in set(found) if name is not None)
    names = sorted(common, key=lambda name: (-common[name], _hash(name)))
    place: dict[str | None, int] = {name: number for number, name in enumerate(names)}
    place[None] = len(names)
    return [
        _first(cuts, [place[name] for name in found], limit)
        for cuts, found in zip(splits, labels, strict=True)
    ]


def _first(cuts: Sequence[Cut], places: Sequence[int], limit: int) -> list[Cut]:
    """Return cuts whose labels, numbered by ``places``, take turns."""
    turns: Counter[int] = Counter()
    ranks: list[tuple[int, int, int]] = []
    for index in sorted(range(len(cuts)), key=lambda index: _hash(cuts[index].id)):
        ranks.append((turns[places[index]], places[index], index))
        turns[places[index]] += 1
    return [cuts[index] for index in sorted(index for *_, index in sorted(ranks)[:limit])]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
