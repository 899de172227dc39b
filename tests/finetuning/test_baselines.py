"""L2-SP, distillation and adapters against closed forms; what each strategy trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import HubertModel

from helpers import FAMILIES, noise, speech_encoder, tiny_encoder
from speechft.compositions import Composer
from speechft.data.batching import Batch
from speechft.data.manifest import Corpus
from speechft.encoders.build import torch_tensors
from speechft.encoders.opening import open_encoder
from speechft.errors import CheckpointError, ConfigError, RunError
from speechft.finetuning.baselines import Distillation, L2sp, add_adapters, merge_adapters
from speechft.finetuning.finetune import FinetuningConfig, Strategy, Tuned, finetune_encoder
from speechft.finetuning.layers import transformer_layers
from speechft.recipe import Recipe
from speechft.storage.files import read_json

_SETTINGS = {
    "task": "sid",
    "steps": 20,
    "learning_rate": 5e-3,
    "hidden": None,
    "precision": "fp32",
    "trackers": (),
    "batch_utterances": 6,
}


def _batch() -> Batch:
    waveforms, lengths = noise(8000, 5000)
    return Batch(("a", "b"), lengths, waveforms=waveforms)


def _tune(folder: Path, corpus: Corpus, **changes: object) -> tuple[dict[str, torch.Tensor], Tuned]:
    encoder = tiny_encoder()
    config = FinetuningConfig(**{**_SETTINGS, **changes})  # type: ignore[arg-type]
    tuned = finetune_encoder(encoder, config, corpus, folder, splits=("train", "dev"))
    return encoder.state_dict(), tuned


def test_l2sp_is_half_the_squared_distance_and_its_gradient_is_the_distance() -> None:
    encoder, head = tiny_encoder(), nn.Linear(3, 2)
    tie = L2sp(encoder, 0.5, 0.1)
    batch = _batch()
    names = {f"model.encoder.layers.0.{n}" for n in ("layer_norm.weight", "layer_norm.bias")}
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name in names)
        parameter.data += 0.25
    penalty = tie(encoder, head, batch, encoder(batch.waveforms, batch.lengths))
    norms = sum(float(p.detach().double().square().sum()) for p in head.parameters())
    assert penalty.item() == pytest.approx(0.25 * 2 * 24 * 0.25**2 + 0.05 * norms, rel=1e-5)
    penalty.backward()
    gradient = encoder.get_parameter("model.encoder.layers.0.layer_norm.weight").grad
    assert gradient is not None
    assert torch.allclose(gradient, torch.full_like(gradient, 0.5 * 0.25), atol=1e-6)


def test_distillation_is_the_relative_squared_distance_of_valid_frames() -> None:
    encoder = tiny_encoder()
    tie, batch = Distillation(encoder, 2.0, (1, 2)), _batch()
    output = encoder(batch.waveforms, batch.lengths)
    assert tie(encoder, nn.Linear(1, 1), batch, output).item() == pytest.approx(0.0, abs=1e-9)
    with torch.no_grad():
        encoder.model.encoder.layers[1].final_layer_norm.bias += 0.3
    moved = encoder(batch.waveforms, batch.lengths)
    expected = 0.0
    for layer in (1, 2):
        error = energy = 0.0
        for row, base, count in zip(
            moved.layers[layer], output.layers[layer], moved.lengths.tolist(), strict=True
        ):
            error += float((row[:count] - base[:count]).detach().double().square().sum())
            energy += float(base[:count].detach().double().square().sum())
        expected += error / energy
    assert expected > 0
    distance = tie(encoder, nn.Linear(1, 1), batch, moved).item()
    assert distance == pytest.approx(2.0 * expected / 2, rel=1e-5)


def test_a_hidden_state_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="none of the hidden states 0 to 2"):
        Distillation(tiny_encoder(), 1.0, (3,))


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_adapters_compute_what_they_computed_before(family: str, dora: bool) -> None:
    encoder, twin = speech_encoder(family), speech_encoder(family)
    add_adapters(encoder, transformer_layers(encoder), rank=4, alpha=8, dropout=0.0, dora=dora)
    adapters = [(n, p) for n, p in encoder.named_parameters() if "lora_" in n]
    torch.manual_seed(1)
    with torch.no_grad():
        for _, parameter in adapters:
            parameter.add_(0.2 * torch.randn_like(parameter).abs())
    waveforms, lengths = noise(8000, 5000)
    before = encoder(waveforms, lengths).last_hidden_state
    before.sum().backward()
    assert all(parameter.grad is not None for _, parameter in adapters), "an adapter is not used"
    merge_adapters(encoder)
    after = encoder(waveforms, lengths).last_hidden_state
    assert torch.allclose(before, after, atol=2e-5)
    assert not torch.allclose(after, twin(waveforms, lengths).last_hidden_state, atol=1e-3)
    assert set(encoder.state_dict()) == set(twin.state_dict())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
@pytest.mark.parametrize("strategy", ["lora", "dora"])
def test_the_adapter_beside_the_encoder_is_that_encoder_on_its_base(
    strategy: Strategy, tmp_path: Path, tones: Corpus
) -> None:
    """To the bit by our own reader; PEFT rounds once more."""
    tiny_encoder().save(tmp_path / "my" / "base")
    config = FinetuningConfig(**{**_SETTINGS, "strategy": strategy})  # type: ignore[arg-type]
    out = tmp_path / "out"
    adapter, base = out / "adapter", tmp_path / "my" / "base"
    recipe = Recipe(title="adapters", encoder=str(base), finetuning=config)
    compose = Composer(recipe, {"*": tones}, tmp_path / "run")
    tuned = compose.tune(config, str(base), out)
    assert {path.name for path in adapter.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert str(tmp_path) not in (adapter / "adapter_config.json").read_text()
    written = load_file(tuned / "model.safetensors")
    opened = torch_tensors(open_encoder(f"{base}+{adapter}").by_name())
    assert all(torch.equal(opened[name], tensor) for name, tensor in written.items())
    before = load_file(base / "model.safetensors")
    assert sum(not torch.equal(before[n], t) for n, t in written.items()) >= 6
    peft: Any = PeftModel.from_pretrained(HubertModel.from_pretrained(base), adapter)
    for name, tensor in peft.merge_and_unload().state_dict().items():
        assert torch.allclose(written[name], tensor, rtol=0, atol=2e-7), name
    other = tmp_path / "other"
    tiny_encoder(seed=1).save(other)
    with pytest.raises(CheckpointError, match="was made for other weights than those of"):
        open_encoder(f"{other}+{adapter}")
    assert read_json(out / "stage.json")["key"]
    for path in adapter.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match="adapter"):  # somebody else's by now
        compose.tune(config.model_copy(update={"steps": 5}), str(base), out)


def test_wavlm_reads_the_weights_of_its_attention_so_they_cannot_be_adapted() -> None:
    encoder = speech_encoder("wavlm")
    layers = transformer_layers(encoder)
    with pytest.raises(ConfigError, match="'q_proj' is read without being called"):
        add_adapters(encoder, layers, rank=4, alpha=8, dropout=0.0, targets=("q_proj",))
    with pytest.raises(ConfigError, match="'banana' does not exist"):
        add_adapters(encoder, layers, rank=4, alpha=8, dropout=0.0, targets=("banana",))


def test_a_strong_tie_keeps_the_encoder_nearer_to_its_base(tmp_path: Path, tones: Corpus) -> None:
    base = tiny_encoder().state_dict()

    def distance(state: dict[str, torch.Tensor]) -> float:
        return sum(float((state[n] - base[n]).square().sum()) for n in base)

    runs = {
        "stable": {"strategy": "stable"},
        "l2sp": {"strategy": "l2sp", "l2sp": {"weight": 5.0}},
        "weak": {"strategy": "l2sp", "l2sp": {"weight": 0.0}},
    }
    moved = {n: distance(_tune(tmp_path / n, tones, **c)[0]) for n, c in runs.items()}
    assert moved["l2sp"] < 0.5 * moved["stable"]
    assert moved["weak"] == pytest.approx(moved["stable"], rel=1e-5), "weight 0 changes nothing"


def test_every_strategy_sees_the_same_first_losses(tmp_path: Path, tones: Corpus) -> None:
    strategies = ("stable", "plain", "l2sp", "lora", "dora", "distill", "early-checkpoint")
    losses = {
        s: _tune(tmp_path / s, tones, steps=10, strategy=s, schedule={"warmup": 0.2})[1]
        for s in strategies
    }
    first = losses["stable"].history.losses[0]
    for strategy, tuned in losses.items():
        assert tuned.history.losses[0] == pytest.approx(first, abs=1e-5), strategy


def test_early_checkpoint_is_the_stable_run_cut_short(tmp_path: Path, tones: Corpus) -> None:
    cut, early = _tune(tmp_path / "early", tones, strategy="early-checkpoint", steps=50)
    _, whole = _tune(tmp_path / "whole", tones, steps=50, select="last")
    assert early.history.losses == whole.history.losses[:10]
    _, decayed = _tune(tmp_path / "decayed", tones, strategy="early-decayed", steps=50)
    short, _ = _tune(tmp_path / "short", tones, steps=10)
    again, _ = _tune(tmp_path / "again", tones, strategy="early-decayed", steps=50)
    assert len(decayed.history.losses) == 10
    assert all(torch.equal(short[name], again[name]) for name in short)
    assert any(not torch.equal(short[name], cut[name]) for name in short)
