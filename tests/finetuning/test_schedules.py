"""The learning rate schedule against the official code's figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from oracle_data import entries, oracle_json
from speechft.finetuning.schedules import Schedule

OFFICIAL = "merge/stable_finetuning_schedule.json"


@pytest.mark.parametrize("steps", entries(OFFICIAL, "lrs"))
def test_equals_the_official_schedule(steps: str) -> None:
    expected = oracle_json(OFFICIAL)["lrs"][steps]
    schedule, highest = Schedule(warmup=0.1, hold=0.4), max(expected)
    ours = [highest * schedule.factor(step, int(steps)) for step in range(len(expected))]
    assert ours == pytest.approx(expected, rel=1e-12, abs=1e-20)


@given(
    steps=st.integers(1, 3000),
    warmup=st.floats(0, 0.5),
    hold=st.floats(0, 0.5),
)
def test_stays_between_zero_and_one_and_ends_low(steps: int, warmup: float, hold: float) -> None:
    schedule = Schedule(warmup=warmup, hold=hold)
    factors = [schedule.factor(step, steps) for step in range(steps + 1)]
    assert all(0.0 <= factor <= 1.0 for factor in factors)
    held = int(warmup * steps) + int(hold * steps)
    assert all(a >= b for a, b in zip(factors[held:], factors[held + 1 :], strict=False))


def test_last_updates_of_a_short_training() -> None:
    schedule = Schedule(warmup=0.5, hold=0.4)
    factors = [schedule.factor(step, 10) for step in range(11)]
    assert factors == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 0])
    assert Schedule(warmup=0, hold=1).factor(4, 4) == 0.0
    assert Schedule() == Schedule(warmup=0.1, hold=0.4)


@pytest.mark.parametrize("field", ["warmup", "hold"])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_shares_lie_between_zero_and_one(field: str, value: float) -> None:
    with pytest.raises(ValidationError):
        Schedule(**{field: value})
    Schedule(**{field: float(round(value))})


@pytest.mark.parametrize("field", ["warmup", "hold"])
def test_a_share_lies_between_nothing_and_all(field: str) -> None:
    other = {"warmup": "hold", "hold": "warmup"}[field]
    assert getattr(Schedule(**{field: 1.0, other: 0.0}), field) == 1.0
    for wrong in (-0.01, 1.01, 1.5, 2.0):
        with pytest.raises(ValidationError, match=f"{field}\\n.*(greater|less) than or equal"):
            Schedule(**{field: wrong, other: 0.0})
