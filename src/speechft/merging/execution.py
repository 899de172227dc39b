"""Carry out a merge: plan, check, stream, publish, report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from speechft.console import progress_bar
from speechft.encoders.conversion.checkpoints import Checkpoint
from speechft.errors import ConfigError
from speechft.merging import lineage, output
from speechft.merging.checks import refuse
from speechft.merging.config import MergeConfig, MergeSettings
from speechft.merging.digests import InputDigests, combined_digest
from speechft.merging.fused import fuse_weight_norm, store_norms
from speechft.merging.memory import in_memory
from speechft.merging.plan import Plan, Target, build_plan
from speechft.merging.report import MergeReport
from speechft.merging.sources import (
    check_base_digest,
    check_not_input,
    open_base,
    open_models,
)
from speechft.merging.stream import ArraySink, Combiner, NoSink, Sink, run
from speechft.merging.writers import folder_settings, write_folder, write_s3prl, write_tensors
from speechft.storage.files import WEIGHT_SUFFIXES
from speechft.storage.remote import address_of
from speechft.storage.uploads import output_at


@dataclass(frozen=True)
class Prepared:
    """A merge that is ready to run."""

    config: MergeConfig
    plan: Plan
    combine: Combiner
    objections: tuple[str, ...]
    """What a forced merge overrides so far."""


def write_merge(
    config: MergeConfig,
    *,
    shard_bytes: int = output.SHARD_BYTES,
) -> MergeReport:
    """Merge into a folder or file; with ``dry_run``, check everything and write nothing.

    Args:
        config: The merge; ``out`` is needed unless it is a dry run.
        shard_bytes: Largest size of one weight file.

    Raises:
        LineageError: The models do not belong together, are equal, or hold NaN or infinities.
        CheckpointError: An input cannot be read.
        ConfigError: A setting does not fit the models or the output.
        RunError: The output cannot be written.
    """
    started = time.monotonic()
    if config.out is None and not config.dry_run:
        raise ConfigError("out is missing: the folder or file to write")
    if (address := address_of(config.out)) is not None:
        with output_at(address, trial=config.dry_run) as here:
            return write_merge(replace(config, out=here), shard_bytes=shard_bytes)
    ready = prepare(config, choose_target(config.to, config.out))
    if config.out is not None:
        _check_output(ready.plan, config.out)
    return _stream_out(ready, shard_bytes, started)


def merge_in_memory(config: MergeConfig) -> Any:
    """Return the merged weights as what the base is, see `speechft.merging.memory.in_memory`.

    Raises:
        SpeechftError: As `write_merge`.
    """
    if config.to is not None:
        raise ConfigError(f"to={config.to!r} says what is written, and nothing is without out")
    ready = prepare(config, "memory")
    sink = ArraySink(ready.plan)
    changes = run(ready.plan, sink, ready.combine, allow_nonfinite="nonfinite" in config.allowed)
    check_weights(ready, changes)
    check_delta(ready)
    return in_memory(config.base, ready.plan, sink)


def choose_target(to: str | None, out: Path | None) -> Target:
    """Return what is written, from the format that was asked for and the ending of the name.

    Raises:
        ConfigError: They contradict each other.
    """
    suffix = "" if out is None else out.suffix
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


def prepare(config: MergeConfig, target: Target) -> Prepared:
    """Open the models, and go on as `prepare_opened`."""
    return prepare_opened(config, *open_models(config.base, config.models), target)


def prepare_opened(
    config: MergeConfig, base: Checkpoint, models: Sequence[Checkpoint], target: Target
) -> Prepared:
    """Match the models, compare their configurations, and bind the method.

    Raises:
        LineageError: The models do not belong together.
        ConfigError: A setting does not fit the models.
    """
    method = config.configured_method()
    method.check(len(models))
    objections = refuse(lineage.check_models(base, models), config.allowed)
    plan = build_plan(base, models, target, config.dtype)
    unfused, is_fused = plan, config.weight_norm == "fused"
    if is_fused:
        plan = fuse_weight_norm(plan)
    alpha = 1.0 if config.coefficient is None else config.coefficient
    plan = plan.with_alphas(method.alphas(plan, alpha, config.rules))
    combine = method.bind(plan)
    if is_fused:
        plan = store_norms(plan, unfused, combine)
    if target in ("hf", "tensors"):
        plan = plan.reordered(output.order_for_storage(plan.items))
    return Prepared(config, plan, combine, tuple(objections))


def check_base(settings: MergeSettings, base: Any) -> None:
    """Refuse settings that nothing in a base fits; all but the position convolution stays unread.

    Raises:
        ConfigError: A rule matches no tensor, or there is no weight norm to fuse.
    """
    opened = open_base(base)
    plan = build_plan(opened, [opened], "memory")
    if settings.weight_norm == "fused":
        plan = fuse_weight_norm(plan)
    if settings.takes_rules:
        settings.configured_method().alphas(plan, 1.0, settings.rules)


def check_weights(ready: Prepared, changes: Sequence[lineage.Change]) -> tuple[str, ...]:
    """Refuse by weights, or return all that speaks against the merge and was let pass."""
    base, models = ready.plan.base, ready.plan.tuned
    found: list[str] = []
    for model, change in zip(models, changes, strict=True):
        found += refuse(lineage.check_weights(base, model, change), ready.config.allowed)
    return (*ready.objections, *found)


def check_delta(ready: Prepared) -> tuple[str, ...]:
    """Refuse a delta that was made for another base in files, or return what was let pass."""
    base, models = ready.plan.base, ready.plan.tuned
    if not base.files or not any(model.format == "delta" for model in models):
        return ()
    digest = combined_digest(base.folder, base.files, InputDigests(base.files).result())
    return tuple(refuse(check_base_digest(base, models, digest), ready.config.allowed))


def _check_output(plan: Plan, out: Path) -> None:
    """Refuse an output that cannot be written, before anything is read."""
    check_not_input(out, (plan.base, *plan.tuned))
    output.check_replaceable(out, is_folder=plan.target == "hf")
    if plan.target == "hf":
        folder_settings(plan)


def _stream_out(ready: Prepared, shard_bytes: int, started: float) -> MergeReport:
    """Run a merge into files, or into nothing for a dry run, and report."""
    config = ready.config
    out = None if config.dry_run else config.out
    base, models = ready.plan.base, ready.plan.tuned
    digests = InputDigests([f for model in (base, *models) for f in model.files])

    def stream(sink: Sink) -> MergeReport:
        total = sum(item.size for item in ready.plan.items)
        with progress_bar("merge", total) as bar:
            changes = run(
                ready.plan,
                sink,
                ready.combine,
                allow_nonfinite="nonfinite" in config.allowed,
                advance=lambda count: bar.advance(count),
            )
        objections = check_weights(ready, changes)
        known = digests.result()
        digest = combined_digest(base.folder, base.files, known) if base.files else None
        objections += tuple(refuse(check_base_digest(base, models, digest), config.allowed))
        found = [lineage.evidence(c, forced=bool(objections)) for c in changes]
        return _report(ready, out, known, found, objections, time.monotonic() - started)

    try:
        if out is None:
            return stream(NoSink())
        if ready.plan.target == "hf":
            return write_folder(out, ready.plan, stream, shard_bytes)
        if ready.plan.target == "s3prl":
            return write_s3prl(out, ready.plan, stream)
        return write_tensors(out, ready.plan, stream)
    finally:
        digests.cancel()


def _report(
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
        method=ready.config.method,
        alpha=ready.config.coefficient,
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
        weight_norm=ready.config.weight_norm,
        dtype=", ".join(sorted({item.dtype for item in ready.plan.merged})),
        seconds=seconds,
        options=dict(ready.config.options),
        plan=tuple(ready.plan.rows()) if out is None else (),
    )
