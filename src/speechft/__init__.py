"""Speech-FT: fine-tune speech encoders without making them forget, merge and evaluate them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechft import tasks
    from speechft.api import evaluate, finetune
    from speechft.encoders.load import load_encoder
    from speechft.errors import SpeechftError
    from speechft.evaluation.pipelines import load_pipeline
    from speechft.merging import interpolate_, merge

__version__ = "0.1.0"

__all__ = [
    "SpeechftError",
    "__version__",
    "evaluate",
    "finetune",
    "interpolate_",
    "load_encoder",
    "load_pipeline",
    "merge",
    "tasks",
]

_HOMES = {
    "SpeechftError": "speechft.errors",
    "evaluate": "speechft.api",
    "finetune": "speechft.api",
    "interpolate_": "speechft.merging",
    "load_encoder": "speechft.encoders.load",
    "load_pipeline": "speechft.evaluation.pipelines",
    "merge": "speechft.merging",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name == "tasks":
        return importlib.import_module("speechft.tasks")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'speechft' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names."""
    return list(__all__)
