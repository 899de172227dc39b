"""The user's recordings as Hugging Face lays them out: audiofolder and parquet with bytes."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from corpora import issues, prepared, sizes, train
from speechft.data.corpora import find_corpus
from speechft.data.labels import label_of
from speechft.data.manifest import Corpus, open_corpus
from speechft.data.waveform import load_waveform
from speechft.errors import DataError, SpeechftError
from speechft.features.looks import DataInspection, inspect_anything
from speechft.tasks import find_task


def record(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(9_600), 16_000)


def labels(corpus: Corpus, split: str, kind: str) -> list[str | None]:
    return [label_of(cut, kind) for cut in corpus.split(split)]


def test_folders_are_splits_and_labels(tmp_path: Path) -> None:
    root = tmp_path / "pets"
    for split, label in (
        ("train", "cat"),
        ("train", "dog"),
        ("validation", "cat"),
        ("test", "dog"),
    ):
        for number in range(2):
            record(root / split / label / f"{number}.wav", number)
    corpus = prepared("generic", root)
    assert sizes(corpus) == {"dev": 2, "test": 2, "train": 4}
    assert labels(corpus, "train", "label") == ["cat", "cat", "dog", "dog"]
    train(corpus, find_task("label"))


def test_metadata_names_files_and_columns(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    for name in ("train/a.wav", "train/b.wav", "train/c.wav", "test/a.wav"):
        record(root / name)
    (root / "train" / "metadata.csv").write_text(
        "file_name,transcription,speaker_id,mood\na.wav,Hello,anna,calm\nb.wav,You,bert,\n"
    )
    rows = [{"file_name": "a.wav", "transcription": "Bye", "tags": ["x", "y"]}]
    (root / "test" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    corpus = prepared("generic", root)
    assert sizes(corpus) == {"train": 2, "test": 1}
    assert labels(corpus, "train", "text") == ["Hello", "You"]
    assert labels(corpus, "train", "speaker") == ["anna", "bert"]
    assert labels(corpus, "train", "mood") == ["calm", None]
    assert labels(corpus, "test", "tags") == ["x y"]
    assert ["no-label", "train/c.wav"] in [[line[0], line[4]] for line in issues(root)]


def test_metadata_may_name_files_elsewhere(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    for place in (root / "test" / "a.wav", root / "dev" / "b.wav", tmp_path / "train" / "c.wav"):
        record(place)
    rows = [
        {"file_name": str(root / "dev" / "b.wav")},
        {"file_name": str(tmp_path / "train" / "c.wav")},
        {"file_name": "a.wav"},
    ]
    (root / "test" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert sizes(prepared("generic", root)) == {"dev": 1, "test": 2}


def test_a_folder_without_splits_is_all_training(tmp_path: Path) -> None:
    for number in range(2):
        record(tmp_path / "plain" / f"{number}.flac", number)
    assert sizes(prepared("generic", tmp_path / "plain")) == {"train": 2}


def test_damaged_metadata(tmp_path: Path) -> None:
    record(tmp_path / "mine" / "a.wav")
    metadata = tmp_path / "mine" / "metadata.jsonl"
    metadata.write_text('{"file_name": "a.wav"}\n{half')
    with pytest.raises(DataError, match=r"metadata\.jsonl, line 2 is not JSON"):
        prepared("generic", tmp_path / "mine")
    metadata.write_text('{"sound": "a.wav"}\n')
    with pytest.raises(DataError, match="lacks the column path"):
        prepared("generic", tmp_path / "mine")


def test_speakers_may_be_held_apart(tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    record(tmp_path / "b.wav", 1)
    (tmp_path / "my.csv").write_text("path,split,speaker\na.wav,train,anna\nb.wav,test,anna\n")
    assert sizes(prepared("generic", tmp_path / "my.csv")) == {"train": 1, "test": 1}
    with pytest.raises(DataError, match="1 speaker-overlap"):
        prepared("generic", tmp_path / "my.csv", "disjoint_speakers=true")


def write_parquet(path: Path, rows: list[dict[str, Any]], features: dict[str, Any]) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pa.Table.from_pylist(rows)
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table.replace_schema_metadata(metadata), path)


def encoded(seed: int, kind: str = "FLAC") -> bytes:
    buffer = io.BytesIO()
    samples = 0.1 * np.random.default_rng(seed).standard_normal(9_600)
    soundfile.write(buffer, samples, 16_000, format=kind)
    return buffer.getvalue()


def test_parquet_with_audio_bytes(tmp_path: Path) -> None:
    root = tmp_path / "data"
    rows = [
        {"audio": {"bytes": encoded(n), "path": f"{n}.flac"}, "text": f"word {n}", "intent": n % 2}
        for n in range(4)
    ]
    features = {"intent": {"names": ["off", "on"], "_type": "ClassLabel"}}
    write_parquet(root / "train-00000-of-00001.parquet", rows, features)
    write_parquet(root / "test-00000-of-00001.parquet", [rows[0]], features)
    corpus = prepared("generic", root)
    assert sizes(corpus) == {"test": 1, "train": 4}
    assert labels(corpus, "train", "intent") == ["off", "on", "off", "on"]
    assert labels(corpus, "train", "text") == [f"word {n}" for n in range(4)]
    expected, _ = soundfile.read(io.BytesIO(encoded(2)), dtype="float32")
    np.testing.assert_array_equal(load_waveform(list(corpus.split("train"))[2]), expected)
    moved = corpus.folder.rename(tmp_path / "moved")
    np.testing.assert_array_equal(
        load_waveform(list(open_corpus(moved).split("train"))[2]), expected
    )


def test_parquet_files_of_one_name_keep_their_audio(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for seed, split in enumerate(("train", "test")):
        row = {"audio": {"bytes": encoded(seed, "WAV"), "path": None}}
        write_parquet(root / split / "0000.parquet", [row], {})
    corpus = prepared("generic", root)
    for seed, split in enumerate(("train", "test")):
        (cut,) = corpus.split(split)
        expected, _ = soundfile.read(io.BytesIO(encoded(seed, "WAV")), dtype="float32")
        np.testing.assert_array_equal(load_waveform(cut), expected)


def test_rows_of_parquet_in_another_order_keep_their_audio(tmp_path: Path) -> None:
    rows = [{"audio": {"bytes": encoded(n, "WAV"), "path": None}, "text": str(n)} for n in (0, 1)]
    for order in (rows, rows[::-1]):
        write_parquet(tmp_path / "data" / "train.parquet", order, {})
        corpus = prepared("generic", tmp_path / "data")
    for cut in corpus.split("train"):
        audio = encoded(int(label_of(cut, "text") or ""), "WAV")
        expected, _ = soundfile.read(io.BytesIO(audio), dtype="float32")
        np.testing.assert_array_equal(load_waveform(cut), expected)


def test_parquet_with_decoded_samples_bytes_alone_or_paths(tmp_path: Path) -> None:
    record(tmp_path / "data" / "a.wav")
    samples = (0.1 * np.random.default_rng(0).standard_normal(9_600)).astype(np.float32)
    values: dict[str, Any] = {
        "struct": {"audio": {"array": samples.tolist(), "sampling_rate": 16_000, "path": "x.wav"}},
        "bytes": {"audio": encoded(0, "WAV")},
        "path": {"audio": "a.wav"},
        "file": {"file": "a.wav"},
        "list": {"audio": samples.tolist()},
    }
    for name, row in values.items():
        write_parquet(tmp_path / "data" / f"{name}.parquet", [{**row, "text": "x"}], {})
    for name in ("struct", "bytes", "path", "file"):
        corpus = find_corpus(str(tmp_path / "data" / f"{name}.parquet"), tmp_path / name)
        (cut,) = corpus.split("train")
        found = load_waveform(cut)
        if name == "struct":
            np.testing.assert_array_equal(found, samples)
        else:
            np.testing.assert_allclose(found, samples, atol=2**-15)
    with pytest.raises(DataError, match=r"list\.parquet, row 1: the cell audio has samples wi"):
        find_corpus(str(tmp_path / "data" / "list.parquet"), tmp_path / "list")


def test_a_row_without_audio_says_so(tmp_path: Path) -> None:
    """Not that a file does not exist that nobody has heard of."""
    values = {
        "null": None,
        "empty": {"bytes": None, "path": None},
        "no path": "",
        "no samples": {"array": ["a"], "sampling_rate": 16_000},
        "no rate": {"array": [0.1], "sampling_rate": None},
    }
    for name, value in values.items():
        root = tmp_path / name
        rows = [{"audio": value, "text": "x"}]
        if (isinstance(value, dict) and "bytes" in value) or value is None:
            rows.append({"audio": {"bytes": encoded(0, "WAV"), "path": None}, "text": "y"})
        write_parquet(root / "data" / "x.parquet", rows, {})
        found = inspect_anything(root / "data" / "x.parquet")
        assert isinstance(found, DataInspection)
        ((where, problem),) = found.left_out.items()
        assert where == "x.parquet, row 1 (unreadable-audio)"
        assert problem.startswith("x.parquet, row 1: the cell audio has ")
        assert found.read == len(rows) - 1


def test_parquet_damage_is_named(tmp_path: Path) -> None:
    root = tmp_path / "data"
    rows: list[dict[str, Any]] = [
        {"audio": {"bytes": b"not audio", "path": "a.wav"}},
        {"audio": {"bytes": None, "path": "gone.wav"}},
        {"audio": {"bytes": encoded(0, "WAV"), "path": None}},
    ]
    write_parquet(root / "x.parquet", rows, {})
    assert sizes(prepared("generic", root)) == {"train": 1}
    assert [line[0] for line in issues(root)] == ["missing-audio", "unreadable-audio"]
    write_parquet(root / "x.parquet", [{"sound": 1}], {})
    with pytest.raises(DataError, match="lacks the column audio; it has: sound"):
        prepared("generic", root)
    (root / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read"):
        prepared("generic", root)


def test_a_parquet_file_is_a_corpus_for_every_verb(tmp_path: Path) -> None:
    row = {"audio": {"bytes": encoded(0), "path": "a.flac"}, "label": "x", "split": "validation"}
    write_parquet(tmp_path / "train.parquet", [row], {})
    corpus = find_corpus(str(tmp_path / "train.parquet"), tmp_path / "work")
    assert labels(corpus, "dev", "label") == ["x"]


@pytest.mark.parametrize("what", ["recordings", "speakers"])
def test_splits_are_drawn_for_a_table_without_them(what: str, tmp_path: Path) -> None:
    """By SHA-256 of the name: the first tenth is test, the second dev, segments stay together."""
    lines = ["path,start,end,speaker"]
    for number in range(20):
        record(tmp_path / f"{number}.wav", number)
        lines += [
            f"{number}.wav,0,0.3,voice-{number % 10}",
            f"{number}.wav,0.3,0.6,voice-{number % 10}",
        ]
    (tmp_path / "my.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match="lacks the column split") as caught:
        prepared("generic", tmp_path / "my.csv")
    assert "--set draw=recordings" in str(caught.value.hint)
    corpus = prepared("generic", tmp_path / "my.csv", f"draw={what}")
    assert sizes(corpus) == {"train": 32, "dev": 4, "test": 4}
    kind, column = ("path", 0) if what == "recordings" else ("speaker", 3)
    names = {line.split(",")[column] for line in lines[1:]}
    ranked = sorted(names, key=lambda n: hashlib.sha256(n.encode()).hexdigest())
    tenth = len(names) // 10
    for split, expected in (("test", ranked[:tenth]), ("dev", ranked[tenth : 2 * tenth])):
        cuts = list(corpus.split(split))
        found = {
            cut.supervisions[0].speaker if kind == "speaker" else f"{cut.id.split('-')[1]}.wav"
            for cut in cuts
        }
        assert found == set(expected)


def test_splits_that_cannot_be_drawn_are_refused(tmp_path: Path) -> None:
    for number in range(3):
        record(tmp_path / f"{number}.wav", number)
    table = tmp_path / "my.csv"
    table.write_text("path,speaker\n0.wav,a\n1.wav,b\n2.wav,\n")
    for setting, message in (
        ("draw=speakers", "1 rows without a speaker"),
        ("draw=voices", "unknown draw 'voices'"),
    ):
        with pytest.raises(SpeechftError, match=message):
            prepared("generic", table, setting)
    assert sizes(prepared("generic", table, "draw=recordings")) == {"train": 1, "dev": 1, "test": 1}
    table.write_text("path,speaker\n0.wav,a\n1.wav,b\n")
    with pytest.raises(DataError, match="2 recordings, too few"):
        prepared("generic", table, "draw=recordings")
    for splits, message in (
        (("Train", "dev", "eval"), "has rows of dev, test, train: drawn are dev and test where"),
        (("test", "test", "test"), "has rows of test: drawn are dev and test where"),
        (("train", "test", "test"), "1 recordings, too few for train and dev"),
    ):
        table.write_text("path,split\n" + "".join(f"{n}.wav,{s}\n" for n, s in enumerate(splits)))
        with pytest.raises(DataError, match=message):
            prepared("generic", table, "draw=recordings")


def test_only_splits_that_are_missing_are_drawn_and_from_train(tmp_path: Path) -> None:
    for number in range(20):
        record(tmp_path / "all" / f"{number}.wav", number)
    names = [f"{number}.wav" for number in range(20)]
    lines = [f"all/{name},{'Test' if n % 4 == 0 else 'train'}" for n, name in enumerate(names)]
    (tmp_path / "my.csv").write_text("\n".join(["path,split", *lines]))
    corpus = prepared("generic", tmp_path / "my.csv", "draw=recordings")
    assert sizes(corpus) == {"train": 13, "dev": 2, "test": 5}
    assert {int(cut.id.split("-")[1]) % 4 for cut in corpus.split("test")} == {0}
    corpus = prepared("generic", tmp_path / "all", "draw=recordings")
    assert sizes(corpus) == {"train": 16, "dev": 2, "test": 2}
