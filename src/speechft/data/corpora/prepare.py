"""The verb ``prepare``: a corpus by name into a folder, with a summary."""

from __future__ import annotations

import json
from pathlib import Path

from speechft.console import print_table
from speechft.data.corpora import CORPORA, cache_folder, generic, synthetic
from speechft.data.manifest import Corpus
from speechft.errors import ConfigError, unknown_choice


def prepare(name: str, root: str | None, out: Path | None) -> Corpus:
    """Prepare a corpus.

    Args:
        name: One of `CORPORA`.
        root: The CSV, for ``generic``.
        out: Where it goes; embedded corpora have a place in the cache.

    Raises:
        ConfigError: An argument is missing or unknown.
    """
    if name in synthetic.SPECS:
        spec = synthetic.SPECS[name]
        return synthetic.prepare(spec, out or cache_folder() / f"{spec.name}-{spec.digest()[:12]}")
    if name != "generic":
        raise unknown_choice("corpus", name, CORPORA)
    if root is None or out is None:
        raise ConfigError(
            "corpus generic needs a CSV and an output folder",
            hint="speechft prepare generic my.csv --out corpora/mine",
        )
    return generic.prepare(Path(root), out)


def prepare_verb(name: str, root: str | None, out: Path | None, *, as_json: bool) -> None:
    """Prepare a corpus and print what is in it."""
    corpus = prepare(name, root, out)
    if as_json:
        print(json.dumps({"folder": str(corpus.folder), "splits": corpus.statistics}))
        return
    rows = [
        [
            split,
            str(s["utterances"]),
            f"{s['hours']:.2f}",
            str(s["speakers"]),
            ", ".join(s["labels"]),
        ]
        for split, s in corpus.statistics.items()
    ]
    print_table(corpus.name, ["split", "utterances", "hours", "speakers", "labels"], rows)
    print(f"corpus: {corpus.folder}")
    print(f"next: speechft run demo --set data.corpus={corpus.folder} --out runs/mine")
