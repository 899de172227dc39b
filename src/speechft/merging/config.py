"""What a merge may be configured to do: one model for recipes, files, command line and Python.

It imports neither numpy nor pydantic, so that ``speechft merge`` starts quickly; pydantic takes
`MergeSettings` as a section of a recipe.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from speechft.errors import ConfigError, unknown_choice
from speechft.merging.checks import FORCED, read_allowed
from speechft.merging.coefficients import finite, read_rules
from speechft.merging.method import Method
from speechft.merging.methods import configure, find_method

DEFAULT_ALPHA = 0.25
"""Coefficient where none is given, the Speech-FT paper's."""

WeightNorm = Literal["gv", "fused"]
Format = Literal["hf", "s3prl"]
DType = Literal["auto", "keep", "float32", "float16", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class MergeSettings:
    """How a base and models tuned from it become one encoder."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    alpha: float | None = None
    """0 gives the base, 1 the (mean of the) tuned models; None is 0.25, or what the method finds
    itself."""
    method: str = "linear"
    """One of `speechft.merging.methods.METHODS`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the method, by name."""
    rules: dict[str, float | str] | tuple[str, ...] = field(default_factory=dict)
    """Coefficients by layer, such as ``layers.0-3: 0.1``, see `speechft.merging.coefficients`."""
    weight_norm: WeightNorm = "gv"
    """``gv`` merges g and v of the position convolution separately, as the official code does;
    ``fused`` merges the effective kernel."""
    dtype: DType = "auto"
    """Type of the output's tensors: ``auto`` is the common type of base and tuned models and
    float32 where they differ, ``keep`` the base's."""
    allow: str | tuple[str, ...] = ()
    """Checks that may fail, of `speechft.merging.checks.CHECKS`; what they object to is written
    into the card. ``"zeros,scale"`` is the same as a list of these names."""

    def __post_init__(self) -> None:
        """Check what can be checked without the models.

        Raises:
            ConfigError: A value is wrong, or two of them contradict each other.
        """
        kind = find_method(self.method)
        _choose("weight norm", self.weight_norm, WeightNorm)
        _choose("dtype", self.dtype, DType)
        if not isinstance(self.options, Mapping):
            raise ConfigError(f"options are {self.options!r}, expected a value by name")
        self._set("options", self._typed_options())
        self._set("allow", read_allowed(self.allow))
        self._set("rules", read_rules(self.rules))
        if self.alpha is not None:
            self._set("alpha", finite(self.alpha, "alpha"))
            if not kind.takes_alpha:
                raise ConfigError(
                    f"method {self.method!r} finds the alpha of every tensor itself, "
                    f"given: {self.alpha:g}",
                    hint="leave alpha out; where a recipe states it, set it to null",
                )
        if self.rules and not kind.takes_rules:
            raise ConfigError(
                f"method {self.method!r} sets alpha per tensor itself; drop the alpha rules"
            )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _typed_options(self) -> dict[str, Any]:
        own = [f.name for f in fields(self)]
        for name in self.options:
            if name in own:
                raise ConfigError(
                    f"{name} is no option of method {self.method!r} but a setting of its own",
                    hint=f"give it as --{str(name).replace('_', '-')} on the command line, as "
                    f"{name}=... in Python, as {name}: beside options: in a file",
                )
        method = configure(self.method, self.options)
        return {n: getattr(method, n) for n, v in self.options.items() if v is not None}

    def configured_method(self) -> Method:
        """Return the method with its options."""
        return configure(self.method, self.options)

    @property
    def takes_rules(self) -> bool:
        """Whether one alpha goes for all tensors but those of rules; else the method sets them."""
        return find_method(self.method).takes_rules

    @property
    def coefficient(self) -> float | None:
        """The alpha that holds; None for a method that finds it itself."""
        if self.alpha is None and find_method(self.method).takes_alpha:
            return DEFAULT_ALPHA
        return self.alpha

    def only(self, **changes: Any) -> MergeSettings:
        """Return the settings of the merge without what a subclass adds, with changes."""
        return MergeSettings(**{**self._settings(), **changes})

    def of(self, base: Any, tuned: Any, out: Path | None = None) -> MergeConfig:
        """Return the merge of a base and tuned models with these settings."""
        return MergeConfig(base=base, tuned=tuned, out=out, **self._settings())

    def changed(self) -> dict[str, Any]:
        """Return alpha, and what differs from the default: the key of a finished merge."""
        default = MergeSettings()._settings()
        given = {n: v for n, v in self._settings().items() if v != default[n]}
        options = given.pop("options", {})
        return {"alpha": self.coefficient, **given, **options}

    def _settings(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(MergeSettings)}


@dataclass(frozen=True, kw_only=True)
class MergeConfig(MergeSettings):
    """One merge: how, of what, and where to."""

    base: Any
    """Encoder folder, weight file (``.safetensors``, ``.pt``, ``.ckpt``, ``.bin``), name of a
    packaged encoder, hub id; in Python a state dict or a live module too."""
    tuned: Any
    """The same, one or a list."""
    out: Path | None = None
    """Folder, ``.pt`` or ``.safetensors`` file to write; None merges in memory."""
    to: Format | None = None
    """Format of the output; None goes by its name."""
    force: bool = False
    """Short for ``allow`` with all of `speechft.merging.checks.FORCED`."""
    dry_run: bool = False
    """Check everything and write nothing."""

    def __post_init__(self) -> None:
        """Check what can be checked without the models; see `MergeSettings`."""
        super().__post_init__()
        if self.out is not None:
            if not isinstance(self.out, str | Path) or not str(self.out):
                raise ConfigError(f"out is {self.out!r}, expected the name of a folder or file")
            self._set("out", Path(os.path.expanduser(self.out)))
        if self.to is not None:
            _choose("output format", self.to, Format)
        for name in ("force", "dry_run"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}, expected true or false")

    @property
    def allowed(self) -> tuple[str, ...]:
        """The checks that may fail."""
        return (*self.allow, *(FORCED if self.force else ()))

    @property
    def models(self) -> list[Any]:
        """The tuned models, as a list."""
        is_one = isinstance(self.tuned, str | Path | Mapping) or hasattr(self.tuned, "state_dict")
        return [self.tuned] if is_one or not isinstance(self.tuned, Sequence) else [*self.tuned]


def _choose(kind: str, value: Any, choices: Any) -> None:
    if value not in get_args(choices):
        raise unknown_choice(kind, str(value), get_args(choices))
