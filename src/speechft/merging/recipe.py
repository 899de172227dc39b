"""A merge as a YAML file: our keys, or those of the official ``merge_config/*.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from speechft.config import Config, build, read_yaml
from speechft.errors import ConfigError, unknown_choice

OFFICIAL_KEYS = (
    "merge_method",
    "alpha",
    "base_model_name",
    "base_model_ckpt_path",
    "finetune_model_paths",
    "output_dir",
)
OFFICIAL_OUTPUT = "merged_model.pt"
"""Name of the file that the official code writes into ``output_dir``."""

_HOME = "https://huggingface.co/s3prl/converted_ckpts/resolve/main/"
OFFICIAL_BASES = {
    "hubert": _HOME + "hubert_base_ls960.pt",
    "wav2vec2": _HOME + "wav2vec_small.pt",
    "wavlm_base_plus": _HOME + "wavlm_base_plus.pt",
    "decoar2": _HOME + "checkpoint_decoar2.pt",
}
"""Base models that the official code knows, and where their checkpoints are published."""


class MergeConfig(Config):
    """One merge."""

    base: str
    """The base: folder or file."""
    tuned: list[str]
    """Models tuned from it: folders or files."""
    alpha: float = 0.25
    """0 gives the base, 1 the mean of the tuned models."""
    out: str | None = None
    """Folder or file to write; may be given on the command line instead."""
    method: str = "linear"
    """Merge method."""
    to: Literal["hf", "s3prl"] | None = None
    """Format of the output; None goes by its name."""
    weight_norm: Literal["gv", "fused"] = "gv"
    """Space in which the position convolution is merged."""
    rules: dict[str, float | str] = Field(default_factory=dict)
    """Coefficients by layer, such as ``layers.0-3: 0.1``."""
    dtype: str = "auto"
    """Type of the output's tensors."""
    weights: list[float] | None = None
    """One weight per tuned model."""
    density: float | None = None
    """ties, dare: share of the entries that is kept."""
    trim: Literal["global", "tensor"] | None = None
    """ties: scope of the threshold."""
    election: Literal["unweighted", "weighted", "frequency"] | None = None
    """ties, dare-ties: what is summed for the sign."""
    divisor: Literal["count", "weight", "none"] | None = None
    """ties, dare-ties: what the agreeing entries are divided by."""
    rescale: Literal["density", "l1", "none"] | None = None
    """dare: how what is kept is scaled."""
    seed: int | None = None
    """dare: seed of the masks."""
    first: float | None = None
    """lines: coefficient of the first layer."""
    force: bool = False
    """Merge in spite of objections."""

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for `speechft.merging.merge`."""
        given = self.model_dump(exclude_none=True)
        given["rules"] = given.get("rules") or None
        return given


def read_merge_config(path: Path) -> MergeConfig:
    """Read a merge from YAML, with our keys or the official ones.

    Raises:
        ConfigError: The file cannot be read, or a key or value is wrong.
    """
    content = read_yaml(path)
    if any(key in content for key in OFFICIAL_KEYS if key != "alpha"):
        content = from_official(content, path)
    elif isinstance(content.get("tuned"), str):
        content = {**content, "tuned": [content["tuned"]]}
    return build(MergeConfig, content, str(path))


def from_official(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Translate the keys of an official merge configuration.

    Args:
        content: Keys and values.
        path: Where they come from, for messages.

    Raises:
        ConfigError: A key is unknown or missing, or the method is not one of the official code.
    """
    for key in content:
        if key not in OFFICIAL_KEYS:
            raise unknown_choice(f"key in {path}:", str(key), OFFICIAL_KEYS)
    method = content.get("merge_method", "linear")
    if method != "linear":
        raise ConfigError(
            f"{path}: merge_method is {method!r}, the official code has only 'linear'",
            hint="other methods go by our keys: base, tuned, alpha, method, out",
        )
    tuned = content.get("finetune_model_paths")
    if isinstance(tuned, str):
        tuned = [tuned]
    if not isinstance(tuned, list) or not tuned:
        raise ConfigError(f"{path}: finetune_model_paths must list at least one checkpoint")
    base = content.get("base_model_ckpt_path")
    if not base:
        name = str(content.get("base_model_name", ""))
        if name not in OFFICIAL_BASES:
            raise unknown_choice("base_model_name", name, OFFICIAL_BASES)
        raise ConfigError(
            f"{path}: base_model_ckpt_path is missing, and nothing is downloaded by name",
            hint=f"download {OFFICIAL_BASES[name]} and give its path as base_model_ckpt_path",
        )
    result: dict[str, Any] = {"base": base, "tuned": tuned}
    if "alpha" in content:
        result["alpha"] = content["alpha"]
    if content.get("output_dir"):
        result["out"] = str(Path(str(content["output_dir"])) / OFFICIAL_OUTPUT)
    return result
