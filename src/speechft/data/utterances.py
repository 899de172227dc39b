"""What is known of one recording before it is a lhotse cut; digest and statistics of many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechft.data.acoustics import SAMPLE_RATE
from speechft.data.kept_cuts import sorted_order
from speechft.data.kept_items import KeptItems, as_values
from speechft.storage.files import list_digest

if TYPE_CHECKING:
    from lhotse.cut import Cut


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording with what is known about it, before it becomes a lhotse cut."""

    id: str
    path: str
    """Relative to the corpus folder, or absolute."""
    samples: int
    sample_rate: int = SAMPLE_RATE
    channels: int = 1
    """Of the recording."""
    text: str | None = None
    speaker: str | None = None
    phones: list[tuple[str, float, float]] = field(default_factory=list)
    """(phone, start, end) in seconds; start = end = 0 throughout where times are not known."""
    words: list[tuple[str, float, float]] = field(default_factory=list)
    """(word, start, end) in seconds, where times are known."""
    labels: dict[str, str] = field(default_factory=dict)
    """Other labels by kind, such as ``style`` or ``intent``."""
    sha256: str | None = None
    """Digest of the samples, where it is known."""
    offset: int = 0
    """First sample within the recording, for a segment of a longer one."""
    recording_samples: int = 0
    """Samples of the whole recording; 0 where the utterance is the whole."""
    channel: int | None = None
    """The channel that counts; None for the mean of all."""


def kept_utterances(items: Iterable[Utterance] = ()) -> KeptItems[Utterance]:
    """Return utterances that do not stay in memory."""
    return KeptItems(as_values, _utterance, items)


def _utterance(values: list[Any]) -> Utterance:
    known = dict(zip((f.name for f in fields(Utterance)), values, strict=True))
    known |= {name: [(s, a, b) for s, a, b in known[name]] for name in ("phones", "words")}
    return Utterance(**known)


def by_id(utterances: Iterable[Utterance]) -> Sequence[Utterance]:
    """Return utterances by id."""
    if not isinstance(utterances, KeptItems):
        return sorted(utterances, key=lambda item: item.id)
    order = sorted_order((item.id for item in utterances), len(utterances))
    return kept_utterances(utterances[number.item()] for number in order)


def to_cut(utterance: Utterance) -> Cut:
    """Turn an utterance into a lhotse cut with one supervision.

    A segment of a longer recording is a cut that starts within it; the recording is named after
    its file, so that segments share it.
    """
    from lhotse import AudioSource, MonoCut, MultiCut, Recording, SupervisionSegment
    from lhotse.supervision import AlignmentItem

    duration = utterance.samples / utterance.sample_rate
    channels = list(range(utterance.channels))
    whole = utterance.recording_samples or utterance.samples
    name = Path(utterance.path).stem if utterance.recording_samples else utterance.id
    recording = Recording(
        id=name,
        sources=[AudioSource(type="file", channels=channels, source=utterance.path)],
        sampling_rate=utterance.sample_rate,
        num_samples=whole,
        duration=whole / utterance.sample_rate,
        channel_ids=channels,
    )
    one = utterance.channels == 1 or utterance.channel is not None
    channel: Any = (utterance.channel or 0) if one else channels
    alignment = {
        kind: [
            AlignmentItem(symbol=symbol, start=start, duration=round(end - start, 4))
            for symbol, start, end in spoken
        ]
        for kind, spoken in (("phone", utterance.phones), ("word", utterance.words))
        if spoken
    }
    custom = {**utterance.labels, **({"sha256": utterance.sha256} if utterance.sha256 else {})}
    supervision = SupervisionSegment(
        id=utterance.id,
        recording_id=name,
        start=0.0,
        duration=duration,
        channel=channel,
        text=utterance.text,
        speaker=utterance.speaker,
        custom=custom or None,
        alignment=alignment or None,
    )
    kind = MonoCut if one else MultiCut
    return kind(
        id=utterance.id,
        start=utterance.offset / utterance.sample_rate,
        duration=duration,
        channel=channel,
        recording=recording,
        supervisions=[supervision],
    )


def utterance_digest(items: Iterable[Utterance]) -> str:
    """Return the digest of all that is known about utterances except where their audio lies.

    Segments of recordings are told apart by their offset; defaults do not count.
    """
    return list_digest(map(_known, items))


def _known(item: Utterance) -> dict[str, Any]:
    known = {f.name: getattr(item, f.name) for f in fields(item) if f.name != "path"}
    for name in ("offset", "recording_samples", "words"):
        if not known[name]:
            known.pop(name)
    if known["channel"] is None:
        known.pop("channel")
    return known


def statistics_of(items: Sequence[Utterance]) -> dict[str, Any]:
    """Return how many utterances, hours, speakers and labels by kind there are."""
    labels: Counter[str] = Counter()
    for item in items:
        labels.update(item.labels.keys())
        labels.update(
            name for name in ("text", "speaker", "phones", "words") if getattr(item, name)
        )
        labels.update(["alignment"] if any(end > 0 for _, _, end in item.phones) else [])
    return {
        "utterances": len(items),
        "hours": round(sum(u.samples / u.sample_rate for u in items) / 3600, 4),
        "speakers": len({item.speaker for item in items if item.speaker}),
        "labels": dict(sorted(labels.items())),
    }
