"""Query by example on frozen features: the best layer on dev, tested once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from speechft.console import progress_bar
from speechft.data.labels import Vocabulary
from speechft.evaluation.probe import ProbeResult
from speechft.features.keeping import Features
from speechft.features.kept import TensorsByName
from speechft.tasks.base import Item, Task

if TYPE_CHECKING:
    from lhotse.cut import Cut

_GROUP = 16
"""Cuts whose hidden states are read at a time."""


def detect(
    task: Task,
    features: Features,
    documents: Sequence[Cut],
    dev: Sequence[Cut],
    test: Sequence[Cut],
    contexts: tuple[Any, Any],
    layers: Sequence[int] = (),
) -> ProbeResult:
    """Match queries with documents by the features of every layer, and take the best on dev.

    Args:
        task: One that is searched for, such as query by example.
        features: Frames of all cuts.
        documents: What is searched.
        dev: Queries to choose the layer on.
        test: Queries to report; may be empty.
        contexts: Pairs of dev and test, from `Task.context`.
        layers: Hidden states that are reported beside it, whatever they do on dev.
    """
    count = len(features.rows(dev[:1])[0])
    found: list[tuple[float, list[Item]]] = []
    with progress_bar("query by example, layers", count) as bar:
        for layer in range(count):
            items = _matched(task, features, layer, dev, documents, contexts[0])
            found.append((task.figure(items), items))
            bar.advance(1)
    values = [value for value, _ in found]
    best = max(range(count), key=lambda layer: values[layer])

    def result(layer: int) -> ProbeResult:
        tested = _matched(task, features, layer, test, documents, contexts[1]) if test else []
        return ProbeResult(
            dev=values[layer],
            items=sorted(tested, key=lambda item: item.id),
            learning_rate=None,
            layer_weights=[float(layer == number) for number in range(count)],
            epochs=0,
            converged=True,
            dev_items=sorted(found[layer][1], key=lambda item: item.id),
        )

    setting = {"layer": best, "dev_by_layer": [round(value, 4) for value in values]}
    return replace(result(best), setting=setting, layers={n: result(n) for n in layers})


def _matched(
    task: Task,
    features: Features,
    layer: int,
    queries: Sequence[Cut],
    documents: Sequence[Cut],
    truth: Any,
) -> list[Item]:
    """Return the items of one layer, the only one in memory at a time."""
    paired = [cut for cut in queries if cut.id in truth]
    assert task.search is not None
    found = task.search.scores(
        _of_layer(features, paired, layer), _of_layer(features, documents, layer), truth
    )
    return task.items(paired, [found[cut.id] for cut in paired], [], Vocabulary(()), truth)


def _of_layer(features: Features, cuts: Sequence[Cut], layer: int) -> TensorsByName:
    """Return (T, D) float16 features by id, read when they are asked for."""
    found = TensorsByName()
    for first in range(0, len(cuts), _GROUP):
        group = cuts[first : first + _GROUP]
        for cut, rows in zip(group, features.rows(group), strict=True):
            found[cut.id] = rows[layer]
    return found
