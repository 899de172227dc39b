"""Speed and memory of hidden states at HuBERT-Base size: ours against Hugging Face and s3prl.

    python benchmarks/features.py [--utterances 32] [--shuffles 3] [--batch 8] [--threads 1]
                                  [--s3prl FOLDER]

Utterances have log-normal lengths of 1 to 15 s; the weights are random. Each candidate is a process
of its own, candidates take turns, once for each seeded shuffle; loading is not counted. The ratio
is of processor time, which other jobs on the machine disturb least; the median counts.

``ours``       `speechft.features.extract.extract`, reading the files and pooling included
``file order`` Hugging Face, batches as the files come, padded (no attention mask, as its
               preprocessor says for group-norm models)
``sorted``     the same after sorting by length
``s3prl``      its expert class on batches as the files come; FOLDER holds the unpacked source of
               s3prl 0.4, whose audio and download libraries are stubbed
``limit``      multiply-adds of all utterances alone at the speed of a large matrix product
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
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

CANDIDATES = ("ours", "ours bf16", "file order", "sorted", "sorted bf16", "s3prl")


def write_inputs(folder: Path, utterances: int) -> float:
    """Write the audio and an encoder as a Hugging Face folder and as an s3prl file."""
    from transformers import HubertConfig, HubertModel

    from speechft.encoders.convert import convert
    from speechft.encoders.hugging_face import HuggingFaceEncoder

    rng = np.random.default_rng(0)
    seconds = np.clip(np.exp(rng.normal(1.5, 0.6, utterances)), 1.0, 15.0)
    for number, duration in enumerate(seconds):
        samples = 0.1 * rng.standard_normal(int(duration * 16_000))
        soundfile.write(folder / f"{number:03d}.wav", samples, 16_000)
    torch.manual_seed(0)
    HuggingFaceEncoder(HubertModel(HubertConfig())).save(folder / "encoder")
    convert(folder / "encoder", folder / "encoder.pt")
    return float(seconds.sum())


def read(folder: Path, shuffle: int) -> list[tuple[Path, Tensor]]:
    files = sorted(folder.glob("*.wav"))
    order = np.random.default_rng(shuffle).permutation(len(files))
    waves = [soundfile.read(files[n], dtype="float32")[0] for n in order]
    return [(files[n], torch.from_numpy(w)) for n, w in zip(order, waves, strict=True)]


def ours(folder: Path, shuffle: int, precision: Any) -> Callable[[], None]:
    from speechft.encoders.load import load_encoder
    from speechft.features.extract import extract
    from speechft.features.sources import audio_cut

    encoder = load_encoder(folder / "encoder")
    cuts = [audio_cut(path.stem, path) for path, _ in read(folder, shuffle)]
    cpu = torch.device("cpu")
    return lambda: void(extract(encoder, cuts, device=cpu, precision=precision))


def hugging_face(
    folder: Path, shuffle: int, batch: int, by_length: bool, bf16: bool
) -> Callable[[], None]:
    from transformers import HubertModel

    model = HubertModel.from_pretrained(folder / "encoder").eval()
    rows = [row for _, row in read(folder, shuffle)]
    if by_length:
        rows.sort(key=len)

    def run() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            for start in range(0, len(rows), batch):
                group = rows[start : start + batch]
                padded = torch.nn.utils.rnn.pad_sequence(group, batch_first=True)
                model(padded, output_hidden_states=True)

    return run


def s3prl(folder: Path, shuffle: int, batch: int, source: Path) -> Callable[[], None]:
    import transformers.models.hubert.modeling_hubert  # noqa: F401 - looks for torchaudio itself

    class Stub(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return lambda *_, **__: None

    rows = [row for _, row in read(folder, shuffle)]
    parts = ("", ".transforms", ".functional", ".compliance", ".compliance.kaldi", ".sox_effects")
    for name in ("requests", *(f"torchaudio{part}" for part in parts)):
        sys.modules.setdefault(name, Stub(name)).__path__ = []
    sys.path.insert(0, str(source))
    from s3prl.upstream.hubert.expert import UpstreamExpert

    expert = UpstreamExpert(str(folder / "encoder.pt")).eval()

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, len(rows), batch):
                expert(rows[start : start + batch])

    return run


def limit(folder: Path) -> float:
    """Return the seconds that the arithmetic of all utterances alone takes at best."""
    operations = sum(multiply_adds(len(row)) for _, row in read(folder, 0))
    left, right = torch.randn(1024, 768), torch.randn(768, 3072)
    for _ in range(3):
        left @ right
    start = time.process_time()
    for _ in range(40):
        left @ right
    speed = 40 * 1024 * 768 * 3072 / (time.process_time() - start)
    return operations / speed


def multiply_adds(samples: int, dim: int = 768, layers: int = 12) -> int:
    """Return the multiply-adds of HuBERT Base for one utterance."""
    total, frames, channels = 0, samples, 1
    for kernel, stride in ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)):
        frames = (frames - kernel) // stride + 1
        total += frames * 512 * channels * kernel
        channels = 512
    total += frames * 512 * dim + frames * dim * (dim // 16) * 128
    return total + layers * (12 * frames * dim * dim + 2 * frames * frames * dim)


def void(_: object) -> None:
    """Drop a result."""


def measure(options: argparse.Namespace) -> None:
    """Run one candidate in this process and print its figures."""
    torch.set_num_threads(options.threads)
    folder, shuffle = Path(options.folder), options.shuffle
    name = options.candidate
    if name.startswith("ours"):
        run = ours(folder, shuffle, "bf16" if "bf16" in name else "fp32")
    elif name == "s3prl":
        run = s3prl(folder, shuffle, options.batch, Path(options.s3prl))
    else:
        run = hugging_face(folder, shuffle, options.batch, "sorted" in name, "bf16" in name)
    wall, processor = time.perf_counter(), time.process_time()
    run()
    figures = {
        "processor": time.process_time() - processor,
        "wall": time.perf_counter() - wall,
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--utterances", type=int, default=32)
    parser.add_argument("--shuffles", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--s3prl")
    parser.add_argument("--candidate", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--shuffle", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.candidate:
        measure(options)
        return
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = write_inputs(folder, options.utterances)
        best = limit(folder)
        print(
            f"{options.utterances} utterances, {seconds:.0f} s of audio; limit {best:.1f} s float32"
        )
        found: dict[str, list[dict[str, float]]] = {}
        names = [c for c in CANDIDATES if c != "s3prl" or options.s3prl]
        for shuffle in range(options.shuffles):
            for candidate in names:
                command = [sys.executable, *sys.argv, "--candidate", candidate]
                command += ["--folder", name, "--shuffle", str(shuffle)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                figures = json.loads(done.stdout.splitlines()[-1])
                found.setdefault(candidate, []).append(figures)
                print(shuffle, candidate, {k: round(v, 1) for k, v in figures.items()}, flush=True)
        report(found, seconds)


def report(found: dict[str, list[dict[str, float]]], seconds: float) -> None:
    """Print medians and ratios as a table."""
    middle = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in found.items()
    }
    first = middle["file order"]["processor"]
    print("| | processor s | wall s | x real time | x file order | peak MB |")
    print("|---|---|---|---|---|---|")
    for name, row in middle.items():
        print(
            f"| {name} | {row['processor']:.1f} | {row['wall']:.1f} "
            f"| {seconds / row['processor']:.1f} | {first / row['processor']:.2f} "
            f"| {row['peak MB']:.0f} |"
        )


if __name__ == "__main__":
    main()
