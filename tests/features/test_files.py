"""Hidden states in files: right, resumable, and never half-written."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from helpers import cut_of, speech_encoder
from oracle_data import oracle
from processes import VERB, Child
from speechft import cli
from speechft.encoders.load import digest_of, load_encoder
from speechft.errors import CheckpointError, ConfigError, DataError, RunError
from speechft.features import files, items
from speechft.features.files import ExtractionReport, extract_files
from speechft.features.layers import pick_layers, read_layers
from speechft.features.sources import find_sources
from speechft.features.written import RECORD_NAME
from speechft.parallel.claims import FOLDER
from speechft.progress import status
from speechft.storage.disk import remove

LENGTHS = {"a": 16_000, "b": 400, "sub/c": 48_123, "sub/d": 7_201, "e": 100_000}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder")
    speech_encoder("hubert").save(path)
    return path


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, samples in LENGTHS.items():
        path = tmp_path / "audio" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(samples), 16_000, subtype="FLOAT")
    return tmp_path / "audio"


def extract(encoder: Path, audio: Any, out: Path, **options: Any) -> ExtractionReport:
    files = audio if isinstance(audio, list) else [audio]
    return extract_files(encoder, files, out, device="cpu", **options)


def written(out: Path) -> dict[str, torch.Tensor]:
    return {
        path.relative_to(out).with_suffix("").as_posix(): load_file(path)["hidden_states"]
        for path in out.rglob("*.safetensors")
    }


@pytest.mark.parametrize("seconds", [None, 0.1, 30.0])
def test_files_hold_the_states_of_each_utterance_alone(
    seconds: float | None, folder: Path, audio: Path, tmp_path: Path
) -> None:
    report = extract(folder, audio, tmp_path / "out", batch_seconds=seconds)
    assert (report.written, report.skipped, report.failed) == (5, 0, {})
    assert report.digest == digest_of(folder)
    encoder = load_encoder(folder)
    found = written(tmp_path / "out")
    assert found.keys() == LENGTHS.keys()
    for name, states in found.items():
        waveform = torch.from_numpy(soundfile.read(audio / f"{name}.wav", dtype="float32")[0])
        with torch.inference_mode():
            expected = encoder(waveform[None], torch.tensor([len(waveform)]))
        assert states.dtype == torch.float32
        torch.testing.assert_close(states, expected.hidden_states[:, 0], atol=1e-5, rtol=0)


def test_s3prl_mode_gives_the_states_of_s3prl(tmp_path: Path) -> None:
    """Whatever else is in the run: s3prl's features depend on the batch, so each goes alone."""
    waveforms = load_file(oracle("merge/waveforms.safetensors"))
    for name, waveform in waveforms.items():
        soundfile.write(tmp_path / f"{name}.wav", waveform.numpy(), 16_000, subtype="FLOAT")
    extract(oracle("merge/hubert_base.pt"), tmp_path, tmp_path / "out", mode="s3prl")
    expected = load_file(oracle("merge/hubert_s3prl_hidden.safetensors"))
    for name, states in written(tmp_path / "out").items():
        prefix = f"single{name.removeprefix('wav_')}_hidden_"
        numbers = range(sum(key.startswith(prefix) for key in expected))
        reference = [expected[f"{prefix}{number}"] for number in numbers]
        torch.testing.assert_close(states, torch.stack(reference), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("layer", "rows"), [("all", [0, 1, 2]), ("last", [2]), ("0", [0]), ("2,0-1", [2, 0, 1])]
)
def test_layers(layer: str, rows: list[int], folder: Path, audio: Path, tmp_path: Path) -> None:
    extract(folder, audio / "a.wav", tmp_path / "all")
    extract(folder, audio / "a.wav", tmp_path / "some", layer=layer)
    every, some = written(tmp_path / "all")["a"], written(tmp_path / "some")["a"]
    assert torch.equal(some, every[rows])


@pytest.mark.parametrize("layer", ["3", "-1", "", "first", "0,x", "2-1", "0-9"])
def test_layers_that_do_not_exist_are_refused(layer: str) -> None:
    with pytest.raises(ConfigError, match="layer"):
        pick_layers(read_layers(layer), 2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_types_on_disk(dtype: str, folder: Path, audio: Path, tmp_path: Path) -> None:
    extract(folder, audio / "a.wav", tmp_path / "full")
    extract(folder, audio / "a.wav", tmp_path / "half", dtype=dtype)
    full, half = written(tmp_path / "full")["a"], written(tmp_path / "half")["a"]
    assert torch.equal(half, full.to(getattr(torch, dtype)))


def test_npy(folder: Path, audio: Path, tmp_path: Path) -> None:
    extract(folder, audio, tmp_path / "tensors")
    extract(folder, audio, tmp_path / "arrays", format="npy", dtype="float16")
    for name, states in written(tmp_path / "tensors").items():
        array = np.load(tmp_path / "arrays" / f"{name}.npy", allow_pickle=False)
        assert array.dtype == np.float16
        np.testing.assert_array_equal(array, states.half().numpy())
    with pytest.raises(ConfigError, match="npy has no bfloat16"):
        extract(folder, audio, tmp_path / "x", format="npy", dtype="bfloat16")


def test_metadata_says_where_features_come_from(folder: Path, audio: Path, tmp_path: Path) -> None:
    extract(folder, audio / "a.wav", tmp_path / "out", layer="last")
    with safe_open(tmp_path / "out" / "a.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["encoder_digest"] == digest_of(folder)
    assert (metadata["layers"], metadata["mode"], metadata["frame_rate"]) == (
        "[2]",
        "exact",
        "50.0",
    )


def test_a_second_run_does_what_is_left(folder: Path, audio: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(folder, audio, out)
    (out / "a.safetensors").unlink()
    before = (out / "e.safetensors").stat().st_mtime_ns
    os.utime(audio / "sub" / "d.wav", ns=(2**62, 2**62))  # newer than its features
    report = extract(folder, audio, out)
    assert (report.written, report.skipped) == (2, 3)
    assert (out / "e.safetensors").stat().st_mtime_ns == before
    assert (out / "a.safetensors").exists()
    for options in ({"layer": "last"}, {"dtype": "float16"}, {"mode": "s3prl"}):
        with pytest.raises(RunError, match="made otherwise"):
            extract(folder, audio, out, **options)


@pytest.mark.parametrize("format_", ["safetensors", "npy"])
def test_what_is_cut_off_is_not_taken_for_finished(
    format_: str, folder: Path, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    extract(folder, audio, out, format=format_)
    files = [out / f"{name}.{format_}" for name in "abe"]
    before = [file.read_bytes() for file in files]
    files[0].write_bytes(b"")
    files[1].write_bytes(before[1][:-1])
    files[2].write_bytes(b"something else")
    report = extract(folder, audio, out, format=format_)
    assert (report.written, report.skipped) == (3, 2)
    assert [file.read_bytes() for file in files] == before
    told = capsys.readouterr().err
    assert f"3 files of features are cut off and written anew, the first: {files[0]}" in told
    assert extract(folder, audio, out, format=format_).skipped == 5


def test_an_extract_json_of_somebody_else_stays(folder: Path, audio: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for content in ("[]", "no JSON", '{"scripts": {}}'):
        (tmp_path / "out" / "extract.json").write_text(content)
        with pytest.raises(RunError, match="was not written by extract") as caught:
            extract(folder, audio, tmp_path / "out")
        assert "remove" not in str(caught.value)
        assert (tmp_path / "out" / "extract.json").read_text() == content


def test_another_configuration_is_another_folder(folder: Path, audio: Path, tmp_path: Path) -> None:
    weights = tmp_path / "x.safetensors"
    weights.write_bytes((folder / "model.safetensors").read_bytes())
    settings = json.loads((folder / "config.json").read_text())
    for name, normalize in (("a", False), ("b", True)):
        content = json.dumps(settings | {"do_normalize": normalize})
        (tmp_path / f"{name}.json").write_text(content)
    extract(weights, audio / "a.wav", tmp_path / "out", config=tmp_path / "a.json")
    report = extract(weights, audio / "a.wav", tmp_path / "out", config=tmp_path / "a.json")
    assert report.skipped == 1
    with pytest.raises(RunError, match="made otherwise: settings_digest"):
        extract(weights, audio / "a.wav", tmp_path / "out", config=tmp_path / "b.json")


def test_foreign_files_are_not_overwritten(folder: Path, audio: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.safetensors").write_text("mine")
    with pytest.raises(RunError, match="was not written by extract"):
        extract(folder, audio, tmp_path / "out")
    assert (tmp_path / "out" / "a.safetensors").read_text() == "mine"


def test_a_crash_leaves_no_half_written_file(
    folder: Path, audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def fail(*_: Any) -> None:
        calls.append("fsync")
        if len(calls) > 4:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(RunError, match="no space left to write"):
        extract(folder, audio, tmp_path / "out")
    monkeypatch.undo()
    remove(tmp_path / "out" / FOLDER)
    left = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert all(p.suffix in (".json", ".safetensors") and p.name[0] != "." for p in left)
    assert len(left) == 2  # the record and one utterance
    assert extract(folder, audio, tmp_path / "out").skipped == 1


def test_other_rates_and_channels_are_said_once(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    time = np.arange(44_100) / 44_100
    tone = 0.3 * np.sin(2 * np.pi * 300 * time)
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", np.stack([tone, tone], 1), 44_100)
    same = 0.3 * np.sin(2 * np.pi * 300 * np.arange(16_000) / 16_000)
    soundfile.write(tmp_path / "mono.wav", same, 16_000)
    extract(folder, tmp_path, tmp_path / "out")
    said = capsys.readouterr().err
    assert said.count("resampled") == 1
    assert "3 of 4 files not at 16 kHz: resampled" in said
    assert "3 of 4 files averaged to mono" in said
    found = written(tmp_path / "out")
    inner = slice(5, 44)  # the resampler has edges
    torch.testing.assert_close(found["0"][0, inner], found["mono"][0, inner], atol=0.05, rtol=0.05)


def bad_audio(folder: Path, name: str) -> Path:
    path = folder / f"{name}.wav"
    if name == "empty":
        soundfile.write(path, np.zeros(0), 16_000)
    elif name == "short":
        soundfile.write(path, np.zeros(399), 16_000)
    elif name == "nan":
        soundfile.write(path, np.full(4_000, np.nan), 16_000, subtype="FLOAT")
    elif name == "text":
        path.write_text("words")
    elif name == "truncated":
        path = path.with_suffix(".flac")
        soundfile.write(path, np.random.default_rng(0).standard_normal(16_000), 16_000)
        path.write_bytes(path.read_bytes()[:4_000])
    return path


BAD = {
    "empty": "is empty",
    "short": "has 399 samples at 16000 Hz, fewer than one frame",
    "nan": "NaN or infinite samples",
    "text": "is not readable as audio",
    "truncated": "cannot be read",
    "missing": "does not exist",
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_one_bad_file_is_one_error_and_no_output(name: str, folder: Path, tmp_path: Path) -> None:
    path = bad_audio(tmp_path, name)
    with pytest.raises(DataError, match=BAD[name]) as caught:
        extract(folder, path, tmp_path / "out")
    assert path.name in str(caught.value)
    assert not _bytes(tmp_path / "out")


def _run(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["speechft", *arguments])
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_bad_files_in_a_folder_are_named_and_the_exit_code_tells(
    folder: Path,
    audio: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in BAD:
        bad_audio(audio, name)
    out = tmp_path / "out"
    given = ["extract", str(folder), str(audio), "--out", str(out), "--device", "cpu"]
    code, text, err = _run([*given, "--layer", "last"], monkeypatch, capsys)
    assert code == 1
    assert f"wrote 5 files to {out}" in text
    assert "error: 5 of 10 files have no features" in err
    for name in ("empty.wav", "short.wav", "nan.wav", "text.wav", "truncated.flac"):
        assert err.count(f"left out: {audio / name}") == 1
    assert written(out).keys() == LENGTHS.keys()
    code, text, _ = _run([*given, "--layer", "last", "--json"], monkeypatch, capsys)
    report = json.loads(text)
    assert (report["skipped"], report["written"], len(report["failed"])) == (5, 0, 5)
    for name in BAD:
        for path in audio.glob(f"{name}.*"):
            path.unlink()
    code, text, _ = _run([*given, "--layer", "last"], monkeypatch, capsys)
    assert (code, "5 were there already" in text) == (0, True)


def test_convert_and_inspect_on_the_command_line(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = str(tmp_path / "x.pt")
    code, text, _ = _run(["convert", str(folder), out, "--to", "s3prl"], monkeypatch, capsys)
    assert code == 0
    assert "largest difference of a hidden state 0.0e+00" in text
    assert f"wrote {out}" in text
    code, text, _ = _run(["inspect", out, "--json"], monkeypatch, capsys)
    found = json.loads(text)
    assert (code, found["family"], found["layers"], found["format"]) == (0, "hubert", 2, "s3prl")
    code, text, err = _run(["inspect", str(tmp_path / "none.pt")], monkeypatch, capsys)
    assert (code, text) == (1, "")
    assert "no encoder at" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "npz"}, "unknown format 'npz'; choices are: npy, safetensors"),
        ({"dtype": "float8"}, "unknown dtype"),
        ({"precision": "bf17"}, "did you mean 'bf16'"),
        ({"mode": "s3prll"}, "did you mean 's3prl'"),
        ({"layer": "7"}, "hidden states 0"),
    ],
)
def test_wrong_options_are_one_message(
    options: Any, message: str, folder: Path, audio: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        extract(folder, audio, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_encoder_with_nan_is_refused_unless_allowed(
    folder: Path, audio: Path, tmp_path: Path
) -> None:
    encoder = load_encoder(folder)
    next(encoder.parameters()).data.view(-1)[0] = float("nan")
    encoder.save(tmp_path / "nan")
    with pytest.raises(CheckpointError, match="NaN or infinite") as caught:
        extract(tmp_path / "nan", audio, tmp_path / "out")
    assert "allow_nonfinite=True" in str(caught.value.hint)
    assert not (tmp_path / "out").exists()
    report = extract(tmp_path / "nan", audio / "a.wav", tmp_path / "out", allow_nonfinite=True)
    assert report.written == 1


def _start(folder: Path, audio: Path, out: Path, name: str, *more: str, **group: str) -> Child:
    given = ["extract", str(folder), str(audio), "--out", str(out), "--device", "cpu", *more]
    return Child(VERB, given, out.parent, name=name, environment=group)


def _bytes(out: Path) -> dict[str, bytes]:
    """Return every file of features and the record of how they were made."""
    found = [p for p in out.rglob("*") if p.is_file() and p.suffix in (".safetensors", ".json")]
    shown = [p for p in found if FOLDER not in p.parts]
    return {str(p.relative_to(out)): p.read_bytes() for p in shown}


def test_a_process_that_is_late_does_what_is_left(
    folder: Path, audio: Path, tmp_path: Path
) -> None:
    found = find_sources([audio]).cuts
    parts = list(files.in_parts(items.named_groups(found, 0.1, None)))
    assert len(parts) == len(LENGTHS)
    extract(folder, audio, tmp_path / "alone", batch_seconds=0.1)
    first = next(iter(parts[0][0]))
    (tmp_path / "out").mkdir()
    for name in (f"{first}.safetensors", RECORD_NAME):
        (tmp_path / "out" / name).write_bytes((tmp_path / "alone" / name).read_bytes())
    report = extract(folder, audio, tmp_path / "out", batch_seconds=0.1)
    assert (report.written, report.skipped) == (4, 1)
    assert _bytes(tmp_path / "out") == _bytes(tmp_path / "alone")
    assert not (tmp_path / "out" / FOLDER).exists()


def test_parts_are_neither_too_small_nor_too_many() -> None:
    def lengths(seconds: list[float]) -> list[int]:
        groups = [{str(n): cut_of(str(n), int(16_000 * s))} for n, s in enumerate(seconds)]
        parts = list(files.in_parts(groups))
        assert [group for part in parts for group in part] == groups
        return [len(part) for part in parts]

    assert lengths([]) == []
    assert lengths([3.0] * 5) == [1] * 5
    assert set(lengths([10.0] * 6_400)[:-1]) == {60}, "ten minutes"
    assert len(lengths([1_000.0] * 10_000)) <= 4_096


@pytest.mark.integration
def test_ranks_of_a_launcher_share_the_work(folder: Path, audio: Path, tmp_path: Path) -> None:
    (audio / "broken.wav").write_bytes(b"not audio")
    children = [
        _start(
            folder,
            audio,
            tmp_path / "out",
            f"rank-{rank}",
            "--json",
            WORLD_SIZE="2",
            RANK=str(rank),
            LOCAL_RANK=str(rank),
        )
        for rank in range(2)
    ]
    (code, first, said), (other_code, other, other_said) = [child.wait() for child in children]
    assert (code, other_code) == (1, 1)
    report = json.loads(first)
    assert (report["written"] + report["skipped"], len(report["failed"])) == (5, 1)
    assert "error: 1 of 6 files" in said
    assert (other, "error" in other_said) == ("", False)
    extract(folder, [audio / f"{name}.wav" for name in LENGTHS], tmp_path / "alone")
    assert _bytes(tmp_path / "alone") == _bytes(tmp_path / "out")


@pytest.mark.integration
def test_two_processes_write_what_one_writes_and_a_killed_one_is_replaced(
    folder: Path, audio: Path, tmp_path: Path
) -> None:
    more = ("--batch-seconds", "0.1")
    out = tmp_path / "out"
    children = [_start(folder, audio, out, f"part-{n}", *more) for n in "ab"]
    for child in children:
        assert child.wait()[0] == 0
    extract(folder, audio, tmp_path / "alone", batch_seconds=0.1)
    assert _bytes(out) == _bytes(tmp_path / "alone")
    assert not (out / FOLDER).exists()


_SLOW = """
import time
from speechft.features import written
write = written.Writer.write
def slow(self, name, states):
    time.sleep(0.2)
    return write(self, name, states)
written.Writer.write = slow
from speechft.cli import main; main()
"""


@pytest.mark.integration
def test_what_a_killed_process_was_at_is_done_by_another(
    folder: Path, audio: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    given = ["extract", str(folder), str(audio), "--out", str(out), "--device", "cpu"]
    given += ["--batch-seconds", "0.1"]
    first, second = (Child(_SLOW, given, tmp_path, name=f"part-{n}") for n in "ab")
    while first.running and not list(out.rglob("*.safetensors")):
        time.sleep(0.01)
    first.kill()
    assert second.wait()[0] == 0
    extract(folder, audio, tmp_path / "alone", batch_seconds=0.1)
    assert _bytes(out) == _bytes(tmp_path / "alone")


def test_what_cannot_be_read_is_told_once_and_tried_again(
    folder: Path, audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad_audio(audio, "nan")
    out = tmp_path / "out"
    report = extract(folder, audio, out)
    assert (report.written, list(report.failed)) == (5, [str(audio / "nan.wav")])
    assert capsys.readouterr().err.count("left out") == 1
    (failed,) = [seen for seen in status(out) if seen.state == "failed"]
    assert "nan.wav holds NaN" in str(failed.why) or "nan.wav has NaN" in str(failed.why)
    soundfile.write(audio / "nan.wav", np.zeros(4_000), 16_000)
    report = extract(folder, audio, out)
    assert (report.written, report.skipped, report.failed) == (1, 5, {})
    assert not (out / FOLDER).exists()


@pytest.mark.parametrize("value", [1e38, 1e12, float("nan")])
def test_samples_that_would_give_no_numbers_are_left_out(
    value: float, folder: Path, audio: Path, tmp_path: Path
) -> None:
    soundfile.write(audio / "e.wav", np.full(4_000, value), 16_000, subtype="FLOAT")
    report = extract(folder, audio, tmp_path / "out")
    assert (report.written, list(report.failed)) == (4, [str(audio / "e.wav")])
    assert "e" not in written(tmp_path / "out")


def test_states_beyond_the_type_on_disk_are_not_written(
    folder: Path, audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = items.load_waveform
    monkeypatch.setattr(items, "load_waveform", lambda cut: read(cut) * np.float32(1e6))
    model = files.load_encoder

    def loud(*given: Any, **options: Any) -> Any:
        encoder = model(*given, **options)
        with torch.no_grad():
            encoder.model.encoder.layer_norm.weight.mul_(1e6)
        return encoder

    monkeypatch.setattr(files, "load_encoder", loud)
    with pytest.raises(DataError, match="no finite float16 numbers"):
        extract(folder, [audio / "a.wav", audio / "b.wav"], tmp_path / "out", dtype="float16")
    assert not written(tmp_path / "out")
