"""A disk that is really full: one message, nothing half-written, and on a larger one it goes on.

The disk is a small tmpfs, which only root may mount; elsewhere these tests are skipped.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import tiny_encoder, tone_corpus
from speechft import cli
from speechft.encoders.convert import convert

VERBS = {
    "merge-folder": ("merge", "{base}", "{tuned}", "--force", "--out", "{disk}/m"),
    "merge-file": ("merge", "{base}", "{tuned}", "--force", "--out", "{disk}/m.safetensors"),
    "merge-s3prl": ("merge", "{base}", "{tuned}", "--force", "--out", "{disk}/m.pt"),
    "delta": ("delta", "{base}", "{tuned}", "--force", "--out", "{disk}/d.safetensors"),
    "convert": ("convert", "{pickle}", "{disk}/c"),
    "extract": ("extract", "{base}", "{tones}", "--out", "{disk}/f"),
    "analyze": (
        *("analyze", "{base}", "{tuned}", "--measures", "weights"),
        *("--corpus", "{tones}", "--out", "{disk}/a"),
    ),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("world")
    tiny_encoder().save(folder / "base")
    tiny_encoder(seed=1).save(folder / "tuned")
    convert(folder / "base", folder / "pickle.pt")
    (folder / "tones").mkdir()
    tone_corpus(folder / "tones", speakers=2, per_speaker=2)
    places = {name: str(folder / name) for name in ("base", "tuned", "tones")}
    return {**places, "pickle": str(folder / "pickle.pt")}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    order = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)]
    try:
        made = subprocess.run(order, capture_output=True, check=False).returncode == 0
    except OSError:
        made = False
    if not made:
        pytest.skip("a tmpfs cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def _run(verb: str, places: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> int:
    words = [word.format(**places) for word in VERBS[verb]]
    monkeypatch.setattr(sys, "argv", ["speechft", *words])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_is_one_message_and_a_larger_one_enough(
    verb: str,
    world: dict[str, str],
    disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {**world, "disk": str(disk)}
    assert _run(verb, places, monkeypatch) == 1
    said = capsys.readouterr().err
    assert "no space left" in said.lower(), said
    assert "Traceback" not in said
    assert said.count("error: ") == 1
    left = [path for path in disk.rglob("*") if path.suffix in (".safetensors", ".pt", ".json")]
    whole = [path for path in left if not any(p.startswith(".") for p in path.parts)]
    assert verb == "extract" or not whole, "something half-written has a final name"
    subprocess.run(["mount", "-o", "remount,size=32m", str(disk)], check=True)
    assert _run(verb, places, monkeypatch) == 0, capsys.readouterr().err
    assert not [path for path in disk.rglob("*") if path.name.endswith((".tmp", ".partial"))]
