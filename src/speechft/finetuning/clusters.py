"""Targets of pre-training: clusters of MFCC, or of a layer of an encoder, by all processes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from speechft.console import log, progress_bar
from speechft.data.batching import PAD_TO, read_waveforms
from speechft.data.kept_cuts import Cuts
from speechft.devices import autocast, pick_device, resolve_precision, returning_memory
from speechft.encoders.base import Encoder
from speechft.encoders.load import FEATURES, load_encoder
from speechft.errors import DataError, RunError
from speechft.features.extract import count_frames
from speechft.finetuning.config import Targets
from speechft.finetuning.distributed import Group
from speechft.finetuning.targets import (
    CLUSTERS_NAME,
    RowFile,
    TargetFiles,
    are_whole,
    write_index,
)
from speechft.storage.files import atomic_write
from speechft.units.clustering import BATCH, assign, fit_centroids

if TYPE_CHECKING:
    from lhotse.cut import Cut

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]

_TOGETHER = 16
"""Utterances that are encoded at once."""
_CENTROIDS_NAME, _FRAMES_NAME = "centroids.npy", "frames.f32"


def make_targets(
    targets: Targets, cuts: Sequence[Cut], folder: Path, seed: int, group: Group | None = None
) -> TargetFiles:
    """Cluster the frames of clean speech; what is made is kept in ``folder``.

    The utterances are shared out by groups that do not depend on the number of processes, so that
    every number of them makes the same targets to the bit.

    Args:
        targets: What is clustered.
        cuts: The utterances.
        folder: One that all processes see.
        seed: Of the frames that k-means is fitted on, and of its starts.
        group: The processes that do it together; None for this one alone.

    Raises:
        DataError: There is no such layer, or there are fewer frames than clusters.
        RunError: The frames that k-means is fitted on do not fit on the disk, or a process does not
            see the folder.
    """
    group = group or Group()
    if not group.of_first(are_whole(folder)):
        if group.is_first:
            folder.mkdir(parents=True, exist_ok=True)
        group.wait()
        if not folder.is_dir():
            raise RunError(
                f"{folder} is not on this host: targets are made and read there by all processes",
                hint="give an --out on a disk that all hosts see",
            )
        _Making(targets, load_source(targets), cuts, folder, seed, group).run()
    group.wait()
    return TargetFiles(folder)


def load_source(targets: Targets) -> Encoder:
    """Load what is clustered.

    Raises:
        DataError: It has no such layer.
    """
    encoder = load_encoder(targets.source)
    if not 0 <= targets.layer <= encoder.num_layers:
        raise DataError(f"{targets.source} has hidden states 0 to {encoder.num_layers}")
    return encoder


def row_bytes(dim: int) -> int:
    """Return how many bytes on the disk a frame takes while targets are made."""
    return 4 * dim


class _Making:
    """Frames of a sample go to a file, k-means reads it, and every frame gets its cluster.

    Frames beyond the sample are kept as well where a processor makes them and half of the free disk
    has room; else their utterances are encoded a second time. Frames are rounded to float16 and
    stored as float32, which k-means reads as they are.
    """

    def __init__(
        self,
        targets: Targets,
        encoder: Encoder,
        cuts: Sequence[Cut],
        folder: Path,
        seed: int,
        group: Group,
    ) -> None:
        self.targets, self.cuts, self.folder, self.seed = targets, Cuts.of(cuts), folder, seed
        self.group, self.device = group, pick_device()
        precision = "fp32" if targets.source in FEATURES else "auto"
        self.precision = resolve_precision(precision, self.device)  # type: ignore[arg-type]
        self.encoder = encoder.to(self.device)
        self.counts: Numbers = np.array(count_frames(encoder, self.cuts), np.int64)
        self.order = np.argsort(self.cuts.seconds, kind="stable")
        self.frames = RowFile(folder / _FRAMES_NAME, np.float32, encoder.dim)
        self.clusters = RowFile(folder / CLUSTERS_NAME, np.int16, 1)
        self.places: Numbers = np.full(len(cuts), -1)
        """First row of each cut's frames in the file; -1 where they are not kept."""
        self.sampled = 0
        """Rows of the sample; they are the first ones."""

    def run(self) -> None:
        """Do all of it."""
        path = self.folder / _CENTROIDS_NAME
        if not self.group.of_first(path.is_file()):
            self._plan()
            self._gather()
            centroids = self._fitted()
            if self.group.is_first:
                with atomic_write(path) as file:
                    np.save(file, centroids)
            self.group.wait()
        self._assign(np.load(path))
        if self.group.is_first:
            write_index(self.folder, self.cuts.ids, self.counts)
            self.frames.path.unlink(missing_ok=True)

    def _plan(self) -> None:
        """Draw whole utterances until there are enough frames, and say what is kept where."""
        drawn = self.order.copy()
        np.random.default_rng(self.seed).shuffle(drawn)
        enough = np.searchsorted(np.cumsum(self.counts[drawn]), self.targets.fit_frames) + 1
        rows = np.cumsum(self.counts[drawn]) - self.counts[drawn]
        self.sampled = int(self.counts[drawn[:enough]].sum())
        row = row_bytes(self.encoder.dim)
        free = self.group.of_first(_free(self.folder))
        if self.sampled * row > free:
            raise RunError(
                f"k-means is to be fitted on {self.sampled} frames, {self.sampled * row / 1e9:.1f} "
                f"GB, but {self.folder} has room for {free / 1e9:.1f} GB",
                hint="lower targets.fit_frames, or choose another folder with --out",
            )
        whole = int(self.counts.sum())
        keeps_all = self.device.type == "cpu" and whole * row <= free // 2
        kept = drawn if keeps_all else drawn[:enough]
        self.places[kept] = rows[: len(kept)]
        total = int(self.counts[kept].sum())
        log(
            f"targets: frames of {len(kept)} of {len(self.cuts)} utterances, "
            f"{total * row / 1e9:.2f} GB, lie in {self.frames.path} meanwhile"
            + ("" if len(kept) == len(self.cuts) else "; the others are encoded twice")
        )
        if self.group.is_first:
            self.frames.make(total)
        self.group.wait()

    def _gather(self) -> None:
        """Encode what is kept."""
        for members in self._shares("target features", only_kept=True):
            for number, rows in self._encoded(members):
                if self.places[number] >= 0:
                    self.frames.write(int(self.places[number]), rows)
        self.frames.close()
        self.group.wait()

    def _fitted(self) -> Floats:
        """Fit the centroids: mini-batches on the first process, then passes on all of them.

        The sums of a pass are exact: frames are float16, multiples of 2**-24 below 2**16, and
        float64 holds their sums without rounding up to 2**29. So the order of the sums does not
        matter, and neither does the number of processes.
        """
        rows = self.frames.rows(self.sampled)
        clusters, centroids = self.targets.clusters, np.zeros((0, 0), np.float32)
        if self.group.is_first:
            log(f"k-means: {clusters} clusters on {len(rows)} frames of {self.targets.source}")
            centroids = fit_centroids(rows, clusters, self.seed)
        found = self.group.of_first(centroids)
        for _ in range(self.targets.passes):
            sums = np.zeros((clusters, self.encoder.dim + 1))
            for start in range(self.group.rank * BATCH, len(rows), self.group.size * BATCH):
                piece = rows[start : start + BATCH].astype(np.float64)
                nearest = assign(piece, found)[0]
                np.add.at(sums[:, :-1], nearest, piece)
                sums[:, -1] += np.bincount(nearest, minlength=clusters)
            sums = self.group.total(sums)
            sizes = sums[:, -1:]
            means = (sums[:, :-1] / np.maximum(sizes, 1)).astype(np.float32)
            found = np.where(sizes > 0, means, found)
        return found

    def _assign(self, centroids: Floats) -> None:
        """Give every frame its cluster."""
        starts = np.cumsum(self.counts) - self.counts
        if self.group.is_first:
            self.clusters.make(int(self.counts.sum()))
        self.group.wait()
        for members in self._shares("targets", only_kept=False):
            for number, rows in self._read(members):
                nearest = assign(rows, centroids)[0]
                self.clusters.write(int(starts[number]), nearest[:, None])
        self.clusters.close()
        self.group.wait()

    def _shares(self, description: str, *, only_kept: bool) -> Iterator[Numbers]:
        """Yield this process's share of the groups of utterances, each the numbers of its cuts."""
        groups = [self.order[n : n + _TOGETHER] for n in range(0, len(self.order), _TOGETHER)]
        if only_kept:
            groups = [members for members in groups if (self.places[members] >= 0).any()]
        own = groups[self.group.rank :: self.group.size]
        with progress_bar(description, len(own)) as bar:
            for members in returning_memory(own, self.device):
                yield members
                bar.advance()

    def _read(self, members: Numbers) -> Iterator[tuple[int, Any]]:
        """Yield the number of each cut and its frames (T, D), kept ones from the file."""
        if (self.places[members] < 0).any():
            yield from self._encoded(members)
            return
        rows = self.frames.rows(int(self.counts.sum()))
        for number in members.tolist():
            first = int(self.places[number])
            yield number, rows[first : first + int(self.counts[number])]

    def _encoded(self, members: Numbers) -> Iterator[tuple[int, Any]]:
        """Encode utterances together; yield the number of each and its frames (T, D), float16."""
        cuts = [self.cuts[number] for number in members.tolist()]
        waveforms, lengths = read_waveforms(cuts, PAD_TO)
        with torch.inference_mode(), autocast(self.precision, self.device):
            output = self.encoder(waveforms.to(self.device), lengths.to(self.device))
        layer = output.layers[self.targets.layer].float().cpu()
        found = output.lengths.tolist()
        for number, cut, row, count in zip(members.tolist(), cuts, layer, found, strict=True):
            if count != self.counts[number]:
                raise DataError(
                    f"utterance {cut.id} has {count} frames, by its manifest {self.counts[number]}",
                    hint="prepare the corpus again",
                )
            yield number, row[:count].numpy().astype(np.float16)


def _free(folder: Path) -> int:
    """Return the free bytes of the disk that a folder lies on."""
    return shutil.disk_usage(folder).free if folder.is_dir() else 0
