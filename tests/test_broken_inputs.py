"""A traceback is a bug: broken tables, folders, recordings and recipes, and every reader of them.

Each ends in a `SpeechftError` that names the file, or names what it leaves out and goes on. Files
are damaged at random in `tests/data`; here stand those that were once the end of some reader.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import speechft
from speechft.data.inspection import inspect
from speechft.errors import SpeechftError
from speechft.features.looks import DataInspection, inspect_anything
from speechft.features.sources import find_sources
from speechft.recipe import Recipe, load_recipe

TABLES: dict[str, str | bytes] = {
    "nothing.csv": "",
    "zero-byte.csv": b"path,split\na\0.wav,train\n",
    "long-cell.csv": f"path,split,text\na.wav,train,{'x' * 200_000}\n",
    "long-path.csv": f"path,split\n{'a' * 5_000},train\n",
    "long-name.csv": f"path,split\n{'ä' * 200}.wav,train\n",
    "folder.csv": "path,split\n.,train\n",
    "times.csv": "path,split,start,end\na.wav,train,nan,inf\na.wav,dev,0,1e308\na.wav,dev,1e400,\n",
    "channels.csv": "path,split,channel\na.wav,train,-1\na.wav,dev,99999999999999999999\n",
    "splits.csv": "path,split\na.wav,../x\na.wav,a/b\n",
    "open-quote.csv": 'path,split,text\na.wav,train,"open\n',
    "no-such-user.csv": "path,split\n~nobody-here/x.wav,train\n",
    "addresses.csv": "path,split\nhttps://host/y.wav,train\nfile://%zz,train\n",
    "half-character.jsonl": '{"path": "a.wav", "split": "train", "text": "\\ud800"}\n',
    "half-a-column.jsonl": '{"path": "a.wav", "split": "train", "\\ud800": "x"}\n',
    "half-a-path.jsonl": '{"path": "\\ud800.wav", "split": "train"}\n',
    "zero-path.jsonl": '{"path": "a\\u0000.wav", "split": "train"}\n',
    "deep.jsonl": '{"path":' + "[" * 100_000 + "]" * 100_000 + "}\n",
    "deep.json": "[" * 100_000,
    "large-number.jsonl": '{"path": "a.wav", "split": "train", "label": ' + "9" * 5_000 + "}\n",
    "list.jsonl": "[1, 2]\n",
    "nulls.jsonl": '{"path": null, "split": null}\n',
    "types.jsonl": '{"path": ["a.wav"], "split": {"x": 1}}\n{"path": 3, "split": 4}\n',
    "half-a-line.jsonl": '{"path": "a.wav", "spl',
    "cut.jsonl": '{"id": 3, "recording": 5}\n',
    "cut-alone.jsonl": '{"type": "MonoCut", "id": "a"}\n',
    "no-source.jsonl": '{"id":"a","sources":[],"sampling_rate":16000,"duration":1}\n',
    "not-gzip.jsonl.gz": b"not gzip",
    "half-gzip.jsonl.gz": gzip.compress(b'{"id": 1')[:-4],
    "bytes.parquet": b"PAR1xxxxPAR1",
    "words.wav": "words",
    "empty.wav": b"",
    "riff.wav": b"RIFF",
    "no-rate.wav": b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + bytes(16) + b"data\0\0\0\0",
    "x.mp3": b"\xff\xfb" + bytes(100),
    "x.flac": b"fLaC" + bytes(60),
    "x.ogg": b"OggS" + bytes(60),
    "x.sph": b"NIST_1A\n   1024\nchannel_count -i 0\n",
    "x.raw": b"\1\2" * 500,
    "x.au": b".snd" + b"\xff" * 40,
    "x.caf": b"caff" + b"\xff" * 40,
    "x.w64": b"riff" + b"\xff" * 40,
}
PARQUET: dict[str, list[Any]] = {
    "ragged": [{"array": [[1.0], [1.0, 2.0]], "sampling_rate": 16_000}],
    "negative-rate": [{"array": [1.0, 2.0], "sampling_rate": -5}],
    "huge-rate": [{"array": [1.0, 2.0], "sampling_rate": 10**12}],
    "words": [{"array": ["a", "b"], "sampling_rate": "x"}],
    "numbers": [3, 4],
    "text-for-bytes": [{"bytes": "text", "path": "5"}],
    "zero-byte": ["a\0.wav"],
    "long": ["a" * 5_000],
}
FOLDERS: dict[str, Callable[[Path], Any]] = {
    "empty": lambda folder: None,
    "list": lambda folder: (folder / "corpus.json").write_text("[]"),
    "half": lambda folder: (folder / "corpus.json").write_text('{"name": "x"}'),
    "deep": lambda folder: (folder / "corpus.json").write_text("[" * 100_000),
    "links": lambda folder: [os.symlink(to, folder / to) for to in ("me.wav", "self")],
    "metadata": lambda folder: (folder / "metadata.csv").mkdir(),
    "recording": lambda folder: (folder / "a.wav").mkdir(),
}
RECIPES: dict[str, str | bytes] = {
    "open.yaml": "a: [1\n",
    "list.yaml": "- 1\n",
    "nothing.yaml": "",
    "itself.yaml": "extends: itself.yaml\n",
    "gone.yaml": "extends: gone-recipe\n",
    "number.yaml": "extends: [3]\n",
    "utf-16.yaml": b"\xff\xfe\0\0",
    "section.yaml": "extends: demo\nfinetuning: 3\n",
    "encoder.yaml": "extends: demo\nencoder: [1]\n",
    "circle.yaml": "&a [*a]\n",
    "key.yaml": "extends: demo\n? {a: b}\n: c\n",
    "code.yaml": '!!python/object/apply:os.system ["x"]\n',
    "nan.yaml": "extends: demo\nseed: .nan\n",
    "deep.yaml": "[" * 600,
    "twice.yaml": "a: 1\na: 2\n",
    "number-key.yaml": "extends: demo\n3: 4\n",
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    soundfile.write(tmp_path / "a.wav", 0.1 * np.sin(np.arange(8_000)), 16_000)

    def written(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


def read(path: Path, out: Path) -> list[str]:
    """Give a path to all readers of data; return what they say."""
    told = []

    def look() -> str:
        found = inspect_anything(path)
        return "\n".join(found.lines()) if isinstance(found, DataInspection) else str(path)

    def prepare() -> str:
        corpus = speechft.prepare("generic", path, out=out, jobs=1)
        return f"{path} {corpus.statistics}"

    def sources() -> str:
        found = find_sources([path])
        assert found.cuts or found.problems
        return f"{path} {found.problems}"

    for reader in (look, prepare, sources, lambda: f"{path} {inspect(path).problems}"):
        try:
            told.append(reader())
        except SpeechftError as error:
            told.append(str(error))
    return told


def check(path: Path, told: list[str]) -> None:
    for text in told:
        assert str(path) in text or str(path.parent / "a.wav") in text
        assert "Traceback" not in text
        text.encode()  # what is said can be printed


@pytest.mark.parametrize("name", TABLES)
def test_tables_and_recordings(
    name: str, write: Callable[[str, str | bytes], Path], tmp_path: Path
) -> None:
    path = write(name, TABLES[name])
    check(path, read(path, tmp_path / "out"))


@pytest.mark.parametrize("name", PARQUET)
def test_parquet(name: str, write: Callable[[str, str | bytes], Path], tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = write("x.parquet", b"")
    parquet.write_table(arrow.table({"audio": PARQUET[name]}), path)
    check(path, read(path, tmp_path / "out"))


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    FOLDERS[name](folder)
    check(folder, read(folder, tmp_path / "out"))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name: str, write: Callable[[str, str | bytes], Path]) -> None:
    path = write(name, RECIPES[name])
    with pytest.raises(SpeechftError) as caught:
        load_recipe(Recipe, path)
    assert str(path) in str(caught.value) or "recipe" in str(caught.value)


def test_one_odd_row_does_not_end_the_work(
    write: Callable[[str, str | bytes], Path], tmp_path: Path
) -> None:
    """Half a character, a zero byte, a name too long, an address: each named with its line."""
    rows = [
        {"path": "a.wav", "split": "train", "text": "yes"},
        {"path": "b.wav", "split": "train", "text": "\ud800"},
        {"path": "c\0.wav", "split": "train"},
        {"path": "d" * 300, "split": "train"},
        {"path": "https://host/e.wav", "split": "train"},
        {"path": "a.wav", "split": "dev", "start": "0.1", "end": "1e300"},
    ]
    path = write("t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    corpus = speechft.prepare("generic", path, out=tmp_path / "out")
    assert {name: v["utterances"] for name, v in corpus.statistics.items()} == {"train": 1}
    issues = (tmp_path / "out" / "issues.tsv").read_text()
    for told in (
        "line 2: the text holds half a character",
        "line 3: the path holds a zero byte",
        "line 4: the path is longer than a path can be",
        "the path is an address: download it",
        "the end '1e300' is not a number of seconds",
    ):
        assert told in issues
    assert find_sources([path]).cuts.keys() == {"a"}
