"""The verb for discrete units: fit and apply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from speechft.cli.app import Device, Json, Out, Overwrite, app, tell_left_out
from speechft.commands import command
from speechft.console import say
from speechft.errors import ConfigError, unknown_choice

_ONLY = {
    "fit": ("clusters", "frames", "normalise", "seed", "mode"),
    "apply": ("units", "deduplicate", "allow_other_encoder"),
}
"""Options of one of the two."""


@app.command()
def units(
    action: Annotated[str, typer.Argument(metavar="fit|apply", help="Centroids, or their use.")],
    encoder: Annotated[str, typer.Argument(help="Folder, checkpoint file, packaged name, hub id.")],
    audio: Annotated[list[str], typer.Argument(help="Files, folders, CSVs, lhotse manifests.")],
    out: Out,
    layer: Annotated[str | None, typer.Option(help="last or a number. [default: last]")] = None,
    clusters: Annotated[int | None, typer.Option("-k", "--clusters", help="fit: 100.")] = None,
    frames: Annotated[int | None, typer.Option(help="fit: to 500,000 at most.")] = None,
    normalise: Annotated[str | None, typer.Option(help="fit: none or standard.")] = None,
    seed: Annotated[int | None, typer.Option(help="fit: 0.")] = None,
    mode: Annotated[str | None, typer.Option(help="fit: exact or s3prl.")] = None,
    units: Annotated[Path | None, typer.Option(help="apply: what fit wrote.")] = None,
    deduplicate: Annotated[
        bool, typer.Option("--deduplicate", help="apply: units once, with durations.")
    ] = False,
    allow_other_encoder: Annotated[
        bool, typer.Option("--allow-other-encoder", help="apply: of the same dimension.")
    ] = False,
    precision: Annotated[str, typer.Option(help="To compute in: fp32, bf16, auto.")] = "fp32",
    device: Device = "auto",
    batch_seconds: Annotated[float | None, typer.Option(help="Audio in a batch.")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Turn speech into discrete units: k-means on a layer's frames, as fairseq's .km lines.

    Example: speechft units fit tiny-hubert recordings/ --layer 2 --clusters 100 --out units
    """
    if action not in _ONLY:
        raise unknown_choice("action", action, _ONLY)
    given: dict[str, Any] = {
        "clusters": clusters,
        "frames": frames,
        "normalise": normalise,
        "seed": seed,
        "mode": mode,
        "units": units,
        "deduplicate": deduplicate or None,
        "allow_other_encoder": allow_other_encoder or None,
        "layer": layer,
    }
    options = {name: value for name, value in given.items() if value is not None}
    wrong = [name for name in options if name != "layer" and name not in _ONLY[action]]
    if wrong:
        raise ConfigError(f"--{wrong[0].replace('_', '-')} is no option of units {action}")
    how = {
        "precision": precision,
        "device": device,
        "batch_seconds": batch_seconds,
        "overwrite": overwrite,
    }
    if action == "fit":
        _fit(encoder, audio, out, as_json, {**options, **how})
    else:
        _apply(encoder, audio, out, as_json, {**options, **how})


def _fit(encoder: str, audio: list[str], out: Path, as_json: bool, options: dict[str, Any]) -> None:
    from speechft.units import fit_units

    report = fit_units(encoder, audio, out, **options)
    say(json.dumps(report.as_dict()) if as_json else "\n".join(report.lines()))
    if not as_json:
        again = command("units", "apply", encoder, "AUDIO...", units=out, out="speech-units")
        say(f"next: {again}")
    total = len(report.failed) + report.utterances
    tell_left_out("files were not used", list(report.failed), total)


def _apply(
    encoder: str, audio: list[str], out: Path, as_json: bool, options: dict[str, Any]
) -> None:
    from speechft.units import apply_units

    if "units" not in options:
        again = command("units", "apply", encoder, *audio, units="UNITS", out=out)
        raise ConfigError("units apply needs the centroids", hint=again)
    report = apply_units(encoder, audio, out, **options)
    say(json.dumps(report.as_dict()) if as_json else "\n".join(report.lines()))
    if not as_json:
        say(f"next: {out / 'units.km'} has a line an utterance, named in {out / 'units.jsonl'}")
    total = len(report.failed) + report.utterances
    tell_left_out("files have no units", list(report.failed), total)
