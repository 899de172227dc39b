"""Merge a base with models tuned from it: plan, check, stream, publish, report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechft.console import progress_bar
from speechft.encoders.conversion.checkpoints import Checkpoint
from speechft.errors import ConfigError, LineageError, unknown_choice
from speechft.merging import lineage, output
from speechft.merging.coefficients import Rules, alphas, finite
from speechft.merging.combine import bind
from speechft.merging.digests import InputDigests, combined_digest
from speechft.merging.fused import fuse_weight_norm, store_norms
from speechft.merging.memory import in_memory
from speechft.merging.options import Options, check_options, make_options
from speechft.merging.plan import Plan, Target, build_plan
from speechft.merging.report import MergeReport
from speechft.merging.sources import (
    WEIGHT_SUFFIXES,
    check_base_digest,
    check_not_input,
    open_models,
)
from speechft.merging.stream import ArraySink, Combiner, NoSink, Sink, run
from speechft.merging.writers import folder_settings, write_folder, write_s3prl, write_tensors

WEIGHT_NORMS = ("gv", "fused")
TARGETS = ("hf", "s3prl")


@dataclass(frozen=True)
class Prepared:
    """A merge that is ready to run."""

    plan: Plan
    combine: Combiner
    method: str
    alpha: float
    weight_norm: str
    options: Options
    objections: tuple[str, ...]
    """What a forced merge overrides so far."""


def merge(
    base: Any,
    tuned: Any,
    alpha: float = 0.25,
    out: str | Path | None = None,
    method: str = "linear",
    *,
    to: str | None = None,
    weight_norm: str = "gv",
    rules: Rules | None = None,
    dtype: str = "auto",
    force: bool = False,
    dry_run: bool = False,
    shard_bytes: int = output.SHARD_BYTES,
    command: str | None = None,
    **options: Any,
) -> Any:
    """Merge a base with one or several models that were tuned from it.

    Args:
        base: Encoder folder, weight file (``.safetensors``, ``.pt``, ``.ckpt``, ``.bin``), name of
            a packaged encoder, hub id, state dict, or live module.
        tuned: The same, one or a list.
        alpha: 0 gives the base, 1 the (mean of the) tuned models.
        out: Folder, ``.pt`` or ``.safetensors`` file to write. None merges in memory.
        method: One of `speechft.merging.methods.METHODS`.
        to: ``hf`` or ``s3prl``; by default s3prl for an ``out`` that ends in ``.pt``.
        weight_norm: ``gv`` merges g and v of the position convolution separately, as the official
            code does; ``fused`` merges the effective kernel.
        rules: Coefficients by layer, see `speechft.merging.coefficients.alphas`.
        dtype: ``auto``, ``keep``, ``float32``, ``float16`` or ``bfloat16``.
        force: Merge in spite of objections; they are written into the card.
        dry_run: Check everything and write nothing.
        shard_bytes: Largest size of one weight file.
        command: Command line for the card.
        **options: Options of the method, see `speechft.merging.options.Options`.

    Returns:
        A `MergeReport` when ``out`` is given or with ``dry_run``; else what ``base`` is: a state
        dict for a state dict or a path, a new module for a module.

    Raises:
        LineageError: The models do not belong together, are equal, or hold NaN or infinities.
        CheckpointError: An input cannot be read.
        ConfigError: An argument is wrong.
        RunError: The output cannot be written.
    """
    started = time.monotonic()
    alpha = finite(alpha, "alpha")
    target = choose_target(to, out)
    if out is None and dry_run:
        target = "s3prl" if to == "s3prl" else "hf"
    elif out is None and to is not None:
        raise ConfigError(f"to={to!r} says what is written, and nothing is without out")
    ready = prepare(
        base, tuned, alpha, method, target, weight_norm, rules, dtype, force, make_options(options)
    )
    if out is None and not dry_run:
        sink = ArraySink(ready.plan)
        _check(ready, run(ready.plan, sink, ready.combine, allow_nonfinite=force), force)
        _check_delta(ready.plan, force)
        return in_memory(base, ready.plan, sink)
    if out is not None:
        _check_output(ready.plan, Path(out))
    destination = None if out is None or dry_run else Path(out)
    return _to_disk(ready, destination, force, shard_bytes, command, started)


def plan_merge(
    base: Any,
    tuned: Any,
    alpha: float = 0.25,
    out: str | Path = "out",
    *,
    to: str | None = None,
    rules: Rules | None = None,
    dtype: str = "auto",
) -> Plan:
    """Return what a linear merge would do with every tensor; only headers are read.

    `Plan.rows` prints it. Arguments and errors are those of `merge`.
    """
    opened, models = open_models(base, tuned)
    built = build_plan(opened, models, choose_target(to, out), dtype)
    names = [item.canonical for item in built.merged]
    return built.with_alphas(alphas(names, alpha, rules))


def compare(base: Any, tuned: Any) -> lineage.Evidence:
    """Return how a tuned model differs from a base: the lineage check's figures, no verdict.

    Raises:
        LineageError: They have different tensors, or hold NaN or infinities.
        CheckpointError: One of them cannot be read.
    """
    opened, models = open_models(base, tuned)
    built = build_plan(opened, models, "memory")
    return lineage.evidence(run(built, NoSink())[0])


def choose_target(to: str | None, out: str | Path | None) -> Target:
    """Return what is written, from the option and the ending of the output's name.

    Raises:
        ConfigError: The option is unknown or contradicts the name.
    """
    if to is not None and to not in TARGETS:
        raise unknown_choice("output format", to, TARGETS)
    suffix = "" if out is None else Path(out).suffix
    if out is None:
        return "memory"
    if to == "hf" and suffix in WEIGHT_SUFFIXES:
        raise ConfigError(f"{out} names a file, but --to hf writes a folder")
    if suffix in (".bin", ".pth") or (to == "s3prl" and suffix == ".safetensors"):
        raise ConfigError(
            f"{out} has an ending that is not written as {to or 'weights'}",
            hint="name a folder (Hugging Face), a .pt (s3prl) or a .safetensors file (weights)",
        )
    if to == "s3prl" or (to is None and suffix in (".pt", ".ckpt")):
        return "s3prl"
    return "tensors" if suffix == ".safetensors" and to is None else "hf"


def prepare(
    base: Any,
    tuned: Any,
    alpha: float,
    method: str,
    target: Target,
    weight_norm: str,
    rules: Rules | None,
    dtype: str,
    force: bool,
    options: Options,
) -> Prepared:
    """Open, match, compare configurations, and bind the method.

    Raises:
        LineageError: The models do not belong together.
        ConfigError: An argument is wrong.
    """
    if weight_norm not in WEIGHT_NORMS:
        raise unknown_choice("weight norm", weight_norm, WEIGHT_NORMS)
    opened, models = open_models(base, tuned)
    check_options(method, options, len(models))
    if rules and method in ("lines", "model-stock"):
        raise ConfigError(f"method {method!r} sets alpha per tensor itself; drop the alpha rules")
    objections = lineage.check_configs(opened, models)
    if not force:
        lineage.refuse(objections, HINT)
    built = build_plan(opened, models, target, dtype)
    unfused, fused = built, weight_norm == "fused"
    if fused:
        built = fuse_weight_norm(built)
    names = [item.canonical for item in built.merged]
    built, combine = bind(method, built.with_alphas(alphas(names, alpha, rules)), options, alpha)
    if fused:
        built = store_norms(built, unfused, combine)
    if target in ("hf", "tensors"):
        built = built.reordered(output.order_for_storage(built.items))
    return Prepared(built, combine, method, alpha, weight_norm, options, tuple(objections))


HINT = (
    "give the checkpoint that the tuned model was initialised from; --force merges nevertheless "
    "and says so in the card"
)
EQUAL_HINT = (
    "was the same model given twice, or a checkpoint from before the encoder was trained? "
    "--force merges nevertheless"
)


def _check(ready: Prepared, changes: Sequence[lineage.Change], force: bool) -> tuple[str, ...]:
    """Refuse by weights, or return all objections of a forced merge."""
    base, models = ready.plan.base, ready.plan.tuned
    found: list[str] = []
    for model, change in zip(models, changes, strict=True):
        problems = lineage.check_weights(base, model, change)
        if problems and not force:
            equal = len(change.equal) == len(change.tensors)
            raise LineageError("; ".join(problems), hint=EQUAL_HINT if equal else HINT)
        found += problems
    return (*ready.objections, *found)


def _check_delta(plan: Plan, force: bool) -> None:
    """Refuse a delta that was made for another base, where the base is in files."""
    base = plan.base
    if base.files and any(model.format == "delta" for model in plan.tuned):
        digest = combined_digest(base.folder, base.files, InputDigests(base.files).result())
        check_base_digest(base, plan.tuned, digest, force)


def _check_output(plan: Plan, out: Path) -> None:
    """Refuse an output that cannot be written, before anything is read."""
    check_not_input(out, (plan.base, *plan.tuned))
    if plan.target == "hf":
        output.check_replaceable(out)
        folder_settings(plan)


def _to_disk(
    ready: Prepared,
    out: Path | None,
    force: bool,
    shard_bytes: int,
    command: str | None,
    started: float,
) -> MergeReport:
    """Run a merge into files, or into nothing for a dry run, and report."""
    base, models = ready.plan.base, ready.plan.tuned
    digests = InputDigests([f for model in (base, *models) for f in model.files])

    def stream(sink: Sink) -> MergeReport:
        total = sum(item.size for item in ready.plan.items)
        with progress_bar("merge", total) as bar:
            changes = run(
                ready.plan,
                sink,
                ready.combine,
                allow_nonfinite=force,
                advance=lambda count: bar.advance(count),
            )
        objections = _check(ready, changes, force)
        known = digests.result()
        digest = combined_digest(base.folder, base.files, known) if base.files else None
        objections += tuple(check_base_digest(base, models, digest, force))
        found = [lineage.evidence(c, forced=bool(objections)) for c in changes]
        return make_report(ready, out, known, found, objections, time.monotonic() - started)

    try:
        if out is None:
            return stream(NoSink())
        if ready.plan.target == "hf":
            return write_folder(out, ready.plan, stream, shard_bytes, command)
        if ready.plan.target == "s3prl":
            return write_s3prl(out, ready.plan, stream)
        return write_tensors(out, ready.plan, stream)
    finally:
        digests.cancel()


def make_report(
    ready: Prepared,
    out: Path | None,
    digests: Mapping[Path, str],
    found: Sequence[lineage.Evidence],
    objections: tuple[str, ...],
    seconds: float,
) -> MergeReport:
    """Gather the report."""
    base, models = ready.plan.base, ready.plan.tuned

    def digest(model: Checkpoint) -> str | None:
        if not model.files:
            return None
        return combined_digest(model.folder, model.files, dict(digests))

    return MergeReport(
        out=out,
        method=ready.method,
        alpha=ready.alpha,
        alphas={item.canonical: item.alpha for item in ready.plan.merged},
        base=base.source,
        tuned=tuple(model.source for model in models),
        formats=tuple(f"{m.format} {m.family or 'encoder'}" for m in (base, *models)),
        base_digest=digest(base),
        tuned_digests=tuple(digest(model) for model in models),
        merged=len(ready.plan.merged),
        kept=tuple(item.name for item in ready.plan.kept),
        set_aside=tuple(name for names in ready.plan.set_aside for name in names),
        left_out=ready.plan.left_out,
        evidence=tuple(found),
        forced=objections,
        differences=tuple(d for model in models for d in lineage.other_differences(base, model)),
        weight_norm=ready.weight_norm,
        dtype=", ".join(sorted({item.dtype for item in ready.plan.merged})),
        seconds=seconds,
        options=ready.options.given(),
        plan=tuple(ready.plan.rows()) if out is None else (),
    )
