"""Centroids and what they were made of, in a folder: ``centroids.safetensors``, ``units.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from speechft.errors import CheckpointError
from speechft.storage.files import atomic_write, read_json, write_json
from speechft.storage.headers import sorted_metadata
from speechft.units.clustering import assign

CENTROIDS_NAME = "centroids.safetensors"
SETTINGS_NAME = "units.json"

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Codebook:
    """K centroids of dimension D."""

    centroids: Array
    """(K, D), of frames as `standardised` makes them."""
    mean: Array
    """(D,) subtracted from a frame first; 0 where nothing is."""
    scale: Array
    """(D,) that it is divided by then; 1 where nothing is."""
    settings: dict[str, Any]
    """Encoder with its digest, layer, seed and what else the centroids depend on."""

    @property
    def layer(self) -> int | None:
        """Number of the hidden state; None where nothing tells."""
        layer = self.settings.get("layer")
        return layer if isinstance(layer, int) else None

    def standardised(self, frames: Array) -> Array:
        """Return (F, D) frames as they are compared with the centroids."""
        return (frames - self.mean) / self.scale

    def units(self, frames: Array) -> list[int]:
        """Return the unit of each of (F, D) frames."""
        nearest: list[int] = assign(self.standardised(frames), self.centroids)[0].tolist()
        return nearest

    def save(self, folder: Path) -> None:
        """Write both files."""
        from safetensors.numpy import save

        tensors = {"centroids": self.centroids, "mean": self.mean, "scale": self.scale}
        with atomic_write(folder / CENTROIDS_NAME) as file:
            file.write(sorted_metadata(save(tensors, metadata={"format": "np"})))
        write_json(folder / SETTINGS_NAME, self.settings)


def load_codebook(place: Path) -> Codebook:
    """Read a folder that ``units fit`` wrote, or a bare safetensors file of ``centroids``.

    Nothing is unpickled: fairseq's k-means models are pickles of scikit-learn, which may run code.

    Raises:
        CheckpointError: There are no centroids, or they are damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    file = place / CENTROIDS_NAME if place.is_dir() else place
    if not file.is_file():
        raise CheckpointError(
            f"{place} holds no {CENTROIDS_NAME}", hint="give the folder that units fit wrote"
        )
    if file.suffix != ".safetensors":
        raise CheckpointError(
            f"{file} is no safetensors file; k-means models of scikit-learn are pickles, which may "
            "run code, and are not opened",
            hint="where you trust it: safetensors.numpy.save_file({'centroids': "
            "joblib.load(FILE).cluster_centers_.astype('float32')}, 'centroids.safetensors')",
        )
    try:
        stored = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged: {str(error).splitlines()[0]}") from None
    centroids = stored.get("centroids")
    if centroids is None or centroids.ndim != 2 or not centroids.size:
        raise CheckpointError(f"{file} has no tensor 'centroids' of clusters by dimensions")
    width = centroids.shape[1]
    mean = stored.get("mean", np.zeros(width, np.float32))
    scale = stored.get("scale", np.ones(width, np.float32))
    parts = (centroids, mean, scale)
    fits = mean.shape == scale.shape == (width,) and all(p.dtype.kind == "f" for p in parts)
    if not fits or not all(np.isfinite(p).all() for p in parts) or not (scale > 0).all():
        raise CheckpointError(f"{file} holds centroids that are not finite, or do not go together")
    beside = file.with_name(SETTINGS_NAME)
    settings = read_json(beside) if beside.is_file() else {}
    if not isinstance(settings, dict):
        raise CheckpointError(f"{beside} does not hold what units fit writes")
    centroids, mean, scale = (part.astype(np.float32) for part in parts)
    return Codebook(centroids, mean, scale, settings)
