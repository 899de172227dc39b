"""The verb ``merge``: options and a YAML file become the arguments of `speechft.merging.merge`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechft.errors import ConfigError
from speechft.merging.api import merge
from speechft.merging.report import MergeReport


def merge_verb(
    given: Mapping[str, Any],
    config: Path | None,
    rules: Sequence[str],
    options: Sequence[str],
    dry_run: bool,
    force: bool,
    command: str,
) -> MergeReport:
    """Merge by command line; what is given there overrides the file.

    Args:
        given: Arguments of `merge`, None where they were not given.
        config: YAML file with our keys or the official ones.
        rules: Coefficients by layer, ``"layers.0-3: 0.1"``.
        options: Options of the method, ``density=0.2``.
        dry_run: Check everything, write nothing.
        force: Override objections.
        command: Command line, for the model card.

    Raises:
        ConfigError: Something is missing or malformed.
    """
    arguments: dict[str, Any] = {}
    if config is not None:
        from speechft.merging.recipe import read_merge_config  # pydantic and yaml cost 0.1 s

        arguments |= read_merge_config(config).arguments()
    arguments |= {name: value for name, value in given.items() if value is not None}
    if given.get("alpha") is not None and arguments.get("method") == "model-stock":
        raise ConfigError(
            "method 'model-stock' finds the alpha of every tensor itself",
            hint="leave --alpha out",
        )
    if options:
        from speechft.config import apply_overrides

        arguments |= apply_overrides({}, options)
    if rules:
        arguments["rules"] = list(rules)
    force = bool(arguments.pop("force", False)) or force
    missing = [name for name in ("base", "tuned") if not arguments.get(name)]
    if not arguments.get("out") and not dry_run:
        missing.append("--out")
    if missing:
        raise ConfigError(
            f"merge lacks {', '.join(missing)}",
            hint="speechft merge BASE TUNED --alpha 0.25 --out merged",
        )
    report = merge(dry_run=dry_run, force=force, command=command, **arguments)
    assert isinstance(report, MergeReport)
    return report
