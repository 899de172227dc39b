"""Merge and compare from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from speechft.merging import lineage
from speechft.merging.config import MergeConfig
from speechft.merging.execution import merge_in_memory, write_merge
from speechft.merging.plan import build_plan
from speechft.merging.report import MergeReport
from speechft.merging.sources import open_models
from speechft.merging.stream import NoSink, run
from speechft.storage.outputs import overwriting

if TYPE_CHECKING:
    import torch

    from speechft.merging.coefficients import Rules

Value = TypeVar("Value")
Module = TypeVar("Module", bound="torch.nn.Module")


@overload
def merge(
    base: Any, tuned: Any, alpha: float | None = ..., *, out: str | Path, **settings: Any
) -> MergeReport: ...
@overload
def merge(
    base: Any,
    tuned: Any,
    alpha: float | None,
    out: str | Path,
    method: str = ...,
    **settings: Any,
) -> MergeReport: ...
@overload
def merge(
    base: Any,
    tuned: Any,
    alpha: float | None = ...,
    out: None = ...,
    method: str = ...,
    *,
    dry_run: Literal[True],
    **settings: Any,
) -> MergeReport: ...
@overload
def merge(
    base: Mapping[str, Value],
    tuned: Any,
    alpha: float | None = ...,
    out: None = ...,
    method: str = ...,
    **settings: Any,
) -> dict[str, Value]: ...
@overload
def merge(
    base: Module,
    tuned: Any,
    alpha: float | None = ...,
    out: None = ...,
    method: str = ...,
    **settings: Any,
) -> Module: ...
@overload
def merge(
    base: str | Path,
    tuned: Any,
    alpha: float | None = ...,
    out: None = ...,
    method: str = ...,
    **settings: Any,
) -> dict[str, torch.Tensor]: ...
def merge(
    base: Any,
    tuned: Any,
    alpha: float | None = None,
    out: str | Path | None = None,
    method: str = "linear",
    *,
    rules: Rules | None = None,
    weight_norm: str = "gv",
    dtype: str = "auto",
    to: str | None = None,
    allow: str | Sequence[str] = (),
    force: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> Any:
    """Merge a base with one or several models that were tuned from it.

    The arguments are the fields of `speechft.merging.config.MergeConfig`, where more is said; what
    is none of them is an option of the method.

    Args:
        base: Encoder folder, weight file (``.safetensors``, ``.pt``, ``.ckpt``, ``.bin``), name of
            a packaged encoder, hub id, state dict, or live module.
        tuned: The same, one or a list.
        alpha: 0 gives the base, 1 the (mean of the) tuned models; None is 0.25. A method that finds
            the coefficient itself takes none.
        out: Folder, ``.pt`` or ``.safetensors`` file to write. None merges in memory.
        method: One of `speechft.merging.methods.METHODS`.
        rules: Coefficients by layer, see `speechft.merging.coefficients.alphas`.
        weight_norm: ``gv`` or ``fused``.
        dtype: ``auto``, ``keep``, ``float32``, ``float16`` or ``bfloat16``.
        to: ``hf`` or ``s3prl``; by default s3prl for an ``out`` that ends in ``.pt``.
        allow: Names of checks that may fail, of `speechft.merging.checks.CHECKS`, such as
            ``"zeros,scale"``; what they object to is written into the card.
        force: Short for ``allow="family,base,equal,lineage,nonfinite"``.
        dry_run: Check everything and write nothing.
        overwrite: Replace an ``out`` that no command of ours wrote.
        **options: Options of the method, see its file.

    Returns:
        A `MergeReport` when ``out`` is given or with ``dry_run``; else what ``base`` is: a state
        dict for a state dict or a path, a new module for a module.

    Raises:
        LineageError: The models do not belong together, are equal, or hold NaN or infinities.
        CheckpointError: An input cannot be read.
        ConfigError: An argument is wrong.
        RunError: The output cannot be written.
    """
    settings: dict[str, Any] = {
        "alpha": alpha,
        "method": method,
        "options": options,
        "rules": rules or {},
        "weight_norm": weight_norm,
        "dtype": dtype,
        "out": out,
        "to": to,
        "allow": allow if isinstance(allow, str) else tuple(allow),
    }
    config = MergeConfig(base=base, tuned=tuned, force=force, dry_run=dry_run, **settings)
    if out is None and not dry_run:
        return merge_in_memory(config)
    with overwriting(overwrite):
        return write_merge(config)


def compare(base: Any, tuned: Any) -> lineage.Evidence:
    """Return how a tuned model differs from a base: the lineage check's figures, no verdict.

    Raises:
        LineageError: They have different tensors, or hold NaN or infinities.
        CheckpointError: One of them cannot be read.
    """
    opened, models = open_models(base, [tuned])
    plan = build_plan(opened, models, "memory")
    return lineage.evidence(run(plan, NoSink())[0])
