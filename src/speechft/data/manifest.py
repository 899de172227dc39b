"""A corpus on disk: lhotse cut sets by split, with digest and statistics; reading its audio."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from speechft.checkpoint import json_digest, read_json, write_json
from speechft.data.acoustics import SAMPLE_RATE
from speechft.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from lhotse import CutSet
    from lhotse.cut import Cut

CORPUS_FILE = "corpus.json"


@dataclass(frozen=True)
class Utterance:
    """One recording with what is known about it, before it becomes a lhotse cut."""

    id: str
    path: str
    """Relative to the corpus folder, or absolute."""
    samples: int
    sample_rate: int = SAMPLE_RATE
    channels: int = 1
    text: str | None = None
    speaker: str | None = None
    phones: list[tuple[str, float, float]] = field(default_factory=list)
    """(phone, start, end) in seconds; start = end = 0 throughout where times are not known."""
    labels: dict[str, str] = field(default_factory=dict)
    """Other labels by kind, such as ``style`` or ``intent``."""
    sha256: str | None = None
    """Digest of the samples, where it is known."""


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

    @cached_property
    def _splits(self) -> dict[str, CutSet]:
        return {}

    def split(self, name: str) -> CutSet:
        """Return the cuts of one split, sorted by id, paths resolved.

        Raises:
            DataError: There is no such split, or its manifest is missing or damaged.
        """
        if name not in self.statistics:
            raise DataError(
                f"corpus {self.name} has no split {name!r}; it has: {', '.join(self.statistics)}"
            )
        if name not in self._splits:
            from lhotse import CutSet

            path = self.folder / f"{name}.jsonl.gz"
            try:
                self._splits[name] = CutSet.from_cuts(
                    cut.with_recording_path_prefix(self.folder)
                    if not Path(cut.recording.sources[0].source).is_absolute()
                    else cut
                    for cut in CutSet.from_file(path)
                )
            except Exception as error:  # gzip, json and lhotse raise many kinds
                raise DataError(
                    f"manifest {path} cannot be read: {error or type(error).__name__}",
                    hint="prepare the corpus again",
                ) from None
        return self._splits[name]

    def task_splits(self, task: str) -> tuple[str, str, str]:
        """Return the names of the train, dev and test splits that a task is probed on."""
        named = self.info.get("task_splits", {})
        train, dev, test = named.get(task, named.get("*", ("train", "dev", "test")))
        return train, dev, test

    def tuning_splits(self) -> tuple[str, str]:
        """Return the names of the train and dev splits for fine-tuning."""
        train, dev = self.info.get("tuning_splits") or ("train", "dev")
        return train, dev


def to_cut(utterance: Utterance) -> Cut:
    """Turn an utterance into a lhotse cut with one supervision."""
    from lhotse import AudioSource, MonoCut, MultiCut, Recording, SupervisionSegment
    from lhotse.supervision import AlignmentItem

    duration = utterance.samples / utterance.sample_rate
    channels = list(range(utterance.channels))
    recording = Recording(
        id=utterance.id,
        sources=[AudioSource(type="file", channels=channels, source=utterance.path)],
        sampling_rate=utterance.sample_rate,
        num_samples=utterance.samples,
        duration=duration,
        channel_ids=channels,
    )
    channel: Any = 0 if utterance.channels == 1 else channels
    phones = [
        AlignmentItem(symbol=phone, start=start, duration=round(end - start, 4))
        for phone, start, end in utterance.phones
    ]
    custom = {**utterance.labels, **({"sha256": utterance.sha256} if utterance.sha256 else {})}
    supervision = SupervisionSegment(
        id=utterance.id,
        recording_id=utterance.id,
        start=0.0,
        duration=duration,
        channel=channel,
        text=utterance.text,
        speaker=utterance.speaker,
        custom=custom or None,
        alignment={"phone": phones} if phones else None,
    )
    kind = MonoCut if utterance.channels == 1 else MultiCut
    return kind(
        id=utterance.id,
        start=0.0,
        duration=duration,
        channel=channel,
        recording=recording,
        supervisions=[supervision],
    )


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
    from lhotse import CutSet

    statistics, digests = {}, {}
    for split, utterances in splits.items():
        items = sorted(utterances, key=lambda item: item.id)
        path = folder / f"{split}.jsonl.gz"
        CutSet.from_cuts(to_cut(item) for item in items).to_file(path)
        statistics[split] = _statistics(items)
        digests[split] = json_digest([_without_place(item) for item in items])
    digest = json_digest({"source": source_digest, "splits": digests})
    content = {"name": name, "digest": digest, "statistics": statistics, "info": dict(info)}
    write_json(folder / CORPUS_FILE, content)


def open_corpus(folder: Path) -> Corpus:
    """Open a prepared corpus.

    Raises:
        DataError: The folder holds no corpus.
    """
    try:
        content = read_json(folder / CORPUS_FILE)
    except CheckpointError as error:
        raise DataError(
            f"{folder} is not a prepared corpus: {error.message}",
            hint="make one with: speechft prepare CORPUS ROOT --out DIR",
        ) from None
    return Corpus(folder.resolve(), *(content[k] for k in ("name", "digest", "statistics", "info")))


def _without_place(utterance: Utterance) -> dict[str, Any]:
    """Return all that is known about an utterance except where its audio lies."""
    return {name: value for name, value in vars(utterance).items() if name != "path"}


def _statistics(items: list[Utterance]) -> dict[str, Any]:
    labels: Counter[str] = Counter()
    for item in items:
        labels.update(item.labels.keys())
        labels.update(name for name in ("text", "speaker", "phones") if getattr(item, name))
        labels.update(["alignment"] if any(end > 0 for _, _, end in item.phones) else [])
    return {
        "utterances": len(items),
        "hours": round(sum(u.samples / u.sample_rate for u in items) / 3600, 4),
        "speakers": len({item.speaker for item in items if item.speaker}),
        "labels": dict(sorted(labels.items())),
    }


def load_waveform(cut: Cut) -> npt.NDArray[np.float32]:
    """Read a cut as 16 kHz mono; other rates are resampled, channels averaged.

    Returns:
        (S,) samples in [-1, 1].

    Raises:
        DataError: The audio cannot be read, is empty, or holds NaN.
    """
    source = cut.recording.sources[0].source
    if cut.num_samples == 0:
        raise DataError(f"audio {source} is empty")
    try:
        audio = (
            cut.resample(SAMPLE_RATE) if cut.sampling_rate != SAMPLE_RATE else cut
        ).load_audio()
    except Exception as error:  # lhotse and libsndfile raise many kinds
        raise DataError(f"audio {source} {_problem(cut, error)}") from None
    waveform = np.atleast_2d(audio).mean(axis=0, dtype=np.float32)
    if not np.isfinite(waveform).all():
        raise DataError(f"audio {source} holds NaN or infinite samples")
    return np.ascontiguousarray(waveform, dtype=np.float32)


def _problem(cut: Cut, error: Exception) -> str:
    """Say in one line why the audio of a cut cannot be read."""
    import soundfile

    recording = cut.recording
    path = Path(recording.sources[0].source)
    if not path.exists():
        return "does not exist"
    try:
        found = soundfile.info(str(path)).frames
    except (OSError, RuntimeError, TypeError) as reason:
        return f"cannot be read: {reason}"
    if found != recording.num_samples:
        return (
            f"has {found} samples, but its manifest says {recording.num_samples}: "
            "it changed after the corpus was prepared"
        )
    return f"cannot be read: {str(error).partition(chr(10))[0]}"
