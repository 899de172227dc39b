"""One task of one encoder's evaluation: its splits, its probes, its rows and predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechft.console import log
from speechft.data.kept_cuts import Cuts
from speechft.data.labels import label_of
from speechft.data.manifest import Corpus
from speechft.devices import pick_device, resolve_precision
from speechft.errors import DataError
from speechft.evaluation.config import LIMIT, ProbeConfig
from speechft.evaluation.crops import cropped, write_crops
from speechft.evaluation.identity import Identity
from speechft.evaluation.limit import limited
from speechft.evaluation.pipelines import save_pipeline
from speechft.evaluation.probe import ProbeResult, probe_seeds
from speechft.evaluation.protocols import settings_of
from speechft.evaluation.query_by_example import detect
from speechft.evaluation.task_rows import TaskRows
from speechft.features.extract import count_frames
from speechft.features.keeping import Features
from speechft.features.layers import pick_layers
from speechft.parallel.claims import Claim
from speechft.results import ResultRow, of_all_layers, read_rows, write_rows
from speechft.runs import is_done, stage
from speechft.storage.files import file_digest, json_digest
from speechft.storage.locks import waiting
from speechft.storage.scratch import Names
from speechft.tasks.base import Split, Task
from speechft.tasks.left_out import LeftOut, usable_splits
from speechft.tasks.word_search import LanguageModel

if TYPE_CHECKING:
    from lhotse.cut import Cut

    from speechft.encoders.base import Encoder
    from speechft.evaluation.candidates import Candidate
    from speechft.evaluation.config import EvaluationConfig


APART = frozenset(
    ("tasks", "floors", "cache", "frame_cache_gb", "frame_memory_gb", "max_left_out")
) | {"seeds", "protocol", "precision", "frame_codec", "language_model", "beam_search"}
"""Keys of the configuration that decide no figure, or that the identity resolves by itself; any
other key that differs from its default is part of the identity."""


@dataclass(frozen=True)
class Fold:
    """The splits that one probe is trained, chosen and tested on."""

    names: tuple[str, str, str]
    train: Split
    dev: Split
    test: Split
    contexts: tuple[Any, Any]


@dataclass(frozen=True)
class TaskEvaluation:
    """The evaluation of one encoder on one task, in the folder of its identity below ``out``."""

    candidate: Candidate
    digest: str
    named_task: Task
    corpus: Corpus
    config: EvaluationConfig
    out: Path
    seed: int
    test: bool
    encoder: Callable[[], Encoder]
    """Loads the encoder, once."""

    @cached_property
    def identity(self) -> Identity:
        """Return what is measured, of which encoder, how."""
        task, config = self.task, self.config
        splits = [list(names if self.test else names[:2]) for names in task.folds(self.corpus)]
        manifests = {split: self.corpus.split_digest(split) for names in splits for split in names}
        manifests |= {
            f"{key} {name}": value for key in task.lists for name, value in self._list(key)
        }
        resolved: dict[str, Any] = {
            "protocol": config.protocol,
            "probe": self.settings.as_dict(),
            "splits": splits,
            "precision": resolve_precision(config.precision, pick_device()),
        }
        resolved |= self._changed
        if self.codec is not None:
            resolved["frame_codec"] = self.codec
        if task.language_model is not None:
            resolved["beam_search"] = config.beam_search.as_dict()
            manifests["language model"] = file_digest(task.language_model.file)
        return Identity(self.digest, task.name, manifests, resolved, tuple(self.seeds))

    @cached_property
    def _changed(self) -> dict[str, Any]:
        """Return what of the configuration differs from the defaults and may change figures."""
        changed = self.config.model_dump(mode="json", exclude_defaults=True)
        return {key: value for key, value in changed.items() if key not in APART}

    @property
    def told_settings(self) -> dict[str, str]:
        """Return in words what tells this evaluation from others of the corpus and protocol.

        Single layers have rows of their own, and change nothing in those of all.
        """
        told = {key: str(value) for key, value in self._changed.items() if key != "layers"}
        if self.task.language_model is not None:
            told["language model"] = Path(str(self.config.language_model)).name
            search = self.config.beam_search.model_dump(exclude_defaults=True)
            told |= {key.replace("_", " "): str(value) for key, value in search.items()}
        return told

    @cached_property
    def folder(self) -> Path:
        """Return where the results of this task go."""
        return self.identity.folder(self.out, self.candidate.name)

    @cached_property
    def task(self) -> Task:
        """Return the task as the protocol wants it."""
        task = self.named_task.variant(self.config.protocol)
        if self.config.language_model is None or not task.takes_language_model:
            return task
        file = Path(self.config.language_model).expanduser()
        return task.with_language_model(LanguageModel(file, **self.config.beam_search.as_dict()))

    @cached_property
    def timed_task(self) -> Task:
        """Return the task for the encoder's frames; loads the encoder."""
        return self.task.at(self.encoder().timing)

    @cached_property
    def settings(self) -> ProbeConfig:
        """Return how its probes are trained."""
        return settings_of(self.config.protocol, self.task)

    @cached_property
    def seeds(self) -> list[int]:
        """Return the seeds of its probes."""
        return [self.seed + number for number in range(self.config.seeds)]

    @cached_property
    def folds(self) -> list[Fold]:
        """Return the splits, one for each fold.

        Raises:
            DataError: Too much of a split cannot be used, or too many trials have no audio.
        """
        folds = []
        for number, names in enumerate(self.task.folds(self.corpus)):
            with self._naming_fold(number, names):
                folds.append(self._fold(names))
        if self.left_out is not None:
            self.left_out.report()
        return folds

    @cached_property
    def left_out(self) -> LeftOut | None:
        """Return what is left out of the splits; None where the protocol leaves out nothing."""
        if self.config.protocol == "s3prl":
            return None
        return self._left_out(self.config.max_left_out)

    def left_out_counts(self) -> dict[str, int]:
        """Return how many items of its splits are missing from the figures, by reason."""
        return (self.left_out or self._left_out(0.0)).counts()

    def _left_out(self, limit: float) -> LeftOut:
        folds = self.task.folds(self.corpus)
        read = dict.fromkeys(n for names in folds for n in (names if self.test else names[:2]))
        return LeftOut(self.task.name, limit, LIMIT, self.corpus, read)

    def check(self) -> None:
        """Find out, without running the encoder, whether the task can be evaluated.

        Raises:
            DataError: Too much of a split cannot be used.
            ConfigError: The encoder lacks a layer that was asked for.
        """
        self.folds  # noqa: B018 - refuses splits of which too much is left out
        self.layers  # noqa: B018 - refuses layers that there are not

    @cached_property
    def layers(self) -> list[int]:
        """Return the hidden states that get probes of their own; loads the encoder."""
        asked = self.config.layers
        return [] if asked is None else pick_layers(asked, self.encoder().num_layers)

    def cuts(self) -> Iterator[Cut]:
        """Yield every cut that is needed, some of them more than once."""
        return (cut for r in self.folds for part in (r.train, r.dev, r.test) for cut in part)

    def tested_only(self) -> Names:
        """Return the ids of the cuts that no probe is trained or chosen on."""
        if not self.task.trained:
            return Names()
        used = Names(i for r in self.folds for part in (r.train, r.dev) for i in Cuts.of(part).ids)
        tested = (i for r in self.folds for i in Cuts.of(r.test).ids)
        return Names(name for name in tested if name not in used)

    def done(self) -> bool:
        """Return whether the folder holds exactly this evaluation."""
        return is_done(self.folder, **self.identity.stage())

    def run(self, features: Features, claim: Claim | None = None) -> None:
        """Train, choose and test the probes, and write what they do.

        Args:
            features: Of all cuts.
            claim: That this process works under; asked before anything is published.

        Raises:
            RunError: Another process has taken over.
        """
        over_sleeper = claim is not None and claim.over_sleeper
        job = {**self.identity.stage(), "over_sleeper": over_sleeper}
        with waiting(), stage(self.folder, **job) as work:
            if work.done:
                return
            by_fold = [self._probe(features, number) for number in range(len(self.folds))]
            task_rows = TaskRows(self)
            rows = task_rows.write(work.scratch, by_fold, None)
            for layer in self.layers:
                alone = [[result.layers[layer] for result in results] for results in by_fold]
                rows += task_rows.write(work.scratch, alone, layer)
            self._save(work.scratch, by_fold)
            if self.left_out is not None:
                self.left_out.write(work.scratch / "left_out.jsonl")
            write_rows(work.scratch / "results.jsonl", rows)
            if claim is not None:
                claim.check()
        figures = ", ".join(f"{row.metric} {row.value:.4g}" for row in of_all_layers(rows))
        log(f"{self.candidate.name}, {self.task.name}: {figures}")

    def rows(self) -> list[ResultRow]:
        """Return the finished rows as they stand below ``out``, under the candidate's name.

        Raises:
            DataError: The evaluation has not been run.
        """
        place, settings = self.folder.relative_to(self.out), self.told_settings
        return [
            row.model_copy(
                update={
                    **self.candidate.label(),
                    "predictions": str(place / str(row.predictions)),
                    "details": {**row.details, **({"settings": settings} if settings else {})},
                }
            )
            for row in read_rows(self.folder / "results.jsonl")
        ]

    def _list(self, key: str) -> list[tuple[str, str]]:
        """Return name and digest of the files that the corpus names under a key, such as trials."""
        named = self.corpus.info.get(key)
        files = named.values() if isinstance(named, dict) else [] if named is None else [named]
        return [(str(file), json_digest(self.corpus.read_text(str(file)))) for file in files]

    @property
    def codec(self) -> str | None:
        """Return how the frames that probes see are rounded, where they may lie on disk."""
        kept = self.config.cache is not None and self.config.frame_cache_gb > 0
        return self.config.frame_codec if kept and self.task.level == "frame" else None

    def _fold(self, names: tuple[str, str, str]) -> Fold:
        task, config = self.task, self.settings
        read = names if self.test else names[:2]  # test stays unread where it is not reported
        parts: list[Split] = [*(self.corpus.cuts(name) for name in read), []]
        train, dev, test = parts[:3]
        left_out = self.left_out
        listed = left_out or self._left_out(0.0)
        if self.config.limit is not None:
            every = train, dev, test
            train, dev, test = limited(every, self.config.limit, self._balanced)
            for name, before, kept in zip(names, every, (train, dev, test), strict=True):
                listed.pass_over(name, {cut.id for cut in before} - {cut.id for cut in kept})

        def divide(train: Split, dev: Split) -> tuple[Split, Split]:
            train, dev = task.split_off_dev(train, dev, names)
            return task.expand(train), dev

        if left_out is None:
            train, dev = divide(train, dev)
        else:
            frames = partial(count_frames, self.encoder())
            splits = (train, dev, test)
            (train, dev, test), _ = usable_splits(
                self.timed_task, names, splits, frames, left_out, divide=divide
            )
        contexts = (
            task.context(self.corpus, names[1] if names[1] != names[2] else "", dev, listed),
            task.context(self.corpus, names[2], test, listed) if test else None,
        )
        train = cropped(task, train, config.crop_seconds, config.crops, self.seed)
        if config.crop_dev:
            dev, test = (cropped(task, c, config.crop_seconds, 1, self.seed) for c in (dev, test))
        return Fold(names, train, dev, test, contexts)

    def _balanced(self, cut: Cut) -> str | None:
        """Return what a limited split has equally often: the classes of a label, else speakers."""
        own = None if self.task.level == "frame" else label_of(cut, self.task.label)
        return own or label_of(cut, "speaker")

    def _probe(self, features: Features, number: int) -> list[ProbeResult]:
        task, r = self.task, self.folds[number]
        if not task.trained:
            return [detect(task, features, r.train, r.dev, r.test, r.contexts, self.layers)]
        device = pick_device()
        with self._naming_fold(number, r.names):
            return probe_seeds(
                self.timed_task,
                features,
                r.train,
                r.dev,
                r.test,
                self.settings,
                self.seeds,
                r.contexts,
                None if device.type == "cpu" else device,
                self.layers,
            )

    @contextmanager
    def _naming_fold(self, number: int, names: Sequence[str]) -> Iterator[None]:
        """Say in errors which of several folds they are about."""
        try:
            yield
        except DataError as error:
            if len(self.task.folds(self.corpus)) > 1:
                error.message = f"fold {number + 1} ({', '.join(names)}): {error.message}"
            raise

    def _save(self, scratch: Path, by_fold: Sequence[Sequence[ProbeResult]]) -> None:
        """Keep the probes of the first seed; those of further folds beside that of the first."""
        write_crops(scratch / "crops.jsonl", self.cuts())
        if not self.task.trained:
            return
        for number, results in enumerate(by_fold):
            save_pipeline(
                scratch / (f"probe-fold{number + 1}" if number else "probe"),
                results[0],
                self.task,
                self.settings,
                protocol=self.config.protocol,
                candidate=self.candidate,
                digest=self.digest,
                evaluation=self.config,
            )
