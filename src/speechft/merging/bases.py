"""Which encoder was a tuned model made of? Candidates ranked by the lineage check of merging."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from speechft.commands import command
from speechft.encoders.conversion.adapters import find_adapter
from speechft.encoders.opening import resolve_encoder
from speechft.errors import CheckpointError, SpeechftError
from speechft.merging import lineage
from speechft.merging.plan import build_plan
from speechft.merging.sources import open_models
from speechft.merging.stream import NoSink, run
from speechft.storage.files import CONFIG_NAME, WEIGHT_SUFFIXES

APART = 1.5
"""How many times nearer (in 1 - cosine) the first of two related candidates has to be. A sibling
that was tuned as far from the same base lies twice as far away."""


@dataclass(frozen=True)
class Candidate:
    """A possible base, and what speaks for or against it."""

    path: str
    score: float | None
    """Lowest median cosine of any layer, see `speechft.merging.lineage`; None if nothing fits."""
    equal_tensors: int
    cnn_equal: bool | None
    problem: str | None
    """Why it is not the base; None where nothing speaks against it."""


@dataclass(frozen=True)
class BaseRanking:
    """Candidates for the base of a tuned model, the likeliest first."""

    tuned: str
    candidates: list[Candidate]
    convincing: bool
    said: str
    """One sentence about the first."""
    next: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the ranking as text."""
        rows = [f"candidates for the base of {self.tuned}:"]
        for candidate in self.candidates:
            score = "   --" if candidate.score is None else f"{candidate.score:5.2f}"
            told = candidate.problem or (
                f"{candidate.equal_tensors} tensors equal"
                + (", the CNN among them" if candidate.cnn_equal else "")
            )
            rows.append(f"{score}  {candidate.path}: {told}")
        return [*rows, self.said, *(f"next: {then}" for then in self.next)]


def rank_bases(tuned: str | Path, folder: str | Path) -> BaseRanking:
    """Compare a tuned model with every encoder below a folder.

    Args:
        tuned: As `speechft.merging.merge` takes it.
        folder: Encoder folders and files of weights lie below it, at any depth.

    Raises:
        CheckpointError: The tuned model cannot be read, or there is no encoder to compare it with.
    """
    place, own = Path(os.path.expanduser(folder)), resolve_encoder(tuned)
    if not place.is_dir():
        raise CheckpointError(f"--bases {folder} is no folder", hint="encoders lie below it")
    if (adapter := find_adapter(own)) is not None:
        raise CheckpointError(
            f"{tuned} holds an adapter ({adapter.kind}), which is near to whatever it is put on",
            hint=f"its configuration names its base: {adapter.base or '(not named)'}",
        )
    open_models(own, [own])  # an error of its own is not one of every candidate
    paths = [path for path in _encoders_below(place) if path.resolve() != own.resolve()]
    if not paths:
        raise CheckpointError(
            f"there is no encoder below {folder} beside the tuned model",
            hint="encoders are folders with config.json and weights, or files of weights",
        )
    found = sorted((_examined(path, own) for path in paths), key=_order)
    likely = [candidate for candidate in found if candidate.problem is None]
    said, convincing = _verdict(str(tuned), found, likely)
    then = [
        command("merge", best.path, str(tuned), alpha="0.25", out="merged") for best in likely[:1]
    ]
    return BaseRanking(str(tuned), found, convincing, said, then)


def _order(candidate: Candidate) -> tuple[bool, float, int, str]:
    score = -2.0 if candidate.score is None else candidate.score
    return candidate.problem is not None, -score, -candidate.equal_tensors, candidate.path


def _encoders_below(folder: Path) -> Iterator[Path]:
    for place, below, names in os.walk(folder):
        below.sort()
        here = Path(place)
        if find_adapter(here) is not None:
            continue
        weights = sorted(name for name in names if name.endswith(WEIGHT_SUFFIXES))
        if weights and CONFIG_NAME in names:
            yield here
        else:
            yield from (here / name for name in weights)


def _examined(path: Path, tuned: Path) -> Candidate:
    """Run the checks of a merge; what they object to is the candidate's problem."""
    blank = Candidate(str(path), None, 0, None, None)
    try:
        base, (model,) = open_models(path, [tuned])
        objections = lineage.check_models(base, [model])
        change = run(build_plan(base, [model], "memory"), NoSink())[0]
    except SpeechftError as error:
        return replace(blank, problem=error.message)
    objections += lineage.check_weights(base, model, change)
    problems = [objection.text for objection in objections]
    known = lineage.evidence(change)
    if known.score is None and not problems:
        problems = ["it has no layers to compare"]
    return Candidate(
        str(path), known.score, known.equal_tensors, known.cnn_equal, "; ".join(problems) or None
    )


def _verdict(tuned: str, found: list[Candidate], likely: list[Candidate]) -> tuple[str, bool]:
    if not likely:
        return f"none of {len(found)} is the base of {tuned}: each has an objection", False
    best, score = likely[0], likely[0].score or 0.0
    told = (
        f"lowest median cosine of a layer {score:.2f}; models that were trained apart have about 0"
    )
    if len(likely) == 1:
        return f"{best.path} is the base of {tuned}, convincingly: {told}", True
    second = likely[1]
    further = 1 - (second.score or 0.0)
    if further > APART * (1 - score):
        return (
            f"{best.path} is the base of {tuned}, convincingly: {told}; {second.path} "
            f"({second.score:.2f}) is a relative, {further / max(1 - score, 1e-12):.1f} times as "
            "far away",
            True,
        )
    return (
        f"not convincing: {best.path} ({score:.2f}) and {second.path} ({second.score:.2f}) are "
        f"about as near to {tuned}; they may be copies, or tuned from one another",
        False,
    )
