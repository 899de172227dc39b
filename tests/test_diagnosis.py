"""The doctor: what it says is true here, it survives broken libraries, and it names nobody."""

from __future__ import annotations

import getpass
import importlib
import json
import platform
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

import speechft
from speechft import cli, diagnosis
from speechft.extras import EXTRAS


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home of somebody whose name and secrets must not be told."""
    place = tmp_path / "alice.liddell"
    (place / ".cache" / "speechft" / "a").mkdir(parents=True)
    (place / ".cache" / "speechft" / "a" / "x").write_bytes(bytes(3_000))
    (place / ".cache" / "speechft" / "link").symlink_to(place)
    for name in ("SPEECHFT_CACHE", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return place


def test_what_it_says_is_true(home: Path) -> None:
    found = speechft.doctor()
    assert found.problems == []
    assert found.python == platform.python_version()
    versions = {package.name: package.version for package in found.core}
    assert versions["torch"] == version("torch")
    assert versions.keys() >= {"lhotse", "numpy", "transformers", "typer"}
    assert found.extras.keys() == EXTRAS.keys()
    assert [p.version for p in found.extras["adapters"].packages] == [version("peft")]
    assert found.torch["threads"] == torch.get_num_threads()
    assert found.torch["kernel"] == torch.backends.cpu.get_cpu_capability()
    assert len(found.torch["devices"]) == 1 + torch.cuda.device_count()
    assert set(found.audio["audio formats"]) == set(soundfile.available_formats())
    assert found.folders["cache of speechft"].bytes == 3_000
    assert found.folders["cache of speechft"].place == "~/.cache/speechft"
    free = shutil.disk_usage(home).free
    assert found.folders["cache of speechft"].free == pytest.approx(free, rel=0.1)


def _doctor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["speechft", "doctor", *options])
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_it_names_nobody(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "elsewhere").mkdir()
    monkeypatch.setenv("SPEECHFT_CACHE", str(home.parent / "data" / "bob" / "cache"))
    for options in ([], ["--json"]):
        code, out, err = _doctor(monkeypatch, capsys, *options)
        assert code == 0, err
        assert "$SPEECHFT_CACHE" in out
        for name in ("alice", "bob", "secret", platform.node(), str(home.parent)):
            assert name not in out + err
        if getpass.getuser() != "root":
            assert getpass.getuser() not in out + err
    assert json.loads(out)["speechft"] == speechft.__version__


def test_what_is_missing_is_named_with_the_command(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def installed(name: str) -> str:
        if name == "peft":
            raise importlib.metadata.PackageNotFoundError(name)
        return {"optuna": "0.1", "scipy": "0.9"}.get(name) or version(name)

    monkeypatch.setattr(diagnosis, "version", installed)
    found = speechft.doctor()
    assert {n: e.get for n, e in found.extras.items() if e.get} == {
        "adapters": "pip install 'speechft[adapters]'",
        "search": "pip install 'speechft[search]'",
    }
    code, out, err = _doctor(monkeypatch, capsys)
    assert code == 1
    assert "peft missing; for strategies lora and dora (finetune, run); get it: pip" in out
    assert "optuna too old: 0.1" in out
    assert "error: scipy is too old: 0.9 is installed, >=" in err


def test_a_broken_library_is_a_finding(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> dict[str, Any]:
        raise OSError(f"{home}/lib/libsndfile.so: cannot open shared object file")

    monkeypatch.setattr(diagnosis, "_ask_soundfile", broken)
    code, out, err = _doctor(monkeypatch, capsys)
    assert code == 1
    assert "problem: soundfile does not work: libsndfile.so: cannot open shared object" in out
    assert "kernel" in out
    assert "pip install speechft gets" in err


def test_sources_that_are_not_installed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(diagnosis, "requires", unknown)
    found = speechft.doctor()
    assert (found.core, found.problems) == ([], [])
    assert "not told" in "\n".join(found.lines())


def test_a_core_that_lacks_a_package_is_told_of_the_doctor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone() -> None:
        raise ModuleNotFoundError("No module named 'lhotse.cut'", name="lhotse.cut")

    monkeypatch.setattr("speechft.diagnosis.doctor", gone)
    code, out, err = _doctor(monkeypatch, capsys)
    assert (code, out) == (1, "")
    assert err.startswith("error: this needs lhotse, which is not installed\nhint: pip install")
    assert "speechft doctor" in err
