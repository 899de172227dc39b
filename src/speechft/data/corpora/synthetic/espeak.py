"""espeak-ng through ctypes: speech and time-aligned phonemes, no system package needed.

The library and its data come from the PyPI package ``espeakng-loader`` (extra ``[demo]``).
espeak-ng is GPL-3; it is called at run time and nothing of it is part of this package.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from speechft.errors import DataError
from speechft.extras import needs

_SYNCHRONOUS = 2
_PHONEME_EVENTS = 1
_UTF8 = 1
_EVENT_END_OF_LIST = 0
_EVENT_PHONEME = 7
_RATE, _PITCH, _RANGE, _WORD_GAP = 1, 3, 4, 7


class _EventId(ctypes.Union):
    _fields_ = [
        ("number", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("string", ctypes.c_char * 8),
    ]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True)
class Prosody:
    """How a text is spoken, in espeak's own units."""

    rate: int
    """Words per minute, 80 to 450."""
    pitch: int
    """0 to 99."""
    range: int
    """Range of the pitch, 0 (monotone) to 99."""
    word_gap: int = 0
    """Pause between words in units of 10 ms."""


@dataclass(frozen=True)
class Speech:
    """One synthesised utterance."""

    waveform: npt.NDArray[np.float32]
    """(S,) samples in [-1, 1]."""
    sample_rate: int
    phonemes: tuple[tuple[str, float], ...]
    """espeak mnemonic and start in seconds, in order; pauses start with ``_``."""


class Espeak:
    """The synthesiser. Its output depends on what the process said before: use a fresh process."""

    def __init__(self) -> None:
        loader = _loader()
        self._library = ctypes.CDLL(loader.get_library_path())
        data = loader.get_data_path().encode()
        self.sample_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, _PHONEME_EVENTS)
        if self.sample_rate <= 0:
            raise DataError("espeak-ng did not start", hint="reinstall espeakng-loader")
        self._chunks: list[npt.NDArray[np.int16]] = []
        self._phonemes: list[tuple[str, float]] = []
        self._callback = _Callback(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def seed(self, number: int) -> None:
        """Seed the noise of voices with breath, which espeak-ng otherwise seeds with the time.

        Args:
            number: 0 to 2^31 - 1.
        """
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(number))

    def say(self, text: str, voice: str, prosody: Prosody) -> Speech:
        """Synthesise a text.

        Args:
            text: What to say.
            voice: Accent and variant, such as ``en-us+m3``.
            prosody: Rate, pitch, range.

        Raises:
            DataError: The voice does not exist.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise DataError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in (
            (_RATE, prosody.rate),
            (_PITCH, prosody.pitch),
            (_RANGE, prosody.range),
            (_WORD_GAP, prosody.word_gap),
        ):
            self._library.espeak_SetParameter(parameter, int(value), 0)
        self._chunks.clear()
        self._phonemes.clear()
        encoded = text.encode()
        size = ctypes.c_size_t(len(encoded) + 1)
        self._library.espeak_Synth(encoded, size, 0, 1, 0, _UTF8, None, None)
        chunks = self._chunks or [np.zeros(0, np.int16)]
        waveform = np.concatenate(chunks).astype(np.float32) / 32768.0
        return Speech(waveform, self.sample_rate, tuple(self._phonemes))

    def _receive(self, samples: object, count: int, events: object) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type != _EVENT_END_OF_LIST:  # type: ignore[index]
            event = events[index]  # type: ignore[index]
            if event.type == _EVENT_PHONEME:
                mnemonic = event.id.string.decode(errors="replace")
                self._phonemes.append((mnemonic, event.audio_position / 1000.0))
            index += 1
        return 0


@cache
def variants() -> tuple[str, ...]:
    """Return the names of all voice variants that come with espeak-ng, sorted."""
    from pathlib import Path

    folder = Path(_loader().get_data_path()) / "voices" / "!v"
    return tuple(sorted(path.name for path in folder.iterdir()))


def _loader() -> Any:
    with needs("demo", "the embedded corpus", "espeak-ng"):
        import espeakng_loader
    return espeakng_loader
