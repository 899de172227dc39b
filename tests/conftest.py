"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from helpers import quicken_probes, tiny_encoder, tone_corpus
from servers import Web, hub, object_store
from speechft.data.manifest import Corpus
from superb import superb_corpus


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Compute on one thread, so that results do not depend on the machine's load."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Give back the environment as it was: what one test makes of it is none of the next one's."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def tiny_hubert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny HuBERT with random weights."""
    folder = tmp_path_factory.mktemp("tiny-hubert")
    tiny_encoder().save(folder)
    return folder


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Return a corpus of tones with three speakers."""
    return tone_corpus(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Return a miniature corpus with the labels of all ten SUPERB tasks."""
    return superb_corpus(tmp_path_factory.mktemp("miniature"))


@pytest.fixture(scope="session")
def store() -> Iterator[str]:
    """Return the address of an object store on loopback."""
    with object_store() as address:
        yield address


@pytest.fixture
def bucket(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of an empty bucket; caches are empty too, and nobody waits for long."""
    from s3fs import S3FileSystem

    from speechft.storage import copies, remote

    known = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret"}
    known |= {"AWS_ENDPOINT_URL": store, "AWS_DEFAULT_REGION": "us-east-1"}
    known |= {"AWS_EC2_METADATA_DISABLED": "true", "SPEECHFT_CACHE": str(tmp_path / "caches")}
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.01, 0.01))
    copies.copied_folder.cache_clear()
    name = f"b{abs(hash(tmp_path)):x}"
    S3FileSystem().mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def hub_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """Run an empty hub that ``hf://`` asks; caches are empty too, and nobody waits for long."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    from speechft.storage import copies, remote

    monkeypatch.setenv("SPEECHFT_CACHE", str(tmp_path / "caches"))
    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda _: None))
    copies.copied_folder.cache_clear()
    with hub(tmp_path / "hub") as web:
        monkeypatch.setattr(constants, "ENDPOINT", web.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        files = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", web.address + files)
        yield web


@pytest.fixture(scope="module")
def quick_probes() -> Iterator[None]:
    """Train probes of protocol ``mini`` briefly in a module."""
    from speechft.evaluation.protocols import PROTOCOLS

    usual = dict(PROTOCOLS)
    quicken_probes()
    yield
    PROTOCOLS.clear()
    PROTOCOLS.update(usual)
