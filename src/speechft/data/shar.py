"""Writes corpora as Lhotse Shar: audio in tar files that a cluster streams (see `shards`).

Each split is a folder of shards: ``cuts.000000.jsonl.gz`` and ``recording.000000.tar`` as Lhotse
writes and reads them (``CutSet.from_shar``). ``index/<split>.000000.json`` is ours and says where
in the tar each recording lies: a cut is read alone, in any order, from a disk or a web server.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from speechft.console import progress_bar
from speechft.data.acoustics import SAMPLE_RATE
from speechft.data.manifest import CORPUS_FILE, Corpus, open_corpus
from speechft.data.shards import SHARDED
from speechft.data.waveform import load_waveform
from speechft.files import json_digest, write_json, write_text
from speechft.runs import stage

if TYPE_CHECKING:
    from lhotse.cut import Cut


def export_shards(
    corpus: Corpus,
    folder: Path,
    *,
    shard_size: int = 1000,
    audio: Literal["flac", "wav"] = "flac",
    jobs: int = 0,
) -> Corpus:
    """Write a corpus as Lhotse Shar: 16 kHz mono, 16 bit. Interrupted, it goes on by shards.

    Args:
        corpus: What to write.
        folder: Where it goes.
        shard_size: Cuts a shard.
        audio: Format of the recordings in the tar files.
        jobs: Shards written at a time; 0: as many as there are processors.

    Raises:
        DataError: Audio cannot be read.
        RunError: The disk is full, or the folder is in use.
    """
    settings = {"shard_size": shard_size, "audio": audio}
    job: Any = {"name": "shards", "config": settings, "inputs": {"corpus": corpus.digest}}
    names = (CORPUS_FILE, "index", *corpus.statistics)
    with stage(folder, outputs=names, **job) as work:
        if not work.done:
            shards = _write_all(
                corpus, work.scratch, shard_size, audio, jobs or os.cpu_count() or 1
            )
            for name in corpus.info.get("files", ()):
                write_text(work.scratch / name, corpus.read_text(name))
            content = {
                "name": corpus.name,
                "digest": json_digest({"corpus": corpus.digest, **settings}),
                "statistics": corpus.statistics,
                "info": {**corpus.info, SHARDED: shards},
            }
            write_json(work.scratch / CORPUS_FILE, content)
    return open_corpus(folder)


def _write_all(corpus: Corpus, folder: Path, size: int, audio: str, jobs: int) -> dict[str, int]:
    """Write every shard that is not there, some at a time; return their number by split."""
    shards = {}
    total = sum(s["utterances"] for s in corpus.statistics.values())
    with progress_bar("writing shards", total) as bar, ThreadPoolExecutor(jobs) as pool:
        for name in corpus.statistics:
            (folder / name).mkdir(exist_ok=True)
            groups = enumerate(_groups(corpus, name, size))
            shards[name] = 0
            while window := list(itertools.islice(groups, jobs)):
                writing = [
                    pool.submit(_write_shard, folder / name, number, cuts, audio)
                    for number, cuts in window
                ]
                for future, (_, cuts) in zip(writing, window, strict=True):
                    future.result()
                    bar.advance(len(cuts))
                shards[name] += len(window)
    return shards


def _groups(corpus: Corpus, split: str, size: int) -> Iterator[list[Cut]]:
    group: list[Cut] = []
    for cut in corpus.split(split):
        group.append(cut)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _write_shard(folder: Path, number: int, cuts: list[Cut], audio: str) -> None:
    """Write one shard with Lhotse's tar writer, from waveforms that `load_waveform` read."""
    from lhotse.shar import AudioTarWriter

    done = folder.parent / "index" / f"{folder.name}.{number:06d}.json"
    if done.exists():
        return
    tar = folder / f"recording.{number:06d}.tar"
    with (
        AudioTarWriter(str(tar), shard_size=None, format=audio) as writer,
        gzip.open(folder / f"cuts.{number:06d}.jsonl.gz", "wt", encoding="utf-8") as lines,
    ):
        for cut in cuts:
            waveform = load_waveform(cut)
            whole = _whole(cut, len(waveform))
            writer.write(cut.id, waveform[None], SAMPLE_RATE, whole.recording)
            lines.write(json.dumps(whole.to_dict(), ensure_ascii=False) + "\n")
    with tarfile.open(tar) as file:
        members = [m for m in file.getmembers() if not m.name.endswith(".json")]
    index = [
        [cut.id, member.offset_data, member.size] for cut, member in zip(cuts, members, strict=True)
    ]
    write_text(done, json.dumps(index))


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
