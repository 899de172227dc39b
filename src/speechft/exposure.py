"""What the encoders of a run have heard: its cost, and which of the probes' tests are in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechft.compositions import Composer
from speechft.data.labels import label_of
from speechft.data.manifest import Corpus
from speechft.encoders.opening import open_encoder
from speechft.evaluation.predictions import items_of
from speechft.finetuning.config import PRETRAINING, FinetuningConfig
from speechft.recipe import Recipe
from speechft.results import ResultRow
from speechft.tasks import measure_of

if TYPE_CHECKING:
    from lhotse.cut import Cut

    from speechft.tasks.base import Task


@dataclass(frozen=True)
class Cost:
    """What a run will take, as far as it can be said before."""

    updates: int
    """Of all fine-tunings."""
    tuning_hours: float
    """Hours of audio that go through an encoder forwards and backwards."""
    encoders: int
    """Evaluated on test."""
    evaluation_hours: float
    """Hours of audio that go through frozen encoders; probes come on top."""
    gigabytes: float
    """Of weights on disk: tuned and merged encoders, and checkpoints while one is tuned."""

    def __str__(self) -> str:
        """Return a line for people."""
        return (
            f"{self.updates} updates on {self.tuning_hours:.3g} h of audio, {self.encoders} "
            f"encoders over {self.evaluation_hours:.3g} h of audio in all, about "
            f"{self.gigabytes:.2g} GB of weights on disk; probes and features come on top"
        )


def estimate(
    recipe: Recipe,
    corpora: Mapping[str, Corpus],
    tasks: Sequence[Task],
    where: Mapping[str, Corpus],
) -> Cost:
    """Estimate what a run takes, from the statistics of its corpora.

    Args:
        recipe: What is run.
        corpora: To tune on, by task, ``*`` for the others.
        tasks: Evaluated.
        where: The corpus that each is evaluated on.
    """
    heard = [part for strategy in recipe.merged_at() for part in _heard(recipe, strategy, corpora)]
    updates = {id(config): config.resolved().stop_after() for config, *_ in heard}
    hours = sum(updates[id(c)] * _batch_hours(c, corpus, split) for c, _, corpus, split in heard)
    merged = [alpha for alphas in recipe.merged_at().values() for alpha in alphas]
    encoders = len(recipe.evaluation.floors) + 2 + len(recipe.merged_at()) + len(merged)
    splits = {
        (corpus.place, split): corpus.statistics.get(split, {}).get("hours", 0.0)
        for task in tasks
        for corpus in [where[task.name]]
        for names in task.folds(corpus)
        for split in names
    }
    size = _weights(recipe.encoder)
    models = len(recipe.merged_at()) + 1 + len(merged) + len(recipe.merging.curve)
    checkpoints = 3 * recipe.finetuning.keep + 2  # weights and two moments each; the best two
    evaluation = encoders * sum(splits.values())
    return Cost(
        sum(updates.values()), hours, encoders, evaluation, (models + checkpoints) * size / 1e9
    )


def mark_overlap(
    rows: Sequence[ResultRow],
    recipe: Recipe,
    corpora: Mapping[str, Corpus],
    tasks: Sequence[Task],
    where: Mapping[str, Corpus],
    folder: Path,
    pretrained: Sequence[Corpus] = (),
) -> list[ResultRow]:
    """Say in every row how much of its test data was tuned on, and give the figure without it.

    ``details["tuned_on"]`` counts utterances, speakers and sessions of the test splits that some
    fine-tuning of the run was trained or chosen on, beside how many there are. Where utterances are
    among them, ``details["clean"]`` is the figure of the folds of which none was tuned on, or with
    a single fold of the items that were not; ``None`` where nothing is left. Pre-trained encoders
    have it too, so that it can be compared.

    ``details["pretrained_on"]`` counts the same in the training speech of the corpora that
    pre-training heard, or is ``"unknown"`` where the recipe names none. Names are compared within a
    corpus only.

    Args:
        rows: Of the run.
        recipe: What was run.
        corpora: Tuned on, by task, ``*`` for the others.
        tasks: Evaluated.
        where: The corpus that each was evaluated on.
        folder: Of the run, where the scored items lie.
        pretrained: Heard by the encoder before.
    """
    heard: dict[str, dict[str, set[str]]] = {}
    before: dict[str, dict[str, set[str]]] = {}
    for corpus in pretrained:
        _add(before.setdefault(corpus.name, {}), corpus.cuts(corpus.tuning_splits()[0]))
    for strategy in list(recipe.merged_at())[:1]:  # all of them tune on the same data
        for config, task, corpus, _ in _heard(recipe, strategy, corpora):
            for split in _splits(config, task, corpus):
                if corpus.statistics.get(split, {}).get("utterances"):
                    _add(heard.setdefault(corpus.name, {}), corpus.cuts(split))
    found = {task.name: _overlap(task, where[task.name], heard) for task in tasks}
    earlier: dict[str, Any] = {
        task.name: _overlap(task, where[task.name], before)[0] if pretrained else "unknown"
        for task in tasks
    }
    return [_marked(row, earlier[row.task], *found[row.task], folder) for row in rows]


_KINDS = ("utterances", "speakers", "sessions")


def _overlap(
    task: Task, corpus: Corpus, heard: Mapping[str, Mapping[str, set[str]]]
) -> tuple[dict[str, list[int]], set[str], set[int]]:
    """Return counts by kind, the test utterances that were heard, and the folds that have some."""
    known, tested, folds = heard.get(corpus.name, {}), dict[str, set[str]](), set[int]()
    for number, names in enumerate(task.folds(corpus), 1):
        mine: dict[str, set[str]] = {}
        _add(mine, corpus.cuts(names[2]))
        if mine["utterances"] & known.get("utterances", set()):
            folds.add(number)
        for kind, values in mine.items():
            tested.setdefault(kind, set()).update(values)
    counts = {
        kind: [len(tested[kind] & known.get(kind, set())), len(tested[kind])]
        for kind in _KINDS
        if tested.get(kind)
    }
    return counts, tested["utterances"] & known.get("utterances", set()), folds


def _marked(
    row: ResultRow,
    earlier: Any,
    counts: Mapping[str, list[int]],
    seen: set[str],
    folds: set[int],
    folder: Path,
) -> ResultRow:
    details: dict[str, Any] = {
        **row.details,
        "pretrained_on": earlier,
        "tuned_on": dict(counts),
    }
    if seen and row.predictions is not None:
        items = items_of(row, folder)
        if any(item.fold for item in items):
            clean = [item for item in items if item.fold not in folds]
        else:
            clean = [item for item in items if not seen & {*item.id.split("|")}]
        value = measure_of(row.task, row.metric).value(clean) if clean else None
        details["clean"] = {"value": value, "n": len(clean)}
    return row.model_copy(update={"details": details})


def _add(known: dict[str, set[str]], cuts: Sequence[Cut] | Any) -> None:
    for kind in _KINDS:
        known.setdefault(kind, set())
    for cut in cuts:
        known["utterances"].add(cut.id)
        for kind in _KINDS[1:]:
            if value := label_of(cut, kind[:-1]):
                known[kind].add(value)


def _heard(
    recipe: Recipe, strategy: Any, corpora: Mapping[str, Corpus]
) -> list[tuple[FinetuningConfig, str, Corpus, str]]:
    """Return every (fine-tuning, task, corpus, training split) of a strategy."""
    return [
        (config, task, corpus, _splits(config, task, corpus)[0])
        for config in Composer(recipe, {}, Path()).plans(strategy)
        for task in config.task_weights()
        for corpus in [corpora.get(task, corpora["*"])]
    ]


def _splits(config: FinetuningConfig, task: str, corpus: Corpus) -> tuple[str, str]:
    """Return the names of the splits that a task is trained and chosen on."""
    if config.task == PRETRAINING or corpus.info.get("tuning_splits"):
        return corpus.tuning_splits()
    train, dev, _ = corpus.task_splits(task)
    return train, dev


def _batch_hours(config: FinetuningConfig, corpus: Corpus, split: str) -> float:
    """Return the hours of audio of an update of a fine-tuning on one of its tasks."""
    known = corpus.statistics.get(split, {"utterances": 0})
    if not known["utterances"]:
        return 0.0
    mean: float = 3600.0 * float(known["hours"]) / known["utterances"]
    length: float = min(mean, config.max_duration or mean)
    seconds: float = (
        min(config.batch_utterances * length, config.batch_seconds) * config.accumulation
    )
    alternating = config.tasks and config.mixing == "alternating"
    return seconds / 3600.0 / (len(config.tasks) if alternating else 1)


def _weights(encoder: str) -> int:
    """Return the bytes of an encoder's weights."""
    return sum(file.stat().st_size for file in open_encoder(encoder).files)
