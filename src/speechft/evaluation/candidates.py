"""Encoders to evaluate: name, role, where they come from, and where an evaluation finds them."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechft.errors import CheckpointError, SpeechftError
from speechft.evaluation.config import RANDOM, Mode
from speechft.naming import distinct_names
from speechft.results import Role
from speechft.storage.files import read_json, write_json

if TYPE_CHECKING:
    from speechft.encoders.base import Encoder

ENCODER_FILE = "encoder.json"


@dataclass(frozen=True)
class Given:
    """An encoder that the user gave as an object, or typed the name of its code."""

    encoder: Any
    digest: str
    """Of the object, or drawn where it cannot be known again."""
    is_known: bool

    @classmethod
    def of(cls, encoder: Any) -> Given:
        """Look at an object."""
        from speechft.encoders.user_code import own_digest

        known = own_digest(encoder)
        return cls(encoder, known or secrets.token_hex(32), known is not None)

    def load(self, name: str, mode: Mode) -> Encoder:
        """Return it behind the encoder contract."""
        from speechft.encoders.user_encoder import user_encoder

        return user_encoder(self.encoder, name, mode)


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
    own: bool = False
    """Whether it is an object of the user's own class, and ``source`` no more than its name."""
    given: Given | None = field(default=None, compare=False, repr=False)
    """The object, where the user has given it."""

    made_by: str | None = None
    """Command that writes it, where it was merged in memory and lies nowhere."""

    def load(self, mode: Mode = "exact") -> Encoder:
        """Load it in a mode, see `load_encoder`."""
        from speechft.encoders.load import load_encoder, random_encoder

        self._check_written()
        if self.own:
            return self._given().load(self.name, mode)
        if self.source == RANDOM:
            return random_encoder(self.like or "", self.seed, mode)
        return load_encoder(self.source, mode)

    def digest(self) -> str:
        """Return the digest of its weights and configuration."""
        from speechft.encoders.load import digest_of

        self._check_written()
        if self.own:
            return self._given().digest
        if self.source == RANDOM:
            return f"random:{self.seed}:{digest_of(self.like or '')}"
        return digest_of(self.source)

    @property
    def resumes(self) -> bool:
        """Return whether it can be known again, so that what was measured need not be anew."""
        return self.given is None or self.given.is_known

    def _check_written(self) -> None:
        if self.made_by is not None:
            raise CheckpointError(
                f"{self.name} was merged in memory and lies nowhere",
                hint=f"{self.made_by}; then load_pipeline(folder, encoder='merged')",
            )

    def _given(self) -> Given:
        if self.given is None:
            raise CheckpointError(
                f"the probe was trained on {self.source}, an encoder of your own; code is not run "
                "because a file names it",
                hint="give it: load_pipeline(folder, encoder=...)",
            )
        return self.given

    def record(self) -> dict[str, Any]:
        """Return what files say of it, plain JSON types."""
        return {f.name: getattr(self, f.name) for f in fields(Candidate) if f.name != "given"}

    def label(self) -> dict[str, Any]:
        """Return what rows say of it."""
        return {
            "encoder": self.name,
            "role": self.role,
            "strategy": self.strategy,
            "alpha": self.alpha,
        }


def typed_candidates(encoders: Sequence[Any]) -> list[Candidate]:
    """Return the encoders that a user typed, or gave as objects, under distinct names.

    Code that a name stands for is run here and nowhere else.

    Raises:
        CheckpointError: It fails.
    """
    listed: list[Any] = []
    for encoder in encoders:
        item = str(encoder) if isinstance(encoder, Path) else encoder
        if not any(item is other or (isinstance(item, str) and item == other) for other in listed):
            listed.append(item)
    counted: Counter[str] = Counter()
    labels = []
    for item in listed:
        label = item if isinstance(item, str) else str(getattr(item, "name", type(item).__name__))
        counted[label] += 1
        labels.append(label if counted[label] == 1 else f"{label}-{counted[label]}")
    names = distinct_names(labels, brief=True)
    return [_typed(n, label, item) for n, label, item in zip(names, labels, listed, strict=True)]


def _typed(name: str, source: str, encoder: Any) -> Candidate:
    from speechft.encoders.opening import FEATURES
    from speechft.encoders.user_code import typed_encoder

    found = typed_encoder(encoder) if isinstance(encoder, str) else encoder
    if found is None:
        role = Role.FLOOR if source in FEATURES else Role.FURTHER
        return Candidate(name, source, role=role)
    return Candidate(name, source, own=True, given=Given.of(found))


def save_candidate(folder: Path, candidate: Candidate, digest: str) -> None:
    """Write where an evaluated encoder lies, anew with every evaluation: it may have been moved.

    Args:
        folder: Of the encoder's evaluation.
        candidate: The encoder.
        digest: Its digest.
    """
    content = {**_absolute(candidate).record(), "digest": digest}
    place = candidate.like if candidate.source == RANDOM else candidate.source
    place = None if candidate.own else place
    if place and Path(os.path.expanduser(place)).exists():
        content["relative"] = os.path.relpath(
            Path(os.path.expanduser(place)).resolve(), folder.resolve()
        )
    if not (folder / ENCODER_FILE).is_file() or read_json(folder / ENCODER_FILE) != content:
        write_json(folder / ENCODER_FILE, content)


def find_candidate(probe: Path, recorded: Any, digest: str, given: Any) -> Candidate:
    """Return the encoder that a probe was trained on, wherever it lies now.

    Tried are: what the caller gives; what the evaluation around the probe says, by its path and
    relative to it (a run may have been moved as a whole); what the probe says.

    Args:
        probe: Folder of the probe.
        recorded: What ``pipeline.json`` says of the encoder.
        digest: What it must have.
        given: The caller's encoder, as text or as an object, if any.

    Raises:
        CheckpointError: None of them is the encoder.
    """
    problems: list[str] = []
    if given is not None:
        options = typed_candidates([given])
    else:
        around = probe.resolve().parents
        options = [c for place in around[:2] for c in _recorded(place)]
        options += _moved(recorded, probe) + _described(recorded)
    hint: str | None = (
        "give the encoder by its place now, load_pipeline(folder, encoder=...), or evaluate "
        "it again"
    )
    for described in options:
        try:
            option = described if given is not None else _at_hand(described)
            found = option.digest()
        except (SpeechftError, OSError) as error:
            problems.append(getattr(error, "message", None) or str(error))
            hint = getattr(error, "hint", None) if described.made_by else hint
            continue
        if found == digest:
            return option
        problems.append(
            f"encoder {option.source} has changed since the probe was trained "
            f"(sha256 {found[:12]}, then {digest[:12]})"
        )
    raise CheckpointError(
        problems[0] if problems else f"{probe} does not say which encoder it was trained on",
        hint=hint,
    )


def _at_hand(candidate: Candidate) -> Candidate:
    """Return a candidate that a file describes, a hub id as its place in the cache.

    Raises:
        CheckpointError: It is not there: no file has anything downloaded.
    """
    from speechft.encoders.load import FEATURES, packaged_encoders
    from speechft.encoders.opening import resolve_encoder

    random = candidate.source == RANDOM
    place = candidate.like if random else candidate.source
    if candidate.own or candidate.made_by or not place or place in FEATURES:
        return candidate
    if place in packaged_encoders() or Path(os.path.expanduser(place)).exists():
        return candidate
    cached = str(resolve_encoder(place, download=False))
    return replace(candidate, like=cached) if random else replace(candidate, source=cached)


def _absolute(candidate: Candidate) -> Candidate:
    """Return a candidate whose path does not depend on the working directory."""
    if candidate.own:
        return candidate

    def absolute(place: str | None) -> str | None:
        path = Path(os.path.expanduser(place or ""))
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
    return _described(content) + _moved(content, folder)


def _moved(content: Any, folder: Path) -> list[Candidate]:
    """Return the encoder at its place relative to the folder of the file that describes it."""
    found = _described(content)
    if not found or not isinstance(content, dict) or not isinstance(content.get("relative"), str):
        return []
    place = str((folder / content["relative"]).resolve())
    random = found[0].source == RANDOM
    return [replace(found[0], like=place) if random else replace(found[0], source=place)]


def _described(content: Any) -> list[Candidate]:
    """Return the encoder that a JSON value describes; older versions wrote its place alone."""
    if isinstance(content, str):
        return [Candidate(Path(content).name, content)]
    if not isinstance(content, dict) or not isinstance(content.get("source"), str):
        return []
    texts = ("name", "source", "like", "strategy", "made_by")
    known = {name: value for name in texts if isinstance(value := content.get(name), str)}
    seed, alpha = content.get("seed"), content.get("alpha")
    return [
        Candidate(
            **{"name": content["source"], **known},
            seed=seed if type(seed) is int and abs(seed) < 1 << 63 else 0,
            alpha=alpha if isinstance(alpha, int | float) else None,
            own=bool(content.get("own")),
        )
    ]
