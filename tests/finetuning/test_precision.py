"""What makes an update faster and must not change it: a scaled loss, and compiled layers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import tiny_encoder
from speechft.data.manifest import Corpus
from speechft.finetuning import loop, training_setup
from speechft.finetuning.finetune import FinetuningConfig, finetune_encoder
from speechft.finetuning.loop import _Training
from speechft.finetuning.state import History, load_checkpoint
from speechft.storage.files import file_digest

_SETTINGS: dict[str, Any] = {
    "task": "pr",
    "steps": 12,
    "learning_rate": 5e-3,
    "hidden": None,
    "batch_utterances": 5,
    "precision": "fp32",
    "head_only": 0.5,
    "checkpoint_every": 2,
    "evaluate_every": 6,
    "dropout": {"hidden_dropout": 0.1},
}


class _Killed(BaseException):
    pass


def _run(folder: Path, corpus: Corpus, **changes: Any) -> History:
    config = FinetuningConfig(**{**_SETTINGS, **changes})
    return finetune_encoder(
        tiny_encoder(), config, corpus, folder, seed=2, splits=("train", "dev")
    ).history


def _die_at(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    update, deaths = _Training._update, list(steps)

    def dying(self: _Training, group: Any) -> float:
        if deaths and self.step == deaths[0]:
            deaths.pop(0)
            raise _Killed
        return update(self, group)

    monkeypatch.setattr(_Training, "_update", dying)


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scale the loss as fp16 does; in float32 a power of two changes no bit of the gradients."""
    make = training_setup.make_accelerator

    def with_scaler(precision: Any) -> Any:
        accelerator = make(precision)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        return accelerator

    monkeypatch.setattr(training_setup, "make_accelerator", with_scaler)


def _scaler(folder: Path) -> dict[str, Any]:
    state = load_checkpoint(folder / ".checkpoints")
    assert state is not None
    return dict(state["scaler"])


def test_a_scaled_loss_gives_the_same_updates_and_its_scale_is_resumed(
    tmp_path: Path, tones: Corpus, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = _run(tmp_path / "plain", tones)
    assert _scaler(tmp_path / "plain") == {}
    request.getfixturevalue("scaled")
    whole = _run(tmp_path / "whole", tones)
    assert whole.losses == plain.losses
    assert _scaler(tmp_path / "whole")["scale"] == 2.0**14, "doubled after every 3 updates"
    _die_at(monkeypatch, 5, 9)
    for _ in range(2):
        with pytest.raises(_Killed):
            _run(tmp_path / "stopped", tones)
    assert _scaler(tmp_path / "stopped")["_growth_tracker"] == 8 % 3
    assert _run(tmp_path / "stopped", tones).losses == whole.losses
    assert _scaler(tmp_path / "stopped") == _scaler(tmp_path / "whole")
    for other in ("stopped", "plain"):
        file = "encoder/model.safetensors"
        assert file_digest(tmp_path / other / file) == file_digest(tmp_path / "whole" / file)


@pytest.mark.usefixtures("scaled")
def test_an_overflow_is_left_out_and_halves_the_scale(
    tmp_path: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, weights = torch.nn.utils.clip_grad_norm_, []

    def overflowing(parameters: Any, limit: float) -> torch.Tensor:
        parameters = list(parameters)
        weights.append(parameters[0].detach().clone())
        if len(weights) in (5, 6):
            parameters[0].grad.fill_(float("inf"))
        return clip(parameters, limit)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", overflowing)
    history = _run(tmp_path, tones, head_only=0.0, steps=8)
    assert history.skipped == 2
    assert torch.equal(weights[4], weights[6]), "neither of the two moved anything"
    assert not torch.equal(weights[6], weights[7])
    # doubled after the third update and the sixth that was made, halved twice between
    assert _scaler(tmp_path)["scale"] == 2.0**10


@pytest.mark.long
@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's tracer asks, and hides it
def test_compiled_layers_compute_the_same_through_phases_lengths_and_a_stop(
    tmp_path: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.utils import counters

    # the graphs that a compiler would be given, without waiting for its code
    compile_layers = partial(loop.compile_layers, backend="aot_eager")
    monkeypatch.setattr(loop, "compile_layers", compile_layers)
    torch._dynamo.reset()
    counters.clear()
    eager = _run(tmp_path / "eager", tones, dropout={})
    compiled = _run(tmp_path / "compiled", tones, dropout={}, compile=True)
    assert compiled.losses == pytest.approx(eager.losses, abs=1e-5)
    assert counters["stats"]["unique_graphs"] >= 6
    assert not counters["graph_break"]
    _die_at(monkeypatch, 8)
    with pytest.raises(_Killed):
        _run(tmp_path / "stopped", tones, dropout={}, compile=True)
    stopped = _run(tmp_path / "stopped", tones, dropout={}, compile=True)
    assert stopped.losses == compiled.losses
    exported = [tmp_path / n / "encoder/model.safetensors" for n in ("stopped", "compiled")]
    assert file_digest(exported[0]) == file_digest(exported[1])
