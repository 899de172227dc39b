"""One tensor of a base and a tuned model: what is summed over it, and what that says against it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from speechft.merging.damage import BLOCK, Fill, Fills

MIN_MATRIX_COSINE = 0.3
"""The same for one matrix; one that was drawn anew is within a few hundredths of 0."""

MIN_NORM_COSINE = 0.8
"""The same for the weights of a norm, which stay near 1 whatever the fine-tuning."""

LARGEST_RATIO = 3.0
"""Of the magnitudes of a matrix or the weights of a norm in both models, either way."""

LARGEST_BIAS_RATIO = 100.0
"""The same of other vectors: biases begin at 0 and may grow."""


@dataclass
class TensorChange:
    """Sums over one tensor: base with base, base with task vector, task vector with itself."""

    base_base: float = 0.0
    base_delta: float = 0.0
    delta_delta: float = 0.0
    shape: tuple[int, ...] = ()
    fills: Fills = field(default_factory=Fills)
    """What of it is filled with one value."""

    @property
    def cosine(self) -> float | None:
        """Cosine between base and tuned, 0 where one is zero; None where both are or not finite."""
        base, tuned = self.base_base, self.tuned_tuned
        if not (math.isfinite(base + tuned) and base + tuned > 0):
            return None
        if base == 0 or tuned == 0:
            return 0.0
        cosine = (base + self.base_delta) / math.sqrt(base * tuned)
        return max(-1.0, min(1.0, cosine))

    @property
    def tuned_tuned(self) -> float:
        """Sum over the squares of the tuned tensor; 0 where it is nothing beside rounding."""
        total = self.base_base + 2 * self.base_delta + self.delta_delta
        return 0.0 if total <= 1e-12 * (self.base_base + self.delta_delta) else total

    @property
    def ratio(self) -> float | None:
        """Norm of the tuned tensor over the norm of the base; None where one is zero."""
        if not (0 < self.base_base < math.inf and 0 < self.tuned_tuned < math.inf):
            return None
        return math.sqrt(self.tuned_tuned / self.base_base)

    @property
    def relative(self) -> float | None:
        """Norm of the task vector over the norm of the base; None without a finite one."""
        relative = self.delta_delta / self.base_base if self.base_base > 0 else math.nan
        return math.sqrt(relative) if math.isfinite(relative) else None

    @property
    def finite(self) -> bool:
        """Whether both models are."""
        return math.isfinite(self.base_base + self.delta_delta)


_ELSEWHERE = "{tuned} does not look tuned from {base}: other directions have"
_SCALE = "{tuned} is of another scale than {base} in"


def check_tensor(name: str, tensor: TensorChange, is_known: bool) -> list[tuple[str, str, str]]:
    """Return name of the check, sentence, and detail for what is wrong with one tensor."""
    is_bias = "bias" in name.rpartition(".")[2]
    is_matrix = has_directions(tensor.shape) and not is_bias
    is_norm = not is_matrix and (
        name.endswith(".original0") or ("norm" in name and name.endswith(".weight"))
    )
    if not is_known and (not is_matrix or math.prod(tensor.shape) < BLOCK):
        return []
    found = _check_fills(tensor, is_matrix, is_norm)
    if found:
        return found
    cosine, ratio = tensor.cosine, tensor.ratio
    limit = MIN_MATRIX_COSINE if is_matrix else MIN_NORM_COSINE
    if is_known and (is_matrix or is_norm) and cosine is not None and cosine < limit:
        found.append(("lineage", _ELSEWHERE, f" (cosine {cosine:.2f})"))
    most = LARGEST_RATIO if is_matrix or is_norm else LARGEST_BIAS_RATIO
    # v of weight norm has no scale of its own; biases near 0 have none that matters
    size = max(math.prod(tensor.shape), 1)
    matters = is_matrix or is_norm or max(tensor.base_base, tensor.tuned_tuned) > 0.01 * size
    is_free = name.endswith(".original1") or not matters
    if ratio is not None and not is_free and not 1 / most <= ratio <= most:
        found.append(("scale", _SCALE, f" (times {ratio:.3g})"))
    return found


def _check_fills(
    tensor: TensorChange, is_matrix: bool, is_norm: bool
) -> list[tuple[str, str, str]]:
    """Return what is filled with one value where the other model has many.

    Biases of 0 and norms of 1 are how a base begins, and a frozen one stays as it is.
    """
    first, second = tensor.fills.base, tensor.fills.tuned
    zero = [tensor.base_base == 0, tensor.tuned_tuned == 0]
    if math.prod(tensor.shape) < 2:
        return []
    if (is_matrix or is_norm) and all(zero):
        return [("zeros", "{base} and {tuned} hold nothing but zeros in", "")]
    if zero[1] and not zero[0]:
        return [("zeros", "{tuned} holds nothing but zeros in", "")]
    if zero[0] and (is_matrix or is_norm):
        return [("zeros", "{base} holds nothing but zeros in", "")]
    if second.whole and not first.whole:
        return [("constants", "{tuned} holds a constant in", f" ({second.value:.3g})")]
    if first.whole and not second.whole and is_matrix:
        return [("constants", "{base} holds a constant in", f" ({first.value:.3g})")]
    found = _runs("{tuned}", second)
    return found + (_runs("{base}", first) if is_matrix else [])


def _runs(source: str, fill: Fill) -> list[tuple[str, str, str]]:
    kinds = (("zeros", "zeros", fill.zeros), ("constants", "one value", fill.others))
    return [
        (check, f"{source} holds long runs of {what} in", f" ({count * BLOCK} elements)")
        for check, what, count in kinds
        if count
    ]


def has_directions(shape: Sequence[int]) -> bool:
    """Return whether a tensor has more than one dimension that is longer than 1."""
    return sum(n > 1 for n in shape) > 1
