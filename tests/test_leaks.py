"""What leaves the machine names nobody: every verb runs in a folder with a mark, then all is read.

The mark is part of every path, a password is part of the corpus' address, and the host has a name.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from helpers import tiny_encoder
from speechft import cli
from speechft.data.found_again import CORPORA_FILE
from speechft.data.manifest import Corpus
from speechft.data.shar import export_shards
from speechft.evaluation.candidates import ENCODER_FILE
from speechft.storage.files import read_json
from speechft.storage.headers import read_header

pytestmark = pytest.mark.usefixtures("quick_probes")

MARK = "alice-of-7f3q"
PASSWORD = "Pa55-w0rd"
HOST = "host-of-9k2z"
OWN_RECORDS = ("recipe.yaml", ENCODER_FILE, CORPORA_FILE)
"""Files that a run needs to find things again: they may hold paths, and no passwords."""

Speechft = Callable[..., tuple[str, str]]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("home") / MARK
    tiny_encoder().save(place / "base")
    config = read_json(place / "base" / "config.json")
    config["_name_or_path"] = str(place / "base")
    (place / "base" / "config.json").write_text(json.dumps(config))
    return place


@pytest.fixture(scope="module")
def address(tones: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = export_shards(tones, tmp_path_factory.mktemp("shards") / "out").folder
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder.parent)))
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://user:{PASSWORD}@127.0.0.1:{server.server_port}/out"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def speechft(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Speechft:
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)

    def run(*arguments: object, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["speechft", *map(str, arguments)])
        ended = 0
        try:
            cli.main()
        except SystemExit as stop:
            ended = int(stop.code or 0)
        out, err = capsys.readouterr()
        assert ended == code, err
        assert PASSWORD not in out + err
        return out, err

    return run


def contents(path: Path) -> Iterator[bytes]:
    """Yield a file's name and bytes, and what is packed in it."""
    data = path.read_bytes()
    yield path.name.encode() + b"\n" + data
    if path.suffix == ".gz":
        yield gzip.decompress(data)
    if path.suffix == ".safetensors":
        yield json.dumps(read_header(path)[1]).encode()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            yield from (name.encode() + file.read(name) for name in file.namelist())


def leaks(place: Path) -> list[str]:
    """Return what is told in a file, or in the files of a folder, as ``file: word``."""
    files = [place] if place.is_file() else [p for p in place.rglob("*") if p.is_file()]
    assert files
    found = []
    for file in files:
        words = [PASSWORD, HOST] + [MARK] * (file.name not in OWN_RECORDS)
        text = b"".join(contents(file))
        found += [f"{file.relative_to(place)}: {word}" for word in words if word.encode() in text]
    return found


def modes(place: Path) -> list[str]:
    """Return what has other rights than new files and folders have here."""
    mask = os.umask(0)
    os.umask(mask)
    found = [p for p in place.rglob("*") if not p.is_symlink()]
    return [
        f"{p.relative_to(place)}: {p.stat().st_mode & 0o777:o}"
        for p in found
        if p.stat().st_mode & 0o777 != (0o777 if p.is_dir() else 0o666) & ~mask
    ]


def test_the_search_finds_what_it_looks_for(home: Path, tmp_path: Path) -> None:
    assert leaks(home / "base") == [f"config.json: {MARK}"]
    with gzip.open(tmp_path / "x.gz", "wt") as file:
        file.write(MARK)
    (tmp_path / f"{HOST}.txt").touch()
    (tmp_path / "recipe.yaml").write_text(MARK + PASSWORD)
    assert sorted(leaks(tmp_path)) == [
        f"{HOST}.txt: {HOST}",
        f"recipe.yaml: {PASSWORD}",
        f"x.gz: {MARK}",
    ]


def test_no_verb_tells_paths_passwords_or_the_host(
    home: Path, address: str, speechft: Speechft, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, out = home / "base", home / "out"
    recipe = home / "recipe.yaml"
    recipe.write_text(
        json.dumps(
            {
                "title": "tiny run",
                "encoder": str(base),
                "data": {"corpus": address},
                "finetuning": {"task": "sid", "steps": 3, "learning_rate": 5e-3, "hidden": None},
                "merging": {"alpha": 0.25, "curve": []},
                "evaluation": {"tasks": ["sid"], "floors": ["random"]},
                "baselines": [],
            }
        )
    )
    speechft("run", recipe, "--out", out / "run")
    tuned = out / "run" / "tuned"
    for target in ("merged", "merged.pt", "merged.safetensors"):
        speechft("merge", base, tuned, "--out", out / target)
    speechft("delta", base, tuned, "--out", out / "delta.safetensors")
    speechft("merge", base, out / "delta.safetensors", "--out", out / "applied")
    speechft("convert", base, out / "converted.pt")
    speechft("convert", out / "converted.pt", out / "converted")
    given = ["--corpus", address, "--tasks", "sid"]
    speechft("evaluate", tuned, out / "merged", *given, "--out", out / "evaluation")
    speechft("compare", out / "evaluation")
    assert (out / "run" / "report.html").is_file()
    assert list(out.rglob("*tfevents*"))
    assert leaks(out) == []
    assert modes(out) == [], "all of it is readable as the umask says"
    assert "user" not in (out / "run" / "recipe.yaml").read_text()
    card = (out / "merged" / "README.md").read_text()
    assert "speechft merge base tuned --out merged" in card
    assert read_json(out / "merged" / "merge.json")["base"] == "base"

    # cards, and what would be published of every folder
    for made in (tuned, out / "merged", out / "converted", out / "run" / "merged"):
        assert (made / "README.md").is_file()
        published = ["--repo-id", "a/b", "--license", "mit", "--dry-run"]
        told, _ = speechft("publish", made, *published, "--json")
        card = json.loads(told)["card"]
        assert ("model-index:" in card) == (made in (tuned, out / "run" / "merged"))
        assert not [word for word in (MARK, HOST) if word in told]

    # what overrides the lineage check says so, with names
    tiny_encoder(seed=5).save(home / "other of mine")
    speechft("merge", base, home / "other of mine", "--force", "--out", out / "forced")
    told = read_json(out / "forced" / "merge.json")["forced"]
    assert "other of mine does not look tuned from base" in told[0]
    speechft("delta", base, home / "other of mine", "--force", "--out", out / "forced.safetensors")
    assert leaks(out / "forced") + leaks(out / "forced.safetensors") == []

    monkeypatch.chdir(home)  # relative paths are paths too
    shutil.copytree(base, home / MARK / "base")
    speechft("merge", f"{MARK}/base", "out/run/tuned", "--out", "out/relative")
    assert leaks(out / "relative") == []


def test_cards_name_what_came_from_the_hub_and_with_the_package(
    home: Path, tmp_path: Path, speechft: Speechft
) -> None:
    snapshot = tmp_path / "hub" / "models--some--encoder" / "snapshots" / "0123abcd"
    shutil.copytree(home / "base", snapshot)
    tiny_encoder(seed=5).save(tmp_path / "tuned")
    speechft("merge", snapshot, tmp_path / "tuned", "--force", "--out", tmp_path / "merged")
    assert read_json(tmp_path / "merged" / "merge.json")["base"] == "some/encoder"
    assert "| base | `some/encoder` |" in (tmp_path / "merged" / "README.md").read_text()
    speechft("merge", "tiny-hubert", "tiny-hubert", "--force", "--out", tmp_path / "same")
    assert "| base | `tiny-hubert` |" in (tmp_path / "same" / "README.md").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "mfcc", "--corpus", f"https://user:{PASSWORD}@127.0.0.1:9/x", "--out", "OUT"),
        ("extract", "tiny-hubert", f"https://user:{PASSWORD}@127.0.0.1:9/x.wav", "--out", "OUT"),
        ("inspect", f"https://user:{PASSWORD}@127.0.0.1:9/x.wav"),
        ("run", f"https://user:{PASSWORD}@127.0.0.1:9/x.yaml", "--out", "OUT"),
        ("merge", f"https://user:{PASSWORD}@127.0.0.1:9/x", "tiny-hubert", "--out", "OUT/x"),
        ("prepare", f"s3://user:{PASSWORD}@x/y", "--out", "OUT"),
    ],
)
def test_errors_mask_passwords(
    arguments: tuple[str, ...], tmp_path: Path, speechft: Speechft, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechft.storage.remote.PAUSES", ())
    given = [a.replace("OUT", str(tmp_path / "out")) for a in arguments]
    _, err = speechft(*given, code=1)
    assert "error" in err
