"""Which tensors move in which phase, strategy and family, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers import FAMILIES, speech_encoder, tiny_encoder
from speechft.data.manifest import Corpus
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.encoders.load import load_encoder
from speechft.finetuning.finetune import FinetuningConfig, finetune_encoder
from speechft.finetuning.phases import Phase, head_only_updates, phase_at, stable_phases

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


UNUSED = {"model.masked_spec_embed"}
"""The mask embedding takes no part in fine-tuning."""


@pytest.mark.parametrize("strategy", ["stable", "l2sp", "distill", "early-checkpoint"])
def test_stable_strategies_move_every_tensor_but_the_downsampler(
    tmp_path: Path, tones: Corpus, strategy: str
) -> None:
    names, downsampler, moved = _tune(tmp_path, tones, strategy=strategy)
    assert downsampler
    assert moved == names - downsampler - UNUSED


def test_plain_moves_every_tensor(tmp_path: Path, tones: Corpus) -> None:
    names, _, moved = _tune(tmp_path, tones, strategy="plain")
    assert moved == names - UNUSED


@pytest.mark.parametrize("strategy", ["lora", "dora"])
def test_adapters_move_the_weights_of_linear_layers_only(
    tmp_path: Path, tones: Corpus, strategy: str
) -> None:
    names, _, moved = _tune(tmp_path, tones, strategy=strategy)
    kinds = ("q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "output_dense")
    assert moved == {n for n in names if n.split(".")[-2] in kinds and n.endswith(".weight")}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("large", [False, True])
def test_every_family_keeps_its_downsampler(
    tmp_path: Path, tones: Corpus, family: str, large: bool
) -> None:
    encoder = speech_encoder(family, large=large)
    names, downsampler, moved = _tune(tmp_path, tones, encoder, steps=6, head_only=0.4)
    assert downsampler == {n for n in names if n.startswith("model.feature_extractor.")}
    assert moved == names - downsampler - UNUSED


def test_nothing_moves_in_the_head_only_updates_of_any_strategy(
    tmp_path: Path, tones: Corpus
) -> None:
    for strategy in ("stable", "l2sp", "lora", "dora", "distill"):
        _, _, moved = _tune(tmp_path / strategy, tones, strategy=strategy, steps=4, head_only=1.5)
        assert moved == set(), strategy


def test_no_phases_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="no phases"):
        phase_at([], 0)
