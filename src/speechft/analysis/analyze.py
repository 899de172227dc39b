"""Analyse encoders against their base on one corpus: one pass, every measure, rows by layer."""

from __future__ import annotations

import copy
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from speechft.analysis.abilities import Ability, abilities
from speechft.analysis.choosing import (
    KINDS,
    Choice,
    choose,
    is_timed,
    labels_of,
    speakers_of,
)
from speechft.analysis.intervals import Groups, mean_estimate, number_groups
from speechft.analysis.linearity import LEAST_BASELINE, connectivity
from speechft.analysis.parts import Pass
from speechft.analysis.reading import Line, Reading
from speechft.analysis.rows import AnalysisRow, read_analysis, row_values, write_analysis
from speechft.analysis.settings import MEASURES, Settings
from speechft.analysis.similarity import batches_of, centred_cosine, cka
from speechft.analysis.subjects import Subject, open_subjects
from speechft.analysis.weights import TOP, Moves, agreement, moves, weights_of
from speechft.console import log
from speechft.data.corpora import find_corpus
from speechft.data.labels import label_of
from speechft.devices import pick_device
from speechft.encoders.base import Encoder
from speechft.errors import DataError
from speechft.evaluation.limit import limited
from speechft.features.extract import count_frames
from speechft.parallel.claims import FOLDER, Claim, Workers
from speechft.parallel.sharing import Unit, share
from speechft.storage.disk import remove
from speechft.storage.files import json_digest, write_text
from speechft.storage.locks import lock, waiting

if TYPE_CHECKING:
    from lhotse.cut import Cut

ROWS_NAME = "analysis.jsonl"
WHOLE = ("weights", "similarity", "linearity")
"""Measures whose rows stand together, in this order; those of others stand by encoder."""
ORDER = (*WHOLE, *(name for name in MEASURES if name not in WHOLE))


def analysis_rows(
    base: Any,
    encoders: Sequence[Any],
    corpus: str,
    folder: Path,
    settings: Settings,
    *,
    earlier: Callable[[], bool] | None = None,
) -> list[AnalysisRow]:
    """Measure what fine-tuning did to encoders; writes ``analysis.jsonl``.

    Several processes may be given the same at the same time: they share the pass of the encoders
    and the measures, see `sharing`, and all end with the same rows.

    Args:
        base: What they were tuned from, as `typed_candidates` takes it.
        encoders: The others.
        corpus: As `find_corpus` takes it.
        folder: For the rows; it is there.
        settings: What is measured.
        earlier: See `speechft.storage.outputs.replacing`.

    Raises:
        ConfigError: An encoder has another shape than the base and nobody asked for that, or a
            layer does not exist.
        DataError: The corpus cannot be read, or lacks what a measure needs that was asked for.
        CheckpointError: An encoder cannot be read.
    """
    subjects = open_subjects(base, encoders, settings)
    found = find_corpus(corpus, folder / "corpus")
    split = settings.split or found.task_splits("*")[1]
    cuts = _usable(found.split(split), [s.encoder for s in subjects], settings)
    log(f"analysis: {len(cuts)} utterances of {found.name}, {split}")
    wanted = _possible(subjects, cuts, settings)
    told = [found.digest, split, [cut.id for cut in cuts], asdict(settings)]
    key = json_digest([*told, sorted(wanted), [[s.name, s.digest, s.layers] for s in subjects]])[:8]
    place = folder / FOLDER / f"analysis-{key}"
    rows = _Analysis(subjects, cuts, wanted, settings, place).rows(folder)
    with waiting(60), lock(folder):
        write_analysis(folder / ROWS_NAME, rows, earlier=earlier)
    return rows


def _usable(cuts: Any, encoders: Sequence[Encoder], settings: Settings) -> list[Cut]:
    """Return the utterances that are looked at: a draw, without those shorter than a frame."""
    (drawn,) = limited([list(cuts)], settings.limit, lambda cut: label_of(cut, "speaker"))
    counts = zip(*(count_frames(encoder, drawn) for encoder in encoders), strict=True)
    kept = [cut for cut, found in zip(drawn, counts, strict=True) if min(found) > 0]
    if len(kept) < len(drawn):
        log(f"left out: {len(drawn) - len(kept)} utterances shorter than one frame")
    if not kept:
        raise DataError(
            f"none of {len(drawn)} utterances is as long as one frame of the encoders",
            hint="choose another split with --split",
        )
    return kept


def _possible(subjects: Sequence[Subject], cuts: Sequence[Cut], settings: Settings) -> set[str]:
    """Return the measures that encoders and corpus allow.

    Raises:
        DataError: One that was asked for is not among them.
    """
    missing: dict[str, str] = {}
    timed = {kind for kind in KINDS for cut in cuts if is_timed(cut, kind)}
    if not timed:
        missing["cca"] = "the corpus has no phones or words with times"
    if "phone" not in timed:
        missing["abx"] = "the corpus has no phones with times"
    if speakers_of(cuts) is None:
        why = "not every utterance has a speaker, or there is one speaker only"
        missing["speaker"] = why
        if "abx" not in missing and not any(label_of(cut, "speaker") for cut in cuts):
            missing["abx"] = "the corpus names no speakers"
    if not labels_of(cuts):
        missing["knn"] = "utterances have no labels that occur more than once"
    if not any(s.interpolates for s in subjects[1:]):
        why = "no encoder has the base's weights by name and shape"
        missing |= dict.fromkeys(("linearity", "weights"), why)
    for name in settings.measures or ():
        if name in missing:
            raise DataError(f"{name} cannot be measured: {missing[name]}")
    if settings.measures is None:
        for name, why in missing.items():
            log(f"not measured: {name}; {why}")
        return set(MEASURES) - set(missing)
    return set(settings.measures)


class _Analysis:
    """All measures of one pass.

    Args:
        subjects: The encoders, the base first.
        cuts: The utterances.
        wanted: Names of measures.
        settings: What else was asked for.
        place: For what processes that do the same share.
    """

    def __init__(
        self,
        subjects: list[Subject],
        cuts: list[Cut],
        wanted: set[str],
        settings: Settings,
        place: Path,
    ) -> None:
        self._subjects, self._cuts = subjects, cuts
        self._wanted, self._settings = wanted, settings
        names = speakers_of(cuts)
        self._unit = "speakers" if names else "utterances"
        self._groups: Groups = number_groups(names or [cut.id for cut in cuts])
        self._layers = subjects[0].layers
        self._place = place
        self._read: Reading | None = None

    def rows(self, folder: Path) -> list[AnalysisRow]:
        """Run the encoders and measure, with whoever does the same in a folder."""
        subjects, settings = self._subjects, self._settings
        base = subjects[0].encoder
        choice = choose(
            self._cuts,
            base.timing,
            count_frames(base, self._cuts),
            seed=settings.seed,
            segments="cca" in self._wanted,
            triphones="abx" in self._wanted,
        )
        between, lines = self._between() if "linearity" in self._wanted else ([], [])
        pairs = [(0, n) for n, s in enumerate(subjects) if n and s.fits]
        passed = Pass(
            [s.encoder for s in subjects] + between,
            [s.layers for s in subjects] + [self._layers] * len(between),
            choice,
            self._place,
            kept=len(subjects),
            pairs=pairs if "similarity" in self._wanted else [],
            lines=lines,
            device=pick_device(),
            precision=settings.precision,
        )
        units = list(passed.units()) if self._wanted - {"weights"} else []
        after = [unit.name for unit in units]
        measures = [name for name in ORDER if name in self._wanted]
        for name in measures:
            file = self._place / f"{name}.jsonl"
            run = partial(self._measure, name, file, passed)
            needed = () if name == "weights" else after
            units.append(Unit(f"{self._place.name}/{name}", file.exists, run, after=needed))
        own = self._place / f"states-{secrets.token_hex(8)}"
        self._own = own
        try:
            with Workers(folder, "analyze", [unit.name for unit in units]) as workers:
                for error in share(units, workers).values():
                    raise error
                found = {n: read_analysis(self._place / f"{n}.jsonl") for n in measures}
        finally:
            self._read = None
            remove(own)
        whole = [n for n in measures if n in WHOLE]
        rows = [row for name in whole for row in found[name]]
        place = {subject.name: number for number, subject in enumerate(subjects)}
        rest = [row for name in measures if name not in WHOLE for row in found[name]]
        return rows + sorted(rest, key=lambda row: place[row.encoder])  # by encoder, then measure

    def _measure(self, name: str, file: Path, passed: Pass, _claim: Claim | None) -> None:
        """Write the rows of one measure."""
        if name == "weights":
            rows = self._weights()
        else:
            if self._read is None:
                self._read = passed.read(self._own)
            if name == "similarity":
                rows = self._similarity(passed.choice, self._read)
            elif name == "linearity":
                rows = self._linearity(self._read)
            else:
                rows = self._abilities(name, passed.choice, self._read)
        lines = (json.dumps(row.as_dict(), ensure_ascii=False) + "\n" for row in rows)
        write_text(file, "".join(lines))

    def _row(self, subject: int, **known: Any) -> AnalysisRow:
        one = self._subjects[subject]
        return AnalysisRow(encoder=one.name, encoder_digest=one.digest, **known)

    def _similarity(self, choice: Choice, reading: Reading) -> Iterator[AnalysisRow]:
        utterances = choice.utterances
        batches = batches_of(utterances, self._settings.seed)
        groups = self._groups
        for number, subject in enumerate(self._subjects[1:], 1):
            for place, layer in enumerate(self._layers):
                x, y = (reading.states[n].frames[:, place] for n in (0, number))
                found = {"cka": cka(x, y, batches, groups[utterances])}
                if subject.fits:
                    raw = reading.cosines[0, number][:, place]
                    found["cosine"] = mean_estimate(raw, groups)
                    found["cosine_centred"] = centred_cosine(x, y, utterances, groups)
                for measure, estimate in found.items():
                    details: dict[str, Any] = {"uncertainty": self._unit}
                    if subject.layers[place] != layer:
                        details["matched_layer"] = subject.layers[place]
                    if estimate.value is None:
                        details["reason"] = "hidden states do not vary, or there are too few frames"
                    yield self._row(
                        number,
                        question="similarity",
                        measure=measure,
                        layer=layer,
                        against=self._subjects[0].name,
                        details=details,
                        **row_values(estimate),
                    )

    def _between(self) -> tuple[list[Encoder], list[Line]]:
        """Return the encoders on the lines from the base, and between encoders, at alpha."""
        fitting = [n for n, s in enumerate(self._subjects) if n and s.interpolates]
        ends = [(0, n) for n in fitting] + list(combinations(fitting, 2))
        made: list[Encoder] = []
        lines = []
        for first, second in ends:
            lines.append(Line(first, second, len(self._subjects) + len(made)))
            one, two = (self._subjects[n].encoder for n in (first, second))
            made.append(interpolated(one, two, self._settings.alpha))
        return made, lines

    def _linearity(self, reading: Reading) -> Iterator[AnalysisRow]:
        for line in reading.products:
            # from the base it is LLFC, and the row is the tuned encoder's
            llfc = line.first == 0
            owner, other = (line.second, line.first) if llfc else (line.first, line.second)
            for place, layer in enumerate(self._layers):
                products = reading.on_line(line, place)
                found = connectivity(products, self._settings.alpha, self._groups)
                for measure, estimate in found.items():
                    details: dict[str, Any] = {
                        "alpha": self._settings.alpha,
                        "uncertainty": self._unit,
                    }
                    if estimate.value is None and measure == "ratio":
                        details["reason"] = f"the ends are less than {LEAST_BASELINE} apart"
                    yield self._row(
                        owner,
                        question="linearity",
                        measure=f"{'llfc' if llfc else 'ctl'}_{measure}",
                        layer=layer,
                        against=self._subjects[other].name,
                        details=details,
                        **row_values(estimate),
                    )

    def _weights(self) -> Iterator[AnalysisRow]:
        fitting = [n for n, s in enumerate(self._subjects) if n and s.interpolates]
        known = {n: weights_of(self._subjects[n].encoder) for n in (0, *fitting)}
        if not known[0]:
            return
        for number in fitting:
            found = moves(known[0], known[number])
            values = {"weight_move": "move", f"energy_top{TOP}": "top"}
            for measure, name in {**values, f"energy_top{TOP}_gaussian": "gaussian"}.items():
                yield from self._weight_rows(number, measure, name, found, self._subjects[0].name)
        for first, second in combinations(fitting, 2):
            found = agreement(known[0], known[first], known[second])
            yield from self._weight_rows(
                first, "task_vector_cosine", "cosine", found, self._subjects[second].name
            )

    def _weight_rows(
        self, number: int, measure: str, name: str, found: Moves, against: str
    ) -> Iterator[AnalysisRow]:
        order = sorted(found.sums, key=lambda key: (key[1] or "", -1 if key[0] is None else key[0]))
        for layer, kind in order:
            sums = found.sums[layer, kind]
            share = name in ("top", "gaussian")
            value = sums.share(getattr(sums, name)) if share else getattr(sums, name)
            if share and not sums.matrices:
                continue
            defined = value == value
            yield self._row(
                number,
                question="weights",
                measure=measure,
                layer=layer,
                module=kind,
                value=value if defined else None,
                against=against,
                details={} if defined else {"reason": "nothing moved, or the base is zero there"},
            )

    def _abilities(self, name: str, choice: Choice, reading: Reading) -> Iterator[AnalysisRow]:
        found: dict[tuple[str, int], Ability] = {}
        for number, subject in enumerate(self._subjects):
            measured = abilities(
                reading.states[number], choice, self._groups, {name}, self._settings.seed
            )
            for ability in measured:
                found[ability.measure, number] = ability
                reference = found.get((ability.measure, 0))
                for place, layer in enumerate(self._layers):
                    estimate = ability.layers[place]
                    details: dict[str, Any] = {"uncertainty": self._unit, **ability.details}
                    if number and subject.layers[place] != layer:
                        details["matched_layer"] = subject.layers[place]
                    if number and reference is not None:
                        change = estimate.minus(reference.layers[place])
                        ends = change.interval()
                        details["change"] = {
                            "value": change.value,
                            "interval": None if ends is None else list(ends),
                        }
                    yield self._row(
                        number,
                        question=ability.question,
                        measure=ability.measure,
                        layer=layer,
                        against=self._subjects[0].name if number else None,
                        details=details,
                        **row_values(estimate, ability.unit),
                    )


def interpolated(first: Encoder, second: Encoder, alpha: float) -> Encoder:
    """Return the encoder between two of one shape: (1 - alpha) of the first, alpha of the second.

    The convention is that of the official merge: g and v of a weight-normalised convolution are
    interpolated each by itself.
    """
    between = copy.deepcopy(first)
    with torch.no_grad():
        for own, other in zip(between.parameters(), second.parameters(), strict=True):
            own.lerp_(other.to(own.device), alpha)
    return between.eval()
