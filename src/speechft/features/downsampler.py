"""Outputs of the frozen downsampler, kept for all encoders that have the same one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from speechft.devices import Resolved
from speechft.encoders.base import Encoder
from speechft.features.cache import Room, audio_key
from speechft.features.kept import Timed
from speechft.storage.scratch import Names, Rows

if TYPE_CHECKING:
    from lhotse.cut import Cut


class DownsamplerCache:
    """Outputs of the frozen downsampler, shared by all encoders that have the same one.

    Stable fine-tuning and interpolation leave the downsampler as it was, so pre-trained, tuned and
    merged encoders share it bit for bit. Outputs are known by their audio: cuts of several corpora
    may have the same id.

    Args:
        limit_bytes: On disk; beyond this nothing more is kept.
    """

    def __init__(self, limit_bytes: int = 4 << 30) -> None:
        self._store = Timed()
        self.room = Room(limit_bytes)

    def get(self, key: str, cut: Cut) -> tuple[Tensor, int] | None:
        """Return the (T, C) output and the number of samples of a cut, if it is kept."""
        return self.of(key, audio_key(cut))

    def of(self, key: str, audio: str) -> tuple[Tensor, int] | None:
        """Return the same by the `audio_key` of a cut."""
        return self._store.get(f"{key} {audio}")

    def has(self, key: str, cut: Cut) -> bool:
        """Return whether the output of a cut is kept."""
        return f"{key} {audio_key(cut)}" in self._store

    def put(self, key: str, cut: Cut, features: Tensor, samples: int) -> None:
        """Keep the (T, C) output of a cut while there is room, else what was kept before."""
        place = f"{key} {audio_key(cut)}"
        size = features.numel() * features.element_size()
        if self.room.fits(place, size):
            self._store.add(place, features, samples)
            self.room.hold(place, size)


class Downsampled(Mapping[str, tuple[Tensor, int]]):
    """Outputs of a downsampler and samples by cut id, read when they are asked for.

    Args:
        cache: Holds them by audio.
        key: Of the downsampler.
        cuts: What they are of.
        own: Those that the cache had no room for.
    """

    def __init__(self, cache: DownsamplerCache, key: str, cuts: Iterable[Cut], own: Timed) -> None:
        self._cache, self._key, self._own = cache, key, own
        self._ids, self._audio = Names(), Rows()
        for cut in cuts:
            known = len(self._ids)
            if self._ids.add(cut.id) == known:
                self._audio.add(audio_key(cut).encode())

    def __len__(self) -> int:
        """Return the number of cuts."""
        return len(self._ids)

    def __iter__(self) -> Iterator[str]:
        """Yield their ids."""
        return iter(self._ids)

    def __contains__(self, name: object) -> bool:
        """Return whether there is a cut of an id."""
        return name in self._ids

    def __getitem__(self, name: str) -> tuple[Tensor, int]:
        """Return the (T, C) output and the number of samples of a cut."""
        number = self._ids.number(name)
        if number is None:
            raise KeyError(name)
        if name in self._own:
            return self._own[name]
        found = self._cache.of(self._key, self._audio[number].decode())
        assert found is not None
        return found


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
