"""The learning rate schedule against the official code's figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
