"""Tables as people have them: each dialect against the same rows, each damage with its line."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path

import pytest

from speechft.data.tables import is_manifest, is_table, read_table
from speechft.errors import DataError

ROWS = [
    {"path": "a.wav", "split": "train", "text": 'no, "thank" you', "speaker": "José"},
    {"path": "sub/b.wav", "split": "dev", "text": "yes; or | no", "speaker": ""},
]
COLUMNS = list(ROWS[0])


def delimited(separator: str, quoting: int = csv.QUOTE_MINIMAL, end: str = "\n") -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=separator, quoting=quoting, lineterminator=end)
    writer.writerows([COLUMNS, *(row.values() for row in ROWS)])
    return buffer.getvalue()


DIALECTS = {
    "comma.csv": delimited(",").encode(),
    "semicolon.csv": delimited(";").encode(),
    "tab.csv": delimited("\t").encode(),
    "tab.tsv": delimited("\t").encode(),
    "bar.csv": delimited("|").encode(),
    "all-quoted.csv": delimited(",", csv.QUOTE_ALL).encode(),
    "all-quoted.tsv": delimited("\t", csv.QUOTE_ALL).encode(),
    "windows.csv": delimited(",", end="\r\n").encode("utf-8-sig"),
    "old-mac.csv": delimited(",", end="\r").encode(),
    "excel.csv": ("sep=;\r\n" + delimited(";", end="\r\n")).encode("utf-8-sig"),
    "utf16.csv": delimited("\t").encode("utf-16"),
    "spaces.csv": b'path , split, text, speaker\na.wav, train, "no, ""thank"" you", Jos\xc3\xa9\n'
    b"sub/b.wav , dev, yes; or | no,\n",
    "decomposed.csv": delimited(",").replace("é", "e\u0301").encode(),
    "other-names.csv": delimited(",").replace("path", "File Name").replace("text", "Sentence")
    .replace("speaker", "client_id").encode(),
    "empty-cells.csv": delimited(",").replace("\n", ",,\n").encode() + b",,,,,\n\n",
    "lines.jsonl": "\n".join(json.dumps(row) for row in ROWS).encode(),
    "nemo.json": "\n".join(
        json.dumps({"audio_filepath" if k == "path" else k: v for k, v in row.items()})
        for row in ROWS
    ).encode(),
    "list.json": json.dumps(ROWS).encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(DIALECTS[name])
    assert is_table(path)
    table = read_table(path, ("path", "split"))
    assert table.rows == ROWS
    assert (table.problems, table.labels) == ([], [])


def test_common_voice_quotes_are_text(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text('path\tsentence\na.mp3\t"Open\nb.mp3\t"Whole"\nc.mp3\tthe "in" side\n')
    assert [row["text"] for row in read_table(path).rows] == ['"Open', "Whole", 'the "in" side']


def test_rows_of_another_length_are_named_and_nothing_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("path,split,text\na.wav,train,no, thank you\nb.wav,dev\nc.wav,dev,yes\n")
    table = read_table(path)
    assert table.rows == [{"path": "c.wav", "split": "dev", "text": "yes"}]
    assert table.lines.values().tolist() == [4]
    assert table.problems == [
        (
            "a.wav",
            "line 2 has 4 cells, the first line 3: quote texts with separators in them",
        ),
        ("b.wav", "line 3 has 2 of 3 cells: the text is empty"),
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('path,text\na.wav,"no\nb.wav,yes\n', "the quotes in line 2 are wrong"),
        ('path,text\na.wav,"no\nb.wav,yes"\nc.wav,x\n', "line 2 closes only in line 3"),
        ('path,text\na.wav,"no" or so\n', "the quotes in line 2 are wrong"),
        ("path,text,text\na.wav,x,y\n", "has the column text twice"),
        ("path,text,sentence\na.wav,x,x\nb.wav,x,y\n", "line 3: the columns 'text' and 'sentence'"),
        (b"path,text\na.wav,gr\xfc\xdfe\n", "line 2, byte 9 is not UTF-8"),
        (b"path,text\n\0a.wav,x\n", "line 2 holds a zero byte"),
        ("a.wav,hello\nb.wav,you\n", "lacks the column path; it has: a.wav, hello"),
        ("path,text\n", "has no rows"),
    ],
)
def test_what_could_change_the_result_is_refused(
    tmp_path: Path, content: str | bytes, expected: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match=expected) as caught:
        read_table(path)
    assert str(path) in caught.value.message


def test_a_text_of_two_lines_is_one_cell(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('path,split,text\na.wav,train,"one\ntwo"\nb.wav,dev,x\n')
    assert [row["text"] for row in read_table(path).rows] == ["one\ntwo", "x"]
    assert read_table(path).lines.values().tolist() == [2, 4]


def test_columns_without_meaning_are_known(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(",path,age,Unnamed: 3\n0,a.wav,40,z\n")
    table = read_table(path)
    assert (table.labels, table.dropped) == (["age"], ["column 1", "column 4"])
    path = tmp_path / "t.jsonl"
    path.write_text('{"path": "a.wav", "age": 40, "more": {"x": 1}}\n')
    table = read_table(path)
    assert (table.labels, table.dropped) == (["age"], ["more"])


def test_lhotse_manifests_are_no_tables(tmp_path: Path) -> None:
    path = tmp_path / "recordings.jsonl"
    path.write_text('{"id": "a", "sources": [], "sampling_rate": 16000}\n')
    assert is_manifest(path)
    assert not is_table(path)
    assert not is_table(tmp_path / "gone.csv")


@pytest.mark.parametrize("name", DIALECTS)
def test_damaged_tables_are_read_or_refused_and_never_end_in_another_error(
    tmp_path: Path, name: str
) -> None:
    rng, told = random.Random(name), []
    pieces = [b'"', b"\t", b",", b"\n", b"\xff", b"{"]
    path = tmp_path / name
    for number in range(60):
        data = bytearray(DIALECTS[name])
        for _ in range(3):
            place = rng.randrange(len(data))
            data[place : place + rng.randrange(3)] = rng.choice(pieces)
        path.write_bytes(data[: rng.randrange(len(data))] if number % 3 == 0 else data)
        try:
            table = read_table(path)
        except DataError as error:
            told.append(error.message)
        else:
            assert all(row.keys() >= {"path"} for row in table.rows)
            assert all("line" in problem for _, problem in table.problems)
    assert told
    assert all(str(path) in message for message in told)


@pytest.mark.parametrize("above", ["", "\n", "sep=;\n", "\n\nsep=;\n"])
def test_lines_are_numbered_as_an_editor_does(tmp_path: Path, above: str) -> None:
    text = above + "path;split;text\na.wav;train;HELLO\n\nb.wav;dev\n"
    (tmp_path / "t.csv").write_text(text)
    table = read_table(tmp_path / "t.csv")
    first = above.count("\n") + 2
    assert table.lines.values().tolist() == [first]
    assert table.problems[0][1].startswith(f"line {first + 2} has 2 of 3 cells")


def test_an_array_is_one_from_its_first_line_on(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"path": "a.wav"}\n[{"path": "b.wav"}]\n')
    with pytest.raises(DataError, match="line 2 is list, expected an object"):
        read_table(path)
    path.write_text('\n[{"path": "a.wav"},\n\n oops]\n')
    with pytest.raises(DataError, match=r"t\.jsonl is not JSON: .*line 4 column 2"):
        read_table(path)
    path.write_text('\n[{"path": "a.wav"},\n\n {"path": "b.wav"}]\n')
    assert [row["path"] for row in read_table(path).rows] == ["a.wav", "b.wav"]
