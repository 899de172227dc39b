"""MPEG audio (MP3) counted frame by frame, since its length is an estimate in most libraries.

A frame is a header of four bytes and a body whose size the header gives (ISO 11172-3, 2.4.1). The
first frame may hold no sound but a ``Xing`` or ``Info`` tag with the number of frames; without it,
or where it is wrong (files that were joined or cut), libsndfile takes a guess for the length.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""Samples a second by the version bits: 3 is MPEG 1, 2 is MPEG 2, 0 is MPEG 2.5."""
_KBITS = {
    (True, 3): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 1): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Kilobits a second by (MPEG 1, layer bits); layer bits: 3 is layer I, 1 is layer III."""
_TAGS = (b"Xing", b"Info")


@dataclass(frozen=True, slots=True)
class MpegFrames:
    """The frames of a file."""

    places: list[tuple[int, int]]
    """First byte and size of every frame that holds sound."""
    samples_a_frame: int
    told: int | None
    """Frames by the tag of the file; None where there is no tag."""

    @property
    def samples(self) -> int:
        """Return how many samples the frames hold, for each channel."""
        return len(self.places) * self.samples_a_frame


def read_frames(data: bytes) -> MpegFrames | None:
    """Find the frames of an MPEG audio file.

    Args:
        data: The whole file.

    Returns:
        The frames; None if this is no MPEG audio, or its frames do not tell their size.
    """
    position = _after_id3(data)
    places: list[tuple[int, int]] = []
    kind: tuple[int, ...] | None = None
    told: int | None = None
    samples = 0
    while position + 4 <= len(data):
        frame = _header(data, position)
        good = frame is not None and (kind is None or frame[1] == kind)
        if good and kind is None:  # chance looks like one header, hardly like two in a row
            following = position + (frame or (0,))[0]
            good = _header(data, following) is not None or following >= len(data)
        if not good or frame is None:
            position = data.find(b"\xff", position + 1)
            if position < 0 or (kind is None and position > 1 << 17):
                break
            continue
        size, kind, samples = frame
        if position + size > len(data):
            break
        count = _tag(data, position)
        if count is None:
            places.append((position, size))
        elif not places:
            told = count
        position += size
    return MpegFrames(places, samples, told) if places else None


def with_length(data: bytes, frames: MpegFrames) -> bytes:
    """Return the frames behind a tag that says how many there are, so that libsndfile knows."""
    first, size = frames.places[0]
    header = data[first : first + 4]
    needed = 4 + 32 + 12
    while size < needed:  # a tag needs room: take the frame's header with the highest bit rate
        header = bytes((header[0], header[1] | 1, (header[2] & 0x0F) | 0xE0, header[3]))
        found = _header(header, 0)
        size = found[0] if found else needed
    body = bytearray(size)
    body[:4] = bytes((header[0], header[1] | 1, header[2], header[3]))  # without a checksum
    place = 4 + _side_bytes(header)
    body[place : place + 12] = b"Xing" + struct.pack(">II", 1, len(frames.places))
    return bytes(body) + b"".join(data[start : start + n] for start, n in frames.places)


def _header(data: bytes, position: int) -> tuple[int, tuple[int, ...], int] | None:
    """Return size in bytes, (version, layer, rate) and samples of the frame at a place."""
    if position + 4 > len(data) or data[position] != 0xFF or data[position + 1] & 0xE0 != 0xE0:
        return None
    second, third = data[position + 1], data[position + 2]
    version, layer = second >> 3 & 3, second >> 1 & 3
    bits, rate, padding = third >> 4, third >> 2 & 3, third >> 1 & 1
    if version == 1 or layer == 0 or bits in (0, 15) or rate == 3:
        return None
    hertz, first = _RATES[version][rate], version == 3
    speed = _KBITS[first, layer][bits - 1] * 1000
    if layer == 3:
        return (12 * speed // hertz + padding) * 4, (version, layer, rate), 384
    samples = 1152 if first or layer == 2 else 576
    return samples // 8 * speed // hertz + padding, (version, layer, rate), samples


def _side_bytes(header: bytes) -> int:
    """Return the bytes between the header of a frame and its tag."""
    mono = header[3] >> 6 == 3
    return ((17 if mono else 32) if header[1] >> 3 & 3 == 3 else (9 if mono else 17)) + (
        0 if header[1] & 1 else 2
    )


def _tag(data: bytes, position: int) -> int | None:
    """Return the number of frames by the tag of a frame: 0 if it does not say, None without tag."""
    if data[position + 36 : position + 40] == b"VBRI":
        return int.from_bytes(data[position + 50 : position + 54], "big")
    place = position + 4 + _side_bytes(data[position : position + 4])
    if data[place : place + 4] not in _TAGS:
        return None
    flags, count = struct.unpack(">II", data[place + 4 : place + 12].ljust(8, b"\0"))
    return count if flags & 1 else 0


def _after_id3(data: bytes) -> int:
    """Return where the sound begins behind the tags with title and picture (ID3v2)."""
    position = 0
    while data[position : position + 3] == b"ID3" and position + 10 <= len(data):
        size = 0
        for byte in data[position + 6 : position + 10]:
            size = size << 7 | byte & 0x7F
        position += 10 + size + (10 if data[position + 5] & 0x10 else 0)
    return position
