"""The verbs that use what was trained: predict and export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from speechft.cli import complete
from speechft.cli.app import Device, Json, Overwrite, app, tell_left_out
from speechft.commands import command
from speechft.console import say

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="OUT of finetune, run or evaluate; or one head.")
]
Name = Annotated[str | None, typer.Option(help="Encoder in MODEL's results, if there are more.")]
Task = Annotated[
    str | None,
    typer.Option(help="Its task, where there are more.", autocompletion=complete.tasks),
]
Encoder = Annotated[str | None, typer.Option(help="Where its encoder lies now, if moved.")]


@app.command()
def predict(
    model: Model,
    audio: Annotated[list[str], typer.Argument(help="Files, folders, CSVs, manifests.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File; of several VTT a folder.")],
    format_: Annotated[
        str | None, typer.Option("--format", help="jsonl, csv, rttm, vtt. [by the suffix of OUT]")
    ] = None,
    name: Name = None,
    task: Task = None,
    encoder: Encoder = None,
    language_model: Annotated[
        str | None, typer.Option(help="For asr: .arpa or .arpa.gz, or 'none'.")
    ] = None,
    window: Annotated[float, typer.Option(help="Seconds; longer audio is heard in parts.")] = 60.0,
    context: Annotated[float, typer.Option(help="Seconds that parts share, each side.")] = 5.0,
    batch_seconds: Annotated[float | None, typer.Option(help="Audio in a batch.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Say what a trained head hears in recordings; the same command goes on after a stop.

    Example: speechft predict runs/asr recordings/ --out text.jsonl
    """
    from speechft.prediction.predict import predict as write_predictions

    options: dict[str, Any] = {
        "format": format_,
        "name": name,
        "task": task,
        "encoder": encoder,
        "language_model": language_model,
        "window": window,
        "context": context,
        "batch_seconds": batch_seconds,
        "precision": precision,
        "device": device,
        "overwrite": overwrite,
    }
    report = write_predictions(model, audio, out, **options)
    say(json.dumps(report.as_dict()) if as_json else "\n".join(report.lines()))
    total = report.written + len(report.failed)
    tell_left_out("recordings have no answer", list(report.failed), total)


@app.command()
def export(
    model: Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder.")],
    name: Name = None,
    task: Task = None,
    encoder: Encoder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write an encoder with its head as transformers loads them, and prove that they are equal.

    Example: speechft export runs/asr exported
    """
    from speechft.exporting.export import export as write_export

    report = write_export(model, out, name=name, task=task, encoder=encoder, overwrite=overwrite)
    say(json.dumps(report.as_dict()) if as_json else "\n".join(report.lines()))
    if not as_json:
        say(f"wrote {out}\nnext: {command('publish', out, repo_id='USER/NAME', dry_run=True)}")
