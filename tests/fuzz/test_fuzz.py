"""The corpus of found cases, replayed, and a few generated ones of every format; see the package.

The long run is ``make fuzz MINUTES=30``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz import fixtures as made
from fuzz.cases import Case, read_case
from fuzz.strategies import STRATEGIES, generate
from fuzz.watch import MARK, Outcome, Runner

FOUND = sorted((Path(__file__).parent / "corpus").glob("*.json"))
PER_KIND = 6


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "fixtures"
    made.build(folder)
    return folder


@pytest.fixture(scope="module")
def runner(fixtures: Path) -> Iterator[Runner]:
    runner = Runner(fixtures)
    yield runner
    runner.close()


def _told(case: Case, outcome: Outcome) -> str:
    return f"{case.target} {case.arguments}: {outcome}"


def test_found_cases_stay_mended(runner: Runner) -> None:
    bad = []
    for path in FOUND:
        case = read_case(path)
        outcome = runner.run(case)
        if outcome.bad:
            bad.append(f"{path.name} {_told(case, outcome)}")
    assert not bad, "\n".join(bad)


def test_generated_cases_are_read_or_refused(runner: Runner, fixtures: Path) -> None:
    bad = []
    for kind in STRATEGIES:
        for case in generate(kind, fixtures, PER_KIND, start=7):
            outcome = runner.run(case)
            if outcome.bad:
                bad.append(f"{kind} {_told(case, outcome)}")
    assert not bad, "\n".join(bad)


def test_the_watch_sees(fixtures: Path) -> None:
    """A watch that sees nothing would pass everything."""
    runner = Runner(fixtures, "fuzz.misdeeds")
    outcomes = {name: runner.run(Case(name)) for name in ("run", "write", "read", "send", "raise")}
    runner.close()
    assert outcomes["run"].executions
    assert outcomes["write"].writes
    assert outcomes["read"].reads
    assert outcomes["send"].sockets
    assert outcomes["raise"].result == "traceback"
    assert all(outcome.bad for outcome in outcomes.values())
    assert not (Path.cwd() / MARK).exists()


@pytest.mark.parametrize(
    ("argument", "asked"),
    [
        ("s3://b/a", True),
        ("--set=encoder=org/model", True),
        ("a/b", False),  # a file of the case
        ("{a}", False),
        ("../x", False),
    ],
)
def test_what_is_typed_is_asked_for(fixtures: Path, argument: str, asked: bool) -> None:
    runner = Runner(fixtures, "fuzz.misdeeds")
    outcome = runner.run(Case("send", {"a/b": b""}, (argument,)))
    runner.close()
    assert bool(outcome.asked) == asked
    assert bool(outcome.sockets) != asked
