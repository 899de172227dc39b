"""Kaldi data folders: what stands in them, where paths are relative to, what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse.kaldi import load_kaldi_data_dir

from speechft.commands import command
from speechft.data.corpora import find_corpus, generic
from speechft.data.labels import label_of
from speechft.errors import CheckpointError, DataError
from speechft.features.looks import DataInspection, inspect_anything
from speechft.features.sources import find_sources
from speechft.merging import merge


def record(path: Path, seconds: float = 2.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * 16_000)) / 16_000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 300 * time), 16_000)
    return path


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def looked(path: Path) -> DataInspection:
    found = inspect_anything(path)
    assert isinstance(found, DataInspection)
    return found


def test_segments_are_those_that_lhotse_reads(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "train",
        wav_scp=f"r1 {record(tmp_path / 'r 1.wav')}\nr2 {record(tmp_path / 'r2.wav')}\n",
        segments="u1 r1 0.5 1.25\nu2 r1 1.25 2\nu3 r2 0.5 -1\n",
        text="u1 hello world\nu2 it is ok\nu3\n",
        utt2spk="u1 anna\nu2 anna\nu3 ben\n",
    )
    corpus = generic.prepare(folder, tmp_path / "corpus")
    cuts = list(corpus.split("train"))
    recordings, supervisions, _ = load_kaldi_data_dir(folder, 16_000)
    assert supervisions is not None
    for cut, theirs in zip(cuts, supervisions, strict=True):
        assert cut.recording.sources[0].source == recordings[theirs.recording_id].sources[0].source
        assert (cut.start, cut.duration) == pytest.approx((theirs.start, theirs.duration))
        assert (label_of(cut, "text") or "") == theirs.text
        assert label_of(cut, "speaker") == theirs.speaker


def test_every_way_to_it_is_the_same(tmp_path: Path) -> None:
    """Relative paths are relative to where the recipe was run, above ``data``."""
    for split, speaker in (("train", "anna"), ("dev", "ben"), ("test", "cleo")):
        record(tmp_path / "wav" / f"{split}.wav")
        scp = f"u1 wav/{split}.wav\n"
        write(tmp_path / "data" / split, wav_scp=scp, text="u1 x y\n", utt2spk=f"u1 {speaker}\n")
    corpus = find_corpus(str(tmp_path / "data"), tmp_path / "all")
    assert set(corpus.statistics) == {"train", "dev", "test"}
    assert looked(tmp_path / "data").read == 3
    one = tmp_path / "data" / "dev"
    for place in (one, *(one / name for name in ("wav.scp", "text", "utt2spk"))):
        assert looked(place).facts["splits"] == "dev 1"
        assert looked(place).next == [
            command("prepare", "generic", one, out="corpora/dev"),
        ]
        assert set(find_corpus(str(place), tmp_path / "one").statistics) == {"dev"}
        with pytest.raises(DataError) as caught:
            find_sources([place])
        assert f"{command('prepare', 'generic', place, out='DIR')}, then give DIR" in str(
            caught.value
        )
    with pytest.raises(CheckpointError, match="is text, not a checkpoint"):
        merge("random-wavlm", one / "text")


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "x",
        wav_scp=f"a {record(tmp_path / 'a.wav')}\nb touch {tmp_path / 'ran'} |\nc none.wav\n",
        segments="u1 a 0 1\nu2 b 0 1\nu3 c 0 1\nu4 d 0 1\n",
    )
    found = looked(folder)
    assert found.read == 1
    told = "\n".join(found.left_out.values())
    assert "u2 is a command in wav.scp, which is not run" in told
    assert "does not exist" in told
    assert "wav.scp has no recording d" in told
    assert not (tmp_path / "ran").exists()
    (folder / "segments").write_text("u1 a 0\n")
    with pytest.raises(DataError, match="u1 has 2 values"):
        looked(folder)
    (folder / "segments").unlink()
    (folder / "utt2spk").write_text("a x\na y\n")
    with pytest.raises(DataError, match="line 2 has a again"):
        looked(folder)
    (folder / "utt2spk").write_bytes(b"a \xff\n")
    with pytest.raises(DataError, match="utt2spk of a Kaldi folder cannot be read"):
        looked(folder)
