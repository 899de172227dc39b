"""Measures over items, plain and weighted, against scikit-learn, and how they are shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score

from speechft.evaluation.score import bootstrap_values, paired_difference
from speechft.tasks import TASKS, find_task, measure_of
from speechft.tasks.label import MACRO_F1, UAR
from speechft.tasks.measures import (
    Item,
    Measure,
    macro_f1,
    mean,
    ratio,
    unweighted_recall,
    weighted_eer,
    weighted_mtwv,
)
from speechft.tasks.metrics import equal_error_rate, mtwv

REFERENCE: dict[str, Any] = {"uar": recall_score, "macro_f1": f1_score}


def guesses(count: int, classes: str, seed: int = 0, extra: str = "") -> list[Item]:
    """Return items of a classifier that is often right; ``extra`` are classes it makes up."""
    rng = np.random.default_rng(seed)
    share = np.arange(1, len(classes) + 1) / sum(range(1, len(classes) + 1))
    items = []
    for number in range(count):
        truth = str(rng.choice(list(classes), p=share))
        guess = truth if rng.random() < 0.6 else str(rng.choice([*classes, *extra]))
        items.append(Item(f"item-{number:03}", guess, truth, float(guess == truth), 1.0))
    return items


def sklearn_figure(name: str, items: list[Item], weights: Any = None) -> float:
    truth, guess = [i.reference for i in items], [i.prediction for i in items]
    seen = np.ones(len(items)) if weights is None else weights
    kept = sorted({label for label, weight in zip(truth, seen, strict=True) if weight})
    figure = REFERENCE[name](
        truth, guess, labels=kept, average="macro", sample_weight=weights, zero_division=0.0
    )
    return 100.0 * float(figure)


@pytest.mark.parametrize("measure", [UAR, MACRO_F1], ids=lambda m: m.name)
@pytest.mark.parametrize("extra", ["", "xy"])
def test_figures_of_classes_are_those_of_scikit_learn(measure: Any, extra: str) -> None:
    items = guesses(120, "abcde", extra=extra)
    assert measure.value(items) == pytest.approx(sklearn_figure(measure.name, items))
    one = [item for item in items if item.reference == "a"]
    assert measure.value(one) == pytest.approx(sklearn_figure(measure.name, one))
    assert np.isnan(measure.value([]))


@pytest.mark.parametrize("measure", [UAR, MACRO_F1], ids=lambda m: m.name)
def test_weighted_figures_are_those_of_scikit_learn(measure: Any) -> None:
    """A resample may lose a class: then it does not count."""
    items = guesses(25, "abcdef", extra="x")
    weights = np.random.default_rng(1).integers(0, 3, size=(20, len(items))).astype(float)
    found = measure.statistic(items, weights)
    expected = [sklearn_figure(measure.name, items, row) for row in weights]
    np.testing.assert_allclose(found, expected)
    drawn = [[i for i, w in zip(items, row, strict=True) for _ in range(int(w))] for row in weights]
    np.testing.assert_allclose(found, [measure.value(resample) for resample in drawn])


def test_figures_of_classes_are_means_over_folds() -> None:
    folds = [[replace(i, fold=n) for i in guesses(30, "abc", seed=n)] for n in (1, 2)]
    for statistic, name in ((unweighted_recall, "uar"), (macro_f1, "macro_f1")):
        found = statistic([*folds[0], *folds[1]], np.ones((1, 60)))
        assert found[0] == pytest.approx(np.mean([sklearn_figure(name, part) for part in folds]))


def test_figures_of_classes_are_resampled_and_compared() -> None:
    good, bad = guesses(80, "abc", seed=3), guesses(80, "abc", seed=3)
    bad = [replace(i, prediction="a", amount=float(i.reference == "a")) for i in bad]
    values = bootstrap_values(good, measure=UAR)
    assert values is not None
    assert np.std(values) > 0
    difference, low, high = paired_difference(good, bad, measure=UAR)
    assert difference == pytest.approx(UAR.value(good) - 100 / 3)
    assert 0 < low < difference < high


def test_a_mean_is_a_ratio_without_percent() -> None:
    items = [Item("a", "", "", 1.5, 1.0), Item("b", "", "", 0.5, 1.0)]
    weights = np.array([[1.0, 1.0], [0.0, 3.0]])
    np.testing.assert_allclose(mean(items, weights), [1.0, 0.5])
    np.testing.assert_allclose(ratio(items, weights), [100.0, 50.0])


def test_every_measure_says_how_it_is_shown() -> None:
    headings = {m.name: m.heading for task in TASKS.values() for m in task.scorer.measures}
    assert headings == {
        "per": "PER %",
        "wer": "WER %",
        "wer_with_lm": "WER with LM %",
        "accuracy": "accuracy %",
        "uar": "UAR %",
        "macro_f1": "macro F1 %",
        "mtwv": "MTWV",
        "eer": "EER %",
        "der": "DER %",
        "slot_type_f1": "slot type F1 %",
        "slot_value_cer": "slot value CER %",
        "frame_accuracy": "frame accuracy %",
    }
    for task in TASKS.values():
        first = task.measures[0]
        assert first.reported, "what selects has a row"
        assert (task.metric, task.higher_is_better) == (first.name, first.higher_is_better)
        assert all(m.decimals == (1 if m.percent else 3) for m in task.scorer.measures)


def test_a_figure_of_a_row_is_shown_as_its_task_says_or_as_it_is() -> None:
    assert measure_of("sid", "uar") == replace(UAR, reported=False)
    assert measure_of("label:anything", "macro_f1") is MACRO_F1
    assert measure_of("qbe", "mtwv").whole_groups
    assert measure_of("a task of another version", "wer") is find_task("asr").measure("wer")
    unknown = measure_of("pr", "phone_purity")
    assert (unknown.heading, unknown.percent) == ("phone purity", False)


def test_extra_counts_of_a_row_belong_to_its_measure() -> None:
    counts = {"substitutions": 1.0, "insertions": 0.0, "deletions": 2.0, "blank_ratio": 0.5}
    rates = measure_of("pr", "per").details
    assert rates is not None
    assert rates([Item("a", "", "", 3.0, 6.0, counts)]) == {
        "substitutions": 16.67,
        "insertions": 0.0,
        "deletions": 33.33,
        "blank_ratio": 0.5,
    }
    parts = measure_of("sd", "der").details
    assert parts is not None
    errors = {"missed": 1.0, "false_alarm": 0.5, "confusion": 0.0}
    assert parts([Item("a", "", "", 1.5, 4.0, errors)]) == {
        "missed": 25.0,
        "false_alarm": 12.5,
        "confusion": 0.0,
    }
    assert rates([]) == parts([]) == {}
    assert measure_of("ic", "accuracy").details is None


def test_a_task_of_accuracy_only_has_the_others_in_its_details() -> None:
    items = guesses(60, "abc")
    for name in ("sid", "ks", "er", "style", "label"):
        [measure] = find_task(name).measures
        assert measure.details is not None
        assert measure.details(items) == {
            metric: pytest.approx(sklearn_figure(metric, items), abs=1e-4) for metric in REFERENCE
        }
        assert measure.details([]) == {}
    assert [m.name for m in find_task("label:accent").measures] == ["accuracy", *REFERENCE]


@pytest.mark.parametrize("whole", [True, False])
def test_groups_are_resampled_as_the_measure_says_whatever_its_name(whole: bool) -> None:
    items = [Item(str(n), "", "", 1.0, 1.0, group=f"query-{n // 3}") for n in range(12)]
    together: list[bool] = []

    def noting(items: Any, weights: Any) -> Any:
        if len(weights) > 1:  # of resamples
            together.append(bool((weights.reshape(-1, 4, 3) == weights[:, ::3, None]).all()))
        return weights.sum(1)

    measure = Measure("anything", True, noting, whole_groups=whole)
    assert bootstrap_values(items, measure=measure, groups=False) is not None
    paired_difference(items, items, measure=measure, groups=False)
    assert together
    assert set(together) == {whole}
    together.clear()
    assert bootstrap_values(items, measure=measure) is not None
    assert set(together) == {True}, "groups are drawn by default"


def trials(seed: int, last: float) -> list[Item]:
    """Return trials of three queries; the one with the lowest score is a target, or is not."""
    rng = np.random.default_rng(seed)
    return [
        Item(str(n), "", "", -9.0 if n == 0 else float(rng.normal()), kind, group=f"q{n % 3}")
        for n in range(60)
        for kind in [last if n == 0 else float(rng.integers(2))]
    ]


@pytest.mark.parametrize("last", [0.0, 1.0])
def test_weighted_error_rates_are_those_of_repeated_trials(last: float) -> None:
    items = trials(3, last)
    times = np.random.default_rng(4).integers(0, 4, (5, len(items)))
    times[:, 0] = 3
    found = weighted_eer(items, times.astype(float))
    for row, value in zip(times, found, strict=True):
        again = [item for item, count in zip(items, row, strict=True) for _ in range(count)]
        labels = [int(item.total) for item in again]
        expected = equal_error_rate(labels, [item.amount for item in again])
        assert value == pytest.approx(100 * expected if expected <= 1 else expected, abs=1e-9)


def test_weighted_error_rates_need_both_kinds_of_trials() -> None:
    items = [Item(str(n), "", "", float(n), float(n < 2)) for n in range(4)]
    weights = np.array([[1.0, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1], [0, 1, 1, 0]])
    found = weighted_eer(items, weights)
    assert np.isnan(found[:2]).all()
    assert found[2:].tolist() == [100.0, 100.0]


def test_weighted_values_of_term_detection_are_those_of_the_metric() -> None:
    """One false alarm before the target of 1,000 others: 1 - beta / 1000, beta of the field."""
    items = [Item("t", "", "", 0.5, 1.0, group="q"), Item("f", "", "", 0.9, 0.0, group="q")]
    items += [Item(f"o{n}", "", "", -float(n), 0.0, group="q") for n in range(999)]
    expected = 1 - (1 - 0.0008) / (100 * 0.0008) / 1000
    [found] = weighted_mtwv(items, np.ones((1, len(items))))
    assert found == pytest.approx(expected, abs=1e-12)
    labels, scores = [int(i.total) for i in items], [i.amount for i in items]
    assert mtwv(["q"] * len(items), labels, scores) == pytest.approx(expected, abs=1e-12)
