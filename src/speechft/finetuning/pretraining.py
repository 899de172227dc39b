"""Self-supervised pre-training: masked prediction of clusters, as HuBERT does it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechft.cards.card import CARD_NAME
from speechft.console import log
from speechft.data.acoustics import SAMPLE_RATE, distort, set_level
from speechft.data.batching import Batch, BatchPlan, StepDataset, seed_of
from speechft.data.manifest import Corpus, load_waveform
from speechft.devices import pick_device
from speechft.encoders.base import Encoder
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.encoders.load import load_encoder
from speechft.errors import DataError
from speechft.files import write_json, write_text
from speechft.finetuning.cards import pretrained_card
from speechft.finetuning.clusters import make_targets
from speechft.finetuning.config import Masking, PretrainingConfig
from speechft.finetuning.distributed import make_accelerator
from speechft.finetuning.loop import train
from speechft.finetuning.objective import Objective
from speechft.finetuning.phases import Phase
from speechft.finetuning.state import History

_IGNORED = -100


class CosineHead(nn.Module):
    """Cosine similarity to cluster embeddings: logits cos(A h_t, e_c) / 0.1.

    Source: HuBERT (Hsu et al. 2021, arXiv 2106.07447, equation 3).

    Args:
        dim: Of the encoder.
        inner: Of the embeddings.
        clusters: C.
    """

    def __init__(self, dim: int, inner: int, clusters: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, inner)
        self.embed = nn.Linear(inner, clusters, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, C)."""
        projected = F.normalize(self.project(features), dim=-1)
        return projected @ F.normalize(self.embed.weight, dim=-1).T / 0.1


class HubertObjective(Objective):
    """Cross entropy of the clusters over masked frames, and with a weight over the others.

    Args:
        encoder: The encoder in training.
        clusters: C.
        masking: Which frames are masked, and the weight of the others.
    """

    def __init__(self, encoder: Encoder, clusters: int, masking: Masking, dim: int = 96) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = CosineHead(encoder.dim, dim, clusters)
        self.masking = masking

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss; ``batch.targets`` are (B, T) clusters, -100 beyond the end."""
        assert batch.waveforms is not None
        targets: Tensor = batch.targets
        features = self.encoder.downsample(batch.waveforms, batch.lengths)
        valid = targets != _IGNORED
        mask = span_mask(valid, self.masking.probability, self.masking.span)
        output = self.encoder.contextualize(features[:, : targets.shape[1]], batch.lengths, mask)
        logits = self.head(output.last_hidden_state)
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        losses = losses.view_as(targets)
        masked, seen = mask & valid, ~mask & valid
        hidden_loss = losses[masked].sum() / masked.sum().clamp(min=1)
        seen_loss = losses[seen].sum() / seen.sum().clamp(min=1)
        return hidden_loss + self.masking.unmasked_weight * seen_loss


def span_mask(valid: Tensor, probability: float, span: int) -> Tensor:
    """Draw a mask of spans: every valid frame starts one with ``probability``.

    Args:
        valid: (B, T) bool.
        probability: Of a frame to start a span.
        span: Frames of a span.

    Returns:
        (B, T) bool, within ``valid``; every row with a valid frame has a masked one.
    """
    starts = (torch.rand(valid.shape, device=valid.device) < probability) & valid
    empty = ~starts.any(1)
    starts[empty, 0] = True
    mask = F.max_pool1d(F.pad(starts.float()[:, None], (span - 1, 0)), span, stride=1)[:, 0] > 0
    return mask & valid


def pretrain(config: PretrainingConfig, corpus: Corpus, folder: Path) -> History:
    """Pre-train an encoder; resumable.

    Writes ``encoder/`` (fp16 weights, card, loss curve) and the cluster targets into ``folder``.

    Args:
        config: What to do.
        corpus: Where the speech is; recordings are expected to be clean if ``config.distort``.
        folder: Where results and checkpoints go.

    Raises:
        DataError: The corpus has no usable speech.
    """
    cuts = corpus.split(config.split)
    if config.utterances is not None:
        cuts = cuts.subset(first=min(config.utterances, len(cuts)))
    targets = make_targets(config.targets, cuts, folder / "targets.npz", config.seed)
    encoder = _make_encoder(config)
    encoder.set_dropout(config.dropout)
    if pick_device().type == "cpu":  # torch's fused attention is slow backwards on short sequences
        encoder.model.set_attn_implementation("eager")
    objective = HubertObjective(encoder, config.targets.clusters, config.masking)
    settings = config.optimization
    plan = BatchPlan(
        cuts,
        seconds=settings.batch_seconds,
        utterances=settings.batch_utterances,
        seed=config.seed,
        max_duration=config.max_duration,
    )
    log(f"pre-training on {len(cuts)} utterances for {settings.steps} updates")
    crops = _Crops(config, targets, encoder, list(cuts))
    dataset = StepDataset(plan, target=crops.target, collate=pad_clusters, read=crops.read)
    phases = [Phase(settings.steps, "everything")]
    checkpoints = folder / ".checkpoints"
    history = train(
        objective,
        dataset,
        settings,
        phases,
        checkpoints,
        accelerator=make_accelerator(settings.precision),
        seed=config.seed,
        description="pre-training",
    )
    export_half(encoder, folder / "encoder")
    write_json(folder / "encoder" / "curve.json", curve(history))
    write_text(folder / "encoder" / CARD_NAME, pretrained_card(config, corpus, history, encoder))
    return history


def curve(history: History, points: int = 200) -> dict[str, Any]:
    """Return the loss curve, averaged to at most ``points`` points, with hours heard."""
    losses = np.array(history.losses)
    parts = np.array_split(losses, min(points, max(1, len(losses))))
    hours = history.seconds_of_audio / 3600
    return {
        "hours_heard": round(hours, 3),
        "steps": len(losses),
        "loss": [round(float(np.nanmean(part)), 4) for part in parts],
    }


def export_half(encoder: HuggingFaceEncoder, folder: Path) -> None:
    """Write an encoder with its weights rounded to float16."""
    copy.deepcopy(encoder).half().save(folder)


def _make_encoder(config: PretrainingConfig) -> HuggingFaceEncoder:
    if config.start_from is not None:
        encoder = load_encoder(config.start_from)
        if not isinstance(encoder, HuggingFaceEncoder):
            raise DataError(f"{config.start_from} has no weights to train")
        return encoder
    from transformers import HubertConfig, HubertModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed, "weights"))
        return HuggingFaceEncoder(HubertModel(HubertConfig(**config.architecture)))


class _Crops:
    """Reads, crops and distorts cuts, and cuts their targets to the same stretch."""

    def __init__(
        self,
        config: PretrainingConfig,
        targets: Mapping[str, npt.NDArray[np.int16]],
        encoder: HuggingFaceEncoder,
        others: Sequence[Any],
    ) -> None:
        self.config, self.targets, self.others = config, targets, others
        self.hop = encoder.hop_size
        self.offsets: dict[str, int] = {}
        self.frame_lengths = encoder.frame_lengths

    def read(self, cut: Any, step: int) -> npt.NDArray[np.float32]:
        rng = np.random.default_rng(seed_of(self.config.seed, step, cut.id))
        waveform = load_waveform(cut)
        longest = int(self.config.max_duration * SAMPLE_RATE)
        offset = 0
        if len(waveform) > longest:
            offset = int(rng.integers((len(waveform) - longest) // self.hop + 1))
            waveform = waveform[offset * self.hop : offset * self.hop + longest]
        self.offsets[cut.id] = offset
        if rng.random() < self.config.mix:
            other = self.others[int(rng.integers(len(self.others)))]
            waveform = mix_in(waveform, load_waveform(other), rng)
        if self.config.distort:
            waveform = set_level(distort(waveform, rng), rng.uniform(-32.0, -20.0))
        return waveform

    def target(self, cut: Any, samples: int) -> Tensor:
        offset = self.offsets.pop(cut.id)
        frames = int(self.frame_lengths(torch.tensor(samples)))
        clusters = self.targets[cut.id][offset : offset + frames]
        return torch.from_numpy(clusters.astype(np.int64))


def mix_in(
    waveform: npt.NDArray[np.float32], other: npt.NDArray[np.float32], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Let another speaker talk into a waveform, for at most half of it and 0 to 10 dB below it.

    Source: utterance mixing of WavLM (Chen et al. 2022, arXiv 2110.13900, algorithm 1), where
    ratios go from -5 to 5 dB.

    Args:
        waveform: (S,) samples.
        other: Samples of the other speaker.
        rng: Source of stretch, place and level.
    """
    length = min(int(rng.integers(1, len(waveform) // 2 + 1)), len(other))
    source = int(rng.integers(len(other) - length + 1))
    place = int(rng.integers(len(waveform) - length + 1))
    stretch = other[source : source + length]
    power = float(np.mean(waveform**2)) / (float(np.mean(stretch**2)) + 1e-9)
    mixed = waveform.copy()
    mixed[place : place + length] += stretch * np.sqrt(power) * 10 ** (-rng.uniform(0, 10) / 20)
    return mixed


def pad_clusters(targets: Sequence[Tensor]) -> Tensor:
    """Stack (T_i,) clusters to (B, T); the loss leaves out what is padded."""
    longest = max(len(row) for row in targets)
    return torch.stack([F.pad(row, (0, longest - len(row)), value=_IGNORED) for row in targets])
