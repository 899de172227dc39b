"""An encoder that is merged in memory when it is evaluated, known as a folder of it would be."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from speechft.encoders.build import build_encoder, set_weights
from speechft.encoders.conversion.checkpoints import Checkpoint
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.evaluation.candidates import Candidate
from speechft.evaluation.config import Mode
from speechft.merging.config import MergeSettings
from speechft.merging.repeated import Merged, Merger

if TYPE_CHECKING:
    from speechft.encoders.base import Encoder


class Place:
    """The one encoder in memory that every merge of the same models takes its turn in."""

    def __init__(self) -> None:
        self._encoder: HuggingFaceEncoder | None = None
        self._mode: Mode = "exact"

    def encoder(self, checkpoint: Checkpoint, mode: Mode = "exact") -> Encoder:
        """Return an encoder with the weights of a merge; an earlier one has them from now on."""
        encoder = self._encoder if mode == self._mode else None
        if encoder is None or not set_weights(encoder, checkpoint):
            self._encoder, self._mode = None, mode  # the old one goes before the new one comes
            encoder = self._encoder = build_encoder(checkpoint, mode=mode)
        return encoder


@dataclass(frozen=True)
class MergedCandidate(Candidate):
    """A merge of encoders in memory; its weights live as long as it does."""

    merger: Merger | None = field(default=None, compare=False, repr=False)
    """Merges."""
    settings: MergeSettings = field(default_factory=MergeSettings)
    """How."""
    place: Place = field(default_factory=Place, compare=False, repr=False)
    """Where it computes."""

    @cached_property
    def merged(self) -> Merged:
        """Return the merged weights."""
        assert self.merger is not None
        return self.merger.merge(self.settings)

    def load(self, mode: Mode = "exact") -> Encoder:
        """Build the encoder in a mode, see `load_encoder`."""
        return self.place.encoder(self.merged.checkpoint, mode)

    def digest(self) -> str:
        """Return the digest of the folder that `merge` would write."""
        assert self.merger is not None
        return self.merger.digest(self.settings)


def merge_command(base: Any, tuned: Any, settings: MergeSettings, out: str = "merged") -> str:
    """Return the command that writes a merge to disk."""
    default = MergeSettings()
    words = ["speechft", "merge", str(base), *map(str, tuned)]
    if settings.method != default.method:
        words += ["--method", settings.method]
    if settings.coefficient is not None:
        words += ["--alpha", f"{settings.coefficient:g}"]
    rules: Any = settings.rules
    for selector, value in rules.items():
        words += ["--alpha-rule", f"{selector}: {value}"]
    for name, value in settings.options.items():
        words += ["--option", f"{name}={value}"]
    for name in ("weight_norm", "dtype"):
        if getattr(settings, name) != getattr(default, name):
            words += [f"--{name.replace('_', '-')}", getattr(settings, name)]
    if settings.allow:
        words += ["--allow", ",".join(settings.allow)]
    return shlex.join([*words, "--out", out])
