"""Which tensors move in which phase, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers import tiny_encoder
from speechft.data.manifest import Corpus
from speechft.finetuning.finetune import FinetuningConfig, finetune_encoder
from speechft.finetuning.phases import Phase, phase_at, stable_phases


def _moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def _tune(folder: Path, corpus: Corpus, **changes: object) -> tuple[set[str], set[str], set[str]]:
    """Fine-tune; return all parameter names, those of the downsampler, and those that moved."""
    encoder = tiny_encoder()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    config = FinetuningConfig(
        **{"task": "sid", "steps": 20, "learning_rate": 1e-2, "hidden": None, **changes}  # type: ignore[arg-type]
    )
    finetune_encoder(encoder, config, corpus, folder, splits=("train", "dev"))
    return set(before), set(encoder.downsampler_names()), _moved(before, encoder.state_dict())


def test_head_only_updates_are_one_fewer_than_the_share() -> None:
    # official: global_step starts at 1 and the encoder is frozen while global_step < 0.1 T
    assert stable_phases(100, 0.1) == [Phase(9, "head"), Phase(100, "head and layers")]
    assert stable_phases(100, 0.0) == [Phase(100, "head and layers")]
    phases = stable_phases(100, 0.1)
    frozen = [step for step in range(100) if phase_at(phases, step).trainable == "head"]
    assert frozen == [step for step in range(100) if step + 1 < 0.1 * 100]


def test_nothing_of_the_encoder_moves_while_only_the_head_learns(
    tmp_path: Path, tones: Corpus
) -> None:
    _, _, moved = _tune(tmp_path, tones, head_only=1.0, steps=10)
    # the last update belongs to the second phase, and its learning rate is not zero
    encoder = tiny_encoder()
    assert moved
    assert moved.isdisjoint(encoder.downsampler_names())
    _, _, moved = _tune(tmp_path / "frozen", tones, head_only=1.2, steps=10)
    assert moved == set()


def test_stable_moves_every_tensor_but_the_downsampler(tmp_path: Path, tones: Corpus) -> None:
    names, downsampler, moved = _tune(tmp_path, tones, strategy="stable")
    unused = {"model.masked_spec_embed"}
    assert downsampler
    assert moved == names - downsampler - unused


def test_plain_moves_every_tensor(tmp_path: Path, tones: Corpus) -> None:
    names, _, moved = _tune(tmp_path, tones, strategy="plain")
    assert moved == names - {"model.masked_spec_embed"}


def test_no_phases_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="no phases"):
        phase_at([], 0)
