"""Speed of preparing and loading a corpus, padding waste, and memory at one million utterances.

    python benchmarks/data.py [--folder DIR] [--files 400] [--million 1000000] [--tflops 125]

Recordings are noise with durations like LibriSpeech's (skewed, 1.5 to 35 s), as WAV and FLAC.
``prepare``   recordings inspected per second: headers only, and all samples
``load``      seconds of audio per second in padded batches: the batch plan and loader of this
              package, a plain torch Dataset with soundfile in random batches, and Hugging Face
              datasets where it is installed; candidates take turns, the median of three counts
``padding``   share of the samples of a batch that are padding, over an epoch of 20,000 utterances
``memory``    peak memory of a process that iterates a manifest, small and large
``GPU``       the rate that one GPU needs, from the arithmetic of HuBERT Base and a sustained speed

Rates stand by the clock and by the processor time used, which other jobs disturb less.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from many_gpus import BASE, TRAINING

from speechft.data.batching import PAD_TO, BatchPlan, StepDataset, load_steps, pad
from speechft.data.corpora import generic
from speechft.data.corpora.build import Options
from speechft.data.manifest import CORPUS_FILE, Corpus, open_corpus
from speechft.data.utterances import Utterance, to_cut

BATCH_SECONDS, BATCH_UTTERANCES = 160.0, 16
ITERATE = """
import sys, time
from pathlib import Path
from speechft.data.manifest import open_corpus

def peak():  # of this program alone: ru_maxrss begins with the parent's
    status = Path("/proc/self/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) / 1024

cuts = open_corpus(Path(sys.argv[1])).split("train")
next(iter(cuts))
before = peak()
start, count, seconds = time.process_time(), 0, 0.0
for cut in cuts:
    count += 1
    seconds += cut.duration
print(count, before, peak(), time.process_time() - start)
"""


def durations(count: int, seed: int = 0) -> np.ndarray:
    """Draw durations in seconds: a tenth short, most near 14, as in LibriSpeech's train-clean."""
    rng = np.random.default_rng(seed)
    long = rng.normal(14.0, 1.8, count)
    short = rng.uniform(1.5, 14.0, count)
    return np.clip(np.where(rng.random(count) < 0.35, short, long), 1.5, 35.0)


def write_files(folder: Path, count: int, suffix: str) -> Path:
    """Write recordings and the CSV that names them."""
    rng = np.random.default_rng(1)
    lines = ["path,split,speaker"]
    for number, seconds in enumerate(durations(count)):
        noise = 0.1 * rng.standard_normal(round(seconds * 16_000))
        soundfile.write(folder / f"{number}{suffix}", noise, 16_000, subtype="PCM_16")
        lines.append(f"{number}{suffix},train,s{number % 10}")
    table = folder / f"{suffix[1:]}.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def prepare(table: Path, count: int, *, samples: bool, jobs: int) -> tuple[float, float]:
    """Return files inspected per second, and per second of processor time."""
    with tempfile.TemporaryDirectory() as out:
        start, used = time.perf_counter(), time.process_time()
        generic.prepare(table, Path(out) / "x", Options(samples=samples, jobs=jobs))
        return count / (time.perf_counter() - start), count / (time.process_time() - used)


def ours(corpus: Corpus) -> Iterator[float]:
    plan = BatchPlan(
        corpus.split("train"), seconds=BATCH_SECONDS, utterances=BATCH_UTTERANCES, seed=0
    )
    dataset = StepDataset(plan, target=lambda cut, _: 0, collate=list)
    steps = len(plan._epoch(0))
    for batch in load_steps(dataset, 0, steps):
        yield batch.seconds


class Plain(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """What one writes first: a list of files, read by soundfile."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        samples, _ = soundfile.read(self.paths[index], dtype="float32")
        return torch.from_numpy(samples)


def _padded(rows: list[torch.Tensor]) -> tuple[torch.Tensor, float]:
    return pad(rows), sum(map(len, rows)) / 16_000


def plain(paths: list[str]) -> Iterator[float]:
    loader = torch.utils.data.DataLoader(
        Plain(paths), batch_size=BATCH_UTTERANCES, shuffle=True, collate_fn=_padded
    )
    for _, seconds in loader:
        yield seconds


def hugging_face(paths: list[str]) -> Callable[[], Iterator[float]] | str:
    """Return the loader of Hugging Face datasets, or why there is none."""
    try:
        from datasets import Audio, Dataset, disable_progress_bars
    except ImportError:
        return "Hugging Face datasets is not installed"
    disable_progress_bars()
    table = Dataset.from_dict({"audio": paths})
    try:
        decoded = table.cast_column("audio", Audio(sampling_rate=16_000))
        decoded[0]["audio"]["array"]
    except (ImportError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        print(f"datasets cannot decode ({reason}); its rows are decoded by soundfile instead")
        decoded = table.cast_column("audio", Audio(decode=False))

        def row(item: dict) -> torch.Tensor:  # type: ignore[type-arg]
            return torch.from_numpy(soundfile.read(item["audio"]["path"], dtype="float32")[0])
    else:

        def row(item: dict) -> torch.Tensor:  # type: ignore[type-arg]
            return torch.from_numpy(np.asarray(item["audio"]["array"], np.float32))

    def run() -> Iterator[float]:
        loader = torch.utils.data.DataLoader(
            decoded,
            batch_size=BATCH_UTTERANCES,
            shuffle=True,
            collate_fn=lambda items: _padded([row(item) for item in items]),
        )
        for _, seconds in loader:
            yield seconds

    return run


def rate(run: Callable[[], Iterator[float]]) -> tuple[float, float]:
    """Return seconds of audio per second, and per second of processor time."""
    start, used = time.perf_counter(), time.process_time()
    seconds = sum(run())
    return seconds / (time.perf_counter() - start), seconds / (time.process_time() - used)


def medians(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the medians of both."""
    first, second = zip(*pairs, strict=True)
    return statistics.median(first), statistics.median(second)


def padding(seconds: float, utterances: int) -> tuple[float, float]:
    """Return the shares of padding of our plan and of random batches, over an epoch."""
    lengths = (durations(20_000) * 16_000).astype(int)
    cuts = [to_cut(Utterance(f"{n:06d}", "x.wav", int(s))) for n, s in enumerate(lengths)]
    plan = BatchPlan(cuts, seconds=seconds, utterances=utterances, seed=0)  # type: ignore[arg-type]
    batches = [[lengths[i] for i in batch] for batch in plan._epoch(0)]
    padded = sum(len(b) * (-(-max(b) // PAD_TO) * PAD_TO) for b in batches)
    shuffled = np.random.default_rng(0).permutation(lengths)
    random = [shuffled[i : i + utterances] for i in range(0, len(shuffled), utterances)]
    wasted = sum(len(b) * max(b) for b in random)
    return 1 - lengths.sum() / padded, 1 - lengths.sum() / wasted


def write_manifest(folder: Path, count: int) -> Path:
    """Write the manifest of a corpus that has ``count`` utterances and no audio."""
    folder.mkdir()
    item = Utterance("ID", "audio/ID.wav", 200_000, text="HELLO WORLD " * 12, speaker="SPEAKER")
    line = json.dumps(to_cut(item).to_dict())
    with gzip.open(folder / "train.jsonl.gz", "wt", compresslevel=1) as file:
        for number in range(count):
            name = f"u{number:09d}"
            file.write(line.replace("ID", name).replace("SPEAKER", f"s{number % 5_000}") + "\n")
    counts = {"train": {"utterances": count, "hours": 0.0, "speakers": 0, "labels": {}}}
    content = {"name": "many", "digest": str(count), "statistics": counts, "info": {}}
    (folder / CORPUS_FILE).write_text(json.dumps(content))
    return folder


def iterate(folder: Path) -> tuple[float, float, float, float]:
    """Return cuts, peak MB at the first cut and at the last, and seconds of processor time."""
    done = subprocess.run(
        [sys.executable, "-c", ITERATE, str(folder)], capture_output=True, text=True, check=True
    )
    count, before, after, seconds = map(float, done.stdout.split())
    return count, before, after, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, help="where files go; a temporary folder otherwise")
    parser.add_argument("--files", type=int, default=400)
    parser.add_argument("--million", type=int, default=1_000_000, help="utterances; 0: leave out")
    parser.add_argument("--tflops", type=float, default=125.0, help="sustained by the GPU")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        for suffix in (".wav", ".flac"):
            measure_files(folder, given.files, suffix)
        for seconds, utterances in ((160.0, 16), (100.0, 8), (400.0, 64)):
            waste, random = padding(seconds, utterances)
            print(
                f"padding, at most {seconds:g} s and {utterances} utterances: ours "
                f"{100 * waste:.1f} %, random batches {100 * random:.1f} %"
            )
        for count in (given.million // 5, given.million) if given.million else ():
            start = time.perf_counter()
            corpus = write_manifest(folder / str(count), count)
            written = time.perf_counter() - start
            found, before, after, seconds = iterate(corpus)
            print(
                f"memory, {found:,.0f} utterances: {before:.0f} MB at the first, {after:.0f} MB at "
                f"the last; {found / seconds:,.0f} cuts per CPU s (written in {written:.0f} s)"
            )
    needed = given.tflops * 1e3 / (TRAINING * BASE.gflop())
    print(
        f"GPU at {given.tflops:g} TFLOP/s sustained: HuBERT Base needs {BASE.gflop():.1f} "
        f"GFLOP a second of audio forward, three times that to train: {needed:,.0f} s/s "
        "to be loaded"
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"load average {os.getloadavg()[0]:.1f}, own peak {peak:.0f} MB")


def measure_files(folder: Path, count: int, suffix: str) -> None:
    """Measure preparation and loading of one kind of file."""
    table = write_files(folder, count, suffix)
    for samples, jobs in ((False, 1), (False, 0), (True, 1), (True, 0)):
        runs = [prepare(table, count, samples=samples, jobs=jobs) for _ in range(3)]
        clock, processor = medians(runs)
        what = "all samples" if samples else "headers only"
        print(
            f"prepare {suffix} {what}, jobs={jobs or 'auto'}: {clock:,.0f} files/s, "
            f"{processor:,.0f} per CPU s"
        )
    out = folder / f"corpus{suffix}"
    generic.prepare(table, out, Options(samples=False))
    corpus = open_corpus(out)
    paths = [cut.recording.sources[0].source for cut in corpus.split("train")]
    candidates: dict[str, Callable[[], Iterator[float]]] = {
        "ours": lambda: ours(corpus),
        "torch Dataset": lambda: plain(paths),
    }
    found = hugging_face(paths)
    if callable(found):
        candidates["datasets"] = found
    else:
        print(found)
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for _ in range(3):
        for name, run in candidates.items():
            rates[name].append(rate(run))
    found_rates = {name: medians(values) for name, values in rates.items()}
    for name, (clock, processor) in found_rates.items():
        ratios = [
            a / b for a, b in zip((clock, processor), found_rates["torch Dataset"], strict=True)
        ]
        print(
            f"load {suffix} {name}: {clock:,.0f} s/s, {processor:,.0f} per CPU s; "
            f"{ratios[0]:.2f} and {ratios[1]:.2f} x torch Dataset"
        )


if __name__ == "__main__":
    main()
