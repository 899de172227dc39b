"""The verbs for a single encoder: convert, inspect, extract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from speechft.cli.app import Config, Device, Json, Nonfinite, Out, Overwrite, app, tell_left_out
from speechft.commands import command
from speechft.console import is_main_process, say


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="Encoder folder, file or hub id.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder (hf) or .pt file (s3prl).")],
    from_: Annotated[str, typer.Option("--from", help="auto, s3prl, fairseq, spin, hf.")] = "auto",
    to: Annotated[str | None, typer.Option(help="hf or s3prl; goes by OUT's name.")] = None,
    config: Config = None,
    allow_nonfinite: Nonfinite = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Convert an encoder between Hugging Face, s3prl, fairseq and SPIN, and prove that it is equal.

    Example: speechft convert dev-best.ckpt encoder --from s3prl
    """
    from speechft.encoders.convert import convert as convert_encoder

    report = convert_encoder(
        source,
        out,
        source_format=from_,
        target=to,
        config=config,
        allow_nonfinite=allow_nonfinite,
        overwrite=overwrite,
    )
    say(json.dumps(report.as_dict()) if as_json else "\n".join(report.lines()))
    if not as_json:
        again = command("extract", out, "AUDIO...", out="feats")
        say(f"wrote {out}\nnext: {again}")


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(help="Encoder, checkpoint, table, folder, recording.")],
    config: Config = None,
    bases: Annotated[
        Path | None, typer.Option(help="Folder: which encoder below it was PATH tuned from?")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what an encoder, checkpoint, table, folder, manifest or recording is, and what is read.

    Example: speechft inspect dev-best.ckpt --json
    """
    from speechft import api

    found = api.inspect(path, config, bases)
    say(json.dumps(found.as_dict()) if as_json else "\n".join(found.lines()))


@app.command()
def extract(
    encoder: Annotated[str, typer.Argument(help="Folder, checkpoint file, packaged name, hub id.")],
    audio: Annotated[list[str], typer.Argument(help="Files, folders, CSVs, lhotse manifests.")],
    out: Out,
    layer: Annotated[str, typer.Option(help="all, last, or numbers: 0,6,9-12.")] = "all",
    mode: Annotated[str, typer.Option(help="exact or s3prl.")] = "exact",
    format_: Annotated[str, typer.Option("--format", help="safetensors or npy.")] = "safetensors",
    dtype: Annotated[str, typer.Option(help="On disk: float32, float16, bfloat16.")] = "float32",
    precision: Annotated[str, typer.Option(help="To compute in: fp32, bf16, auto.")] = "fp32",
    device: Device = "auto",
    batch_seconds: Annotated[float | None, typer.Option(help="Audio in a batch.")] = None,
    config: Config = None,
    allow_nonfinite: Nonfinite = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write hidden states, a file for each utterance; run it again to go on after a stop.

    Example: speechft extract tiny-hubert recordings/ --layer last --out feats
    """
    from speechft.cli.tables import extraction_lines
    from speechft.features.files import extract_files

    options: dict[str, Any] = {
        "layer": layer,
        "mode": mode,
        "format": format_,
        "dtype": dtype,
        "precision": precision,
        "device": device,
        "batch_seconds": batch_seconds,
        "config": config,
        "allow_nonfinite": allow_nonfinite,
        "overwrite": overwrite,
    }
    report = extract_files(encoder, audio, out, **options)
    say(json.dumps(report.as_dict()) if as_json else "\n".join(extraction_lines(report)))
    if report.failed and not is_main_process():
        raise typer.Exit(1)  # the first process says why
    total = len(report.failed) + report.written + report.skipped
    tell_left_out("files have no features", list(report.failed), total)
