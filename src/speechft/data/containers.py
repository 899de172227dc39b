"""Looks into files that hold, or should hold, audio: what they are, and what is missing of them."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from speechft.storage.disk import reading
from speechft.storage.documents import read_limited

_TOLD: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "is a Git LFS pointer, not audio: run git lfs pull"),
    (0, b"#!AMR", "is AMR"),
    (0, b"\x1aE\xdf\xa3", "is Matroska or WebM"),
    (4, b"ftyp", "is MPEG-4 audio (AAC or ALAC)"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "is Windows Media audio"),
    (0, b".RMF", "is RealAudio"),
    (0, b"wvpk", "is WavPack"),
    (0, b"MAC ", "is Monkey's Audio"),
    (0, b"FLV", "is Flash video"),
    (0, b"PK\x03\x04", "is a zip archive: unpack it"),
    (0, b"\x1f\x8b", "is compressed with gzip: unpack it"),
    (0, b"<!DOCTYPE", "is a web page, not audio: download it again"),
    (0, b"<!doctype", "is a web page, not audio: download it again"),
    (0, b"<html", "is a web page, not audio: download it again"),
    (0, b"\x93NUMPY", "is a numpy array, not audio"),
)
_CONVERT = ", which is not read here: ffmpeg -i FILE FILE.wav"
AUDIO_SUFFIXES = frozenset(
    ".aif .aifc .aiff .au .caf .flac .mp3 .nist .oga .ogg .opus .snd .sph .w64 .wav".split()
)
"""What is taken from folders; a file that is named may have any suffix."""
FOREIGN_SUFFIXES = frozenset(
    ".m4a .mp4 .aac .amr .awb .webm .mkv .mka .mov .3gp .wma .ra .rm .wv .ape .raw .pcm".split()
)
"""Suffixes of recordings that libsndfile does not read: they are named."""
_HEADERLESS = (".raw", ".pcm")
_STREAMED = 0x7F00_0000
"""Sizes from here on stand for "not known" in WAV files that were written to a pipe."""


def what_it_is(source: Path | str | bytes) -> str:
    """Say what a file is that could not be read as audio, and what helps; empty if unknown."""
    start = source[:64] if isinstance(source, bytes) else _start(source, 64)
    if not start:
        return "is empty: it has no bytes"
    for place, magic, told in _TOLD:
        if start[place : place + len(magic)] == magic:
            return told if ":" in told or "not audio" in told else told + _CONVERT
    if start[0] == 0xFF and len(start) > 1 and start[1] & 0xF6 == 0xF0:
        return "is AAC" + _CONVERT
    if start.startswith(b"NIST_1A") and b"shorten" in _bytes(source, 2048):
        return "is SPHERE compressed by shorten: sph2pipe -f wav FILE FILE.wav"
    if not any(start):
        return "holds nothing but zero bytes"
    if not isinstance(source, bytes) and Path(source).suffix.lower() in _HEADERLESS:
        return (
            "has no header that tells rate and encoding: sox -t raw -r 16000 -e signed -b 16 "
            "-c 1 FILE FILE.wav"
        )
    return ""


def missing_bytes(source: Path | str | bytes) -> int:
    """Return how many bytes of sound a file's header promises that the file does not have.

    WAV, AIFF, AU and SPHERE are looked at; the others give 0, as do files without a size.
    """
    start = _bytes(source, 1 << 16)
    total = len(source) if isinstance(source, bytes) else os.stat(source).st_size
    promised = _promised(start)
    return 0 if promised is None else max(0, sum(promised) - total)


def with_size(source: Path | str | bytes) -> bytes | None:
    """Return a WAV whose header says that it holds no sound, though sound follows, put right.

    Recorders that were killed, and some that write to a pipe, leave the size at 0.

    Returns:
        The file with its size; None if there is nothing to mend.
    """
    start = _bytes(source, 1 << 16)
    found = _chunk(start, b"data", "<") if start[:4] == b"RIFF" else None
    if found is None or found[1]:
        return None
    data = bytearray(source if isinstance(source, bytes) else read_limited(source, 1 << 30))
    rest = len(data) - found[0]
    another = data[found[0] : found[0] + 4]  # a list of titles may follow what is truly empty
    size = int.from_bytes(data[found[0] + 4 : found[0] + 8], "little")
    if rest < 8 or (bytes(another).isalnum() and size <= rest - 8):
        return None
    data[found[0] - 4 : found[0]] = rest.to_bytes(4, "little")
    data[4:8] = (len(data) - 8).to_bytes(4, "little")
    return bytes(data)


def lacks_end(source: Path | str | bytes) -> bool:
    """Return whether an Ogg file's last page is not marked as the last: some may be missing."""
    if isinstance(source, bytes):
        tail = source[-(1 << 17) :]
    else:
        with reading(source) as file:
            file.seek(max(0, Path(source).stat().st_size - (1 << 17)))
            tail = file.read()
    place = tail.rfind(b"OggS")
    return 0 <= place < len(tail) - 5 and not tail[place + 5] & 4


def _promised(start: bytes) -> tuple[int, int] | None:
    """Return where the sound begins and how many bytes it is said to have."""
    if start[:4] in (b"RIFF", b"RIFX") and start[8:12] == b"WAVE":
        order = "<" if start[:4] == b"RIFF" else ">"
        found = _chunk(start, b"data", order)
        return found if found and 0 < found[1] < _STREAMED else None
    if start[:4] == b"FORM" and start[8:12] in (b"AIFF", b"AIFC"):
        found = _chunk(start, b"SSND", ">")
        return found if found and 0 < found[1] < _STREAMED else None
    if start[:4] == b".snd" and len(start) >= 12:
        offset, size = struct.unpack(">II", start[4:12])
        return (offset, size) if 0 < size < _STREAMED else None
    if start.startswith(b"NIST_1A"):
        return _sphere(start)
    return None


def _chunk(start: bytes, name: bytes, order: str) -> tuple[int, int] | None:
    position = 12
    while position + 8 <= len(start):
        size = int(struct.unpack(f"{order}I", start[position + 4 : position + 8])[0])
        if start[position : position + 4] == name:
            return position + 8, size
        position += 8 + size + size % 2
    return None


def _sphere(start: bytes) -> tuple[int, int] | None:
    try:
        lines = start[:4096].decode("ascii", "replace").split("\n")
        cells = [line.split() for line in lines]
        facts = {cell[0]: cell[2] for cell in cells if len(cell) == 3 and cell[1] == "-i"}
        size = int(facts["sample_count"]) * int(facts["sample_n_bytes"])
        return int(lines[1]), size * int(facts.get("channel_count", 1))
    except (KeyError, ValueError, IndexError):
        return None


def _start(source: Path | str, size: int) -> bytes:
    try:
        with reading(source) as file:
            return file.read(size)
    except OSError:
        return b"?"


def _bytes(source: Path | str | bytes, size: int) -> bytes:
    return source[:size] if isinstance(source, bytes) else _start(source, size)
