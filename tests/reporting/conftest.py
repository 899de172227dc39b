"""Rows and a report with everything in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from speechft.reporting.report import Report
from speechft.results import ResultRow, Role

ENCODERS = {
    "MFCC": (70.0, 20.0, 60.0),
    "random init": (64.0, 18.0, 52.0),
    "pre-trained": (24.0, 60.0, 83.0),
    "plain fine-tuning": (39.0, 88.0, 70.0),
    "stable fine-tuning": (30.0, 86.0, 79.0),
    "Speech-FT (alpha 0.25)": (24.4, 74.0, 82.0),
}
ROLES = {
    "MFCC": (Role.FLOOR, None),
    "random init": (Role.FLOOR, None),
    "pre-trained": (Role.PRE_TRAINED, None),
    "plain fine-tuning": (Role.TUNED, "plain"),
    "stable fine-tuning": (Role.TUNED, "stable"),
    "Speech-FT (alpha 0.25)": (Role.MERGED, "stable"),
    "Speech-FT": (Role.MERGED, "stable"),
}
TASKS = {"pr": ("per", False), "sid": ("accuracy", True), "style": ("accuracy", True)}


def _row(encoder: str, task: str, value: float, **changes: Any) -> ResultRow:
    metric, higher = TASKS.get(task, ("accuracy", True))
    role, strategy = ROLES.get(encoder, (Role.FURTHER, None))
    fields: dict[str, Any] = {
        "encoder": encoder,
        "role": role,
        "strategy": strategy,
        "encoder_digest": "ab" * 32,
        "task": task,
        "metric": metric,
        "value": value,
        "higher_is_better": higher,
        "n": 300,
        "interval": (value - 3, value + 3),
        "split": "test",
        "seed": 0,
        "protocol": "mini",
        "learning_rate": 0.01,
        "details": {
            "layer_weights": [0.2, 0.5, 0.3],
            "grid": {"0.01": value},
            "converged": True,
            "insertions": 2.25,
        },
    }
    return ResultRow(**{**fields, **changes})


@pytest.fixture
def make_row() -> Callable[..., ResultRow]:
    """Return a function that makes a row of an encoder, a task and a value."""
    return _row


@pytest.fixture
def rows() -> tuple[ResultRow, ...]:
    return tuple(
        _row(name, task, value, alpha=0.25 if name.startswith("Speech-FT") else None)
        for name, values in ENCODERS.items()
        for task, value in zip(TASKS, values, strict=True)
    )


@pytest.fixture
def curve() -> tuple[ResultRow, ...]:
    return tuple(
        _row(f"alpha {alpha:g}", task, 60 + 20 * alpha, alpha=alpha, split="dev", role="merged")
        for alpha in (1.0, 0.0, 0.25, 0.5)
        for task in ("pr", "sid")
    )


@pytest.fixture
def report(rows: tuple[ResultRow, ...], curve: tuple[ResultRow, ...]) -> Report:
    history = {
        "losses": [3.0 / (step + 1) for step in range(100)],
        "evaluations": [
            {"step": 50, "score": 70.0, "accuracy": 70.0},
            {"step": 100, "score": 80.0, "accuracy": 80.0},
            {"step": 100, "selected": 1.0},
        ],
        "hours_of_audio": 1.0,
        "seconds": 60.0,
    }
    return Report(
        title="demo",
        tuned_on=("sid",),
        verdict=("SID rose by 14 points.", "PR stayed within 1 point."),
        rows=rows,
        curve=curve,
        scores={"pre-trained": 700.0, "Speech-FT (alpha 0.25)": 748.6, "MFCC": 0.0},
        histories={name: {"strategy": name, **history} for name in ("plain", "stable")},
        recipe="seed: 0\nmerging:\n  alpha: 0.25\n",
        facts={"command": "speechft demo"},
    )
