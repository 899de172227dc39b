"""Outputs of the frozen downsampler, kept in memory for all encoders that have the same one."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from torch import Tensor

from speechft.devices import Resolved
from speechft.encoders.base import Encoder
from speechft.features.cache import Room, audio_key

if TYPE_CHECKING:
    from lhotse.cut import Cut


class DownsamplerCache:
    """Outputs of the frozen downsampler in memory, shared by all encoders that have the same one.

    Stable fine-tuning and interpolation leave the downsampler as it was, so pre-trained, tuned and
    merged encoders share it bit for bit. Outputs are known by their audio: cuts of several corpora
    may have the same id.

    Args:
        limit_bytes: Beyond this nothing more is kept.
    """

    def __init__(self, limit_bytes: int = 4 << 30) -> None:
        self._store: dict[tuple[str, str], tuple[Tensor, int]] = {}
        self.room = Room(limit_bytes)

    def get(self, key: str, cut: Cut) -> tuple[Tensor, int] | None:
        """Return the (T, C) output and the number of samples of a cut, if it is kept."""
        return self._store.get((key, audio_key(cut)))

    def put(self, key: str, cut: Cut, features: Tensor, samples: int) -> None:
        """Keep the (T, C) output of a cut while there is room, else what was kept before."""
        place = key, audio_key(cut)
        size = features.numel() * features.element_size()
        if self.room.fits(place, size):
            self._store[place] = features.clone(), samples
            self.room.hold(place, size)


def downsampler_key(encoder: Encoder, precision: Resolved = "fp32") -> str | None:
    """Return a digest of the downsampler's weights and precision; None where nothing is kept.

    It has no weights, or its output over a whole window is read, not the utterance's frames alone.
    """
    names = encoder.downsampler_names()
    if not names or encoder.window is not None:
        return None
    digest = hashlib.sha256(f"{precision} {encoder.downsampler_settings()}".encode())
    for name, parameter in encoder.named_parameters():
        if name in names:
            digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
