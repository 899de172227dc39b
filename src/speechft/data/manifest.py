"""A corpus on disk: lhotse cut sets by split, with digest and statistics; reading its audio."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechft.commands import command
from speechft.data.cuts import read_cuts
from speechft.data.issues import check_not_refused
from speechft.data.kept_cuts import Cuts
from speechft.data.losses import ALLOWED, LOST
from speechft.data.places import below
from speechft.data.shards import SHARDED, ShardedSplit
from speechft.data.utterances import Utterance, by_id, statistics_of, to_cut, utterance_digest
from speechft.data.waveform import load_waveform as load_waveform
from speechft.errors import CheckpointError, DataError
from speechft.storage.copies import copied_file
from speechft.storage.documents import parse_json, text_of
from speechft.storage.files import json_digest, read_json, write_json, write_packed
from speechft.storage.remote import address_of, is_address

if TYPE_CHECKING:
    from lhotse import CutSet
    from lhotse.cut import Cut

CORPUS_FILE = "corpus.json"

EAGER_UTTERANCES = 100_000
"""Splits of more utterances are read from their manifest anew whenever they are iterated."""


@dataclass(frozen=True)
class Manifest:
    """The cuts of one split, read line by line whenever they are iterated: memory stays flat."""

    path: Path
    size: int
    """Number of cuts."""
    home: str = ""
    """Address of the corpus; empty for one in a folder."""

    def __len__(self) -> int:
        """Return the number of cuts, as the statistics of the corpus have it."""
        return self.size

    def __iter__(self) -> Iterator[Cut]:
        """Yield the cuts, paths of recordings resolved.

        Raises:
            DataError: The manifest is missing or damaged.
        """
        number = 0
        try:
            for cut in read_cuts(self.path, home=self.home):
                number += 1
                if number > self.size:
                    break
                yield cut
        except DataError as error:
            raise DataError(error.message, hint="prepare the corpus again") from None
        if number != self.size:
            raise DataError(
                f"manifest {self.path} cannot be read: it holds "
                f"{'more than' if number > self.size else f'{number} of'} {self.size} cuts",
                hint="prepare the corpus again",
            )


@dataclass(frozen=True)
class Corpus:
    """An opened corpus: where it lies, what is in it, and its cuts by split."""

    folder: Path
    name: str
    digest: str
    """Changes whenever a manifest changes."""
    statistics: dict[str, dict[str, Any]]
    """By split: utterances, hours, speakers, and the kinds of labels with their counts."""
    info: dict[str, Any]
    url: str | None = None
    """Where it lies, if not in a folder."""
    digests: dict[str, str] = field(default_factory=dict)
    """By split, what `split_digest` returns; corpora that were prepared earlier have none."""
    closed: frozenset[str] = frozenset()
    """Splits that are not read, such as test while something is chosen on dev."""

    @property
    def place(self) -> str:
        """Return the folder or the address."""
        return self.url or str(self.folder)

    @property
    def told(self) -> str:
        """Return name, digest and place in words."""
        return f"{self.name} (digest {self.digest[:12]}) in {self.place}"

    def read_text(self, name: str) -> str:
        """Return the text of a file that lies beside the manifests, such as a list of trials.

        Raises:
            DataError: It cannot be read, or it is not UTF-8.
        """
        from speechft.data.places import read_bytes

        try:
            return text_of(read_bytes(below(self.place, name)))
        except ValueError as error:
            raise DataError(f"{self.place}/{name} cannot be read: {error}") from None

    def split_digest(self, name: str) -> str:
        """Return the digest of one split: of its manifest and, where known, of its audio.

        It stays when another split of the corpus changes, unless the corpus was prepared by an
        older version, which kept one digest for all.
        """
        return self.digests.get(name) or json_digest({"corpus": self.digest, "split": name})

    @cached_property
    def _splits(self) -> dict[str, CutSet]:
        return {}

    @cached_property
    def _cuts(self) -> dict[str, Cuts]:
        return {}

    @cached_property
    def _values(self) -> dict[tuple[str, str], frozenset[str]]:
        return {}

    def values(self, split: str, kind: str) -> frozenset[str]:
        """Return the values that a kind of label has in a split, such as its speakers.

        None are known of a split that is closed.

        Args:
            split: Name of the split.
            kind: As `label_of` takes it.

        Raises:
            DataError: There is no such split, or its manifest is missing or damaged.
        """
        from speechft.data.labels import label_of

        if split in self.closed:
            return frozenset()
        if (split, kind) not in self._values:
            found = {label_of(cut, kind) for cut in self.cuts(split)}
            self._values[split, kind] = frozenset(value for value in found if value is not None)
        return self._values[split, kind]

    def cuts(self, name: str) -> Cuts:
        """Return the same cuts as `split` without any of them in memory, read once.

        Raises:
            DataError: There is no such split, it is closed, or its manifest is missing or damaged.
        """
        self._check_open(name)
        if name not in self._cuts:
            self._cuts[name] = Cuts.of(self._read(name))
        return self._cuts[name]

    def split(self, name: str) -> CutSet:
        """Return the cuts of one split, sorted by id, paths resolved.

        Raises:
            DataError: There is no such split, it is closed, or its manifest is missing or damaged.
        """
        self._check_open(name)
        if name not in self._splits:
            self._splits[name] = self._open(name)
        return self._splits[name]

    def _check_open(self, name: str) -> None:
        if name in self.closed:
            raise DataError(f"split {name} of corpus {self.name} is closed until a choice is made")
        if name not in self.statistics:
            raise DataError(
                f"corpus {self.name} has no split {name!r}; it has: {', '.join(self.statistics)}"
            )

    def _open(self, name: str) -> CutSet:
        from lhotse import CutSet

        cuts = self._read(name)
        lazy = SHARDED in self.info or len(cuts) > EAGER_UTTERANCES
        return CutSet(cuts) if lazy else CutSet.from_cuts(cuts)

    def _read(self, name: str) -> Manifest | ShardedSplit:
        size = self.statistics[name]["utterances"]
        if SHARDED in self.info:
            return ShardedSplit(self.place, name, self.info[SHARDED][name], size)
        path = self.folder / f"{name}.jsonl.gz"
        if self.url is not None:
            path = copied_file(below(self.url, path.name))
        return Manifest(path, size, self.url or "")

    def task_splits(self, task: str) -> tuple[str, str, str]:
        """Return the names of the train, dev and test splits that a task is probed on."""
        named = self.info.get("task_splits", {})
        train, dev, test = named.get(task, named.get("*", ("train", "dev", "test")))
        return train, dev, test

    def tuning_splits(self) -> tuple[str, str]:
        """Return the names of the train and dev splits for fine-tuning."""
        train, dev = self.info.get("tuning_splits") or ("train", "dev")
        return train, dev


def write_corpus(
    folder: Path,
    name: str,
    source_digest: str,
    splits: Mapping[str, Iterable[Utterance]],
    info: Mapping[str, Any],
) -> None:
    """Write the manifests of a corpus and ``corpus.json``.

    Args:
        folder: Where they go.
        name: Name of the corpus.
        source_digest: Digest of what the corpus was made from.
        splits: Utterances by split.
        info: Licence and other facts; ``task_splits`` and ``tuning_splits`` name the splits that
            tasks use where they are not train, dev and test.
    """
    statistics, digests, own = {}, {}, {}
    for split, utterances in splits.items():
        items = by_id(utterances)
        write_packed(folder / f"{split}.jsonl.gz", (to_cut(item).to_dict() for item in items))
        statistics[split] = statistics_of(items)
        digests[split] = utterance_digest(items)
        known = all(item.sha256 for item in items)  # else the source tells whether audio changed
        own[split] = json_digest([digests[split], "" if known else source_digest])
    digest = json_digest({"source": source_digest, "splits": digests})
    content = {"name": name, "digest": digest, "statistics": statistics, "info": dict(info)}
    content["digests"] = own
    write_json(folder / CORPUS_FILE, content)


def how_to_prepare(name: str = "generic", place: str = "PLACE") -> str:
    """Return the command that makes a corpus of an archive, or of one's own recordings."""
    return command("prepare", name, place, out="DIR")


def open_corpus(folder: Path | str) -> Corpus:
    """Open a prepared corpus.

    Args:
        folder: Its folder, or its address, such as ``https://host/corpus``.

    Raises:
        DataError: There is no corpus.
    """
    from speechft.data.places import read_bytes

    hint = f"make one with: {how_to_prepare()}"
    address = address_of(folder)
    if address is None:
        check_not_refused(Path(folder))
    try:
        if address is not None:
            content = parse_json(read_bytes(below(address, CORPUS_FILE)))
        else:
            content = read_json(Path(folder) / CORPUS_FILE)
        known = (content["name"], content["digest"], content["statistics"], content["info"])
        digests = dict(content.get("digests", {}))
        _check_content(*known, digests)
    except (CheckpointError, DataError) as error:
        message = f"{folder} is not a prepared corpus: {error.message}"
        raise DataError(message, hint=error.hint or hint) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = error if isinstance(error, ValueError) else repr(error)
        raise DataError(f"{folder} is not a prepared corpus: {why}", hint=hint) from None
    if address is not None:
        return Corpus(Path(content["name"]), *known, address, digests)
    return Corpus(Path(folder).resolve(), *known, None, digests)


def _check_content(name: Any, digest: Any, statistics: Any, info: Any, digests: Any) -> None:
    """Refuse a ``corpus.json`` whose parts are of other types than `write_corpus` writes.

    Splits and further files are names within the folder: they lead nowhere else.

    Raises:
        ValueError: Names the part.
    """
    names, files = list(statistics), [*info.get("files", ())]
    named = [info.get(key) for key in ("trials", "qbe")]
    for value in named:
        files += value.values() if isinstance(value, dict) else [] if value is None else [value]
    for text in (name, digest, *names, *files, *digests, *digests.values()):
        if not isinstance(text, str) or not text:
            raise ValueError(f"{text!r} is no name")
    for text in (*names, *files):
        if text in (".", "..") or "/" in text or "\\" in text or is_address(text):
            raise ValueError(f"{text!r} is no name of a file in its folder")
    shards = info.get(SHARDED, dict.fromkeys(names, 0))
    for split, values in statistics.items():
        counts = [values["utterances"], values.get("speakers", 0), shards[split]]
        if not isinstance(values.get("hours"), int | float):
            raise ValueError(f"the split {split!r} has no hours")
        if not all(type(count) is int and 0 <= count < 1 << 40 for count in counts):
            raise ValueError(f"counts of the split {split!r} are {counts}")
        labels = values.get("labels")
        if not isinstance(labels, dict) or not all(type(n) is int for n in labels.values()):
            raise ValueError(f"labels of the split {split!r} are no counts")
    kinds = dict.fromkeys(("folds", "issues", "seconds", LOST), dict)
    for key, kind in {**kinds, "notes": list, ALLOWED: list}.items():
        if not isinstance(info.get(key, kind()), kind):
            raise ValueError(f"{key} are no {kind.__name__}")
    for split, lost in info.get(LOST, {}).items():
        if not all(type(number) is int and number > 0 for number in lost.values()):
            raise ValueError(f"what the split {split!r} lost has no counts")
    folds = [fold for listed in info.get("folds", {}).values() for fold in listed]
    sizes = [(3, value) for value in [*info.get("task_splits", {}).values(), *folds]]
    for size, value in [*sizes, (2, info.get("tuning_splits") or ("", ""))]:
        texts = isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)
        if not texts or len(value) != size:
            raise ValueError(f"{value!r} are no names of {size} splits")
