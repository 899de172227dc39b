"""The user's own recordings: what cannot be used is named and left out, the rest goes on."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechft.data.corpora import build, find_corpus, generic
from speechft.data.corpora.reading import Reading
from speechft.data.folders import look_below
from speechft.data.labels import label_of, phones_of
from speechft.data.manifest import Corpus, load_waveform, open_corpus
from speechft.errors import DataError
from speechft.features.looks import inspect_anything
from speechft.features.sources import find_sources
from speechft.runs import stage
from speechft.storage.outputs import put_text


def record(path: Path, seconds: float = 0.5, rate: int = 16_000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, np.tile(0.3 * np.sin(2 * np.pi * 300 * time)[:, None], channels), rate)


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "my.csv"
    path.write_bytes(text.encode(encoding))
    return path


def prepare(folder: Path, text: str, encoding: str = "utf-8") -> Corpus:
    return generic.prepare(table(folder, text, encoding), folder / "corpus")


def issues(folder: Path) -> list[list[str]]:
    lines = (folder / "corpus" / "issues.tsv").read_text().splitlines()
    return [line.split("\t") for line in lines[1:]]


def test_columns_become_labels(tmp_path: Path) -> None:
    record(tmp_path / "audio" / "a.wav")
    record(tmp_path / "b.wav")
    corpus = prepare(
        tmp_path,
        "path,split,text,phones,speaker,label,room\n"
        'audio/a.wav,train,"Hello, you",HH AH L OW,anna,yes,kitchen\n'
        f"{tmp_path / 'b.wav'},test,,,,no,\n",
    )
    assert corpus.name == "my"
    (first,) = corpus.split("train")
    kinds = ("text", "speaker", "label", "room")
    assert [label_of(first, kind) for kind in kinds] == ["Hello, you", "anna", "yes", "kitchen"]
    assert [phone for phone, _, _ in phones_of(first)] == ["HH", "AH", "L", "OW"]
    assert {(start, end) for _, start, end in phones_of(first)} == {(0.0, 0.0)}
    (second,) = corpus.split("test")
    assert [label_of(second, kind) for kind in kinds] == [None, None, "no", None]
    assert corpus.statistics["train"]["labels"] == {
        "label": 1,
        "phones": 1,
        "room": 1,
        "speaker": 1,
        "text": 1,
    }
    assert issues(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    [("a.wav", 44_100, 2), ("a.flac", 11_025, 1), ("a.ogg", 48_000, 2), ("a.aiff", 8_000, 1)],
)
def test_any_format_and_rate(tmp_path: Path, name: str, rate: int, channels: int) -> None:
    record(tmp_path / name, 0.5, rate, channels)
    corpus = prepare(tmp_path, f"path,split\n{name},train\n")
    (cut,) = corpus.split("train")
    waveform = load_waveform(cut)
    assert abs(len(waveform) - 8_000) <= 1
    assert np.abs(waveform[1000:-1000]).max() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_byte_order_mark_and_spaces_in_the_header(tmp_path: Path, encoding: str) -> None:
    record(tmp_path / "größe.wav")
    corpus = prepare(tmp_path, "path, split, label\r\ngröße.wav, train, ja\r\n", encoding)
    (cut,) = corpus.split("train")
    assert label_of(cut, "label") == "ja"


def test_unusable_recordings_are_left_out_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path / "first.wav")
    record(tmp_path / "last.wav")
    record(tmp_path / "short.wav", 0.01)
    record(tmp_path / "empty.wav", 0)
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "headerless.raw").write_bytes(bytes(4000))
    (tmp_path / "folder.wav").mkdir()
    corpus = prepare(
        tmp_path,
        "path,split\n"
        "first.wav,train\n"
        "text.wav,train\n"
        "gone.wav,train\n"
        "short.wav,train\n"
        "empty.wav,train\n"
        "headerless.raw,train\n"
        "folder.wav,train\n"
        "./first.wav,test\n"
        "short.wav\n"
        ",train\n"
        ",train\n"
        "last.wav,../../escape\n"
        "last.wav,train\n"
        "first.wav,train\n",
    )
    assert [Path(c.recording.sources[0].source).name for c in corpus.split("train")] == [
        "first.wav",
        "last.wav",
    ]
    found = {(kind, path, problem) for kind, _, _, _, path, problem in issues(tmp_path)}
    expected = {
        ("missing-audio", "gone.wav", "does not exist"),
        ("unreadable-audio", "text.wav", "not readable as audio"),
        ("unreadable-audio", "headerless.raw", "holds nothing but zero bytes"),
        ("unreadable-audio", "folder.wav", "is a folder"),
        ("too-short", "short.wav", "160 samples at 16000 Hz are too short"),
        ("zero-length", "empty.wav", "holds no samples"),
        ("listed-twice", "./first.wav", "listed twice"),
        ("listed-twice", "first.wav", "listed twice"),
        ("bad-label", "short.wav", "the split is empty"),
        ("bad-label", "", "the path is empty"),
        ("bad-label", "last.wav", "the split '../../escape' is not a plain name"),
    }
    assert len(issues(tmp_path)) == 12
    for kind, path, problem in expected:
        assert any(kind == k and path == p and problem in text for k, p, text in found), problem
    assert {line[1] for line in issues(tmp_path)} == {"left out"}
    assert set(corpus.statistics) == {"train"}
    assert "12 of 14 recordings are left out (see issues.tsv): " in capsys.readouterr().err
    assert sorted(item.name for item in tmp_path.parent.glob("escape*")) == []


def test_splits_have_the_names_that_hugging_face_knows(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        record(tmp_path / f"{name}.wav")
    corpus = prepare(tmp_path, "path,split\na.wav,validation\nb.wav,eval\nc.wav,test-clean\n")
    assert set(corpus.statistics) == {"dev", "test", "test-clean"}


def test_segments_of_a_recording(tmp_path: Path) -> None:
    record(tmp_path / "long.wav", 2.0)
    corpus = prepare(
        tmp_path,
        "path,split,start,end,text\n"
        "long.wav,train,0.25,0.75,one\n"
        "long.wav,train,0.75,,two\n"
        "long.wav,train,,0.5,three\n"
        "long.wav,train,0.750,,again\n"
        "long.wav,train,soon,1,four\n"
        "long.wav,train,nan,1,five\n"
        "long.wav,train,-1,1,six\n"
        "long.wav,train,1,1,seven\n"
        "long.wav,train,1,3,eight\n"
        "long.wav,train,5,,nine\n"
        "long.wav,train,,5,ten\n",
    )
    found = {label_of(cut, "text"): (cut.start, cut.end) for cut in corpus.split("train")}
    assert found == {"one": (0.25, 0.75), "two": (0.75, 2.0), "three": (0.0, 0.5)}
    assert {len(load_waveform(cut)) for cut in corpus.split("train")} == {8_000, 20_000}
    assert set(corpus.statistics["train"]["labels"]) == {"text"}
    assert sorted((line[0], line[5]) for line in issues(tmp_path)) == [
        ("bad-label", "the end, 1 s, is not after the start, 1 s"),
        ("bad-label", "the start '-1' is not a number of seconds"),
        ("bad-label", "the start 'nan' is not a number of seconds"),
        ("bad-label", "the start 'soon' is not a number of seconds"),
        ("listed-twice", "listed twice"),
        ("segment-outside", "seconds 0 to 5 of a recording of 2.00 s"),
        ("segment-outside", "seconds 1 to 3 of a recording of 2.00 s"),
        ("segment-outside", "seconds 5 to 2 of a recording of 2.00 s"),
    ]


def test_the_rest_goes_on(tmp_path: Path) -> None:
    for number in range(6):
        record(tmp_path / f"{number}.wav", 0.2 + 0.1 * number)
    (tmp_path / "3.wav").write_bytes((tmp_path / "3.wav").read_bytes()[:20])
    lines = "".join(f"{number}.wav,train,l{number}\n" for number in range(6))
    corpus = prepare(tmp_path, f"path,split,label\n{lines}")
    labels = [label_of(cut, "label") for cut in corpus.split("train")]
    assert labels == ["l0", "l1", "l2", "l4", "l5"]
    assert [line[0] for line in issues(tmp_path)] == ["unreadable-audio"]
    assert issues(tmp_path)[0][4] == "3.wav"


def test_nothing_usable_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of the 2 recordings .* can be used") as caught:
        prepare(tmp_path, "path,split\na.wav,train\nb.wav,train\n")
    assert "a.wav: does not exist" in caught.value.message
    assert f"(paths are relative to {tmp_path})" in caught.value.message
    visible = [item.name for item in (tmp_path / "corpus").iterdir() if item.name[0] != "."]
    assert visible == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("path,text\na.wav,x\n", "lacks the column split; it has: path, text"),
        ("sound;part\na.wav;train\n", "lacks the column path, split; it has: sound, part"),
        ("", "lacks the column path, split"),
        ("path,split\n", "has no rows"),
        (None, "does not exist"),
    ],
)
def test_unusable_table(tmp_path: Path, content: str | None, expected: str) -> None:
    path = tmp_path / "my.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=expected) as caught:
        generic.prepare(path, tmp_path / "corpus")
    assert str(path) in caught.value.message
    assert not (tmp_path / "corpus").exists(), "nothing half-written"


def test_a_table_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    path.write_bytes(b"path,split\n\xff\xfe\xfa,train\n")
    with pytest.raises(DataError, match="cannot be read"):
        generic.prepare(path, tmp_path / "corpus")
    with pytest.raises(DataError, match="holds no recordings"):
        generic.prepare(tmp_path, tmp_path / "corpus")


def test_unchanged_is_skipped_and_changed_is_prepared_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Any] = []
    inspect_all = build._inspect_all
    monkeypatch.setattr(build, "_inspect_all", lambda *a: (reads.append(a), inspect_all(*a))[1])
    record(tmp_path / "a.wav", 0.5)
    text = "path,split\na.wav,train\nlater.wav,train\n"
    first = prepare(tmp_path, text)
    again = prepare(tmp_path, text)
    assert (len(reads), again.digest) == (1, first.digest)

    record(tmp_path / "a.wav", 0.75)
    monkeypatch.setattr(generic, "READER", 0)
    assert prepare(tmp_path, text).digest != first.digest, "another reader reads otherwise"
    assert reads.pop()
    monkeypatch.undo()
    monkeypatch.setattr(build, "_inspect_all", lambda *a: (reads.append(a), inspect_all(*a))[1])

    longer = prepare(tmp_path, text)
    assert len(reads) == 2
    assert [cut.duration for cut in longer.split("train")] == [0.75]
    assert longer.digest != first.digest

    status = (tmp_path / "a.wav").stat()
    os.utime(tmp_path / "a.wav", ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    prepare(tmp_path, text)
    assert len(reads) == 3, "same size, later date"

    record(tmp_path / "later.wav")
    assert len(prepare(tmp_path, text).split("train")) == 2
    before = prepare(tmp_path, text)
    assert prepare(tmp_path, text + "unfinished row\n").digest != before.digest


def test_splits_that_no_task_reads_are_told_with_what_may_be_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path / "a.wav")
    prepare(tmp_path, "path,split\na.wav,TRAIN\n")
    assert "no task reads" not in capsys.readouterr().err
    rows = "a.wav,0.2,trian\na.wav,0.3,held-out\na.wav,0.4,validaton\n"
    prepare(tmp_path, f"path,end,split\n{rows}")
    told = "no task reads the splits held-out, trian (train?), validaton (dev?); those of tasks are"
    assert told in capsys.readouterr().err


def test_what_is_lost_is_counted_by_split_and_told_at_every_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing recording loses all its segments; copies, and what no row names, lose nothing."""
    record(tmp_path / "a.wav")
    record(tmp_path / "b.wav")
    table(
        tmp_path,
        "path,split,start,end\n"
        "a.wav,train,0,0.3\n"
        "a.wav,train,0.3,0.9\n"
        "gone.wav,dev,0,1\n"
        "gone.wav,dev,1,2\n"
        "b.wav,dev,,\n"
        "b.wav,dev,,\n"
        "b.wav,test\n",
    )
    for _ in range(2):
        corpus = find_corpus(str(tmp_path / "my.csv"), tmp_path / "corpus")
        assert corpus.info["lost"] == {
            "*": {"bad-label": 1},
            "train": {"segment-outside": 1},
            "dev": {"missing-audio": 2},
        }
        assert "warning: corpus my lacks 4 of 6 recordings, " in capsys.readouterr().err
    allowed = generic.prepare(
        tmp_path / "my.csv", tmp_path / "allowed", build.Options(allow_missing=True)
    )
    assert allowed.info["lost_by_choice"] == ["missing-audio"]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_missing_cells_of_typed_tables_are_missing(tmp_path: Path, suffix: str) -> None:
    """NaN is how pandas has a missing cell; one of them makes numbers of a column floats."""
    from pyarrow import Table, parquet

    rows: list[dict[str, Any]] = []
    for number, (speaker, text) in enumerate(((1.0, "a word"), (math.nan, math.nan), (2, None))):
        record(tmp_path / f"{number}.wav", 0.4 + number / 10)
        audio = tmp_path / f"{number}.wav"
        rows.append({"path": str(audio), "speaker": speaker, "text": text, "split": "train"})
    path = tmp_path / f"my.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        rows[1]["text"] = None
        audio_of = {"audio": [{"bytes": Path(r.pop("path")).read_bytes()} for r in rows]}
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        parquet.write_table(Table.from_pydict(columns | audio_of), path)
    cuts = list(generic.prepare(path, tmp_path / "corpus").split("train"))
    found = [(label_of(cut, "speaker"), label_of(cut, "text")) for cut in cuts]
    assert found == [("1", "a word"), (None, None), ("2", None)]


def test_an_empty_start_is_the_beginning(tmp_path: Path) -> None:
    record(tmp_path / "long.wav", 3.0)
    for number, rows in enumerate(
        (
            "path,start,duration,split\nlong.wav,,1,train\nlong.wav,1,1,dev\n",
            "path,offset,end,split\nlong.wav,,1,train\nlong.wav,1,2,dev\n",
            '[{"path": "long.wav", "offset": null, "duration": 1, "split": "train"},'
            ' {"path": "long.wav", "offset": 1, "duration": 1, "split": "dev"}]',
        )
    ):
        path = tmp_path / f"{number}.{'json' if rows.startswith('[') else 'csv'}"
        path.write_text(rows)
        corpus = generic.prepare(path, tmp_path / f"corpus-{number}")
        parts = [(c.start, c.duration) for s in ("train", "dev") for c in corpus.split(s)]
        assert parts == [(0.0, 1.0), (1.0, 1.0)], rows


def test_a_duration_that_cuts_nothing_and_is_another_is_named(tmp_path: Path) -> None:
    for name in "abcd":
        record(tmp_path / f"{name}.wav", 2.0 + ord(name) / 1000)
    prepare(
        tmp_path,
        "path,duration,split\na.wav,0.3,train\nb.wav,2.1,train\nc.wav,2100,train\nd.wav,x,train\n",
    )
    kinds = {(kind, Path(path).name) for kind, _, _, _, path, _ in issues(tmp_path)}
    assert kinds == {("length-differs", "a.wav")}, "milliseconds are no other length"


def test_names_that_are_probably_one_are_named(tmp_path: Path) -> None:
    text = "path,split,speaker,mood\n"
    spoken = (("train", "1", "glad"), ("train", "2", "Glad"), ("dev", "1.0", "sad"))
    for number, (split, speaker, mood) in enumerate((*spoken, ("dev", "nan", "nan"))):
        record(tmp_path / f"{number}.wav", 0.5 + number / 10)
        text += f"{number}.wav,{split},{speaker},{mood}\n"
    prepare(tmp_path, text)
    found = {(kind, name): problem for kind, _, _, name, _, problem in issues(tmp_path)}
    assert "the speaker '1' is also written '1.0'" in found["spelt-twice", "1"]
    assert "the mood 'glad' is also written 'Glad'" in found["spelt-twice", "glad"]
    assert "of 1 utterances is 'nan'" in found["looks-missing", "nan"]
    asked = replace(Reading(), disjoint_speakers=True)
    with pytest.raises(DataError, match="speaker-overlap") as caught:
        generic.prepare(tmp_path / "my.csv", tmp_path / "disjoint", reading=asked)
    assert "1, also written 1.0" in (tmp_path / "disjoint" / "issues.tsv").read_text(), caught.value


SHARED = "path,split,speaker\na.wav,train,anna\nb.wav,test,anna\n"


def refuse(folder: Path, out: Path, text: str = SHARED) -> None:
    with pytest.raises(DataError, match="cannot be prepared"):
        generic.prepare(table(folder, text), out, reading=Reading(disjoint_speakers=True))


def test_what_a_refused_preparation_left_is_no_corpus(tmp_path: Path) -> None:
    """Neither its issues.tsv is read as a table, nor an older corpus with the issues of another."""
    for name in "ab":
        record(tmp_path / f"{name}.wav")
    new, old = tmp_path / "new", tmp_path / "old"
    generic.prepare(table(tmp_path, SHARED.replace("b.wav,test,anna", "b.wav,test,ben")), old)
    for out in (new, old):
        refuse(tmp_path, out)
        readers: list[Callable[[], object]] = [
            lambda out=out: inspect_anything(out),
            lambda out=out: find_corpus(str(out), tmp_path / "work"),
            lambda out=out: find_sources([out]),
            lambda out=out: generic.prepare(out, tmp_path / "again"),
        ]
        if out == old:
            readers[-1] = lambda: open_corpus(old)
        for read in readers:
            with pytest.raises(DataError) as caught:
                read()
            told = f"{out} is no corpus: its preparation was refused (speaker-overlap), see "
            assert str(caught.value).startswith(f"{told}{out / 'issues.tsv'}\n")
            assert "move each speaker" in str(caught.value)
    corpus = generic.prepare(table(tmp_path, SHARED), old)  # once it is prepared, all is well
    assert set(corpus.statistics) == {"train", "test"}
    assert find_corpus(str(old), tmp_path / "work").digest == corpus.digest


def test_a_refused_preparation_in_place_is_tried_again(tmp_path: Path) -> None:
    for name in "ab":
        record(tmp_path / f"{name}.wav")
    refuse(tmp_path, tmp_path)
    table(tmp_path, SHARED.replace("b.wav,test,anna", "b.wav,test,ben"))
    corpus = generic.prepare(tmp_path, tmp_path, reading=Reading(disjoint_speakers=True))
    assert set(corpus.statistics) == {"train", "test"}


def test_a_refused_corpus_below_a_folder_is_passed_over(tmp_path: Path) -> None:
    for name in "ab":
        record(tmp_path / f"{name}.wav")
    refuse(tmp_path, tmp_path / "out")
    record(tmp_path / "out" / "audio" / "c.wav")
    below = look_below(tmp_path)
    assert [path.name for path in below.audio] == ["a.wav", "b.wav"]
    assert [path.name for path in below.others] == ["my.csv"]


def test_tables_that_our_commands_wrote_are_no_recordings(tmp_path: Path) -> None:
    """Answers of predict beside the audio, outputs of stages; what was edited is the user's."""
    for name in "ab":
        record(tmp_path / f"{name}.wav")
    answers = tmp_path / "answers.tsv"
    put_text(answers, "path\tsplit\ttext\na.wav\ttrain\thello\n")
    with stage(tmp_path / "work", name="evaluate", config={}) as work:
        (work.scratch / "left_out.jsonl").write_text('{"path": "a.wav", "split": "train"}\n')
        (work.scratch / "dump").mkdir()
        (work.scratch / "dump" / "metadata.csv").write_text("path,split\na.wav,train\n")
    assert generic.read_place(tmp_path, tmp_path, Reading()).sources == []
    assert {path.name for path in look_below(tmp_path).others} <= {".lock"}
    assert find_corpus(str(tmp_path), tmp_path / "out").statistics["train"]["utterances"] == 2
    answers.write_text("path\tsplit\ttext\nb.wav\ttrain\thello\n")
    assert generic.read_place(tmp_path, tmp_path, Reading()).sources == [answers]
