"""What cuts and recordings of a manifest may hold, field by field; the rest is refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from speechft.data.places import check_source
from speechft.storage.documents import is_plain

RATES = (1_000, 1_000_000)
"""Samples a second of a recording, from and to."""
MAX_SAMPLES = 1 << 40
MAX_CHANNELS = 1_024
TRANSFORMS = ("Resample", "Speed", "Volume")
"""Those of lhotse that are applied here; others need programs, recordings or chance."""
_SPEEDS = (0.1, 10.0)

KINDS = {"MonoCut": "MonoCut", "MultiCut": "MultiCut", "Cut": "MonoCut"}
"""Types of cuts that are read, and what each is built as."""

Check = Callable[[Any], str]
"""Says what is expected of a value, or nothing where it is that."""


def _text(value: Any) -> str:
    return "" if isinstance(value, str) and is_plain(value) else "expected a text"


def _text_or_none(value: Any) -> str:
    return "" if value is None else _text(value)


def _number(value: Any, least: float = -math.inf) -> bool:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and least <= value <= 1e12


def _seconds(value: Any) -> str:
    return "" if _number(value, 0.0) else "expected seconds from 0"


def _offset(value: Any) -> str:
    return "" if _number(value, -1e12) else "expected seconds"


def _length(value: Any) -> str:
    return "" if _number(value, 0.0) and value > 0 else "expected seconds above 0"


def _whole(value: Any, low: int, high: int) -> str:
    good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    return "" if good else f"expected a whole number from {low} to {high}"


def _rate(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return _whole(value, *RATES)


def _samples(value: Any) -> str:
    return _whole(value, 0, MAX_SAMPLES)


def _channels(value: Any) -> str:
    listed = value if isinstance(value, list) else [value]
    good = all(not _whole(n, 0, MAX_CHANNELS - 1) for n in listed)
    good = good and 0 < len(listed) <= MAX_CHANNELS and len(set(listed)) == len(listed)
    return "" if good else f"expected channels from 0 to {MAX_CHANNELS - 1}, each once"


def _channel_list(value: Any) -> str:
    return _channels(value) if isinstance(value, list) else "expected a list of channels"


def _plain_values(value: Any, depth: int = 8) -> str:
    """Say what is expected of a field of the user's own: text and numbers, in lists or sections.

    Sections in which lhotse would see a recording, an array or an image are none of these.
    """
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool | int | float):
        return ""
    if not depth or not isinstance(value, dict | list):
        return "expected text, numbers, and lists or sections of them"
    if isinstance(value, list):
        return next((told for item in value if (told := _plain_values(item, depth - 1))), "")
    for kind, mark in (
        ("a recording", "sources"),
        ("an array", "array"),
        ("an array", "storage_type"),
        ("an image", "width"),
    ):
        if mark in value:
            return f"it holds {kind}, expected text, numbers, and lists or sections of them"
    return _plain_values([*value, *value.values()], depth - 1)


def _custom(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, dict):
        return "expected a section"
    told = ((key, _text(key) or _plain_values(part)) for key, part in value.items())
    return next((f"field {key!r}: {problem}" for key, problem in told if problem), "")


def _alignment(value: Any) -> str:
    expected = "expected lists of [symbol, start, duration] by name"
    if value is None or not isinstance(value, dict):
        return "" if value is None else expected
    for name, items in value.items():
        if _text(name) or not isinstance(items, list):
            return expected
        for item in items:
            cells = list(item.values()) if isinstance(item, dict) else item
            if not isinstance(cells, list) or len(cells) not in (3, 4) or _text(cells[0]):
                return expected
            if _offset(cells[1]) or _seconds(cells[2]):
                return expected
            if len(cells) == 4 and cells[3] is not None and not _number(cells[3]):
                return expected
    return ""


def _transforms(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, list) or len(value) > 16:
        return "expected a list of at most 16"
    for item in value:
        if not isinstance(item, dict) or item.keys() != {"name", "kwargs"}:
            return "expected sections with name and kwargs"
        name, given = item["name"], item["kwargs"]
        if name not in TRANSFORMS:
            return f"{name!r} is none of those that are applied here: {', '.join(TRANSFORMS)}"
        fields = _TRANSFORM_FIELDS[name]
        if not isinstance(given, dict) or given.keys() != fields.keys():
            return f"{name} takes {', '.join(fields)}"
        told = next((f"{k} of {name}: {p}" for k, c in fields.items() if (p := c(given[k]))), "")
        if told:
            return told
    return ""


def _speed(value: Any) -> str:
    low, high = _SPEEDS
    return (
        "" if _number(value, low) and value <= high else f"expected a number from {low} to {high}"
    )


def _gain(value: Any) -> str:
    return "" if _number(value, -1e6) and value <= 1e6 else "expected a number"


_TRANSFORM_FIELDS: dict[str, dict[str, Check]] = {
    "Resample": {"source_sampling_rate": _rate, "target_sampling_rate": _rate},
    "Speed": {"factor": _speed},
    "Volume": {"factor": _gain},
}
_RECORDING: dict[str, Check] = {
    "id": _text,
    "sampling_rate": _rate,
    "num_samples": _samples,
    "duration": _length,
    "channel_ids": lambda value: "" if value is None else _channel_list(value),
    "transforms": _transforms,
}
_SUPERVISION: dict[str, Check] = {
    "id": _text,
    "recording_id": _text,
    "start": _offset,
    "duration": _seconds,
    "channel": _channels,
    "text": _text_or_none,
    "language": _text_or_none,
    "speaker": _text_or_none,
    "gender": _text_or_none,
    "custom": _custom,
    "alignment": _alignment,
}
_CUT: dict[str, Check] = {
    "id": _text,
    "start": _seconds,
    "duration": _length,
    "channel": _channels,
    "custom": _custom,
}


def _check(section: Any, fields: Mapping[str, Check], needed: tuple[str, ...], what: str) -> None:
    if not isinstance(section, dict):
        raise ValueError(f"{what} is {type(section).__name__}, expected a section")
    for key, value in section.items():
        if key not in fields:
            raise ValueError(f"{what} has the field {key!r}, which is none of: {', '.join(fields)}")
        if told := fields[key](value):
            raise ValueError(f"{key} of {what} cannot be used: {told}")
    if missing := [name for name in needed if name not in section]:
        raise ValueError(f"{what} lacks {', '.join(missing)}")


def check_cut(item: dict[str, Any], home: str) -> None:
    """Refuse a cut with a field that is unknown, missing, or of another kind.

    Args:
        item: The cut as it was read, with its ``type``.
        home: See `check_recording`.

    Raises:
        ValueError: Says which field, and what is expected.
    """
    kind = item["type"]
    if not isinstance(kind, str) or kind not in KINDS:
        expected = ", ".join(KINDS)
        raise ValueError(f"is of the type {kind!r}, which is not read; expected is: {expected}")
    own = {k: v for k, v in item.items() if k not in ("type", "recording", "supervisions")}
    _check(own, _CUT, ("id", "start", "duration", "channel"), "the cut")
    if isinstance(item["channel"], list) is not (KINDS[kind] == "MultiCut"):
        raise ValueError(f"channel of the cut does not fit a {kind}")
    check_recording(item.get("recording"), home)
    supervisions = item.get("supervisions", [])
    if not isinstance(supervisions, list):
        raise ValueError("supervisions are no list")
    for supervision in supervisions:
        needed = ("id", "recording_id", "start", "duration")
        _check(supervision, _SUPERVISION, needed, "a supervision")


def check_recording(recording: Any, home: str) -> None:
    """Refuse a recording likewise; it has one source, which is a file, an address or in memory.

    Args:
        recording: As it was read.
        home: Address of the folder that the manifest was copied from, if it was.

    Raises:
        ValueError: Says which field, and what is expected.
    """
    if recording is None:
        raise ValueError("it has no recording")
    plain = recording
    if isinstance(recording, dict):
        plain = {key: value for key, value in recording.items() if key != "sources"}
    _check(plain, _RECORDING, ("id", "sampling_rate", "num_samples", "duration"), "the recording")
    sources = recording.get("sources")
    if not isinstance(sources, list) or len(sources) != 1:
        count = len(sources) if isinstance(sources, list) else "no list of"
        raise ValueError(f"the recording has {count} sources, expected one")
    source = sources[0]
    _check(
        source,
        {"type": _text, "channels": _channel_list, "source": lambda value: ""},
        ("type", "channels", "source"),
        "the source",
    )
    check_source(source["type"], source["source"], home)
    known = recording.get("channel_ids")
    if known is not None and sorted(known) != sorted(source["channels"]):
        raise ValueError("channel_ids of the recording are not the channels of its source")
