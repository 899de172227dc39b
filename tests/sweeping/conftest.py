"""A tiny encoder and two that are tuned from it, and quick probes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers import tiny_encoder
from speechft.evaluation.config import ProbeConfig
from speechft.evaluation.protocols import PROTOCOLS


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = {
        "frame": ProbeConfig(learning_rates=(3e-2,), extend=0, batch=16, epochs=2),
        "utterance": ProbeConfig(learning_rates=(1e-1,), extend=0, epochs=4),
    }
    monkeypatch.setitem(PROTOCOLS, "quick", quick)


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing: matplotlib takes longer than the rest; a test of its own is about pictures."""
    monkeypatch.setattr("speechft.sweeping.sweep.draw", lambda *_: None)
    monkeypatch.setattr("speechft.sweeping.search.draw_front", lambda *_: None)
    monkeypatch.setattr("speechft.sweeping.suggestion.draw_suggestion", lambda *_: None)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny encoder."""
    folder = tmp_path_factory.mktemp("pair") / "base"
    tiny_encoder().save(folder)
    return folder


@pytest.fixture(scope="session")
def tuned(base: Path) -> Path:
    """Folder of the same with every weight moved but those of the downsampler."""
    return moved(base, base.with_name("tuned"), seed=1)


@pytest.fixture(scope="session")
def tuned_too(base: Path) -> Path:
    """Another one, whose downsampler has moved too."""
    return moved(base, base.with_name("tuned-too"), seed=2, everything=True)


def moved(base: Path, folder: Path, *, seed: int, everything: bool = False) -> Path:
    encoder = tiny_encoder()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if everything or "feature_extractor" not in name:
                noise = torch.randn(weight.shape, generator=generator)
                weight += 0.4 * weight.std(correction=0) * noise
    encoder.save(folder)
    return folder
