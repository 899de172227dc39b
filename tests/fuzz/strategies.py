"""Hypothesis strategies for each format, and the cases that they give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from fuzz.cases import PIPE, Case
from fuzz.data import archives, audio, manifests, prepared, tables
from fuzz.models import checkpoints, models, probes
from fuzz.outputs import chains, ngrams, parquets, records, reports, shards
from fuzz.settings import commands, recipes, results

STRATEGIES: dict[str, Callable[[Path], SearchStrategy[Case]]] = {
    "models": models,
    "checkpoints": checkpoints,
    "manifests": manifests,
    "prepared": prepared,
    "audio": audio,
    "tables": tables,
    "archives": archives,
    "recipes": recipes,
    "results": results,
    "probes": probes,
    "commands": commands,
    "reports": reports,
    "records": records,
    "shards": shards,
    "parquets": parquets,
    "ngrams": ngrams,
    "chains": chains,
}
"""By the name of what they change."""

_PIPES = 20
"""Of so many cases, one has a pipe in the place of a file."""


def generate(kind: str, fixtures: Path, number: int, start: int) -> list[Case]:
    """Return cases of a kind; the same for the same seed."""
    cases: list[Case] = []

    @seed(start)
    @settings(
        max_examples=number,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(STRATEGIES[kind](fixtures))
    def collect(case: Case) -> None:
        if len(cases) % _PIPES == _PIPES - 1:
            name = sorted(case.files)[start % len(case.files)]
            case = Case(case.target, {**case.files, name: PIPE}, case.arguments)
        cases.append(case)

    collect()
    return cases
