"""The cuts of a corpus in shards, read shard by shard from a folder or an address."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from speechft.data.cuts import to_lhotse
from speechft.data.places import below, part_of, read_bytes
from speechft.errors import DataError
from speechft.storage.documents import parse_json, read_lines

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

    try:
        lines = list(read_lines(read_bytes(below(place, f"{split}/cuts.{number:06d}.jsonl.gz"))))
        index = parse_json(read_bytes(below(place, f"index/{split}.{number:06d}.json")))
        if not isinstance(index, list):
            raise ValueError(f"its index is {type(index).__name__}, expected a list")
        if len(lines) != len(index):
            raise ValueError(f"{len(lines)} cuts, {len(index)} recordings")
        tar = below(place, f"{split}/recording.{number:06d}.tar")
        for line_number, (line, entry) in enumerate(zip(lines, index, strict=True)):
            name, start, size = _entry(entry)
            cut = to_lhotse(_without_source(parse_json(line)), line_number)
            if cut.id != name:
                raise ValueError(f"cut {cut.id!r} stands beside the recording of {name!r}")
            channels = cut.recording.channel_ids
            source = AudioSource("url", channels, part_of(tar, start, size))
            cut.recording.sources = [source]
            yield cut
    except (OSError, ValueError) as error:
        raise DataError(
            f"shard {number} of {place}/{split} cannot be read: {error}",
            hint="export the corpus again",
        ) from None


def _entry(entry: Any) -> tuple[str, int, int]:
    if isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str):
        name, start, size = entry
        if all(type(n) is int and n >= 0 for n in (start, size)):
            return name, start, size
    raise ValueError(f"{entry!r} is none of its entries: name, first byte and bytes")


def _without_source(item: Any) -> Any:
    """Return a cut whose placeholder of Shar is that of a file: the index says where it lies."""
    recording = item.get("recording") if isinstance(item, dict) else None
    sources = recording.get("sources") if isinstance(recording, dict) else None
    if isinstance(sources, list) and len(sources) == 1 and isinstance(sources[0], dict):
        if sources[0].get("type") != "shar":
            raise ValueError(f"a source of type {sources[0].get('type')!r}, expected 'shar'")
        sources[0] |= {"type": "file", "source": "in the tar"}
    return item
