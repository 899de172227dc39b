"""Bootstrap intervals, paired differences and the miniature score."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from speechft.evaluation.miniature_score import Anchor, Anchors, load_anchors, miniature_score
from speechft.evaluation.score import (
    RATIO,
    bootstrap_interval,
    bootstrap_values,
    difference_over_seeds,
    hierarchical_interval,
    paired_difference,
    paired_p_value,
    resampled,
)
from speechft.tasks import find_task
from speechft.tasks.base import Item
from speechft.tasks.label import UAR
from speechft.tasks.measures import weighted_eer, weighted_mtwv
from speechft.tasks.metrics import equal_error_rate, mtwv


def make_items(count: int, seed: int, harder: float = 0.0) -> list[Item]:
    rng = np.random.default_rng(seed)
    totals = rng.integers(3, 30, count)
    difficulty = rng.uniform(0.05, 0.5, count)
    noise = np.random.default_rng(seed + 1000)
    errors = noise.binomial(totals, np.clip(difficulty + harder, 0, 1))
    return [
        Item(f"item-{n:03d}", "", "", float(e), float(t))
        for n, (e, t) in enumerate(zip(errors, totals, strict=True))
    ]


def columns(items: list[Item]) -> tuple[Any, Any]:
    return np.array([i.amount for i in items]), np.array([i.total for i in items])


def ratio(amounts: Any, totals: Any, axis: int = -1) -> Any:
    return 100 * amounts.sum(axis=axis) / totals.sum(axis=axis)


@pytest.mark.parametrize("level", [0.95, 0.8])
@pytest.mark.parametrize("seed", [0, 1])
def test_interval_is_that_of_scipy(seed: int, level: float) -> None:
    items = make_items(200, seed)
    expected = stats.bootstrap(
        columns(items),
        ratio,
        paired=True,
        confidence_level=level,
        method="percentile",
        n_resamples=4000,
        rng=np.random.default_rng(9),
    ).confidence_interval
    found = bootstrap_interval(items, level=level)
    assert found is not None
    width = expected.high - expected.low
    assert found[0] == pytest.approx(expected.low, abs=0.1 * width)
    assert found[1] == pytest.approx(expected.high, abs=0.1 * width)
    assert found[0] < RATIO.value(items) < found[1]


def test_interval_is_repeatable_and_needs_two_items() -> None:
    items = make_items(50, 0)
    assert bootstrap_interval(items) == bootstrap_interval(items)
    assert bootstrap_interval(items) != bootstrap_interval(items, seed=1)
    assert bootstrap_interval(items[:1]) is None
    assert bootstrap_interval([]) is None


def test_two_items_are_drawn_as_coins_fall() -> None:
    values = bootstrap_values([Item("a", "", "", 0.0, 1.0), Item("b", "", "", 1.0, 1.0)])
    assert values is not None
    assert len(values) == 2000
    for value, share in ((0.0, 0.25), (50.0, 0.5), (100.0, 0.25)):
        assert np.mean(values == value) == pytest.approx(share, abs=0.05)


def test_p_value_is_twice_the_smaller_share_of_draws() -> None:
    first, second = make_items(60, 2), make_items(60, 3)
    one, two = bootstrap_values(first), bootstrap_values(second)
    assert one is not None
    assert two is not None
    expected = 2 * min(np.mean(one - two <= 0), np.mean(one - two >= 0))
    assert 0.0005 < expected < 1
    assert paired_p_value(first, second) == pytest.approx(expected)
    assert paired_p_value(first, first) == 1.0


def test_difference_over_two_seeds() -> None:
    items = make_items(40, 0)
    worse = [Item(i.id, "", "", i.amount + 0.1 * i.total, i.total) for i in items]
    found = difference_over_seeds([worse, worse], [items, items], level=0.9)
    assert found == pytest.approx((10.0, 10.0))
    assert difference_over_seeds([worse], [items, items], level=0.9) is None
    assert difference_over_seeds([worse, worse], [items], level=0.9) is None


def test_an_error_rate_needs_trials_of_both_kinds() -> None:
    items = [Item(str(n), "", "", score, n % 2) for n, score in enumerate((0.1, 0.9, 0.2, 0.8))]
    weights = np.array([[0, 1, 0, 1], [1, 0, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]], float)
    found = weighted_eer(items, weights)
    assert np.isnan(found).tolist() == [True, True, False, False]
    assert found[2:].tolist() == [0.0, 0.0]


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(100):
        outcomes = rng.binomial(1, 0.7, 150)
        interval = bootstrap_interval([Item("a", "", "", float(o), 1.0) for o in outcomes])
        assert interval is not None
        hits += interval[0] <= 70 <= interval[1]
    assert 86 <= hits <= 100


def test_paired_difference_is_that_of_scipy() -> None:
    first, second = make_items(200, 0, harder=0.1), make_items(200, 0)
    difference, low, high = paired_difference(first, second)
    assert difference == pytest.approx(RATIO.value(first) - RATIO.value(second))

    def statistic(a: Any, t: Any, b: Any, u: Any, axis: int = -1) -> Any:
        return ratio(a, t, axis) - ratio(b, u, axis)

    expected = stats.bootstrap(
        (*columns(first), *columns(second)),
        statistic,
        paired=True,
        confidence_level=0.9,
        method="percentile",
        n_resamples=4000,
        rng=np.random.default_rng(9),
    ).confidence_interval
    width = expected.high - expected.low
    assert low == pytest.approx(expected.low, abs=0.1 * width)
    assert high == pytest.approx(expected.high, abs=0.1 * width)


def test_difficulty_of_items_cancels() -> None:
    items = make_items(100, 0)
    worse = [Item(i.id, "", "", i.amount + 0.1 * i.total, i.total) for i in items]
    assert paired_difference(worse, items) == pytest.approx((10.0, 10.0, 10.0))
    assert paired_difference(items, items) == (0.0, 0.0, 0.0)
    first, second = make_items(100, 1, harder=0.05), make_items(100, 1)
    forward, backward = paired_difference(first, second), paired_difference(second, first)
    assert forward == pytest.approx((-backward[0], -backward[2], -backward[1]))


def test_different_utterances_cannot_be_paired() -> None:
    items = make_items(10, 0)
    for other in (items[:9], items[::-1]):
        with pytest.raises(ValueError, match="the same utterances in the same order"):
            paired_difference(items, other)


ANCHORS = Anchors(
    version="test",
    corpus="",
    protocol="mini",
    tasks={"pr": Anchor(floor=80, ceiling=20), "sid": Anchor(floor=30, ceiling=90)},
)


@pytest.mark.parametrize(
    ("pr", "sid", "score"),
    [(80, 30, 0), (20, 90, 1000), (50, 60, 500), (20, 30, 500), (14, 96, 1100), (86, 30, -50)],
)
def test_score_is_the_mean_place_between_the_anchors(pr: float, sid: float, score: float) -> None:
    assert miniature_score({"pr": pr, "sid": sid, "other": 1}, ANCHORS) == pytest.approx(score)


def test_score_needs_every_anchored_task() -> None:
    assert miniature_score({"pr": 50.0}, ANCHORS) is None
    nothing = ANCHORS.model_copy(update={"tasks": {}})
    assert miniature_score({"pr": 50.0}, nothing) is None


def test_packaged_anchors_can_be_read() -> None:
    for anchor in load_anchors().tasks.values():
        assert anchor.floor != anchor.ceiling


def test_groups_are_drawn_as_a_whole() -> None:
    items = make_items(200, 0)
    grouped = [replace(item, group=f"speaker-{n // 20}") for n, item in enumerate(items)]
    amounts = np.array([i.amount for i in items]).reshape(10, 20).sum(1)
    totals = np.array([i.total for i in items]).reshape(10, 20).sum(1)
    expected = stats.bootstrap(
        (amounts, totals),
        ratio,
        paired=True,
        method="percentile",
        n_resamples=4000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    found = bootstrap_interval(grouped)
    assert resampled(grouped) == "10 groups"
    assert found is not None
    assert found == pytest.approx(tuple(expected), abs=0.1 * (expected.high - expected.low))
    alone = bootstrap_interval(grouped, groups=False)
    assert alone == bootstrap_interval(items)
    single = [replace(i, group="one") for i in items]
    assert bootstrap_interval(single) == alone, "one group alone cannot be drawn"
    assert resampled(single) == resampled(items) == "200 items"


@pytest.mark.parametrize("groups", [True, pytest.param(False, marks=pytest.mark.long)])
def test_paired_intervals_over_speakers_cover_what_they_say(groups: bool) -> None:
    """Nominal 90 % over 30 speakers who differ in what a fine-tuning costs them.

    Utterances of a speaker share its difference, so that drawing them one by one covers far less.
    """
    rng = np.random.default_rng(11)
    speakers, each, rounds, hits = 30, 12, 200, 0
    names = [f"s{n:02d}" for n in range(speakers) for _ in range(each)]
    for number in range(rounds):
        ability = rng.normal(0.7, 0.08, speakers)
        change = rng.normal(-0.05, 0.10, speakers)
        drawn = rng.random(speakers * each)
        pairs = []
        for shares in (ability, ability + change):
            solved = drawn < np.repeat(shares.clip(0, 1), each)
            pairs.append(
                [
                    Item(f"{n:03d}", "", "", float(hit), 1.0, group=name)
                    for n, (hit, name) in enumerate(zip(solved, names, strict=True))
                ]
            )
        _, low, high = paired_difference(pairs[1], pairs[0], seed=number, groups=groups)
        hits += low <= -5.0 <= high
    coverage = hits / rounds
    if groups:
        assert 0.85 <= coverage <= 0.95
    else:
        assert coverage < 0.85, "drawing utterances one by one is what this test guards against"


def test_a_fold_that_is_not_drawn_takes_no_part() -> None:
    """Two speakers a fold, as in IEMOCAP: a resample often leaves a fold out."""
    rng = np.random.default_rng(0)
    shares = rng.uniform(0.3, 0.9, 10)
    items = [
        Item(f"{s}-{n}", "", "", float(rng.random() < shares[s]), 1.0, group=str(s), fold=s // 2)
        for s in range(10)
        for n in range(40)
    ]
    assert resampled(items) == "10 groups"
    by_fold = [RATIO.value([i for i in items if i.fold == fold]) for fold in range(5)]
    assert RATIO.value(items) == pytest.approx(np.mean(by_fold))
    values = bootstrap_values(items)
    assert values is not None
    speakers = [np.mean([i.amount for i in items if i.group == str(s)]) for s in range(10)]
    expected = 100 * np.std(speakers) / 10**0.5  # the bootstrap of ten speakers of equal size
    assert np.std(values) == pytest.approx(expected, rel=0.06)
    for measure in (RATIO, UAR):
        weights = np.ones((1, 400))
        weights[0, [item.fold == 0 for item in items]] = 0.0
        left = [item for item in items if item.fold]
        assert measure.statistic(items, weights)[0] == pytest.approx(measure.value(left))


def test_weighted_metrics_are_those_of_repeated_items() -> None:
    rng = np.random.default_rng(0)
    drawn = np.round(rng.normal(np.arange(84) % 2, 1.0), 1)
    items = [
        Item(f"{n}", "", "", float(drawn[n]), float(n % 2), group=f"{n % 7}") for n in range(84)
    ]
    counts = rng.integers(0, 4, (5, 84)).astype(float)
    for row, found in zip(counts, weighted_eer(items, counts), strict=True):
        repeated = [item for item, count in zip(items, row, strict=True) for _ in range(int(count))]
        labels, scores = [int(i.total) for i in repeated], [i.amount for i in repeated]
        assert found == pytest.approx(100 * equal_error_rate(labels, scores), abs=1e-6)
    queries, labels, scores = ([i.group for i in items], [int(i.total) for i in items],
                               [i.amount for i in items])  # fmt: skip
    assert weighted_mtwv(items, np.ones((1, 84)))[0] == pytest.approx(mtwv(queries, labels, scores))
    by_query = {str(q): float(rng.integers(1, 3)) for q in range(7)}
    weights = np.array([[by_query[i.group] for i in items]])
    repeated = [
        replace(item, group=f"{item.group}-{copy}")
        for item in items
        for copy in range(int(by_query[item.group]))
    ]
    expected = weighted_mtwv(repeated, np.ones((1, len(repeated))))[0]
    assert weighted_mtwv(items, weights)[0] == pytest.approx(expected)


def test_interval_of_the_error_rate_of_trials_is_that_of_scipy() -> None:
    rng = np.random.default_rng(1)
    items = [
        Item(f"{n}", "", "", float(rng.normal(2.0 * (n % 3 == 0), 1.0)), float(n % 3 == 0))
        for n in range(300)
    ]
    expected = stats.bootstrap(
        (np.array([i.total for i in items]), np.array([i.amount for i in items])),
        lambda labels, scores: 100 * equal_error_rate(labels, scores),
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=600,
        rng=np.random.default_rng(2),
    ).confidence_interval
    found = bootstrap_interval(items, measure=find_task("asv").measures[0])
    assert found == pytest.approx(tuple(expected), abs=0.15 * (expected.high - expected.low))


def test_folds_count_alike() -> None:
    items = [Item("a", "", "", 1, 1, fold=1), Item("b", "", "", 0, 1, fold=2),
             Item("c", "", "", 0, 1, fold=2), Item("d", "", "", 1, 1, fold=2)]  # fmt: skip
    assert RATIO.value(items) == pytest.approx(100 * (1 + 1 / 3) / 2)


def test_seeds_widen_the_interval() -> None:
    runs = [make_items(150, 0, harder=0.1 * n) for n in range(4)]
    wide = hierarchical_interval(runs)
    single = bootstrap_interval(runs[0])
    assert wide is not None
    assert single is not None
    assert wide[1] - wide[0] > single[1] - single[0]
    assert wide[0] < np.mean([RATIO.value(run) for run in runs]) < wide[1]
    same = hierarchical_interval([runs[0]] * 3)
    assert same == pytest.approx(single)
    assert hierarchical_interval(runs[:1]) is None


def test_p_value_is_small_where_the_difference_is_large() -> None:
    easy, hard = make_items(200, 0), make_items(200, 0, harder=0.2)
    assert paired_p_value(easy, hard) == pytest.approx(1 / 2000)
    assert paired_p_value(easy, easy) == 1.0
