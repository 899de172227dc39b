"""The verbs that look for a merge: sweep and search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from speechft.cli import complete
from speechft.cli.app import CORPUS_NAMES, Device, Json, Out, Overwrite, Set, app
from speechft.commands import command
from speechft.console import say

Tuned = Annotated[list[str], typer.Argument(metavar="TUNED...", help="Tuned from the base.")]
Tasks = Annotated[
    str, typer.Option(help="Tasks with commas, or 'available'.", autocompletion=complete.tasks)
]
CorpusOption = Annotated[
    list[str] | None,
    typer.Option(
        *CORPUS_NAMES,
        help="Corpus; repeatable. [default: synthetic]",
        autocompletion=complete.corpora,
    ),
]
TunedOn = Annotated[str, typer.Option(help="Tasks tuned on. [told by TUNED's folder]")]
KeepWithin = Annotated[float, typer.Option(help="Points that may be lost elsewhere (90 % bound).")]
Protocol = Annotated[str, typer.Option(help="mini, default or s3prl.")]
Seed = Annotated[int, typer.Option(help="Seed of the probes.")]
Seeds = Annotated[int, typer.Option(help="Probe seeds.")]
Limit = Annotated[int | None, typer.Option(help="Utterances of a split at most.")]
Precision = Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")]
WeightNorm = Annotated[str, typer.Option(help="gv (official) or fused.")]
DType = Annotated[str, typer.Option(help="auto, keep, float32, float16, ...")]


@app.command()
def sweep(
    base: str,
    tuned: Tuned,
    out: Out,
    alphas: Annotated[str, typer.Option(help="FIRST:LAST:STEP, or with commas.")] = "0:1:0.1",
    by: Annotated[str | None, typer.Option(help="layers or module: each part alone.")] = None,
    tasks: Tasks = "available",
    corpus: CorpusOption = None,
    tuned_on: TunedOn = "",
    keep_within: KeepWithin = 1.0,
    method: Annotated[str, typer.Option(help="Of merge, with an alpha.")] = "linear",
    options: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="Of the method: density=0.2."),
    ] = None,
    rules: Annotated[
        list[str] | None, typer.Option("--alpha-rule", help="Parts that do not move; see merge.")
    ] = None,
    weight_norm: WeightNorm = "gv",
    dtype: DType = "auto",
    extrapolate: Annotated[
        bool, typer.Option("--extrapolate", help="Take alphas outside 0 to 1.")
    ] = False,
    test: Annotated[bool, typer.Option("--test", help="Report test; dev still chooses.")] = False,
    suggest: Annotated[
        bool,
        typer.Option(
            "--suggest", help="An alpha without labels of other tasks instead: not yet judged."
        ),
    ] = False,
    protocol: Protocol = "mini",
    seed: Seed = 0,
    seeds: Seeds = 1,
    limit: Limit = None,
    precision: Precision = None,
    device: Device = "auto",
    set_: Set = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Find the alpha to merge with: measure merges on dev, none of them written to disk.

    Example: speechft sweep tiny-hubert runs/sid/encoder --tasks sid,pr --out runs/sweep
    """
    from speechft import api
    from speechft.console import print_table
    from speechft.sweeping.sweep import table

    found = api.sweep(
        base,
        tuned,
        out=out,
        alphas=alphas,
        by=by,
        tasks=tasks,
        corpus=corpus or "synthetic",
        tuned_on=tuned_on,
        keep_within=keep_within,
        method=method,
        options=options or (),
        rules=rules or (),
        weight_norm=weight_norm,
        dtype=dtype,
        extrapolate=extrapolate,
        test=test,
        suggest=suggest,
        protocol=protocol,
        seed=seed,
        seeds=seeds,
        limit=limit,
        precision=precision,
        device=device,
        overrides=set_ or (),
        overwrite=overwrite,
    )
    if as_json:
        told = [row.as_dict() for row in found.rows]
        told += [found.suggestion.as_dict()] if suggest else []
        say("\n".join(map(json.dumps, told)))
        return
    if suggest:
        say(f"suggested alpha (not yet judged): {found.suggestion.alpha:g}")
        say(f"{found.suggestion.reason}\nwrote {out / 'suggestion.json'}")
        say(f"next: {found.command}")
        return
    print_table("points gained over the base on dev, in brackets paired 90 %", *table(found))
    _print_choice(out, None if found.choice is None else found.choice.point.name, found.command)


@app.command()
def search(
    base: str,
    tuned: Tuned,
    out: Out,
    trials: Annotated[int, typer.Option(help="Merges to measure.")] = 30,
    groups: Annotated[int, typer.Option(help="Groups of layers with an alpha each.")] = 3,
    methods: Annotated[
        str, typer.Option(help="Of merge, with commas: those with alphas by layer.")
    ] = "linear",
    tasks: Tasks = "available",
    corpus: CorpusOption = None,
    tuned_on: TunedOn = "",
    keep_within: KeepWithin = 1.0,
    weight_norm: WeightNorm = "gv",
    dtype: DType = "auto",
    test: Annotated[bool, typer.Option("--test", help="Report the choice on test.")] = False,
    protocol: Protocol = "mini",
    seed: Seed = 0,
    seeds: Seeds = 1,
    limit: Limit = None,
    precision: Precision = None,
    device: Device = "auto",
    set_: Set = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Search alphas by layer group, and a method: on one half of dev, chosen on the other.

    Example: speechft search tiny-hubert runs/sid/encoder --tasks sid,pr --out runs/search
    """
    from speechft import api
    from speechft.console import print_table
    from speechft.sweeping.sweep import table

    found = api.search(
        base,
        tuned,
        out=out,
        trials=trials,
        groups=groups,
        methods=methods,
        tasks=tasks,
        corpus=corpus or "synthetic",
        tuned_on=tuned_on,
        keep_within=keep_within,
        weight_norm=weight_norm,
        dtype=dtype,
        test=test,
        protocol=protocol,
        seed=seed,
        seeds=seeds,
        limit=limit,
        precision=precision,
        device=device,
        overrides=set_ or (),
        overwrite=overwrite,
    )
    if as_json:
        say("\n".join(json.dumps(row.as_dict()) for row in found.rows))
        return
    title = "points gained over the base on the half of dev that chooses, in brackets paired 90 %"
    print_table(title, *table(found))
    say(f"wrote {out / 'results.jsonl'}, {out / 'search.json'}, {found.config}")
    say(f"choice: {found.choice.point.name}")
    say(f"next: {command('merge', config=found.config, out='merged')}")


def _print_choice(out: Path, name: str | None, command: str | None) -> None:
    say(f"wrote {out / 'results.jsonl'}, {out / 'sweep.json'}")
    if name is not None:
        say(f"choice: {name}\nnext: {command}")
