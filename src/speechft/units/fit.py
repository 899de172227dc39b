"""Fit k-means to a sample of a layer's frames, of speech of any amount in flat memory.

Which frames are taken is drawn before anything is encoded: every set of so many frames is as likely
as any other. They lie in a file; an interrupted run goes on with the utterances that lack.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from speechft.arguments import Paths
from speechft.console import log
from speechft.data.labels import phones_of
from speechft.devices import Precision
from speechft.encoders.base import Mode
from speechft.encoders.timing import FrameTiming
from speechft.errors import ConfigError, unknown_choice
from speechft.features.extract import count_frames
from speechft.features.items import none_usable
from speechft.naming import public_name
from speechft.runs import stage
from speechft.storage.files import read_json, write_json
from speechft.storage.outputs import overwriting
from speechft.storage.uploads import moved_up
from speechft.units.clustering import Agreement, agreement, assign, fit_centroids
from speechft.units.codebook import CENTROIDS_NAME, SETTINGS_NAME, Codebook
from speechft.units.listening import Frames, Listener

if TYPE_CHECKING:
    from lhotse.cut import Cut

Normalise = Literal["none", "standard"]
NORMALISATIONS: tuple[Normalise, ...] = ("none", "standard")
_PIECE = 1 << 16
"""Frames that are read at once."""
_NOTED = 30.0
"""Seconds after which the progress is noted."""


@dataclass
class FitReport:
    """What was fitted, to what."""

    out: str
    encoder: str
    encoder_digest: str
    layer: int
    clusters: int
    dim: int
    frames: int
    """That k-means was fitted to."""
    frames_heard: int
    """Of all utterances, by their lengths."""
    utterances: int
    inertia: float
    """Mean squared distance of these frames to their centroid."""
    explained: float
    """Share of their variance that the centroids explain."""
    empty: int
    """Centroids that none of these frames is nearest to."""
    agreement: Agreement | None
    """With phones, where the speech has them."""
    failed: dict[str, str] = field(default_factory=dict)
    """What is wrong with the files that were not used, by path."""
    silent: list[str] = field(default_factory=list)
    """Files of which every sample is 0, which were not used."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the report for people, one fact a line."""
        lines = [
            f"encoder {self.encoder} (sha256 {self.encoder_digest[:12]}), layer {self.layer}, "
            f"dimension {self.dim}",
            f"wrote {self.clusters} centroids to {self.out}: fitted to {self.frames} of "
            f"{self.frames_heard} frames of {self.utterances} utterances, {self.inertia:.4g} mean "
            f"squared distance, {100 * self.explained:.1f} % of the variance explained",
        ]
        if self.empty:
            lines.append(f"{self.empty} of the centroids are nearest to none of these frames")
        if self.agreement is not None:
            found = self.agreement
            lines.append(
                f"against {found.phones} phones: phone purity {found.phone_purity:.3f}, cluster "
                f"purity {found.cluster_purity:.3f}, PNMI {found.pnmi:.3f}"
            )
        if self.silent:
            lines.append(f"{len(self.silent)} silent files were not used: {_some(self.silent)}")
        return lines


@moved_up("out")
def fit_units(
    encoder: str | Path,
    audio: Paths,
    out: str | Path,
    *,
    layer: str | int = "last",
    clusters: int = 100,
    frames: int = 500_000,
    normalise: Normalise = "none",
    seed: int = 0,
    mode: Mode = "exact",
    precision: Precision = "fp32",
    device: str = "auto",
    batch_seconds: float | None = None,
    overwrite: bool = False,
) -> FitReport:
    """Fit the centroids of discrete units; resumable.

    Writes ``centroids.safetensors`` and ``units.json``.

    Args:
        encoder: As `load_encoder` takes it.
        audio: Files, folders, tables and manifests, see `find_sources`.
        out: Folder.
        layer: ``last`` or a number; 0 is the input of the first layer.
        clusters: K.
        frames: That k-means is fitted to at most; memory and a file beside grow with them.
        normalise: ``standard`` subtracts the mean of each dimension and divides by its deviation.
        seed: Of the frames, the starts and the steps.
        mode: ``exact`` or ``s3prl``.
        precision: Type to compute in.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        batch_seconds: Audio in a batch, padding included; None takes what suits the encoder.
        overwrite: Replace what no command of ours wrote.

    Raises:
        CheckpointError: The encoder cannot be used.
        ConfigError: An option is wrong.
        DataError: There is nothing to hear, or less than so many frames.
        RunError: ``out`` holds something else, or cannot be written.
    """
    if normalise not in NORMALISATIONS:
        raise unknown_choice("normalisation", normalise, NORMALISATIONS)
    if clusters < 2 or frames < clusters:
        raise ConfigError(
            f"{clusters} clusters of {frames} frames: there are 2 clusters at least, and as many "
            "frames as clusters"
        )
    listener = Listener(encoder, audio, mode, precision, device, batch_seconds)
    number = listener.layer(layer)
    facts = listener.facts()
    settings = {
        "layer": number,
        "clusters": clusters,
        "frames": frames,
        "normalise": normalise,
        "seed": seed,
        **{name: value for name, value in facts.items() if name != "encoder_digest"},
    }
    inputs = {"encoder": facts["encoder_digest"], "audio": listener.audio_digest()}
    folder = Path(os.path.expanduser(out))
    job: Any = {"name": "units", "config": settings, "inputs": inputs}
    names = (CENTROIDS_NAME, SETTINGS_NAME)
    with overwriting(overwrite), stage(folder, outputs=names, costly=True, **job) as work:
        if not work.done:
            sample = _Sample(work.scratch, listener, number, frames, seed)
            sample.gather()
            found = _fitted(sample, clusters, normalise, seed)
            told = {
                "encoder": public_name(encoder),
                "encoder_digest": facts["encoder_digest"],
                **settings,
                **found.settings,
            }
            Codebook(found.centroids, found.mean, found.scale, told).save(work.scratch)
            sample.remove()
    told = read_json(folder / SETTINGS_NAME)
    known = told["agreement"]
    return FitReport(
        str(out),
        str(encoder),
        facts["encoder_digest"],
        number,
        clusters,
        facts["dim"],
        told["fitted_frames"],
        told["frames_heard"],
        told["utterances"],
        told["inertia"],
        told["explained"],
        told["empty"],
        None if known is None else Agreement(**known),
        listener.failed,
        sorted(listener.silent.values()),
    )


def draw_frames(counts: Sequence[int], most: int, seed: int) -> list[npt.NDArray[np.int64]]:
    """Return the numbers of the frames of each utterance that are taken, all where they are few.

    Args:
        counts: Frames of each utterance.
        most: Frames in all.
        seed: Of the draw.
    """
    if sum(counts) <= most:
        return [np.arange(count) for count in counts]
    rng = np.random.default_rng(seed)
    shares = rng.multivariate_hypergeometric(list(counts), most, method="marginals")
    return [
        np.sort(rng.choice(count, share, replace=False))
        for count, share in zip(counts, shares, strict=True)
    ]


class _Sample:
    """Frames of a draw in a file, and which utterances were heard already."""

    def __init__(self, folder: Path, listener: Listener, layer: int, most: int, seed: int) -> None:
        self.listener, self._layer, self._folder = listener, layer, folder
        self.names = list(listener.cuts)
        counts = count_frames(listener.model, list(listener.cuts.values()))
        self.heard = sum(counts)
        self.chosen = dict(zip(self.names, draw_frames(counts, most, seed), strict=True))
        ends = np.cumsum([0, *(len(rows) for rows in self.chosen.values())])
        self._starts = dict(zip(self.names, ends[:-1].tolist(), strict=True))
        self._notes = folder / "heard.json"
        known = read_json(self._notes) if self._notes.is_file() else {"heard": [], "silent": []}
        fresh = not known["heard"]
        shape = (int(ends[-1]), listener.model.dim)
        self.frames = self._mapped("frames.f32", np.float32, shape, fresh)
        self.valid = self._mapped("valid.u8", np.uint8, shape[:1], fresh)
        """Whether a row holds a frame: 0 where the utterance is silent, unreadable or shorter."""
        self._heard = set(known["heard"])
        places = {name: listener.cuts[name] for name in known["silent"]}
        listener.silent |= {n: str(c.recording.sources[0].source) for n, c in places.items()}

    def _mapped(self, name: str, kind: Any, shape: tuple[int, ...], fresh: bool) -> Any:
        path = self._folder / name
        return _mapped(path, kind, shape, fresh or not path.is_file())

    def gather(self) -> None:
        """Hear what was not heard yet."""
        cuts = {
            name: cut
            for name, cut in self.listener.cuts.items()
            if name not in self._heard and len(self.chosen[name])
        }
        noted = time.monotonic()
        for name, frames in self.listener.hear(cuts, self._layer, "frames for units"):
            rows = self.chosen[name]
            rows = rows[rows < len(frames)]
            first = self._starts[name]
            if name not in self.listener.silent:
                self.frames[first : first + len(rows)] = frames[rows]
                self.valid[first : first + len(rows)] = 1
            self._heard.add(name)
            if time.monotonic() - noted > _NOTED:
                self._note()
                noted = time.monotonic()
        self._note()
        if not self.valid.any():
            silent = dict.fromkeys(self.listener.silent.values(), "is silent")
            raise none_usable({**self.listener.failed, **silent})

    def _note(self) -> None:
        self.frames.flush()
        self.valid.flush()
        known = {"heard": sorted(self._heard), "silent": sorted(self.listener.silent)}
        write_json(self._notes, known)

    def packed(self, mean: Frames, scale: Frames) -> Any:
        """Return the valid frames, standardised, in a file of their own."""
        count = int(np.count_nonzero(self.valid))
        path = self._folder / "packed.f32"
        packed = _mapped(path, np.float32, (count, self.frames.shape[1]), True)
        done = 0
        for rows in self.pieces():
            packed[done : done + len(rows)] = (rows - mean) / scale
            done += len(rows)
        return packed

    def pieces(self) -> Any:
        """Yield the valid frames in pieces."""
        for start in range(0, len(self.frames), _PIECE):
            kept = self.valid[start : start + _PIECE] > 0
            yield self.frames[start : start + _PIECE][kept]

    def phones(self) -> list[str | None]:
        """Return the phone at the middle of every valid frame; None where there is none."""
        timing, found = self.listener.model.timing, list[str | None]()
        for name in self.names:
            first, rows = self._starts[name], self.chosen[name]
            kept = rows[self.valid[first : first + len(rows)] > 0]
            found += _phones_at(self.listener.cuts[name], kept, timing)
        return found

    def remove(self) -> None:
        """Remove the files: what is left is published."""
        del self.frames, self.valid
        for name in ("frames.f32", "valid.u8", "packed.f32", "heard.json"):
            (self._folder / name).unlink(missing_ok=True)


def _mapped(path: Path, kind: Any, shape: tuple[int, ...], fresh: bool) -> Any:
    """Map a file; a new one has all its room, for a full disk is not told through memory."""
    if fresh:
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, math.prod(shape) * np.dtype(kind).itemsize)
    return np.memmap(path, kind, "r+", shape=shape)


def _phones_at(cut: Cut, frames: npt.NDArray[np.int64], timing: FrameTiming) -> list[str | None]:
    phones = sorted(phones_of(cut), key=lambda phone: phone[1]) if cut.supervisions else []
    if not phones:
        return [None] * len(frames)
    times = timing.centre_seconds + frames * timing.hop_seconds
    places = np.searchsorted([start for _, start, _ in phones], times, side="right") - 1
    return [
        phones[place][0] if place >= 0 and moment < phones[place][2] else None
        for place, moment in zip(places.tolist(), times.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class _Fitted:
    centroids: Frames
    mean: Frames
    scale: Frames
    settings: Mapping[str, Any]


def _fitted(sample: _Sample, clusters: int, normalise: Normalise, seed: int) -> _Fitted:
    """Run k-means on a sample, and measure it."""
    width = sample.frames.shape[1]
    count, total, squares = 0, np.zeros(width), np.zeros(width)
    for rows in sample.pieces():
        wide = rows.astype(np.float64)
        count, total = count + len(rows), total + wide.sum(axis=0)
        squares += np.square(wide).sum(axis=0)
    average = total / count
    variance = np.maximum(squares / count - np.square(average), 0.0)
    mean, scale = np.zeros(width, np.float32), np.ones(width, np.float32)
    if normalise == "standard":
        deviation = np.sqrt(variance)
        mean = average.astype(np.float32)
        scale = np.where(deviation > 1e-8, deviation, 1.0).astype(np.float32)
    packed = sample.packed(mean, scale)
    log(f"k-means: {clusters} clusters on {count} frames")
    centroids = fit_centroids(packed, clusters, seed)
    units = np.empty(count, np.int32)
    lost = 0.0
    for start in range(0, count, _PIECE):
        nearest, distances = assign(packed[start : start + _PIECE], centroids)
        units[start : start + _PIECE] = nearest
        lost += float(distances.sum())
    whole = float((variance / np.square(scale.astype(np.float64))).sum()) * count
    named = [(u, p) for u, p in zip(units.tolist(), sample.phones(), strict=True) if p is not None]
    found = agreement([u for u, _ in named], [p for _, p in named]) if named else None
    told = {
        "fitted_frames": count,
        "frames_heard": sample.heard,
        "utterances": len(sample.names) - len(sample.listener.silent),
        "inertia": lost / count,
        "explained": 1 - lost / whole if whole else 0.0,
        "empty": clusters - len(np.unique(units)),
        "agreement": None if found is None else asdict(found),
    }
    return _Fitted(centroids, mean, scale, told)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
