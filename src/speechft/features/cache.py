"""Features on disk: pooled statistics and frames, keyed by encoder and audio."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from speechft.data.places import file_of
from speechft.errors import RunError
from speechft.storage.disk import is_regular, sweep
from speechft.storage.files import atomic_write
from speechft.storage.locks import is_unwritable
from speechft.storage.scratch import Names

if TYPE_CHECKING:
    from lhotse.cut import Cut

Codec = Literal["float16", "bfloat16", "int8"]


def audio_key(cut: Cut) -> str:
    """Return a digest of a cut's audio: of its samples if known, else of its file's identity.

    The same audio under another id or in another split has the same key.
    """
    custom = cut.supervisions[0].custom or {} if cut.supervisions else {}
    source = str(cut.recording.sources[0].source)
    identity = custom.get("sha256")
    if identity is None:
        try:
            file = file_of(source)
            status, part = os.stat(file), source.removeprefix(file)
            identity = f"{Path(file).resolve()}{part}:{status.st_size}:{status.st_mtime_ns}"
        except OSError:
            identity = source
    text = f"{identity}:{cut.start:.6f}:{cut.duration:.6f}:{cut.channel}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Room:
    """Bytes that a cache may hold: every key counts once, as much as what it holds now.

    Caches ask before they keep and say what they kept, so that what is charged is what is there,
    however often a key is put and even if writing it failed.

    Args:
        limit: Bytes in all.
        held: Bytes of what is there already, by key.
    """

    def __init__(self, limit: int, held: Mapping[str, int] | None = None) -> None:
        self._limit = limit
        self._held: dict[Any, int] = dict(held or {})
        self.used = sum(self._held.values())

    def fits(self, key: Hashable, size: int) -> bool:
        """Return whether a key may hold so many bytes, in place of what it holds now."""
        return self.used - self._held.get(key, 0) + size <= self._limit

    def hold(self, key: Hashable, size: int) -> None:
        """Note that a key now holds so many bytes, in place of what it held."""
        self.used += size - self._held.get(key, 0)
        self._held[key] = size


class PooledCache:
    """Pooled statistics, (N, D) float32 of each audio, in files that are only ever added.

    Args:
        folder: Where they lie; made when first written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        sweep(folder)  # what a process that was killed had begun
        self._names, self._files = Names(), list[Path]()
        for path in sorted(folder.glob("pooled-*.safetensors")):
            try:
                with _open(path) as file:
                    for name in file.keys():  # noqa: SIM118
                        self._names.add(name)
            except (OSError, SafetensorError):
                continue  # a damaged file holds nothing; what it held is computed again
            self._files.append(path)

    def read(self, keys: Names) -> Iterator[tuple[int, Tensor]]:
        """Yield the statistics that are kept, file by file, each with the number of its key."""
        for path in self._files:
            with _open(path) as file:
                for name in file.keys():  # noqa: SIM118
                    if (number := keys.number(name)) is not None:
                        yield number, file.get_tensor(name)

    def put(self, pooled: Mapping[str, Tensor]) -> None:
        """Add statistics by key, in one new file."""
        new = {key: tensor.contiguous() for key, tensor in pooled.items() if key not in self._names}
        if not new:
            return
        name = hashlib.sha256("".join(sorted(new)).encode()).hexdigest()[:16]
        path = self.folder / f"pooled-{name}.safetensors"
        if not _write(path, save(new)):
            return
        self._files.append(path)
        for key in new:
            self._names.add(key)


class FrameCache:
    """Hidden states of every frame, a file for each audio, up to a quota.

    Args:
        folder: Where they lie; made when first written.
        quota: Bytes; beyond them nothing more is kept. What lies there already counts.
        codec: How values are kept. ``int8``: a scale for each hidden state of each frame.
        seen_as: How values that have no room are rounded, where not as those that are kept.
    """

    def __init__(
        self,
        folder: Path,
        quota: int,
        codec: Codec = "bfloat16",
        *,
        seen_as: Codec | None = None,
    ) -> None:
        self.folder, self.codec, self._seen_as = folder / codec, codec, seen_as or codec
        sweep(self.folder)
        sizes = {path.stem: path.stat().st_size for path in self.folder.glob("*.safetensors")}
        self.room = Room(quota, sizes)
        self._wrong = self._all = 0.0

    @property
    def relative_error(self) -> float:
        """Return the root mean square error of what was written, relative to its values."""
        return (self._wrong / self._all) ** 0.5 if self._all else 0.0

    def as_kept(self, states: Tensor) -> Tensor:
        """Return states as they come back from here, so that a resumed run sees the same."""
        return decode(encode(states, self._seen_as))

    def get(self, key: str) -> Tensor | None:
        """Return the (N, T, D) float16 states of an audio, if they are there."""
        path = self.folder / f"{key}.safetensors"
        try:
            with _open(path) as file:
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None
        return decode(stored)

    def length(self, key: str) -> int | None:
        """Return T of an audio whose states are there, which are not read."""
        try:
            with _open(self.folder / f"{key}.safetensors") as file:
                return int(file.get_slice("values").get_shape()[1])
        except (OSError, SafetensorError):
            return None

    def put(self, key: str, states: Tensor) -> bool:
        """Keep (N, T, D) states if there is room; return whether they are kept.

        What the key held before stays where they do not fit.
        """
        stored = encode(states, self.codec)
        content = save(stored)
        if not self.room.fits(key, len(content)):
            return False
        if not _write(self.folder / f"{key}.safetensors", content):
            return False
        self.room.hold(key, len(content))
        values = states.float()
        self._wrong += float((decode(stored).float() - values).square().sum())
        self._all += float(values.square().sum())
        return True


def _open(path: Path) -> Any:
    """Open a file of a cache, a regular one: safetensors would wait for a pipe.

    Raises:
        OSError: It is something else, or not there.
    """
    if not is_regular(path):
        raise OSError(f"{path} is no regular file")
    return safe_open(path, "pt")


def _write(path: Path, content: bytes) -> bool:
    """Write a file of a cache; return False where the cache may only be read."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(content)
    except (OSError, RunError) as error:
        if not is_unwritable(error):
            raise
        return False
    return True


def encode(states: Tensor, codec: Codec) -> dict[str, Tensor]:
    """Return (N, T, D) states in a smaller form."""
    if codec == "int8":
        scale = states.float().abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
        return {"values": (states.float() / scale).round().to(torch.int8), "scale": scale}
    return {"values": states.to(torch.bfloat16 if codec == "bfloat16" else torch.float16)}


def decode(stored: Mapping[str, Tensor]) -> Tensor:
    """Return (N, T, D) float16 states from their smaller form."""
    values = stored["values"].float()
    if "scale" in stored:
        values = values * stored["scale"]
    return values.half()
