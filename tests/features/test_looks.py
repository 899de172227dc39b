"""A look before any work agrees with what the work then reads and leaves out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import Recording, RecordingSet

from helpers import speech_encoder
from speechft import cli
from speechft.data.corpora import find_corpus
from speechft.data.manifest import Corpus
from speechft.encoders.inspection import Inspection
from speechft.errors import DataError
from speechft.features.looks import DataInspection, inspect_anything, inspect_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "mine"
    root.mkdir()
    for n in range(3):
        samples = 0.1 * np.random.default_rng(n).standard_normal(8_000)
        soundfile.write(root / f"{n}.wav", samples, 16_000)
    (root / "3.wav").write_bytes((root / "2.wav").read_bytes()[:5_000])
    (root / "t.csv").write_text(
        "path,split,text,age\n0.wav,Train,a,4\n1.wav,test,b,c,5\n2.wav,dev,c,6\n3.wav,dev,d,7\n"
        "gone.wav,dev,e,8\n"
    )
    return root


def test_a_table_and_a_folder_are_read_as_they_say(folder: Path) -> None:
    for place in (folder / "t.csv", folder):
        found = inspect_data(place)
        corpus = find_corpus(str(place), folder.parent / f"work-{place.name}")
        kept = sum(values["utterances"] for values in corpus.statistics.values())
        assert found.read == kept == 2
        told = "\n".join(found.lines())
        for text in ("line 3 has 5 cells", "is cut off", "does not exist", "labels", "age"):
            assert text in told


def test_what_is_left_out_counts_nowhere_else_and_every_row_of_it_counts(folder: Path) -> None:
    (folder / "t.csv").write_text(
        "path,split,text,speaker,start,end\n"
        "0.wav,trian,a,anna,,\n"
        "0.wav,dev,b,bert,0.1,9\n"
        "0.wav,dev,c,bert,0.2,9\n"
        f"1.wav,dev,{'long ' * 40},bert,,\n"
        "gone.wav,dev,e,bert,,\n"
    )
    found = inspect_data(folder / "t.csv")
    assert (found.read, found.facts["with text"], found.facts["with speaker"]) == (1, "1", "1")
    assert found.facts["no task reads"] == "trian (train?)"
    assert found.left_out == {
        "0.wav of dev (segment-outside)": "seconds 0.1 to 9 of a recording of 0.50 s",
        "0.wav of dev (segment-outside) #2": "seconds 0.2 to 9 of a recording of 0.50 s",
        "1.wav of dev (text-too-long)": "199 characters need 199 frames, the audio has 24",
        "gone.wav of dev (missing-audio)": f"does not exist: {folder / 'gone.wav'}",
    }
    assert found.next == [f"speechft prepare generic {folder / 't.csv'} --out corpora/t"]
    corpus = inspect_data(find_corpus(str(folder / "t.csv"), folder.parent / "work").folder)
    assert (corpus.read, len(corpus.left_out)) == (1, 4)


def test_nothing_that_can_be_read_leads_nowhere(folder: Path) -> None:
    (folder / "t.csv").write_text("path,split\ngone.wav,train\n")
    (folder / "list.csv").write_text("path\ngone.wav\n")
    for name in ("t.csv", "list.csv", "3.wav"):
        found = inspect_data(folder / name)
        assert (found.read, found.next, len(found.left_out)) == (0, [], 1)


def test_a_table_without_splits_is_for_extract(folder: Path) -> None:
    (folder / "list.csv").write_text("path\n0.wav\n3.wav\n")
    found = inspect_data(folder / "list.csv")
    assert (found.read, list(found.left_out)) == (1, [str(folder / "3.wav")])
    assert found.next[0].startswith("speechft extract")


def test_a_recording(folder: Path) -> None:
    found = inspect_data(folder / "0.wav")
    assert (found.kind, found.read) == ("recording", 1)
    assert found.facts["length"] == "0.500 s, 8000 samples"
    assert inspect_data(folder / "3.wav").read == 0


def test_a_manifest_and_a_corpus(folder: Path, tones: Corpus) -> None:
    recordings = [Recording.from_file(folder / f"{n}.wav") for n in range(2)]
    RecordingSet.from_recordings(recordings).to_file(folder / "r.jsonl.gz")
    (folder / "1.wav").unlink()
    found = inspect_data(folder / "r.jsonl.gz")
    assert (found.kind, found.read) == ("manifest", 1)
    assert found.left_out == {str(folder / "1.wav"): "does not exist"}
    found = inspect_data(tones.folder)
    total = sum(values["utterances"] for values in tones.statistics.values())
    assert (found.kind, found.read) == ("corpus", total)


def test_encoders_are_still_encoders(tmp_path: Path, folder: Path) -> None:
    speech_encoder("hubert").save(tmp_path / "encoder")
    assert isinstance(inspect_anything(tmp_path / "encoder"), Inspection)
    assert isinstance(inspect_anything("tiny-hubert"), Inspection)
    assert isinstance(inspect_anything(folder), DataInspection)


@pytest.mark.parametrize(("name", "kind"), [("x.csv", "table"), ("x.WAV", "recording")])
def test_data_that_is_missing_is_no_encoder(name: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{kind} .*{name} does not exist"):
        inspect_anything(tmp_path / name)


def test_the_verb_takes_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.app(["inspect", str(folder / "t.csv"), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["kind"] == "table"
