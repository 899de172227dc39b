"""Targets of pre-training: clusters of MFCC, or of a layer of an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from speechft.console import log, progress_bar
from speechft.data.batching import PAD_TO, read_waveforms
from speechft.devices import autocast, pick_device, resolve_precision
from speechft.disk import reading
from speechft.encoders.load import FEATURES, load_encoder
from speechft.errors import DataError
from speechft.files import atomic_write
from speechft.finetuning.config import Targets
from speechft.units.clustering import assign, fit_centroids


def make_targets(
    targets: Targets, cuts: Any, path: Path, seed: int, batch: int = 16
) -> Mapping[str, npt.NDArray[np.int16]]:
    """Cluster the frames of clean speech; the result is kept in ``path``.

    Returns:
        Cluster of every frame, (T,), by cut id.
    """
    if path.exists():
        with reading(path) as kept, np.load(kept) as stored:
            flat, ids, sizes = stored["flat"], stored["ids"], stored["sizes"]
        return dict(zip(ids.tolist(), np.split(flat, np.cumsum(sizes)[:-1]), strict=True))
    device = pick_device()
    precision = resolve_precision("fp32" if targets.source in FEATURES else "auto", device)
    encoder = load_encoder(targets.source).to(device)
    if not 0 <= targets.layer <= encoder.num_layers:
        raise DataError(f"{targets.source} has hidden states 0 to {encoder.num_layers}")
    ordered = sorted(cuts, key=lambda cut: cut.duration)
    frames: dict[str, npt.NDArray[np.float16]] = {}
    with torch.inference_mode(), progress_bar("target features", len(ordered)) as bar:
        for first in range(0, len(ordered), batch):
            group = ordered[first : first + batch]
            waveforms, lengths = read_waveforms(group, PAD_TO)
            with autocast(precision, device):
                output = encoder(waveforms.to(device), lengths.to(device))
            layer = output.layers[targets.layer].float().cpu()
            for cut, row, count in zip(group, layer, output.lengths.tolist(), strict=True):
                frames[cut.id] = row[:count].numpy().astype(np.float16)
            bar.advance(len(group))
    clusters = _kmeans(targets, frames, seed)
    ids, sizes = list(clusters), [len(row) for row in clusters.values()]
    with atomic_write(path) as file:
        np.savez(file, flat=np.concatenate(list(clusters.values())), ids=ids, sizes=sizes)
    return clusters


def _kmeans(
    targets: Targets, frames: Mapping[str, npt.NDArray[np.float16]], seed: int
) -> dict[str, npt.NDArray[np.int16]]:
    rng = np.random.default_rng(seed)
    names = list(frames)
    rng.shuffle(names)
    chosen, total = [], 0
    for name in names:
        chosen.append(frames[name])
        total += len(frames[name])
        if total >= targets.fit_frames:
            break
    data = np.concatenate(chosen).astype(np.float32)
    log(f"k-means: {targets.clusters} clusters on {len(data)} frames of {targets.source}")
    centroids = fit_centroids(data, targets.clusters, seed)
    return {name: assign(row, centroids)[0].astype(np.int16) for name, row in frames.items()}
