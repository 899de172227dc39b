"""The verbs that judge and show: evaluate, analyze, report and compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from speechft.cli import complete
from speechft.cli.app import CORPUS_NAMES, Device, Json, Out, Overwrite, Set, app
from speechft.commands import command
from speechft.console import say


@app.command()
def evaluate(
    encoders: Annotated[list[str], typer.Argument(metavar="ENCODER...")],
    out: Out,
    tasks: Annotated[
        str,
        typer.Option(
            help="Tasks with commas: 'all' ten of SUPERB, 'label:COLUMN'; or 'available'.",
            autocompletion=complete.tasks,
        ),
    ] = "available",
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            *CORPUS_NAMES,
            help="Corpus; repeatable. [default: synthetic]",
            autocompletion=complete.corpora,
        ),
    ] = None,
    protocol: Annotated[str, typer.Option(help="mini, default or s3prl.")] = "mini",
    seed: Annotated[int, typer.Option(help="Seed of the probes.")] = 0,
    seeds: Annotated[int, typer.Option(help="Probe seeds: weights, dropout and order.")] = 1,
    layers: Annotated[
        str | None,
        typer.Option(help="Probes on single layers too: all, last, or numbers: 6,9-12."),
    ] = None,
    mode: Annotated[str, typer.Option(help="exact or s3prl.")] = "exact",
    limit: Annotated[int | None, typer.Option(help="Utterances of a split at most.")] = None,
    cache: Annotated[str | None, typer.Option(help="Folder of features. [OUT/cache]")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep none on disk.")] = False,
    frame_cache_gb: Annotated[float | None, typer.Option(help="Quota of frames in it.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")] = None,
    device: Device = "auto",
    language_model: Annotated[
        str | None, typer.Option(help="Word n-gram model for asr, .arpa or .arpa.gz.")
    ] = None,
    set_: Set = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Probe frozen encoders on several tasks; the same command goes on after a stop.

    Example: speechft evaluate tiny-hubert merged --tasks pr,sid --out runs/eval
    """
    from speechft import api
    from speechft.cli.tables import print_results

    rows = api.evaluate(
        encoders,
        out=out,
        tasks=tasks,
        corpus=corpus or "synthetic",
        protocol=protocol,
        seed=seed,
        seeds=seeds,
        layers=layers,
        mode=mode,
        limit=limit,
        cache=cache or not no_cache,
        frame_cache_gb=frame_cache_gb,
        precision=precision,
        device=device,
        language_model=language_model,
        overrides=set_ or (),
        overwrite=overwrite,
    )
    if as_json:
        say("\n".join(json.dumps(row.as_dict()) for row in rows))
    else:
        print_results(rows, protocol)
        say(f"wrote {out / 'results.jsonl'}\nnext: {command('compare', out)}")


@app.command()
def analyze(
    base: Annotated[str, typer.Argument(help="What the encoders were tuned from.")],
    encoders: Annotated[list[str], typer.Argument(metavar="ENCODER...")],
    out: Out,
    corpus: Annotated[
        str,
        typer.Option(*CORPUS_NAMES, help="Name, CSV or folder.", autocompletion=complete.corpora),
    ] = "synthetic",
    split: Annotated[str | None, typer.Option(help="Of the corpus. [default: dev]")] = None,
    measures: Annotated[
        str,
        typer.Option(
            help="With commas: similarity, linearity, weights, cca, abx, speaker, knn; 'available'."
        ),
    ] = "available",
    layers: Annotated[str, typer.Option(help="all, last, or numbers: 6,9-12.")] = "all",
    relative_depth: Annotated[
        bool, typer.Option("--relative-depth", help="Compare other shapes, by CKA alone.")
    ] = False,
    alpha: Annotated[float, typer.Option(help="Where linearity is measured.")] = 0.5,
    limit: Annotated[int, typer.Option(help="Utterances at most.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16 or auto.")] = "fp32",
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Say, layer by layer, what fine-tuning did to encoders: features, weights, phones, speakers.

    Example: speechft analyze tiny-hubert runs/sid/encoder --out runs/analysis
    """
    from speechft.analysis.sentences import sentences
    from speechft.reporting.analysis import analyze as analyze_encoders

    rows = analyze_encoders(
        base,
        encoders,
        out=out,
        corpus=corpus,
        split=split,
        measures=measures,
        layers=layers,
        relative_depth=relative_depth,
        alpha=alpha,
        limit=limit,
        seed=seed,
        precision=precision,
        device=device,
        overwrite=overwrite,
    )
    if as_json:
        say("\n".join(json.dumps(row.as_dict()) for row in rows))
        return
    for question, texts in sentences(rows).items():
        say("\n".join(f"{question:10}  {text}" for text in texts))
    say(f"wrote {out / 'analysis.jsonl'} and {out / 'analysis.md'}")


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for report.html. [DIR]")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Rebuild report.html from the files of a folder, or of several side by side.

    DIR is what run, finetune, evaluate, analyze or a sweep wrote. Nothing is computed again.

    Example: speechft report runs/demo runs/mine --out runs/both
    """
    from speechft import api

    page = api.report(folders, out=out, overwrite=overwrite)
    say(json.dumps({"report": str(page)}) if as_json else f"wrote {page}")


@app.command()
def compare(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS...")],
    baseline: Annotated[
        str | None, typer.Option(help="Encoder to compare with. [their base, else the first]")
    ] = None,
    as_format: Annotated[
        str,
        typer.Option("--format", help="table; csv or latex: the SUPERB row beside published ones."),
    ] = "table",
    as_json: Json = False,
) -> None:
    """Print differences between evaluated encoders on the same items, with intervals.

    Drawn for an interval are groups of items, such as speakers; items where there are no groups.

    Example: speechft compare runs/eval --baseline tiny-hubert
    """
    from dataclasses import asdict

    from speechft import api
    from speechft.console import log, print_table
    from speechft.errors import ConfigError, unknown_choice
    from speechft.evaluation.compare import difference_table
    from speechft.evaluation.superb_table import as_csv, as_latex

    written = {"csv": as_csv, "latex": as_latex}
    if as_format in written:
        asked = [
            *(["--baseline"] if baseline is not None else []),
            *(["--json"] if as_json else []),
        ]
        if asked:
            raise ConfigError(
                f"{' and '.join(asked)} cannot be used with --format {as_format}, which holds "
                "figures beside published ones, no differences",
                hint="leave one of them out: differences are --format table, the default",
            )
        table = api.superb_table(results)
        say(written[as_format](table), end="")
        for note in table.notes if as_format == "csv" else ():
            log(note)
        return
    if as_format != "table":
        raise unknown_choice("format", as_format, ["table", *written])

    found = api.compare(results, baseline=baseline)
    if as_json:
        say("\n".join(json.dumps(asdict(difference)) for difference in found))
        return
    print_table(f"differences to {found[0].baseline}", *difference_table(found))
