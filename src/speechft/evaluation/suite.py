"""Which tasks an evaluation has and on which corpus, and the evaluation of one encoder on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from speechft.commands import command
from speechft.data.losses import check_losses
from speechft.data.manifest import Corpus
from speechft.errors import ConfigError, DataError, unknown_choice
from speechft.evaluation.candidates import Candidate
from speechft.evaluation.config import LIMIT, EvaluationConfig
from speechft.evaluation.failures import Failures
from speechft.evaluation.jobs import EncoderJobs, evaluate_all
from speechft.evaluation.protocols import PROTOCOLS
from speechft.features.downsampler import DownsamplerCache
from speechft.results import ResultRow
from speechft.tasks import TASKS, find_task
from speechft.tasks.base import Task
from speechft.tasks.label import COLUMN

_REASONS = 5
"""Of what a corpus lacks, so many are told."""


def check_names(config: EvaluationConfig, names: Sequence[str] | None = None) -> list[Task]:
    """Return the tasks that are asked for by name; to be called before a corpus is prepared.

    Args:
        config: Tasks and protocol.
        names: Of the tasks, where corpora are given by task.

    Raises:
        ConfigError: Unknown task or protocol, no task at all, or a language model without ASR.
    """
    if config.protocol not in PROTOCOLS:
        raise unknown_choice("protocol", config.protocol, PROTOCOLS)
    if names is None and config.tasks == "available":
        return []
    named = config.tasks if names is None else names
    tasks = [find_task(name) for name in dict.fromkeys(named)]
    if not tasks:
        raise ConfigError("no task to evaluate", hint=f"choose from: {', '.join(TASKS)}")
    if config.language_model is not None and not any(t.takes_language_model for t in tasks):
        raise ConfigError(
            f"language model {config.language_model} is for task asr, which is not among the "
            f"tasks: {', '.join(named)}",
            hint="add asr to the tasks, or leave the language model out",
        )
    return tasks


def assign_tasks(
    config: EvaluationConfig, corpora: Sequence[Corpus]
) -> tuple[list[Task], dict[str, Corpus]]:
    """Return the tasks to evaluate, and by name the corpus of each.

    It is the first that supports the task and has splits or folds of its own for it, such as the
    verification lists of VoxCeleb1, else the first that supports it.

    Raises:
        ConfigError: Unknown task or protocol, or no task at all.
        DataError: A task was asked for by name and no corpus supports it, or a corpus lost too much
            when it was prepared.
    """
    named = check_names(config)
    chosen: dict[str, Corpus] = {}
    for corpus in corpora:
        for task in {**TASKS, **{task.name: task for task in named}}.values():
            if not task.supported_by(corpus, config.left_out_limit):
                continue
            best = chosen.setdefault(task.name, corpus)
            if _names_task(corpus, task) and not _names_task(best, task):
                chosen[task.name] = corpus
    if config.tasks == "available" or len(corpora) == 1:
        tasks = choose_tasks(config, corpora[0]) if len(corpora) == 1 else []
        tasks = tasks or [task for task in TASKS.values() if task.name in chosen]
    else:
        tasks = named
    if not tasks:
        raise _no_task(corpora, config.left_out_limit)
    for task in tasks:
        if task.name not in chosen:
            reasons = "; ".join(
                f"{corpus.name}: {task.lacks(corpus, config.left_out_limit)}" for corpus in corpora
            )
            raise DataError(
                f"no corpus can be used for task {task.name}: {reasons}",
                hint=f"tasks that they support: {', '.join(chosen) or 'none'}",
            )
        _check_whole(task, chosen[task.name], config)
    return tasks, chosen


def tasks_of(config: EvaluationConfig, corpora: Mapping[str, Corpus]) -> list[Task]:
    """Return the tasks to evaluate, each on the corpus of its name.

    Raises:
        ConfigError: Unknown task or protocol, or no task at all.
        DataError: A corpus does not support its task, or lost too much when it was prepared.
    """
    check_names(config, tuple(corpora))
    tasks = []
    for name, corpus in corpora.items():
        alone = config.model_copy(update={"tasks": (name,), "language_model": None})
        tasks += choose_tasks(alone, corpus)
        _check_whole(tasks[-1], corpus, config)
    return tasks


def _check_whole(task: Task, corpus: Corpus, config: EvaluationConfig) -> None:
    """Refuse a corpus that lost too much of what a task reads, under any protocol."""
    read = dict.fromkeys(name for fold in task.folds(corpus) for name in fold)
    check_losses(corpus, [n for n in read if n not in corpus.closed], config.max_left_out, LIMIT)


def _names_task(corpus: Corpus, task: Task) -> bool:
    return any(task.name in corpus.info.get(key, ()) for key in ("task_splits", "folds"))


def choose_tasks(config: EvaluationConfig, corpus: Corpus) -> list[Task]:
    """Return the tasks to evaluate.

    Raises:
        ConfigError: Unknown task or protocol, or no task at all.
        DataError: A task was asked for by name and the corpus does not support it.
    """
    tasks = check_names(config)
    limit = config.left_out_limit
    available = [task for task in TASKS.values() if task.supported_by(corpus, limit)]
    if config.tasks == "available":
        if not available:
            raise _no_task([corpus], limit)
        return available
    for task in tasks:
        task.require(corpus, [other.name for other in available], limit)
    return tasks


def _no_task(corpora: Sequence[Corpus], limit: float) -> DataError:
    """Return what says what corpora lack for the tasks that they come closest to."""
    told, by_name = [], []
    for corpus in corpora:
        lacking: dict[str, list[str]] = {}
        for task in _closest(corpus):
            if reason := task.lacks(corpus, limit):
                lacking.setdefault(reason, []).append(task.name)
            else:
                by_name.append(task.name)
        reasons = [f"for {', '.join(names)}, {why}" for why, names in lacking.items()]
        more = ["..."] if len(reasons) > _REASONS else []
        listed = "; ".join([*reasons[:_REASONS], *more]) or "its utterances have no labels"
        told.append(f"corpus {corpus.name} supports no task: {listed}")
    if by_name:
        hint = f"some are taken only where they are named: --tasks {','.join(by_name)}"
    else:
        drawn = command("prepare", "generic", "TABLE", set_="draw=recordings", out="DIR")
        hint = (
            "a task needs its label (text, phones, speaker, label) in train, dev and test, and its "
            f"classes in train; a dev or test that a table lacks is drawn by {drawn}"
        )
    return DataError("\n".join(told), hint=hint)


def _closest(corpus: Corpus) -> list[Task]:
    """Return the tasks whose label a corpus has somewhere, those of single columns last."""
    kinds = {kind for values in corpus.statistics.values() for kind in values["labels"]}
    known = [task for task in TASKS.values() if task.label in kinds]
    others = kinds - {task.label for task in TASKS.values()} - {"words"}
    return [*known, *(find_task(f"{COLUMN}{kind}") for kind in sorted(others))]


def evaluate_encoder(
    candidate: Candidate,
    tasks: Sequence[Task],
    corpus: Corpus | Mapping[str, Corpus],
    config: EvaluationConfig,
    out: Path,
    *,
    seed: int,
    test: bool = True,
    cache: DownsamplerCache | None = None,
    failures: Failures | None = None,
) -> list[ResultRow]:
    """Evaluate one frozen encoder; what ``out`` holds already is skipped.

    A task that fails, for its data or because its training diverged, does not keep the others from
    being evaluated.

    Each task has a folder of its own, see `Identity.folder`, with ``results.jsonl``, the scored
    items ``predictions-seed<seed>.jsonl`` sorted by id, and the trained ``probe/``.

    Args:
        candidate: What to evaluate.
        tasks: On what.
        corpus: Where; one for all, or by task.
        config: How.
        out: Folder of the results.
        seed: First seed of the probes.
        test: Report the test split; otherwise the dev split that the probe was chosen on.
        cache: Downsampler outputs shared between encoders.
        failures: Is told what failed; None raises it when all the rest is done.

    Returns:
        A row for each task, figure and seed, as they stand in ``out/results.jsonl``.

    Raises:
        DataError: Some of it failed, see `Failures.raise_any`, and ``failures`` is None.
        TrainingError: The same, of trainings alone.
    """
    corpora = {t.name: corpus if isinstance(corpus, Corpus) else corpus[t.name] for t in tasks}
    held = Failures() if failures is None else failures
    work = EncoderJobs(candidate, tasks, corpora, config, out, seed=seed, test=test, cache=cache)
    [(rows, errors)] = evaluate_all([work], out)
    held.add(candidate.name, errors)
    if failures is None:
        held.raise_any(out)
    return rows
