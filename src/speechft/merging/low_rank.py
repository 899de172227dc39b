"""The best adapter of low rank for a whole fine-tuning: what ``speechft delta --rank`` writes.

For every linear layer with the task vector D = U S V^T the nearest matrix of rank r, in the
Frobenius norm, is U_r S_r V_r^T (Eckart and Young 1936). V_r are eigenvectors of D^T D (of D D^T
where D is wide), computed in float64 of one matrix at a time; A = sqrt(S_r) V_r^T and
B = U_r sqrt(S_r) are stored as PEFT stores a LoRA of scale 1.

What is no matrix of a linear layer (biases, norms, convolutions, embeddings) has no place in a
LoRA: it stays the base's, and its share of the squared norm of the task vector is told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechft.console import progress_bar
from speechft.encoders.conversion.adapted import BASE_KEY, PREFIX, weights_digest
from speechft.encoders.conversion.adapter_settings import lora_settings
from speechft.encoders.conversion.adapters import ADAPTER_NAME, ADAPTER_WEIGHTS
from speechft.encoders.conversion.checkpoints import Checkpoint
from speechft.encoders.conversion.settings import complete_settings
from speechft.encoders.conversion.tensors import Buffer
from speechft.encoders.families import FAMILIES
from speechft.errors import ConfigError
from speechft.merging.coefficients import layer_of
from speechft.merging.lineage import Change
from speechft.merging.output import SafetensorsWriter
from speechft.merging.plan import Plan, TensorPlan
from speechft.merging.stream import pieces
from speechft.merging.writers import blank_item
from speechft.naming import public
from speechft.runs import publish
from speechft.storage.files import write_json

REPORT_NAME = "delta.json"


@dataclass(frozen=True)
class LowRankReport:
    """What was written, and how near it is."""

    out: Path
    rank: int
    matrices: dict[str, float]
    """Relative error by linear layer: norm of what is lost over the norm of its task vector."""
    layers: dict[str, float]
    """The same over all matrices of a transformer layer; ``outside`` are those of none."""
    relative_error: float
    """The same over all matrices."""
    left_out: dict[str, float]
    """Share of the task vector's squared norm that is in no matrix, by kind."""
    nbytes: int
    base_digest: str | None
    tuned_digest: str | None
    reads_weights: bool = False
    """Whether the model's attention reads weights without calling their layers, as WavLM's does."""
    forced: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        return asdict(self) | {"out": str(self.out)}

    def lines(self) -> list[str]:
        """Return the report for people, one fact a line."""
        lines = [
            f"wrote {self.out}: LoRA of rank {self.rank} on {len(self.matrices)} matrices, "
            f"{self.nbytes / 1e6:.1f} MB, relative error {self.relative_error:.3g}",
            "  by layer: " + ", ".join(f"{name} {e:.3f}" for name, e in self.layers.items()),
        ]
        told = ", ".join(f"{name} {100 * share:.2g} %" for name, share in self.left_out.items())
        if told:
            lines.append(f"  left as in the base, of the squared norm of the task vector: {told}")
        if self.reads_weights:
            lines.append(
                "  this model's attention reads weights without calling their layers: with PEFT, "
                "merge_and_unload() it before use"
            )
        return lines + [f"  forced: {objection}" for objection in self.forced]


def low_rank(delta: Buffer, rank: int) -> tuple[Buffer, Buffer]:
    """Return B (m, rank) and A (rank, n), whose product is the nearest to a matrix of that rank.

    Args:
        delta: (m, n), float64.
        rank: Beyond that of the matrix, columns and rows are 0.
    """
    is_tall = delta.shape[0] >= delta.shape[1]
    tall = delta if is_tall else delta.T
    _, vectors = np.linalg.eigh(tall.T @ tall)  # the largest come last
    kept = vectors[:, ::-1][:, :rank]
    scores = tall @ kept
    norms = np.sqrt(np.linalg.norm(scores, axis=0))
    left = np.zeros((tall.shape[0], rank))
    right = np.zeros((rank, tall.shape[1]))
    left[:, : len(norms)] = scores / np.where(norms == 0, 1.0, norms)
    right[: len(norms)] = kept.T * norms[:, None]
    return (left, right) if is_tall else (right.T, left.T)


def write_low_rank(
    out: Path,
    plan: Plan,
    change: Change,
    rank: int,
    *,
    digests: tuple[str | None, str | None],
    forced: Sequence[str] = (),
) -> LowRankReport:
    """Write the adapter of a checked plan as a folder of PEFT's, atomically.

    Args:
        out: The folder.
        plan: Base and one tuned model.
        change: How they differ, for what is left out.
        rank: Of every matrix; at most that of the largest.
        digests: Of base and tuned model.
        forced: Objections that were overridden.

    Raises:
        ConfigError: The rank is no rank, or nothing that changed is a matrix.
        CheckpointError: The base does not tell its configuration.
        RunError: The folder cannot be written.
    """
    if rank < 1:
        raise ConfigError(f"rank {rank} is none: expected a whole number from 1 on")
    family, linear = _linear_weights(plan.base)
    energy = {item.canonical: change.tensors[item.canonical].delta_delta for item in plan.merged}
    chosen = [i for i in plan.merged if i.canonical in linear and energy[i.canonical] > 0]
    if not chosen:
        raise ConfigError(
            "no linear layer changed, so that no adapter can hold what did",
            hint="leave out --rank: a delta file holds every tensor",
        )
    rank = min(rank, max(min(item.base.shape) for item in chosen))
    places = {item.canonical: _stored(item, rank) for item in chosen}
    items = [place for pair in places.values() for place in pair]
    digest = weights_digest((item.canonical, item.base) for item in chosen)
    metadata = {"format": "pt", BASE_KEY: digest}
    targets = [item.canonical.removesuffix(".weight") for item in chosen]
    lost: dict[str, float] = {}
    with publish(out) as folder, progress_bar("low rank", len(chosen)) as bar:
        folder.mkdir()
        writer = SafetensorsWriter(
            folder, items, shard_bytes=2**63, name=ADAPTER_WEIGHTS[0], metadata=metadata
        )
        try:
            for item in chosen:
                lost[item.canonical] = _write(item, rank, writer, places[item.canonical])
                bar.advance(1)
            writer.finish()
        except BaseException:
            writer.abort()
            raise
        write_json(folder / ADAPTER_NAME, lora_settings(plan.base.source, rank, rank, targets))
        report = LowRankReport(
            out,
            rank,
            {n.removesuffix(".weight"): _relative([n], lost, energy) for n in lost},
            _by_layer(lost, energy),
            _relative(lost, lost, energy),
            _left_out(plan.merged, lost, energy),
            sum(item.nbytes for item in items),
            *digests,
            bool(family.reads_weights),
            tuple(forced),
        )
        told = public(report.as_dict(), (plan.base.source, str(out)))
        write_json(folder / REPORT_NAME, told)
    return report


def _linear_weights(base: Checkpoint) -> tuple[Any, set[str]]:
    """Return the family of a base, and the names of the weights of its linear layers."""
    import torch

    settings = complete_settings(base)
    family = FAMILIES[settings["model_type"]]
    with torch.device("meta"):
        kind, config = family.model_class(settings)
        modules = kind(config).named_modules()
    return family, {f"{n}.weight" for n, m in modules if isinstance(m, torch.nn.Linear)}


def _stored(item: TensorPlan, rank: int) -> list[TensorPlan]:
    rows, columns = item.base.shape
    name = f"{PREFIX}{item.canonical.removesuffix('.weight')}"
    shapes = {"lora_A": (rank, columns), "lora_B": (rows, rank)}
    return [blank_item(f"{name}.{part}.weight", "F32", s) for part, s in shapes.items()]


def _write(
    item: TensorPlan, rank: int, writer: SafetensorsWriter, stored: Sequence[TensorPlan]
) -> float:
    """Write both matrices of a layer; return the squared norm of what they lack."""
    delta = np.empty(item.size)
    for start, _, deltas in pieces(item):
        delta[start : start + deltas[0].size] = deltas[0]
    delta = delta.reshape(item.base.shape)
    up, down = (np.ascontiguousarray(part, np.float32) for part in low_rank(delta, rank))
    for place, part in zip(stored, (down, up), strict=True):
        writer.write(place, part)
    delta -= up.astype(np.float64) @ down.astype(np.float64)
    return float(np.einsum("ij,ij->", delta, delta))


def _relative(names: Any, lost: dict[str, float], energy: dict[str, float]) -> float:
    whole = sum(energy[name] for name in names)
    return math.sqrt(sum(lost[name] for name in names) / whole)


def _by_layer(lost: dict[str, float], energy: dict[str, float]) -> dict[str, float]:
    groups: dict[float, list[str]] = {}
    for name in lost:
        layer = layer_of(name)
        groups.setdefault(math.inf if layer is None else layer, []).append(name)
    return {
        "outside" if layer == math.inf else str(layer): _relative(names, lost, energy)
        for layer, names in sorted(groups.items())
    }


def _left_out(
    items: Sequence[TensorPlan], held: dict[str, float], energy: dict[str, float]
) -> dict[str, float]:
    shares: dict[str, float] = {}
    whole = sum(energy.values())
    for item in items:
        share = energy[item.canonical] / whole
        if item.canonical in held or not share:
            continue
        kind = "others"
        if len(item.base.shape) == 1:
            kind = "biases" if item.canonical.endswith("bias") else "norms and vectors"
        elif "conv" in item.canonical:
            kind = "convolutions"
        shares[kind] = shares.get(kind, 0.0) + share
    return shares
