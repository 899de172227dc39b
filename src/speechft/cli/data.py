"""The verb that makes manifests of a corpus: prepare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from speechft.cli.app import Json, Set, app
from speechft.cli.complete import corpora
from speechft.console import say


@app.command()
def prepare(
    corpus: Annotated[str, typer.Argument(autocompletion=corpora)],
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
    if layout is not None:
        _write_layout(corpus, layout, out)
        return
    from speechft import api
    from speechft.cli.tables import print_corpus

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
    )
    if as_json:
        issues = found.info.get("issues", {})
        content = {"folder": found.place, "splits": found.statistics, "issues": issues}
        say(json.dumps(content))
    else:
        print_corpus(found)


def _write_layout(corpus: str, layout: str, out: Path | None) -> None:
    from speechft.data.corpora.prepare import write_layout

    write_layout(corpus, layout, out)
    say(f"wrote {out} in the layout of {layout}")
    say(f"next: speechft prepare {layout} {out} --out corpora/{layout}")
