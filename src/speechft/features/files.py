"""Hidden states of audio in files: batched by duration, resumable, shared between processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from speechft.arguments import Paths
from speechft.console import Bar, progress_bar, warn
from speechft.data.acoustics import SAMPLE_RATE
from speechft.data.waveform import place_of
from speechft.devices import PRECISIONS, Precision, Resolved, pick_device, resolve_precision
from speechft.encoders.base import Encoder, Mode
from speechft.encoders.load import digest_of, load_encoder, settings_digest
from speechft.errors import ConfigError, unknown_choice
from speechft.features.extract import batch_limits
from speechft.features.items import (
    announce,
    named_groups,
    none_usable,
    tell_failed,
    usable_cuts,
)
from speechft.features.layers import pick_layers, read_layers
from speechft.features.sources import find_sources
from speechft.features.streaming import encoded
from speechft.features.written import Writer
from speechft.parallel.claims import Claim
from speechft.parallel.sharing import ItemsError, Unit, work_off
from speechft.storage.files import json_digest
from speechft.storage.outputs import overwriting
from speechft.storage.uploads import moved_up

if TYPE_CHECKING:
    from lhotse.cut import Cut

Format = Literal["safetensors", "npy"]
FORMATS: tuple[Format, ...] = ("safetensors", "npy")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_PART = 600.0
"""Seconds of audio that a process takes at a time, where that makes neither too few parts nor too
many."""
_PARTS = 64, 4096
"""Parts at least, as far as there are batches, and at most."""


@dataclass
class ExtractionReport:
    """What was written, by this process and by those it shared the work with, and what was not."""

    out: str
    encoder: str
    digest: str
    layers: list[int]
    dim: int
    frame_rate: float
    written: int = 0
    skipped: int = 0
    """Files whose features were there already when this process began."""
    seconds: float = 0.0
    """Audio that this process encoded."""
    failed: dict[str, str] = field(default_factory=dict)
    """What is wrong with the files that have no features, by path."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


@moved_up("out")
def extract_files(
    encoder: str | Path,
    audio: Paths,
    out: str | Path,
    *,
    layer: str | int | Sequence[int] = "all",
    mode: Mode = "exact",
    format: Format = "safetensors",
    dtype: str = "float32",
    precision: Precision = "fp32",
    device: str = "auto",
    batch_seconds: float | None = None,
    config: str | Path | None = None,
    allow_nonfinite: bool = False,
    overwrite: bool = False,
) -> ExtractionReport:
    """Write the hidden states of every utterance to a file of its own.

    Files that are there already are skipped unless their audio is newer; of audio at an address
    they count as long as its manifest is the same, and are refused when it changed. Any number of
    processes may be given the same, ranks of a launcher among them: each takes batches that no
    other is at, see `sharing`. What cannot be read is told once, and tried again by the next
    command.

    Args:
        encoder: As `load_encoder` takes it.
        audio: Files, folders, tables and manifests, see `find_sources`.
        out: Folder; each file holds ``hidden_states``, (N, T, D).
        layer: ``all``, ``last``, or numbers and ranges such as ``0,6,9-12``; 0 is the input of the
            first layer.
        mode: ``exact`` or ``s3prl``; the latter encodes every utterance by itself, since its
            features depend on the batch.
        format: ``safetensors`` or ``npy``.
        dtype: Type on disk; npy has no bfloat16.
        precision: Type to compute in.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        batch_seconds: Audio in a batch, padding included; None takes what suits the encoder.
        config: See `load_encoder`.
        allow_nonfinite: See `load_encoder`.
        overwrite: Replace files that no extraction wrote.

    Raises:
        CheckpointError: The encoder cannot be used.
        ConfigError: An option is wrong.
        DataError: There is nothing that can be encoded.
        RunError: ``out`` holds something else, or cannot be written.
    """
    if format not in FORMATS:
        raise unknown_choice("format", format, FORMATS)
    if dtype not in DTYPES:
        raise unknown_choice("dtype", dtype, DTYPES)
    if precision not in PRECISIONS:
        raise unknown_choice("precision", precision, PRECISIONS)
    if (format, dtype) == ("npy", "bfloat16"):
        raise ConfigError(
            "npy has no bfloat16", hint="use --dtype float16, or --format safetensors"
        )
    place = pick_device(device)
    sources = find_sources(audio)
    model = load_encoder(encoder, mode, config=config, allow_nonfinite=allow_nonfinite).to(place)
    layers = pick_layers(read_layers(layer), model.num_layers)
    resolved = resolve_precision(precision, place)
    report = ExtractionReport(
        str(out), str(encoder), digest_of(encoder), layers, model.dim, model.frame_rate
    )
    settings = {
        "encoder_digest": report.digest,
        "settings_digest": settings_digest(model),
        "layers": layers,
        "mode": mode,
        "dtype": dtype,
        "precision": resolved,
        "format": format,
        "frame_rate": model.frame_rate,
    }
    report.failed = dict(sources.problems)
    cuts = usable_cuts(model, sources.cuts, report.failed, model.window)
    if not cuts:
        raise none_usable(report.failed)
    folder = Path(os.path.expanduser(out))
    with overwriting(overwrite):
        writer = Writer(folder, settings, sources.manifests, DTYPES[dtype], allow_nonfinite)
        seconds = 0.0 if mode == "s3prl" else batch_seconds
        _Extraction(model, cuts, writer, report, resolved, place, seconds).run(folder)
    if not report.written and not report.skipped:
        raise none_usable(report.failed)
    return report


class _Extraction:
    """The batches of an extraction, in parts that processes take."""

    def __init__(
        self,
        model: Encoder,
        cuts: dict[str, Cut],
        writer: Writer,
        report: ExtractionReport,
        precision: Resolved,
        place: torch.device,
        batch_seconds: float | None,
    ) -> None:
        seconds, multiple = batch_limits(model, place, batch_seconds)
        self._model, self._cuts, self._writer, self._report = model, cuts, writer, report
        self._groups = named_groups(cuts, seconds, model.window)
        self._how: Any = {"precision": precision, "device": place, "multiple": multiple}
        self._written: set[str] = set()

    def run(self, folder: Path) -> None:
        """Have all written that is not there, by whatever processes; complete the report."""
        self._writer.clear(self._cuts)
        if damaged := self._writer.damaged(self._cuts):
            warn(
                f"{len(damaged)} files of features are cut off and written anew, the first: "
                f"{damaged[0]}"
            )
        report, missing = self._report, self._missing(self._cuts)
        report.skipped = len(self._cuts) - len(missing)
        announce(missing.values())
        with progress_bar("features", len(missing)) as bar:
            failed = work_off(folder, "extract", list(self._units(bar)), sweeps=True)
        for error in failed.values():
            if not isinstance(error, ItemsError):
                raise error
            report.failed |= error.items
        absent = self._missing({n: c for n, c in missing.items() if n not in self._written})
        report.written = len(missing) - len(absent)

    def _units(self, bar: Bar) -> Iterator[Unit]:
        for number, part in enumerate(in_parts(self._groups)):
            key = json_digest([self._writer.settings, [list(group) for group in part]])[:8]
            cuts = {name: cut for group in part for name, cut in group.items()}
            yield Unit(
                f"files/{number:04d}-{key}",
                partial(self._has_all, cuts),
                partial(self._encode, part, bar),
            )

    def _has_all(self, cuts: dict[str, Cut]) -> bool:
        return all(self._writer.has(name, cut) for name, cut in cuts.items())

    def _missing(self, cuts: dict[str, Cut]) -> dict[str, Cut]:
        return {name: cut for name, cut in cuts.items() if not self._writer.has(name, cut)}

    def _encode(self, part: list[dict[str, Cut]], bar: Bar, claim: Claim | None) -> None:
        failed: dict[str, str] = {}
        missing = self._missing({name: cut for group in part for name, cut in group.items()})
        # a group is encoded whole, though some of it is there: the batch decides the last bits
        groups = [group for group in part if not missing.keys().isdisjoint(group)]
        layers = self._report.layers
        for heard in encoded(self._model, groups, layers, failed, bar=bar, **self._how):
            self._report.seconds += heard.samples / SAMPLE_RATE
            if heard.name not in missing:
                continue
            if claim is not None:
                claim.check()
            if problem := self._writer.write(heard.name, heard.states):
                tell_failed(place_of(heard.cut), problem, failed)
            else:
                self._written.add(heard.name)
        if failed:
            raise ItemsError(failed)


def in_parts(groups: Sequence[dict[str, Cut]]) -> Iterator[list[dict[str, Cut]]]:
    """Yield batches in parts of about `_PART` seconds, the same for any number of processes."""
    seconds = [sum(cut.duration for cut in group.values()) for group in groups]
    least, most = (sum(seconds) / count for count in reversed(_PARTS))
    enough, part, held = min(max(_PART, least), most), [], 0.0
    for group, length in zip(groups, seconds, strict=True):
        part.append(group)
        held += length
        if held >= enough:
            yield part
            part, held = [], 0.0
    if part:
        yield part
