"""What a merge gains and costs: signs, the rule by its bound, front, choice and pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from speechft.evaluation.score import paired_difference
from speechft.merging.config import MergeSettings
from speechft.reporting.sections import sweep_section
from speechft.reporting.sweeps import read_swept
from speechft.sweeping.drawing import draw, draw_front
from speechft.sweeping.judging import Judged, change_of, chosen, in_words, judged
from speechft.sweeping.settings import Point, Rule, SweepSettings
from speechft.sweeping.sweep import Sweep, as_json
from speechft.tasks import TASKS
from speechft.tasks.measures import Item


def solved(share: float, seed: int, count: int = 200) -> list[Item]:
    """Items of which a share is counted; the same utterances for every seed."""
    rng = np.random.default_rng(seed)
    hits = rng.random(count) < share
    return [Item(f"{n:03d}", "", "", float(hit), 1.0) for n, hit in enumerate(hits)]


def point(alpha: float) -> Point:
    return Point(alpha, None, MergeSettings(alpha=alpha))


def test_gains_are_positive_where_the_merge_is_better_whatever_the_metric() -> None:
    few, many = solved(0.3, 0), solved(0.6, 0)
    better = change_of("sid", [many], [few])  # accuracy
    worse = change_of("pr", [many], [few])  # errors
    assert better.gain == pytest.approx(-worse.gain)
    assert better.gain > 20 > 0 > worse.gain
    measure = TASKS["pr"].measures[0]
    difference, low, high = paired_difference(many, few, level=0.9, measure=measure)
    assert (worse.gain, worse.interval) == (-difference, (-high, -low))
    assert worse.lost == high, "the upper bound of what is lost"
    several = change_of("sid", [many, many], [few, solved(0.3, 1)])
    assert several.value == better.value
    assert several.interval[0] < several.gain < several.interval[1]


def test_a_point_of_a_figure_from_0_to_1_is_a_hundredth() -> None:
    rng = np.random.default_rng(0)
    hit = [float(n % 4 == 0) for n in range(80)]
    chance, good = (
        [Item(f"{n:03d}", "", "", h * bonus + rng.random(), h, group=f"q{n % 10}")
         for n, h in enumerate(hit)]
        for bonus in (0.0, 0.9)
    )  # fmt: skip
    measure = TASKS["qbe"].measures[0]
    gain = change_of("qbe", [good], [chance]).gain
    assert gain == pytest.approx(100 * (measure.value(good) - measure.value(chance)))
    assert gain > 10
    none = [Item(i.id, "", "", i.amount, 0.0, group=i.group) for i in good]
    assert np.isnan(measure.value(none)), "no query has a hit"


def test_the_rule_goes_by_the_bound_and_not_by_the_point() -> None:
    base = {"sid": [solved(0.3, 0)], "pr": [solved(0.3, 0)]}
    flip = [Item(i.id, "", "", 1 - i.amount if int(i.id) % 19 == 0 else i.amount, 1.0)
            for i in base["pr"][0]]  # fmt: skip
    merged = {"sid": [solved(0.8, 0)], "pr": [flip]}
    for keep, within in ((0.0, False), (5.0, False), (10.0, True)):
        first, one = judged([(point(0), "a", base), (point(0.5), "b", merged)], ["sid"], Rule(keep))
        assert first.within, "the base is within every rule"
        assert one.within is within
        assert -5 < one.changes["pr"].gain < 0, "the point is within 5"
        assert 5 < one.changes["pr"].lost < 10
        choice = chosen([first, one])
        assert choice is (one if within else first)


def test_front_and_choice() -> None:
    def made(
        alpha: float, gain: float, share: float
    ) -> tuple[Point, str, dict[str, list[list[Item]]]]:
        return point(alpha), "", {"sid": [solved(gain, 0)], "ic": [solved(share, 0)]}

    found = judged([made(0, 0.3, 0.5), made(0.25, 0.6, 0.45), made(0.5, 0.5, 0.4),
                    made(0.75, 0.6, 0.45), made(1, 0.9, 0.2)], ["sid"], Rule(15.0))  # fmt: skip
    assert [one.front for one in found] == [True, True, False, True, True]
    assert [one.within for one in found] == [True, True, True, True, False]
    assert not judged([made(0, 0.3, 0.5), (point(1), "", {"sid": [solved(0.9, 0)]})], ["sid"],
                      Rule(15.0))[1].within, "what failed is not kept"  # fmt: skip
    choice = chosen(found)
    assert choice is not None
    assert choice.point.alpha == 0.25, "of equal gains the smaller alpha"
    unknown = judged([made(0, 0.3, 0.5), made(1, 0.9, 0.5)], ["asr"], Rule())
    assert chosen(unknown) is None
    assert not any(one.front for one in unknown), "nothing says what is gained"
    alone = judged([(p, d, {"sid": i["sid"]}) for p, d, i in (made(0, 0.3, 0), made(1, 0.5, 0))],
                   ["sid"], Rule(0.0))  # fmt: skip
    assert [(one.kept, one.within) for one in alone] == [(None, True)] * 2


def test_of_equal_gains_the_one_that_gains_elsewhere_is_taken() -> None:
    """Where dev is at its ceiling, or says the same of every merge, nothing is claimed of it."""

    def said(share: float, *others: float) -> tuple[list[Judged], Judged | None, str]:
        found = judged(
            [
                (point(n / 4), "", {"sid": [solved(share, 0)], "pr": [solved(other, 0)]})
                for n, other in enumerate(others)
            ],
            ["sid"],
            Rule(),
        )
        choice = chosen(found)
        return found, choice, in_words(found, choice, ["sid"])

    found, choice, text = said(1.1, 0.9, 0.6, 0.9, 0.7)
    assert choice is found[1]
    assert [one.front for one in found] == [False, True, False, False]
    gained = found[1].changes["pr"].gain
    assert text == (
        "What a merge gains on sid cannot be judged: it is at its ceiling on dev for every merge; "
        f"alpha 0.25 loses nothing there and gains {gained:.1f} points on pr, and loses on none of "
        "the other tasks."
    )
    _, choice, text = said(0.5, 0.9, 0.9, 0.95)
    assert "it is the same on dev for every merge. No merge within the rule gains elsewhere" in text
    assert text.endswith("take the base as it is.")
    assert choice is not None
    assert choice.point.alpha == 0


def test_words_say_which_alpha_and_whether_it_helps() -> None:
    def made(alpha: float, gain: float, other: float | None) -> tuple[Point, str, Any]:
        more = {} if other is None else {"ic": [solved(other, 1)]}
        return point(alpha), "", {"sid": [solved(gain, 0)], **more}

    def said(*found: tuple[Point, str, Any], rule: float = 20.0, on: str = "sid") -> str:
        every = judged(found, [on], Rule(rule))
        return in_words(every, chosen(every), [on])

    base = made(0, 0.3, 0.5)
    gained = said(base, made(0.5, 0.6, 0.45))
    lost = judged([base, made(0.5, 0.6, 0.45)], ["sid"], Rule())[1].changes["ic"].lost
    assert gained.startswith("alpha 0.5 gains ")
    assert f"may lose up to {lost:.1f} points on ic" in gained
    assert "chance" not in gained
    assert "which may be chance" in said(base, made(0.5, 0.31, 0.5))
    assert "loses on none" in said(base, made(0.5, 0.6, 0.9))
    away = said(base, made(0.5, 0.6, 0.45), rule=0.0)
    assert away.startswith("No merge within the rule gains on sid over the base: take the base")
    assert f"alpha 0.5, which may lose {lost:.1f} points elsewhere" in away
    assert said(base, made(0.5, 0.2, 0.5)).endswith("take the base as it is.")
    assert "Nothing else was measured: take" in said(made(0, 0.3, None), made(0.5, 0.3, None))
    alone = said(made(0, 0.3, None), made(0.5, 0.6, None))
    assert "elsewhere was not measured" in alone
    assert "nothing says" in said(base, made(1, 0.9, 0.5), on="asr")


def test_pictures_stand_alone_and_say_what_they_show(tmp_path: Path) -> None:
    def made(alpha: float, part: str | None) -> Judged:
        items = {"sid": [solved(0.3 + 0.4 * alpha, 0)], "pr": [solved(0.3 + 0.1 * alpha, 1)]}
        base = {"sid": [solved(0.3, 0)], "pr": [solved(0.3, 1)]}
        moved = Point(alpha, part, MergeSettings(alpha=alpha))
        return judged([(point(0), "", base), (moved, "", items)], ["sid"], Rule(4.0))[1]

    for parts in ([None] * 3, ["cnn", "layers.0", "layers.1"]):
        found = [made(alpha, part) for alpha, part in zip((0, 0.5, 1), parts, strict=True)]
        asked = SweepSettings(base="b", tuned=("t",), rule=Rule(4.0))
        content = as_json(asked, Sweep([], found, ("sid",), found[1], None))
        draw(content, tmp_path)
        drawn = (tmp_path / "front.svg").read_bytes()
        draw_front(content, tmp_path)
        assert (tmp_path / "front.svg").read_bytes() == drawn
        for name in ("curve.svg", "front.svg"):
            text = (tmp_path / name).read_text()
            assert ElementTree.fromstring(text).get("role") == "img"
            assert re.search(r'aria-label="[^"]*(alpha|layers\.\d at) ?0\.5[^"]*"', text)
            assert "http" not in text.replace("http://www.w3.org/", "")
            assert "choice" in text or name == "front.svg", "it says itself what its lines are"
            assert "rule: 4 lost" in text
        section = sweep_section(read_swept(content))
        assert section is not None
        last = section.panels[-1].svg
        assert "rule: 4 lost" not in last, "the page says it beside"
        assert re.findall(r'aria-label="[^"]*"', last) == re.findall(
            r'aria-label="[^"]*"', (tmp_path / "front.svg").read_text()
        )
