"""Layouts that people have: Common Voice, NeMo, channels, spellings of splits and of names."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpora import issues, prepared, sizes
from speechft.data.corpora import find_corpus
from speechft.data.labels import label_of
from speechft.data.manifest import Corpus
from speechft.data.waveform import load_waveform
from speechft.errors import DataError


def record(path: Path, seconds: float = 0.5, seed: int = 0, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    shape = (round(seconds * 16_000), channels)
    kind = "MP3" if path.suffix == ".mp3" else None
    soundfile.write(path, 0.1 * rng.standard_normal(shape), 16_000, format=kind)
    return path


def labels(corpus: Corpus, split: str, kind: str) -> list[str | None]:
    return [label_of(cut, kind) for cut in corpus.split(split)]


def table(folder: Path, text: str, name: str = "my.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_common_voice_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "en"
    for n, name in enumerate("abcd"):
        record(root / "clips" / f"{name}.mp3", seed=n)
    head = "client_id\tpath\tsentence\tage\n"
    table(root, f'{head}x\ta.mp3\tHe said "no", then\tteens\n', "train.tsv")
    table(root, f"{head}y\tb.mp3\thello\t\n", "dev.tsv")
    table(root, f"{head}z\tc\tyou\t\n", "test.tsv")
    table(root, f"{head}x\ta.mp3\thello\t\nw\td.mp3\tother\t\n", "validated.tsv")
    corpus = prepared("generic", root)
    assert sizes(corpus) == {"train": 1, "dev": 1, "test": 1}
    assert labels(corpus, "train", "text") == ['He said "no", then']
    assert labels(corpus, "test", "speaker") == ["z"]
    assert [line[4] for line in issues(root) if line[0] == "no-label"] == ["clips/d.mp3"]
    told = capsys.readouterr().err
    assert "label:COLUMN: age" in told
    assert "not read: validated.tsv" in told
    alone = find_corpus(str(root / "dev.tsv"), tmp_path / "work")
    assert labels(alone, "dev", "text") == ["hello"]


def test_nemo_lines_cut_segments(tmp_path: Path) -> None:
    record(tmp_path / "long.wav", 3.0)
    rows = [
        {"audio_filepath": "long.wav", "offset": 0.5, "duration": 1.0, "text": "one"},
        {"audio_filepath": "long.wav", "duration": 3.0, "text": "all"},
    ]
    path = table(tmp_path, "\n".join(map(json.dumps, rows)), "train_manifest.json")
    cuts = list(find_corpus(str(path), tmp_path / "work").split("train"))
    assert [(cut.start, cut.duration) for cut in cuts] == [(0.5, 1.0), (0.0, 3.0)]


def test_splits_in_capitals(tmp_path: Path) -> None:
    names = ("Train", "DEV", "Validation", "TEST", "Training", "Development", "mine")
    rows = [f"{record(tmp_path / f'{n}.wav', seed=n).name},{s}\n" for n, s in enumerate(names)]
    corpus = find_corpus(str(table(tmp_path, "path,split\n" + "".join(rows))), tmp_path / "work")
    assert sizes(corpus) == {"train": 2, "dev": 3, "test": 1, "mine": 1}


def test_a_column_chooses_the_channel(tmp_path: Path) -> None:
    record(tmp_path / "call.wav", channels=2)
    rows = "call.wav,train,0\ncall.wav,train,1\ncall.wav,train,2\ncall.wav,train,left\n"
    path = table(tmp_path, "path,split,channel\n" + rows)
    corpus = find_corpus(str(path), tmp_path / "work")
    expected, _ = soundfile.read(tmp_path / "call.wav", dtype="float32")
    for number, cut in enumerate(corpus.split("train")):
        np.testing.assert_array_equal(load_waveform(cut), expected[:, number])
    assert sizes(corpus) == {"train": 2}
    assert corpus.info["issues"] == {"bad-label": 1, "no-channel": 1}


@pytest.mark.parametrize("given", ["NFC", "NFD"])
@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_names_are_equal_however_they_are_composed(tmp_path: Path, given: str, stored: str) -> None:
    record(
        tmp_path / unicodedata.normalize(stored, "José") / unicodedata.normalize(stored, "ü.wav")
    )
    record(tmp_path / "b.wav", seed=1)
    name = unicodedata.normalize(given, "José/ü.wav")  # type: ignore[arg-type]
    speakers = [unicodedata.normalize(form, "José") for form in ("NFC", "NFD")]
    path = table(
        tmp_path, f"path,split,speaker\n{name},train,{speakers[0]}\nb.wav,train,{speakers[1]}\n"
    )
    corpus = find_corpus(str(path), tmp_path / "work")
    assert corpus.statistics["train"]["utterances"] == 2
    assert corpus.values("train", "speaker") == {"José"}


@pytest.mark.parametrize(
    "given", ["sub\\a.wav", "sub/a", "./sub//a.wav", "file://{}/sub/a.wav", "{}/sub/a.wav"]
)
def test_paths_in_other_spellings(tmp_path: Path, given: str) -> None:
    record(tmp_path / "sub" / "a.wav")
    path = table(tmp_path, f"path,split\n{given.format(tmp_path)},train\n")
    assert sizes(find_corpus(str(path), tmp_path / "work")) == {"train": 1}


def test_decimal_commas_of_semicolon_tables(tmp_path: Path) -> None:
    record(tmp_path / "long.wav", 2.0)
    path = table(tmp_path, "path;split;start;end\nlong.wav;train;0,25;1,75\n")
    (cut,) = find_corpus(str(path), tmp_path / "work").split("train")
    assert (cut.start, cut.end) == (0.25, 1.75)


def test_hidden_folders_and_what_was_made_are_no_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "mine"
    for name in ("yes/a.wav", ".cache/b.wav", "__MACOSX/yes/c.wav", "yes/._a.wav"):
        record(root / name)
    record(root / "made" / "audio" / "d.wav")
    (root / "made" / "corpus.json").write_text("{}")
    corpus = prepared("generic", root)
    assert sizes(corpus) == {"train": 1}
    assert labels(corpus, "train", "label") == ["yes"]
    assert "3 recordings in hidden folders" in capsys.readouterr().err


def test_foreign_recordings_and_dangling_links_of_a_folder_are_named(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    record(root / "a.wav")
    (root / "b.m4a").write_bytes(bytes(4) + b"ftypM4A " + bytes(60))
    (root / "c.wav").symlink_to(root / "gone")
    assert sizes(prepared("generic", root)) == {"train": 1}
    found = {line[4]: line[5] for line in issues(root)}
    assert "MPEG-4 audio" in found["b.m4a"]
    assert "is a link to nothing" in found["c.wav"]


def test_texts_in_brackets_are_no_words(tmp_path: Path) -> None:
    for n in range(3):
        record(tmp_path / f"{n}.wav", seed=n)
    rows = "0.wav,train,[door slams]\n1.wav,train,hello [noise] you\n2.wav,train,hello\n"
    corpus = find_corpus(str(table(tmp_path, "path,split,text\n" + rows)), tmp_path / "work")
    assert labels(corpus, "train", "text") == [None, "hello [noise] you", "hello"]
    assert corpus.info["issues"] == {"bracketed-text": 2}


def test_one_table_of_a_folder_is_read_and_several_are_asked_about(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    record(root / "a.wav")
    table(root, "path,text\na.wav,hello\n", "list.csv")
    table(root, "word,count\nhello,1\n", "words.csv")
    assert labels(prepared("generic", root), "train", "text") == ["hello"]
    table(root, "path,text\na.wav,goodbye\n", "second.csv")
    with pytest.raises(DataError, match=r"several tables of recordings: list\.csv, second\.csv"):
        prepared("generic", root)
