"""Where the tests find what the official code computed: the set in the repository, or another.

``SPEECHFT_ORACLE`` names another set, a folder with ``merge`` or ``superb`` in it (the layout of
``tests/oracle``). A set is used whole: nothing that it lacks is taken from another one, for its
files belong together. A test of something that it lacks altogether is skipped, and says so.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

OWN = Path(__file__).parent / "oracle"
GIVEN = os.environ.get("SPEECHFT_ORACLE")
ROOT = Path(GIVEN).resolve() if GIVEN else OWN

if not any((ROOT / part).is_dir() for part in ("merge", "superb")):
    raise FileNotFoundError(f"SPEECHFT_ORACLE: {ROOT} holds neither merge/ nor superb/")


def oracle(name: str) -> Path:
    """Return a file or folder of the set by its path in it; a set that lacks it skips the test.

    Only the set in the repository must be whole: there, what is missing is an error.
    """
    path = ROOT / name
    if not path.exists():
        if ROOT == OWN:
            raise FileNotFoundError(path)
        pytest.skip(f"{ROOT} holds no {name}")
    return path


def oracle_json(name: str) -> Any:
    """Return what a JSON file of the set holds."""
    return json.loads(oracle(name).read_text())


def cases(*patterns: str) -> list[str]:
    """Return the paths in the set that match, for ``parametrize``; none skips the test."""
    found = sorted(
        path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)
    )
    if not found and ROOT == OWN:
        raise FileNotFoundError(f"{ROOT} holds nothing like {', '.join(patterns)}")
    return found


def entries(name: str, *keys: str) -> list[Any]:
    """Return the items of a list, or the names in a table, within a JSON file of the set.

    For ``parametrize``: where the set lacks the file there are none, which skips the test.
    """
    found: Any = json.loads((ROOT / name).read_text()) if cases(name) else []
    for key in keys if found else ():
        found = found[key]
    return list(found)
