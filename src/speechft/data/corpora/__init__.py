"""Corpora by name, and from whatever a user gives to an opened corpus."""

from __future__ import annotations

import os
from pathlib import Path

from speechft.data.manifest import CORPUS_FILE, Corpus, open_corpus
from speechft.errors import DataError, nearest

CORPORA = {
    "synthetic": "embedded multi-speaker speech for the demo: speakers, styles, phones, intents",
    "synthetic-study": "the same, three times as large, for gates, anchors and studies",
    "synthetic-new-voices": "embedded speech of 20 voices that nothing else uses",
    "synthetic-pretrain": "embedded clean speech of 440 voices for pre-training",
    "generic": "your own: a CSV with path, split and any of text, phones, speaker, label",
}
"""What each corpus is."""


def cache_folder() -> Path:
    """Return where generated corpora are kept: ``$SPEECHFT_CACHE`` or ``~/.cache/speechft``."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "speechft"
    return Path(os.environ.get("SPEECHFT_CACHE", default))


def find_corpus(name: str, work_folder: Path) -> Corpus:
    """Open a corpus, preparing it first where that is needed.

    Args:
        name: Name of an embedded corpus, a CSV, or the folder of a prepared corpus.
        work_folder: Where the manifests of a CSV go.

    Raises:
        DataError: There is no such corpus.
    """
    from speechft.data.corpora import generic, synthetic

    if name in synthetic.SPECS:
        spec = synthetic.SPECS[name]
        return synthetic.prepare(spec, cache_folder() / f"{spec.name}-{spec.digest()[:12]}")
    path = Path(name).expanduser()
    if path.suffix.lower() == ".csv":
        return generic.prepare(path, work_folder)
    if (path / CORPUS_FILE).is_file():
        return open_corpus(path)
    near = nearest(name, synthetic.SPECS)
    raise DataError(
        f"no corpus {name!r}: neither embedded ({', '.join(synthetic.SPECS)}), nor a CSV, nor a "
        f"folder with {CORPUS_FILE}",
        hint=f"did you mean {near!r}?" if near else "make a folder with: speechft prepare",
    )
