"""The verbs that judge: evaluate and compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from speechft.cli.app import Json, Out, app


@app.command()
def evaluate(
    encoders: Annotated[list[str], typer.Argument(metavar="ENCODER...")],
    out: Out,
    tasks: Annotated[
        str, typer.Option(help="Tasks with commas, 'all' ten of SUPERB, or 'available'.")
    ] = "available",
    corpus: Annotated[
        list[str] | None,
        typer.Option("--corpus", "--manifests", help="Corpus; repeatable. [default: synthetic]"),
    ] = None,
    protocol: Annotated[str, typer.Option(help="mini, default or s3prl.")] = "mini",
    seed: Annotated[int, typer.Option(help="Seed of the probes.")] = 0,
    seeds: Annotated[int, typer.Option(help="Probe seeds, trained side by side.")] = 1,
    cache: Annotated[str | None, typer.Option(help="Folder of features. [OUT/cache]")] = None,
    frame_cache_gb: Annotated[float | None, typer.Option(help="Quota of frames in it.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")] = None,
    language_model: Annotated[
        str | None, typer.Option(help="Word n-gram model for asr, .arpa or .arpa.gz.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Probe frozen encoders on several tasks; the same command goes on after a stop.

    Example: speechft evaluate tiny-hubert merged --tasks pr,sid --out runs/eval
    """
    from speechft import pipeline
    from speechft.evaluation.verb import evaluation_config, result_lines

    options = {"protocol": protocol, "seeds": seeds, "precision": precision}
    options |= {"cache": cache or str(out / "cache"), "frame_cache_gb": frame_cache_gb}
    options |= {"language_model": language_model}
    config = evaluation_config(tasks, options)
    rows = pipeline.evaluate(encoders, corpus or ["synthetic"], config, out, seed=seed)
    if as_json:
        typer.echo("\n".join(json.dumps(row.as_dict()) for row in rows))
    else:
        result_lines(rows, protocol)
        typer.echo(f"wrote {out / 'results.jsonl'}\nnext: speechft compare {out}")


@app.command()
def compare(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS...")],
    baseline: Annotated[str | None, typer.Option(help="Encoder to compare with. [first]")] = None,
    as_json: Json = False,
) -> None:
    """Print differences between evaluated encoders on the same items, with intervals.

    Example: speechft compare runs/eval --baseline tiny-hubert
    """
    from speechft.evaluation.verb import compare_verb

    compare_verb(results, baseline, as_json=as_json)
