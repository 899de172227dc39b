"""A merge out of a YAML file, with our keys or the official ones, and of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from speechft.commands import command
from speechft.errors import ConfigError, nearest, unknown_choice
from speechft.merging.config import MergeConfig
from speechft.merging.methods import METHODS
from speechft.storage.files import read_yaml

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

OUR_KEYS = tuple(f.name for f in fields(MergeConfig) if f.name != "dry_run")


def merge_config(given: Mapping[str, Any], file: Path | None = None) -> MergeConfig:
    """Return a merge; what is given on the command line overrides the file, key by key.

    Args:
        given: Fields of `MergeConfig`, None where they were not given; ``options`` and ``rules`` as
            text, ``KEY=VALUE`` and ``SELECTOR: VALUE``.
        file: YAML with our keys or those of the official ``merge_config/*.yaml``.

    Raises:
        ConfigError: Something is missing, unknown, malformed, or given twice.
    """
    content = {} if file is None else read_merge_file(file)
    content |= {n: v for n, v in given.items() if v is not None and n != "options"}
    options = {**content.get("options", {}), **split_options(given.get("options") or ())}
    missing = [name for name in ("base", "tuned") if not content.get(name)]
    if not content.get("out") and not content.get("dry_run"):
        missing.append("--out")
    if missing:
        raise ConfigError(
            f"merge lacks {', '.join(missing)}",
            hint=command("merge", "BASE", "TUNED", alpha="0.25", out="merged"),
        )
    return MergeConfig(**{**content, "options": options})


def split_options(texts: str | Sequence[str]) -> dict[str, str]:
    """Return ``KEY=VALUE`` texts, or one of them, as values by key.

    Raises:
        ConfigError: One has no ``=``, or a key is given twice.
    """
    options: dict[str, str] = {}
    for text in [texts] if isinstance(texts, str) else texts:
        name, separator, value = (part.strip() for part in text.partition("="))
        if not separator or not name:
            raise ConfigError(
                f"option {text!r} is not of the form key=value",
                hint="write for example --option density=0.3",
            )
        if name in options:
            raise ConfigError(f"option {name} is given twice: {options[name]} and {value}")
        options[name] = value
    return options


def read_merge_file(path: Path) -> dict[str, Any]:
    """Read a merge from YAML, with our keys or the official ones, as fields of `MergeConfig`.

    Raises:
        ConfigError: The file cannot be read, is about something else, or a key is wrong.
    """
    content = read_yaml(path)
    official = [key for key in content if key in OFFICIAL_KEYS and key != "alpha"]
    own = [key for key in content if key in OUR_KEYS and key != "alpha"]
    if official and own:
        raise ConfigError(
            f"{path} mixes keys of the official merge_config ({', '.join(official)}) with ours "
            f"({', '.join(own)})",
            hint=f"use one of the two; ours are {', '.join(OUR_KEYS)}",
        )
    return _from_official(content, path) if official else _from_ours(content, path)


def _from_ours(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return our keys with the options of the method, which may stand beside them, in one place."""
    known = {name for method in METHODS.values() for name in method.option_names()}
    unknown = [str(key) for key in content if key not in (*OUR_KEYS, *known)]
    if unknown:
        _refuse_other_file(content, unknown, path)
        near = nearest(unknown[0], [*OUR_KEYS, *known])
        raise ConfigError(
            f"{path}: unknown key {unknown[0]!r}; valid keys are: {', '.join(OUR_KEYS)} and the "
            "options of the method",
            hint=f"did you mean {near!r}?" if near else None,
        )
    options = content.get("options") or {}
    if not isinstance(options, Mapping):
        raise ConfigError(f"{path}: options are {options!r}, expected a value by name")
    beside = {key: value for key, value in content.items() if key not in OUR_KEYS}
    for name in beside:
        if name in options:
            raise ConfigError(f"{path}: {name} is given twice, below options and beside them")
    result = {key: value for key, value in content.items() if key in OUR_KEYS and value is not None}
    for key in ("base", "tuned"):
        if key in result and not _is_source(result[key], several=key == "tuned"):
            raise ConfigError(
                f"{path}: {key} is {result[key]!r}, expected the name of a folder or file"
                f"{', or a list of them' if key == 'tuned' else ''}"
            )
    return {**result, "options": {**options, **beside}}


def _is_source(value: Any, *, several: bool) -> bool:
    if several and isinstance(value, list):
        return bool(value) and all(_is_source(one, several=False) for one in value)
    return isinstance(value, str) and bool(value)


def _refuse_other_file(content: Mapping[str, Any], unknown: Sequence[str], path: Path) -> None:
    """Refuse a file that is about something else, and say what it is."""
    if "evidence" in content and "tuned_digests" in content:
        what = "is the report of a finished merge"
    elif "model_type" in content or "architectures" in content:
        what = f"is the configuration of an encoder ({content.get('model_type', 'no model_type')})"
    elif "finetuning" in content:
        what = "is a recipe, for speechft run"
    elif not any(key in content for key in ("base", "tuned", "out")):
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        what = f"holds {', '.join(unknown[:3])}{more}"
    else:
        return
    near = nearest(unknown[0], OUR_KEYS)
    raise ConfigError(
        f"{path} {what}; expected a merge with the keys base, tuned, alpha, out, method",
        hint=f"did you mean {near!r}?" if near and len(unknown) == 1 else None,
    )


def _from_official(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Translate the keys of an official merge configuration.

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
    if not _is_source(tuned, several=True):
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
    result: dict[str, Any] = {"base": str(base), "tuned": tuned}
    if content.get("alpha") is not None:
        result["alpha"] = content["alpha"]
    if content.get("output_dir"):
        result["out"] = str(Path(str(content["output_dir"])) / OFFICIAL_OUTPUT)
    return result
