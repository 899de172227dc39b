"""Rates of the encoder apart from the head's, and by layer: which, how they move, and when not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2Model, WavLMConfig, WavLMModel

from helpers import TINY, tiny_encoder
from speechft.config import build
from speechft.data.manifest import Corpus
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.errors import ConfigError
from speechft.finetuning import loop
from speechft.finetuning.finetune import FinetuningConfig, finetune_encoder
from speechft.finetuning.layers import encoder_rates, layer_numbers
from speechft.finetuning.loop import _Training
from speechft.storage.files import file_digest

_SETTINGS: dict[str, Any] = {
    "task": "pr",
    "steps": 10,
    "learning_rate": 5e-3,
    "hidden": None,
    "batch_utterances": 6,
    "precision": "fp32",
    "trackers": (),
    "head_only": 0.4,
    "checkpoint_every": 3,
    "dropout": {"hidden_dropout": 0.1},
    "select": "last",
}


def _run(folder: Path, corpus: Corpus, **changes: Any) -> list[float]:
    config = FinetuningConfig(**{**_SETTINGS, **changes})
    return finetune_encoder(
        tiny_encoder(), config, corpus, folder, seed=2, splits=("train", "dev")
    ).history.losses


def _wavlm(**changes: Any) -> HuggingFaceEncoder:
    return HuggingFaceEncoder(WavLMModel(WavLMConfig(**{**TINY, **changes})).eval())


@pytest.mark.parametrize("after", [False, True], ids=["norm before", "norm after"])
@pytest.mark.parametrize("family", ["hubert", "wav2vec2", "wavlm"])
def test_every_parameter_belongs_to_a_layer(family: str, after: bool) -> None:
    """The norm beside the layers is the first thing or the last, as the configuration says."""
    changes = {"do_stable_layer_norm": after, "feat_extract_norm": "layer" if after else "group"}
    if family == "hubert":
        encoder = tiny_encoder(**changes)
    elif family == "wavlm":
        encoder = _wavlm(**changes)
    else:
        encoder = HuggingFaceEncoder(Wav2Vec2Model(Wav2Vec2Config(**{**TINY, **changes})).eval())
    numbers = layer_numbers(encoder)
    assert list(numbers) == [name for name, _ in encoder.named_parameters()]
    count = len(encoder.model.encoder.layers)
    for name, number in numbers.items():
        parts = name.split(".")
        if "layers" in parts and parts[0] == "model" and "conv_layers" not in parts:
            assert number == int(parts[parts.index("layers") + 1]) + 1, name
        elif name.startswith("model.encoder.layer_norm."):
            assert number == (count if after else 0), name
        else:
            assert number == 0, name
    assert set(numbers.values()) == set(range(count + 1))


def test_the_encoder_is_as_it_was() -> None:
    encoder = tiny_encoder().train()
    encoder.model.encoder.layers[0].eval()
    modes = [module.training for module in encoder.modules()]
    layer_numbers(encoder)
    assert [module.training for module in encoder.modules()] == modes
    assert not any(module._forward_pre_hooks for module in encoder.modules())


def test_rates_are_the_equation() -> None:
    encoder = tiny_encoder()
    rates, numbers = encoder_rates(encoder, 1e-3, 0.5), layer_numbers(encoder)
    count = max(numbers.values())
    assert rates == {n: 1e-3 * 0.5 ** (count - number) for n, number in numbers.items()}
    assert set(encoder_rates(encoder, 1e-3, 1.0).values()) == {1e-3}


def test_an_encoder_without_layers_is_refused() -> None:
    encoder: Any = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="no transformer layers"):
        encoder_rates(encoder, 1e-3, 0.9)


@pytest.mark.parametrize(
    "changes",
    [{}, {"weight_decay": 0.01, "strategy": "plain"}, {"strategy": "dora", "adapter": {"rank": 2}}],
)
def test_equal_rates_give_the_same_bits(
    changes: dict[str, Any], tmp_path: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = _run(tmp_path / "plain", tones, **changes)
    assert _run(tmp_path / "said", tones, encoder_learning_rate=5e-3, **changes) == plain
    make = _Training._make_optimizer

    def apart(self: _Training) -> None:  # rates that differ in name only: a group for each layer
        make(self)
        one = self.optimizer.param_groups.pop()
        for start in range(0, len(one["params"]), 7):
            group = {**one, "params": one["params"][start : start + 7]}
            self.optimizer.param_groups.append(group)
        self.peaks = self.peaks * len(self.optimizer.param_groups)

    monkeypatch.setattr(_Training, "_make_optimizer", apart)
    assert _run(tmp_path / "apart", tones, **changes) == plain
    digests = {file_digest(f) for f in tmp_path.glob("*/encoder/model.safetensors")}
    assert len(digests) == 1


def test_each_layer_moves_at_its_own_rate(
    tmp_path: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam's first update moves every weight by its rate, whatever the gradient's size."""
    seen: dict[str, float] = {}
    before: dict[str, torch.Tensor] = {}
    update = _Training._update

    def watched(self: _Training, group: Any) -> float:
        named = dict(self.objective.named_parameters())
        before.update({n: p.detach().clone() for n, p in named.items()})
        loss = update(self, group)
        if self.step == 5:  # the peak; the encoder has learned nothing before
            for name, parameter in named.items():
                if parameter.grad is not None and parameter.grad.abs().median() > 1e-5:
                    seen[name] = float((parameter.detach() - before[name]).abs().median())
        return loss

    monkeypatch.setattr(_Training, "_update", watched)
    rates = {"learning_rate": 5e-3, "encoder_learning_rate": 1e-3, "layer_decay": 0.5}
    _run(tmp_path, tones, **rates, head_only=0.6, schedule={"warmup": 0.1, "hold": 0.9})
    numbers = layer_numbers(tiny_encoder())
    count = max(numbers.values())
    learned = {n.removeprefix("encoder."): x for n, x in seen.items() if n.startswith("encoder.")}
    assert {numbers[name] for name in learned} == set(range(count + 1))
    for name, moved in learned.items():
        assert moved == pytest.approx(1e-3 * 0.5 ** (count - numbers[name]), rel=0.02), name


class _Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "lora", "adapter": {"rank": 2}},
        {"tasks": {"pr": 1.0, "sid": 2.0}, "mixing": "alternating", "select": "ema"},
    ],
    ids=["lora", "two tasks"],
)
def test_groups_of_rates_are_resumed_to_the_bit(
    changes: dict[str, Any], tmp_path: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {**changes, "encoder_learning_rate": 1e-3, "layer_decay": 0.7}
    whole = _run(tmp_path / "whole", tones, **changes)
    assert whole != _run(tmp_path / "other", tones, **{**changes, "layer_decay": 1.0})
    update, deaths = _Training._update, [2, 7]

    def dying(self: _Training, group: Any) -> float:
        assert len(self.peaks) > 2
        assert self.peaks.count(self.settings.learning_rate) == 1, "the heads"
        if deaths and self.step == deaths[0]:
            deaths.pop(0)
            raise _Killed
        return update(self, group)

    monkeypatch.setattr(_Training, "_update", dying)
    for _ in range(2):
        with pytest.raises(_Killed):
            _run(tmp_path / "stopped", tones, **changes)
    assert _run(tmp_path / "stopped", tones, **changes) == whole
    names = {file_digest(tmp_path / n / "encoder/model.safetensors") for n in ("whole", "stopped")}
    assert len(names) == 1


def test_what_changes_nothing_is_no_part_of_a_finished_run() -> None:
    plain = FinetuningConfig(**_SETTINGS)
    for changes in ({}, {"encoder_learning_rate": 5e-3}, {"layer_decay": 1.0}):
        effect = FinetuningConfig(**{**_SETTINGS, **changes}).with_effect()
        assert effect == plain.with_effect()
        assert not effect.keys() & {"encoder_learning_rate", "layer_decay"}
    for key, value in {"encoder_learning_rate": 1e-4, "layer_decay": 0.9}.items():
        assert FinetuningConfig(**{**_SETTINGS, key: value}).with_effect()[key] == value


@pytest.mark.parametrize(
    "wrong", [{"encoder_learning_rate": -1e-4}, {"layer_decay": 0.0}, {"layer_decay": 1.1}]
)
def test_a_wrong_rate_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build(FinetuningConfig, {**_SETTINGS, **wrong}, "recipe")


def test_a_step_is_read_in_three_files(
    tmp_path: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the loop calls directly lies in three files; what it exchanges, in plain ones beside."""
    import sys

    room = str(Path(loop.__file__).parent)
    called: set[str] = set()

    def trace(frame: Any, event: str, argument: Any) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(room):
            return
        caller = frame.f_back
        while caller is not None and "speechft" not in caller.f_code.co_filename:
            caller = caller.f_back  # torch's way from a module to its forward
        if caller is not None and caller.f_code.co_filename == loop.__file__:
            called.add(Path(frame.f_code.co_filename).stem)

    run = _Training.run

    def traced(self: _Training, *given: Any) -> Any:
        sys.setprofile(trace)
        try:
            return run(self, *given)
        finally:
            sys.setprofile(None)

    monkeypatch.setattr(_Training, "run", traced)
    _run(tmp_path, tones, steps=4, select="best", evaluate_every=2)
    hooks = {"training_setup", "selection"}  # what the caller gave it to evaluate
    plain = {"distributed", "phases", "schedules", "trackers"}
    assert (
        {"loop", "objective", "state"} <= called <= {"loop", "objective", "state"} | plain | hooks
    )
    for path in (Path(room) / f"{name}.py" for name in ("loop", "objective", "state")):
        assert len(path.read_text().splitlines()) <= 400
