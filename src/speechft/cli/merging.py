"""The verbs that work on weights alone: merge and delta."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from speechft.cli.app import Json, Overwrite, app
from speechft.commands import command
from speechft.console import say
from speechft.merging.checks import CHECKS, FORCED
from speechft.merging.methods import METHODS

Allow = Annotated[str | None, typer.Option(help=f"Checks that may fail: {','.join(CHECKS)}.")]
Force = Annotated[bool, typer.Option("--force", help=f"The same as --allow {','.join(FORCED)}.")]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="Of the method: density=0.2."),
]


@app.command()
def merge(
    base: Annotated[str | None, typer.Argument(help="Encoder folder, file or hub id.")] = None,
    tuned: Annotated[list[str] | None, typer.Argument(help="One or several tuned from it.")] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="Folder, .pt or .safetensors.")
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="0: base, 1: tuned. [default: 0.25]")] = None,
    method: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(METHODS)} [default: linear]; help tells their options."),
    ] = None,
    to: Annotated[str | None, typer.Option(help="hf or s3prl; goes by OUT's name.")] = None,
    weight_norm: Annotated[str | None, typer.Option(help="gv (official) or fused.")] = None,
    rules: Annotated[
        list[str] | None,
        typer.Option("--alpha-rule", help="Such as 'layers.0-3: 0.1'; repeatable."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, keep, float32, float16, ...")] = None,
    options: Options = None,
    config: Annotated[Path | None, typer.Option(help="YAML, ours or the official one.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all, write nothing.")] = False,
    allow: Allow = None,
    force: Force = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Interpolate a base with encoders tuned from it: Speech-FT for what you have already.

    Example: speechft merge tiny-hubert runs/sid/encoder --alpha 0.25 --out merged
    """
    if method == "help":
        from speechft.merging.methods import describe_methods

        say("\n".join(describe_methods()))
        return
    from speechft.merging.config_file import merge_config
    from speechft.merging.execution import write_merge
    from speechft.storage.outputs import overwriting

    given = {
        "base": base,
        "tuned": tuned or None,
        "out": out,
        "alpha": alpha,
        "method": method,
        "to": to,
        "weight_norm": weight_norm,
        "rules": rules or None,
        "dtype": dtype,
        "options": options,
        "dry_run": dry_run or None,
        "allow": allow,
        "force": force or None,
    }
    with overwriting(overwrite):
        report = write_merge(merge_config(given, config))
    say(json.dumps(report.as_dict(), default=str) if as_json else "\n".join(report.lines()))
    if report.out is not None and not as_json:
        say(f"wrote {report.out}")
        if report.out.is_dir():
            say(f"next: {command('evaluate', report.out, out='runs/eval')}")


@app.command()
def delta(
    base: str,
    tuned: str,
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to write.")],
    dtype: Annotated[str, typer.Option(help="float32, float16 or int8.")] = "float32",
    rank: Annotated[
        int | None, typer.Option(help="Write a PEFT folder OUT instead: the nearest LoRA.")
    ] = None,
    allow: Allow = None,
    force: Force = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write what fine-tuning changed as a small file that `merge` takes instead of the model.

    Example: speechft delta tiny-hubert runs/sid/encoder --out sid.safetensors --dtype float16
    """
    from speechft.merging import make_delta

    report = make_delta(
        base,
        tuned,
        out,
        dtype=dtype,
        rank=rank,
        allow=allow or (),
        force=force,
        overwrite=overwrite,
    )
    say(json.dumps(report.as_dict()) if as_json else "\n".join(report.lines()))
    if not as_json:
        again = command("merge", base, report.out, alpha="0.25", out="merged")
        say(f"next: {again}")
