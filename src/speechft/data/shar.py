"""Writes corpora as Lhotse Shar: audio in tar files that a cluster streams (see `shards`).

Each split is a folder of shards: ``cuts.000000.jsonl.gz`` and ``recording.000000.tar`` as Lhotse
writes and reads them (``CutSet.from_shar``). ``index/<split>.000000.json`` is ours and says where
in the tar each recording lies: a cut is read alone, in any order, from a disk or a web server.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from speechft.console import Bar, progress_bar
from speechft.data.acoustics import SAMPLE_RATE
from speechft.data.manifest import CORPUS_FILE, Corpus, open_corpus
from speechft.data.shards import SHARDED
from speechft.data.waveform import load_waveform
from speechft.parallel.claims import Claim
from speechft.parallel.sharing import Unit, work_off
from speechft.runs import check_free, is_done, is_moving, make_scratch_of, scratch_of, stage
from speechft.storage.disk import remove
from speechft.storage.files import json_digest, write_json, write_packed, write_text
from speechft.storage.headers import is_whole
from speechft.storage.locks import waiting

if TYPE_CHECKING:
    from lhotse.cut import Cut
    from lhotse.shar import AudioTarWriter


def export_shards(
    corpus: Corpus,
    folder: Path,
    *,
    shard_size: int = 1000,
    audio: Literal["flac", "wav"] = "flac",
    jobs: int = 0,
) -> Corpus:
    """Write a corpus as Lhotse Shar: 16 kHz mono, 16 bit. Interrupted, it goes on by shards.

    Any number of processes may be given the same: each writes shards that no other is at, see
    `sharing`.

    Args:
        corpus: What to write.
        folder: Where it goes.
        shard_size: Cuts a shard.
        audio: Format of the recordings in the tar files.
        jobs: Shards that this process writes at a time; 0: as many as there are processors.

    Raises:
        DataError: Audio cannot be read.
        RunError: The disk is full, or the folder is in use.
    """
    settings = {"shard_size": shard_size, "audio": audio}
    job: Any = {"name": "shards", "config": settings, "inputs": {"corpus": corpus.digest}}
    names = (CORPUS_FILE, "index", *corpus.statistics)
    made, moving = partial(is_done, folder, **job), partial(is_moving, folder, **job)
    sizes = {name: found["utterances"] for name, found in corpus.statistics.items()}
    shards = {name: -(-size // shard_size) for name, size in sizes.items()}
    key = json_digest(job)[:8]

    def make(claim: Claim | None) -> None:
        with waiting(), stage(folder, outputs=names, **job) as work:
            if not work.done:
                for name in corpus.info.get("files", ()):
                    write_text(work.scratch / name, corpus.read_text(name))
                content = {
                    "name": corpus.name,
                    "digest": json_digest({"corpus": corpus.digest, **settings}),
                    "statistics": corpus.statistics,
                    "info": {**corpus.info, SHARDED: shards},
                }
                write_json(work.scratch / CORPUS_FILE, content)
                if claim is not None:
                    claim.check()

    if not made():
        check_free(folder, names)
    scratch, jobs = scratch_of(folder, **job), jobs or os.cpu_count() or 1
    with progress_bar("writing shards", sum(sizes.values())) as bar:
        units = [
            Unit(
                f"{name}/{number:06d}-{key}",
                partial(_is_there, _index(scratch / name, number), moving, made),
                partial(_write, scratch / name, number, groups, audio, bar),
            )
            for name, many in shards.items()
            for groups in [_Groups(partial(corpus.split, name), shard_size, jobs)]
            for number in range(many)
        ]
        every = [unit.name for unit in units]
        units.append(Unit(f"corpus-{key}", made, make, after=every))
        failed = work_off(folder, "prepare --shards", units, jobs=jobs)
    for error in failed.values():
        raise error
    return open_corpus(folder)


class _Groups:
    """The cuts of a split, shard by shard, read once where they are asked for about in order.

    Args:
        cuts: Gives all of them.
        size: Cuts a shard.
        kept: Shards that are kept for those who ask for them a little late.
    """

    def __init__(self, cuts: Callable[[], Iterable[Cut]], size: int, kept: int) -> None:
        self._cuts, self._size, self._kept = cuts, size, kept
        self._alone = threading.Lock()
        self._left: Iterator[Cut] | None = None
        self._passed: dict[int, list[Cut]] = {}
        self._next = 0

    def at(self, number: int) -> list[Cut]:
        """Return the cuts of a shard."""
        with self._alone:
            if self._left is None or (number < self._next and number not in self._passed):
                self._left, self._next = iter(self._cuts()), 0
            while self._next <= number:
                self._passed[self._next] = list(itertools.islice(self._left, self._size))
                self._passed.pop(self._next - self._kept - 1, None)
                self._next += 1
            return self._passed.pop(number)


def _index(folder: Path, number: int) -> Path:
    """Return the file that says where in a shard its recordings lie; it is written last."""
    return folder.parent / "index" / f"{folder.name}.{number:06d}.json"


def _is_there(index: Path, *whole: Callable[[], bool]) -> bool:
    return is_whole(index) or any(done() for done in whole)


def _write(
    folder: Path, number: int, groups: _Groups, audio: str, bar: Bar, claim: Claim | None
) -> None:
    make_scratch_of(folder.parent)
    cuts = groups.at(number)
    _write_shard(folder, number, cuts, audio, claim)
    bar.advance(len(cuts))


def _write_shard(
    folder: Path, number: int, cuts: list[Cut], audio: str, claim: Claim | None
) -> None:
    """Write one shard with Lhotse's tar writer, from waveforms that `load_waveform` read."""
    from lhotse.shar import AudioTarWriter

    folder.mkdir(exist_ok=True)
    hidden = folder.parent / ".shards" / f"{folder.name}-{number}-{secrets.token_hex(4)}"
    hidden.mkdir(parents=True)
    tar, lines = hidden / f"recording.{number:06d}.tar", hidden / f"cuts.{number:06d}.jsonl.gz"
    try:
        with AudioTarWriter(str(tar), shard_size=None, format=audio) as writer:
            write_packed(lines, (_written(cut, writer).to_dict() for cut in cuts))
        with tarfile.open(tar) as file:
            members = [m for m in file.getmembers() if not m.name.endswith(".json")]
        pairs = zip(cuts, members, strict=True)
        index = [[cut.id, member.offset_data, member.size] for cut, member in pairs]
        if claim is not None:
            claim.check()
        for path in (tar, lines):
            os.replace(path, folder / path.name)
        write_text(_index(folder, number), json.dumps(index))
    finally:
        remove(hidden)


def _written(cut: Cut, writer: AudioTarWriter) -> Cut:
    """Write the audio of a cut to a shard; return the cut as it stands there."""
    waveform = load_waveform(cut)
    whole = _whole(cut, len(waveform))
    writer.write(cut.id, waveform[None], SAMPLE_RATE, whole.recording)
    return whole


def _whole(cut: Cut, samples: int) -> Cut:
    """Return the cut as it stands in a shard: all of a 16 kHz mono recording of its own."""
    from lhotse import AudioSource, MonoCut, Recording, fastcopy

    duration = samples / SAMPLE_RATE
    recording = Recording(
        id=cut.id,
        sources=[AudioSource("shar", [0], "")],
        sampling_rate=SAMPLE_RATE,
        num_samples=samples,
        duration=duration,
        channel_ids=[0],
    )
    supervisions = [
        fastcopy(item, recording_id=cut.id, channel=0, duration=min(item.duration, duration))
        for item in cut.supervisions
    ]
    return MonoCut(cut.id, 0.0, duration, 0, supervisions, recording=recording)
