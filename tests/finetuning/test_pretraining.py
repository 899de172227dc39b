"""Masked prediction of clusters: masks, targets, learning, resume."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers import TINY, tiny_encoder
from speechft.data.batching import Batch
from speechft.data.manifest import Corpus
from speechft.encoders.load import load_encoder
from speechft.errors import DataError
from speechft.finetuning.clusters import Targets, make_targets
from speechft.finetuning.optimization import Optimization
from speechft.finetuning.pretraining import (
    CosineHead,
    HubertObjective,
    Masking,
    PretrainingConfig,
    mix_in,
    pretrain,
    span_mask,
)


def test_spans_cover_the_expected_share_and_stay_within_the_utterance() -> None:
    torch.manual_seed(0)
    valid = torch.ones(200, 400, dtype=torch.bool)
    valid[:, 300:] = False
    mask = span_mask(valid, 0.075, 7)
    assert not mask[:, 300:].any()
    share = mask[:, 10:300].float().mean().item()
    assert share == pytest.approx(1 - (1 - 0.075) ** 7, abs=0.01)
    runs = torch.diff(torch.nonzero(~mask[0, :300]).flatten()) - 1
    assert all(run == 0 or run >= 7 for run in runs.tolist())


def test_another_speaker_is_mixed_into_at_most_half_and_is_quieter() -> None:
    rng = np.random.default_rng(0)
    waveform, other = (rng.standard_normal(n).astype(np.float32) for n in (4000, 900))
    for seed in range(50):
        added = mix_in(waveform, other, np.random.default_rng(seed)) - waveform
        changed = np.flatnonzero(added)
        assert 1 <= len(changed) <= 900
        assert np.ptp(changed) < 2000
        if len(changed) > 100:
            power = np.mean(added[changed] ** 2) / np.mean(waveform**2)
            assert 0.08 < power < 1.3


def test_every_utterance_has_a_masked_frame() -> None:
    valid = torch.ones(50, 3, dtype=torch.bool)
    assert span_mask(valid, 1e-9, 7).any(1).all()


def test_logits_are_cosines_over_the_temperature() -> None:
    torch.manual_seed(0)
    head, features = CosineHead(6, 4, 5), torch.randn(2, 3, 6)
    projected = head.project(features).double()
    expected = F.cosine_similarity(
        projected[:, :, None], head.embed.weight.double()[None, None], dim=-1
    )
    assert torch.allclose(head(features).double(), expected / 0.1, atol=1e-5)


def test_loss_is_the_masked_mean_plus_the_weighted_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = tiny_encoder()
    objective = HubertObjective(encoder, 5, Masking(unmasked_weight=0.3), dim=4)
    lengths = torch.tensor([8000, 6000])
    frames = encoder.frame_lengths(lengths)
    targets = torch.full((2, int(frames.max())), -100)
    for row, count in zip(targets, frames.tolist(), strict=True):
        row[:count] = torch.randint(0, 5, (count,))
    waveforms = torch.randn(2, 8000) * 0.1
    batch = Batch(("a", "b"), lengths, waveforms=waveforms, targets=targets)
    mask = (torch.arange(targets.shape[1]) % 3 == 0) & (targets != -100)
    monkeypatch.setattr(
        "speechft.finetuning.pretraining.span_mask", lambda valid, probability, span: mask
    )
    loss = objective(batch)
    output = encoder.contextualize(encoder.downsample(waveforms, lengths), lengths, mask)
    logits = objective.head(output.last_hidden_state)
    parts = [
        F.cross_entropy(logits[chosen], targets[chosen])
        for chosen in (mask, ~mask & (targets != -100))
    ]
    assert loss.item() == pytest.approx((parts[0] + 0.3 * parts[1]).item(), rel=1e-5)


def _config(folder: Path, **changes: object) -> PretrainingConfig:
    settings = {
        "architecture": TINY,
        "targets": Targets(clusters=4),
        "max_duration": 0.5,
        "optimization": Optimization(
            steps=30, learning_rate=3e-3, batch_utterances=6, checkpoint_every=10
        ),
        **changes,
    }
    return PretrainingConfig(**settings)  # type: ignore[arg-type]


def test_targets_are_aligned_with_frames_and_kept(tmp_path: Path, tones: Corpus) -> None:
    cuts = tones.split("train")
    made = make_targets(Targets(clusters=4), cuts, tmp_path / "targets.npz", seed=0)
    kept = make_targets(Targets(clusters=4), cuts, tmp_path / "targets.npz", seed=1)
    encoder = tiny_encoder()
    for cut in cuts:
        samples = torch.tensor(round(cut.duration * 16_000))
        assert len(made[cut.id]) == int(encoder.frame_lengths(samples))
        assert np.array_equal(made[cut.id], kept[cut.id])
    assert {int(c) for row in made.values() for c in row} == {0, 1, 2, 3}


def test_too_few_frames_for_the_clusters(tmp_path: Path, tones: Corpus) -> None:
    with pytest.raises(DataError, match="cannot form 100000 clusters"):
        make_targets(Targets(clusters=100_000), tones.split("dev"), tmp_path / "t.npz", seed=0)


def test_a_layer_that_does_not_exist(tmp_path: Path, tones: Corpus) -> None:
    with pytest.raises(DataError, match="hidden states 0 to 0"):
        make_targets(Targets(layer=3), tones.split("dev"), tmp_path / "t.npz", seed=0)


def test_pretraining_learns_and_its_encoder_loads(tmp_path: Path, tones: Corpus) -> None:
    history = pretrain(_config(tmp_path), tones, tmp_path)
    assert np.mean(history.losses[-5:]) < 0.9 * np.mean(history.losses[:5])
    encoder = load_encoder(tmp_path / "encoder")
    assert encoder.dim == TINY["hidden_size"]
    curve = json.loads((tmp_path / "encoder" / "curve.json").read_text())
    assert curve["steps"] == 30
    assert curve["hours_heard"] == pytest.approx(history.seconds_of_audio / 3600, abs=1e-3)


def test_a_second_round_starts_from_the_first(tmp_path: Path, tones: Corpus) -> None:
    pretrain(_config(tmp_path), tones, tmp_path / "one")
    first = str(tmp_path / "one" / "encoder")
    targets = Targets(source=first, layer=1, clusters=4)
    settings = Optimization(steps=2, learning_rate=0.0, batch_utterances=6)
    config = _config(tmp_path, start_from=first, targets=targets, optimization=settings)
    pretrain(config, tones, tmp_path / "two")
    states = [load_encoder(tmp_path / n / "encoder").state_dict() for n in ("one", "two")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
