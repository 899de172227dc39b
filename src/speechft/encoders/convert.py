"""Write an encoder in another format, and show that it is the same encoder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from speechft.cards.card import CARD_NAME, Card, encoder_origin
from speechft.commands import typed_command
from speechft.encoders.build import all_finite, build_encoder, check_family, torch_tensors
from speechft.encoders.conversion.checkpoints import Checkpoint
from speechft.encoders.conversion.keys import is_pretraining_head, to_s3prl
from speechft.encoders.conversion.s3prl import (
    REST_NAME,
    UPSTREAM_FORMATS,
    s3prl_checkpoint,
    s3prl_extras,
)
from speechft.encoders.conversion.settings import complete_settings
from speechft.encoders.families import FAMILIES, Family
from speechft.encoders.hints import nonfinite_hint
from speechft.encoders.load import digest_of
from speechft.encoders.opening import open_encoder
from speechft.errors import CheckpointError, ConfigError, unknown_choice
from speechft.naming import public_config
from speechft.storage.disk import as_usual
from speechft.storage.files import CONFIG_NAME, PROCESSOR_NAME, WEIGHTS_NAME, write_json, write_text
from speechft.storage.headers import sorted_metadata
from speechft.storage.outputs import check_own, overwriting, publish, replacing
from speechft.storage.uploads import moved_up

Target = Literal["hf", "s3prl"]
TARGETS: tuple[Target, ...] = ("hf", "s3prl")

SOURCES: dict[str, tuple[str, ...]] = {
    "auto": (),
    "s3prl": ("s3prl-downstream", *(n for n in UPSTREAM_FORMATS if n != "fairseq")),
    "fairseq": tuple({f.file_format for f in FAMILIES.values()}),
    "spin": ("spin",),
    "hf": ("hf",),
}
"""Formats of `open_encoder` by the name that a user gives them; bare weights go with all."""

TOLERANCE = 1e-5
"""Largest difference of a hidden state, over max(1, rms of the layer), that counts as equal."""

_NOT_THE_MODEL = ("do_normalize", "sampling_rate", "torch_dtype")
_PROBES = (16_000, 9_013)


@dataclass(frozen=True)
class ConversionReport:
    """What was converted, what was left out, and how well source and result agree."""

    source: str
    source_format: str
    out: str
    target: Target
    family: str
    tensors: int
    """Tensors of the encoder, each equal to the bit."""
    heads_kept: tuple[str, ...]
    """Pre-training heads that go along."""
    heads_left_out: tuple[str, ...]
    """Task heads and others that the target has no place for."""
    parity: float | None
    """Largest difference of a hidden state between source and result; None with NaN weights,
    where only the tensors were compared."""
    digest: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the report as text."""
        lines = [f"{self.source} ({self.source_format}, {self.family}) -> {self.out}"]
        equal = f"{self.tensors} tensors of the encoder equal to the bit"
        lines.append(
            f"parity: {equal}; NaN weights, features not compared"
            if self.parity is None
            else f"parity: {equal}; largest difference of a hidden state {self.parity:.1e}"
        )
        if self.heads_kept:
            lines.append(f"pre-training heads kept: {', '.join(self.heads_kept)}")
        if self.heads_left_out:
            lines.append(f"heads left out: {', '.join(self.heads_left_out)}")
        return lines


@moved_up("out")
def convert(
    source: str | Path,
    out: str | Path,
    *,
    source_format: str = "auto",
    target: str | None = None,
    config: str | Path | None = None,
    allow_nonfinite: bool = False,
    overwrite: bool = False,
) -> ConversionReport:
    """Convert an encoder and compare the hidden states of source and result.

    Args:
        source: Anything that `load_encoder` takes, a task model too.
        out: A folder for Hugging Face, a file for s3prl.
        source_format: ``auto``, or one of `SOURCES` to insist on it.
        target: ``hf`` or ``s3prl``; None goes by the suffix of ``out``.
        config: Where the configuration comes from when the source does not tell it.
        allow_nonfinite: Accept weights that are NaN or infinite.
        overwrite: Replace an ``out`` that no command of ours wrote.

    Raises:
        CheckpointError: The source cannot be used, a tensor has no counterpart, or source and
            result differ; nothing is written then.
        ConfigError: A format is unknown or does not go with ``out``.
        RunError: ``out`` holds something else, or cannot be written.
    """
    out = Path(os.path.abspath(Path(os.path.expanduser(out))))
    chosen = _target(out, target)
    with overwriting(overwrite):
        return _convert(source, out, chosen, source_format, config, allow_nonfinite)


def _convert(
    source: str | Path,
    out: Path,
    chosen: Target,
    source_format: str,
    config: str | Path | None,
    allow_nonfinite: bool,
) -> ConversionReport:
    checkpoint = open_encoder(source)
    _check_format(checkpoint, source_format)
    if out.resolve() in {p.resolve() for p in (checkpoint.folder, *checkpoint.files) if p}:
        raise ConfigError(f"{out} is the source itself", hint="choose another output")
    settings = complete_settings(checkpoint, config)
    check_family(settings, checkpoint.source)
    check_own(out)
    beside = _family(settings).sidecar(settings) if chosen == "s3prl" else None
    if beside is not None:
        check_own(out.with_suffix(".config.json"))
    encoder = build_encoder(checkpoint, config=settings, allow_nonfinite=allow_nonfinite)
    with publish(out) as hidden:
        place = hidden if chosen == "hf" else hidden.with_suffix(".pt")  # by which it is read back
        write = _write_folder if chosen == "hf" else _write_file
        kept = write(place, checkpoint, settings)
        if not allow_nonfinite:
            _check_heads(checkpoint.source, kept)
        written = open_encoder(place)
        count = _compare_tensors(checkpoint, written)
        parity = _compare_features(encoder, written, settings, allow_nonfinite)
        heads = [n for n in checkpoint.by_name() if is_pretraining_head(n) and n not in kept]
        place.rename(hidden)
    if beside is not None:
        with replacing(out.with_suffix(".config.json")) as hidden:
            write_json(hidden, public_config(beside))
    return ConversionReport(
        checkpoint.source,
        checkpoint.format,
        str(out),
        chosen,
        str(settings["model_type"]),
        count,
        tuple(kept),
        (*heads, *checkpoint.heads(), *checkpoint.not_understood(), *checkpoint.others),
        parity,
        digest_of(out),
    )


def _target(out: Path, target: str | None) -> Target:
    if target is not None and target not in TARGETS:
        raise unknown_choice("target format", target, TARGETS)
    is_pickle = out.suffix in (".pt", ".pth", ".ckpt", ".bin")
    chosen: Target = "s3prl" if target == "s3prl" or (is_pickle and target is None) else "hf"
    if chosen == "hf" and (is_pickle or out.suffix == ".safetensors" or out.is_file()):
        raise ConfigError(
            f"a Hugging Face encoder is a folder; {out.name} is the name of a file",
            hint="give the name of a folder, or --to s3prl with NAME.pt",
        )
    if chosen == "s3prl" and out.is_dir():
        raise ConfigError(f"an s3prl checkpoint is a file; {out} is a folder")
    return chosen


def _check_format(checkpoint: Checkpoint, wanted: str) -> None:
    if wanted not in SOURCES:
        raise unknown_choice("source format", wanted, SOURCES)
    if wanted != "auto" and checkpoint.format not in (*SOURCES[wanted], "tensors"):
        raise CheckpointError(
            f"{checkpoint.source} is of the format {checkpoint.format}, not {wanted}",
            hint="leave out --from to have it recognised",
        )


def _write_folder(
    folder: Path, checkpoint: Checkpoint, settings: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Write a Hugging Face folder; return the pre-training heads that it keeps."""
    from safetensors.torch import save, save_file

    tensors = torch_tensors(checkpoint.by_name())
    heads = {name: t for name, t in tensors.items() if is_pretraining_head(name)}
    weights = {name: t.contiguous() for name, t in tensors.items() if name not in heads}
    config = {n: v for n, v in public_config(settings).items() if n not in _NOT_THE_MODEL}
    config["architectures"] = [_family(settings).architecture]
    kinds = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    if len(kinds) == 1:
        config["dtype"] = str(kinds.pop()).removeprefix("torch.")
    folder.mkdir(parents=True)
    save_file(weights, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    as_usual(folder / WEIGHTS_NAME)
    write_json(folder / CONFIG_NAME, config)
    processor = checkpoint.processor or _family(settings).processor(settings)
    if processor is not None:
        write_json(folder / PROCESSOR_NAME, processor)
    rest = s3prl_extras(checkpoint)
    write_text(folder / CARD_NAME, _card(checkpoint, settings))
    if rest is None:
        return {}
    if checkpoint.folder is not None:
        heads = torch_tensors(rest.heads)
    data = save(heads, metadata={"format": "pt", **rest.metadata()})
    (folder / REST_NAME).write_bytes(sorted_metadata(data))
    return heads


def _card(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> str:
    place = checkpoint.folder or checkpoint.source
    source = encoder_origin("source", place, digest_of(place), checkpoint.folder)
    return Card(
        title="Speech encoder",
        summary="The encoder of the source in Hugging Face format, tensor by tensor equal to it, "
        "by `speechft convert`.",
        encoders=(replace(source, is_base=False),),  # it is that encoder
        facts=(("source format", checkpoint.format), ("family", _family(settings).name)),
        auto_model=_family(settings).auto_model,
        command=typed_command(),
    ).text()


def _write_file(
    path: Path, checkpoint: Checkpoint, settings: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Write an s3prl upstream checkpoint; return the pre-training heads that it keeps."""
    rest = s3prl_extras(checkpoint)
    known = checkpoint.by_name()
    own = {name: tensor for name, tensor in known.items() if is_pretraining_head(name)}
    heads = own if rest is None else rest.heads
    tensors = torch_tensors({n: t for n, t in known.items() if not is_pretraining_head(n)} | heads)
    spelled = to_s3prl(tensors, settings["model_type"])
    if rest is not None:  # its order and spelling
        spelled |= {n: old for n, old in rest.names.items() if n in tensors}
        tensors = {n: tensors[n] for n in [*rest.names, *tensors] if n in tensors}
    weights = {spelled[name]: tensor for name, tensor in tensors.items()}
    content = s3prl_checkpoint(checkpoint, weights, settings)
    torch.save(content, path)
    return {name: tensors[name] for name in heads}


def _check_heads(source: str, heads: Mapping[str, torch.Tensor]) -> None:
    """Refuse pre-training heads that are not finite, as `build_encoder` refuses such weights."""
    broken = [n for n, t in heads.items() if t.is_floating_point() and not all_finite(t)]
    if broken:
        raise CheckpointError(
            f"{source}: NaN or infinite weights in {', '.join(broken[:5])}",
            hint=nonfinite_hint(),
        )


def _family(settings: Mapping[str, Any]) -> Family:
    return FAMILIES[settings["model_type"]]


def _compare_tensors(source: Checkpoint, written: Checkpoint) -> int:
    """Return the number of tensors of the encoder after making sure that all are equal."""
    before, after = source.by_name(), written.by_name()
    names = [name for name in before if not is_pretraining_head(name)]
    lost = [name for name in names if name not in after]
    changed = [
        name
        for name in names
        if name in after
        and (
            before[name].shape != after[name].shape
            or before[name].dtype != after[name].dtype
            or before[name].raw(0, before[name].nbytes).tobytes()
            != after[name].raw(0, after[name].nbytes).tobytes()
        )
    ]
    if lost or changed:
        raise CheckpointError(
            f"{source.source} was not converted faithfully: lost {lost[:5]}, changed {changed[:5]}"
        )
    return len(names)


def _compare_features(
    encoder: Any, written: Checkpoint, settings: Mapping[str, Any], allow_nonfinite: bool
) -> float | None:
    """Return the largest difference of a hidden state of two noises, relative to the layer.

    Raises:
        CheckpointError: It is above `TOLERANCE`.
    """
    if not all(map(all_finite, encoder.parameters())):
        return None
    own = None if written.settings() is not None else settings
    other = build_encoder(written, config=own, allow_nonfinite=allow_nonfinite)
    generator = torch.Generator().manual_seed(0)
    waveforms = 0.1 * torch.randn(len(_PROBES), max(_PROBES), generator=generator)
    worst = 0.0
    with torch.inference_mode():
        first, second = (model(waveforms, torch.tensor(_PROBES)) for model in (encoder, other))
    for one, two in zip(first.layers, second.layers, strict=True):
        for row, frames in enumerate(first.lengths.tolist()):
            scale = max(1.0, float(one[row, :frames].square().mean().sqrt()))
            worst = max(worst, float((one - two)[row, :frames].abs().max()) / scale)
    if not worst <= TOLERANCE:
        raise CheckpointError(
            f"the result gives other features: a hidden state differs by {worst:.2g}",
            hint="the configuration may be of another model",
        )
    return worst
