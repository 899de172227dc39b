"""Time and memory of `speechft analyze` against the encoder passes that it needs.

    python benchmarks/analysis.py [--minutes 10] [--size base] [--threads 2] [--long 60]

Encoders have random weights at the shapes of HuBERT-Base (``--size tiny`` for a quick look): a base
and one tuned from it, that is the base with noise. Recordings are noise of log-normal lengths, of
twelve speakers, with phones of 80 ms drawn from twelve. What is needed are three passes of an
encoder: base, tuned, and the one between them for linearity; they are timed as `extract` makes
them, pooled statistics only, each by itself. ``analyze`` is all measures, the loading of encoders
and the figures included. Each part is a process of its own, ``--repeats`` times in turns; the ratio
is of processor time, the median counts.

``--long MINUTES`` also prints the growth of anonymous memory (RssAnon) of one analysis over that
much audio: the peak after a tenth of the utterances, and the peak of all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

PHONES = [f"P{n}" for n in range(12)]
SIZES: dict[str, dict[str, Any]] = {
    "base": {},
    "tiny": {
        "hidden_size": 96,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "intermediate_size": 192,
        "conv_dim": [64] * 7,
    },
}


def write_encoders(folder: Path, size: str) -> None:
    """Write a base, and one that is the base with noise."""
    from transformers import HubertConfig, HubertModel

    from speechft.encoders.hugging_face import HuggingFaceEncoder

    torch.manual_seed(0)
    encoder = HuggingFaceEncoder(HubertModel(HubertConfig(**SIZES[size])))
    encoder.save(folder / "base")
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "encoder.layers" in name:
                parameter.add_(0.2 * parameter.std(correction=0) * torch.randn_like(parameter))
    encoder.save(folder / "tuned")


def write_corpus(folder: Path, minutes: float) -> None:
    """Write recordings of so many minutes as the dev split of a corpus."""
    from speechft.data import manifest

    folder.mkdir()
    rng = np.random.default_rng(0)
    items: list[manifest.Utterance] = []
    left = 60 * minutes
    while left > 0:
        seconds = float(np.clip(np.exp(rng.normal(2.0, 0.6)), 1.0, 20.0))
        name, samples = f"u{len(items):05d}", round(seconds * 16_000)
        noise = 0.1 * rng.standard_normal(samples)
        soundfile.write(folder / f"{name}.wav", noise, 16_000)
        count = int(seconds / 0.08)
        phones = [
            (str(phone), round(0.08 * n, 3), round(0.08 * (n + 1), 3))
            for n, phone in enumerate(rng.choice(PHONES, count))
        ]
        speaker = f"s{len(items) % 12}"
        items.append(
            manifest.Utterance(name, f"{name}.wav", samples, speaker=speaker, phones=phones)
        )
        left -= seconds
    manifest.write_corpus(folder, "noise", "", {"train": [], "dev": items, "test": []}, {})


def passes(folder: Path) -> None:
    """Run the encoders that an analysis needs over the corpus, one after the other."""
    from speechft.data.manifest import open_corpus
    from speechft.encoders.load import load_encoder
    from speechft.features.extract import extract

    cuts = list(open_corpus(folder / "corpus").split("dev"))
    for name in ("base", "tuned", "tuned"):
        encoder = load_encoder(folder / name)
        extract(encoder, cuts, device=torch.device("cpu"), precision="fp32")


def measures(folder: Path, corpus: str = "corpus") -> None:
    """Analyse the tuned encoder."""
    import speechft

    with tempfile.TemporaryDirectory() as out:
        speechft.analyze(
            folder / "base", folder / "tuned", out=out, corpus=folder / corpus, limit=10**6
        )


def memory(folder: Path) -> dict[str, float]:
    """Analyse a long corpus; return MB of anonymous memory, early and at its peak."""
    from speechft.analysis import reading

    seen: list[float] = []
    done, total = [0], [1]
    original = reading.encode_together

    def counted(*given: Any, **named: Any) -> Any:
        total[0] = len(given[1])
        for group, outputs in original(*given, **named):
            yield group, outputs
            done[0] += len(group)

    reading.encode_together = counted
    early = [0.0]
    running = threading.Event()

    def watch() -> None:
        while not running.wait(0.2):
            text = Path("/proc/self/status").read_text()
            seen.append(int(text.partition("RssAnon:")[2].split()[0]) / 1024)
            if done[0] <= total[0] / 10:
                early[0] = max(early[0], seen[-1])

    watcher = threading.Thread(target=watch)
    watcher.start()
    measures(folder, "long")
    running.set()
    watcher.join()
    return {"early": early[0], "peak": max(seen)}


def child(folder: Path, part: str, threads: int) -> dict[str, float]:
    """Run a part in a process of its own."""
    typed = [sys.executable, __file__, "--part", part, "--folder", str(folder)]
    done = subprocess.run(
        [*typed, "--threads", str(threads)], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--long", type=float, default=0)
    parser.add_argument("--part", choices=("passes", "measures", "memory"))
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.part:
        started = time.process_time(), time.monotonic()
        found = {"passes": passes, "measures": measures, "memory": memory}[arguments.part](
            arguments.folder
        )
        seconds = time.process_time() - started[0], time.monotonic() - started[1]
        print(json.dumps({"cpu": seconds[0], "wall": seconds[1], **(found or {})}))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_encoders(folder, arguments.size)
        write_corpus(folder / "corpus", arguments.minutes)
        ratios = []
        for _ in range(arguments.repeats):
            needed, whole = (
                child(folder, part, arguments.threads) for part in ("passes", "measures")
            )
            ratios.append(whole["cpu"] / needed["cpu"])
            print(
                f"passes {needed['cpu']:.1f} s cpu, {needed['wall']:.1f} s; analyze "
                f"{whole['cpu']:.1f} s cpu, {whole['wall']:.1f} s; ratio {ratios[-1]:.2f}",
                flush=True,
            )
        print(f"ratio, median of {len(ratios)}: {statistics.median(ratios):.2f}")
        if arguments.long:
            write_corpus(folder / "long", arguments.long)
            found = child(folder, "memory", arguments.threads)
            print(
                f"anonymous memory over {arguments.long:g} minutes: {found['early']:.0f} MB early, "
                f"{found['peak']:.0f} MB at its peak"
            )


if __name__ == "__main__":
    main()
