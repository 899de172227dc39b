"""The evaluations of one encoder: one pass over the audio of all its tasks, then their probes."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from speechft.console import log, warn
from speechft.data.kept_cuts import Cuts
from speechft.data.manifest import Corpus
from speechft.devices import pick_device, resolve_precision
from speechft.errors import DataError, SpeechftError, TrainingError
from speechft.evaluation.candidates import Candidate, save_candidate
from speechft.evaluation.config import EvaluationConfig
from speechft.evaluation.identity import encoder_folder, slug
from speechft.evaluation.shared_pass import SharedPass, frame_room
from speechft.evaluation.task_evaluation import TaskEvaluation
from speechft.features.cache import FrameCache, PooledCache
from speechft.features.downsampler import DownsamplerCache
from speechft.features.extract import extract
from speechft.features.keeping import Features, Storage
from speechft.parallel.claims import Claim, Workers
from speechft.parallel.sharing import Unit, share
from speechft.results import ResultRow
from speechft.storage.files import json_digest
from speechft.storage.scratch import Names, scratch_in
from speechft.tasks.base import Task


def evaluate_all(
    jobs: Sequence[EncoderJobs],
    out: Path,
    workers: Workers | None = None,
    part_of: Claim | None = None,
) -> list[tuple[list[ResultRow], dict[str, SpeechftError]]]:
    """Do evaluations, with whoever else works in the folder; one encoder is held at a time.

    Args:
        jobs: The evaluations of each encoder.
        out: Folder of the results.
        workers: The processes that share them; None where this one is alone.
        part_of: The claim that this process works under, where it is alone.

    Returns:
        Of each encoder its rows, and by task what failed.
    """

    def begin() -> None:
        for one in jobs:
            one.release(workers)

    with scratch_in(out):
        units = [unit for one in jobs for unit in one.units(workers, begin)]
        failed = share(units, workers, part_of=part_of)
        begin()
    found = []
    for one in jobs:
        errors = {task: failed[one.unit(task)] for task in one.jobs if one.unit(task) in failed}
        found.append((one.rows(errors), errors))
    return found


class EncoderJobs:
    """The evaluations of one frozen encoder on several tasks, as units of work.

    What is heavy, the encoder and its features, is there from the first one that is run until
    `release`.

    Args:
        candidate: What to evaluate.
        tasks: On what.
        corpora: Where, by task.
        config: How.
        out: Folder of the results.
        seed: First seed of the probes.
        test: Report the test split; otherwise the dev split that the probe was chosen on.
        cache: Downsampler outputs shared between encoders.
    """

    def __init__(
        self,
        candidate: Candidate,
        tasks: Sequence[Task],
        corpora: Mapping[str, Corpus],
        config: EvaluationConfig,
        out: Path,
        *,
        seed: int,
        test: bool = True,
        cache: DownsamplerCache | None = None,
    ) -> None:
        self.candidate, self.digest = candidate, candidate.digest()
        if not candidate.resumes:
            config = config.model_copy(update={"cache": None})
            log(f"{candidate.name} has no digest, or no state_dict and source: it is measured anew")
        self._config, self._out, self._cache = config, out, cache
        self._load = functools.cache(functools.partial(candidate.load, config.mode))
        self.folder = encoder_folder(out, candidate.name, self.digest)
        about = (candidate, self.digest)
        self.jobs = {
            t.name: TaskEvaluation(*about, t, corpora[t.name], config, out, seed, test, self._load)
            for t in tasks
        }
        self._passes: dict[str, SharedPass] = {}
        for job in self.jobs.values():
            if (corpus := job.corpus.digest) not in self._passes:
                made_by = json_digest([self._made_by(), pick_device().type, corpus])[:16]
                name = f"features/{self.folder.name}/{made_by}"
                self._passes[corpus] = SharedPass(name, out, config, self._encode)
        self._begun = False
        self._wrong: dict[str, SpeechftError] = {}

    def units(
        self, workers: Workers | None = None, begin: Callable[[], None] = lambda: None
    ) -> list[Unit]:
        """Return the evaluations, in the order of the tasks.

        Args:
            workers: The processes that share them; None where this one is alone.
            begin: Called before the encoder is loaded.
        """

        def ready(task: str) -> bool:
            return workers is None or self._pass_of(task).ready(workers)

        def ask(task: str) -> None:
            if workers is not None:
                self._pass_of(task).ask(workers)

        def run(task: str, claim: Claim | None) -> None:
            try:
                if not self._begun:
                    begin()
                    if workers is not None:  # before what takes seconds
                        self._pass_of(task).reserve(workers)
                    self._begin()
                self._run(task, claim, workers)
            except (DataError, TrainingError) as error:
                warn(f"{task} of {self.candidate.name} failed, going on: {error.message}")
                raise

        return [
            Unit(
                self.unit(task),
                functools.partial(self._done, task),
                functools.partial(run, task),
                functools.partial(ready, task),
                ask=functools.partial(ask, task),
            )
            for task in self.jobs
        ]

    def unit(self, task: str) -> str:
        """Return the name of a task's evaluation as a unit: its folder, where it has one."""
        try:
            place = self.jobs[task].folder
        except (DataError, TrainingError):  # which running it tells
            place = self.folder / slug(task)
        return str(place.relative_to(self._out))

    def release(self, workers: Workers | None = None) -> None:
        """Forget the encoder and its features."""
        for one in self._passes.values():
            one.release(workers)
        self._load.cache_clear()
        self._begun, self._wrong = False, {}

    def rows(self, failed: Collection[str]) -> list[ResultRow]:
        """Return the rows of all tasks but those that failed, as they stand in ``results.jsonl``.

        Writes where the encoder lies now.
        """
        done = [job for task, job in self.jobs.items() if task not in failed]
        if done:
            save_candidate(self.folder, self.candidate, self.digest)
        return [row for job in done for row in job.rows()]

    def _done(self, task: str) -> bool:
        try:
            return self.jobs[task].done()
        except (DataError, TrainingError):  # which running it tells
            return False

    def _pass_of(self, task: str) -> SharedPass:
        return self._passes[self.jobs[task].corpus.digest]

    def _begin(self) -> None:
        """Find out, before the encoder runs, which of the evaluations can be done."""
        self._begun = True
        for task, job in self.jobs.items():
            fresh = replace(job)  # so that what it finds is gone with it
            try:
                if fresh.done():
                    continue
                fresh.check()
            except (DataError, TrainingError) as error:
                self._wrong[task] = error
            else:
                self._pass_of(task).jobs.append(fresh)

    def _run(self, task: str, claim: Claim | None, workers: Workers | None) -> None:
        if task in self._wrong:
            raise self._wrong[task]
        shared = self._pass_of(task)
        [job] = [job for job in shared.jobs if job.named_task.name == task]
        job.run(shared.features(job, workers), claim)

    def _encode(self, jobs: Sequence[TaskEvaluation], storage: Storage | None) -> Features:
        """Run the encoder once over the union of all splits of tasks on the same corpus."""
        cuts = Cuts.different(job.cuts() for job in jobs)
        framed, often = Names(), Names()
        for job in (job for job in jobs if job.task.level == "frame"):
            tested = job.tested_only()
            for cut in job.cuts():
                framed.add(cut.id)
                if cut.id not in tested:
                    often.add(cut.id)
        return extract(
            self._load(),
            cuts,
            frames=framed,
            rare=Names(name for name in framed if name not in often),
            device=pick_device(),
            precision=self._config.precision,
            cache=self._cache,
            storage=storage or self._storage(),
            description=f"features of {self.candidate.name}",
        )

    def _made_by(self) -> str:
        """Return what features depend on beside the audio, as text."""
        precision = resolve_precision(self._config.precision, pick_device())
        mode = "" if self._config.mode == "exact" else f" {self._config.mode}"
        return f"{self.digest} {precision}{mode}"

    def _storage(self) -> Storage:
        config = self._config
        room = frame_room(config)
        if config.cache is None:
            return Storage(room=room)
        key = hashlib.sha256(self._made_by().encode()).hexdigest()[:24]
        place = Path(config.cache).expanduser() / key
        quota = int(config.frame_cache_gb * 1e9)
        frames = FrameCache(place, quota, config.frame_codec) if quota else None
        return Storage(PooledCache(place), frames, room)
