"""What fitting and applying share: audio, encoder and layer, and utterances that say nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from speechft.arguments import Paths
from speechft.console import warn
from speechft.data.waveform import place_of
from speechft.devices import PRECISIONS, Precision, Resolved, pick_device, resolve_precision
from speechft.encoders.base import Encoder, Mode
from speechft.encoders.load import digest_of, load_encoder, settings_digest
from speechft.errors import ConfigError, unknown_choice
from speechft.features.cache import audio_key
from speechft.features.extract import batch_limits
from speechft.features.items import announce, named_groups, none_usable, usable_cuts
from speechft.features.layers import pick_layers, read_layers
from speechft.features.sources import find_sources
from speechft.features.streaming import encoded
from speechft.storage.files import json_digest

if TYPE_CHECKING:
    from lhotse.cut import Cut

Frames = npt.NDArray[np.float32]


@dataclass
class Listener:
    """An encoder, one of its layers, and the audio that it hears, in the order that it was given.

    Args:
        encoder: As `load_encoder` takes it.
        audio: As `find_sources` takes it.
        mode: ``exact`` or ``s3prl``.
        precision: To compute in.
        device: Where.
        batch_seconds: Audio in a batch; None takes what suits the encoder.
    """

    encoder: str | Path
    audio: Paths
    mode: Mode
    precision: Precision
    device: str
    batch_seconds: float | None
    failed: dict[str, str] = field(default_factory=dict)
    """What is wrong with the files that cannot be used, by path."""
    silent: dict[str, str] = field(default_factory=dict)
    """Places by name of utterances whose samples are all 0, as far as they were heard."""
    cuts: dict[str, Cut] = field(init=False)
    model: Encoder = field(init=False)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown_choice("precision", self.precision, PRECISIONS)
        self._place = pick_device(self.device)
        sources = find_sources(self.audio)
        self.model = load_encoder(self.encoder, self.mode).to(self._place)
        self._resolved: Resolved = resolve_precision(self.precision, self._place)
        self.failed |= sources.problems
        self.cuts = usable_cuts(self.model, sources.cuts, self.failed, self.model.window)
        if not self.cuts:
            raise none_usable(self.failed)

    def layer(self, given: str | int) -> int:
        """Return the number of the one layer that was asked for."""
        numbers = pick_layers(read_layers(given), self.model.num_layers)
        if len(numbers) != 1:
            raise ConfigError(f"layer {given!r} is not one layer: units are of a single one")
        return numbers[0]

    def facts(self) -> dict[str, Any]:
        """Return what decides the features, of encoder and computing."""
        return {
            "encoder_digest": digest_of(self.encoder),
            "settings_digest": settings_digest(self.model),
            "mode": self.mode,
            "precision": self._resolved,
            "frame_rate": self.model.frame_rate,
            "dim": self.model.dim,
        }

    def audio_digest(self) -> str:
        """Return a digest of what is heard, and in which order."""
        return json_digest([[name, audio_key(cut)] for name, cut in self.cuts.items()])

    def hear(
        self, cuts: Mapping[str, Cut], layer: int, description: str
    ) -> Iterator[tuple[str, Frames]]:
        """Yield names and (T, D) frames of some of the cuts, longest first; `silent` gets more."""
        seconds = 0.0 if self.mode == "s3prl" else self.batch_seconds
        limit, multiple = batch_limits(self.model, self._place, seconds)
        groups = named_groups(cuts, limit, self.model.window)
        announce(cuts.values())
        for heard in encoded(
            self.model,
            groups,
            [layer],
            self.failed,
            precision=self._resolved,
            device=self._place,
            multiple=multiple,
            description=description,
        ):
            frames, place = heard.states[0].cpu().numpy(), place_of(heard.cut)
            if heard.is_silent:
                self.silent[heard.name] = place
                warn(f"silent: every sample of {place} is 0")
            if np.isfinite(frames).all():
                yield heard.name, frames
            else:
                self.failed[place] = "has hidden states that are not finite"
                warn(f"left out: {place} {self.failed[place]}")
