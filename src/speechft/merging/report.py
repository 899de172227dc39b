"""What a merge did: counts, digests, evidence; printed, kept beside the weights, and returned."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from speechft.merging.lineage import Evidence
from speechft.naming import public
from speechft.storage.files import encoder_digest, file_digest


@dataclass(frozen=True)
class MergeReport:
    """What a merge did."""

    out: Path | None
    """Where it was written; None for a dry run and for results in memory."""
    method: str
    alpha: float | None
    """The coefficient that was given; None for a method that finds it itself."""
    alphas: dict[str, float] = field(repr=False)
    """Coefficient of every merged tensor by Hugging Face name."""
    base: str
    tuned: tuple[str, ...]
    formats: tuple[str, ...]
    """Format and family of the base and of every tuned model, such as ``s3prl hubert``."""
    base_digest: str | None
    """Of an encoder folder, `speechft.storage.files.encoder_digest`; None for results in memory."""
    tuned_digests: tuple[str | None, ...]
    merged: int
    """Number of tensors that were merged."""
    kept: tuple[str, ...]
    """Names of tensors that were kept from the base."""
    set_aside: tuple[str, ...]
    """Names of tensors of the tuned models that the base does not have."""
    left_out: tuple[str, ...]
    """Names of the base's tensors that the output format has no place for."""
    evidence: tuple[Evidence, ...]
    """The lineage check, per tuned model."""
    forced: tuple[str, ...]
    """Objections that were overridden."""
    differences: tuple[str, ...]
    """Fields in which the configurations differ and that were taken from the base."""
    weight_norm: str
    dtype: str
    """Types of the output's tensors."""
    seconds: float
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the method."""
    plan: tuple[tuple[str, str, str, str], ...] = field(default=(), repr=False)
    """For a dry run, `speechft.merging.plan.Plan.rows`: what happens to every tensor."""

    @functools.cached_property
    def out_digest(self) -> str | None:
        """SHA-256 of what was written, as `base_digest`; taken when it is first asked for."""
        if self.out is None:
            return None
        return encoder_digest(self.out) if self.out.is_dir() else file_digest(self.out)

    @property
    def alpha_range(self) -> tuple[float, float]:
        """Smallest and largest coefficient."""
        return min(self.alphas.values()), max(self.alphas.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        content = dataclasses.asdict(self) | {"out": None if self.out is None else str(self.out)}
        if not self.plan:
            del content["plan"]
        return content

    def public(self) -> MergeReport:
        """Return the report as it leaves the machine: names of encoders instead of their places."""
        content = public(vars(self), (self.base, *self.tuned))
        return dataclasses.replace(self, **{f.name: content[f.name] for f in fields(self)})

    def lines(self) -> list[str]:
        """Return the report for people, one fact a line; a dry run begins with its plan."""
        low, high = self.alpha_range
        alpha = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        done = "would merge" if self.plan else "merged"
        lines = [*self._plan_lines(), *self._source_lines()]
        lines.append(f"{done} {self.merged} tensors with {self.method}, alpha {alpha} {self.dtype}")
        if low < 0 or high > 1:
            lines.append("  alpha outside 0 to 1 goes beyond base or tuned model")
        if self.kept:
            lines.append(f"  kept from the base: {some(self.kept)}")
        if self.set_aside:
            lines.append(f"  set aside (heads of the tuned models): {some(self.set_aside, 40)}")
        if self.left_out:
            lines.append(f"  left out (no place in the output): {some(self.left_out)}")
        lines += [f"  configuration: {difference}" for difference in self.differences]
        for source, found in zip(self.tuned, self.evidence, strict=True):
            lines.append(f"  {source}: {_evidence(found)}")
        lines += [f"  forced: {objection}" for objection in self.forced]
        return lines

    def _plan_lines(self) -> list[str]:
        widths = [max((len(row[column]) for row in self.plan), default=0) for column in range(3)]
        return ["  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in self.plan]

    def _source_lines(self) -> list[str]:
        sources = (self.base, *self.tuned)
        digests = (self.base_digest, *self.tuned_digests)
        roles = ("base", *("tuned" for _ in self.tuned))
        return [
            f"{role} {source} ({kind}, SHA-256 {digest[:12] if digest else 'not taken'})"
            for role, source, kind, digest in zip(
                roles, sources, self.formats, digests, strict=True
            )
        ]


def some(names: tuple[str, ...], most: int = 8) -> str:
    """Return the first of many names, and how many more there are."""
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _evidence(found: Evidence) -> str:
    parts = []
    if found.score is not None:
        parts.append(f"lineage score {found.score:.3f}")
    if found.lowest_cosine is not None:
        parts.append(f"lowest cosine {found.lowest_cosine:.3f} ({found.lowest_tensor})")
    if found.filled:
        parts.append(f"{found.filled} elements in runs of one value in both (pruned?)")
    if found.median_relative_change is not None:
        parts.append(f"median change {found.median_relative_change:.2g}")
    if found.cnn_equal is not None:
        parts.append("CNN bit-equal to the base" if found.cnn_equal else "CNN changed")
    return ", ".join(parts) or "nothing to compare"
