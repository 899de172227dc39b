"""Columns and splits of one's own recordings keep their names: the user says what is what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import speechft
from corpora import prepared, sizes
from speechft.data.corpora import find_corpus
from speechft.data.corpora.reading import Reading
from speechft.data.corpora.settings import place_and_settings
from speechft.data.corpora.splits import wanted_splits
from speechft.data.labels import label_of
from speechft.data.manifest import Corpus
from speechft.errors import ConfigError, DataError
from speechft.features.looks import inspect_data, is_data
from speechft.features.sources import find_sources
from speechft.naming import public_command

ROWS = [
    ("a.wav", "Training", "Hallo, du", "anna", "0,1", "froh", "x"),
    ("b.wav", "Training", "Tag", "bert", "", "froh", "x"),
    ("c.wav", "Gehalten", "Nein", "anna", "", "müde", "x"),
    ("d.wav", "Rest", "Ja", "cleo", "", "müde", "x"),
]
COLUMNS = ("Datei", "Teil", "Gesagtes", "Wer", "ab", "Laune", "text")
NAMED = "path=Datei&split=Teil&text=Gesagtes&speaker=Wer&start=ab"
SPLITS = "splits=train:Training,test:Gehalten"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "meine"
    root.mkdir()
    for n, (name, *_) in enumerate(ROWS):
        samples = 0.1 * np.random.default_rng(n).standard_normal(9_600)
        soundfile.write(root / name, samples, 16_000)
    return root


def with_cells(folder: Path) -> Path:
    lines = [";".join(line) for line in (COLUMNS, *ROWS)]
    (folder / "liste.csv").write_text("\n".join(lines) + "\n")
    return folder / "liste.csv"


def with_json(folder: Path) -> Path:
    rows: list[dict[str, Any]] = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
    rows = [{k: v.replace("0,1", "0.1") for k, v in row.items() if v} for row in rows]
    (folder / "liste.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder / "liste.jsonl"


def with_parquet(folder: Path) -> Path:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows: list[dict[str, Any]] = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
    for row in rows:
        row["ab"] = row["ab"].replace(",", ".")
        row["audio"] = "somewhere else"
        row["Datei"] = {"bytes": (folder / row["Datei"]).read_bytes(), "path": None}
    parquet.write_table(pa.Table.from_pylist(rows), folder / "liste.parquet")
    return folder / "liste.parquet"


def heard(corpus: Corpus, split: str) -> list[tuple[str | None, ...]]:
    kinds = ("text", "speaker", "Laune")
    return [tuple(label_of(cut, kind) for kind in kinds) for cut in corpus.split(split)]


@pytest.mark.parametrize("write", [with_cells, with_json, with_parquet])
def test_columns_and_splits_are_what_the_user_says(
    folder: Path, write: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = write(folder)
    corpus = find_corpus(f"{place}?{NAMED}&{SPLITS}", tmp_path / "corpus")
    assert sizes(corpus) == {"train": 2, "test": 1}
    assert heard(corpus, "train") == [("Hallo, du", "anna", "froh"), ("Tag", "bert", "froh")]
    assert [cut.duration for cut in corpus.split("train")] == [0.5, 0.6]
    told = capfd.readouterr().err
    assert "text of liste" in told, "another was chosen"
    assert "1 rows of Rest" in told
    settings = [*NAMED.split("&"), SPLITS]
    again = speechft.prepare("generic", str(place), out=tmp_path / "again", overrides=settings)
    assert [heard(again, s) for s in sizes(again)] == [heard(corpus, s) for s in sizes(corpus)]
    if place.suffix != ".parquet":  # whose audio is written anew
        assert again.digest == corpus.digest
        assert find_corpus(f"{place}?{NAMED}", tmp_path / "all").digest != corpus.digest


def test_a_folder_with_a_table_takes_them_too(folder: Path, tmp_path: Path) -> None:
    with_cells(folder)
    corpus = find_corpus(f"{folder}?{NAMED}&{SPLITS}", tmp_path / "corpus")
    assert sizes(corpus) == {"train": 2, "test": 1}
    with pytest.raises(DataError, match=r"no table of recordings.*no column 'Dattei'"):
        find_corpus(f"{folder}?path=Dattei", tmp_path / "corpus")


def test_one_column_may_be_two_things_and_splits_drawn(folder: Path) -> None:
    place = with_cells(folder)
    corpus = prepared(
        "generic", place, "path=Datei", "speaker=Wer", "label=Wer", "text=Gesagtes", "draw=speakers"
    )
    assert set(sizes(corpus)) == {"train", "dev", "test"}
    assert sum(sizes(corpus).values()) == 4
    for split in sizes(corpus):
        for cut in corpus.split(split):
            assert label_of(cut, "label") == label_of(cut, "speaker")


@pytest.mark.parametrize(
    ("settings", "error", "message", "hint"),
    [
        (
            "path=Dattei&split=Teil",
            DataError,
            "has no column 'Dattei'; it has: Datei, Te",
            "'Datei'",
        ),
        ("path=Datei", DataError, "lacks the column split; it has: Datei", "split=COLUMN"),
        ("pfad=Datei", ConfigError, "unknown setting of corpus generic 'pfad'", "path"),
        (f"{NAMED}&splits=train:Trainig", ConfigError, "unknown split 'Trainig'", "Training"),
        (f"{NAMED}&splits=train:Rest,test:Rest", ConfigError, "Rest is wanted as train and as", ""),
        (f"{NAMED}&disjoint_speakers=perhaps", ConfigError, "disjoint_speakers=perhaps", ""),
    ],
)
def test_what_is_not_there_is_named(
    folder: Path, settings: str, error: type[Exception], message: str, hint: str, tmp_path: Path
) -> None:
    for write in (with_cells, with_json):
        with pytest.raises(error, match=message) as caught:
            find_corpus(f"{write(folder)}?{settings}", tmp_path / "corpus")
        assert hint in f"{caught.value} {getattr(caught.value, 'hint', '')}"


def test_two_columns_that_mean_the_same_are_told_apart(folder: Path, tmp_path: Path) -> None:
    table = folder / "t.csv"
    table.write_text("path,split,text,sentence\na.wav,train,one,two\nb.wav,test,x,y\n")
    with pytest.raises(DataError, match="both mean text") as caught:
        find_corpus(str(table), tmp_path / "corpus")
    assert "?text=sentence" in str(caught.value.hint)
    corpus = find_corpus(f"{table}?text=sentence", tmp_path / "corpus")
    assert [label_of(cut, "text") for cut in corpus.split("train")] == ["two"]


def test_looks_and_features_take_the_same(folder: Path) -> None:
    given = f"{with_cells(folder)}?{NAMED}&{SPLITS}"
    assert is_data(given)
    found = inspect_data(given)
    assert (found.read, found.facts["splits"]) == (3, "train 2, test 1")
    assert f"'{given}'" in found.next[0]
    columns = f"{folder / 'liste.csv'}?path=Datei&start=ab"
    assert sorted(find_sources(columns).cuts) == ["a-0000100-end", "b", "c", "d"]
    listed = inspect_data(columns)
    assert "no column split" in listed.facts["splits"]
    with pytest.raises(ConfigError, match="speaks of splits"):
        find_sources(given)
    with pytest.raises(DataError, match="takes no settings"):
        find_sources(f"{folder}?path=Datei")


def test_what_was_prepared_takes_none(folder: Path, tmp_path: Path) -> None:
    corpus = find_corpus(f"{with_cells(folder)}?{NAMED}", tmp_path / "corpus")
    with pytest.raises(DataError, match=r"is prepared.*takes no settings \(text=Laune\)"):
        find_corpus(f"{corpus.folder}?text=Laune", tmp_path / "other")


def test_question_marks_in_names(tmp_path: Path) -> None:
    odd = tmp_path / "what?text=b"
    assert place_and_settings(f"{odd}?text=a") == (str(tmp_path / "what"), ["text=b?text=a"])
    odd.mkdir()
    assert place_and_settings(str(odd)) == (str(odd), [])
    assert place_and_settings(f"{odd}?text=my+text%21&split=") == (
        str(odd),
        ["text=my text!", "split="],
    )
    typed = ["speechft", "evaluate", f"--corpus={odd}?speaker=Wer", f"{odd}?text=a"]
    assert public_command(typed).count(str(tmp_path)) == 0


def test_what_is_kept_of_settings() -> None:
    assert Reading().told() == {"disjoint_speakers": False}
    assert Reading.of(["draw=speakers", "text=a"]).told() == {
        "disjoint_speakers": False,
        "text": "a",
        "draw": "speakers",
    }
    assert wanted_splits("a,dev:b,train/x", ["a", "b", "train/x"]) == {
        "a": ["a"],
        "dev": ["b"],
        "train": ["train/x"],
    }
