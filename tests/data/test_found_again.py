"""A corpus is found by its digest: where it was, moved with its work, beside it, in the cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from speechft.data.found_again import CORPORA_FILE, find_again, write_corpora
from speechft.data.manifest import Corpus, write_corpus


@pytest.fixture
def both(tones: Corpus, tmp_path: Path) -> Path:
    """A folder with a corpus and, below, work that was done on it.

    It is deep enough that what other tests leave beside this one's folder is not seen from it.
    """
    place = tmp_path / "home" / "both"
    shutil.copytree(tones.folder, place / "data")
    return place


def record(corpus: Corpus, place: Path, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    moved = Corpus(place, corpus.name, corpus.digest, corpus.statistics, corpus.info)
    write_corpora(work / CORPORA_FILE, [moved, moved], work)


def test_where_it_was_and_moved_with_its_work(both: Path, tones: Corpus) -> None:
    record(tones, both / "data", both / "runs" / "a")
    found = find_again(both / "runs" / "a", tones.digest)
    assert (found.name, found.place) == (tones.name, str(both / "data"))
    assert found.told == f"{tones.name} (digest {tones.digest[:12]})"
    shutil.copytree(both / "runs", both.parent / "elsewhere" / "runs")
    alone = both.parent / "elsewhere" / "runs" / "a"
    assert find_again(alone, tones.digest).place == str(both / "data"), "where it was"
    both.rename(both.with_name("moved"))
    assert find_again(alone, tones.digest).place is None
    moved = both.with_name("moved")
    assert find_again(moved / "runs" / "a", tones.digest).place == str(moved / "data")


def test_another_corpus_there_does_not_count(both: Path, tones: Corpus) -> None:
    record(tones, both / "data", both / "a")
    write_corpus(both / "data", "other", "f" * 64, {}, {})
    found = find_again(both / "a", tones.digest)
    assert (found.name, found.place) == (tones.name, None)
    (both / "a" / CORPORA_FILE).write_text('{"damaged": [')
    assert find_again(both / "a", tones.digest).name is None


def test_without_a_record_manifests_beside_it_and_in_the_cache_do(
    both: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechft.data.found_again.cache_folder", lambda: both / "cache")
    work = both / "out" / "finetuning" / "stable" / "sid"
    work.mkdir(parents=True)
    assert find_again(work, tones.digest).place is None
    shutil.copytree(tones.folder, both / "cache" / "synthetic-0123")
    assert find_again(work, tones.digest).place == str(both / "cache" / "synthetic-0123")
    shutil.copytree(tones.folder, both / "out" / "corpus-sid")
    assert find_again(work, tones.digest).place == str(both / "out" / "corpus-sid")


def test_what_is_embedded_can_be_generated_again(both: Path, tones: Corpus) -> None:
    named = Corpus(both / "gone", "synthetic", "0" * 64, tones.statistics, tones.info)
    record(named, both / "gone", both / "a")
    assert find_again(both / "a", "0" * 64).place == "synthetic"


def test_a_server_that_a_file_names_is_asked_only_where_the_user_allows_it(
    both: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def opened(place: str) -> Corpus:
        asked.append(place)
        return tones

    shutil.rmtree(both / "data")
    (both / "a").mkdir()
    told = [{"name": "x", "digest": tones.digest, "place": "https://somewhere.example/corpus"}]
    (both / "a" / CORPORA_FILE).write_text(json.dumps(told))
    monkeypatch.setattr("speechft.data.found_again.cache_folder", lambda: both / "none")
    monkeypatch.setattr("speechft.data.found_again.open_corpus", opened)
    assert find_again(both / "a", tones.digest).place is None
    assert asked == []
    monkeypatch.setenv("SPEECHFT_SCHEMES", "https")
    assert find_again(both / "a", tones.digest).place == told[0]["place"]
