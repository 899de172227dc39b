"""A look at data before any work: what a table, folder, manifest or recording is, and what is read.

`speechft inspect` shows it. Nothing is written, and samples are decoded of a single recording only.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechft.commands import command
from speechft.data.containers import AUDIO_SUFFIXES, FOREIGN_SUFFIXES
from speechft.data.corpora.kaldi import SCP, is_of_kaldi
from speechft.data.corpora.reading import Reading
from speechft.data.corpora.settings import place_and_settings
from speechft.data.folders import CORPUS_FILE, look_below
from speechft.data.issues import refused_for
from speechft.data.tables import SUFFIXES, is_manifest, is_table, read_table
from speechft.errors import DataError, SpeechftError
from speechft.storage.remote import address_of, joined, stat

if TYPE_CHECKING:
    from collections.abc import Iterable

    from speechft.data.issues import Issue
    from speechft.encoders.inspection import Inspection

_WEIGHTS = frozenset(".safetensors .bin .pt .ckpt .pth .npz .h5 .msgpack .gguf .onnx".split())
_SHOWN = 10


@dataclass(frozen=True)
class DataInspection:
    """What data says about itself."""

    path: str
    kind: str
    """``recording``, ``table``, ``folder``, ``corpus`` or ``manifest``."""
    facts: dict[str, str] = field(default_factory=dict)
    """What it holds, in words by name."""
    read: int = 0
    """Items that would be read."""
    left_out: dict[str, str] = field(default_factory=dict)
    """What would be left out by name, and why."""
    next: list[str] = field(default_factory=list)
    """Commands that make sense with it."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the inspection as text."""
        rows = {"path": self.path, "kind": self.kind, **self.facts, "read": str(self.read)}
        rows["left out"] = str(len(self.left_out))
        width = max(map(len, rows))
        shown = list(self.left_out.items())[:_SHOWN]
        more = [f"  ... and {len(self.left_out) - _SHOWN} more"]
        return [
            *(f"{name:{width}}  {value}" for name, value in rows.items()),
            *(f"  left out: {name}: {problem}" for name, problem in shown),
            *(more if len(self.left_out) > _SHOWN else []),
            *(f"next: {command}" for command in self.next),
        ]


@dataclass
class _Left:
    """What is left out by name; what bears the same name, such as segments, is numbered."""

    told: dict[str, str] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, problem: str) -> None:
        """Add what is left out, and why."""
        self.seen[name] += 1
        self.told[f"{name} #{self.seen[name]}" if self.seen[name] > 1 else name] = problem

    def add_issues(self, issues: Iterable[Issue]) -> None:
        """Add those that leave something out."""
        for issue in issues:
            if issue.resolved() != "kept":
                self.add(f"{issue.path or issue.id} ({issue.kind})", issue.problem)


_OF_DATA = AUDIO_SUFFIXES | {suffix for suffix in SUFFIXES if suffix != ".json"}
"""No encoder is called so."""


def inspect_anything(
    name: str | Path, config: str | Path | None = None
) -> DataInspection | Inspection:
    """Say what data or an encoder is, and what can be done with it.

    Args:
        name: A recording, table, manifest, folder or prepared corpus; else an encoder.
        config: Of the encoder, see `speechft.encoders.inspection.inspect_encoder`.

    Raises:
        SpeechftError: It is neither, or it cannot be read.
    """
    if is_data(name):
        return inspect_data(name)
    place = Path(os.path.expanduser(place_and_settings(str(name))[0]))
    if place.suffix.lower() in _OF_DATA and not place.exists():
        kind = "recording" if place.suffix.lower() in AUDIO_SUFFIXES else "table"
        raise DataError(f"{kind} {name} does not exist", hint="look at its name and folder")
    from speechft.encoders.inspection import inspect_encoder

    return inspect_encoder(name, config)


def is_data(name: str | Path) -> bool:
    """Return whether a name is data rather than an encoder."""
    if (address := address_of(name)) is not None:
        return stat(joined(address, CORPUS_FILE)) is not None
    path = Path(os.path.expanduser(place_and_settings(str(name))[0]))
    suffix = path.suffix.lower()
    if is_of_kaldi(path):
        return True
    if path.is_file() or path.is_symlink():
        return suffix not in _WEIGHTS and (
            suffix in (*AUDIO_SUFFIXES, *FOREIGN_SUFFIXES, ".parquet", ".csv", ".tsv", ".tab")
            or path.name.endswith((".jsonl", ".ndjson", ".jsonl.gz", ".json.gz"))
            or (suffix == ".json" and (is_manifest(path) or _reads(path)))
        )
    if not path.is_dir():
        return False
    if (path / CORPUS_FILE).is_file() or refused_for(path) is not None:
        return True
    if (path / "config.json").is_file() or any(p.suffix in _WEIGHTS for p in path.iterdir()):
        return False
    below = look_below(path)
    if not below.audio and any(path.glob("*/*config.json")):  # encoders or adapters lie below
        return False
    return bool(below.audio) or any(
        p.suffix == ".parquet" or p.name == SCP or is_table(p) for p in below.others
    )


def _reads(path: Path) -> bool:
    try:
        return bool(read_table(path).rows)
    except DataError:
        return False


def inspect_data(name: str | Path) -> DataInspection:
    """Say what data is, what would be read of it, and what would be left out and why.

    Args:
        name: A recording, table, manifest, prepared corpus or folder; behind a table or a folder
            settings as `speechft.data.corpora.find_corpus` takes them.

    Raises:
        DataError: It is none of these, or a table that cannot be read at all.
    """
    found = _inspected(name)
    return found if found.read else replace(found, next=[])


def _inspected(name: str | Path) -> DataInspection:
    if (address := address_of(name)) is not None:
        return _corpus(address)
    place, settings = place_and_settings(str(name))
    path = Path(os.path.expanduser(place))
    if is_of_kaldi(path):
        return _recordings(path.parent, str(path.parent), Reading.of(settings))
    if path.is_dir() and (path / CORPUS_FILE).is_file():
        return _corpus(path)
    if path.is_dir() or is_table(path) or path.suffix.lower() == ".parquet":
        return _recordings(path, str(name), Reading.of(settings))
    if path.name.endswith((".gz", ".jsonl", ".json")):
        return _manifest(path)
    return _recording(path)


def _recording(path: Path) -> DataInspection:
    from speechft.data.inspection import inspect
    from speechft.data.issues import KINDS

    found = inspect(path)
    facts = {}
    if found.header is not None:
        header = found.header
        seconds = header.samples / header.sample_rate
        facts["length"] = f"{seconds:.3f} s, {header.samples} samples"
        facts["rate"] = f"{header.sample_rate} Hz" + (
            "" if header.sample_rate == 16_000 else ", resampled to 16000 Hz when it is read"
        )
        facts["channels"] = str(header.channels) + (
            "" if header.channels == 1 else ", averaged when it is read"
        )
    problems = {f"{path.name} ({k})": p for k, p in found.problems if KINDS[k] != "kept"}
    facts |= {k: p for k, p in found.problems if KINDS[k] == "kept"}
    commands = [command("extract", "tiny-hubert", path, out="feats")]
    return DataInspection(str(path), "recording", facts, int(not problems), problems, commands)


def _recordings(path: Path, given: str, reading: Reading) -> DataInspection:
    """Look at a table or a folder as `speechft prepare generic` reads it, headers only."""
    from speechft.data.corpora import generic
    from speechft.data.corpora.build import Options, drops_by, problems_of
    from speechft.data.corpora.splits import unread_splits
    from speechft.data.inspection import inspect

    left = _Left()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            table = generic.read_place(path, Path(scratch), reading)
        except DataError as error:
            if not is_table(path) or "lacks the column split" not in error.message:
                raise
            return _listed(path, given)
        scan = generic.scan_of(table)
        left.add_issues(scan.issues)
        splits: Counter[str] = Counter()
        texts = speakers = 0
        for split, drafts in scan.splits.items():
            for draft in drafts:
                found = inspect(
                    draft.path, draft.start, draft.end, channel=draft.channel, samples=False
                )
                wrong = problems_of(draft, found, scan, Options(samples=False))
                if dropping := [(k, p) for k, p, outcome in wrong if drops_by(k, outcome)]:
                    why, problem = dropping[0]
                    place = f": {draft.path}" if why == "missing-audio" else ""
                    left.add(f"{draft.path.name} of {split} ({why})", problem + place)
                    continue
                splits[split] += 1
                texts += bool(draft.text)
                speakers += bool(draft.speaker)
    kind = "folder" if path.is_dir() else "table"
    facts = {"splits": ", ".join(f"{name} {n}" for name, n in splits.items()) or "none"}
    if unread := unread_splits(scan.splits):
        facts["no task reads"] = unread
    facts["with text"], facts["with speaker"] = str(texts), str(speakers)
    for name, columns in (("labels", table.labels), ("not read", table.dropped)):
        if columns:
            facts[name] = ", ".join(columns)
    commands = [command("prepare", "generic", given, out=f"corpora/{path.stem}")]
    return DataInspection(str(path), kind, facts, sum(splits.values()), left.told, commands)


def _listed(path: Path, given: str) -> DataInspection:
    """Look at a table without splits, which only `speechft extract` takes."""
    from speechft.features.sources import find_sources

    found = find_sources(given)
    facts = {"splits": "no column split: extract reads it, prepare has to draw them"}
    drawn = f"corpora/{path.stem}"
    commands = [
        command("extract", "tiny-hubert", given, out="feats"),
        command("prepare", "generic", given, set_="draw=recordings", out=drawn),
    ]
    return DataInspection(str(path), "table", facts, len(found.cuts), found.problems, commands)


def _manifest(path: Path) -> DataInspection:
    from speechft.features.sources import audio_cut, find_sources

    found = find_sources([path])
    seconds = sum(cut.duration for cut in found.cuts.values())
    left = dict(found.problems)
    for place in dict.fromkeys(c.recording.sources[0].source for c in found.cuts.values()):
        if isinstance(place, str) and "://" not in place:
            try:
                audio_cut("", Path(place))
            except SpeechftError as error:
                left[place] = error.message
    facts = {"length": f"{seconds / 3600:.2f} h"}
    usable = sum(c.recording.sources[0].source not in left for c in found.cuts.values())
    commands = [command("extract", "tiny-hubert", path, out="feats")]
    return DataInspection(str(path), "manifest", facts, usable, left, commands)


def _corpus(path: Path | str) -> DataInspection:
    from speechft.data.issues import ISSUES_FILE, count, read_issues
    from speechft.data.losses import LOST, losses_of
    from speechft.data.manifest import open_corpus

    corpus = open_corpus(path)
    facts = {"name": corpus.name, "digest": corpus.digest}
    for split, values in corpus.statistics.items():
        labels = ", ".join(values["labels"])
        facts[split] = f"{values['utterances']} utterances, {values['hours']:.2f} h; {labels}"
    left, issues = _Left(), read_issues(corpus.folder / ISSUES_FILE)
    left.add_issues(issues)
    if remarks := count(issue for issue in issues if issue.resolved() == "kept"):
        facts["kept with remarks"] = ", ".join(f"{n} {kind}" for kind, n in remarks.items())
    if not issues:  # in shards, or at an address
        lost = losses_of(corpus, corpus.info.get(LOST, ()))
        left.told |= {kind: f"{n} when it was prepared" for kind, n in lost.items()}
    total = sum(values["utterances"] for values in corpus.statistics.values())
    commands = [command("extract", "tiny-hubert", path, out="feats")]
    return DataInspection(str(path), "corpus", facts, total, left.told, commands)
