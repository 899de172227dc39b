"""The cuts of a corpus in shards, read shard by shard from a folder or an address."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from speechft.data.places import read_bytes
from speechft.data.waveform import member_address
from speechft.errors import DataError

if TYPE_CHECKING:
    from lhotse.cut import Cut

SHARDED = "shards"
"""Key of ``Corpus.info`` that holds the number of shards by split."""


@dataclass(frozen=True)
class ShardedSplit:
    """The cuts of one sharded split, read shard by shard whenever they are iterated.

    A cut names the bytes that hold its audio; nothing is read before `load_waveform`.
    """

    place: str
    """Folder or address of the corpus."""
    name: str
    shards: int
    size: int
    """Number of cuts."""

    def __len__(self) -> int:
        """Return the number of cuts."""
        return self.size

    def __iter__(self) -> Iterator[Cut]:
        """Yield the cuts.

        Raises:
            DataError: A shard cannot be read.
        """
        for number in range(self.shards):
            yield from _cuts(self.place, self.name, number)


def _cuts(place: str, split: str, number: int) -> Iterator[Cut]:
    from lhotse import AudioSource
    from lhotse.serialization import deserialize_item

    try:
        manifest = read_bytes(f"{place}/{split}/cuts.{number:06d}.jsonl.gz")
        lines = gzip.decompress(manifest).splitlines()
        index = json.loads(read_bytes(f"{place}/index/{split}.{number:06d}.json"))
        if len(lines) != len(index):
            raise ValueError(f"{len(lines)} cuts, {len(index)} recordings")
        tar = f"{place}/{split}/recording.{number:06d}.tar"
        for line, (name, start, size) in zip(lines, index, strict=True):
            cut: Cut = deserialize_item(json.loads(line))
            if cut.id != name:
                raise ValueError(f"cut {cut.id!r} stands beside the recording of {name!r}")
            channels = cut.recording.channel_ids
            source = AudioSource("url", channels, member_address(tar, start, size))
            cut.recording.sources = [source]
            yield cut
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"shard {number} of {place}/{split} cannot be read: {error}",
            hint="export the corpus again",
        ) from None
