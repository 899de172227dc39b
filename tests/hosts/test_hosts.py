"""The trials of `python tests/hosts` with one process a host; root and iproute2 are needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hosts.trials import Trials, trials
from hosts.world import two_hosts, why_not

pytestmark = [pytest.mark.integration, pytest.mark.long]

NAMES = (
    *("kill", "kill-first", "accelerate", "cut", "term"),
    *("disk", "second-disk", "missing", "own-disks"),
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    if reason := why_not():
        pytest.skip(reason)
    with two_hosts() as hosts:
        yield Trials(hosts, tmp_path_factory.mktemp("hosts"), each=1)


def test_all_trials_are_here(found: Trials) -> None:
    assert tuple(trials(found)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_host_that_fails_ends_all_and_the_command_goes_on(name: str, found: Trials) -> None:
    outcome = trials(found)[name]()
    assert not outcome.wrong, "\n".join([*outcome.wrong, *outcome.messages])
