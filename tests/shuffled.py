"""Runs the tests in another order, in one process: ``make test-shuffled SEED=7``.

Results must not depend on what ran before. Modules and the tests within them are drawn anew, and
what a test leaves (files in the folder of the session, variables of the environment) meets others.
"""

from __future__ import annotations

import random

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the seed of the order."""
    parser.addoption("--order", type=int, default=0, help="seed of the order of the tests")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Draw the order of modules, and of the tests of each."""
    drawn = random.Random(config.getoption("--order"))
    modules: dict[object, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.path, []).append(item)
    places = list(modules)
    drawn.shuffle(places)
    for tests in modules.values():
        drawn.shuffle(tests)
    items[:] = [item for place in places for item in modules[place]]
