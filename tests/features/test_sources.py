"""Which audio the arguments name, and under which names its features go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from helpers import cut_of
from speechft.data.manifest import Corpus
from speechft.errors import DataError
from speechft.features.sources import find_sources


def audio(path: Path, samples: int = 4_000, rate: int = 16_000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(samples)
    soundfile.write(path, 0.1 * rng.standard_normal((samples, channels)), rate)
    return path


def test_names_are_relative_to_the_common_parent(tmp_path: Path) -> None:
    first, second = audio(tmp_path / "a" / "x.wav"), audio(tmp_path / "b" / "c" / "y.flac")
    assert list(find_sources([first, second]).cuts) == ["a/x", "b/c/y"]
    assert list(find_sources([first]).cuts) == ["x"]
    assert list(find_sources([tmp_path]).cuts) == ["a/x", "b/c/y"]
    assert list(find_sources([tmp_path / "b"]).cuts) == ["c/y"]
    assert list(find_sources([tmp_path / "b", first, first]).cuts) == ["b/c/y", "a/x"]


def test_files_that_differ_in_the_suffix_keep_it(tmp_path: Path) -> None:
    for name in ("x.wav", "x.flac", "y.wav"):
        audio(tmp_path / name)
    assert sorted(find_sources([tmp_path]).cuts) == ["x.flac", "x.wav", "y"]


def test_unusable_files_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    audio(tmp_path / "good.wav")
    audio(tmp_path / "empty.wav", samples=0)
    (tmp_path / "broken.wav").write_bytes(b"not audio")
    (tmp_path / "notes.txt").write_text("not looked at in a folder")
    found = find_sources([tmp_path, tmp_path / "missing.wav", tmp_path / "notes.txt"])
    assert list(found.cuts) == ["good"]
    problems = {Path(path).name: text for path, text in found.problems.items()}
    assert problems.pop("empty.wav") == "is empty"
    assert problems.pop("missing.wav") == "does not exist"
    assert problems.pop("broken.wav") == "is not readable as audio (Format not recognised)"
    assert problems.pop("notes.txt").startswith("is not readable as audio")
    assert problems == {}


def test_tables_list_files(tmp_path: Path) -> None:
    audio(tmp_path / "audio" / "x.wav")
    audio(tmp_path / "audio" / "sub" / "y.wav")
    (tmp_path / "list.csv").write_text("path,split\naudio/x.wav,train\naudio/sub/y.wav,dev\n")
    assert list(find_sources([tmp_path / "list.csv"]).cuts) == ["x", "sub/y"]
    (tmp_path / "bad.csv").write_text("file\nx.wav\n")
    with pytest.raises(DataError, match=r"bad\.csv has a row without a path"):
        find_sources([tmp_path / "bad.csv"])


def test_manifests_go_by_id(tmp_path: Path) -> None:
    audio(tmp_path / "one.wav", samples=16_000)
    cuts = [cut_of("one"), cut_of("one").truncate(duration=0.5)]
    cuts[1].id = "part/half"
    CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl.gz")
    found = find_sources([tmp_path / "cuts.jsonl.gz"]).cuts
    assert {name: cut.num_samples for name, cut in found.items()} == {
        "one": 16_000,
        "part/half": 8_000,
    }
    assert found["one"].recording.sources[0].source == str(tmp_path / "one.wav")
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"bad\.jsonl cannot be read"):
        find_sources([tmp_path / "bad.jsonl"])
    with pytest.raises(DataError, match="two items would write"):
        find_sources([tmp_path / "cuts.jsonl.gz", tmp_path / "one.wav"])


def test_ids_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    for name in ("../x", "/x"):
        cut = cut_of("one")
        cut.id = name
        CutSet.from_cuts([cut]).to_file(tmp_path / "cuts.jsonl")
        with pytest.raises(DataError, match="cannot be the name of a file"):
            find_sources([tmp_path / "cuts.jsonl"])


def test_prepared_corpus_goes_by_split_and_id(tones: Corpus) -> None:
    found = find_sources([tones.folder]).cuts
    assert len(found) == sum(s["utterances"] for s in tones.statistics.values())
    assert "dev/dev-000" in found


def test_folder_without_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no audio; looked for .*\.flac"):
        find_sources([tmp_path])
