"""Searching coefficients: two halves of dev, a file that merges, and test closed until the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import speechft
from speechft.data.manifest import Corpus
from speechft.errors import ConfigError, DataError, PackageError
from speechft.files import read_json
from speechft.merging.config_file import merge_config
from speechft.merging.execution import write_merge
from speechft.sweeping import search as searching
from speechft.sweeping.search import half_of
from speechft.tasks.measures import Item


def run(base: Path, tuned: Any, corpus: Corpus, out: Path, **more: Any) -> Any:
    given = {"tasks": "sid,ic", "protocol": "quick", "precision": "fp32", "trials": 3, "groups": 2}
    return speechft.search(base, tuned, out=out, corpus=corpus.folder, **{**given, **more})


def test_a_search_writes_what_merge_takes_and_reads_test_after_the_choice(
    base: Path, tuned: Path, tones: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, opened = tmp_path / "out", []
    original = Corpus._open

    def watched(corpus: Corpus, name: str) -> Any:
        opened.append((name, (out / "chosen.yaml").is_file()))
        return original(corpus, name)

    monkeypatch.setattr(Corpus, "_open", watched)
    texts = Corpus.read_text
    monkeypatch.setattr(
        Corpus, "read_text", lambda c, name: (opened.append((name, False)), texts(c, name))[1]
    )
    found = run(base, tuned, tones, out, test=True, methods="linear,ties", keep_within=100)
    assert {name for name, chosen in opened if not chosen} == {"train", "dev"}
    assert {name for name, chosen in opened if chosen} >= {"test"}
    assert {row.split for row in found.rows} == {"dev", "test"}
    assert found.choice.further.keys() == {"sid", "ic"}
    assert [one.point.name for one in found.judged] == ["base", "trial 0", "trial 1", "trial 2"]
    assert not list(out.rglob("*model*")), "no checkpoint on disk"

    merged = write_merge(merge_config({"out": tmp_path / "merged"}, found.config))
    assert merged.out_digest == found.choice.digest
    assert merged.out_digest in {row.encoder_digest for row in found.rows if row.split == "test"}

    content = read_json(out / "search.json")
    assert content["choice"] == found.choice.point.name
    assert any(one["front"] for one in content["points"])

    again = run(base, tuned, tones, out, test=True, methods="linear,ties", keep_within=100)
    assert (again.rows, again.judged) == (found.rows, found.judged)


def test_what_breaks_the_rule_on_the_first_half_cannot_be_chosen(
    base: Path, tuned: Path, tones: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All trials gain on the half that chooses; the first half prunes all but the base."""
    judged, halves = searching.judged, []

    def turned(measured: Any, tuned_on: Any, rule: Any) -> Any:
        found = judged(measured, tuned_on, rule)
        halves.append(len(found))
        broken = len(found) == 2  # base and trial: the first half
        fields = {"within": not broken} if broken else {"within": True, "gain": 5.0}
        return [found[0], *(searching.replace(one, **fields) for one in found[1:])]

    monkeypatch.setattr(searching, "judged", turned)
    found = run(base, tuned, tones, tmp_path, trials=2)
    assert halves == [2, 2, 3]
    assert found.choice.point.name == "base"
    points = read_json(tmp_path / "search.json")["points"]
    assert [one["pruned"] for one in points] == [False, True, True]


def test_halves_share_no_speaker_and_hold_everything() -> None:
    items = [Item(f"{n:02d}", "a", "b", 0.0, 1.0, group=f"s{n % 5}") for n in range(20)]
    first, second = (half_of({"sid": [items]}, 3, second=n)["sid"][0] for n in (False, True))
    assert sorted([*first, *second], key=lambda item: item.id) == items
    assert not {item.group for item in first} & {item.group for item in second}
    assert {len({item.group for item in half}) for half in (first, second)} == {2, 3}
    with pytest.raises(DataError, match="it has no halves"):
        half_of({"sid": [items[:1]]}, 0, second=True)


def test_what_cannot_be_searched(
    base: Path, tuned: Path, tones: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for how, message in (
        ({"trials": 0}, "trials is 0"),
        ({"methods": "lines"}, "there is nothing to search"),
        ({"methods": ""}, "no method to search"),
        ({"groups": 3}, "the encoder has 2 layers"),
        ({"tuned_on": "asr"}, "of which nothing is measured"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(base, tuned, tones, tmp_path / "out", **how)
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(PackageError, match="optuna, which is not installed"):
        run(base, tuned, tones, tmp_path / "out")
