"""A sweep of eleven alphas on a pooled task, against merging to disk and evaluating in a loop.

    python benchmarks/sweep.py [--size base] [--utterances 64] [--runs 3] [--threads 1]
                               [--alphas 0:1:0.1]

Weights are random, audio is noise of 2 to 8 s in four voices; ``--size tiny`` is for a quick look.
Each candidate is a process of its own, candidates take turns; the ratio is of processor time from
the first file that is opened to the last row, and the median counts. Figures of sweep and loop
are compared to the bit, and what each leaves on disk is counted.

``sweep``    `speechft.sweep` of an encoder with the downsampler of the base (stable fine-tuning)
``moved``    the same of one whose downsampler has moved: it runs anew for every merge
``loop``     `speechft.merge` into a folder and `speechft.evaluate` of it on dev, for each alpha
``passes``   as many plain passes of one loaded encoder over the same audio, nothing else
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

CANDIDATES = ("passes", "sweep", "moved", "loop")
SIZES: dict[str, dict[str, Any]] = {
    "base": {},
    "tiny": {
        "hidden_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 192,
        "conv_dim": [64] * 7,
    },
}


def write_inputs(folder: Path, size: str, utterances: int) -> None:
    """Write a base, two encoders tuned from it, and a corpus of four speakers."""
    from transformers import HubertConfig, HubertModel

    from speechft.data.manifest import write_corpus
    from speechft.data.utterances import Utterance
    from speechft.encoders.hugging_face import HuggingFaceEncoder

    torch.manual_seed(0)
    for name in ("base", "tuned", "moved"):
        torch.manual_seed(0)
        model = HubertModel(HubertConfig(**SIZES[size]))
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if name == "moved" or (name == "tuned" and "feature_extractor" not in key):
                    weight += 0.05 * weight.abs().mean() * torch.randn_like(weight)
        HuggingFaceEncoder(model).save(folder / name)
    rng = np.random.default_rng(0)
    splits: dict[str, list[Any]] = {}
    (folder / "corpus").mkdir()
    for split, count in (("train", utterances), ("dev", utterances // 2), ("test", 4)):
        splits[split] = []
        for number in range(count):
            samples, voice = int(16_000 * rng.uniform(2, 8)), number % 4
            kernel = np.hanning(2 + 6 * voice)[1:]
            audio = 0.1 * np.convolve(rng.standard_normal(samples), kernel, "same")
            name = f"{split}-{number:03d}"
            soundfile.write(folder / "corpus" / f"{name}.wav", audio, 16_000)
            splits[split].append(Utterance(name, f"{name}.wav", samples, speaker=f"voice-{voice}"))
    write_corpus(folder / "corpus", "voices", "seed 0", splits, {"licence": "none"})


def sweep(folder: Path, out: Path, tuned: str, alphas: str) -> list[float]:
    """Sweep in memory."""
    import speechft

    told = {"corpus": folder / "corpus", "tasks": "sid", "tuned_on": "sid", "alphas": alphas}
    found = speechft.sweep(
        folder / "base", folder / tuned, out=out, precision="fp32", device="cpu", **told
    )
    return [row.value for row in found.rows]


def loop(folder: Path, out: Path, alphas: str) -> list[float]:
    """Merge into folders and evaluate them."""
    import speechft
    from speechft.data.manifest import open_corpus
    from speechft.evaluation.candidates import Candidate
    from speechft.evaluation.config import EvaluationConfig
    from speechft.evaluation.suite import evaluate_encoder
    from speechft.sweeping.settings import read_alphas
    from speechft.tasks import find_task

    config = EvaluationConfig(tasks=("sid",), precision="fp32")
    corpus, values = open_corpus(folder / "corpus"), []
    for alpha in read_alphas(alphas):
        merged = out / f"merged-{alpha:g}"
        speechft.merge(folder / "base", folder / "tuned", alpha, merged)
        one = Candidate(f"alpha {alpha:g}", str(merged))
        rows = evaluate_encoder(one, [find_task("sid")], corpus, config, out, seed=0, test=False)
        values += [row.value for row in rows]
    return values


def passes(folder: Path, alphas: str) -> float:
    """Run a loaded encoder over train and dev, once an alpha; return its processor time."""
    from speechft.data.manifest import open_corpus
    from speechft.encoders.load import load_encoder
    from speechft.features.extract import extract
    from speechft.sweeping.settings import read_alphas

    encoder, corpus = load_encoder(folder / "base"), open_corpus(folder / "corpus")
    cuts = [cut for split in ("train", "dev") for cut in corpus.split(split)]
    started = time.process_time()
    for _ in read_alphas(alphas):
        extract(encoder, cuts, device=torch.device("cpu"), precision="fp32")
    return time.process_time() - started


def run_one(name: str, folder: Path, threads: int, alphas: str) -> dict[str, Any]:
    """Run a candidate in this process and say what it took."""
    import transformers  # noqa: F401 - importing is not counted

    import speechft.evaluation.suite
    import speechft.sweeping.sweep  # noqa: F401

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        out, started = Path(place), time.process_time()
        values: list[float] = []
        if name == "passes":
            seconds = passes(folder, alphas)
        else:
            tuned = "moved" if name == "moved" else "tuned"
            values = (
                loop(folder, out, alphas) if name == "loop" else sweep(folder, out, tuned, alphas)
            )
            seconds = time.process_time() - started
        written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"seconds": seconds, "written": written / 1e6, "memory": memory, "values": values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--utterances", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--alphas", default="0:1:0.1", metavar="FIRST:LAST:STEP")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "DIR"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        found = run_one(options.one[0], Path(options.one[1]), options.threads, options.alphas)
        print("result", json.dumps(found))
        return
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in CANDIDATES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, options.size, options.utterances)
        for _ in range(options.runs):
            for candidate in CANDIDATES:
                command = [sys.executable, __file__, "--threads", str(options.threads)]
                command += ["--alphas", options.alphas, "--one", candidate, name]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                line = done.stdout.rpartition("result ")[2]
                results[candidate].append(json.loads(line))
                seconds = results[candidate][-1]["seconds"]
                print(f"{candidate}: {seconds:.1f} s of processor time", flush=True)
    figures = {candidate: found[0]["values"] for candidate, found in results.items()}
    assert figures["sweep"] == figures["loop"], "sweep and loop differ"
    medians = {c: statistics.median(run["seconds"] for run in r) for c, r in results.items()}
    print(
        f"{options.size}, {options.utterances} utterances to train on, {options.runs} runs, "
        f"alphas {options.alphas}"
    )
    for candidate, found in results.items():
        print(
            f"{candidate:8} {medians[candidate]:8.1f} s of processor time, "
            f"{medians[candidate] / medians['passes']:5.2f} x the passes, "
            f"{found[0]['written']:8.1f} MB on disk, peak {found[0]['memory']:6.0f} MB"
        )


if __name__ == "__main__":
    main()
