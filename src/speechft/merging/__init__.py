"""The merging engine: from a base and models tuned from it to one encoder."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechft.merging.api import compare, merge
    from speechft.merging.delta import DeltaReport, load_delta, make_delta
    from speechft.merging.memory import interpolate_
    from speechft.merging.report import MergeReport

__all__ = [
    "DeltaReport",
    "MergeReport",
    "compare",
    "interpolate_",
    "load_delta",
    "make_delta",
    "merge",
]

_HOMES = {
    "DeltaReport": "delta",
    "MergeReport": "report",
    "compare": "api",
    "interpolate_": "memory",
    "load_delta": "delta",
    "make_delta": "delta",
    "merge": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
