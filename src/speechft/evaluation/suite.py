"""Evaluate frozen encoders on several tasks: one extraction each, then every task's probes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from speechft.checkpoint import atomic_write
from speechft.config import Config
from speechft.console import log
from speechft.data.manifest import Corpus
from speechft.devices import Precision, pick_device
from speechft.encoders.base import Encoder
from speechft.encoders.load import digest_of, load_encoder, random_encoder
from speechft.errors import ConfigError, DataError, unknown_choice
from speechft.evaluation.probe import ProbeConfig, ProbeResult, probe
from speechft.evaluation.score import bootstrap_interval
from speechft.features.extract import DownsamplerCache, Features, extract
from speechft.results import ResultRow, write_rows
from speechft.runs import stage
from speechft.tasks import TASKS, find_task
from speechft.tasks.base import Item, Task, figure

if TYPE_CHECKING:
    from lhotse.cut import Cut

RANDOM = "random"

PROTOCOLS: dict[str, dict[str, ProbeConfig]] = {
    "mini": {
        "frame": ProbeConfig(
            learning_rates=(3e-3, 1e-2, 3e-2), batch=16, epochs=40, patience=4, halve_at=(2, 4)
        ),
        "utterance": ProbeConfig(
            learning_rates=(1e-2, 3e-2, 1e-1), batch=64, epochs=80, patience=8, halve_at=(10, 20)
        ),
    },
    "default": {
        "frame": ProbeConfig(
            learning_rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
            hidden=256,
            batch=16,
            epochs=200,
            patience=10,
            halve_at=(),
        ),
        "utterance": ProbeConfig(
            learning_rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
            hidden=256,
            batch=32,
            epochs=200,
            patience=20,
            halve_at=(),
        ),
    },
}
"""Probe settings by protocol and level of the task. ``mini``: linear heads without projection and
successive halving, for quick looks; ``default``: SUPERB's heads with its projection of 256."""


class EvaluationConfig(Config):
    """Which tasks, how."""

    tasks: tuple[str, ...] | Literal["available"] = ("pr", "sid", "ic", "style")
    """Keys of tasks, or ``available`` for all that the corpus supports."""
    protocol: str = "mini"
    """Name of the protocol."""
    floors: tuple[str, ...] = ("mfcc", RANDOM)
    """Rows for comparison: ``mfcc``, and ``random`` for an untrained encoder of the same shape."""
    precision: Precision = "auto"
    """Precision of the encoder's forward pass."""


@dataclass(frozen=True)
class Candidate:
    """An encoder to evaluate."""

    name: str
    """Name in tables."""
    source: str
    """As `load_encoder` takes it, or ``random``."""
    like: str | None = None
    """For ``random``: the encoder whose configuration it has."""
    alpha: float | None = None
    """Interpolation coefficient, for merged encoders."""
    seed: int = 0
    """For ``random``: seed of the weights."""

    def load(self) -> Encoder:
        """Load it."""
        if self.source == RANDOM:
            return random_encoder(self.like or "", self.seed)
        return load_encoder(self.source)

    def digest(self) -> str:
        """Return the digest of its weights and configuration."""
        if self.source == RANDOM:
            return f"random:{self.seed}:{digest_of(self.like or '')}"
        return digest_of(self.source)


def choose_tasks(config: EvaluationConfig, corpus: Corpus) -> list[Task]:
    """Return the tasks to evaluate.

    Raises:
        ConfigError: Unknown task or protocol, or no task at all.
        DataError: A task was asked for by name and the corpus does not support it.
    """
    if config.protocol not in PROTOCOLS:
        raise unknown_choice("protocol", config.protocol, PROTOCOLS)
    available = [task for task in TASKS.values() if task.supported_by(corpus)]
    if config.tasks == "available":
        if not available:
            raise DataError(
                f"corpus {corpus.name} supports no task",
                hint="give it a train, dev and test split with text, phones, speaker or label",
            )
        return available
    tasks = [find_task(name) for name in config.tasks]
    if not tasks:
        raise ConfigError("no task to evaluate", hint=f"choose from: {', '.join(TASKS)}")
    for task in tasks:
        task.require(corpus, [other.name for other in available])
    return tasks


def evaluate_encoder(
    candidate: Candidate,
    tasks: Sequence[Task],
    corpus: Corpus,
    config: EvaluationConfig,
    folder: Path,
    *,
    seed: int,
    test: bool = True,
    cache: DownsamplerCache | None = None,
) -> list[ResultRow]:
    """Evaluate one frozen encoder; skipped when the folder holds the same evaluation.

    Writes ``results.jsonl`` and ``predictions/<task>.jsonl``, sorted by id.

    Args:
        candidate: What to evaluate.
        tasks: On what.
        corpus: Where.
        config: How.
        folder: Where results go.
        seed: Seed of the probes.
        test: Report the test split; otherwise the dev split that the probe was chosen on.
        cache: Downsampler outputs shared between encoders.
    """
    from speechft.results import read_rows

    digest = candidate.digest()
    settings = {
        "candidate": {**asdict(candidate), "source": candidate.name},
        "tasks": [task.name for task in tasks],
        "config": {"protocol": config.protocol, "precision": config.precision},
        "probes": {name: p.as_dict() for name, p in PROTOCOLS[config.protocol].items()},
        "seed": seed,
        "test": test,
    }
    inputs = {"encoder": digest, "corpus": corpus.digest}
    with stage(folder, name="evaluate", config=settings, inputs=inputs) as work:
        if not work.done:
            splits = {task.name: _cuts(task, corpus, test) for task in tasks}
            features = _extract(candidate, tasks, splits, config, cache)
            rows = []
            for task in tasks:
                level = PROTOCOLS[config.protocol][task.level]
                result = probe(task, features, *splits[task.name], level, seed)
                rows.append(_row(candidate, digest, task, corpus, config, result, seed, test))
                _write_predictions(
                    work.scratch / "predictions" / f"{task.name}.jsonl", result.items
                )
            write_rows(work.scratch / "results.jsonl", rows)
    rows = read_rows(folder / "results.jsonl")
    log(f"{candidate.name}: " + ", ".join(f"{r.task} {r.metric} {r.value:.1f}" for r in rows))
    return rows


def read_items(folder: Path, task: str) -> list[Item]:
    """Return the scored items of an evaluated encoder on a task, sorted by id."""
    path = folder / "predictions" / f"{task}.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"predictions {path} cannot be read: {error}") from None
    return [Item(**json.loads(line)) for line in lines]


def _cuts(task: Task, corpus: Corpus, test: bool) -> tuple[list[Cut], list[Cut], list[Cut]]:
    train, dev, last = corpus.task_splits(task.name)
    return (
        list(corpus.split(train)),
        list(corpus.split(dev)),
        list(corpus.split(last)) if test else [],
    )


def _extract(
    candidate: Candidate,
    tasks: Sequence[Task],
    splits: Mapping[str, tuple[list[Cut], ...]],
    config: EvaluationConfig,
    cache: DownsamplerCache | None,
) -> Features:
    """Run the encoder once over the union of all splits."""
    cuts = {cut.id: cut for parts in splits.values() for part in parts for cut in part}
    frame_tasks = [task.name for task in tasks if task.level == "frame"]
    framed = frozenset(cut.id for name in frame_tasks for part in splits[name] for cut in part)
    return extract(
        candidate.load(),
        cuts.values(),
        frames=framed,
        device=pick_device(),
        precision=config.precision,
        cache=cache,
        description=f"features of {candidate.name}",
    )


def _row(
    candidate: Candidate,
    digest: str,
    task: Task,
    corpus: Corpus,
    config: EvaluationConfig,
    result: ProbeResult,
    seed: int,
    test: bool,
) -> ResultRow:
    items = result.items
    names = corpus.task_splits(task.name)
    details: dict[str, Any] = {
        "dev": round(result.dev, 4),
        "grid": {f"{rate:.3g}": round(value, 4) for rate, value in result.grid.items()},
        "layer_weights": [round(weight, 4) for weight in result.layer_weights],
        "best_epoch": result.epochs,
        "converged": result.converged,
        **_rates(items),
    }
    return ResultRow(
        encoder=candidate.name,
        encoder_digest=digest,
        task=task.name,
        metric=task.metric,
        value=figure(items) if test else result.dev,
        higher_is_better=task.higher_is_better,
        n=len(items) if test else corpus.statistics[names[1]]["utterances"],
        interval=bootstrap_interval(items) if test else None,
        split=names[2] if test else names[1],
        seed=seed,
        protocol=config.protocol,
        learning_rate=result.learning_rate,
        alpha=candidate.alpha,
        details=details,
    )


def _rates(items: Sequence[Item]) -> dict[str, float]:
    """Return insertions, deletions and substitutions in percent, and the mean blank ratio."""
    if not items or not items[0].counts:
        return {}
    total = sum(item.total for item in items)
    rates = {
        name: round(100 * sum(item.counts[name] for item in items) / total, 2)
        for name in ("substitutions", "insertions", "deletions")
    }
    blanks = sum(item.counts["blank_ratio"] for item in items) / len(items)
    return {**rates, "blank_ratio": round(blanks, 4)}


def _write_predictions(path: Path, items: Sequence[Item]) -> None:
    with atomic_write(path) as file:
        for item in items:
            file.write((json.dumps(asdict(item), ensure_ascii=False) + "\n").encode())
