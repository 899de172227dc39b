"""Data sets of the hub by name: a folder stands for the hub, and `datasets` reads it alike."""

from __future__ import annotations

import io
import json
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from pyarrow import parquet

import speechft
from speechft.data.corpora import cache_folder, find_corpus, hub
from speechft.data.corpora.hub_rows import splits_of
from speechft.data.issues import read_issues
from speechft.data.labels import label_of
from speechft.data.manifest import Corpus, load_waveform
from speechft.errors import ConfigError, DataError, PackageError

NAME = "hf:owner/speech"
REVISION = "c" * 40


def encoded(seed: int, kind: str = "FLAC") -> bytes:
    buffer = io.BytesIO()
    samples = 0.1 * np.random.default_rng(seed).standard_normal(9_600)
    soundfile.write(buffer, samples, 16_000, format=kind)
    return buffer.getvalue()


def row(number: int, **changes: Any) -> dict[str, Any]:
    known = {
        "audio": {"bytes": encoded(number), "path": f"{number}.flac"},
        "sentence": f"word {number}",
        "client_id": f"s{number % 2}",
        "locale": ("de", "en")[number % 2],
        "gender": number % 2,
        "begin_time": 100.0,
        "end_time": 200.0,
    }
    return {**known, **changes}


FEATURES = {
    "audio": {"_type": "Audio"},
    "sentence": {"dtype": "string", "_type": "Value"},
    "client_id": {"dtype": "string", "_type": "Value"},
    "locale": {"dtype": "string", "_type": "Value"},
    "gender": {"names": ["female", "male"], "_type": "ClassLabel"},
    "begin_time": {"dtype": "float64", "_type": "Value"},
    "end_time": {"dtype": "float64", "_type": "Value"},
}


def write_split(folder: Path, split: str, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows)
    features = {name: kind for name, kind in FEATURES.items() if name in table.column_names}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path = folder / "data" / f"{split}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table.replace_schema_metadata(metadata), path)


class Stub:
    """The hub: a folder of data files, a revision, and how often it was asked and read."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.revision, self.opened = folder, REVISION, 0
        self.online = True

    def about(self, _: object) -> Any:
        return hub._About(self.revision, "cc0-1.0") if self.online else None

    def where(self, *_: object) -> tuple[str, None, str]:
        self.opened += 1
        return str(self.folder), None, str(self.folder)


def _no_network(*_: object) -> None:
    raise AssertionError("no network was asked for")


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    made = Stub(tmp_path / "speech")
    monkeypatch.setattr(hub, "_about", made.about)
    monkeypatch.setattr(hub, "_where", made.where)
    monkeypatch.setenv("SPEECHFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(socket.socket, "connect", _no_network)
    for number, split in enumerate(("train", "validation", "test")):
        write_split(made.folder, split, [row(n) for n in range(4 * number, 4 * number + 4)])
    return made


def labels(corpus: Corpus, split: str, kind: str) -> list[str | None]:
    return [label_of(cut, kind) for cut in corpus.split(split)]


def test_a_data_set_becomes_a_corpus(stub: Stub, tmp_path: Path) -> None:
    corpus = speechft.prepare(NAME, out=tmp_path / "out")
    sizes = {split: values["utterances"] for split, values in corpus.statistics.items()}
    assert sizes == {"train": 4, "dev": 4, "test": 4}
    assert labels(corpus, "dev", "text") == [f"word {n}" for n in range(4, 8)]
    assert labels(corpus, "test", "speaker") == ["s0", "s1", "s0", "s1"]
    assert labels(corpus, "train", "language") == ["de", "en", "de", "en"]
    for split in corpus.statistics:
        assert labels(corpus, split, "gender") == ["female", "male", "female", "male"]
    assert (corpus.name, corpus.info["licence"]) == ("owner/speech", "cc0-1.0")
    assert corpus.info["hub"]["revision"] == REVISION
    for number, cut in enumerate(corpus.split("train")):
        (source,) = cut.recording.sources
        assert Path(source.source).read_bytes() == encoded(number), "the bytes as they came"
        expected, _ = soundfile.read(io.BytesIO(encoded(number)), dtype="float32")
        np.testing.assert_array_equal(load_waveform(cut), expected)
        assert cut.duration == 0.6, "begin_time and end_time are of another recording"


def test_by_name_it_is_streamed_once_into_the_cache(stub: Stub, tmp_path: Path) -> None:
    first = find_corpus(NAME, tmp_path / "run-1")
    again = find_corpus(NAME, tmp_path / "run-2")
    assert (first.digest, stub.opened) == (again.digest, 1)
    assert first.folder.parent == cache_folder() / "hub"
    stub.online = False
    assert find_corpus(NAME, tmp_path).digest == first.digest, "as it was prepared"
    assert stub.opened == 1
    stub.online, stub.revision = True, "d" * 40
    write_split(stub.folder, "test", [row(20)])
    assert find_corpus(NAME, tmp_path).statistics["test"]["utterances"] == 1
    assert find_corpus(f"{NAME}?limit=2", tmp_path).statistics["train"]["utterances"] == 2
    assert len(list((cache_folder() / "hub").iterdir())) == 2


def test_columns_and_splits_can_be_named(stub: Stub, tmp_path: Path) -> None:
    rows = [
        {"clip": encoded(n), "sentence": "no", "said": f"yes {n}", "spk": "a", "kind": f"k{n}"}
        for n in range(3)
    ]
    write_split(stub.folder, "train", rows)
    chosen = "audio=clip&text=said&label=kind&splits=train:train,dev:train&limit=2"
    corpus = find_corpus(f"{NAME}?{chosen}", tmp_path)
    assert list(corpus.statistics) == ["train", "dev"]
    assert labels(corpus, "train", "text") == ["yes 0", "yes 1"]
    assert labels(corpus, "train", "label") == ["k0", "k1"]
    again = speechft.prepare(
        f"{NAME}?{chosen}", out=tmp_path / "out", overrides=["text=sentence", "splits=train"]
    )
    assert labels(again, "train", "text") == ["no", "no"]


def test_splits_are_mapped_as_the_hub_names_them() -> None:
    there = ["train.clean.100", "train.clean.360", "validation", "test", "other", "validated"]
    assert splits_of(there, "") == {
        "train": ["train.clean.100", "train.clean.360"],
        "dev": ["validation"],
        "test": ["test"],
    }
    assert splits_of(there, "other,train:validated") == {"other": ["other"], "train": ["validated"]}
    assert splits_of(["all", "x/y"], "") == {"all": ["all"], "x-y": ["x/y"]}
    with pytest.raises(ConfigError, match="unknown split 'tset'"):
        splits_of(there, "tset")


def test_folders_of_recordings_are_streamed_too(stub: Stub, tmp_path: Path) -> None:
    """Without torchcodec, which `datasets` would decode and encode with."""
    stub.folder = tmp_path / "commands"
    for number, (split, word) in enumerate(
        (s, w) for s in ("train", "test") for w in ("no", "yes")
    ):
        (stub.folder / split / word).mkdir(parents=True)
        (stub.folder / split / word / "a.wav").write_bytes(encoded(number, "WAV"))
    corpus = find_corpus(NAME, tmp_path)
    assert labels(corpus, "train", "label") == ["no", "yes"]
    assert labels(corpus, "test", "label") == ["no", "yes"]
    assert "torchcodec" not in sys.modules


def test_unreadable_audio_in_the_middle_is_left_out_and_named(stub: Stub, tmp_path: Path) -> None:
    outside = tmp_path / "of the machine.flac"
    outside.write_bytes(encoded(99))
    bad = [
        row(1, audio={"bytes": b"not audio", "path": "1.flac"}),
        row(2, audio={"bytes": None, "path": None}),
        row(3, audio={"bytes": None, "path": str(outside)}),
        row(4, audio={"bytes": None, "path": "../of the machine.flac"}),
        row(5, audio={"bytes": None, "path": "https://elsewhere/x.flac"}),
        row(7, audio={"bytes": None, "path": f"file://{outside}::{stub.folder}/x.zip"}),
    ]
    write_split(stub.folder, "train", [row(0), *bad, row(6)])
    corpus = find_corpus(NAME, tmp_path)
    assert labels(corpus, "train", "text") == ["word 0", "word 6"]
    issues = [i for i in read_issues(corpus.folder / "issues.tsv") if i.resolved() == "left out"]
    assert len(issues) == 6
    assert sum("no file of the data set" in issue.problem for issue in issues) == 4
    assert not any(encoded(99) == p.read_bytes() for p in corpus.folder.rglob("*.flac"))


def test_what_was_streamed_takes_its_part_in_an_evaluation_by_language(
    stub: Stub, tmp_path: Path, tiny_hubert: Path, quick_probes: None
) -> None:
    """From the hub to a task on languages, and their error rates, in one go."""
    rows = [row(n, sentence="ab ba" if n % 2 else "ba ab") for n in range(8)]
    for split in ("train", "validation", "test"):
        write_split(stub.folder, split, rows)
    found = speechft.evaluate(
        str(tiny_hubert),
        tasks="asr,lid",
        corpus=NAME,
        out=tmp_path / "out",
        protocol="mini",
        cache=False,
    )
    by_task = {r.task: r for r in found}
    told = by_task["asr"].details["languages"]
    assert {name: value["n"] for name, value in told.items()} == {"de": 4, "en": 4}
    mean = (told["de"]["value"] + told["en"]["value"]) / 2  # as many words in both
    assert mean == pytest.approx(by_task["asr"].value, abs=1e-3)
    assert {r.metric for r in found if r.task == "lid"} == {"accuracy", "uar", "macro_f1"}
    assert set(by_task["lid"].details["languages"]) == {"de", "en"}
    assert by_task["lid"].details["corpus"] == "owner/speech"


# bad input


@pytest.mark.parametrize(
    "text", ["hf:", "hf:speech", "hf:a/b/c", "hf:a/b:", "hf:../x", "hf:a/b@", "hf:/etc/passwd"]
)
def test_a_name_of_another_form_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no data set of the hub"):
        find_corpus(text, tmp_path)


def test_settings_that_there_are_not_are_refused(stub: Stub, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown setting of corpus owner/speech 'limits'"):
        find_corpus(f"{NAME}?limits=3", tmp_path)
    with pytest.raises(DataError, match="has no column 'words'; it has: audio, sentence"):
        find_corpus(f"{NAME}?text=words", tmp_path)
    with pytest.raises(ConfigError, match="takes an output folder and no ROOT"):
        speechft.prepare(NAME, "root", out=tmp_path / "out")
    with pytest.raises(ConfigError, match="unknown split"):
        find_corpus(f"{NAME}?splits=all", tmp_path)


def test_a_data_set_without_audio_is_one_message(stub: Stub, tmp_path: Path) -> None:
    write_split(stub.folder, "train", [{"sentence": "x"}])
    with pytest.raises(DataError, match="holds no audio that is known as such; its columns: sent"):
        find_corpus(NAME, tmp_path)
    assert not list((cache_folder() / "hub").glob("*/corpus.json"))


def test_a_hub_that_does_not_answer_is_one_message(stub: Stub, tmp_path: Path) -> None:
    stub.online = False
    with pytest.raises(DataError, match="could not be asked for owner/speech") as caught:
        find_corpus(NAME, tmp_path)
    assert "hf auth login" in str(caught.value)


def test_code_of_a_data_set_is_never_run(stub: Stub, tmp_path: Path) -> None:
    stub.folder = tmp_path / "speech-script"
    stub.folder.mkdir()
    script = stub.folder / "speech-script.py"
    script.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(DataError, match="owner/speech cannot be read"):
        find_corpus(NAME, tmp_path)
    assert not (tmp_path / "ran").exists()
    stub.folder = tmp_path / "text"
    stub.folder.mkdir()
    (stub.folder / "train.txt").write_text("a\n")
    with pytest.raises(DataError, match="is read as text, which is no table of recordings"):
        find_corpus(NAME, tmp_path)


def test_without_the_extra_there_is_one_message(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(PackageError, match="needs datasets") as caught:
        find_corpus(NAME, tmp_path)
    assert "speechft[hub-data]" in str(caught.value)


def test_the_hub_is_asked_for_revision_and_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    import huggingface_hub

    asked: list[tuple[str, str | None]] = []

    def info(_: object, name: str, revision: str | None) -> Any:
        asked.append((name, revision))
        card = huggingface_hub.DatasetCardData(license=["mit", "cc0-1.0"])
        return SimpleNamespace(sha=REVISION, card_data=card)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    reference = hub.parse_reference("hf:owner/speech:de@v1?limit=3")
    assert hub._about(reference) == hub._About(REVISION, "mit, cc0-1.0")
    assert asked == [("owner/speech", "v1")]
    where = hub._where(reference, REVISION)
    assert where == ("owner/speech", REVISION, f"hf://datasets/owner/speech@{REVISION}")
    assert (reference.name, reference.settings) == ("owner/speech:de", ("limit=3",))
