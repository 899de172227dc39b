"""What a corpus lost while it was prepared: counted by split and kind, told, held to a limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from speechft.console import warn
from speechft.data.issues import ISSUES_FILE, Issue
from speechft.errors import DataError, nearest

if TYPE_CHECKING:
    from speechft.data.manifest import Corpus

LOST, ALLOWED = "lost", "lost_by_choice"
"""Keys of ``corpus.info``: numbers by split and kind, and the kinds that the user allowed."""
UNPLACED = "*"
"""Stands for the split of what was lost before its split was known, such as a row that is too
short: it counts in every split."""
_NO_LOSS = ("no-label", "listed-twice")
"""Kinds that leave out nothing that was promised: what no label file speaks of, and copies."""


def is_loss(issue: Issue) -> bool:
    """Return whether an issue says that an utterance is missing from the corpus."""
    return issue.resolved() == "left out" and issue.kind not in _NO_LOSS


def losses_of(corpus: Corpus, splits: Iterable[str]) -> Counter[str]:
    """Return how many utterances of some splits were lost by kind, with those of no known split.

    Of a corpus that an older version prepared nothing is known.
    """
    found: Counter[str] = Counter()
    for split in dict.fromkeys((*splits, UNPLACED)):
        found.update(_lost(corpus, split))
    return found


def unasked_losses(corpus: Corpus) -> int:
    """Return how many utterances were lost in all, without those that the user allowed."""
    lost = losses_of(corpus, corpus.info.get(LOST, {}))
    return lost.total() - sum(lost[kind] for kind in corpus.info.get(ALLOWED, ()))


def tell_losses(corpus: Corpus) -> None:
    """Say in one line what a corpus lost, if it did."""
    lost = losses_of(corpus, corpus.info.get(LOST, {}))
    if lost:
        total = lost.total() + sum(_left(corpus, split) for split in corpus.statistics)
        warn(f"corpus {corpus.name} {_lacks(lost, total)}; {_named(corpus)}")


def check_losses(corpus: Corpus, splits: Iterable[str], limit: float, setting: str) -> None:
    """Refuse splits of which too much was lost; what the user allowed does not count.

    Args:
        corpus: Where they come from.
        splits: Those that are used.
        limit: Largest share of a split that may be lost; 1 never refuses.
        setting: Name of the setting that holds it.

    Raises:
        DataError: Says how many of which split, why, and where they are named.
    """
    unplaced, every = _lost(corpus, UNPLACED), {*corpus.statistics, *corpus.info.get(LOST, ())}
    totals = {split: _left(corpus, split) + _lost(corpus, split).total() for split in every}
    known = [(f" of split {name}", _lost(corpus, name), totals.get(name, 0)) for name in splits]
    for what, lost, total in [("", unplaced, sum(totals.values())), *known]:
        counted = Counter({k: n for k, n in lost.items() if k not in corpus.info.get(ALLOWED, ())})
        if counted.total() > limit * total:
            raise DataError(
                f"corpus {corpus.name} {_lacks(counted, total, what)}, and no more than "
                f"{100 * limit:g} % may be",
                hint=f"{_named(corpus)}: mend them, or take them out of what is prepared, or raise "
                f"{setting} (1 never refuses)",
            )


def lost_beside(corpus: Corpus, split: str, count: int) -> float:
    """Return how many utterances were lost, on average, for so many that are left of a split."""
    return _lost(corpus, split).total() * count / max(_left(corpus, split), 1)


def without_split(corpus: Corpus, split: str) -> str:
    """Say of a split that is missing or empty what became of it, or what there is instead."""
    if lost := _lost(corpus, split):
        return f"its split {split} is empty: it {_lacks(lost, lost.total())}; {_named(corpus)}"
    near = nearest(split, corpus.statistics)
    like = f" (is {near!r} meant?)" if near else ""
    has = ", ".join(corpus.statistics) or "none"
    return f"its split {split} is missing or empty; its splits: {has}{like}"


def _lost(corpus: Corpus, split: str) -> Counter[str]:
    return Counter(corpus.info.get(LOST, {}).get(split, {}))


def _left(corpus: Corpus, split: str) -> int:
    return int(corpus.statistics.get(split, {}).get("utterances", 0))


def _lacks(lost: Counter[str], total: int, what: str = "") -> str:
    listed = ", ".join(f"{number} {kind}" for kind, number in lost.items())
    return (
        f"lacks {lost.total()} of {total} recordings{what}, which were left out when it was "
        f"prepared ({listed})"
    )


def _named(corpus: Corpus) -> str:
    """Say where losses are named: a corpus in shards, or at an address, does not hold the file."""
    path = corpus.folder / ISSUES_FILE
    return f"{path} names them" if path.is_file() else f"{ISSUES_FILE} of its preparation has them"
