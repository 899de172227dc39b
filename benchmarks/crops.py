"""Accuracy of whole utterances against s3prl's crops: SID on 4 to 20 s, KS on noise of a minute.

    python benchmarks/crops.py [--encoder tiny-hubert] [--speakers 32] [--crops 8]

SUPERB's SID trains on a random 8 s crop of every utterance; the protocol `default` pools whole
utterances, which one cached pass serves. KS draws a random second of every noise file; `default`
keeps 16 of each. Both ways train the same grid with the same budget here and are tested on the
same items; the paired difference is printed with its 95 % interval. Recordings of SID are embedded
sentences of one speaker, joined; train, dev and test share speakers but no sentence.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from speechft.data.acoustics import SAMPLE_RATE, add_noise, set_level
from speechft.data.corpora import find_corpus
from speechft.data.labels import label_of
from speechft.data.manifest import Corpus, load_waveform, open_corpus, write_corpus
from speechft.data.utterances import Utterance
from speechft.evaluation.candidates import Candidate
from speechft.evaluation.config import EvaluationConfig
from speechft.evaluation.predictions import items_of
from speechft.evaluation.protocols import PROTOCOLS
from speechft.evaluation.score import paired_difference
from speechft.evaluation.suite import evaluate_encoder
from speechft.tasks import find_task

CLIPS = {"train": 4, "dev": 2, "test": 6}
"""Recordings of a speaker."""
_PAUSE = np.zeros(SAMPLE_RATE // 5, np.float32)


def joined(waves: list[np.ndarray], seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Return sentences drawn and joined with pauses until they are long enough, then cut."""
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < seconds * SAMPLE_RATE:
        parts += [waves[int(rng.integers(len(waves)))], _PAUSE]
    return np.concatenate(parts)[: int(seconds * SAMPLE_RATE)]


def write(folder: Path, name: str, wave: np.ndarray) -> Utterance:
    soundfile.write(folder / f"{name}.wav", wave, SAMPLE_RATE, subtype="PCM_16")
    return Utterance(name, f"{name}.wav", len(wave))


def long_recordings(folder: Path, speakers: int) -> Corpus:
    """Write recordings of 4 to 20 s."""
    source = find_corpus("synthetic-study", folder / "study")
    by_speaker: dict[str, list[np.ndarray]] = {}
    for split in ("tune-train", "train"):
        for cut in source.split(split):
            by_speaker.setdefault(label_of(cut, "speaker") or "", []).append(load_waveform(cut))
    rng, splits = np.random.default_rng(0), {name: [] for name in CLIPS}
    for speaker in sorted(by_speaker)[:speakers]:
        for number, (split, count) in enumerate(CLIPS.items()):
            waves = by_speaker[speaker][number :: len(CLIPS)]
            for clip in range(count):
                wave = joined(waves, float(rng.uniform(4, 20)), rng)
                item = write(folder, f"{split}-{speaker}-{clip}", wave)
                splits[split].append(replace(item, speaker=speaker))
    write_corpus(folder, "long-recordings", "1", splits, {})
    return open_corpus(folder)


def long_noises(folder: Path) -> Corpus:
    """Write the embedded keywords with six noise files of a minute in training."""
    source = find_corpus("synthetic-archives", folder / "archives")
    splits: dict[str, list[Utterance]] = {}
    for split in CLIPS:
        items = []
        for cut in source.split(f"ks-{split}"):
            keyword = label_of(cut, "keyword") or ""
            if keyword != "_silence_" or split != "train":
                made = write(folder, cut.id, load_waveform(cut))
                items.append(replace(made, labels={"keyword": keyword}))
        splits[split] = items
    for number in range(6):
        noise = add_noise(np.zeros(60 * SAMPLE_RATE, np.float32), np.random.default_rng(number))
        made = write(folder, f"noise-{number}", set_level(noise, -55.0))
        splits["train"].append(replace(made, labels={"keyword": "_silence_"}))
    write_corpus(folder, "long-noises", "1", splits, {})
    return open_corpus(folder)


def measured(task: str, corpus: Corpus, encoder: str, crops: dict[str, int], out: Path) -> None:
    """Print the accuracy of whole utterances or few crops, of many crops, and their difference."""
    usual = PROTOCOLS["default"].get(task, PROTOCOLS["default"]["utterance"])
    seconds = {"sid": 8.0, "ks": 1.0}[task]
    settings = {
        "default": usual,
        "crops": usual.model_copy(update={"crop_seconds": seconds, "crops": crops[task]}),
    }
    items = {}
    for name, config in settings.items():
        PROTOCOLS[name] = {"utterance": config, "frame": config, task: config}
        started = time.process_time()
        [row] = evaluate_encoder(
            Candidate(name, encoder),
            [find_task(task)],
            corpus,
            EvaluationConfig(tasks=(task,), protocol=name, cache=str(out / "cache")),
            out / name,
            seed=0,
        )
        low, high = row.interval or (0.0, 0.0)
        print(
            f"{task} {name:8} accuracy {row.value:5.1f} [{low:.1f}, {high:.1f}] n {row.n}, "
            f"rate {row.learning_rate:.3g}, {time.process_time() - started:.0f} CPU s",
            flush=True,
        )
        items[name] = items_of(row, out / name)
    change, low, high = paired_difference(items["default"], items["crops"], level=0.95)
    print(f"{task} default minus crops: {change:+.1f} [{low:+.1f}, {high:+.1f}] points", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--encoder", default="tiny-hubert")
    parser.add_argument("--tasks", default="sid,ks")
    parser.add_argument("--speakers", type=int, default=32)
    parser.add_argument("--crops", type=int, default=8, help="of every utterance of SID, of 8 s")
    options = parser.parse_args()
    crops = {"sid": options.crops, "ks": PROTOCOLS["s3prl"]["ks"].crops}
    with tempfile.TemporaryDirectory() as place:
        for task in options.tasks.split(","):
            folder = Path(place, task)
            folder.mkdir()
            made = (
                long_recordings(folder, options.speakers) if task == "sid" else long_noises(folder)
            )
            measured(task, made, options.encoder, crops, folder / "out")


if __name__ == "__main__":
    main()
