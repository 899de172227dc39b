"""What an encoder or checkpoint is, and what can be done with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from speechft.commands import command
from speechft.encoders.build import check_family, check_fit
from speechft.encoders.conversion.checkpoints import Checkpoint
from speechft.encoders.conversion.keys import is_pretraining_head
from speechft.encoders.conversion.settings import check_rate, complete_settings, known_sizes
from speechft.encoders.conversion.tensors import FLOAT_BYTES, is_finite, numel
from speechft.encoders.families import FAMILIES, Family, find_family
from speechft.encoders.hints import CONFIG_ASKED
from speechft.encoders.load import digest_of
from speechft.encoders.opening import open_encoder, resolve_encoder
from speechft.errors import CheckpointError

SIZES = {(12, 768): "base", (24, 1024): "large", (48, 1280): "x-large", (48, 1920): "2b"}
"""Names of published sizes by (layers, dimension)."""

_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads")


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint says about itself; None where it does not say."""

    path: str
    format: str
    """See `speechft.encoders.conversion.checkpoints`."""
    digest: str
    """SHA-256, the same that runs and result rows record."""
    family: str | None
    size: str | None
    """``base``, ``large``, ..., or ``custom``."""
    parameters: int
    """Of the encoder, without heads."""
    bytes: int
    """Of the encoder's tensors as stored."""
    layers: int | None
    dim: int | None
    attention_heads: int | None
    frame_rate: float | None
    """Frames per second."""
    normalize: bool | None
    """Whether waveforms are scaled to zero mean and unit variance."""
    dtype: str
    """Type that most weights are stored in."""
    dtypes: dict[str, int] = field(default_factory=dict)
    """Number of tensors by type."""
    pretraining_heads: list[str] = field(default_factory=list)
    task_heads: list[str] = field(default_factory=list)
    nonfinite: list[str] = field(default_factory=list)
    """Tensors of the encoder with NaN or infinite values."""
    problem: str | None = None
    """Why it cannot be loaded, as far as this can be told without building the model."""
    next: list[str] = field(default_factory=list)
    """Commands that make sense with it."""
    other_encoders: list[str] = field(default_factory=list)
    """Where further encoders are in the file, which are left out: teachers, running averages."""
    not_understood: list[str] = field(default_factory=list)
    """Tensors of neither an encoder nor a head that is known; left out."""
    encoder_at: str | None = None
    """What stands before the names of the encoder that is read."""
    adapter: str | None = None
    """The adapter that is on it, and on what."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the inspection as text."""
        sizes = f"{self.parameters:,} parameters, {self.bytes / 1e6:.1f} MB"
        told = (("", self.layers), ("dimension ", self.dim), ("heads ", self.attention_heads))
        layers = ", ".join(f"{what}{'?' if n is None else n}" for what, n in told)
        rows = {
            "path": self.path,
            "format": self.format,
            "family": self.family or "not known",
            "size": f"{self.size or 'not known'}, {sizes}",
            "layers": layers,
            "frame rate": "not known" if self.frame_rate is None else f"{self.frame_rate:g} Hz",
            "dtype": ", ".join(f"{name} ({n} tensors)" for name, n in self.dtypes.items()),
            "digest": self.digest,
        }
        if self.adapter is not None:
            rows["adapter"] = self.adapter
        if self.normalize is not None:
            rows["waveforms"] = "normalised" if self.normalize else "as they are"
        for name, held in (("pre-training", self.pretraining_heads), ("task", self.task_heads)):
            if held:
                rows[f"{name} heads"] = ", ".join(held)
        if self.other_encoders:
            rows["encoder read"] = f"under {self.encoder_at!r}"
            rows["other encoders"] = f"{', '.join(self.other_encoders)}: left out"
        if self.not_understood:
            rows["not understood"] = f"{', '.join(self.not_understood)}: left out"
        if self.nonfinite:
            rows["NaN or infinite"] = ", ".join(self.nonfinite)
        if self.problem:
            rows["problem"] = self.problem
        width = max(map(len, rows))
        return [f"{k:{width}}  {v}" for k, v in rows.items()] + [f"next: {t}" for t in self.next]


def inspect_encoder(name: str | Path, config: str | Path | None = None) -> Inspection:
    """Read what a checkpoint says about itself, and look for NaN in its weights.

    Args:
        name: Anything that `load_encoder` takes but features without weights.
        config: See `complete_settings`.

    Raises:
        CheckpointError: It does not exist, is damaged, or is not a checkpoint.
    """
    path = resolve_encoder(name)
    checkpoint = open_encoder(path)
    settings, problem = _settings(checkpoint, config)
    encoder = {n: t for n, t in checkpoint.by_name().items() if not is_pretraining_head(n)}
    heads = [n for n in checkpoint.by_name() if is_pretraining_head(n)]
    types = Counter(_TYPES.get(t.dtype, t.dtype.lower()) for t in encoder.values())
    family = settings.get("model_type", checkpoint.family)
    known = find_family(family)
    names = dict(zip(_SIZES, _SIZES, strict=True)) | dict(known.sizes if known else {})
    layers, dim, attention_heads = (settings.get(names[size]) for size in _SIZES)
    nonfinite = [n for n, tensor in encoder.items() if not is_finite(tensor)]
    if nonfinite and problem is None:
        problem = "NaN or infinite weights; extract and convert --allow-nonfinite take them"
    return Inspection(
        path=str(path),
        format=checkpoint.format,
        digest=digest_of(path),
        family=family,
        size=SIZES.get((layers, dim), "custom") if layers and dim else None,
        parameters=sum(numel(t) for t in encoder.values() if t.dtype in FLOAT_BYTES),
        bytes=sum(t.nbytes for t in encoder.values()),
        layers=layers,
        dim=dim,
        attention_heads=attention_heads,
        frame_rate=_frame_rate(known, settings),
        normalize=settings.get("do_normalize", False if "model_type" in settings else None),
        dtype=types.most_common(1)[0][0] if types else "none",
        dtypes=dict(types.most_common()),
        pretraining_heads=heads,
        task_heads=checkpoint.heads(),
        nonfinite=nonfinite,
        problem=problem,
        next=_next(checkpoint, str(name), problem, config),
        other_encoders=list(checkpoint.others),
        not_understood=checkpoint.not_understood(),
        encoder_at=checkpoint.prefix,
        adapter=checkpoint.adapter,
    )


def _settings(
    checkpoint: Checkpoint, config: str | Path | None
) -> tuple[Mapping[str, Any], str | None]:
    """Return the configuration, as far as it is known, and why it cannot be loaded."""
    if checkpoint.format == "delta":
        return checkpoint.config or {}, "a task vector is no encoder: it is added to its base"
    try:
        settings = complete_settings(checkpoint, config)
    except CheckpointError as error:
        problem = str(error).replace("\n", "; ")
        try:
            return known_sizes(checkpoint), problem
        except CheckpointError:
            return {}, problem
    try:
        check_family(settings, checkpoint.source)
        check_rate(settings, checkpoint.source)
        check_fit(checkpoint, settings)
    except CheckpointError as error:
        return settings, str(error).replace("\n", "; ")
    return settings, None


def _frame_rate(family: Family | None, settings: Mapping[str, Any]) -> float | None:
    try:
        return None if family is None else family.timing(settings).frame_rate
    except KeyError:  # sizes that were read off tensors tell no strides
        return None


def _next(
    checkpoint: Checkpoint, name: str, problem: str | None, config: str | Path | None
) -> list[str]:
    """Return commands that work as they stand, but for words in capitals."""
    if checkpoint.format == "delta":
        return [command("merge", "BASE", name, alpha="0.25", out="merged")]
    if checkpoint.family is not None and checkpoint.family not in FAMILIES:
        return []
    if problem is not None:
        is_asked = CONFIG_ASKED in problem and config is None
        return [command("inspect", name, config="CONFIG")] if is_asked else []
    with_config = {"config": None if config is None else str(config)}
    commands = [command("extract", name, "AUDIO...", out="feats", **with_config)]
    encoder = name if config is None else "encoder"  # the others take what is converted
    commands += [
        command("evaluate", encoder, out="runs/eval"),
        command("merge", encoder, "TUNED", alpha="0.25", out="merged"),
    ]
    if checkpoint.adapter is not None or checkpoint.format != "hf" or config is not None:
        return [command("convert", name, "encoder", to="hf", **with_config), *commands]
    known = find_family(checkpoint.family)
    to_s3prl = [command("convert", name, "encoder.pt", to="s3prl")]
    return commands + (to_s3prl if known is not None and known.in_s3prl else [])
