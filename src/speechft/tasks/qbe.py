"""Query by example (SUPERB QbE): find spoken queries in spoken documents, without training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor, nn

from speechft.data.labels import MAX_LEFT_OUT, Vocabulary
from speechft.data.manifest import Corpus
from speechft.errors import DataError
from speechft.tasks.base import NO_AUDIO, OF_LEFT_OUT, Level, Split, Task
from speechft.tasks.detection import match_all, query_scores, standardize
from speechft.tasks.measures import Item, Measure, weighted_mtwv

if TYPE_CHECKING:
    from lhotse.cut import Cut

    from speechft.tasks.left_out import LeftOut


class QueryByExample(Task):
    """Subsequence DTW of every query in every document, with the features of one layer.

    The corpus names its splits (documents, dev queries, test queries) as those of the task, and in
    ``info["qbe"]`` a file of tab-separated lines: query id, document id, 1 or 0. The layer with
    the highest maximum term-weighted value on dev is taken.
    """

    name = "qbe"
    title = "spoken query detection"
    label = "qbe"
    level: ClassVar[Level] = "frame"
    metric: ClassVar[str] = "mtwv"
    lists: ClassVar[tuple[str, ...]] = ("qbe",)
    higher_is_better: ClassVar[bool] = True
    trained: ClassVar[bool] = False

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Return the maximum term-weighted value."""
        return (Measure("mtwv", True, weighted_mtwv, percent=False),)

    def lacks(self, corpus: Corpus, limit: float = MAX_LEFT_OUT) -> str:
        """Say whether the corpus names no pairs, or lacks a split."""
        if "qbe" not in corpus.info:
            return "its corpus.json names no file of query pairs as info.qbe"
        for split in corpus.task_splits(self.name):
            if not corpus.statistics.get(split, {}).get("utterances", 0):
                return f"its split {split} is missing or empty"
        return ""

    def labelled(self, cut: Cut) -> bool:
        """Return True: pairs of recordings have the labels."""
        return True

    def context(
        self, corpus: Corpus, split: str, cuts: Split, left_out: LeftOut | None = None
    ) -> dict[str, dict[str, bool]]:
        """Return, by query of the split and document, whether the one occurs in the other.

        A query without a pair is left out where that is allowed, and so are the pairs of documents
        that are.

        Raises:
            DataError: The file cannot be read, it lacks queries or names documents without audio,
                or no query tells documents apart.
        """
        path = f"{corpus.place}/{corpus.info['qbe']}"
        pairs = self._pairs(corpus, {cut.id for cut in cuts})
        missing = sorted({cut.id for cut in cuts} - pairs.keys())
        if missing and (left_out is None or not left_out.allows(len(missing), len(cuts))):
            raise DataError(f"{path} holds no pair of query {missing[0]!r} of split {split}")
        if left_out is not None:
            for name in missing:
                left_out.add(split, name, "query without a pair")
            self._drop(corpus, split, pairs, left_out)
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
        self, corpus: Corpus, split: str, pairs: dict[str, dict[str, bool]], left_out: LeftOut
    ) -> None:
        """Leave out the pairs of documents that are left out, or that have no audio."""
        place = corpus.task_splits(self.name)[0]
        bad, known = left_out.of(place), {cut.id for cut in corpus.split(place)}
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

    def detect(
        self,
        queries: Mapping[str, Any],
        documents: Mapping[str, Any],
        truth: Mapping[str, Mapping[str, bool]],
    ) -> list[Item]:
        """Return one item a pair: its standardised score, and 1 where the query occurs.

        Args:
            queries: (Q, D) features of one layer by id.
            documents: (T, D) features by id.
            truth: From `context`.

        Raises:
            DataError: A pair names a document without audio.
        """
        mean, std = standardize([*queries.values(), *documents.values()])
        scale = np.where(std > 0, std, 1.0)

        def normal(features: Any) -> Any:
            return ((np.asarray(features, dtype=np.float64) - mean) / scale).astype(np.float32)

        normalized = {name: normal(features) for name, features in documents.items()}
        scores: dict[str, dict[str, float]] = {}
        for query, features in queries.items():
            names = list(truth[query])
            absent = next((name for name in names if name not in normalized), None)
            if absent is not None:
                raise DataError(f"query {query!r} is paired with {absent!r}, which has no audio")
            found = match_all(normal(features), [normalized[name] for name in names])
            scores[query] = dict(zip(names, found.tolist(), strict=True))
        frames = {name: len(features) for name, features in queries.items()}
        return [
            Item(
                f"{query}|{document}",
                f"{score:.4f}",
                str(int(truth[query][document])),
                score,
                float(truth[query][document]),
                group=query,
            )
            for query, by_document in query_scores(scores, frames).items()
            for document, score in by_document.items()
        ]

    def vocabulary(self, cuts: Iterable[Cut]) -> Vocabulary:
        """Return an empty vocabulary: nothing is trained."""
        return Vocabulary(())

    def head(self, dim: int, vocabulary: Vocabulary, hidden: int | None) -> nn.Module:
        """Return nothing to train."""
        return nn.Identity()

    def target(self, cut: Cut, vocabulary: Vocabulary, frames: int) -> Tensor:
        """Refuse: pairs of recordings have the labels."""
        raise NotImplementedError("query detection labels pairs, not utterances")

    def losses(
        self, logits: Tensor, lengths: Tensor, targets: Sequence[Tensor], vocabulary: Vocabulary
    ) -> Tensor:
        """Refuse: nothing is trained."""
        raise NotImplementedError("query detection trains nothing")

    def predict(self, logits: Tensor, lengths: Tensor, vocabulary: Vocabulary) -> list[Any]:
        """Refuse: see `detect`."""
        raise NotImplementedError("query detection scores pairs, see detect")

    def score(self, cut: Cut, prediction: Any, target: Tensor, vocabulary: Vocabulary) -> Item:
        """Refuse: see `detect`."""
        raise NotImplementedError("query detection scores pairs, see detect")
