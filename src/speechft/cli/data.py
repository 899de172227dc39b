"""The verb that makes manifests of a corpus: prepare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from speechft.cli.app import Json, Set, app


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
