"""One shard of the synthetic corpus, in a fresh process: ``python -m ...worker < job.json``.

espeak's output depends on what its process said before, so a shard is a fixed sequence of
utterances that a process of its own speaks in a fixed order.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from speechft.data.acoustics import SAMPLE_RATE, distort, resample, set_level
from speechft.data.corpora.synthetic.espeak import Espeak, Speech, variants
from speechft.data.corpora.synthetic.phones import SILENCE, to_arpabet
from speechft.data.corpora.synthetic.texts import make_text
from speechft.data.corpora.synthetic.voices import (
    FREE,
    OTHER_LANGUAGES,
    STYLES,
    Speaker,
    make_speakers,
    prosody,
)
from speechft.errors import SpeechftError
from speechft.storage.files import write_text

_EDGE = 0.06
"""Seconds of pause kept before and after the speech."""


def run(job: dict[str, Any]) -> None:
    """Speak the utterances of one shard; write one WAV each and ``shard.jsonl``.

    Args:
        job: ``partition`` (fields of PartitionSpec), ``first`` and ``last`` utterance index,
            ``seed`` and ``folder``.
    """
    partition, folder = job["partition"], Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    espeak = Espeak()
    speakers = make_speakers(partition["voices"], partition["speakers"], variants())
    lines = []
    for index in range(job["first"], job["last"]):
        key = f"{job['seed']}/{partition['name']}/{index}"
        rng = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))
        lines.append(_utterance(espeak, speakers, partition, index, rng, folder))
    write_text(folder / "shard.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def _utterance(
    espeak: Espeak,
    speakers: list[Speaker],
    partition: dict[str, Any],
    index: int,
    rng: np.random.Generator,
    folder: Path,
) -> dict[str, Any]:
    speaker = speakers[index % len(speakers)]
    style = str(rng.choice(STYLES)) if partition["styles"] else FREE
    foreign = rng.random() < partition["foreign_share"]
    accent = str(rng.choice(OTHER_LANGUAGES)) if foreign else speaker.accent
    text = make_text("pseudo" if foreign else partition["texts"], partition["text_set"], rng)
    espeak.seed(int(rng.integers(2**31)))
    speech = espeak.say(text.words, f"{accent}+{speaker.variant}", prosody(speaker, style, rng))
    ratio = speaker.warp * SAMPLE_RATE / speech.sample_rate
    waveform = resample(speech.waveform, ratio)
    phones = [] if foreign else align(speech, speaker.warp)
    waveform, phones = trim(waveform, phones)
    if partition["noise"]:
        waveform = distort(waveform, rng)
    waveform = set_level(waveform, rng.uniform(-32.0, -20.0))
    pcm = np.round(waveform * 32767.0).astype(np.int16)
    name = f"{partition['name']}-{index:06d}"
    soundfile.write(folder / f"{name}.wav", pcm, SAMPLE_RATE, subtype="PCM_16")
    return {
        "id": name,
        "samples": len(pcm),
        "text": text.words,
        "speaker": speaker.name,
        "style": style,
        "language": accent,
        "intent": text.intent,
        "phones": phones,
        "sha256": hashlib.sha256(pcm.tobytes()).hexdigest(),
    }


def align(speech: Speech, warp: float) -> list[tuple[str, float, float]]:
    """Return (phone, start, end) in seconds of the warped signal."""
    duration = len(speech.waveform) / speech.sample_rate
    starts = [start for _, start in speech.phonemes[1:]] + [duration]
    aligned = []
    for (mnemonic, start), end in zip(speech.phonemes, starts, strict=True):
        phones = to_arpabet(mnemonic)
        for position, phone in enumerate(phones):
            step = (end - start) / len(phones)
            aligned.append((phone, start + position * step, start + (position + 1) * step))
    return [(phone, start * warp, end * warp) for phone, start, end in aligned]


def trim(
    waveform: np.ndarray[Any, np.dtype[np.float32]], phones: list[tuple[str, float, float]]
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], list[tuple[str, float, float]]]:
    """Cut pauses at both ends down to ``_EDGE`` and shift the alignment."""
    loud = np.flatnonzero(np.abs(waveform) > 1e-3)
    first, last = (int(loud[0]), int(loud[-1]) + 1) if len(loud) else (0, len(waveform))
    edge = int(_EDGE * SAMPLE_RATE)
    begin, finish = max(0, first - edge), min(len(waveform), last + edge)
    duration, offset = (finish - begin) / SAMPLE_RATE, begin / SAMPLE_RATE
    moved = []
    for phone, start, end in phones:
        start, end = (min(max(0.0, time - offset), duration) for time in (start, end))
        if end > start or phone != SILENCE:
            moved.append((phone, round(start, 4), round(max(end, start), 4)))
    return waveform[begin:finish], moved


if __name__ == "__main__":
    try:
        run(json.load(sys.stdin))
    except SpeechftError as problem:
        sys.exit(problem.message)
