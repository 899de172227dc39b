"""Evaluate frozen encoders on several tasks: one extraction each, then every task's probes."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from speechft.console import log, warn
from speechft.data.manifest import Corpus
from speechft.devices import pick_device, resolve_precision
from speechft.encoders.base import Encoder
from speechft.errors import ConfigError, DataError, unknown_choice
from speechft.evaluation.candidates import Candidate, save_candidate
from speechft.evaluation.config import EvaluationConfig
from speechft.evaluation.failures import Failures
from speechft.evaluation.identity import encoder_folder
from speechft.evaluation.protocols import PROTOCOLS
from speechft.evaluation.task_evaluation import TaskEvaluation
from speechft.features.cache import FrameCache, PooledCache
from speechft.features.extract import DownsamplerCache, Features, Storage, extract
from speechft.results import ResultRow
from speechft.tasks import TASKS, find_task
from speechft.tasks.base import Task


def assign_tasks(
    config: EvaluationConfig, corpora: Sequence[Corpus]
) -> tuple[list[Task], dict[str, Corpus]]:
    """Return the tasks to evaluate, and by name the corpus of each.

    It is the first that supports the task and has splits or folds of its own for it, such as the
    verification lists of VoxCeleb1, else the first that supports it.

    Raises:
        ConfigError: Unknown task or protocol, or no task at all.
        DataError: A task was asked for by name and no corpus supports it.
    """
    if config.protocol not in PROTOCOLS:
        raise unknown_choice("protocol", config.protocol, PROTOCOLS)
    chosen: dict[str, Corpus] = {}
    named = [] if config.tasks == "available" else _named_tasks(config)
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
    for task in tasks:
        if task.name not in chosen:
            reasons = "; ".join(
                f"{corpus.name}: {task.lacks(corpus, config.left_out_limit)}" for corpus in corpora
            )
            raise DataError(
                f"no corpus can be used for task {task.name}: {reasons}",
                hint=f"tasks that they support: {', '.join(chosen) or 'none'}",
            )
    return tasks, chosen


def tasks_of(config: EvaluationConfig, corpora: Mapping[str, Corpus]) -> list[Task]:
    """Return the tasks to evaluate, each on the corpus of its name.

    Raises:
        ConfigError: Unknown task or protocol, or no task at all.
        DataError: A corpus does not support its task.
    """
    _named_tasks(config.model_copy(update={"tasks": tuple(corpora)}))
    return [
        task
        for name, corpus in corpora.items()
        for task in choose_tasks(
            config.model_copy(update={"tasks": (name,), "language_model": None}), corpus
        )
    ]


def _names_task(corpus: Corpus, task: Task) -> bool:
    return any(task.name in corpus.info.get(key, ()) for key in ("task_splits", "folds"))


def choose_tasks(config: EvaluationConfig, corpus: Corpus) -> list[Task]:
    """Return the tasks to evaluate.

    Raises:
        ConfigError: Unknown task or protocol, or no task at all.
        DataError: A task was asked for by name and the corpus does not support it.
    """
    if config.protocol not in PROTOCOLS:
        raise unknown_choice("protocol", config.protocol, PROTOCOLS)
    limit = config.left_out_limit
    available = [task for task in TASKS.values() if task.supported_by(corpus, limit)]
    if config.tasks == "available":
        if not available:
            raise DataError(
                f"corpus {corpus.name} supports no task",
                hint="give it a train, dev and test split with text, phones, speaker or label",
            )
        return available
    tasks = _named_tasks(config)
    for task in tasks:
        task.require(corpus, [other.name for other in available], limit)
    return tasks


def _named_tasks(config: EvaluationConfig) -> list[Task]:
    """Return the tasks that are asked for by name."""
    tasks = [find_task(name) for name in dict.fromkeys(config.tasks)]
    if not tasks:
        raise ConfigError("no task to evaluate", hint=f"choose from: {', '.join(TASKS)}")
    if config.language_model is not None and not any(t.takes_language_model for t in tasks):
        raise ConfigError(
            f"language model {config.language_model} is for task asr, which is not among the "
            f"tasks: {', '.join(config.tasks)}",
            hint="add asr to the tasks, or leave the language model out",
        )
    return tasks


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
    digest = candidate.digest()
    if not candidate.resumes:
        config = config.model_copy(update={"cache": None})
        log(f"{candidate.name} has no digest, or no state_dict and source: it is measured anew")
    held = Failures() if failures is None else failures
    load = functools.cache(functools.partial(candidate.load, config.mode))
    pending: list[TaskEvaluation] = []
    finished: list[TaskEvaluation] = []
    for task in tasks:
        job = TaskEvaluation(
            candidate, digest, task, corpora[task.name], config, out, seed, test, load
        )
        with held.held(candidate.name, [task.name]):
            if not job.done():
                job.check()  # what cannot be done is known before the encoder runs
                pending.append(job)
            finished.append(job)
    for place in dict.fromkeys(job.corpus.place for job in pending):
        group = [job for job in pending if job.corpus.place == place]
        encode = functools.partial(_extract, load(), candidate.name, digest, config, cache)
        shared = _shared(encode, group)
        for job in group:
            with held.held(candidate.name, [job.task.name]):
                job.run(encode([job]) if shared is None else shared)
    if finished:
        save_candidate(encoder_folder(out, candidate.name, digest), candidate, digest)
    done = [job for job in finished if not held.has(candidate.name, job.task.name)]
    rows = [row for job in done for row in job.rows()]
    if failures is None:
        held.raise_any(out)
    return rows


def _shared(
    encode: Callable[[Sequence[TaskEvaluation]], Features], jobs: Sequence[TaskEvaluation]
) -> Features | None:
    """Return features that all tasks share; None where a recording that cannot be read forbids it.

    Then each task has its own, so that only those fail whose recording it is.
    """
    if len(jobs) == 1:
        return None
    try:
        return encode(jobs)
    except DataError as error:
        warn(f"going on with one task at a time: {error.message}")
        return None


def _extract(
    encoder: Encoder,
    name: str,
    digest: str,
    config: EvaluationConfig,
    cache: DownsamplerCache | None,
    jobs: Sequence[TaskEvaluation],
) -> Features:
    """Run the encoder once over the union of all splits of tasks on the same corpus."""
    cuts = {cut.id: cut for job in jobs for cut in job.cuts()}
    framed = frozenset(cut.id for job in jobs if job.task.level == "frame" for cut in job.cuts())
    return extract(
        encoder,
        cuts.values(),
        frames=framed,
        device=pick_device(),
        precision=config.precision,
        cache=cache,
        storage=_storage(digest, config),
        description=f"features of {name}",
    )


def _storage(digest: str, config: EvaluationConfig) -> Storage:
    memory = int(config.frame_memory_gb * 1e9)
    if config.cache is None:
        return Storage(memory=memory)
    precision = resolve_precision(config.precision, pick_device())
    mode = "" if config.mode == "exact" else f" {config.mode}"
    key = hashlib.sha256(f"{digest} {precision}{mode}".encode()).hexdigest()[:24]
    place = Path(config.cache).expanduser() / key
    quota = int(config.frame_cache_gb * 1e9)
    frames = FrameCache(place, quota, config.frame_codec) if quota else None
    return Storage(PooledCache(place), frames, memory)
