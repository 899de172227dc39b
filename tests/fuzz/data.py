"""Damaged data: manifests, prepared corpora, recordings, tables, archives."""

from __future__ import annotations

import copy
import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from fuzz.cases import Case
from fuzz.changes import COMMAND, changed_bytes, changed_text, changed_values
from fuzz.fixtures import ARCHIVES, as_json, below, read


def _manifest_lines(fixtures: Path, split: str = "train") -> list[Any]:
    data = gzip.decompress(read(fixtures / "tones" / f"{split}.jsonl.gz"))
    return [json.loads(line) for line in data.splitlines()]


_EVIL: list[Callable[[Any], Any]] = [
    lambda c: c["recording"]["sources"][0].update(type="command", source=COMMAND),
    lambda c: c["recording"]["sources"][0].update(type="url", source=f"pipe:{COMMAND}"),
    lambda c: c["recording"]["sources"][0].update(type="url", source="http://127.0.0.1:9/x"),
    lambda c: c["recording"]["sources"].append(
        {"type": "command", "channels": [1], "source": COMMAND}
    ),
    lambda c: c["recording"].update(
        transforms=[
            {
                "name": "ReverbWithImpulseResponse",
                "kwargs": {
                    "rir": {
                        **copy.deepcopy(c["recording"]),
                        "sources": [{"type": "command", "channels": [0], "source": COMMAND}],
                    }
                },
            }
        ]
    ),
    lambda c: c["recording"].update(transforms=[{"name": "Speed", "kwargs": {"factor": 1e-9}}]),
    lambda c: c.update(custom={"target": copy.deepcopy(c["recording"])}),
    lambda c: c.update(
        features={
            "type": "fbank",
            "num_frames": 1,
            "num_features": 1,
            "frame_shift": 0.01,
            "sampling_rate": 16_000,
            "start": 0,
            "duration": 1,
            "channels": 0,
            "storage_type": "kaldiio",
            "storage_path": f"|{COMMAND}",
            "storage_key": "a",
        }
    ),
    lambda c: c.update(type="MixedCut", tracks=[{"cut": copy.deepcopy(c), "offset": 0}]),
    lambda c: c.update(type="PaddingCut"),
    lambda c: c,
]


@st.composite
def manifests(draw: DrawFn, fixtures: Path) -> Case:
    """Change cuts and recordings, or what packs them."""
    files: dict[str, bytes] = {}
    items = _manifest_lines(fixtures)
    for item in items:
        name = item["recording"]["sources"][0]["source"]
        files[name] = read(fixtures / "tones" / name)
    if draw(st.integers(0, 2)) == 0:
        draw(st.sampled_from(_EVIL))(items[0])
    if draw(st.integers(0, 3)) == 0:
        items = [item["recording"] for item in items]
    if draw(st.integers(0, 4)):
        items[0] = draw(changed_values(items[0]))
    suffix = draw(st.sampled_from([".jsonl", ".jsonl.gz", ".json", ".json.gz", ".yaml"]))
    lines = suffix.startswith(".jsonl")
    data = b"\n".join(as_json(item) for item in items) if lines else as_json(items)
    if draw(st.integers(0, 9)) == 0:
        data = draw(changed_bytes(data, head=len(data)))
    if draw(st.integers(0, 29)) == 0:
        data = draw(st.sampled_from([b"\n" * (1 << 22), b"[" * 100_000, data + bytes(1 << 22)]))
    if suffix.endswith(".gz"):
        data = gzip.compress(data)
        data = draw(changed_bytes(data)) if draw(st.integers(0, 9)) == 0 else data
    files["cuts" + suffix] = data
    return Case(draw(st.sampled_from(["extract", "inspect"])), files, ("cuts" + suffix,))


@st.composite
def prepared(draw: DrawFn, fixtures: Path) -> Case:
    """Change a prepared corpus: its manifests or its ``corpus.json``."""
    files = {f"c/{name}": data for name, data in below(fixtures / "tones").items()}
    if draw(st.booleans()):
        content = json.loads(files["c/corpus.json"])
        content["info"] |= {
            "trials": "t.txt",
            "files": ["t.txt"],
            "task_splits": {"*": ["train"] * 3},
        }
        files["c/t.txt"] = draw(changed_text(b"1 test-000 test-001\n0 test-001 test-000\n"))
        files["c/corpus.json"] = as_json(draw(changed_values(content)))
    else:
        items = _manifest_lines(fixtures)
        if draw(st.booleans()):
            draw(st.sampled_from(_EVIL))(items[0])
        items[0] = draw(changed_values(items[0]))
        data = gzip.compress(b"\n".join(as_json(item) for item in items) + b"\n")
        files["c/train.jsonl.gz"] = (
            draw(changed_bytes(data)) if draw(st.integers(0, 9)) == 0 else data
        )
    target = draw(st.sampled_from(["corpus", "corpus", "corpus", "inspect", "extract", "evaluate"]))
    if target == "evaluate":
        return Case(target, files, ("c", "--tasks", "asv"))
    return Case(target, files, ("c",))


@st.composite
def audio(draw: DrawFn, fixtures: Path) -> Case:
    """Change the headers of recordings of every format."""
    kinds = below(fixtures / "audio")
    name = draw(st.sampled_from(sorted(kinds)))
    data = draw(changed_bytes(kinds[name], head=draw(st.sampled_from([64, 200, len(kinds[name])]))))
    if name.startswith("WAV-FLOAT") and draw(st.booleans()):
        number = draw(st.sampled_from([float("nan"), float("inf"), 1e38, -1e38, 1e10, 1e-40]))
        data = kinds[name][:-400] + struct.pack("<f", number) * 100
    suffix = draw(st.sampled_from([Path(name).suffix, ".wav", ".mp3"]))
    target = draw(st.sampled_from(["extract", "extract", "inspect", "prepare"]))
    if target == "prepare":
        table = f"path,split,speaker\na{suffix},train,x\na{suffix},dev,x\na{suffix},test,y\n"
        return Case(target, {f"a{suffix}": data, "t.csv": table.encode()}, ("generic", "t.csv"))
    return Case(target, {f"a{suffix}": data}, (f"a{suffix}",))


_CSV = (
    b"path,split,text,speaker,start,end,channel,label\n"
    b'a.wav,train,hello you,s1,,,,x\na.wav,train,"a, b",s1,0,0.1,0,y\n'
    b"a.wav,dev,no,s2,,,,x\na.wav,test,yes,s3,,,,y\n"
)


@st.composite
def tables(draw: DrawFn, fixtures: Path) -> Case:
    """Change tables of one's own: CSV, TSV, semicolons, JSON lines, JSON."""
    wav = read(fixtures / "a.wav")
    kind = draw(st.sampled_from([".csv", ".tsv", ".jsonl", ".json"]))
    if kind in (".csv", ".tsv"):
        data = draw(changed_text(_CSV.replace(b",", b"\t") if kind == ".tsv" else _CSV))
    else:
        header, *rows = [line.split(",") for line in _CSV.decode().split("\n") if line]
        items = [dict(zip(header, row[:8], strict=False)) for row in rows if len(row) == 8]
        items[0] = draw(changed_values(items[0]))
        data = as_json(items) if kind == ".json" else b"\n".join(map(as_json, items))
    target = draw(st.sampled_from(["prepare", "prepare", "extract", "inspect", "corpus"]))
    name = "t" + kind
    arguments = ("generic", name) if target == "prepare" else (name,)
    return Case(target, {name: data, "a.wav": wav}, arguments)


@st.composite
def archives(draw: DrawFn, fixtures: Path) -> Case:
    """Change label files of archives: STM, PHN, trans, SNIPS, RTTM, ..."""
    name = draw(st.sampled_from(sorted(ARCHIVES)))
    files = {f"r/{path}": data for path, data in below(fixtures / "archives" / name).items()}
    audio_ends = (".wav", ".WAV", ".flac", ".sph", ".mp3")
    labels = sorted(path for path in files if not path.endswith(audio_ends))
    wanted = [path for path in labels if path.endswith(ARCHIVES[name])] or labels
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(wanted if draw(st.integers(0, 3)) else labels))
        files[path] = draw(changed_text(files[path]))
    return Case("prepare", files, (name, "r", "--allow-missing"))
