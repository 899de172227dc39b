"""From lines of a manifest to lhotse cuts: each is checked against what it may hold, then built.

lhotse runs the command of a source of type ``command``, opens any address, and builds whatever
recording, transform, array or image stands in a field. Here a field that `cut_fields` does not list
is refused by name before lhotse sees it, so that a manifest is data and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechft.data.cut_fields import KINDS, check_cut, check_recording
from speechft.data.places import check_source, part_of
from speechft.errors import DataError
from speechft.storage.documents import (
    MAX_DOCUMENT,
    is_plain,
    parse_json,
    parse_yaml,
    read_limited,
    text_of,
    unpack,
)
from speechft.storage.documents import read_lines as lines_of

if TYPE_CHECKING:
    from lhotse.cut import Cut

_MADE = ("MixedCut", "PaddingCut")
"""Cuts without a recording of their own."""
_DROPPED = ("features",)
"""What cuts may hold and nothing here reads."""


def read_cuts(path: Path, problems: dict[str, str] | None = None, home: str = "") -> Iterator[Cut]:
    """Yield the cuts of a manifest of cuts or recordings, checked, paths resolved.

    Args:
        path: JSON lines, JSON or YAML, packed by gzip or not.
        problems: Is told about cuts without a recording of their own, by id; None refuses them.
        home: Address of the folder that the manifest was copied from, where it was: files that it
            names are below that.

    Raises:
        DataError: It cannot be read; names the item that holds what is not allowed.
    """
    try:
        number = 0
        for number, item in enumerate(_items(path)):
            name = _name(item, number)
            if isinstance(item, Mapping) and _has_no_recording(item) and problems is not None:
                problems[name] = (
                    f"is a {item.get('type')} without a recording of its own: write its audio "
                    "with cut.save_audio"
                )
                continue
            cut = to_lhotse(item, number, home)
            source = cut.recording.sources[0]
            inside = source.type == "file" and not Path(source.source).is_absolute()
            yield cut.with_recording_path_prefix(path.parent) if inside else cut
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"manifest {path} cannot be read: {reason}",
            hint="expected are cuts or recordings as lhotse writes them",
        ) from None


def to_lhotse(item: Any, number: int = 0, home: str = "") -> Cut:
    """Return the cut of lhotse that a section of a manifest, of a cut or a recording, describes.

    Args:
        item: What JSON or YAML holds.
        number: Its place in the manifest, from 0.
        home: See `read_cuts`.

    Raises:
        ValueError: Names the item, the field and what it may be.
    """
    from lhotse import MonoCut, MultiCut, Recording
    from lhotse.serialization import deserialize_item

    name = _name(item, number)
    try:
        if not isinstance(item, dict):
            raise ValueError(f"is {type(item).__name__}, expected a section")
        if "sources" in item:
            check_recording(item, home)
            recording = Recording.from_dict(dict(item))
            channels = recording.channel_ids
            one = len(channels) == 1
            kind = MonoCut if one else MultiCut
            made: Cut = kind(
                id=f"{recording.id}-{number}",
                start=0.0,
                duration=recording.duration,
                channel=channels[0] if one else channels,
                recording=recording,
            )
            return _placed(made, home)
        if "type" not in item:
            told = "part of a SupervisionSet" if "recording_id" in item else "of an unknown kind"
            told = "part of a FeatureSet" if "num_features" in item else told
            raise ValueError(f"is {told}, which has no audio")
        plain = {key: value for key, value in item.items() if key not in _DROPPED}
        check_cut(plain, home)
        plain["type"] = KINDS[plain["type"]]
        cut: Cut = deserialize_item(plain)
        return _placed(cut, home)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _placed(cut: Cut, home: str) -> Cut:
    """Return a cut whose audio, where it lies at an address, is named as `part_of` does."""
    from lhotse import AudioSource

    source = cut.recording.sources[0]
    if address := check_source(source.type, source.source, home):
        cut.recording.sources = [AudioSource("url", source.channels, part_of(address))]
    return cut


def _items(path: Path) -> Iterator[Any]:
    """Yield what a manifest lists.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no list of sections, or passes a limit.
    """
    plain = path.name.removesuffix(".gz")
    if plain.endswith((".yaml", ".yml", ".json")):
        text = text_of(unpack(read_limited(path)))
        if len(text) > MAX_DOCUMENT:
            raise ValueError(
                f"it has more than {MAX_DOCUMENT:,} characters: write it as JSON lines"
            )
        if not plain.endswith(".json"):
            yield from _listed(_yaml(text))
            return
        if text.lstrip().startswith("["):
            yield from _listed(parse_json(text))
            return
    for number, line in enumerate(lines_of(path), 1):
        try:
            yield parse_json(line)
        except ValueError as error:
            raise ValueError(f"line {number} is not JSON: {error}") from None


def _yaml(text: str) -> Any:
    import yaml

    try:
        return parse_yaml(text)
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML: {error}") from None


def _listed(content: Any) -> list[Any]:
    if not isinstance(content, list):
        raise ValueError(f"it holds {type(content).__name__}, expected a list")
    return content


def _name(item: Any, number: int) -> str:
    name = item.get("id") if isinstance(item, Mapping) else None
    return name if isinstance(name, str) and is_plain(name) else f"item {number + 1}"


def _has_no_recording(item: Mapping[str, Any]) -> bool:
    kind = item.get("type")
    if not isinstance(kind, str):
        return False
    return kind in _MADE or (kind in KINDS and item.get("recording") is None)
