"""Which audio the arguments name, and under which names its features go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, Recording, RecordingSet

from helpers import cut_of
from speechft.data.manifest import Corpus
from speechft.data.waveform import load_waveform
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
    (tmp_path / "bad.csv").write_text("sound\nx.wav\n")
    with pytest.raises(DataError, match=r"bad\.csv lacks the column path; it has: sound"):
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
    with pytest.raises(DataError, match=r"bad\.jsonl, line 1 is not JSON"):
        find_sources([tmp_path / "bad.jsonl"])
    with pytest.raises(DataError, match="two items would write"):
        find_sources([tmp_path / "cuts.jsonl.gz", tmp_path / "one.wav"])


def test_rows_of_a_table_may_be_segments_and_channels(tmp_path: Path) -> None:
    path = audio(tmp_path / "long.wav", 32_000, channels=2)
    expected = soundfile.read(path, dtype="float32")[0]
    (tmp_path / "t.tsv").write_text(
        "File\tstart\tend\tchannel\nlong.wav\t0\t0.5\t0\nlong\t1\t\t1\nlong.wav\t\t\t1\n"
        "long.wav\t0\t9\t\nlong.wav\tsoon\t\t\nlong.wav\n"
    )
    found = find_sources([tmp_path / "t.tsv"])
    assert len(found.problems) == 3, "outside, no number, a row of one cell"
    cuts = found.cuts
    places = {"long-0000000-0000500-channel0": (0, 8_000, 0), "long-channel1": (0, 32_000, 1)}
    places["long-0001000-end-channel1"] = (16_000, 32_000, 1)
    assert cuts.keys() == places.keys()
    for name, (start, end, channel) in places.items():
        np.testing.assert_array_equal(load_waveform(cuts[name]), expected[start:end, channel])


def test_recordings_of_lhotse_are_whole_and_mixtures_are_named(tmp_path: Path) -> None:
    recording = Recording.from_file(audio(tmp_path / "a.wav", 8_000))
    RecordingSet.from_recordings([recording]).to_file(tmp_path / "recordings.jsonl.gz")
    RecordingSet.from_recordings([recording]).to_file(tmp_path / "recordings.jsonl")
    for name in ("recordings.jsonl.gz", "recordings.jsonl"):
        ((name, cut),) = find_sources([tmp_path / name]).cuts.items()
        assert (name[:1], cut.num_samples) == ("a", 8_000)
        assert len(load_waveform(cut)) == 8_000
    whole = recording.to_cut()
    CutSet.from_cuts([whole, whole.pad(duration=1.0)]).to_file(tmp_path / "cuts.jsonl")
    found = find_sources([tmp_path / "cuts.jsonl"])
    assert len(found.cuts) == 1
    ((_, problem),) = found.problems.items()
    assert "is a MixedCut without a recording of its own" in problem
    (tmp_path / "supervisions.jsonl").write_text(
        '{"id": "s", "recording_id": "a", "start": 0.0, "duration": 0.5, "channel": 0}\n'
    )
    with pytest.raises(DataError, match="s: is part of a SupervisionSet, which has no audio"):
        find_sources([tmp_path / "supervisions.jsonl"])


def test_links_to_nothing_and_foreign_recordings_of_a_folder_are_named(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav")
    audio(tmp_path / ".cache" / "b.wav")
    (tmp_path / "c.wav").symlink_to(tmp_path / "gone.wav")
    (tmp_path / "d.m4a").write_bytes(bytes(4) + b"ftypM4A " + bytes(60))
    found = find_sources([tmp_path])
    assert list(found.cuts) == ["a"]
    problems = {Path(path).name: text for path, text in found.problems.items()}
    assert problems["c.wav"] == f"is a link to nothing ({tmp_path / 'gone.wav'})"
    assert "MPEG-4 audio" in problems["d.m4a"]


def test_parquet_names_the_command_that_helps(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="is parquet") as caught:
        find_sources([tmp_path / "a.parquet"])
    assert "speechft prepare generic" in (caught.value.hint or "")


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
