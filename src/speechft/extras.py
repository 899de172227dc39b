"""What is needed beyond the core package, for which verbs, and how to get it: one table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from speechft.commands import shell
from speechft.errors import PackageError

_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Extra:
    """Packages that some uses of some verbs need; which they are stands in ``pyproject.toml``."""

    purpose: str
    """What for, in words that follow the verbs."""
    verbs: tuple[str, ...]
    remark: str = ""
    """What to know before installing it."""


CORE = f"{shell('pip', ['install', 'speechft'])} gets all that the core needs"
"""How to mend an installation that lacks a part of the core."""
_ON_SPEECH = ("run", "finetune", "pretrain", "evaluate", "sweep", "search", "analyze")

EXTRAS = {
    "adapters": Extra("strategies lora and dora", ("finetune", "run")),
    "demo": Extra(
        "speech of the embedded corpora: synthetic, synthetic-archives, ...",
        ("demo", *_ON_SPEECH, "prepare"),
        "espeak-ng is GPL-3",
    ),
    "hub-data": Extra("data sets of the hub, hf:owner/name", (*_ON_SPEECH, "prepare")),
    "lm": Extra("--language-model for ASR", ("evaluate",), "Python 3.11 or 3.12"),
    "parquet": Extra("corpora in parquet files", (*_ON_SPEECH, "prepare")),
    "pretrain": Extra(
        "clusters: targets of pre-training, discrete units",
        ("pretrain", "finetune", "run", "units"),
    ),
    "remote": Extra(
        "corpora, encoders and outputs at addresses: s3://, https://",
        ("merge", "convert", "inspect", "extract", "report", "compare", *_ON_SPEECH, "prepare"),
    ),
    "report": Extra(
        "figures and the HTML report", ("demo", "run", "report", "sweep", "search", "analyze")
    ),
    "search": Extra("drawing of coefficients", ("search",)),
    "tensorboard": Extra("curves in TensorBoard", ("finetune", "run", "pretrain")),
}
"""The extras of the package by name. The core does all the rest: merging, inspecting, converting,
extracting, fine-tuning and evaluating on recordings of one's own."""


def how_to_get(extra: str) -> str:
    """Return the command that installs an extra, and what to know before."""
    remark = EXTRAS[extra].remark
    return shell("pip", ["install", f"speechft[{extra}]"]) + (f" ({remark})" if remark else "")


def missing(what: str, package: str, how: str) -> PackageError:
    """Return the error for a package that is not there.

    Args:
        what: That needs it, in words.
        package: Its name.
        how: To get it: a command.
    """
    return PackageError(f"{what} needs {package}, which is not installed", hint=how)


@contextmanager
def needs(extra: str, what: str, package: str = "") -> Iterator[None]:
    """Import what an extra brings; refuse with one sentence where it is not installed.

    Args:
        extra: Of `EXTRAS`.
        what: That needs it, in words: ``a search``.
        package: As people know it; by default the name of what cannot be imported.

    Raises:
        PackageError: An import within failed.
    """
    try:
        yield
    except ImportError as error:
        name = package or (error.name or "").partition(".")[0] or f"the extra {extra}"
        raise missing(what, name, how_to_get(extra)) from None


def requirement_name(requirement: str) -> str:
    """Return the name of the package that a requirement such as ``torch>=2.13`` is about."""
    found = _NAME.match(requirement.strip())
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else requirement
