"""Speaks given lines in a fresh process: ``python -m ...speak < job.json``.

espeak's output depends on what its process said before, so a job is a fixed list of lines.
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
from speechft.data.corpora.synthetic.espeak import Espeak, Prosody
from speechft.data.corpora.synthetic.worker import align, trim
from speechft.errors import SpeechftError
from speechft.storage.files import write_text


def run(job: dict[str, Any]) -> None:
    """Speak lines; write one WAV each and ``shard.jsonl``.

    Args:
        job: ``folder`` and ``lines``, each with ``id``, ``text``, ``voice`` (accent and variant),
            ``prosody``, ``warp``, ``seed``, ``noise``, ``aligned``; all else is copied.
    """
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    espeak = Espeak()
    done = [_say(espeak, line, folder) for line in job["lines"]]
    write_text(folder / "shard.jsonl", "".join(json.dumps(line) + "\n" for line in done))


def _say(espeak: Espeak, line: dict[str, Any], folder: Path) -> dict[str, Any]:
    espeak.seed(line["seed"] % 2**31)
    speech = espeak.say(line["text"], line["voice"], Prosody(**line["prosody"]))
    waveform = resample(speech.waveform, line["warp"] * SAMPLE_RATE / speech.sample_rate)
    phones = align(speech, line["warp"]) if line["aligned"] else []
    waveform, phones = trim(waveform, phones)
    rng = np.random.default_rng(line["seed"])
    if line["noise"]:
        waveform = distort(waveform, rng)
    waveform = set_level(waveform, rng.uniform(-32.0, -20.0))
    pcm = np.round(waveform * 32767.0).astype(np.int16)
    soundfile.write(folder / f"{line['id']}.wav", pcm, SAMPLE_RATE, subtype="PCM_16")
    digest = hashlib.sha256(pcm.tobytes()).hexdigest()
    return {**line, "samples": len(pcm), "phones": phones, "sha256": digest}


if __name__ == "__main__":
    try:
        run(json.load(sys.stdin))
    except SpeechftError as problem:
        sys.exit(problem.message)
