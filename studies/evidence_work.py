"""How a unit of the evidence is measured: tune, merge, probe, look at the features."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cells import CELLS, find_cell
from evidence_units import (
    ALPHA,
    ARMS,
    EARLY,
    PATH,
    PROBES,
    ROWS,
    SHORT_PATH,
    STUDY,
    UPDATES,
    WEAKER,
    ArmConfig,
    Unit,
    changes_of,
    recipe_of,
)
from rows import Rows, packed

from speechft.analysis.analyze import analysis_rows
from speechft.analysis.settings import Settings
from speechft.compositions import Composer
from speechft.config import build
from speechft.data.corpora import find_corpus
from speechft.data.manifest import Corpus
from speechft.evaluation.candidates import Candidate
from speechft.evaluation.predictions import dev_file, read_items
from speechft.evaluation.suite import choose_tasks, evaluate_encoder
from speechft.features.downsampler import DownsamplerCache
from speechft.results import ResultRow
from speechft.storage.files import write_json
from speechft.sweeping.settings import SweepSettings
from speechft.sweeping.suggestion import suggest
from speechft.tasks.measures import Item

SIMILARITY = Settings(measures=("similarity", "weights", "speaker"), split="test-unseen", limit=400)


@dataclass
class Work:
    """Measures units in one folder.

    Args:
        out: For encoders and evaluations; tuned encoders are kept and found again.
        processor: What computes, put on every row.
    """

    out: Path
    processor: str
    _corpora: dict[str, Corpus] = field(default_factory=dict)
    _cache: tuple[int, DownsamplerCache] = field(default_factory=lambda: (0, DownsamplerCache()))

    def corpus(self, name: str) -> Corpus:
        """Open a corpus once: the study's, or a cell."""
        if name not in self._corpora:
            study = name == STUDY
            self._corpora[name] = (
                find_corpus("synthetic-study", self.out / "corpus") if study else find_cell(name)
            )
        return self._corpora[name]

    def measure(self, unit: Unit, base: str) -> Rows:
        """Return the rows of a unit, and leave nothing but tuned encoders behind."""
        place = self.out / "units" / unit.name
        job = Job(self, unit, base, place, self.cache(unit))
        rows: Rows = getattr(job, unit.kind)()
        shutil.rmtree(place, ignore_errors=True)
        return rows

    def cache(self, unit: Unit) -> DownsamplerCache:
        """Return where outputs of the CNN are kept: a lineage shares them, an arm has its own.

        What an arm or an earlier lineage left would only fill the memory.
        """
        if unit.kind == "arm":
            return DownsamplerCache()
        if self._cache[0] != unit.lineage:
            self._cache = unit.lineage, DownsamplerCache()
        return self._cache[1]


@dataclass
class Job:
    """One unit being measured; a method for each kind."""

    work: Work
    unit: Unit
    pretrained: str
    place: Path
    cache: DownsamplerCache

    def base(self) -> Rows:
        """The pre-trained encoder on the study, every hidden state alone too, and in the cells."""
        rows = self.probe("pre-trained", self.pretrained, 0.0, layers="all")
        for cell in CELLS:
            rows += self.probe("pre-trained", self.pretrained, 0.0, cell.name)
        return rows + self.features({0.0: Path(self.pretrained)})

    def path(self) -> Rows:
        """Stable tuning and its merges on the study."""
        return self.along(self.stable(), PATH)

    def weaker(self) -> Rows:
        """Whole stable runs of fewer updates."""
        rows: Rows = []
        for updates in WEAKER:
            found = self.stable(f"finetuning.steps={updates}")
            rows += self.along(found, (1.0,), updates=updates)
        return rows

    def stronger(self) -> Rows:
        """Stable runs of more updates and their merges."""
        updates = int(self.unit.variant)
        return self.along(self.stable(f"finetuning.steps={updates}"), PATH, updates=updates)

    def cells(self) -> Rows:
        """Stable tuning and its merge in the four cells."""
        return self.in_cells(self.stable())

    def home(self) -> Rows:
        """Tuned at home: stable and its merge in the four cells."""
        return self.in_cells(self.stable(corpus="tune-home"), tuned_in="home")

    def layers(self) -> Rows:
        """Stable tuning and its merge with probes on every hidden state alone."""
        found = self.stable()
        return [
            row
            for alpha in (ALPHA, 1.0)
            for row in self.probe("stable", found(alpha), alpha, layers="all")
        ]

    def arm(self) -> Rows:
        """An arm of H7 and its merges."""
        trains_cnn, head_only = ARMS[self.unit.variant]
        recipe = self.recipe()
        content = {**recipe.finetuning.as_dict(), "strategy": "plain-cnn"}
        content |= {"trains_cnn": trains_cnn, "head_only": head_only}
        composer = self.composer(recipe, f"arm-{self.unit.variant}", STUDY)
        config = build(ArmConfig, content, "arm of H7")
        tuned = composer.tune(config, self.pretrained, composer.folder / "finetuning" / "arm")
        return self.along(self.merges(tuned), SHORT_PATH)

    def rival(self) -> Rows:
        """Another method and its merges."""
        return self.along(self.stable(*changes_of(self.unit)), PATH)

    def attempt(self) -> Rows:
        """Further settings of another method, on dev alone."""
        return self.along(self.stable(*changes_of(self.unit)), SHORT_PATH, test=False)

    def early(self) -> Rows:
        """States on the way of the one stable run."""
        rows: Rows = []
        for share in EARLY:
            changes = ("finetuning.strategy=early-checkpoint", f"finetuning.early.share={share}")
            rows += self.along(self.stable(*changes), (1.0,), updates=round(share * UPDATES))
        return rows

    def suggest(self) -> Rows:
        """What ``sweep --suggest`` says of the stable encoder, without other tasks' labels."""
        settings = SweepSettings(base=self.pretrained, tuned=(self.stable()(1.0),))
        corpus = str(self.work.corpus(STUDY).folder)
        found = suggest(settings, corpus, self.place, precision="fp32").suggestion
        assert found is not None
        row = {"measure": "suggestion", "cell": STUDY, "processor": self.work.processor}
        return [row | {name: _rounded(value) for name, value in found.as_dict().items()}]

    def lines(self) -> Rows:
        """Merges of the stable encoder by LiNeS."""
        tuned = self.stable()(1.0)
        return self.along(self.merges(tuned, method="lines"), PATH)

    def other(self) -> Rows:
        """Tuned on a further task (Table I)."""
        return self.along(self.stable(), (ALPHA, 1.0))

    def several(self) -> Rows:
        """Tuned on phones and speakers, in one of four ways (Table III)."""
        way, base = self.unit.variant, self.pretrained
        tuned: Path | list[Path]
        if way == "joint":
            recipe = self.recipe("finetuning.task=null", "finetuning.tasks={pr: 1.0, sid: 1.0}")
            tuned = self.composer(recipe, "joint", STUDY).compose("stable").tuned
        else:
            tuned = [self.stable(task=task)(1.0) for task in ("pr", "sid")]
        if way == "sequence":
            assert isinstance(tuned, list)
            base = str(self.merges(tuned[0], place="first")(ALPHA))
            recipe = recipe_of(base, "sid", self.unit.seed)
            tuned = self.composer(recipe, "sequence", STUDY).compose("stable").tuned
        method = {"method": "ties", "density": 0.2} if way == "ties" else {}
        return self.along(self.merges(tuned, base, **method), (ALPHA, 1.0))

    def recipe(self, *changes: str, task: str = "") -> Any:
        """Return the recipe of the unit's seed, and task unless another is named."""
        task = task or self.unit.tuned_on.partition("+")[0]
        return recipe_of(self.pretrained, task, self.unit.seed, *changes)

    def composer(self, recipe: Any, place: str, corpus: str, task: str = "") -> Composer:
        """Return what tunes in a folder that all units of this lineage, task and seed share."""
        unit = self.unit
        name = f"lineage-{unit.lineage}-{task or unit.tuned_on}-{unit.seed}"
        folder = self.work.out / "tuned" / name / place
        return Composer(recipe, {"*": self.work.corpus(corpus)}, folder, self.cache)

    def stable(self, *changes: str, corpus: str = STUDY, task: str = "") -> Callable[[float], Path]:
        """Tune by the recipe with changes; return what gives the encoder at a coefficient."""
        recipe = self.recipe(*changes, task=task)
        words = [change.rpartition(".")[2].replace("=", "-") for change in changes]
        place = "_".join([corpus, *words])
        composer = self.composer(recipe, place, corpus, task)
        return self.merges(composer.compose(recipe.finetuning.strategy).tuned)

    def merges(
        self, tuned: Path | list[Path], base: str = "", *, place: str = "", **settings: Any
    ) -> Callable[[float], Path]:
        """Return what gives the encoder at a coefficient; merges lie in the unit's folder.

        Args:
            tuned: One encoder or several.
            base: Of the merge; the pre-trained encoder without.
            place: Folder below the unit's.
            settings: Of `speechft.merge`; with none, one encoder is its own merge at 1.
        """
        from speechft.merging import merge

        def at(alpha: float) -> Path:
            if alpha == 1.0 and isinstance(tuned, Path) and not settings:
                return tuned
            target = self.place / place / f"alpha-{alpha:g}"
            if not (target / "model.safetensors").is_file():
                merge(base or self.pretrained, tuned, alpha=alpha, out=target, **settings)
            return target

        return at

    def along(
        self,
        encoder: Callable[[float], Path],
        path: Sequence[float],
        *,
        updates: int = UPDATES,
        test: bool = True,
    ) -> Rows:
        """Probe the encoders of a path on the study, and look at their features."""
        rows: Rows = []
        for alpha in path:
            rows += self.probe("tuned", encoder(alpha), alpha, updates=updates, test=test)
        rows += self.features({alpha: encoder(alpha) for alpha in path}, updates=updates)
        return rows

    def in_cells(self, encoder: Callable[[float], Path], **about: Any) -> Rows:
        """Probe the tuned encoder and its merge in the four cells."""
        return [
            row
            for cell in CELLS
            for alpha in (ALPHA, 1.0)
            for row in self.probe("tuned", encoder(alpha), alpha, cell.name, **about)
        ]

    def probe(
        self,
        name: str,
        encoder: Path | str,
        alpha: float,
        cell: str = STUDY,
        *,
        layers: str | None = None,
        test: bool = True,
        **about: Any,
    ) -> Rows:
        """Return the rows of frozen probes; what has not converged is trained for longer."""
        corpus, place = self.work.corpus(cell), self.place / f"{cell}-{name}-{alpha:g}"
        if "updates" in about:
            place = place.with_name(f"{place.name}-{about['updates']}")
        candidate = Candidate(name, str(encoder), alpha=alpha)
        asked = PROBES if layers is None else PROBES.model_copy(update={"layers": layers})
        found = self._evaluate(candidate, corpus, place, asked, test)
        late = sorted({row.task for row in found if not row.details["converged"]})
        if late:
            longer = asked.model_copy(update={"tasks": tuple(late), "protocol": "evidence-long"})
            again = self._evaluate(candidate, corpus, place, longer, test)
            better = {(row.task, row.layer): row for row in again}
            found = [
                row if row.details["converged"] else better[row.task, row.layer] for row in found
            ]
        self._describe_items(found, place, cell, test)
        stamp = {"cell": cell, "alpha": alpha, "processor": self.work.processor, **about}
        return [{**stamp, **probed(row, place, test)} for row in found]

    def _evaluate(
        self, candidate: Candidate, corpus: Corpus, place: Path, config: Any, test: bool
    ) -> list[ResultRow]:
        tasks = choose_tasks(config, corpus)
        return evaluate_encoder(
            candidate, tasks, corpus, config, place, seed=0, test=test, cache=self.cache
        )

    def features(self, encoders: dict[float, Path], **about: Any) -> Rows:
        """Return similarity to pre-trained, weight move and open-set speaker EER of encoders."""
        folder = self.place / f"features-{about.get('updates', 0)}"
        folder.mkdir(parents=True, exist_ok=True)
        paths = [str(path) for path in encoders.values()]
        # the base beside itself: its own error rate of speakers
        found = analysis_rows(
            self.pretrained, paths, str(self.work.corpus(STUDY).folder), folder, SIMILARITY
        )
        names = list(dict.fromkeys(row.encoder for row in found if row.measure == "cka"))
        rows = []
        for alpha, name in zip(encoders, names, strict=True):
            own = [row for row in found if row.encoder == name]
            rows.append(
                {
                    "measure": "features",
                    "cell": STUDY,
                    "alpha": alpha,
                    "cka": _by_layer(own, "cka"),
                    "eer": _by_layer(own, "speaker_eer"),
                    "move": next(
                        row.value
                        for row in own
                        if row.measure == "weight_move" and row.layer is None and row.module is None
                    ),
                    "processor": self.work.processor,
                    **about,
                }
            )
        return rows

    def _describe_items(
        self, rows: Sequence[ResultRow], place: Path, cell: str, test: bool
    ) -> None:
        """Write once what the items of a cell are: speaker and total, of test and of dev."""
        path = ROWS / f"items-{cell}.json"
        if not test or path.exists():
            return
        content: dict[str, Any] = {}
        for row in rows:
            if row.layer is None:
                for split, items in items_by_split(row, place, test).items():
                    content[f"{row.task} {split}"] = {
                        "speakers": [item.group or item.reference for item in items],
                        "totals": [int(item.total) for item in items],
                    }
        write_json(path, content)


def items_by_split(row: ResultRow, place: Path, test: bool) -> dict[str, list[Item]]:
    """Return the scored items of a row: of test and dev, or of dev alone."""
    first = place / str(row.predictions)
    if not test:
        return {"dev": read_items(first)}
    return {"test": read_items(first), "dev": read_items(Path(dev_file(str(first))))}


def probed(row: ResultRow, place: Path, test: bool) -> dict[str, Any]:
    """Return what is kept of a probe: figures, what decided, errors or hits of every item.

    ``whole`` is false for a probe that has not converged or whose best rate lies at the edge.
    """
    details = row.details
    rates = sorted(float(rate) for rate in details["grid"])
    at_edge = f"{row.learning_rate:.3g}" in (f"{rates[0]:.3g}", f"{rates[-1]:.3g}")
    kept = {
        "measure": "probe",
        "task": row.task,
        "layer": row.layer,
        "probe_seed": row.seed,
        "dev": details["dev"],
        "learning_rate": row.learning_rate,
        "whole": bool(details["converged"]) and not at_edge,
        "best_epoch": details["best_epoch"],
        "protocol": row.protocol,
        "layer_weights": details["layer_weights"],
        "arithmetic": f"{details['precision']} {details['kernel']} {details['threads']}",
    }
    if test:
        kept["test"] = round(row.value, 4)
    for split, items in items_by_split(row, place, test).items():
        kept[f"{split}_amounts"] = packed([int(item.amount) for item in items])
    return kept


def _rounded(value: Any) -> Any:
    """Return numbers with six digits, in whatever lists they stand."""
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _by_layer(rows: Sequence[Any], measure: str) -> list[float | None]:
    found = sorted((row for row in rows if row.measure == measure), key=lambda row: row.layer)
    return [None if row.value is None else round(row.value, 5) for row in found]
