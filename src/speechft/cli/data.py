"""The verb that makes manifests of a corpus: prepare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from speechft.cli.app import Json, Overwrite, Set, app, tell_left_out
from speechft.cli.complete import corpora
from speechft.commands import command
from speechft.console import say


@app.command()
def prepare(
    corpus: Annotated[str, typer.Argument(autocompletion=corpora)],
    root: Annotated[str | None, typer.Argument(help="An unpacked archive, or a table.")] = None,
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
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Turn a corpus as it came out of its archive into manifests and statistics.

    Ends with exit code 1 if recordings were left out, but for those that no table mentions and
    what --allow-missing allows.

    Example: speechft prepare librispeech /data/LibriSpeech --out corpora/librispeech
    """
    if layout is not None:
        _write_layout(corpus, layout, out)
        return
    from speechft import api
    from speechft.cli.tables import print_corpus
    from speechft.data.issues import ISSUES_FILE, by_name, read_issues
    from speechft.data.losses import LOST, unasked_losses
    from speechft.storage.uploads import path_here

    found = api.prepare(
        corpus,
        root,
        out=out,
        allow_missing=allow_missing,
        headers_only=headers_only,
        jobs=jobs,
        shards=shards,
        shard_size=shard_size,
        overrides=set_ or (),
        overwrite=overwrite,
    )
    named = path_here(out or found.place) / ISSUES_FILE
    left = [issue for issue in read_issues(named) if issue.resolved() == "left out"]
    if as_json:
        issues = found.info.get("issues", {})
        content = {"folder": found.place, "splits": found.statistics, "issues": issues}
        say(json.dumps({**content, "left_out": by_name(left)}))
    else:
        print_corpus(found, left)
    unasked = ("no-label", "missing-audio") if allow_missing else ("no-label",)
    lost = [issue.path or issue.id for issue in left if issue.kind not in unasked]
    copies = sum(issue.kind == "listed-twice" for issue in left)
    count = unasked_losses(found) + copies if LOST in found.info else len(lost)
    total = count + sum(values["utterances"] for values in found.statistics.values())
    hint = f"the corpus holds the rest; what is wrong with each is in {named}"
    tell_left_out("recordings are left out", lost, total, hint, count=count)


def _write_layout(corpus: str, layout: str, out: Path | None) -> None:
    from speechft.data.corpora.prepare import write_layout

    write_layout(corpus, layout, out)
    say(f"wrote {out} in the layout of {layout}")
    say(f"next: {command('prepare', layout, str(out), out=f'corpora/{layout}')}")
