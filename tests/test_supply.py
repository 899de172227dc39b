"""Supply: hashes for every pinned package, licences for every one, builds that come out equal."""

from __future__ import annotations

import gzip
import importlib.util
import io
import os
import re
import shutil
import subprocess
import tarfile
import time
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.version import Version

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def supply() -> ModuleType:
    spec = importlib.util.spec_from_file_location("supply", ROOT / "tools" / "supply.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pins(supply: ModuleType, file: str) -> dict[str, str]:
    lines = [line for line in (ROOT / file).read_text().splitlines() if "==" in line]
    parts = [re.split(r"==|;| ", line)[:2] for line in lines if not line.startswith("#")]
    return {supply.canonical(name): version for name, version in parts}


def test_every_pinned_package_has_hashes_and_a_licence(supply: ModuleType) -> None:
    locked, hashed = pins(supply, supply.LOCK), pins(supply, supply.HASHES)
    assert locked.items() <= hashed.items()
    for line in (ROOT / supply.HASHES).read_text().splitlines()[2:]:
        assert re.fullmatch(r"[a-z0-9-]+==\S+( --hash=sha256:[0-9a-f]{64})+", line), line
    licences = (ROOT / supply.LICENCES).read_text()
    for name, version in hashed.items():
        assert f"| {name} | {version} |" in licences


def test_the_default_takes_any_build_of_torch() -> None:
    makefile = (ROOT / "Makefile").read_text()
    plain = subprocess.run(["make", "-n", "-B", "setup"], cwd=ROOT, capture_output=True, text=True)
    assert "--require-hashes" in makefile
    assert "hashes" not in plain.stdout
    given = ["make", "-n", "-B", "setup", "LOCKED=1", "TORCH_INDEX=https://x/cpu"]
    locked = subprocess.run(given, cwd=ROOT, capture_output=True, text=True).stdout
    assert "--require-hashes" in locked
    assert "--index-url https://x/cpu torch==" in locked
    assert "grep -vE '^(torch|triton|nvidia-|cuda-)" in locked


def test_hashes_of_other_platforms_stay(supply: ModuleType) -> None:
    found = [
        {
            "metadata": {"name": "A_b", "version": version},
            "download_info": {"archive_info": {"hashes": {"sha256": "2" * 64}}},
        }
        for version in ("1.0",)
    ]
    old = f"a-b==1.0 --hash=sha256:{'1' * 64}\na-b==0.9 --hash=sha256:{'0' * 64}\n"
    line = f"a-b==1.0 --hash=sha256:{'1' * 64} --hash=sha256:{'2' * 64}\n"
    assert supply.hash_lines(found, old) == supply.HEAD + line


def test_an_archive_is_even_whoever_packed_it(supply: ModuleType) -> None:
    packed = []
    for seconds, owner, names in ((1, "alice", "ab"), (2, "bob", "ba")):
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as file:
            for name in names:
                member = tarfile.TarInfo(name)
                member.mtime, member.uname, member.mode, member.size = seconds, owner, 0o600, 1
                file.addfile(member, io.BytesIO(name.encode()))
        packed.append(supply.even(gzip.compress(plain.getvalue(), mtime=seconds), 5))
    assert packed[0] == packed[1]
    with tarfile.open(fileobj=io.BytesIO(packed[0])) as file:
        assert [(m.name, m.mtime, m.uname, m.mode) for m in file] == [
            ("a", 5, "", 0o644),
            ("b", 5, "", 0o644),
        ]


@pytest.mark.long
def test_wheel_and_sdist_come_out_equal(
    supply: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "src", "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    built = []
    for number, umask in enumerate((0o022, 0o077)):
        before = os.umask(umask)
        copy = tmp_path / f"copy {number}"
        for name in listed.stdout.decode().split("\0")[:-1]:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
            os.utime(copy / name, (time.time(), 1.6e9 + number))
        subprocess.run(["git", "init", "--quiet"], cwd=copy, check=True)
        subprocess.run(["git", "add", "--all"], cwd=copy, check=True)
        files = supply.build(tmp_path / f"out {number}", copy)
        os.umask(before)
        built.append({file.name: file.read_bytes() for file in files})
    assert len(built[0]) == 2
    assert built[0] == built[1]


def test_the_oldest_versions_are_the_floors(supply: ModuleType) -> None:
    project = {
        "name": "speechft",
        "dependencies": ["a_b>=1.2", "c>=0.7; python_version < '3.13'"],
        "optional-dependencies": {"x": ["d[e]>=3", "a_b>=1.2"], "all": ["speechft[x]"]},
    }
    assert supply.oldest(project) == "a_b==1.2\nc==0.7\nd==3\n"
    with pytest.raises(SystemExit, match=r"f<2 of pyproject\.toml has no floor"):
        supply.oldest({**project, "dependencies": ["f<2"]})
    own = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    floors = dict(line.split("==") for line in supply.oldest(own).split())
    locked = pins(supply, supply.LOCK)
    for name, floor in floors.items():
        assert Version(floor) <= Version(locked.get(supply.canonical(name), floor)), name


@pytest.mark.parametrize("target", ["test-oldest", "test-newest"])
def test_both_ends_have_an_environment_of_their_own(target: str) -> None:
    given = ["make", "-n", target, "TESTS=tests/merging"]
    said = subprocess.run(given, cwd=ROOT, capture_output=True, text=True).stdout
    place = f"build/{target.removeprefix('test-')}"
    assert f"{place}/bin/pytest -n 2 --dist loadfile tests/merging" in said
    assert ("--constraint" in said) == (target == "test-oldest")
    assert ".venv/bin" not in said
