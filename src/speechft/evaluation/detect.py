"""Query by example on frozen features: the best layer on dev, tested once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from speechft.console import progress_bar
from speechft.evaluation.probe import ProbeResult
from speechft.features.extract import Features
from speechft.tasks.base import Item, Task
from speechft.tasks.query import QueryByExample

if TYPE_CHECKING:
    from lhotse.cut import Cut


def detect(
    task: Task,
    features: Features,
    documents: Sequence[Cut],
    dev: Sequence[Cut],
    test: Sequence[Cut],
    contexts: tuple[Any, Any],
) -> ProbeResult:
    """Match queries with documents by the features of every layer, and take the best on dev.

    Args:
        task: Query by example.
        features: Frames of all cuts.
        documents: What is searched.
        dev: Queries to choose the layer on.
        test: Queries to report; may be empty.
        contexts: Pairs of dev and test, from `Task.context`.
    """
    assert isinstance(task, QueryByExample)
    states = {
        cut.id: rows
        for cut, rows in zip(
            (*documents, *dev, *test), features.rows([*documents, *dev, *test]), strict=True
        )
    }
    count = len(next(iter(states.values())))
    found: list[tuple[float, list[Item]]] = []
    with progress_bar("query by example, layers", count) as bar:
        for layer in range(count):
            items = _matched(task, states, layer, dev, documents, contexts[0])
            found.append((task.figure(items), items))
            bar.advance(1)
    values = [value for value, _ in found]
    best = max(range(count), key=lambda layer: values[layer])
    tested = _matched(task, states, best, test, documents, contexts[1]) if test else []
    return ProbeResult(
        dev=values[best],
        items=sorted(tested, key=lambda item: item.id),
        learning_rate=None,
        layer_weights=[float(layer == best) for layer in range(count)],
        epochs=0,
        converged=True,
        dev_items=sorted(found[best][1], key=lambda item: item.id),
        setting={"layer": best, "dev_by_layer": [round(value, 4) for value in values]},
    )


def _matched(
    task: QueryByExample,
    states: Mapping[str, Tensor],
    layer: int,
    queries: Sequence[Cut],
    documents: Sequence[Cut],
    truth: Any,
) -> list[Item]:
    """Return the items of one layer; features are standardised over queries and documents."""
    return task.detect(
        {cut.id: states[cut.id][layer].double().numpy() for cut in queries},
        {cut.id: states[cut.id][layer].double().numpy() for cut in documents},
        truth,
    )
