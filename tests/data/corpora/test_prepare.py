"""A corpus by name into a folder: clear errors, and where embedded corpora go."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechft.data.corpora import synthetic
from speechft.data.corpora.prepare import prepare
from speechft.data.manifest import Corpus
from speechft.errors import ConfigError


def test_unknown_corpus() -> None:
    with pytest.raises(ConfigError, match="unknown corpus 'genric'") as caught:
        prepare("genric", None, None)
    assert caught.value.hint == "did you mean 'generic'?"


@pytest.mark.parametrize(("root", "out"), [(None, Path("out")), ("my.csv", None)])
def test_generic_needs_csv_and_folder(root: str | None, out: Path | None) -> None:
    with pytest.raises(
        ConfigError, match=r"generic needs a CSV, .* and an output folder"
    ) as caught:
        prepare("generic", root, out)
    assert "speechft prepare generic" in (caught.value.hint or "")


def test_an_argument_without_use_is_an_error() -> None:
    for root, settings in (("/data", ()), (None, ("seed=1",))):
        with pytest.raises(ConfigError, match="takes neither ROOT nor settings"):
            prepare("synthetic", root, None, None, settings)


def test_embedded_corpus_goes_to_cache_or_out(
    tmp_path: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(synthetic, "prepare", lambda _, folder: asked.append(folder) or tones)
    monkeypatch.setenv("SPEECHFT_CACHE", str(tmp_path / "cache"))
    prepare("synthetic", None, None)
    prepare("synthetic", None, tmp_path / "out")
    assert asked[0].parent == tmp_path / "cache"
    assert asked[1] == tmp_path / "out"
