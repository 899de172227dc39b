"""The learning rate schedule against the official code's figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechft.finetuning.schedules import Schedule

_ORACLE = Path(__file__).parents[1] / "oracle" / "stable_finetuning_schedule.json"


@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_equals_the_official_schedule(steps: int) -> None:
    expected = json.loads(_ORACLE.read_text())["lrs"][str(steps)]
    schedule = Schedule(warmup=0.1, hold=0.4)
    ours = [1e-4 * schedule.factor(step, steps) for step in range(len(expected))]
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
