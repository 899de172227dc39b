"""One process against two that share a folder: features, probes and a sweep, results compared.

    python benchmarks/scale.py [--parts features,probes,sweep] [--processes 1,2] [--runs 1]
                               [--limit 0] [--corpus synthetic] [--alphas 0:1:0.05] [--encoders 4]
                               [--no-apart]

Real commands in processes of their own, one thread each, on `tiny-hubert` and copies of it with
noise on their weights, and the embedded corpus (spoken on first use). Time is that of the clock
from the start of the first process to the end of the last, start-up included, the least of the
runs; it only means something where nothing else runs, so the load before each part is printed.
Results are compared file by file, byte by byte. Two figures of the same run say what could be had:
*start-up* are the seconds of the command given again, when nothing is left to do: the least that
every process pays; *apart* is how many times as fast the machine does the work twice when two
processes do it whole, each in a folder of its own, sharing nothing but the machine.

``features``  `extract` of every hidden state of all recordings
``probes``    `evaluate` of several encoders on three tasks whose features are cached already
``sweep``     `sweep` of 21 alphas, or others, on one task
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

PARTS = ("features", "probes", "sweep")
LEFT_OUT = (".lock", "cache")
"""Names that hold no results."""


def write_encoders(folder: Path, count: int) -> list[str]:
    """Write copies of the packaged encoder, each with noise on all but the downsampler."""
    import torch

    from speechft.encoders.load import load_encoder

    places = []
    for number in range(count):
        encoder = load_encoder("tiny-hubert")
        torch.manual_seed(number)
        with torch.no_grad():
            for name, weight in encoder.named_parameters():
                if number and weight.dim() > 1 and "feature_extractor" not in name:
                    weight += 0.02 * number * weight.abs().mean() * torch.randn_like(weight)
        places.append(str(folder / f"encoder-{number}"))
        encoder.save(folder / f"encoder-{number}")
    return places


def command(
    part: str, encoders: Sequence[str], folder: Path, out: Path, given: argparse.Namespace
) -> list[str]:
    """Return what a process of a part is told."""
    cached = ["--cache", str(folder / "cache")]
    corpus = ["--corpus", given.corpus, *(["--limit", str(given.limit)] if given.limit else [])]
    tasks = ["--tasks", "pr,sid,ic"]
    if part == "features":
        from speechft.data.corpora import find_corpus

        place = find_corpus(given.corpus, folder / "corpus").folder
        return ["extract", encoders[0], str(place), "--out", str(out)]
    if part == "probes":
        return ["evaluate", *encoders, *tasks, *corpus, *cached, "--out", str(out)]
    alphas = ["--alphas", given.alphas, "--tasks", "sid", "--tuned-on", "sid"]
    return ["sweep", *encoders[:2], *alphas, *corpus, "--out", str(out)]


def run(*commands: Sequence[str]) -> float:
    """Run commands at the same time and return the seconds until the last has ended.

    Raises:
        SystemExit: One failed.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    started = time.perf_counter()
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "speechft", *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for words in commands
    ]
    for words, child in zip(commands, children, strict=True):
        told, _ = child.communicate()
        if child.returncode:
            raise SystemExit(f"{' '.join(words)} ended with {child.returncode}:\n{told}")
    return time.perf_counter() - started


def contents(out: Path) -> dict[str, bytes]:
    """Return the files of a folder of results."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not set(path.relative_to(out).parts) & set(LEFT_OUT)
    }


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """Return the names of files that are not the same in both."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--corpus", default="synthetic", help="embedded corpus")
    parser.add_argument("--limit", type=int, default=0, help="utterances of a split; 0: all")
    parser.add_argument("--alphas", default="0:1:0.05", help="of the sweep")
    parser.add_argument("--encoders", type=int, default=4, help="of the probes")
    parser.add_argument("--no-apart", action="store_true", help="leave the machine's limit out")
    given = parser.parse_args()
    counts = [int(count) for count in given.processes.split(",")]
    seconds_of = " | ".join(f"{n} (s)" for n in counts)
    print(f"| part | {seconds_of} | ratio | start-up (s) | apart | results | load |")
    print("|---" * (len(counts) + 6) + "|")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        encoders = write_encoders(folder, max(2, given.encoders))
        for part in given.parts.split(","):
            load = os.getloadavg()[0]

            def told(out: str, part: str = part) -> list[str]:
                return command(part, encoders, folder, folder / out, given)

            if part == "probes":  # so that probes alone are measured
                run(told("warm"), told("warm"))
            seconds, found = dict.fromkeys(counts, float("inf")), {}
            start, apart = float("inf"), float("inf")
            for turn in range(given.runs):
                for count in counts:
                    out = f"{part}-{count}-{turn}"
                    took = run(*[told(out)] * count)
                    seconds[count] = min(seconds[count], took)
                    found[count] = contents(folder / out)
                    start = min(start, run(told(out)))
                if not given.no_apart:
                    apart = min(apart, run(told(f"{part}-a-{turn}"), told(f"{part}-b-{turn}")))
            wrong = differing(found[counts[0]], found[counts[-1]])
            cells = " | ".join(f"{seconds[count]:.1f}" for count in counts)
            same = "equal" if not wrong else f"{len(wrong)} files differ: {wrong[0]}"
            ratio = seconds[counts[0]] / seconds[counts[-1]]
            most = "" if given.no_apart else f"{2 * seconds[counts[0]] / apart:.2f}"
            about = f"{ratio:.2f} | {start:.1f} | {most} | {same} | {load:.1f}"
            print(f"| {part} | {cells} | {about} |", flush=True)


if __name__ == "__main__":
    main()
