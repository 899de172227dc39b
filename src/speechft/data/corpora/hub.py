"""Data sets of the Hugging Face hub by name, ``hf:owner/name``: rows streamed, audio kept as files.

Batches are planned over whole splits and read in any order, so audio has to lie on a disk. What is
streamed is the way there: a row at a time, its audio written as it came (FLAC stays FLAC), nothing
decoded or kept twice. `datasets` lists splits and yields rows; it decodes nothing, and runs no code
of a data set.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechft.commands import command
from speechft.console import log, progress_bar
from speechft.data.corpora.build import Options, build
from speechft.data.corpora.embedded import HUB
from speechft.data.corpora.generic import Table, scan_of
from speechft.data.corpora.hub_rows import Columns, add_row, columns_of, splits_of
from speechft.data.corpora.settings import behind, keywords
from speechft.data.manifest import CORPUS_FILE, Corpus, open_corpus
from speechft.errors import ConfigError, DataError, SpeechftError
from speechft.extras import how_to_get, needs
from speechft.naming import is_hub_id
from speechft.storage.files import json_digest
from speechft.storage.locks import lock, waiting

PREFIX = "hf:"
_REFERENCE = re.compile(
    r"hf:(?P<dataset>[^:@?]+)(?::(?P<config>[^@?]+))?(?:@(?P<revision>[^?]+))?(?:\?(?P<set>.*))?"
)
_READERS = ("arrow", "audiofolder", "csv", "json", "parquet", "webdataset")
"""Modules of `datasets` that read rows of speech; none of them runs what it reads."""


@dataclass(frozen=True)
class Reference:
    """A data set as it is typed: ``hf:owner/name:config@revision?key=value&key=value``."""

    dataset: str
    config: str | None = None
    revision: str | None = None
    settings: tuple[str, ...] = ()
    """``key=value`` of `prepare`."""

    @property
    def name(self) -> str:
        """Return what the corpus is called."""
        return self.dataset if self.config is None else f"{self.dataset}:{self.config}"


@dataclass(frozen=True)
class _About:
    """What the hub says of a data set."""

    revision: str
    licence: str


def parse_reference(text: str) -> Reference:
    """Return the parts of ``hf:owner/name[:config][@revision][?key=value&...]``.

    Raises:
        ConfigError: It is of another form.
    """
    found = _REFERENCE.fullmatch(text)
    if found is None or not is_hub_id(found["dataset"]):
        raise ConfigError(
            f"{text!r} names no data set of the hub; expected hf:owner/name, hf:owner/name:config, "
            "with @revision and ?key=value&key=value behind it",
            hint="such as hf:google/fleurs:de_de, or hf:owner/name?text=raw_text&limit=1000",
        )
    settings = tuple(behind(found["set"] or ""))
    return Reference(found["dataset"], found["config"], found["revision"], settings)


def place_of(text: str) -> str:
    """Return the name of the folder that a data set has among generated and streamed corpora."""
    reference = parse_reference(text)
    plain = re.sub(r"[^\w.-]+", "--", reference.name)
    told = [reference.revision, sorted(reference.settings)]
    return f"{plain}-{json_digest(told)[:8]}"


def prepare_reference(
    text: str, folder: Path, options: Options | None = None, settings: Sequence[str] = ()
) -> Corpus:
    """Prepare a data set as it is typed, see `prepare`; ``settings`` beat those within ``text``."""
    reference = parse_reference(text)
    given = keywords(reference.dataset, prepare, [*reference.settings, *settings])
    return prepare(reference, folder, options, **given)


def prepare(
    reference: Reference,
    folder: Path,
    options: Options | None = None,
    *,
    splits: str = "",
    limit: int = 0,
    audio: str = "",
    text: str = "",
    phones: str = "",
    speaker: str = "",
    language: str = "",
    label: str = "",
    start: str = "",
    end: str = "",
    disjoint_speakers: bool = False,
) -> Corpus:
    """Turn a data set of the hub into a corpus; one that is there already is not streamed again.

    Columns are found by their names (`speechft.data.columns`) and types: audio, text, phones,
    speaker, language, label; others become labels of their own name. A column that is named here
    is taken instead.

    Args:
        reference: The data set.
        folder: Where manifests and audio go.
        options: How recordings are inspected.
        splits: Which: ``train:train.clean.100,test:test.other``, or names of the data set; all
            that are called after train, dev or test otherwise.
        limit: Rows of a split at most; 0 takes all.
        audio: Column with the audio.
        text: Column with the transcript.
        phones: Column with phones, separated by blanks.
        speaker: Column with the speaker.
        language: Column with the language.
        label: Column for the task ``label``.
        start: Column with the first second of a segment.
        end: Column with the last second of a segment.
        disjoint_speakers: Refuse speakers that train shares with dev or test.

    Raises:
        ConfigError: A split is unknown.
        DataError: `datasets` is not installed, the data set cannot be opened, runs code, lacks a
            column, or nothing in it can be used.
    """
    named = {"audio": audio, "text": text, "phones": phones, "speaker": speaker}
    named |= {"language": language, "label": label, "start": start, "end": end}
    chosen = {meant: column for meant, column in named.items() if column}
    asked: dict[str, Any] = {
        "dataset": reference.dataset,
        "config": reference.config,
        "splits": splits,
        "limit": limit,
        "columns": chosen,
        "disjoint_speakers": disjoint_speakers,
    }
    about = _about(reference)
    earlier = _earlier(folder, asked, about)
    if earlier is not None:
        return earlier
    if about is None:
        raise DataError(
            f"the hub could not be asked for {reference.name}",
            hint="check the name and the network; for a data set behind a form: hf auth login",
        )
    with waiting(), lock(folder / ".streaming"):  # one process streams, others find it done
        earlier = _earlier(folder, asked, about)
        if earlier is not None:
            return earlier
        asked["revision"] = about.revision
        log(f"streaming {reference.name} (revision {about.revision[:12]}) into {folder}")
        table = _stream(reference, about, folder, splits, limit, chosen)
        table.tell()
        scan = scan_of(table)
        if disjoint_speakers:
            scan.disjoint = (("train", "dev", "test"),)
        scan.info |= {
            "hub": asked,
            "licence": about.licence,
            "source": f"https://hf.co/datasets/{reference.dataset}",
            "title": reference.name,
        }
        about_it: Any = {"name": reference.name, "config": asked}
        return build(HUB, folder.resolve(), scan, folder, options, **about_it)


def _earlier(folder: Path, asked: Mapping[str, Any], about: _About | None) -> Corpus | None:
    """Return what was prepared of the same before, of this revision if the hub tells one."""
    if not (folder / CORPUS_FILE).is_file():
        return None
    try:
        corpus = open_corpus(folder)
    except DataError:
        return None
    told = dict(corpus.info.get("hub") or {})
    revision = told.pop("revision", None)
    if told != dict(asked) or (about is not None and about.revision != revision):
        return None
    if about is None:
        log(f"the hub could not be asked: {corpus.name} as it was prepared (revision {revision})")
    return corpus


def _about(reference: Reference) -> _About | None:
    """Ask the hub; None where it does not answer or does not know the data set."""
    from huggingface_hub import HfApi

    try:
        found = HfApi().dataset_info(reference.dataset, revision=reference.revision)
    except Exception as error:  # the hub client raises many kinds, most of them network errors
        log(f"{reference.dataset}: {type(error).__name__}")
        return None
    told = getattr(found.card_data, "license", None)
    listed = told if isinstance(told, list) else [told]
    return _About(str(found.sha), ", ".join(str(name) for name in listed if name) or "not known")


def _where(reference: Reference, revision: str) -> tuple[str, str | None, str]:
    """Return what `datasets` opens, at which revision, and what addresses of its files begin with.

    Tests put a folder in its place.
    """
    origin = f"hf://datasets/{reference.dataset}@{revision}"
    return reference.dataset, revision, origin


def _stream(
    reference: Reference,
    about: _About,
    folder: Path,
    splits: str,
    limit: int,
    chosen: Mapping[str, str],
) -> Table:
    """Return the rows of a data set, their audio written below ``folder/audio``."""
    path, revision, origin = _where(reference, about.revision)
    table = Table([], folder)
    with _refusals(reference):
        streams = _open(reference, path, revision)
        features = {name: stream.features for name, stream in streams.items()}
        for stream in streams.values():  # rows as they are: nothing is decoded or encoded
            stream.info.features = None
    for split, theirs in splits_of(list(streams), splits).items():
        number = 0
        with progress_bar(f"streaming {split}", limit) as bar, _refusals(reference):
            for name in theirs:
                columns: Columns | None = None
                for row in streams[name]:
                    if limit and number >= limit:
                        break
                    columns = columns or columns_of(reference.name, features[name], row, chosen)
                    place = folder / "audio" / split
                    add_row(table, row, columns, split, number, place, origin)
                    number += 1
                    bar.advance()
    return table


def _open(reference: Reference, path: str, revision: str | None) -> Any:
    """Return the streams of a data set by split.

    Raises:
        PackageError: `datasets` is missing.
        DataError: It is too old, or the data set is of a kind that it runs code for.
    """
    with needs("hub-data", f"{reference.name} of the hub", "datasets"):
        import datasets
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise DataError(
            f"datasets {datasets.__version__} may run code of a data set; 4.0 and later do not",
            hint=how_to_get("hub-data"),
        )
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # it would tell the hub
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    builder = datasets.load_dataset_builder(path, reference.config, revision=revision)
    reader = type(builder).__mro__[1].__module__.rpartition(".")[2]
    if reader not in _READERS:
        raise DataError(
            f"{reference.name} is read as {reader}, which is no table of recordings; read are: "
            f"{', '.join(_READERS)}"
        )
    return builder.as_streaming_dataset()


@contextmanager
def _refusals(reference: Reference) -> Iterator[None]:
    """Turn what `datasets`, the hub or the network refuses into one message."""
    try:
        yield
    except SpeechftError:
        raise
    except Exception as error:  # of many kinds and many packages
        told = " ".join(str(error).split())[:300]
        hint = "check name and network, and run it again"
        if "onfig name is missing" in told:
            hint = f"choose one: hf:{reference.dataset}:CONFIG"
        elif "scripts are no longer supported" in told:
            hint = "it runs code, which nothing here does; look for a copy of it in parquet"
        elif isinstance(error, OSError):
            again = command("prepare", f"{PREFIX}{reference.name}", out="corpora/mine")
            hint = f"give the same command again ({again}); audio that is there is not written anew"
        raise DataError(f"{reference.name} cannot be read: {told}", hint=hint) from None
