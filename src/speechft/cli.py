"""The command line: each verb wires parts together; heavy imports happen inside the verb."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from speechft.errors import SpeechftError

app = typer.Typer(
    name="speechft",
    help="Fine-tune speech encoders without making them forget: fine-tune, merge, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override a key.")
]
Config = Annotated[
    Path | None, typer.Option(help="Configuration, where the checkpoint does not tell it.")
]
Nonfinite = Annotated[bool, typer.Option("--allow-nonfinite", help="Accept NaN weights.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def main() -> None:
    """Run the command line; the user's mistakes end with one message and exit code 1."""
    try:
        app()
    except SpeechftError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _version(show: bool) -> None:
    if show:
        from speechft import __version__

        typer.echo(f"speechft {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


def _command() -> str:
    return shlex.join(["speechft", *sys.argv[1:]])


@app.command()
def demo(out: Out = Path("runs/demo"), set_: Set = None) -> None:
    """Run the whole method on embedded speech in minutes; the same as `run demo`.

    Example: speechft demo --out runs/demo
    """
    run("demo", out, set_)


@app.command()
def run(recipe: str, out: Out, set_: Set = None) -> None:
    """Fine-tune, merge, evaluate and report, by a recipe; run it again to go on after a stop.

    Example: speechft run demo --out runs/mine --set data.corpus=my.csv
    """
    from speechft import pipeline
    from speechft.finetuning.distributed import leading
    from speechft.recipe import Recipe, load_recipe

    with leading() as first:
        if first:
            pipeline.run(load_recipe(Recipe, recipe, set_ or ()), out, command=_command())


@app.command()
def finetune(
    recipe: str,
    out: Out,
    strategy: Annotated[
        str | None, typer.Option(help="stable, plain, l2sp, lora, dora, distill, early-...")
    ] = None,
    set_: Set = None,
) -> None:
    """Fine-tune the encoder of a recipe; the result is in OUT/encoder.

    Example: speechft finetune demo --out runs/sid --strategy stable --set finetuning.steps=300
    """
    from speechft import pipeline
    from speechft.finetuning.distributed import leading
    from speechft.recipe import Recipe, load_recipe

    chosen = [f"finetuning.strategy={strategy}"] if strategy else []
    with leading() as first:
        if not first:
            return
        loaded = load_recipe(Recipe, recipe, [*(set_ or ()), *chosen])
        encoder = pipeline.finetune_recipe(loaded, out)
    typer.echo(f"tuned encoder: {encoder}")
    typer.echo(f"next: speechft merge BASE {encoder} --alpha 0.25 --out merged")


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


@app.command()
def merge(
    base: Annotated[str | None, typer.Argument(help="Encoder folder, file or hub id.")] = None,
    tuned: Annotated[list[str] | None, typer.Argument(help="One or several tuned from it.")] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="Folder, .pt or .safetensors.")
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="0: base, 1: tuned. [default: 0.25]")] = None,
    method: Annotated[str | None, typer.Option(help="linear, ties, lines, ... [linear]")] = None,
    to: Annotated[str | None, typer.Option(help="hf or s3prl; goes by OUT's name.")] = None,
    weight_norm: Annotated[str | None, typer.Option(help="gv (official) or fused.")] = None,
    alpha_rule: Annotated[
        list[str] | None, typer.Option(help="Such as 'layers.0-3: 0.1'; repeatable.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, keep, float32, float16, ...")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of the method: density=0.2.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML, ours or the official one.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all, write nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Override objections.")] = False,
    as_json: Json = False,
) -> None:
    """Interpolate a base with encoders tuned from it: Speech-FT for what you have already.

    Example: speechft merge tiny-hubert runs/sid/encoder --alpha 0.25 --out merged
    """
    from speechft.merging.verb import merge_verb

    given = {
        "base": base,
        "tuned": tuned or None,
        "out": out,
        "alpha": alpha,
        "method": method,
        "to": to,
        "weight_norm": weight_norm,
        "dtype": dtype,
    }
    report = merge_verb(given, config, alpha_rule or [], option or [], dry_run, force, _command())
    typer.echo(json.dumps(report.as_dict(), default=str) if as_json else "\n".join(report.lines()))
    if report.out is not None and not as_json:
        typer.echo(f"wrote {report.out}")
        if report.out.is_dir():
            typer.echo(f"next: speechft evaluate {report.out} --out runs/eval")


@app.command()
def delta(
    base: str,
    tuned: str,
    out: Out,
    dtype: Annotated[str, typer.Option(help="float32, float16 or int8.")] = "float32",
    force: Annotated[bool, typer.Option("--force", help="Override objections.")] = False,
    as_json: Json = False,
) -> None:
    """Write what fine-tuning changed as a small file that `merge` takes instead of the model.

    Example: speechft delta tiny-hubert runs/sid/encoder --out sid.safetensors --dtype float16
    """
    from speechft.merging import make_delta

    report = make_delta(base, tuned, out, dtype=dtype, force=force)
    typer.echo(json.dumps(report.as_dict()) if as_json else "\n".join(report.lines()))
    if not as_json:
        typer.echo(f"next: speechft merge {base} {report.out} --alpha 0.25 --out merged")


@app.command()
def prepare(
    corpus: str,
    root: Annotated[str | None, typer.Argument(help="The unpacked archive; see corpora.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for manifests.")] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out recordings that are missing.")
    ] = False,
    headers_only: Annotated[
        bool, typer.Option("--headers-only", help="Do not look for NaN, silence and clipping.")
    ] = False,
    jobs: Annotated[int, typer.Option(help="Recordings inspected at a time; 0: by the CPUs.")] = 0,
    shards: Annotated[
        Path | None, typer.Option(help="Also write Lhotse Shar here, for a cluster to stream.")
    ] = None,
    shard_size: Annotated[int, typer.Option(help="Recordings a shard.")] = 1000,
    layout: Annotated[
        str | None, typer.Option(help="For synthetic-archives: write OUT as that archive.")
    ] = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Turn a corpus as it came out of its archive into manifests and statistics.

    Example: speechft prepare librispeech /data/LibriSpeech --out corpora/librispeech
    """
    from speechft.data.corpora.build import Options
    from speechft.data.corpora.prepare import archive_verb, prepare_verb

    if layout is not None:
        archive_verb(corpus, layout, out)
        return
    options = Options(allow_missing, samples=not headers_only, jobs=jobs)
    given = (corpus, root, out, options, set_ or ())
    prepare_verb(*given, shards=shards, shard_size=shard_size, as_json=as_json)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="Encoder folder, file or hub id.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder (hf) or .pt file (s3prl).")],
    from_: Annotated[str, typer.Option("--from", help="auto, s3prl, fairseq, spin, hf.")] = "auto",
    to: Annotated[str | None, typer.Option(help="hf or s3prl; goes by OUT's name.")] = None,
    config: Config = None,
    allow_nonfinite: Nonfinite = False,
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
    )
    typer.echo(json.dumps(report.as_dict()) if as_json else "\n".join(report.lines()))
    if not as_json:
        typer.echo(f"wrote {out}\nnext: speechft extract {out} AUDIO... --out feats")


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(help="Folder, checkpoint file, packaged name, hub id.")],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Say what an encoder or checkpoint is, and what can be done with it.

    Example: speechft inspect dev-best.ckpt --json
    """
    from speechft.encoders.inspection import inspect_encoder

    found = inspect_encoder(path, config)
    typer.echo(json.dumps(found.as_dict()) if as_json else "\n".join(found.lines()))


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
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    batch_seconds: Annotated[float | None, typer.Option(help="Audio in a batch.")] = None,
    config: Config = None,
    allow_nonfinite: Nonfinite = False,
    as_json: Json = False,
) -> None:
    """Write hidden states, a file for each utterance; run it again to go on after a stop.

    Example: speechft extract tiny-hubert recordings/ --layer last --out feats
    """
    from speechft.features.verb import extract_verb

    options = {
        "layer": layer,
        "mode": mode,
        "format": format_,
        "dtype": dtype,
        "precision": precision,
        "device": device,
        "batch_seconds": batch_seconds,
        "config": config,
        "allow_nonfinite": allow_nonfinite,
    }
    extract_verb(encoder, audio, out, options, as_json=as_json)


@app.command()
def pretrain(recipe: str, out: Out, set_: Set = None) -> None:
    """Pre-train an encoder by masked prediction of clusters (HuBERT).

    Example: speechft pretrain pretrain-tiny --out runs/pretrain
    """
    from speechft.pretrain import pretrain_recipe

    encoder = pretrain_recipe(recipe, out, set_ or ())
    typer.echo(f"encoder: {encoder}")
    typer.echo(f"next: speechft evaluate {encoder} --out runs/eval")


@app.command()
def recipes(as_json: Json = False) -> None:
    """List the packaged recipes."""
    from speechft.config import read_yaml
    from speechft.recipe import packaged_recipes

    _list({n: str(read_yaml(p).get("title", "")) for n, p in packaged_recipes().items()}, as_json)


@app.command()
def corpora(as_json: Json = False) -> None:
    """List the corpora."""
    from speechft.data.corpora import cards

    if as_json:
        typer.echo(json.dumps({name: vars(card) for name, card in cards().items()}))
    else:
        _list({name: card.line() for name, card in cards().items()}, as_json)


@app.command()
def tasks(as_json: Json = False) -> None:
    """List the tasks."""
    from speechft.tasks import TASKS

    _list({name: f"{t.title}; {t.metric}; needs {t.label}" for name, t in TASKS.items()}, as_json)


def _list(entries: dict[str, str], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(entries))
        return
    width = max(map(len, entries))
    for name, text in entries.items():
        typer.echo(f"{name:{width}}  {text}")
