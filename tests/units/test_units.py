"""Units of tones, end to end: fit, apply, what is resumed, and bad input."""

from __future__ import annotations

import inspect
import json
import pickle
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file, save_file
from sklearn.cluster import KMeans

import speechft
from helpers import tiny_encoder
from speechft import cli
from speechft.data.manifest import Corpus
from speechft.errors import CheckpointError, ConfigError, DataError, RunError
from speechft.features.files import extract_files
from speechft.storage.locks import lock
from speechft.units import apply_units, fit_units
from speechft.units import listening as listening_module

SMALL: dict[str, Any] = {"layer": 1, "clusters": 8}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny encoder."""
    folder = tmp_path_factory.mktemp("encoder")
    tiny_encoder().save(folder)
    return folder


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """Folder of five recordings of noise and tones."""
    folder = tmp_path / "audio"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, name in enumerate("edcba"):
        samples = 6_000 + 1_000 * number
        time = np.arange(samples) / 16_000
        wave = 0.2 * np.sin(2 * np.pi * 300 * (number + 1) * time) + 0.01 * rng.normal(size=samples)
        soundfile.write(folder / f"{name}.wav", wave, 16_000)
    return folder


def features(encoder: Path, audio: Path, out: Path) -> dict[str, np.ndarray]:
    extract_files(encoder, [audio], out, layer="1")
    return {p.stem: load_file(p)["hidden_states"][0] for p in sorted(out.glob("*.safetensors"))}


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "units.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("normalise", ["none", "standard"])
def test_units_are_the_nearest_centroids_of_extracted_features(
    normalise: Any, encoder: Path, audio: Path, tmp_path: Path
) -> None:
    fitted = fit_units(encoder, [audio], tmp_path / "fit", normalise=normalise, **SMALL)
    states = features(encoder, audio, tmp_path / "feats")
    whole = np.concatenate([states[name] for name in sorted(states)]).astype(np.float64)
    assert fitted.frames == fitted.frames_heard == len(whole)
    if normalise == "standard":
        whole = (whole - whole.mean(axis=0)) / whole.std(axis=0)
    reference = KMeans(8, n_init=5, random_state=0).fit(whole)
    assert fitted.inertia * len(whole) < 1.1 * reference.inertia_
    spread = np.square(whole - whole.mean(axis=0)).sum()
    assert fitted.explained == pytest.approx(1 - fitted.inertia * len(whole) / spread, abs=1e-4)
    stored = load_file(tmp_path / "fit" / "centroids.safetensors")
    report = apply_units(encoder, [audio], tmp_path / "out", units=tmp_path / "fit")
    rows = rows_of(tmp_path / "out")
    assert [row["id"] for row in rows] == list("abcde")
    lines = (tmp_path / "out" / "units.km").read_text().splitlines()
    for row, line in zip(rows, lines, strict=True):
        frames = (states[row["id"]].astype(np.float64) - stored["mean"]) / stored["scale"]
        apart = np.square(frames[:, None] - stored["centroids"].astype(np.float64)).sum(axis=-1)
        assert row["units"] == apart.argmin(axis=1).tolist()
        assert line == " ".join(map(str, row["units"]))
        assert row["frames"] == len(frames)
    assert (report.utterances, report.frames) == (5, len(whole))
    assert fitted.empty == 8 - report.used


def test_durations_give_back_what_was_taken_together(
    encoder: Path, audio: Path, tmp_path: Path
) -> None:
    fit_units(encoder, [audio], tmp_path / "fit", layer=1, clusters=3)
    apply_units(encoder, [audio], tmp_path / "all", units=tmp_path / "fit")
    report = apply_units(
        encoder, [audio], tmp_path / "few", units=tmp_path / "fit", deduplicate=True
    )
    for whole, few in zip(rows_of(tmp_path / "all"), rows_of(tmp_path / "few"), strict=True):
        assert np.repeat(few["units"], few["durations"]).tolist() == whole["units"]
        assert all(a != b for a, b in zip(few["units"], few["units"][1:], strict=False))
    assert report.written < report.frames


def test_the_order_is_that_of_the_table_or_manifest(
    encoder: Path, audio: Path, tones: Corpus, tmp_path: Path
) -> None:
    fit_units(encoder, [audio], tmp_path / "fit", **SMALL)
    table = tmp_path / "files.csv"
    names = ["c", "a", "e", "b"]
    table.write_text("path\n" + "".join(f"audio/{name}.wav\n" for name in names))
    apply_units(encoder, [table], tmp_path / "out", units=tmp_path / "fit")
    assert [row["id"] for row in rows_of(tmp_path / "out")] == names
    apply_units(encoder, [tones.folder], tmp_path / "tones", units=tmp_path / "fit")
    ids = [f"{s}/{cut.id}" for s in tones.statistics for cut in tones.split(s)]
    assert [row["id"] for row in rows_of(tmp_path / "tones")] == ids


def test_phones_are_compared_where_there_are_any(
    encoder: Path, tones: Corpus, audio: Path, tmp_path: Path
) -> None:
    found = fit_units(encoder, [tones.folder], tmp_path / "fit", frames=400, **SMALL)
    assert found.frames == 400
    assert found.agreement is not None
    assert found.agreement.phones == 3
    assert 0 < found.agreement.pnmi < 1
    assert "PNMI" in "\n".join(found.lines())
    again = fit_units(encoder, [tones.folder], tmp_path / "fit", frames=400, **SMALL)
    assert again == found  # it is there already
    assert fit_units(encoder, [audio], tmp_path / "other", **SMALL).agreement is None


class StoppedError(Exception):
    """Stands for a signal."""


def stop_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have the run end in the middle of an utterance; return the names of what is encoded."""
    encoded = listening_module.encoded
    heard: list[str] = []

    def stopping(*given: Any, **options: Any) -> Any:
        for one in encoded(*given, **options):
            if len(heard) == count:
                raise StoppedError
            heard.append(one.name)
            yield one

    monkeypatch.setattr(listening_module, "encoded", stopping)
    return heard


def test_a_fit_that_was_stopped_goes_on(
    encoder: Path, audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**SMALL, "frames": 60, "batch_seconds": 0.1}
    fit_units(encoder, [audio], tmp_path / "whole", **options)
    monkeypatch.setattr("speechft.units.fit._NOTED", -1.0)
    with monkeypatch.context() as patch:
        first = stop_after(3, patch)
        with pytest.raises(StoppedError):
            fit_units(encoder, [audio], tmp_path / "fit", **options)
    assert not (tmp_path / "fit" / "centroids.safetensors").exists()
    with monkeypatch.context() as patch:
        second = stop_after(99, patch)
        fit_units(encoder, [audio], tmp_path / "fit", **options)
    assert sorted(first + second) == list("abcde")
    for name in ("centroids.safetensors", "units.json"):
        one, other = (tmp_path / place / name for place in ("whole", "fit"))
        assert one.read_bytes() == other.read_bytes()
    assert {p.name for p in (tmp_path / "fit").iterdir()} == {
        ".lock",
        "centroids.safetensors",
        "stage.json",
        "units.json",
    }


def test_an_application_that_was_killed_in_a_line_goes_on(
    encoder: Path, audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_units(encoder, [audio], tmp_path / "fit", **SMALL)
    options: Any = {"units": tmp_path / "fit", "batch_seconds": 0.1}
    apply_units(encoder, [audio], tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(StoppedError):
            apply_units(encoder, [audio], tmp_path / "out", **options)
    (partial,) = (tmp_path / "out").rglob("rows.partial")
    partial.write_bytes(partial.read_bytes()[:-7])
    with monkeypatch.context() as patch:
        second = stop_after(99, patch)
        apply_units(encoder, [audio], tmp_path / "out", **options)
    assert len(second) == 3  # of five, two were whole
    for name in ("units.km", "units.jsonl"):
        one, other = (tmp_path / place / name for place in ("whole", "out"))
        assert one.read_bytes() == other.read_bytes()
    with monkeypatch.context() as patch:
        third = stop_after(99, patch)
        apply_units(encoder, [audio], tmp_path / "out", **options)
    assert third == []


def test_silent_and_unreadable_files_are_named_and_counted(
    encoder: Path, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = fit_units(encoder, [audio], tmp_path / "before", **SMALL)
    soundfile.write(audio / "bb.wav", np.zeros(8_000), 16_000)
    (audio / "cc.wav").write_bytes(b"RIFF, or so it says")
    soundfile.write(audio / "dd.wav", np.ones(100) / 2, 16_000)
    found = fit_units(encoder, [audio], tmp_path / "fit", **SMALL)
    assert found.silent == [str(audio / "bb.wav")]
    assert sorted(found.failed) == [str(audio / "cc.wav"), str(audio / "dd.wav")]
    assert (found.frames, found.utterances) == (before.frames, 5)
    assert found.inertia == pytest.approx(before.inertia)
    capsys.readouterr()
    words = f"units apply {encoder} {audio} --units {tmp_path}/fit --out {tmp_path}/out"
    with pytest.raises(DataError, match="2 of 8 files have no units"):
        cli.app(shlex.split(words), standalone_mode=False)
    told = capsys.readouterr()
    assert "1 files are silent" in told.out
    assert "cc.wav" in told.err
    rows = rows_of(tmp_path / "out")
    assert [row["id"] for row in rows if row.get("silent")] == ["bb"]
    assert len((tmp_path / "out" / "units.km").read_text().splitlines()) == len(rows) == 6
    for name in ("bb", "cc", "dd"):
        (audio / f"{name}.wav").rename(tmp_path / f"{name}.wav")
    alone = tmp_path / "bb.wav"
    with pytest.raises(DataError, match="is silent"):
        fit_units(encoder, [alone], tmp_path / "none", **SMALL)
    assert not (tmp_path / "none" / "centroids.safetensors").exists()


def test_wrong_options_and_places(encoder: Path, audio: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (ConfigError, "layer 3: the encoder has the hidden states 0", {"layer": 3}),
        (ConfigError, "not one layer", {"layer": "0-2"}),
        (ConfigError, "not one layer", {"layer": "all"}),
        (ConfigError, "layer 'deep' is not all, last", {"layer": "deep"}),
        (ConfigError, "unknown normalisation 'l2'", {"normalise": "l2"}),
        (ConfigError, "1 clusters of", {"clusters": 1}),
        (ConfigError, "9 clusters of 8 frames", {"clusters": 9, "frames": 8}),
        (DataError, "frames of speech cannot form 5000 clusters", {"clusters": 5_000}),
        (ConfigError, "unknown precision", {"precision": "fp8"}),
    ]
    for kind, told, wrong in cases:
        with pytest.raises(kind, match=told):
            fit_units(encoder, [audio], out, **{**SMALL, **wrong})
        assert not (out / "centroids.safetensors").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no audio"):
        fit_units(encoder, [tmp_path / "empty"], out, **SMALL)
    with lock(tmp_path / "busy"), pytest.raises(RunError, match="in use by another process"):
        fit_units(encoder, [audio], tmp_path / "busy", **SMALL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "units.json").write_text("mine")
    with pytest.raises(RunError, match="was not written by"):
        fit_units(encoder, [audio], tmp_path / "mine", **SMALL)
    assert (tmp_path / "mine" / "units.json").read_text() == "mine"


def test_centroids_of_another_encoder(encoder: Path, audio: Path, tmp_path: Path) -> None:
    fit_units(encoder, [audio], tmp_path / "fit", **SMALL)
    other, wide = tmp_path / "other", tmp_path / "wide"
    tiny_encoder(seed=1).save(other)
    tiny_encoder(hidden_size=36, num_attention_heads=3).save(wide)
    units: Any = {"units": tmp_path / "fit"}
    with pytest.raises(CheckpointError, match=r"the centroids in .* are of") as caught:
        apply_units(other, [audio], tmp_path / "out", **units)
    assert "--allow-other-encoder" in str(caught.value.hint)
    report = apply_units(other, [audio], tmp_path / "out", allow_other_encoder=True, **units)
    assert report.utterances == 5
    with pytest.raises(CheckpointError, match=r"have dimension 24, the layers of .* 36"):
        apply_units(wide, [audio], tmp_path / "wide-out", allow_other_encoder=True, **units)
    with pytest.raises(ConfigError, match=r"layer 2: the centroids in .* are of layer 1"):
        apply_units(encoder, [audio], tmp_path / "out2", layer=2, **units)


def test_bare_damaged_and_pickled_centroids(encoder: Path, audio: Path, tmp_path: Path) -> None:
    fit_units(encoder, [audio], tmp_path / "fit", **SMALL)
    stored = load_file(tmp_path / "fit" / "centroids.safetensors")
    bare = tmp_path / "bare.safetensors"
    save_file({"centroids": stored["centroids"]}, bare)
    with pytest.raises(ConfigError, match="does not tell of which layer"):
        apply_units(encoder, [audio], tmp_path / "out", units=bare)
    apply_units(encoder, [audio], tmp_path / "out", units=bare, layer=1)
    apply_units(encoder, [audio], tmp_path / "same", units=tmp_path / "fit")
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "same")
    (tmp_path / "km.bin").write_bytes(pickle.dumps(KMeans(2)))
    with pytest.raises(CheckpointError, match="pickles, which may run code") as caught:
        apply_units(encoder, [audio], tmp_path / "no", units=tmp_path / "km.bin")
    assert "cluster_centers_" in str(caught.value.hint)
    bad = {
        "not finite": {"centroids": np.full((3, 24), np.nan, np.float32)},
        "go together": {**stored, "mean": np.zeros(3, np.float32)},
        "no tensor 'centroids'": {"other": stored["centroids"]},
    }
    for told, tensors in bad.items():
        save_file(tensors, bare)
        with pytest.raises(CheckpointError, match=told):
            apply_units(encoder, [audio], tmp_path / "no", units=bare, layer=1)
    bare.write_bytes(bare.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="is damaged"):
        apply_units(encoder, [audio], tmp_path / "no", units=bare, layer=1)
    with pytest.raises(CheckpointError, match="holds no centroids"):
        apply_units(encoder, [audio], tmp_path / "no", units=tmp_path)
    assert not (tmp_path / "no").exists()


def test_the_verb_has_the_options_of_both_functions(
    encoder: Path, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callbacks = {c.callback.__name__: c.callback for c in cli.app.registered_commands if c.callback}
    typed = set(inspect.signature(callbacks["units"]).parameters) - {"action", "as_json"}
    functions = (speechft.fit_units, speechft.apply_units)
    assert typed == {n for f in functions for n in inspect.signature(f).parameters}
    words = shlex.split(f"units fit {encoder} {audio} --layer 1 -k 4 --out {tmp_path}/fit --json")
    cli.app(words, standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["clusters"] == 4
    cli.app(words[:-1], standalone_mode=False)
    assert "next: speechft units apply" in capsys.readouterr().out
    assert str(tmp_path) not in (tmp_path / "fit" / "units.json").read_text()
    for wrong, told in (
        ("units fit E A --out O --deduplicate", "--deduplicate is no option of units fit"),
        ("units apply E A --out O --units U --seed 1", "--seed is no option of units apply"),
        ("units apply E A --out O", "units apply needs the centroids"),
        ("units guess E A --out O", "unknown action 'guess'"),
    ):
        with pytest.raises(ConfigError, match=told):
            cli.app(shlex.split(wrong), standalone_mode=False)
