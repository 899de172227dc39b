"""Answers in files: JSON lines, CSV, RTTM for turns, and WebVTT for text with times."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from speechft.errors import ConfigError, DataError, unknown_choice

FORMATS = ("jsonl", "csv", "rttm", "vtt")
_CUE_SECONDS, _CUE_LETTERS, _PAUSE = 6.0, 84, 1.0
"""A cue ends before it is longer, has more letters (two lines of 42), or where such a pause is."""


@dataclass(frozen=True)
class Answered:
    """What is written of a recording."""

    id: str
    seconds: float
    values: Mapping[str, Any]
    spans: Sequence[tuple[float, float, str]]
    """(start, end, text)."""


Rows = Callable[[], Iterator[Answered]]
"""Gives the recordings in their order, as often as they are asked for."""


def pick_format(out: Path, asked: str | None, possible: Sequence[str], task: str) -> str:
    """Return the format that was asked for, else that of the suffix; JSON lines without one.

    Raises:
        ConfigError: There is no such format, or the task's answers cannot be written so.
    """
    chosen = asked or out.suffix.lower().removeprefix(".") or "jsonl"
    chosen = {"json": "jsonl", "ndjson": "jsonl"}.get(chosen, chosen)
    if chosen not in FORMATS:
        error = unknown_choice("format", chosen, FORMATS)
        raise ConfigError(error.message, hint=error.hint or "give --format, or --out FILE.jsonl")
    if chosen not in possible:
        raise ConfigError(
            f"answers of task {task} cannot be written as {chosen}; they can be as "
            f"{', '.join(possible)}",
            hint=f"give --format {possible[0]}",
        )
    return chosen


def check_recordings(chosen: str, out: Path, names: Sequence[str]) -> None:
    """Refuse recordings that cannot be told apart in a format.

    Raises:
        ConfigError: Several for WebVTT with the name of one file.
        DataError: Two have one name where blanks are not allowed.
    """
    if chosen == "vtt" and len(names) > 1 and out.suffix:
        raise ConfigError(
            f"a file of WebVTT is about one recording; there are {len(names)}",
            hint=f"give a folder: --out {out.with_suffix('')} --format vtt",
        )
    if chosen == "rttm":
        seen: dict[str, str] = {}
        for name in names:
            if (other := seen.setdefault(_word(name), name)) != name:
                raise DataError(
                    f"RTTM allows no blanks in names, without which {other!r} and {name!r} are one",
                    hint="rename one of them, or write --format jsonl",
                )


def write_answers(out: Path, chosen: str, rows: Rows, final: Path) -> None:
    """Write answers in a format.

    Args:
        out: Where to; a folder for WebVTT of several recordings.
        chosen: The format.
        rows: What is written.
        final: What ``out`` will be called.
    """
    if chosen == "vtt" and not final.suffix:
        for row in rows():
            place = out / PurePosixPath(f"{row.id}.vtt")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(_vtt(row), encoding="utf-8")
        return
    parts = {"jsonl": _jsonl, "csv": _csv, "rttm": _rttm, "vtt": _vtts}[chosen](rows)
    with open(out, "x", encoding="utf-8", newline="") as file:
        file.writelines(parts)


def _jsonl(rows: Rows) -> Iterator[str]:
    for row in rows():
        line = {"id": row.id, "seconds": row.seconds, **row.values}
        yield json.dumps(line, ensure_ascii=False) + "\n"


def _csv(rows: Rows) -> Iterator[str]:
    """Yield a row a recording; lists and mappings are JSON within their cells."""
    names: list[str] = []
    for row in rows():
        cells = {"id": row.id, "seconds": row.seconds, **row.values}
        if not names:
            names = list(cells)
            yield _line(names)
        yield _line([_cell(cells.get(name, "")) for name in names])


def _cell(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)


def _line(cells: Sequence[Any]) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def _rttm(rows: Rows) -> Iterator[str]:
    """Yield a line a turn, as NIST's scorers and pyannote read them."""
    for row in rows():
        for start, end, speaker in row.spans:
            yield (
                f"SPEAKER {_word(row.id)} 1 {start:.3f} {end - start:.3f} <NA> <NA> "
                f"{_word(speaker)} <NA> <NA>\n"
            )


def _word(text: str) -> str:
    return re.sub(r"\s+", "_", text)


def _vtts(rows: Rows) -> Iterator[str]:
    yield from map(_vtt, rows())


def _vtt(row: Answered) -> str:
    """Return WebVTT of a recording; text without times is one cue."""
    spans = list(row.spans)
    if not spans and (text := str(row.values.get("text", ""))):
        spans = [(0.0, row.seconds, text)]
    cues = [
        f"{_clock(cue[0][0])} --> {_clock(max(cue[-1][1], cue[0][0] + 0.001))}\n"
        + _escaped(" ".join(text for _, _, text in cue))
        + "\n"
        for cue in _cues(spans)
    ]
    return "\n".join(["WEBVTT\n", *cues])


def _cues(
    spans: Sequence[tuple[float, float, str]],
) -> Iterator[list[tuple[float, float, str]]]:
    cue: list[tuple[float, float, str]] = []
    for span in spans:
        if cue and (
            span[1] - cue[0][0] > _CUE_SECONDS
            or span[0] - cue[-1][1] > _PAUSE
            or sum(len(text) + 1 for _, _, text in [*cue, span]) - 1 > _CUE_LETTERS
        ):
            yield cue
            cue = []
        cue.append(span)
    if cue:
        yield cue


def _clock(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def _escaped(text: str) -> str:
    """Return text as WebVTT takes it: no markup, and no arrow that would begin a cue."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
