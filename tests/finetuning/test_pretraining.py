"""Masked prediction of clusters: masks, targets, learning, resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers import TINY, tiny_encoder
from processes import Child
from speechft.data.batching import Batch, pad
from speechft.data.manifest import Corpus, load_waveform
from speechft.encoders.load import load_encoder
from speechft.encoders.mfcc import MfccEncoder
from speechft.errors import ConfigError, DataError, RunError
from speechft.finetuning.clusters import Targets, make_targets, row_bytes
from speechft.finetuning.config import FinetuningConfig, PretrainingConfig
from speechft.finetuning.distributed import make_accelerator
from speechft.finetuning.loop import train
from speechft.finetuning.masked_prediction import (
    CosineHead,
    HubertObjective,
    Masking,
    span_mask,
)
from speechft.finetuning.optimization import Optimization
from speechft.finetuning.phases import Phase
from speechft.finetuning.pretraining import outline, pretrain, pretrain_recipe
from speechft.finetuning.pretraining_data import mix_in
from speechft.finetuning.schedules import Schedule
from speechft.recipe import load_recipe
from speechft.units.clustering import assign, fit_centroids


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
        "speechft.finetuning.masked_prediction.span_mask", lambda valid, probability, span: mask
    )
    loss = objective(batch)
    output = encoder.contextualize(encoder.downsample(waveforms, lengths), lengths, mask)
    logits = objective.head(output.last_hidden_state)
    parts = [
        F.cross_entropy(logits[chosen], targets[chosen])
        for chosen in (mask, ~mask & (targets != -100))
    ]
    assert loss.item() == pytest.approx((parts[0] + 0.3 * parts[1]).item(), rel=1e-5)


def _batch(lengths: list[int], seed: int = 0) -> Batch:
    """Return float64 noise with targets for a `tiny_encoder`."""
    torch.manual_seed(seed)
    samples = torch.tensor(lengths)
    frames = tiny_encoder().frame_lengths(samples)
    targets = torch.full((len(lengths), int(frames.max())), -100)
    waveforms = torch.zeros(len(lengths), max(lengths), dtype=torch.float64)
    for row, clusters, count, n in zip(waveforms, targets, frames.tolist(), lengths, strict=True):
        row[:n] = 0.1 * torch.randn(n, dtype=torch.float64)
        clusters[:count] = torch.randint(0, 5, (count,))
    names = tuple(str(n) for n in range(len(lengths)))
    return Batch(names, samples, waveforms=waveforms, targets=targets)


def _part(batch: Batch, rows: slice) -> Batch:
    assert batch.waveforms is not None
    lengths = batch.lengths[rows]
    frames = int((batch.targets[rows] != -100).sum(1).max())
    waveforms = batch.waveforms[rows, : int(lengths.max())]
    return Batch(
        batch.ids[rows], lengths, waveforms=waveforms, targets=batch.targets[rows, :frames]
    )


class _Steps(torch.utils.data.Dataset[Batch]):
    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> Batch:
        return self.batches[step]


def test_batches_of_an_update_count_by_their_frames_as_one_batch_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64: a batch of five utterances, and the same as one of one and one of four."""

    def every_third(valid: Tensor, probability: float, span: int) -> Tensor:
        return (torch.arange(valid.shape[1]) % 3 == 0) & valid

    monkeypatch.setattr("speechft.finetuning.masked_prediction.span_mask", every_third)
    whole = [_batch([9000, 3000, 8000, 2500, 4000], seed) for seed in range(3)]
    parts = [_part(batch, rows) for batch in whole for rows in (slice(0, 1), slice(1, 5))]

    def trained(batches: list[Batch], accumulation: int) -> tuple[list[float], dict[str, Tensor]]:
        encoder = tiny_encoder()
        encoder.set_dropout({})
        torch.manual_seed(1)
        objective = HubertObjective(
            encoder, 5, Masking(unmasked_weight=0.3), dim=4, feature_penalty=0.5
        ).double()
        settings = Optimization(
            steps=3,
            learning_rate=1e-3,
            accumulation=accumulation,
            schedule=Schedule(warmup=0.0),
            precision="fp32",
        )
        history = train(
            objective,
            _Steps(batches),
            settings,
            [Phase(3, "everything")],
            tmp_path / str(accumulation),
            accelerator=make_accelerator("fp32"),
            seed=0,
        )
        return history.losses, objective.state_dict()

    (once, weights), (twice, others) = trained(whole, 1), trained(parts, 2)
    counted = [HubertObjective.counts(_objective(), part)[0].item() for part in parts[:2]]
    assert counted[0] != counted[1], "a mean of the two means would be another"
    assert twice == pytest.approx(once, rel=1e-6)  # the counts are float32
    assert once[0] != once[2]
    for name, tensor in weights.items():
        assert torch.allclose(others[name], tensor, atol=1e-6), name


def _objective(**changes: Any) -> HubertObjective:
    torch.manual_seed(0)
    encoder = tiny_encoder()
    encoder.set_dropout({})
    return HubertObjective(encoder, 5, Masking(), dim=4, **changes).double()


def test_the_gradient_of_the_downsampler_is_scaled_and_its_output_penalised() -> None:
    def gradients(**changes: Any) -> tuple[float, dict[str, Tensor]]:
        objective = _objective(**changes)
        torch.manual_seed(1)
        loss = objective(_batch([6000, 4000]))
        loss.backward()
        return loss.item(), {
            n: p.grad for n, p in objective.named_parameters() if p.grad is not None
        }

    (plain, whole), (same, tenth) = gradients(), gradients(downsampler_gradient=0.1)
    assert same == plain
    for name, gradient in whole.items():
        factor = 0.1 if "feature_extractor" in name else 1.0
        assert torch.allclose(tenth[name], factor * gradient, rtol=1e-6), name
    batch = _batch([6000, 4000])
    assert batch.waveforms is not None
    encoder = _objective().encoder
    features = encoder.downsample(batch.waveforms, batch.lengths)[:, : batch.targets.shape[1]]
    expected = features[batch.targets != -100].square().mean().item()
    assert gradients(feature_penalty=10.0)[0] == pytest.approx(plain + 10 * expected, rel=1e-6)


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
    made = make_targets(Targets(clusters=4), cuts, tmp_path / "targets", seed=0)
    kept = make_targets(Targets(clusters=4), cuts, tmp_path / "targets", seed=1)
    encoder = tiny_encoder()
    for cut in cuts:
        samples = torch.tensor(round(cut.duration * 16_000))
        assert len(made[cut.id]) == int(encoder.frame_lengths(samples))
        assert np.array_equal(made[cut.id], kept[cut.id])
    assert {int(c) for cut in cuts for c in made[cut.id]} == {0, 1, 2, 3}
    with pytest.raises(KeyError):
        made["an utterance that is not there"]


@pytest.mark.parametrize("roomy", [True, False])
def test_targets_are_those_of_k_means_on_a_sample_in_memory(
    roomy: bool, tmp_path: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk has room for all frames, and where utterances are encoded a second time."""
    cuts, encoder = sorted(tones.split("train"), key=lambda cut: cut.duration), MfccEncoder()
    frames = {}
    for group in (cuts[:16], cuts[16:]):
        rows = [torch.from_numpy(load_waveform(cut)) for cut in group]
        output = encoder(pad(rows, 6400), torch.tensor([len(row) for row in rows]))
        for cut, row, count in zip(group, output.layers[0], output.lengths, strict=True):
            frames[cut.id] = row[:count].numpy().astype(np.float16)
    names, chosen = list(frames), list[str]()
    np.random.default_rng(5).shuffle(names)
    while sum(len(frames[name]) for name in chosen) < 200:
        chosen.append(names[len(chosen)])
    assert 1 < len(chosen) < len(names)
    sample = np.concatenate([frames[name] for name in chosen]).astype(np.float32)
    centroids = fit_centroids(sample, 4, seed=5)
    enough = len(sample) * row_bytes(39)
    if not roomy:
        monkeypatch.setattr("speechft.finetuning.clusters._free", lambda folder: enough)
    targets = Targets(source="mfcc", clusters=4, fit_frames=200)
    made = make_targets(targets, tones.split("train"), tmp_path, seed=5)
    for name, row in frames.items():
        assert np.array_equal(made[name], assign(row, centroids)[0])
    monkeypatch.setattr("speechft.finetuning.clusters._free", lambda folder: enough - 1)
    with pytest.raises(RunError, match="k-means is to be fitted on"):
        make_targets(targets, tones.split("train"), tmp_path / "small", seed=5)


def test_passes_of_lloyds_algorithm_bring_frames_nearer(tmp_path: Path, tones: Corpus) -> None:
    def distance(passes: int) -> float:
        folder, cuts = tmp_path / str(passes), tones.split("train")
        made = make_targets(Targets(clusters=6, passes=passes), cuts, folder, seed=0)
        centroids = np.load(folder / "centroids.npy")
        total, encoder = 0.0, MfccEncoder(cmvn=True)
        for cut in cuts:
            row = torch.from_numpy(load_waveform(cut))[None]
            states = encoder(row, torch.tensor([row.shape[1]])).layers[0][0].numpy()
            total += float(np.square(states - centroids[made[cut.id]]).sum())
        return total

    none, one, many = distance(0), distance(1), distance(8)
    assert many < one < none


def test_too_few_frames_for_the_clusters(tmp_path: Path, tones: Corpus) -> None:
    with pytest.raises(DataError, match="cannot form 30000 clusters"):
        make_targets(Targets(clusters=30_000), tones.split("dev"), tmp_path / "t", seed=0)


def test_a_layer_that_does_not_exist(tmp_path: Path, tones: Corpus) -> None:
    with pytest.raises(DataError, match="hidden states 0 to 0"):
        make_targets(Targets(layer=3), tones.split("dev"), tmp_path / "t", seed=0)


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


# recipes


def _shrunk(name: str, encoder: Path, corpus: Corpus, **changes: Any) -> PretrainingConfig:
    """Return a packaged recipe for a tiny encoder, seconds of tones and three updates."""
    config = load_recipe(PretrainingConfig, name)
    content = config.as_dict()
    content["targets"] |= {"clusters": 4, "fit_frames": 500, "layer": min(1, config.targets.layer)}
    content["optimization"] |= {
        "steps": 3,
        "batch_utterances": 4,
        "workers": 0,
        "precision": "fp32",
    }
    content |= {"architecture": TINY, "corpus": str(corpus.folder), "max_duration": 0.5}
    content["split"] = ["train", "dev"]
    if content["start_from"] is not None:
        content["start_from"] = str(encoder)
    if content["targets"]["source"] not in ("mfcc", "mfcc-cmvn"):
        content["targets"]["source"] = str(encoder)
    return PretrainingConfig.model_validate({**content, **changes})


@pytest.mark.parametrize(
    "name",
    [
        "pretrain-hubert-base-librispeech",
        "pretrain-hubert-base-librispeech-2",
        "pretrain-hubert-base-aishell3",
    ],
)
def test_a_packaged_recipe_plans_and_trains_when_shrunk(
    name: str, tmp_path: Path, tiny_hubert: Path, tones: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _shrunk(name, tiny_hubert, tones)
    pretrain_recipe(config, tmp_path, dry_run=True)
    told = capsys.readouterr().err
    assert "speech: 36 utterances" in told
    assert "updates: 3 of at most 87.5 s on 1 processes" in told
    assert not (tmp_path / "encoder").exists()
    pretrain_recipe(config, tmp_path)
    curve = json.loads((tmp_path / "encoder" / "curve.json").read_text())
    assert curve["steps"] == 3
    assert np.isfinite(curve["loss"]).all()
    assert load_encoder(tmp_path / "encoder").dim == TINY["hidden_size"]
    card = (tmp_path / "encoder" / "README.md").read_text()
    assert "6 speakers" in card, "three in each of the two splits"


def test_the_recipe_of_hubert_base_has_its_size_and_its_schedule() -> None:
    config = load_recipe(PretrainingConfig, "pretrain-hubert-base-librispeech-2")
    settings = config.optimization
    assert int(settings.schedule.warmup * settings.steps) == 32_000
    assert settings.schedule.factor(32_000, settings.steps) == 1.0
    assert settings.schedule.factor(216_000, settings.steps) == pytest.approx(0.5)
    with torch.device("meta"):
        from transformers import HubertConfig, HubertModel

        model = HubertModel(HubertConfig(**config.architecture))
    assert sum(p.numel() for p in model.parameters()) == 94_371_712


def test_a_plan_names_the_splits_that_there_are(tmp_path: Path, tones: Corpus) -> None:
    with pytest.raises(DataError, match="has no split 'train-960'; it has: train, dev, test"):
        outline(_config(tmp_path, split="train-960"), tones)
    lines = outline(_config(tmp_path, utterances=9), tones, processes=4)
    assert "speech: 9 utterances" in lines[1]
    assert "320 s on 4 processes" in lines[4]


def test_keys_that_came_later_change_no_key_of_a_stage_at_their_defaults() -> None:
    plain = PretrainingConfig()
    later = {"head_dim", "downsampler_gradient", "feature_penalty"}
    assert later <= set(plain.as_dict())
    assert not later & set(plain.with_effect())
    assert "passes" not in plain.with_effect()["targets"]
    assert "betas" not in plain.with_effect()["optimization"]
    assert PretrainingConfig(head_dim=256).with_effect()["head_dim"] == 256
    tuning = FinetuningConfig(steps=1, learning_rate=1e-3)
    assert not {"betas", "epsilon"} & set(tuning.with_effect())
    changed = tuning.model_copy(update={"betas": (0.9, 0.98)})
    assert changed.with_effect()["betas"] == [0.9, 0.98]


def test_layer_drop_is_refused_where_layers_are_spread(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tones: Corpus
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match=r"layerdrop 0.1 does not work with FSDP"):
        pretrain(_config(tmp_path, dropout={"layerdrop": 0.1}), tones, tmp_path)


# memory

_FLAT = """
import sys
from types import SimpleNamespace
import numpy as np
import torch
from speechft.data import batching
from speechft.data.kept_cuts import Cuts
from speechft.data.utterances import Utterance, to_cut
from speechft.finetuning import clusters
from speechft.finetuning.config import Targets

FRAMES, DIM = 250, 16

def utterances(size):
    samples = 400 + 320 * (FRAMES - 1)
    return Cuts.of(to_cut(Utterance(f"utterance-{n}", "none.wav", samples)) for n in range(size))

class Stub(torch.nn.Module):
    num_layers, dim, window = 0, DIM, None
    def frame_lengths(self, lengths):
        return (lengths - 400) // 320 + 1
    def forward(self, waveforms, lengths):
        most.append(anonymous())
        rows = torch.randn(len(waveforms), FRAMES, DIM)
        return SimpleNamespace(layers=(rows,), lengths=self.frame_lengths(lengths))

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024

most, silence = [], np.zeros(400 + 320 * (FRAMES - 1), np.float32)
clusters.load_source = lambda targets: Stub()
batching.load_waveform = lambda cut: silence
clusters._free = lambda folder: 1 << 40
from pathlib import Path
folder = Path(sys.argv[1])
targets = Targets(clusters=8, fit_frames=20000)
clusters.make_targets(targets, utterances(200), folder / "warm", 0)
begun = anonymous()
size = int(sys.argv[2])
made = clusters.make_targets(targets, utterances(size), folder / "made", 0)
for n in range(0, size, 7):
    assert len(made[f"utterance-{n}"]) == FRAMES
print(max(*most, anonymous()) - begun, size * FRAMES * DIM * 2 / 2**20)
"""


@pytest.mark.integration
@pytest.mark.parametrize("size", [1_000, 10_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_memory_does_not_grow_with_the_speech(size: int, tmp_path: Path) -> None:
    code, out, error = Child(_FLAT, [str(tmp_path), str(size)], tmp_path).wait(1800)
    assert code == 0, error[-3000:]
    grown, frames = map(float, out.split())
    assert grown < 40, f"{grown:.0f} MB of anonymous memory; the frames alone are {frames:.0f} MB"
