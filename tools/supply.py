"""What the package is made of and how it is packed: hashes, licences, builds that come out equal.

    python tools/supply.py hashes             writes requirements.hashes and docs/licences.md
    python tools/supply.py build [--out DIR]  writes wheel and sdist, the same bytes each time
    python tools/supply.py oldest             prints the oldest versions that pyproject.toml allows

`hashes` asks pip which files it would install for ``requirements.lock`` here (Python version and
platform count) and downloads none of them; a hash that the file holds for the same version stays,
so that several platforms can add theirs. `build` packs what git tracks; SOURCE_DATE_EPOCH is the
time of the last commit where it is not set.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import importlib.metadata
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LOCK, HASHES, LICENCES = "requirements.lock", "requirements.hashes", "docs/licences.md"
INDEX = "https://pypi.org/simple"
HEAD = f"""\
# Hashes of what `make setup LOCKED=1` installs; made from {LOCK}: python tools/supply.py hashes
# TORCH_INDEX leaves out torch and what its CUDA build needs: triton, nvidia-, cuda-
"""


def resolved() -> list[dict[str, Any]]:
    """Return what pip would install from the public index, with metadata and hashes."""
    keep = ("PIP_CERT", "PIP_PROXY")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_") or k in keep}
    environment["PIP_CONFIG_FILE"] = os.devnull  # no local index, no local wheels
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        asked = ["--dry-run", "--ignore-installed", "--only-binary=:all:", "--index-url", INDEX]
        command = [sys.executable, "-m", "pip", "install", "--quiet", *asked]
        command += ["--report", str(report), "--requirement", str(ROOT / LOCK)]
        subprocess.run(command, check=True, env=environment, cwd=folder)
        found: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    return sorted(found, key=lambda item: canonical(item["metadata"]["name"]))


def canonical(name: str) -> str:
    """Return a package's name as the index spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def hash_lines(found: list[dict[str, Any]], old: str) -> str:
    """Return the file of hashes: those of ``found``, and older ones of the same versions."""
    known = {line.split()[0]: set(line.split()[1:]) for line in old.splitlines() if "==" in line}
    lines = []
    for item in found:
        name = f"{canonical(item['metadata']['name'])}=={item['metadata']['version']}"
        own = item["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(" ".join([name, *sorted({f"--hash=sha256:{own}"} | known.get(name, set()))]))
    return HEAD + "".join(f"{line}\n" for line in lines)


def licence(metadata: dict[str, Any]) -> str:
    """Return a package's licence: its expression, else its classifiers, else what it says.

    The expression is read from the installed package: pip's report leaves it out.
    """
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        installed = importlib.metadata.metadata(metadata["name"])
        if expression := installed.get("License-Expression"):
            return expression
    told = [c for c in metadata.get("classifier", ()) if c.startswith("License ::")]
    named = [c.rpartition(" :: ")[2] for c in told if c != "License :: OSI Approved"]
    text = str(metadata.get("license") or "").strip().partition("\n")[0]
    return "; ".join(named) or text[:60] or "not told"


def licence_table(found: list[dict[str, Any]]) -> str:
    """Return the table of licences in Markdown."""
    rows = [
        f"| {canonical(i['metadata']['name'])} | {i['metadata']['version']} "
        f"| {licence(i['metadata']).replace('|', '/')} |"
        for i in found
    ]
    return "\n".join(
        [
            "# Licences",
            "",
            "speechft is under Apache-2.0. What `make setup` installs, with the licence that each",
            "package tells of itself (`python tools/supply.py hashes` writes this page); the rows",
            "of nvidia, cuda and triton come with PyTorch's CUDA build only, under NVIDIA's terms",
            "where they tell nothing. `espeakng-loader` (extra `demo`) carries espeak-ng,",
            "GPL-3.0-or-later, and is used by the synthetic corpus alone.",
            "",
            "| package | version | licence |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def write_hashes(found: list[dict[str, Any]]) -> None:
    """Write the two files."""
    place = ROOT / HASHES
    old = place.read_text() if place.exists() else ""
    place.write_text(hash_lines(found, old))
    (ROOT / LICENCES).write_text(licence_table(found))


def oldest(project: dict[str, Any]) -> str:
    """Return constraints that hold every requirement of a project at its floor.

    Args:
        project: The table of that name in ``pyproject.toml``.

    Raises:
        SystemExit: A requirement has no floor.
    """
    asked = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    lines = set()
    for requirement in asked:
        if requirement.startswith(f"{project['name']}["):
            continue
        found = re.match(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)", requirement)
        if not found:
            raise SystemExit(f"{requirement} of pyproject.toml has no floor: say NAME>=VERSION")
        lines.add(f"{found[1]}=={found[2]}")
    return "".join(f"{line}\n" for line in sorted(lines))


def build(out: Path, source: Path = ROOT) -> list[Path]:
    """Build wheel and sdist of what git tracks in ``source``; equal sources give equal bytes."""
    git = ["git", "-C", str(source)]
    if "SOURCE_DATE_EPOCH" not in os.environ:
        time = subprocess.run([*git, "log", "-1", "--format=%ct"], check=True, capture_output=True)
        os.environ["SOURCE_DATE_EPOCH"] = time.stdout.decode().strip()
    listed = subprocess.run([*git, "ls-files", "-z"], check=True, capture_output=True)
    names = [name for name in listed.stdout.decode().split("\0") if name]
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        copy, packed = Path(folder, "source"), Path(folder, "packed")
        for name in names:
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target)
            target.chmod(0o644)  # whatever the umask of the checkout
        packed.mkdir()
        script = (
            "import sys; from setuptools import build_meta as b; out = sys.argv[1]; "
            "b.build_wheel(out); b.build_sdist(out)"  # they change sys.argv
        )
        command = [sys.executable, "-c", script, str(packed)]
        subprocess.run(command, check=True, cwd=copy, capture_output=True, umask=0o022)
        for archive in packed.glob("*.tar.gz"):
            archive.write_bytes(even(archive.read_bytes(), int(os.environ["SOURCE_DATE_EPOCH"])))
        return [Path(shutil.copy(path, out / path.name)) for path in sorted(packed.iterdir())]


def even(archive: bytes, time: int) -> bytes:
    """Return a tar.gz with sorted members of one time, one owner and one kind of mode."""
    plain = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as old,
        tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda m: m.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = time, 0, 0, "", ""
            member.mode, member.pax_headers = (0o755 if member.isdir() else 0o644), {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    return gzip.compress(plain.getvalue(), mtime=time)


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("hashes")
    verbs.add_parser("build").add_argument("--out", type=Path, default=ROOT / "dist")
    verbs.add_parser("oldest")
    options = parser.parse_args()
    if options.verb == "oldest":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        print(oldest(project), end="")
        return
    if options.verb == "hashes":
        write_hashes(resolved())
        return
    for path in build(options.out):
        print(path)


if __name__ == "__main__":
    main()
