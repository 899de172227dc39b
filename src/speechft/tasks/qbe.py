"""Query by example (SUPERB QbE): find spoken queries in spoken documents, without training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from speechft.data.labels import MAX_LEFT_OUT, Vocabulary
from speechft.data.losses import without_split
from speechft.errors import DataError
from speechft.tasks.base import Task
from speechft.tasks.measures import Item, Measure, weighted_mtwv
from speechft.tasks.parts import (
    NO_AUDIO,
    OF_LEFT_OUT,
    Labels,
    Needs,
    Predictions,
    Scorer,
    Search,
    Split,
)

if TYPE_CHECKING:
    from lhotse.cut import Cut
    from torch import Tensor

    from speechft.data.manifest import Corpus
    from speechft.tasks.left_out import LeftOut

MTWV = Measure(
    "mtwv", True, weighted_mtwv, percent=False, written="MTWV", decimals=3, whole_groups=True
)


class PairLabels(Labels):
    """Pairs of recordings have the labels; utterances have none, and targets are empty."""

    def vocabulary(self, cuts: Iterable[Cut]) -> Vocabulary:
        """Return an empty vocabulary."""
        return Vocabulary(())

    def labelled(self, cut: Cut) -> bool:
        """Return True."""
        return True

    def target(self, cut: Cut, vocabulary: Vocabulary, frames: int) -> Tensor:
        """Return an empty target."""
        import torch

        return torch.zeros(0)


class _Lazily(Sequence[Any]):
    """What is made of each item when it is asked for, so that a few are in memory at a time."""

    def __init__(self, items: Sequence[Any], make: Callable[[Any], Any]) -> None:
        self._items, self._make = items, make

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, number: int | slice) -> Any:
        if isinstance(number, slice):
            return [self._make(item) for item in self._items[number]]
        return self._make(self._items[number])


class WarpingSearch(Search):
    """Subsequence DTW of queries in documents; scores are standardised over each query."""

    def scores(
        self,
        queries: Mapping[str, Any],
        documents: Mapping[str, Any],
        pairs: Mapping[str, Iterable[str]],
    ) -> dict[str, dict[str, float]]:
        """Return the score of every pair; features are standardised over all recordings first."""
        import numpy as np

        from speechft.tasks.detection import match_all, query_scores, standardize

        both = [*((queries, name) for name in queries), *((documents, name) for name in documents)]
        mean, std = standardize(_Lazily(both, lambda held: np.asarray(held[0][held[1]])))
        scale = np.where(std > 0, std, 1.0)

        def normal(features: Any) -> Any:
            return ((np.asarray(features, dtype=np.float64) - mean) / scale).astype(np.float32)

        found: dict[str, dict[str, float]] = {}
        for query, features in queries.items():
            names = list(pairs[query])
            absent = next((name for name in names if name not in documents), None)
            if absent is not None:
                raise DataError(f"query {query!r} is paired with {absent!r}, which has no audio")
            searched = _Lazily(names, lambda name: normal(documents[name]))
            matched = match_all(normal(features), searched)
            found[query] = dict(zip(names, matched.tolist(), strict=True))
        frames = {name: len(features) for name, features in queries.items()}
        return query_scores(found, frames)


class PairScorer(Scorer):
    """The score of every pair; its predictions are scores by document, one a query.

    ``corpus.info["qbe"]`` names a file of tab-separated lines: query id, document id, 1 or 0.
    """

    lists: ClassVar[tuple[str, ...]] = ("qbe",)

    def context(
        self,
        corpus: Corpus,
        names: tuple[str, str, str],
        split: str,
        cuts: Split,
        left_out: LeftOut | None,
    ) -> dict[str, dict[str, bool]]:
        """Return, by query of the split and document, whether the one occurs in the other.

        A query without a pair is left out where that is allowed, and so are the pairs of documents
        that are.

        Raises:
            DataError: The file cannot be read, it lacks queries or names documents without audio,
                or no query tells documents apart.
        """
        path = f"{corpus.place}/{corpus.info['qbe']}"
        wanted = {cut.id for cut in cuts}
        bad = {} if left_out is None else left_out.of(split)
        pairs = self._pairs(corpus, wanted | bad.keys())
        missing = sorted(wanted - pairs.keys())
        if missing and (left_out is None or not left_out.allows(len(missing), len(cuts))):
            raise DataError(f"{path} holds no pair of query {missing[0]!r} of split {split}")
        if left_out is not None:
            for name in bad:
                fallen = [f"{name}|{document}" for document in pairs.pop(name, {})]
                left_out.add_pairs(split, fallen, OF_LEFT_OUT)
            for name in missing:
                left_out.add(split, name, "query without a pair")
            self._drop(corpus, names[0], split, pairs, left_out)
        if not any(len(set(found.values())) == 2 for found in pairs.values()):
            raise DataError(
                f"no query of split {split} occurs in some documents and not in others, by {path}; "
                "term-weighted values are not defined then"
            )
        return pairs

    def _pairs(self, corpus: Corpus, queries: set[str]) -> dict[str, dict[str, bool]]:
        """Return, by query and document, whether the one occurs in the other."""
        file = str(corpus.info["qbe"])
        pairs: dict[str, dict[str, bool]] = {}
        for number, line in enumerate(corpus.read_text(file).splitlines(), start=1):
            cells = line.split("\t")
            if len(cells) != 3 or cells[2] not in ("0", "1"):
                raise DataError(
                    f"{corpus.place}/{file}, line {number}: expected 'query<TAB>document<TAB>1|0'"
                )
            if cells[0] in queries:
                pairs.setdefault(cells[0], {})[cells[1]] = cells[2] == "1"
        return pairs

    def _drop(
        self,
        corpus: Corpus,
        place: str,
        split: str,
        pairs: dict[str, dict[str, bool]],
        left_out: LeftOut,
    ) -> None:
        """Leave out the pairs of documents that are left out, or that have no audio."""
        for found in pairs.values():
            for document in found.keys() & left_out.passed(place):
                del found[document]
        bad, known = left_out.of(place), {*corpus.cuts(place).ids}
        absent = [(q, d) for q, found in pairs.items() for d in found if d not in known]
        if not left_out.allows(len(absent), sum(map(len, pairs.values()))):
            query, document = absent[0]
            raise DataError(f"query {query!r} is paired with {document!r}, which has no audio")
        fallen = [(q, d) for q, found in pairs.items() for d in found if d in bad]
        for dropped, reason in ((absent, NO_AUDIO), (fallen, OF_LEFT_OUT)):
            left_out.add_pairs(split, [f"{q}|{d}" for q, d in dropped], reason)
            for query, document in dropped:
                del pairs[query][document]
        for query in [query for query, found in pairs.items() if not found]:
            del pairs[query]

    def items(
        self,
        cuts: Split,
        predictions: Predictions,
        targets: Sequence[Tensor],
        vocabulary: Vocabulary,
        context: Any,
        setting: Any,
    ) -> list[Item]:
        """Return one item a pair: its standardised score, and 1 where the query occurs."""
        return [
            Item(
                f"{query.id}|{document}",
                f"{score:.4f}",
                str(int(context[query.id][document])),
                score,
                float(context[query.id][document]),
                group=query.id,
            )
            for query, by_document in zip(cuts, predictions, strict=True)
            for document, score in by_document.items()
        ]

    def describe(self, prediction: Any, vocabulary: Vocabulary, setting: Any) -> str:
        """Return the document that is most alike."""
        return str(max(prediction, key=prediction.__getitem__))


class PairNeeds(Needs):
    """A file of pairs, and three splits: documents, dev queries, test queries."""

    def lacks(self, task: str, kind: str, corpus: Corpus, limit: float = MAX_LEFT_OUT) -> str:
        """Say whether the corpus names no pairs, or lacks a split."""
        if "qbe" not in corpus.info:
            return "its corpus.json names no file of query pairs as info.qbe"
        for split in corpus.task_splits(task):
            if not corpus.statistics.get(split, {}).get("utterances", 0):
                return without_split(corpus, split)
        return ""


QBE = Task(
    "qbe",
    "spoken query detection",
    labels=PairLabels("qbe", "qbe"),
    search=WarpingSearch(),
    scorer=PairScorer((MTWV,)),
    needs=PairNeeds(),
    no_finetuning="it trains no head",
    no_files="it has no probe",
)
