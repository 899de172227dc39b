"""What a second of audio costs in files of 0.3 s and in files of 15 s: MFCC and tiny-hubert.

    python benchmarks/short_files.py [--seconds 300] [--rounds 3] [--encoders mfcc,tiny-hubert]

Both sets hold the same seconds of noise at 16 kHz. One pass of the frozen encoder over the cuts of
each, reading included, as `evaluate` makes it (`speechft.features.extract`); the sets take turns.
Processor seconds of one thread are counted and the least of the rounds is taken, for other
processes only add to it. *Plain* opens and reads the same files with soundfile and does nothing
with them: what a file costs whoever reads it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch

from speechft.data.utterances import Utterance, to_cut
from speechft.encoders.load import load_encoder
from speechft.features.extract import extract

RATE = 16_000
SHORT, LONG = 0.3, 15.0
GOAL = 1.3


def write(folder: Path, each: float, seconds: float) -> list[Path]:
    """Write files of ``each`` seconds until there are ``seconds``."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    paths = [folder / f"{n:06d}.wav" for n in range(round(seconds / each))]
    for path in paths:
        samples = 0.1 * generator.standard_normal(round(each * RATE))
        soundfile.write(path, samples, RATE, subtype="PCM_16")
    return paths


def spent(work: Callable[[], object]) -> float:
    """Return the processor seconds of a call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def measure(encoders: list[str], seconds: float, rounds: int) -> dict[str, tuple[float, float]]:
    """Return, by name, processor milliseconds a second of audio in short and in long files.

    Args:
        encoders: What `load_encoder` takes.
        seconds: Of audio in either set.
        rounds: How often each is measured; the least counts.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        sets = [write(Path(name) / f"{each:g}", each, seconds) for each in (SHORT, LONG)]
        held = [len(p) * e for p, e in zip(sets, (SHORT, LONG), strict=True)]
        works: dict[str, list[Callable[[], object]]] = {
            "plain": [lambda p=p: [soundfile.read(f, dtype="float32") for f in p] for p in sets]
        }
        for each in encoders:
            encoder = load_encoder(each)
            cuts = [
                [to_cut(Utterance(p.stem, str(p), round(long * RATE), RATE)) for p in paths]
                for paths, long in zip(sets, (SHORT, LONG), strict=True)
            ]
            works[each] = [
                lambda e=encoder, c=c: extract(e, c, device=torch.device("cpu"), precision="fp32")
                for c in cuts
            ]
        for _ in range(rounds):
            for each, pair in works.items():
                short, long = (spent(work) / s for work, s in zip(pair, held, strict=True))
                found.setdefault(each, []).append((1000 * short, 1000 * long))
    return {n: (min(a for a, _ in rows), min(b for _, b in rows)) for n, rows in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=300.0, help="audio in either set")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--encoders", default="mfcc,tiny-hubert")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(options.encoders.split(","), options.seconds, options.rounds)
    print(f"{'ms a second of audio':22}{'0.3 s':>9}{'15 s':>9}{'ratio':>8}{'beside plain':>14}")
    plain = rows["plain"][0] - rows["plain"][1]
    for name, (short, long) in rows.items():
        print(
            f"{name:22}{short:9.3f}{long:9.3f}{short / long:8.2f}{(short - plain) / long:14.2f}",
            flush=True,
        )
    print(f"goal: {GOAL}; 'beside plain' leaves out what soundfile itself takes longer")


if __name__ == "__main__":
    main()
