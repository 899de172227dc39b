"""Copies of what lies at addresses: by address and ETag, gone on with, named by their digests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from servers import Web, serve
from speechft.encoders.load import digest_of, load_encoder, resolve_encoder
from speechft.errors import AbsentError, CheckpointError, RemoteError, RunError
from speechft.storage import copies, remote
from speechft.storage.copies import copied_file, copied_folder
from speechft.storage.files import file_digest, read_json


@pytest.fixture
def web(tiny_hubert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.01))
    monkeypatch.setenv("SPEECHFT_CACHE", str(tmp_path / "caches"))
    copied_folder.cache_clear()
    shutil.copytree(tiny_hubert, tmp_path / "served" / "tiny")
    with serve(tmp_path / "served") as server:
        yield server


def test_an_encoder_at_an_address_is_the_one_in_the_folder(web: Web, tiny_hubert: Path) -> None:
    place = f"{web.address}/tiny"
    found = resolve_encoder(place)
    assert found.name == "tiny"
    assert digest_of(place) == digest_of(tiny_hubert)
    ours, theirs = load_encoder(place).state_dict(), load_encoder(tiny_hubert).state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    told = read_json(found.parent / "source.json")
    assert told["address"] == place
    assert told["sha256"]["model.safetensors"] == file_digest(tiny_hubert / "model.safetensors")


def test_an_encoder_in_a_folder_of_a_repository_on_the_hub(
    hub_server: Web, tiny_hubert: Path
) -> None:
    home = hub_server.folder / "models" / "me" / "encoders" / "tiny"
    shutil.copytree(tiny_hubert, home)
    place = "hf://me/encoders/tiny"
    assert digest_of(place) == digest_of(tiny_hubert)
    first = resolve_encoder(place)
    weights = home / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    copied_folder.cache_clear()  # as another process
    assert resolve_encoder(place) != first, "as long, with other bytes"


@pytest.mark.parametrize("place", ["hf://me/whole", "me/whole", "me/whole@main"])
def test_a_repository_on_the_hub(hub_server: Web, tiny_hubert: Path, place: str) -> None:
    shutil.copytree(tiny_hubert, hub_server.folder / "models" / "me" / "whole")
    assert digest_of(place) == digest_of(tiny_hubert)


def test_a_copy_is_made_once_for_an_etag(web: Web) -> None:
    place = f"{web.address}/tiny"
    first = resolve_encoder(place)
    copied_folder.cache_clear()  # as another process
    web.asked.clear()
    assert resolve_encoder(place) == first
    assert {method for method, _, _ in web.asked} == {"HEAD"}
    weights = web.folder / "tiny" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    assert resolve_encoder(place) == first, "within a process it stays"
    copied_folder.cache_clear()
    second = resolve_encoder(place)
    assert second != first
    assert file_digest(second / weights.name) == file_digest(weights)


def test_an_interrupted_copy_is_gone_on_with(web: Web) -> None:
    place = f"{web.address}/tiny"
    size = (web.folder / "tiny" / "model.safetensors").stat().st_size
    web.troubles = ["", "cut", "500", "500"] if size else []
    with pytest.raises(RemoteError, match=r"the server answers 500, 3 times"):
        resolve_encoder(place)
    assert not list(copies._home(place).glob("*/source.json")), "nothing half-made has its name"
    web.asked.clear()
    copy = resolve_encoder(place)
    ranges = [asked for method, _, asked in web.asked if method == "GET"]
    assert any(not asked.startswith("bytes=0-") for asked in ranges)
    assert file_digest(copy / "config.json") == file_digest(web.folder / "tiny" / "config.json")
    assert not list(copies._home(place).glob(".*.partial"))


def test_no_etag_and_no_ranges(web: Web, tiny_hubert: Path) -> None:
    web.tags = web.ranges = False
    web.troubles = ["", "cut"]
    assert digest_of(f"{web.address}/tiny") == digest_of(tiny_hubert)


def test_a_single_file_and_what_lies_beside_it(web: Web, tiny_hubert: Path) -> None:
    place = f"{web.address}/tiny/model.safetensors"
    found = resolve_encoder(place)
    assert found.name == "model.safetensors"
    assert digest_of(place) == digest_of(tiny_hubert / "model.safetensors")
    load_encoder(place)


def test_a_host_may_hold_an_encoder_itself(web: Web, tiny_hubert: Path) -> None:
    for path in (web.folder / "tiny").iterdir():
        path.rename(web.folder / path.name)
    assert digest_of(f"{web.address}/model.safetensors") == digest_of(
        tiny_hubert / "model.safetensors"
    )
    load_encoder(f"{web.address}/")


@pytest.mark.parametrize("last", ["..", ".", "", "a?b=../c"])
def test_what_is_called_by_signs_stays_in_the_cache(last: str) -> None:
    name = remote.name_here(f"https://host/{last}")
    assert name not in ("", ".", "..")
    assert "/" not in name


def test_shards_are_those_of_the_index(web: Web, tiny_hubert: Path) -> None:
    folder = web.folder / "tiny"
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    copy = resolve_encoder(f"{web.address}/tiny")
    assert file_digest(copy / "model-1.safetensors") == file_digest(
        tiny_hubert / "model.safetensors"
    )
    index.write_text('{"weight_map": {"a": "../model-1.safetensors"}}')
    copied_folder.cache_clear()
    with pytest.raises(CheckpointError, match="expected the name of a file beside it"):
        resolve_encoder(f"{web.address}/tiny")
    index.write_text('{"weight_map": {"a": "model-2.safetensors"}}')
    with pytest.raises(CheckpointError, match=r"names model-2\.safetensors, not there"):
        resolve_encoder(f"{web.address}/tiny")


def test_what_cannot_be_had(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"no encoder: .*/none holds none of: model\."):
        resolve_encoder(f"{web.address}/none")
    with pytest.raises(AbsentError):
        copied_file(f"{web.address}/tiny/no.json")
    with pytest.raises(CheckpointError, match="nothing is fetched because a file names it"):
        resolve_encoder(f"{web.address}/tiny", download=False)
    with pytest.raises(RemoteError, match=r"more than the 10 that it may"):
        copied_file(f"{web.address}/tiny/config.json", most=10)
    monkeypatch.setattr(copies, "_SPARE", 1 << 60)
    with pytest.raises(RunError, match="no space left to copy"):
        resolve_encoder(f"{web.address}/tiny")
    monkeypatch.undo()


def test_what_a_file_names_comes_from_an_earlier_copy(web: Web) -> None:
    place = f"{web.address}/tiny"
    copy = resolve_encoder(place)
    web.asked.clear()
    assert resolve_encoder(place, download=False) == copy
    assert not web.asked


def test_an_encoder_in_an_object_store(bucket: str, tiny_hubert: Path) -> None:
    for file in sorted(tiny_hubert.iterdir()):
        if file.is_file():
            remote.upload(file, f"{bucket}/models/tiny/{file.name}", {})
    assert digest_of(f"{bucket}/models/tiny") == digest_of(tiny_hubert)
