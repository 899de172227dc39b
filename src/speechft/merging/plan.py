"""The plan of a merge: which tensor is merged, kept, set aside or left out, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from speechft.encoders.conversion.checkpoints import Checkpoint
from speechft.encoders.conversion.keys import is_pretraining_head, to_hugging_face, to_s3prl
from speechft.encoders.conversion.tensors import FLOAT_BYTES, Tensor
from speechft.encoders.families import find_family
from speechft.errors import LineageError

Target = Literal["hf", "s3prl", "tensors", "memory"]

KEPT_FROM_BASE = ("final_proj", "label_embs_concat", "project_hid")
"""Prefixes whose task vector the official code sets to zero; ``project_hid`` is Hugging Face's name
of wav2vec 2.0's ``final_proj``."""

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Types that can be asked for; ``auto`` and ``keep`` come on top."""


@dataclass(frozen=True)
class TensorPlan:
    """What happens to one tensor of the base."""

    name: str
    """Name in the output."""
    canonical: str
    """Hugging Face name, or the name in the base for a task head."""
    merged: bool
    """False when the base's tensor is kept."""
    reason: str
    """Why it is kept; empty when it is merged."""
    dtype: str
    """Safetensors name of the type in the output."""
    base: Tensor
    tuned: tuple[Tensor, ...]
    """One tensor per tuned model; empty when the base's tensor is kept."""
    alpha: float = 0.0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.base.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the output."""
        return self.size * FLOAT_BYTES[self.dtype] if self.is_float else self.base.nbytes

    @property
    def is_float(self) -> bool:
        """Whether the tensor is of a type that can be converted and merged."""
        return self.base.dtype in FLOAT_BYTES


@dataclass(frozen=True)
class Plan:
    """All tensors of the output in order, and what does not get there."""

    base: Checkpoint
    tuned: tuple[Checkpoint, ...]
    target: Target
    items: tuple[TensorPlan, ...]
    set_aside: tuple[tuple[str, ...], ...]
    """Per tuned model, the names of its tensors that the base does not have (heads)."""
    left_out: tuple[str, ...]
    """Tensors of the base that the output format has no place for."""

    @property
    def merged(self) -> list[TensorPlan]:
        """The items that are merged."""
        return [item for item in self.items if item.merged]

    @property
    def kept(self) -> list[TensorPlan]:
        """The items that are kept from the base."""
        return [item for item in self.items if not item.merged]

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return the plan for a table: name, shape, types, and what happens to the tensor."""
        rows = []
        for item in self.items:
            types = [item.base.dtype, *(t.dtype for t in item.tuned)]
            action = f"merge, alpha {item.alpha:g}" if item.merged else f"keep: {item.reason}"
            shape = "x".join(map(str, item.base.shape)) or "scalar"
            rows.append((item.name, shape, f"{' + '.join(types)} -> {item.dtype}", action))
        rows += [(n, "", "", "set aside: not in the base") for s in self.set_aside for n in s]
        rows += [(n, "", "", "left out: no place in the output") for n in self.left_out]
        return rows

    def reordered(self, items: Sequence[TensorPlan]) -> Plan:
        """Return the plan with other items, or the same in another order."""
        return replace(self, items=tuple(items))

    def with_alphas(self, alphas: dict[str, float]) -> Plan:
        """Return the plan with the coefficient of every merged tensor filled in."""
        items = tuple(replace(i, alpha=alphas[i.canonical]) if i.merged else i for i in self.items)
        return replace(self, items=items)


def build_plan(
    base: Checkpoint, tuned: Sequence[Checkpoint], target: Target, dtype: str = "auto"
) -> Plan:
    """Match the tensors of base and tuned models by name and shape.

    Args:
        base: The pre-trained model.
        tuned: The fine-tuned models.
        target: What is written.
        dtype: ``auto`` keeps the common type of base and tuned, and float32 where they differ;
            ``keep`` is the base's type; or one of `DTYPES`.

    Raises:
        LineageError: Tensors are missing, superfluous or of different shapes.
    """
    sources = [model.by_name() for model in tuned]
    known = base.by_name()
    for model, tensors in zip(tuned, sources, strict=True):
        _check_names(base, known, model, tensors)
        _check_shapes(base, known, model, tensors)
    names, left_out = _output_names(base, target)
    widen = dtype == "auto" and target != "memory" and _is_mixed(known, sources)
    items = []
    for original, name in names.items():
        tensor = base.tensors[original]
        canonical = base.names.get(original, original)
        others = [source.get(canonical) for source in sources]
        reason = _why_kept(tensor, canonical, original in base.names, others)
        items.append(
            TensorPlan(
                name,
                canonical,
                not reason,
                reason,
                _output_dtype(tensor, dtype, widen),
                tensor,
                () if reason else tuple(o for o in others if o is not None),
            )
        )
    if not any(item.merged for item in items):
        raise LineageError(
            f"{base.source} and {tuned[0].source} have no tensor in common",
            hint=f"the base's names begin with {next(iter(known), '(none)')!r}, the tuned model's "
            f"with {next(iter(sources[0]), '(none)')!r}",
        )
    aside = tuple(_set_aside(known, model) for model in tuned)
    return Plan(base, tuple(tuned), target, tuple(items), aside, left_out)


def is_optional(canonical: str) -> bool:
    """Tell whether a checkpoint may lack this tensor: it matters in pre-training only."""
    return (
        canonical == "masked_spec_embed"
        or is_pretraining_head(canonical)
        or canonical.startswith(KEPT_FROM_BASE)
    )


def _why_kept(
    tensor: Tensor, canonical: str, in_encoder: bool, others: Sequence[Tensor | None]
) -> str:
    if not in_encoder:
        return "task head of the base"
    if canonical.startswith(KEPT_FROM_BASE):
        return "pre-training head, kept as the official code does"
    if tensor.dtype not in FLOAT_BYTES:
        return f"not a floating-point tensor ({tensor.dtype})"
    if any(other is None for other in others):
        return "absent in a tuned model"
    return ""


def _check_names(
    base: Checkpoint, known: dict[str, Tensor], model: Checkpoint, tensors: dict[str, Tensor]
) -> None:
    missing = [
        n
        for n, tensor in known.items()
        if n not in tensors and not is_optional(n) and tensor.dtype in FLOAT_BYTES
    ]
    extra = [n for n in tensors if n not in known and not is_optional(n)]
    if base.naming == "unknown" and not missing:
        extra = []  # without known names every other tensor may be a head
    if missing or extra:
        parts = []
        if missing:
            parts.append(f"lacks {len(missing)} of its tensors ({_some(missing)})")
        if extra:
            parts.append(f"has {len(extra)} that it lacks ({_some(extra)})")
        raise LineageError(
            f"{model.source} does not fit {base.source} as its base: it {' and '.join(parts)}",
            hint="base and tuned model must be of one architecture and size; is one of them another"
            " model, or an adapter instead of a full checkpoint?",
        )


def _check_shapes(
    base: Checkpoint, known: dict[str, Tensor], model: Checkpoint, tensors: dict[str, Tensor]
) -> None:
    wrong = [
        f"{n}: {list(t.shape)} in the base, {list(tensors[n].shape)} in the tuned model"
        for n, t in known.items()
        if n in tensors and t.shape != tensors[n].shape and not n.startswith(KEPT_FROM_BASE)
    ]
    odd = [
        f"{n}: {t.dtype}"
        for n, t in tensors.items()
        if n in known and known[n].dtype in FLOAT_BYTES and t.dtype not in FLOAT_BYTES
    ]
    if wrong:
        raise LineageError(
            f"{model.source} does not fit {base.source} as its base: shapes differ in "
            f"{_some(wrong, '; ')}",
            hint="base and tuned model must be of one size",
        )
    if odd:
        raise LineageError(
            f"{model.source} holds tensors that are not floating-point: {_some(odd)}",
            hint="quantised models cannot be merged; merge before quantising",
        )


def _some(names: Sequence[str], separator: str = ", ") -> str:
    text = separator.join(names[:4])
    return text if len(names) <= 4 else f"{text}{separator}and {len(names) - 4} more"


def _set_aside(known: dict[str, Tensor], model: Checkpoint) -> tuple[str, ...]:
    return tuple(n for n in model.tensors if model.names.get(n, "") not in known)


def _is_mixed(known: dict[str, Tensor], sources: Sequence[dict[str, Tensor]]) -> bool:
    return any(
        tensor.dtype in FLOAT_BYTES and name in source and source[name].dtype != tensor.dtype
        for source in sources
        for name, tensor in known.items()
    )


def _output_dtype(tensor: Tensor, dtype: str, widen: bool) -> str:
    if tensor.dtype not in FLOAT_BYTES:
        return tensor.dtype
    if dtype in DTYPES:
        return DTYPES[dtype]
    return "F32" if widen and tensor.dtype in ("F16", "BF16") else tensor.dtype


def _output_names(base: Checkpoint, target: Target) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the name in the output for every name in the base that goes there, and the others."""
    if target in ("tensors", "memory") or base.naming == "unknown":
        return {name: name for name in base.tensors}, ()
    if target == base.naming or (target == "hf" and base.naming == "hf"):
        if target == "s3prl":
            return _strip_prefix(base)
        return {name: name for name in base.tensors}, ()
    encoder = {old: new for old, new in base.names.items() if not _has_no_place(new)}
    if target == "hf":
        names = encoder
    else:
        translated = to_s3prl(encoder.values(), base.family)
        names = {old: translated[new] for old, new in encoder.items()}
    return names, tuple(name for name in base.tensors if name not in names)


def _has_no_place(canonical: str) -> bool:
    return is_pretraining_head(canonical) or canonical.startswith(KEPT_FROM_BASE)


def _strip_prefix(base: Checkpoint) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return unprefixed s3prl names: a downstream checkpoint becomes an upstream one."""
    family, names = find_family(base.family), {}
    if family is not None and not family.is_fairseq:  # one spelling, whatever the file's was
        spelled = to_s3prl(base.names.values(), family.name)
        names = {old: spelled[new] for old, new in base.names.items()}
        return names, tuple(name for name in base.tensors if name not in names)
    for old, new in base.names.items():
        tail = old
        while tail and new not in (tail, to_hugging_face(tail, base.family)):
            tail = tail.partition(".")[2]
        names[old] = tail or old
    return names, tuple(name for name in base.tensors if name not in names)
