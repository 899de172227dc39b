"""Corpora by name, and from whatever a user gives to an opened corpus."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechft.data.corpora.base import Card
from speechft.errors import DataError, nearest
from speechft.storage.files import cache_folder as cache_folder
from speechft.storage.remote import address_of, is_address

if TYPE_CHECKING:
    from speechft.data.manifest import Corpus

ARCHIVES = (
    "tedlium3",
    "librispeech",
    "voxceleb1",
    "iemocap",
    "snips",
    "speech-commands",
    "fluent-speech-commands",
    "timit",
    "crema-d",
    "aishell3",
    "libri2mix",
    "quesst14",
)
"""Corpora that are read as they come out of their archives; each is a file of that name."""


def archive(name: str) -> Any:
    """Return the module of a corpus: its ``CARD`` and its ``scan(root, **options)``."""
    return import_module(f"{__name__}.{name.replace('-', '_')}")


def cards() -> dict[str, Card]:
    """Return what every corpus is, by name: embedded ones, archives, your own."""
    from speechft.data.corpora import embedded

    read = {name: archive(name).CARD for name in ARCHIVES}
    return {**embedded.CARDS, **read, "generic": embedded.GENERIC, "hf": embedded.HUB}


def hub_dataset(corpus: Corpus) -> str | None:
    """Return the id of a corpus among the data sets of the hub; None where it is not known."""
    own = corpus.info.get("hub")
    if isinstance(own, dict):
        return str(own.get("dataset"))
    known = cards().get(corpus.name)
    return known.hub or None if known else None


def find_corpus(name: str, work_folder: Path) -> Corpus:
    """Open a corpus, preparing it first where that is needed; waits where another process does.

    What it lost when it was prepared is told whenever it is opened.

    Args:
        name: Name of an embedded corpus; ``hf:owner/name`` of the hub; the folder or address of a
            prepared corpus; a table, a parquet file, an audiofolder or a folder of parquet files,
            with ``?key=value&key=value`` of `speechft.data.corpora.reading.Reading` behind it.
        work_folder: Where the manifests of one's own recordings go.

    Raises:
        DataError: There is no such corpus.
    """
    from speechft.data.losses import tell_losses
    from speechft.storage.locks import waiting
    from speechft.storage.scratch import scratch_in

    with waiting(), scratch_in(work_folder):
        corpus = _find(name, work_folder)
    tell_losses(corpus)
    return corpus


def _find(name: str, work_folder: Path) -> Corpus:
    from speechft.data.corpora import generic, hub, synthetic
    from speechft.data.corpora.kaldi import is_of_kaldi
    from speechft.data.corpora.reading import Reading
    from speechft.data.corpora.settings import place_and_settings
    from speechft.data.manifest import CORPUS_FILE, how_to_prepare, open_corpus
    from speechft.data.tables import SUFFIXES

    if name in synthetic.SPECS:
        spec = synthetic.SPECS[name]
        return synthetic.prepare(spec, cache_folder() / f"{spec.name}-{spec.digest()[:12]}")
    if name.startswith(hub.PREFIX) and not is_address(name):
        return hub.prepare_reference(name, cache_folder() / "hub" / hub.place_of(name))
    if (address := address_of(name)) is not None:
        return open_corpus(address)
    place, settings = place_and_settings(name)
    path = Path(os.path.expanduser(place))
    if path.suffix.lower() in (*SUFFIXES, ".parquet") or is_of_kaldi(path):
        return generic.prepare(path, work_folder, reading=Reading.of(settings))
    if (path / CORPUS_FILE).is_file():
        if settings:
            raise DataError(
                f"corpus {path} is prepared: its columns were read already, and it takes no "
                f"settings ({', '.join(settings)})",
                hint="give what it was prepared from, with them",
            )
        return open_corpus(path)
    if place and place not in ARCHIVES and path.is_dir():
        return generic.prepare(path, work_folder, reading=Reading.of(settings))
    if path.name in ARCHIVES:
        raise DataError(
            f"corpus {name} has to be prepared first",
            hint=f"{how_to_prepare(path.name, 'ROOT')}, then give DIR",
        )
    near = nearest(name, synthetic.SPECS)
    raise DataError(
        f"no corpus {name!r}: neither embedded ({', '.join(synthetic.SPECS)}), nor a file, nor a "
        "folder",
        hint=f"did you mean {near!r}?" if near else f"make one with: {how_to_prepare()}",
    )
