"""Features that are there already: when they count, and when they are of other audio."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from helpers import speech_encoder, tone_corpus
from servers import Web, serve
from speechft.data.manifest import CORPUS_FILE, Corpus, open_corpus
from speechft.data.shar import export_shards
from speechft.errors import RunError
from speechft.features.cache import audio_key
from speechft.features.files import ExtractionReport, extract_files
from speechft.storage import copies


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder")
    speech_encoder("hubert").save(path)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return tone_corpus(tmp_path_factory.mktemp("plain"), per_speaker=1)


@pytest.fixture
def web(plain: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("SPEECHFT_CACHE", str(tmp_path / "caches"))
    copies.copied_folder.cache_clear()
    shutil.copytree(plain.folder, tmp_path / "served")
    with serve(tmp_path / "served") as server:
        yield server


def counts(report: ExtractionReport) -> tuple[int, int]:
    assert report.failed == {}
    return report.written, report.skipped


def heard(web: Web) -> list[str]:
    """Return the recordings that were asked for since the last call, by name."""
    found = [path for method, path, _ in web.asked if method == "GET" and path.endswith(".wav")]
    web.asked.clear()
    return sorted(path.removeprefix("/").removesuffix(".wav") for path in found)


def shown(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_what_was_extracted_of_an_address_is_not_heard_again(
    encoder: Path, web: Web, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    extract = partial(extract_files, encoder, web.address, out, device="cpu")
    assert counts(extract()) == (9, 0)
    assert len(heard(web)) == 9
    (out / "dev" / "dev-001.safetensors").unlink()
    assert counts(extract()) == (1, 8)
    before = shown(out)
    heard(web)
    assert counts(extract()) == (0, 9)
    assert (heard(web), shown(out)) == ([], before)

    record = web.folder / CORPUS_FILE
    content = json.loads(record.read_text())
    content["digests"]["dev"] = "another"
    record.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"dev-000.* was not written by an extraction of this audio"):
        extract()
    assert shown(out) == before
    assert counts(extract(overwrite=True)) == (3, 6)
    assert counts(extract()) == (0, 9)
    content["digests"]["dev"] = "of before"
    record.write_text(json.dumps(content))
    with pytest.raises(RunError, match="was not written by an extraction of this audio"):
        extract()


def test_lists_at_addresses_go_into_one_folder(encoder: Path, web: Web, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for split, there in (("train", 0), ("dev", 0), ("train", 3), ("dev", 3)):
        report = extract_files(encoder, f"{web.address}/{split}.jsonl.gz", out, device="cpu")
        assert counts(report) == (3 - there, there)


def test_features_of_no_known_audio_are_not_those_of_an_address(
    encoder: Path, plain: Corpus, web: Web, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    extract_files(encoder, plain.folder, out, device="cpu")
    with pytest.raises(RunError, match="was not written by an extraction of this audio"):
        extract_files(encoder, web.address, out, device="cpu")


def test_files_of_others_are_all_replaced_where_that_is_allowed(
    encoder: Path, plain: Corpus, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for name in ("dev/dev-000", "train/train-002"):
        path = out / f"{name}.safetensors"
        path.parent.mkdir(parents=True)
        path.write_text("theirs")
    report = extract_files(encoder, plain.folder, out, device="cpu", overwrite=True)
    assert counts(report) == (9, 0)
    assert b"theirs" not in shown(out).values()


def test_features_of_a_shard_count_until_it_is_newer(
    encoder: Path, plain: Corpus, tmp_path: Path
) -> None:
    out, shards = tmp_path / "out", tmp_path / "shards"
    cuts = export_shards(plain, shards, shard_size=2).split("dev")
    assert counts(extract_files(encoder, shards, out, device="cpu")) == (9, 0)
    assert counts(extract_files(encoder, shards, out, device="cpu")) == (0, 9)
    keys = [audio_key(cut) for cut in cuts]
    assert len({*keys}) == 3
    os.utime(shards / "dev" / "recording.000000.tar", ns=(2**62, 2**62))
    assert counts(extract_files(encoder, shards, out, device="cpu")) == (2, 7)
    again = [audio_key(cut) for cut in open_corpus(shards).split("dev")]
    assert [a == b for a, b in zip(again, keys, strict=True)] == [False, False, True]
