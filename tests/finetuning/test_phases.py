"""Which tensors move in which phase, strategy and family, to the bit."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from helpers import FAMILIES, speech_encoder, tiny_decoar2, tiny_encoder
from speechft.data.manifest import Corpus
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.encoders.load import load_encoder
from speechft.finetuning.finetune import FinetuningConfig, Strategy, finetune_encoder
from speechft.finetuning.phases import (
    Phase,
    apply_phase,
    head_only_updates,
    phase_at,
    stable_phases,
)

_SETTINGS = {
    "task": "sid",
    "steps": 20,
    "learning_rate": 1e-2,
    "hidden": None,
    "precision": "fp32",
    "trackers": (),
}


def _moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert set(before) == set(after)
    return {name for name in before if not torch.equal(before[name], after[name])}


def _tune(
    folder: Path, corpus: Corpus, encoder: HuggingFaceEncoder | None = None, **changes: object
) -> tuple[set[str], set[str], set[str]]:
    """Fine-tune; return all parameter names, those of the downsampler, and those that moved."""
    encoder = encoder or tiny_encoder()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    config = FinetuningConfig(**{**_SETTINGS, **changes})  # type: ignore[arg-type]
    finetune_encoder(encoder, config, corpus, folder, splits=("train", "dev"))
    exported = load_encoder(folder / "encoder").state_dict()
    assert _moved(exported, encoder.state_dict()) == set(), "what is exported is what was trained"
    return set(before), set(encoder.downsampler_names()), _moved(before, encoder.state_dict())


def test_head_only_updates_are_one_fewer_than_the_share() -> None:
    # official: global_step starts at 1 and the encoder is frozen while global_step < 0.1 T
    assert stable_phases(100, 0.1) == [Phase(9, "head"), Phase(100, "head and layers")]
    assert stable_phases(100, 0.0) == [Phase(100, "head and layers")]
    phases = stable_phases(100, 0.1)
    assert head_only_updates(phases) == 9
    assert head_only_updates([Phase(100, "everything")]) == 0
    twice = [Phase(3, "head"), Phase(5, "head", "eval"), Phase(9, "everything")]
    assert head_only_updates(twice) == 5
    frozen = [step for step in range(100) if phase_at(phases, step).trainable == "head"]
    assert frozen == [step for step in range(100) if step + 1 < 0.1 * 100]


def test_nothing_of_the_encoder_moves_while_only_the_head_learns(
    tmp_path: Path, tones: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, moved = _tune(tmp_path, tones, head_only=1.0, steps=10)
    # the last update belongs to the second phase, and its learning rate is not zero
    encoder = tiny_encoder()
    assert moved
    assert moved.isdisjoint(encoder.downsampler_names())
    assert "never learns" not in capsys.readouterr().err
    _, _, moved = _tune(tmp_path / "frozen", tones, head_only=1.2, steps=10)
    assert moved == set()
    assert "the encoder never learns and will be exported as it was" in capsys.readouterr().err
    _, _, moved = _tune(
        tmp_path / "early", tones, strategy="early-checkpoint", head_only=0.6, steps=10
    )
    assert moved == set()
    assert "leaves none of the 2 updates to it" in capsys.readouterr().err


UNUSED = {"model.masked_spec_embed"}
"""The mask embedding takes no part in fine-tuning."""

_HEAD_ONLY, _STEPS = 2, 4
_ADAPTED = ("q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "output_dense")


def _encoder(family: str) -> HuggingFaceEncoder:
    if family == "decoar2":
        return tiny_decoar2()
    name, _, size = family.partition(" ")
    return speech_encoder(name, large=size == "large")


def _expected(encoder: HuggingFaceEncoder, strategy: str) -> set[str]:
    """Return the names of the tensors that a strategy moves by its end."""
    names = set(encoder.state_dict()) - UNUSED
    if strategy == "plain-cnn":
        return names
    if strategy in ("lora", "dora"):
        is_wavlm = encoder.model.config.model_type == "wavlm"  # its attention cannot be adapted
        kinds = ("intermediate_dense", "output_dense") if is_wavlm else _ADAPTED
        linear = {n for n, m in encoder.named_modules() if isinstance(m, torch.nn.Linear)}
        if encoder.model.config.model_type == "decoar2":
            kinds = tuple({n.rpartition(".")[2] for n in linear if ".layers." in n})
        return {f"{n}.weight" for n in linear if n.rpartition(".")[2] in kinds}
    return names - encoder.downsampler_names()


def _pairs() -> list[Any]:
    """Return every strategy on two families, every family by two strategies; the rest is long."""
    families = [*FAMILIES, *(f"{f} large" for f in FAMILIES), "decoar2"]
    return [
        pytest.param(
            strategy,
            family,
            marks=()
            if family in ("hubert", "decoar2") or strategy in ("stable", "dora")
            else (pytest.mark.long,),
        )
        for strategy in get_args(Strategy)
        for family in families
    ]


@pytest.mark.parametrize(("strategy", "family"), _pairs())
def test_which_tensors_move_in_each_phase(
    tmp_path: Path, tones: Corpus, strategy: str, family: str
) -> None:
    encoder = _encoder(family)
    early = {"early-checkpoint": 0.5, "early-decayed": 0.5}.get(strategy, 1.0)
    changes = {
        "strategy": strategy,
        "steps": int(_STEPS / early),
        "head_only": (_HEAD_ONLY + 1) / _STEPS * (early if strategy == "early-checkpoint" else 1),
        "early": {"share": early},
        "batch_utterances": 3,
        "select": "last",
        "checkpoint_every": 1,
        "keep": _STEPS,
    }
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    expected = _expected(encoder, strategy)
    downsampler = set(encoder.downsampler_names())
    _, _, moved = _tune(tmp_path, tones, encoder, **changes)
    assert moved == expected
    assert bool(downsampler) == (family != "decoar2"), "DeCoAR 2.0 has no CNN to freeze"

    states = [
        torch.load(path, weights_only=True)["weights"]
        for path in sorted((tmp_path / ".checkpoints").glob("step-*.pt"))
    ]
    assert len(states) == _STEPS
    for first, second in itertools.pairwise(states):
        assert _names(_moved(first, second), "head.") == _names(set(first), "head.")
    if strategy in ("plain", "plain-cnn"):
        return
    for state in states[:_HEAD_ONLY]:
        for name, tensor in state.items():
            plain = name.removeprefix("encoder.").replace(".base_layer.", ".")
            if plain in before:
                assert torch.equal(tensor, before[plain]), name
    assert _names(_moved(states[0], states[_HEAD_ONLY - 1]), "encoder.") == set()
    learned = _names(_moved(states[_HEAD_ONLY - 1], states[-1]), "encoder.")
    if strategy in ("lora", "dora"):
        assert learned == {name for name in states[0] if "lora_" in name}
    else:
        assert {name.removeprefix("encoder.") for name in learned} == expected


def _names(names: set[str], prefix: str) -> set[str]:
    return {name for name in names if name.startswith(prefix)}


def test_plain_is_the_released_code_without_its_head_only_updates() -> None:
    """Its experts give the CNN no gradient in any fine-tuning; training it too is ours."""
    stable = FinetuningConfig(steps=100, learning_rate=1e-3)
    plain, whole = (stable.model_copy(update={"strategy": name}) for name in ("plain", "plain-cnn"))
    assert plain.phases() == [Phase(100, "head and layers")] == stable.phases()[1:]
    assert whole.phases() == [Phase(100, "everything")]
    older = {**stable.with_effect(), "strategy": "plain"}
    assert plain.with_effect() != older, "a run of older versions trained the CNN under this name"
    assert stable.with_effect() == {**older, "strategy": "stable"}


def test_no_phases_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="no phases"):
        phase_at([], 0)


def test_after_the_last_phase_it_stays() -> None:
    phases = [Phase(2, "head"), Phase(5, "head and layers")]
    assert [phase_at(phases, step).trainable for step in (0, 1, 2, 4, 5, 99)] == [
        *(["head"] * 2),
        *(["head and layers"] * 4),
    ]
    with pytest.raises(ValueError, match="no phases"):
        phase_at([], 0)


def test_gradients_of_what_is_frozen_are_dropped_and_no_others() -> None:
    encoder, head = tiny_encoder(), torch.nn.Linear(2, 2)
    for parameter in (*encoder.parameters(), *head.parameters()):
        parameter.grad = torch.ones_like(parameter)
    apply_phase(Phase(5, "head and layers"), encoder, head)
    for parameter in encoder.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad
    assert any(parameter.requires_grad for parameter in encoder.parameters())
    assert not all(parameter.requires_grad for parameter in encoder.parameters())
    apply_phase(Phase(5, "head"), encoder, head)
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(parameter.grad is not None for parameter in head.parameters())
