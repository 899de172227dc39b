"""Give speech its units: ``units.km`` as fairseq reads it, ``units.jsonl`` with names as well.

Line n of both is the n-th utterance that could be read, in the order that the audio was given in.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from speechft.arguments import Paths
from speechft.commands import command
from speechft.console import warn
from speechft.devices import Precision
from speechft.encoders.base import Mode
from speechft.errors import CheckpointError, ConfigError
from speechft.features.items import none_usable
from speechft.runs import stage
from speechft.storage.disk import reading
from speechft.storage.documents import parse_json
from speechft.storage.files import file_digest
from speechft.storage.kept_lines import KeptLines, kept_lines
from speechft.storage.outputs import overwriting
from speechft.storage.uploads import moved_up
from speechft.units.clustering import without_repeats
from speechft.units.codebook import CENTROIDS_NAME, Codebook, load_codebook
from speechft.units.listening import Listener

KM_NAME = "units.km"
ROWS_NAME = "units.jsonl"
_PARTIAL = "rows.partial"


@dataclass
class ApplyReport:
    """What was written, and what was not."""

    out: str
    encoder: str
    units: str
    layer: int
    clusters: int
    utterances: int
    frames: int
    written: int
    """Units in all; fewer than frames where repeats were taken together."""
    used: int
    """Different ones among them."""
    failed: dict[str, str] = field(default_factory=dict)
    """What is wrong with the files that have no units, by path."""
    silent: list[str] = field(default_factory=list)
    """Files of which every sample is 0; they have units."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the report for people, one fact a line."""
        lines = [
            f"wrote {self.written} units of {self.utterances} utterances ({self.frames} frames) to "
            f"{self.out}: {self.used} of {self.clusters} clusters occur"
        ]
        if self.silent:
            names = ", ".join(self.silent[:3])
            lines.append(f"{len(self.silent)} files are silent, with units all the same: {names}")
        return lines


@moved_up("out")
def apply_units(
    encoder: str | Path,
    audio: Paths,
    out: str | Path,
    *,
    units: str | Path,
    deduplicate: bool = False,
    layer: str | int | None = None,
    allow_other_encoder: bool = False,
    precision: Precision = "fp32",
    device: str = "auto",
    batch_seconds: float | None = None,
    overwrite: bool = False,
) -> ApplyReport:
    """Write the units of every utterance; resumable.

    Args:
        encoder: The one that the centroids were made of, as `load_encoder` takes it.
        audio: Files, folders, tables and manifests, see `find_sources`.
        out: Folder for ``units.km`` and ``units.jsonl``.
        units: Folder that `fit_units` wrote, or a safetensors file of ``centroids``.
        deduplicate: Take equal neighbours together; their number of frames is the duration.
        layer: Where the centroids do not tell theirs: ``last`` or a number.
        allow_other_encoder: Take centroids of another encoder of the same dimension.
        precision: Type to compute in.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        batch_seconds: Audio in a batch, padding included; None takes what suits the encoder.
        overwrite: Replace what no command of ours wrote.

    Raises:
        CheckpointError: The encoder or the centroids cannot be used, or do not belong together.
        ConfigError: An option is wrong.
        DataError: There is nothing that can be read.
        RunError: ``out`` holds something else, or cannot be written.
    """
    place = Path(os.path.expanduser(units))
    codebook = load_codebook(place)
    known = layer if codebook.layer is None else codebook.layer
    if layer is not None and str(layer) != str(known):
        raise ConfigError(f"layer {layer}: the centroids in {units} are of layer {known}")
    if known is None:
        raise ConfigError(
            f"{units} does not tell of which layer its centroids are", hint="say it: --layer 6"
        )
    mode: Mode = codebook.settings.get("mode", "exact")
    listener = Listener(encoder, audio, mode, precision, device, batch_seconds)
    number = listener.layer(known)
    facts = listener.facts()
    _check(codebook, facts, str(encoder), str(units), allow_other_encoder)
    settings = {"layer": number, "deduplicate": deduplicate, **facts}
    file = place / CENTROIDS_NAME if place.is_dir() else place
    inputs = {
        "encoder": settings.pop("encoder_digest"),
        "units": file_digest(file),
        "audio": listener.audio_digest(),
    }
    folder = Path(os.path.expanduser(out))
    job: Any = {"name": "apply-units", "config": settings, "inputs": inputs}
    with overwriting(overwrite), stage(folder, outputs=(KM_NAME, ROWS_NAME), **job) as work:
        if not work.done:
            with kept_lines(work.scratch / _PARTIAL) as rows:
                missing = {n: c for n, c in listener.cuts.items() if n not in rows}
                for name, frames in listener.hear(missing, number, "units"):
                    row = _row(name, codebook.units(frames), deduplicate)
                    rows.add({**row, **({"silent": True} if name in listener.silent else {})})
                if not rows:
                    raise none_usable(listener.failed)
                _write(rows, list(listener.cuts), work.scratch)
            (work.scratch / _PARTIAL).unlink()
    report = ApplyReport(
        str(out), str(encoder), str(units), number, len(codebook.centroids), 0, 0, 0, 0
    )
    report.failed = listener.failed
    _count(folder / ROWS_NAME, listener, report)
    return report


def _check(
    codebook: Codebook, facts: dict[str, Any], encoder: str, units: str, allowed: bool
) -> None:
    """Refuse centroids of another encoder.

    Raises:
        CheckpointError: They are, or have another dimension.
    """
    width, told = codebook.centroids.shape[1], codebook.settings.get("encoder_digest")
    if width != facts["dim"]:
        raise CheckpointError(
            f"the centroids in {units} have dimension {width}, the layers of {encoder} "
            f"{facts['dim']}",
            hint=f"give the encoder that they were made of: {codebook.settings.get('encoder')}",
        )
    if told is None or told == facts["encoder_digest"]:
        return
    text = (
        f"the centroids in {units} are of {codebook.settings.get('encoder')} (sha256 "
        f"{str(told)[:12]}), not of {encoder} (sha256 {facts['encoder_digest'][:12]})"
    )
    if not allowed:
        again = command("units", "fit", encoder, "AUDIO...", out="UNITS")
        raise CheckpointError(
            text, hint=f"fit them anew: {again}; --allow-other-encoder takes them all the same"
        )
    warn(text)


def _row(name: str, units: list[int], deduplicate: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"id": name, "frames": len(units)}
    if not deduplicate:
        return {**row, "units": units}
    kept, durations = without_repeats(units)
    return {**row, "units": kept, "durations": durations}


def _write(rows: KeptLines, names: Iterable[str], folder: Path) -> None:
    """Write the rows in the order of the audio, as JSON lines and as fairseq's lines."""
    with open(folder / ROWS_NAME, "wb") as jsonl, open(folder / KM_NAME, "wb") as km:
        for name in names:
            if name in rows:
                jsonl.write(rows.line(name))
                km.write(" ".join(map(str, rows.row(name)["units"])).encode() + b"\n")


def _count(path: Path, listener: Listener, report: ApplyReport) -> None:
    """Count what was written; rows that an earlier run made tell what was silent, too."""
    used: set[int] = set()
    silent = []
    with reading(path) as file:
        for line in file:
            row = parse_json(line)
            report.utterances += 1
            report.frames += row["frames"]
            report.written += len(row["units"])
            used.update(row["units"])
            if row.get("silent"):
                silent.append(str(listener.cuts[row["id"]].recording.sources[0].source))
    report.used, report.silent = len(used), silent
