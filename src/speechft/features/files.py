"""Hidden states of audio in files: batched by duration, resumable, by one process or several."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from speechft import process_group
from speechft.data.acoustics import SAMPLE_RATE
from speechft.data.waveform import place_of
from speechft.devices import PRECISIONS, Precision, Resolved, pick_device, resolve_precision
from speechft.disk import sweep
from speechft.encoders.base import Encoder, Mode
from speechft.encoders.load import digest_of, load_encoder, settings_digest
from speechft.errors import CheckpointError, ConfigError, RunError, unknown_choice
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
from speechft.files import atomic_write, read_json, write_json
from speechft.headers import sorted_metadata
from speechft.locks import is_unwritable, lock
from speechft.outputs import overwriting, refuse

if TYPE_CHECKING:
    from lhotse.cut import Cut

Format = Literal["safetensors", "npy"]
FORMATS: tuple[Format, ...] = ("safetensors", "npy")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
RECORD_NAME = "extract.json"
KEY = "hidden_states"


@dataclass
class ExtractionReport:
    """What was written, and what was not."""

    out: str
    encoder: str
    digest: str
    layers: list[int]
    dim: int
    frame_rate: float
    written: int = 0
    skipped: int = 0
    """Files whose features were there already."""
    seconds: float = 0.0
    """Audio that was encoded in this run."""
    failed: dict[str, str] = field(default_factory=dict)
    """What is wrong with the files that have no features, by path."""
    is_main: bool = True
    """Whether this is the only process, or the first of several."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        content = asdict(self)
        del content["is_main"]
        return content


@process_group.watched()
def extract_files(
    encoder: str | Path,
    audio: Sequence[str | Path],
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

    Files that are there already are skipped unless their audio is newer. Under ``accelerate
    launch`` the utterances are shared out among the processes.

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
    processes = _Processes(device)
    place = processes.device
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
    with overwriting(overwrite), _alone(folder) if processes.rank == 0 else nullcontext():
        writer = _Writer(folder, settings, DTYPES[dtype], allow_nonfinite)
        _extract(model, cuts, writer, report, processes, resolved, batch_seconds)
    processes.gather(report)
    if not report.written and not report.skipped:
        raise none_usable(report.failed)
    return report


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder; one that may only be read needs no lock, since nothing is written there."""
    with ExitStack() as held:
        try:
            held.enter_context(lock(folder))
            sweep(folder, deep=True)
        except RunError as error:
            if not is_unwritable(error):
                raise
        yield


def _extract(
    model: Encoder,
    cuts: dict[str, Cut],
    writer: _Writer,
    report: ExtractionReport,
    processes: _Processes,
    precision: Resolved,
    batch_seconds: float | None,
) -> None:
    """Write what this process has to write and is not there."""
    mode, place = writer.settings["mode"], processes.device
    seconds, multiple = batch_limits(model, place, 0.0 if mode == "s3prl" else batch_seconds)
    shared = processes.share(
        named_groups(cuts, seconds, model.window)
    )  # before looking what is there: others write
    missing = {n: cut for part in shared for n, cut in part.items() if not writer.has(n, cut)}
    # a group is encoded whole, though some of it is there: the batch decides the last bits
    groups = [part for part in shared if not missing.keys().isdisjoint(part)]
    report.skipped = sum(map(len, shared)) - len(missing)
    announce(missing.values())
    how: Any = {"precision": precision, "device": place, "multiple": multiple}
    for heard in encoded(model, groups, report.layers, report.failed, **how):
        report.seconds += heard.samples / SAMPLE_RATE
        if heard.name not in missing:
            continue
        problem = writer.write(heard.name, heard.states)
        report.written += not problem
        if problem:
            tell_failed(place_of(heard.cut), problem, report.failed)


class _Processes:
    """This process among those that Accelerate started; alone where it started none."""

    def __init__(self, device: str) -> None:
        self.rank, self.count = 0, process_group.size()
        self.device = pick_device(device)
        if self.count == 1:
            return
        state = process_group.form(self.device.type == "cpu")
        self.rank = int(state.process_index)
        if self.device.type == "cuda":
            self.device = state.device

    def share(self, groups: list[dict[str, Cut]]) -> list[dict[str, Cut]]:
        """Return this process's groups; long and short ones are spread evenly."""
        return groups[self.rank :: self.count]

    def gather(self, report: ExtractionReport) -> None:
        """Add up what all processes did."""
        report.is_main = self.rank == 0
        mine = (report.written, report.seconds, report.skipped, report.failed)
        parts: list[Any] = process_group.gathered(mine)
        report.written, report.seconds, report.skipped = (
            sum(part[n] for part in parts) for n in range(3)
        )
        report.failed = {path: text for part in parts for path, text in part[3].items()}


class _Writer:
    """Writes one file an utterance, atomically, and knows which ones are there."""

    def __init__(
        self, out: Path, settings: dict[str, Any], dtype: torch.dtype, nonfinite: bool
    ) -> None:
        self._out, self.settings, self._dtype = out, settings, dtype
        self._nonfinite = nonfinite
        self._suffix = f".{settings['format']}"
        record = out / RECORD_NAME
        self._resumed = record.is_file()
        if self._resumed:
            self._compare(record)

    def _compare(self, record: Path) -> None:
        try:
            old = read_json(record)
        except CheckpointError:
            old = None
        known = old if isinstance(old, dict) else {}
        different = [name for name, value in self.settings.items() if known.get(name) != value]
        if different:
            told = ", ".join(
                f"{name} {known.get(name)} instead of {self.settings[name]}" for name in different
            )
            raise RunError(
                f"{self._out} holds features that were made otherwise: {told}",
                hint="choose another --out, or remove that folder",
            )

    def has(self, name: str, cut: Cut) -> bool:
        """Tell whether features are there that are not older than their audio."""
        path = self.path(name)
        if not path.exists():
            return False
        if not self._resumed:
            refuse([str(path)], by="extract")
            return False
        audio = Path(cut.recording.sources[0].source)
        return audio.exists() and path.stat().st_mtime_ns >= audio.stat().st_mtime_ns

    def path(self, name: str) -> Path:
        """Return where the features of an item go."""
        return self._out / f"{name}{self._suffix}"

    def write(self, name: str, states: Tensor) -> str:
        """Write (N, T, D) hidden states; return why not, where they are no finite numbers."""
        states = states.to(self._dtype).cpu().contiguous()
        if not self._nonfinite and not states.isfinite().all():
            return f"has hidden states that are no finite {str(self._dtype)[6:]} numbers"
        if not self._resumed:
            write_json(self._out / RECORD_NAME, self.settings)
            self._resumed = True
        if self._suffix == ".npy":
            import numpy as np

            buffer = io.BytesIO()
            np.save(buffer, states.numpy())
            data = buffer.getvalue()
        else:
            from safetensors.torch import save

            facts = {"format": "pt", **{k: str(v) for k, v in self.settings.items()}}
            data = sorted_metadata(save({KEY: states}, metadata=facts))
        with atomic_write(self.path(name)) as file:
            file.write(data)
        return ""
