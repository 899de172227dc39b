"""Run a trained head over audio of any kind and length, and write what it says."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechft.arguments import Paths
from speechft.console import progress_bar
from speechft.data.acoustics import SAMPLE_RATE
from speechft.data.waveform import count_samples, place_of
from speechft.devices import Precision, use_device
from speechft.errors import ConfigError, DataError
from speechft.features.cache import audio_key
from speechft.features.extract import batch_limits
from speechft.features.items import (
    announce,
    named_groups,
    none_usable,
    read_ahead,
    readable,
    tell_failed,
    usable_cuts,
)
from speechft.features.sources import find_sources
from speechft.prediction.finding import find_pipeline
from speechft.prediction.formats import (
    Answered,
    check_recordings,
    pick_format,
    write_answers,
)
from speechft.prediction.journal import Journal, journal
from speechft.prediction.pipelines import CONTEXT, GREEDY, WINDOW, Pipeline, open_pipeline
from speechft.storage.files import file_digest
from speechft.storage.outputs import check_own, overwriting, publish
from speechft.storage.uploads import moved_up
from speechft.tasks.saved import read_record
from speechft.version import __version__

if TYPE_CHECKING:
    from lhotse.cut import Cut
    from torch import Tensor

    from speechft.tasks.answers import Answer

    Group = dict[str, Cut]


@dataclass
class PredictionReport:
    """What was written, and what was not."""

    out: str
    model: str
    task: str
    encoder_digest: str
    format: str
    written: int = 0
    """Recordings that the output holds."""
    resumed: int = 0
    """Of these, how many an earlier run had answered."""
    seconds: float = 0.0
    """Audio that was heard in this run."""
    failed: dict[str, str] = field(default_factory=dict)
    """What is wrong with the recordings that it does not hold, by path."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the report as text."""
        lines = [f"{self.model}: task {self.task}, encoder sha256 {self.encoder_digest[:12]}"]
        if self.resumed:
            lines.append(f"{self.resumed} were answered before")
        heard = f"{self.seconds / 60:.1f} min of audio heard"
        return [*lines, f"wrote {self.written} answers to {self.out} ({heard})"]


@moved_up("out")
def predict(
    model: str | Path,
    audio: Paths,
    out: str | Path,
    *,
    format: str | None = None,
    name: str | None = None,
    task: str | None = None,
    encoder: Any = None,
    language_model: str | Path | None = None,
    window: float = WINDOW,
    context: float = CONTEXT,
    batch_seconds: float | None = None,
    precision: Precision | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> PredictionReport:
    """Write what a trained head says about recordings; given again, a stopped run goes on.

    Args:
        model: What `finetune`, `run` or `evaluate` wrote, see `load_pipeline`.
        audio: Files, folders, tables and manifests, see `find_sources`.
        out: File; for WebVTT of several recordings a folder.
        format: ``jsonl``, ``csv``, ``rttm`` or ``vtt``; None goes by the suffix of ``out``.
        name: See `load_pipeline`.
        task: See `load_pipeline`.
        encoder: See `load_pipeline`.
        language_model: See `load_pipeline`.
        window: Seconds beyond which a recording is heard in windows.
        context: Seconds of a window on each side that are context alone.
        batch_seconds: Audio in a batch, padding included; None takes what suits the encoder.
        precision: Of the encoder's forward pass; None takes that of the training.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        overwrite: Replace an ``out`` that no command of ours wrote.

    Raises:
        CheckpointError: The model cannot be used.
        ConfigError: An option is wrong, or the answers cannot be written so.
        DataError: There is nothing that can be heard.
        RunError: ``out`` is somebody else's, in use, or cannot be written.
    """
    place = Path(os.path.abspath(os.path.expanduser(out)))
    if not (window > 0 and context >= 0):
        raise ConfigError(f"window {window:g} s and context {context:g} s are no lengths")
    with overwriting(overwrite), use_device(device):
        check_own(place)
        file = find_pipeline(Path(model).expanduser(), name, task)
        known = read_record(file)
        pipeline = open_pipeline(
            file,
            encoder=encoder,
            language_model=language_model,
            precision=precision,
            window=window,
            context=context,
        )
        chosen = pick_format(place, format, pipeline.task.formats, known.task)
        report = PredictionReport(str(out), str(model), known.task, known.encoder_digest, chosen)
        cuts = _cuts(pipeline, audio, report)
        check_recordings(chosen, place, list(cuts))
        key = {
            "version": __version__,
            "head": file_digest(file),
            "weights": file_digest(file.with_name(known.weights)),
            "language model": _digest(language_model),
            "precision": pipeline.precision,
            "window": [pipeline.longest, context],
        }
        with journal(place, key) as done:
            _answer(pipeline, cuts, done, report, batch_seconds)
            _publish(place, chosen, cuts, done, report)
    return report


def _digest(language_model: str | Path | None) -> str | None:
    given = None if language_model in (None, GREEDY) else Path(str(language_model)).expanduser()
    return None if given is None else file_digest(given)


def _cuts(pipeline: Pipeline, audio: Paths, report: PredictionReport) -> Group:
    """Return the recordings that the encoder and the head can take."""
    sources = find_sources(audio)
    report.failed = dict(sources.problems)
    encoder, model = pipeline.encoder, pipeline.task.model
    least = 1 if model is None else model.least_frames
    cuts = usable_cuts(encoder, sources.cuts, report.failed, None, least)
    if not cuts:
        raise none_usable(report.failed)
    return cuts


def _answer(
    pipeline: Pipeline,
    cuts: Group,
    done: Journal,
    report: PredictionReport,
    batch_seconds: float | None,
) -> None:
    """Answer what was not answered before."""
    alone = pipeline.encoder.depends_on_batch
    seconds, multiple = batch_limits(
        pipeline.encoder, pipeline.device, 0.0 if alone else batch_seconds
    )
    groups = _groups(pipeline, cuts, seconds)
    missing = {n for n, cut in cuts.items() if not done.has(n, audio_key(cut))}
    # a group is heard whole, though some of it is known: the batch decides the last bits
    groups = [group for group in groups if not missing.isdisjoint(group)]
    report.resumed = len(cuts) - len(missing)
    announce(cuts[name] for name in cuts if name in missing)
    with progress_bar("predictions", sum(map(len, groups))) as bar:
        for group, rows in read_ahead(groups):
            waveforms = readable(group, rows, report.failed)
            answers = _answers(pipeline, group, waveforms, multiple, report)
            done.add(
                {
                    name: (audio_key(group[name]), _plain(answer))
                    for name, answer in answers.items()
                    if name in missing
                }
            )
            report.seconds += sum(map(len, waveforms.values())) / SAMPLE_RATE
            bar.advance(len(group))
            bar.note(f"{report.seconds / 60:.1f} min of audio")


def _groups(pipeline: Pipeline, cuts: Group, seconds: float) -> list[Group]:
    """Return recordings of similar length together, and long ones each alone."""
    long = {n: cut for n, cut in cuts.items() if pipeline.is_long(count_samples(cut))}
    short = {n: cut for n, cut in cuts.items() if n not in long}
    return [
        *({name: cut} for name, cut in long.items()),
        *named_groups(short, seconds, pipeline.encoder.window),
    ]


def _answers(
    pipeline: Pipeline,
    group: Group,
    waveforms: Mapping[str, Tensor],
    multiple: int,
    report: PredictionReport,
) -> dict[str, Answer]:
    """Return what is said about a group; of one that cannot be heard, its members one by one."""
    if not waveforms:
        return {}
    try:
        found = pipeline.answers(list(waveforms.values()), multiple)
    except DataError as error:
        if len(waveforms) == 1:
            [name] = waveforms
            tell_failed(place_of(group[name]), error.message, report.failed)
            return {}
        answers: dict[str, Answer] = {}
        for name, row in waveforms.items():
            answers |= _answers(pipeline, group, {name: row}, multiple, report)
        return answers
    return dict(zip(waveforms, found, strict=True))


def _plain(answer: Answer) -> dict[str, Any]:
    spans = [[span.start, span.end, span.text] for span in answer.spans]
    return {"values": dict(answer.values), "spans": spans}


def _publish(out: Path, chosen: str, cuts: Group, done: Journal, report: PredictionReport) -> None:
    """Write the answers in the order of the recordings, and put them in place."""
    names = [name for name, cut in cuts.items() if done.has(name, audio_key(cut))]
    if not names:
        raise none_usable(report.failed)

    def rows() -> Iterator[Answered]:
        for name in names:
            answer = done.read(name)
            seconds = round(float(cuts[name].duration), 3)
            yield Answered(name, seconds, answer["values"], answer["spans"])

    with publish(out) as hidden:
        write_answers(hidden, chosen, rows, out)
    report.written = len(names)
