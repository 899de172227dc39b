"""Manifests are data: what would run, fetch or build something is refused by name before lhotse."""

from __future__ import annotations

import copy
import gzip
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from lhotse import AudioSource, CutSet, MonoCut, Recording

from speechft.data.cuts import read_cuts
from speechft.data.resampling import resample
from speechft.data.waveform import load_waveform
from speechft.errors import DataError

Item = dict[str, Any]


@pytest.fixture
def cut(tmp_path: Path) -> Item:
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.wav", 0.1 * rng.standard_normal(16_000), 16_000)
    made = Recording.from_file(tmp_path / "a.wav").to_cut()
    made.custom = {"note": "kept", "scores": [1, 2.5], "deep": {"a": None}}
    return dict(made.to_dict())


def write(path: Path, item: Any) -> Path:
    text = json.dumps(item) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def set_source(**fields: Any) -> Callable[[Item], Any]:
    return lambda cut: cut["recording"]["sources"][0].update(fields)


def recording(cut: Item) -> Item:
    return copy.deepcopy(cut["recording"])


def rir(cut: Item) -> Item:
    inner = recording(cut)
    inner["sources"][0] |= {"type": "command", "source": "touch SEEN"}
    return {"name": "ReverbWithImpulseResponse", "kwargs": {"rir": inner}}


ATTACKS: dict[str, tuple[Callable[[Item], Any], str]] = {
    "command": (set_source(type="command", source="touch SEEN"), "source of type 'command'"),
    "pipe": (set_source(type="url", source="pipe:touch SEEN"), "'pipe:touch SEEN'"),
    "pipe as a file": (set_source(source="pipe:touch SEEN"), "'pipe:touch SEEN'"),
    "url": (set_source(type="url", source="http://127.0.0.1:9/a.wav"), "type 'url'"),
    "url as a file": (set_source(source="s3://bucket/a.wav"), "'s3://bucket/a.wav'"),
    "url with bytes": (set_source(type="url", source="http://h/a#bytes=0+9"), "type 'url'"),
    "memory that is a path": (set_source(type="memory", source="/etc/hosts"), "type 'memory'"),
    "shar": (set_source(type="shar", source=""), "type 'shar'"),
    "unknown type": (set_source(type="ftp"), "type 'ftp'"),
    "video": (set_source(video={"fps": 1}), "field 'video'"),
    "second source": (
        lambda cut: cut["recording"]["sources"].append(
            {"type": "command", "channels": [1], "source": "touch SEEN"}
        ),
        "has 2 sources, expected one",
    ),
    "no source": (lambda cut: cut["recording"].update(sources=[]), "has 0 sources"),
    "reverberation": (
        lambda cut: cut["recording"].update(transforms=[rir(cut)]),
        "'ReverbWithImpulseResponse' is none of those",
    ),
    "custom recording": (
        lambda cut: cut["custom"].update(target=recording(cut)),
        "field 'target': it holds a recording",
    ),
    "custom recording, deep": (
        lambda cut: cut["custom"].update(target={"a": [recording(cut)]}),
        "field 'target': it holds a recording",
    ),
    "custom array": (
        lambda cut: cut["custom"].update(x={"array": {"storage_type": "memory_raw"}}),
        "field 'x': it holds an array",
    ),
    "unknown field": (lambda cut: cut.update(tracks=[]), "has the field 'tracks'"),
    "unknown type of cut": (lambda cut: cut.update(type="Evil"), "of the type 'Evil'"),
    "no rate": (lambda cut: cut["recording"].update(sampling_rate=0), "sampling_rate"),
    "a low rate": (lambda cut: cut["recording"].update(sampling_rate=999), "sampling_rate"),
    "no number": (lambda cut: cut.update(duration=math.nan), "duration of the cut"),
    "a text for a number": (lambda cut: cut.update(start="0"), "start of the cut"),
    "a zero byte": (lambda cut: cut.update(id="a\0b"), "zero byte"),
    "half a character": (set_source(source="\ud800"), "half a character"),
    "alignment": (
        lambda cut: cut.update(
            supervisions=[
                {
                    "id": "s",
                    "recording_id": "a",
                    "start": 0,
                    "duration": 1,
                    "alignment": {"phone": [["a", "0", {}]]},
                }
            ]
        ),
        "alignment of a supervision",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_would_run_or_fetch_is_refused_by_name(
    cut: Item, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    monkeypatch.setattr("lhotse.audio.recording.Recording.load_audio", None)
    monkeypatch.chdir(tmp_path)
    change, told = ATTACKS[attack]
    change(cut)
    item = write(tmp_path / "cuts.jsonl.gz", cut)
    with pytest.raises(DataError, match=told):
        list(read_cuts(item))
    assert not (tmp_path / "SEEN").exists()


def test_the_item_is_named(cut: Item, tmp_path: Path) -> None:
    cut["recording"]["sources"][0]["type"] = "command"
    with pytest.raises(DataError, match=r"cuts\.jsonl cannot be read: a: a source of type"):
        list(read_cuts(write(tmp_path / "cuts.jsonl", cut)))


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz", "cuts.json", "cuts.yaml"])
def test_what_lhotse_writes_comes_back(cut: Item, tmp_path: Path, name: str) -> None:
    cuts = [MonoCut.from_dict(copy.deepcopy(cut))]
    if name.endswith("yaml"):
        (tmp_path / name).write_text(yaml.safe_dump([cut]))
    elif name.endswith("json"):
        (tmp_path / name).write_text(json.dumps([cut]))
    else:
        CutSet.from_cuts(cuts).to_file(tmp_path / name)
    assert list(read_cuts(tmp_path / name)) == cuts


def test_features_beside_a_cut_are_left_out(cut: Item, tmp_path: Path) -> None:
    cut["features"] = {"type": "fbank", "storage_type": "lilcom_url", "storage_path": "pipe:x"}
    (read,) = read_cuts(write(tmp_path / "cuts.jsonl", cut))
    assert not read.has_features


def test_recordings_in_python_are_held_to_the_same(tmp_path: Path) -> None:
    source = AudioSource("command", [0], f"touch {tmp_path}/SEEN")
    whole = Recording("a", [source], 16_000, 16_000, 1.0)
    with pytest.raises(DataError, match="source of type 'command'"):
        load_waveform(whole.to_cut())
    whole.sources = [source, source]
    with pytest.raises(DataError, match="has 2 sources"):
        load_waveform(whole.to_cut())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("transform", ["speed", "volume", "resample", "both"])
def test_transforms_give_what_lhotse_gives(cut: Item, tmp_path: Path, transform: str) -> None:
    made = Recording.from_file(tmp_path / "a.wav").to_cut()
    changed = {
        "speed": lambda: made.perturb_speed(1.1),
        "volume": lambda: made.perturb_volume(0.5),
        "resample": lambda: made.resample(8_000),
        "both": lambda: (
            made.perturb_speed(0.9).perturb_volume(2.0).truncate(offset=0.25, duration=0.5)
        ),
    }[transform]()
    CutSet.from_cuts([changed]).to_file(tmp_path / "cuts.jsonl")
    (read,) = read_cuts(tmp_path / "cuts.jsonl")
    ours = load_waveform(read)
    expected = changed.load_audio()[0] if transform != "resample" else made.load_audio()[0]
    if transform == "resample":  # without torchaudio lhotse takes another filter than with it
        expected = resample(resample(expected, 16_000, 8_000), 8_000, 16_000)
    np.testing.assert_allclose(ours, expected, atol=1e-4)
