"""Speech-FT: fine-tune speech encoders without making them forget, merge and evaluate them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechft import errors, tasks
    from speechft.api import (
        compare,
        evaluate,
        finetune,
        inspect,
        prepare,
        pretrain,
        report,
        run,
    )
    from speechft.diagnosis import doctor
    from speechft.encoders.convert import convert
    from speechft.encoders.load import load_encoder
    from speechft.errors import SpeechftError
    from speechft.exporting.export import export
    from speechft.features.files import extract_files as extract
    from speechft.merging import interpolate_, merge
    from speechft.prediction.pipelines import load_pipeline
    from speechft.prediction.predict import predict
    from speechft.publishing.publish import publish
    from speechft.reporting.analysis import analyze
    from speechft.sweeping.api import search, sweep
    from speechft.units import apply_units, fit_units

from speechft.version import __version__

__all__ = [
    "SpeechftError",
    "__version__",
    "analyze",
    "apply_units",
    "compare",
    "convert",
    "doctor",
    "errors",
    "evaluate",
    "export",
    "extract",
    "finetune",
    "fit_units",
    "inspect",
    "interpolate_",
    "load_encoder",
    "load_pipeline",
    "merge",
    "predict",
    "prepare",
    "pretrain",
    "publish",
    "report",
    "run",
    "search",
    "status",
    "sweep",
    "tasks",
]

_HOMES = {
    "SpeechftError": "speechft.errors",
    "analyze": "speechft.reporting.analysis",
    "apply_units": "speechft.units",
    "compare": "speechft.api",
    "convert": "speechft.encoders.convert",
    "doctor": "speechft.diagnosis",
    "evaluate": "speechft.api",
    "export": "speechft.exporting.export",
    "extract": "speechft.features.files:extract_files",
    "finetune": "speechft.api",
    "fit_units": "speechft.units",
    "inspect": "speechft.api",
    "interpolate_": "speechft.merging",
    "load_encoder": "speechft.encoders.load",
    "load_pipeline": "speechft.prediction.pipelines",
    "merge": "speechft.merging",
    "predict": "speechft.prediction.predict",
    "prepare": "speechft.api",
    "pretrain": "speechft.api",
    "publish": "speechft.publishing.publish",
    "report": "speechft.api",
    "run": "speechft.api",
    "search": "speechft.sweeping.api",
    "status": "speechft.progress",
    "sweep": "speechft.sweeping.api",
}
"""Where a public name is defined: a module, with a colon where its name there is another."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name in ("errors", "tasks"):
        return importlib.import_module(f"speechft.{name}")
    if name in _HOMES:
        module, _, there = _HOMES[name].partition(":")
        return getattr(importlib.import_module(module), there or name)
    raise AttributeError(f"module 'speechft' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names."""
    return list(__all__)
