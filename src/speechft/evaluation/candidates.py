"""Encoders to evaluate: name, role, where they come from, and where an evaluation finds them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechft.errors import CheckpointError, SpeechftError
from speechft.evaluation.config import RANDOM, Mode
from speechft.files import read_json, write_json
from speechft.results import Role

if TYPE_CHECKING:
    from speechft.encoders.base import Encoder

ENCODER_FILE = "encoder.json"


@dataclass(frozen=True)
class Candidate:
    """An encoder to evaluate; name, role, strategy and alpha are for tables and decide nothing."""

    name: str
    """Name in tables."""
    source: str
    """As `load_encoder` takes it, or ``random``."""
    like: str | None = None
    """For ``random``: the encoder whose configuration it has."""
    alpha: float | None = None
    """Interpolation coefficient, for merged encoders."""
    seed: int = 0
    """For ``random``: seed of the weights."""
    role: Role = Role.FURTHER
    """What it stands for."""
    strategy: str | None = None
    """How it, or the tuned end that it was merged from, was fine-tuned."""

    def load(self, mode: Mode = "exact") -> Encoder:
        """Load it in a mode, see `load_encoder`."""
        from speechft.encoders.load import load_encoder, random_encoder

        if self.source == RANDOM:
            return random_encoder(self.like or "", self.seed, mode)
        return load_encoder(self.source, mode)

    def digest(self) -> str:
        """Return the digest of its weights and configuration."""
        from speechft.encoders.load import digest_of

        if self.source == RANDOM:
            return f"random:{self.seed}:{digest_of(self.like or '')}"
        return digest_of(self.source)

    def label(self) -> dict[str, Any]:
        """Return what rows say of it."""
        return {
            "encoder": self.name,
            "role": self.role,
            "strategy": self.strategy,
            "alpha": self.alpha,
        }


def distinct_names(encoders: Sequence[str]) -> list[str]:
    """Return names for distinct encoders: the last part of a path where that tells them apart."""
    short = [Path(text).name or text for text in encoders]
    folded = [name.casefold() for name in short]
    return [
        name if folded.count(name.casefold()) == 1 else text
        for name, text in zip(short, encoders, strict=True)
    ]


def save_candidate(folder: Path, candidate: Candidate, digest: str) -> None:
    """Write where an evaluated encoder lies, anew with every evaluation: it may have been moved.

    Args:
        folder: Of the encoder's evaluation.
        candidate: The encoder.
        digest: Its digest.
    """
    content = {**asdict(_absolute(candidate)), "digest": digest}
    place = candidate.like if candidate.source == RANDOM else candidate.source
    if place and Path(place).expanduser().exists():
        content["relative"] = os.path.relpath(Path(place).expanduser().resolve(), folder.resolve())
    if not (folder / ENCODER_FILE).is_file() or read_json(folder / ENCODER_FILE) != content:
        write_json(folder / ENCODER_FILE, content)


def find_candidate(probe: Path, recorded: Any, digest: str, given: str | None) -> Candidate:
    """Return the encoder that a probe was trained on, wherever it lies now.

    Tried are: what the caller gives; what the evaluation around the probe says, by its path and
    relative to it (a run may have been moved as a whole); what the probe says.

    Args:
        probe: Folder of the probe.
        recorded: What ``pipeline.json`` says of the encoder.
        digest: What it must have.
        given: The caller's encoder, if any.

    Raises:
        CheckpointError: None of them is the encoder.
    """
    if given is not None:
        options = [Candidate(Path(given).name, given)]
    else:
        around = probe.resolve().parents
        options = [c for place in around[:2] for c in _recorded(place)] + _described(recorded)
    problems: list[str] = []
    for option in options:
        try:
            found = option.digest()
        except (SpeechftError, OSError) as error:
            problems.append(getattr(error, "message", None) or str(error))
            continue
        if found == digest:
            return option
        problems.append(
            f"encoder {option.source} has changed since the probe was trained "
            f"(sha256 {found[:12]}, then {digest[:12]})"
        )
    raise CheckpointError(
        problems[0] if problems else f"{probe} does not say which encoder it was trained on",
        hint="give the encoder by its place now, load_pipeline(folder, encoder=...), or evaluate "
        "it again",
    )


def _absolute(candidate: Candidate) -> Candidate:
    """Return a candidate whose path does not depend on the working directory."""

    def absolute(place: str | None) -> str | None:
        path = Path(place or "").expanduser()
        return str(path.resolve()) if place and path.exists() else place

    return replace(
        candidate,
        source=candidate.source if candidate.source == RANDOM else str(absolute(candidate.source)),
        like=absolute(candidate.like),
    )


def _recorded(folder: Path) -> list[Candidate]:
    """Return where the evaluation in a folder says that its encoder lies."""
    if not (folder / ENCODER_FILE).is_file():
        return []
    content = read_json(folder / ENCODER_FILE)
    found = _described(content)
    if found and isinstance(content.get("relative"), str):
        moved = str((folder / content["relative"]).resolve())
        random = found[0].source == RANDOM
        found.append(replace(found[0], like=moved) if random else replace(found[0], source=moved))
    return found


def _described(content: Any) -> list[Candidate]:
    """Return the encoder that a JSON value describes; older versions wrote its place alone."""
    if isinstance(content, str):
        return [Candidate(Path(content).name, content)]
    if not isinstance(content, dict) or not isinstance(content.get("source"), str):
        return []
    names = {field.name for field in fields(Candidate)}
    known = {name: value for name, value in content.items() if name in names}
    return [Candidate(**{"name": content["source"], **known})]
