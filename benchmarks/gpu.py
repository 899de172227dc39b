"""Features, training, probe grids and a sweep against transformers' own loops, fp32 and bf16.

    python benchmarks/gpu.py [--size base|tiny] [--device auto|cpu] [--utterances 64] [--steps 50]
                             [--minutes 10] [--batch 8] [--parts features,training,probes,sweep]

One command for a machine with a GPU; ``--size tiny --device cpu`` runs all of it anywhere, where
the ratios say nothing about a GPU. Ours and theirs do the same work on the same random encoder and
noise, taking turns; the least of the rounds counts. Time is that of the clock once all work on the
GPU is done, on a processor that of the process.

    features   mean over time of all hidden states, reading included; theirs: `HubertModel` on
               batches of the same size, sorted by length and padded
    training   `benchmarks/finetuning.py`: CTC, main phase; theirs: `HubertForCTC`, sorted; MFU is
               the rate in shares of what the transformer's products alone would take
    probes     five learning rates, a linear probe each on pooled states; theirs: one after the
               other with `torch.optim.Adam`
    sweep      eleven alphas merged in memory and their features; theirs: the state dicts
               interpolated on the device, loaded, and the features as above
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor, nn

import finetuning
from speechft.data.batching import pad
from speechft.data.manifest import load_waveform
from speechft.data.utterances import Utterance, to_cut
from speechft.devices import autocast, pick_device
from speechft.encoders.build import set_weights
from speechft.encoders.load import load_encoder
from speechft.evaluation.grid import Probe, make_grid
from speechft.features.downsampler import DownsamplerCache
from speechft.features.extract import batch_limits, extract, group_by_length
from speechft.merging.config import MergeSettings
from speechft.merging.repeated import Merger
from speechft.tasks import UtteranceHead

PRECISIONS = ("fp32", "bf16")
PARTS = ("features", "training", "probes", "sweep")
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
ALPHAS = tuple(n / 10 for n in range(11))
RATE, CLASSES, HIDDEN = 16_000, 24, 256


def clock(device: torch.device) -> float:
    """Return the time of the process, or on a GPU that of the clock when all work is done."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def in_turn(
    works: dict[str, Callable[[], Any]], device: torch.device, rounds: int
) -> dict[str, float]:
    """Return the least seconds of each, after a first call that is not counted on a GPU."""
    if device.type != "cpu":
        for work in works.values():
            work()
    best = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            started = clock(device)
            work()
            best[name] = min(best[name], clock(device) - started)
    return best


def write_encoders(folder: Path, size: str) -> None:
    """Write a random HuBERT, and another with the same downsampler."""
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(0)
    model = HubertModel(HubertConfig(**finetuning.SIZES[size]))
    model.save_pretrained(folder / "base")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("feature_extractor"):
                parameter += 0.01 * parameter.abs().mean() * torch.randn_like(parameter)
    model.save_pretrained(folder / "tuned")


def write_audio(folder: Path, count: int) -> list[Any]:
    """Write noise of log-normal lengths, and return its cuts."""
    generator, cuts = np.random.default_rng(0), []
    for number in range(count):
        seconds = float(np.clip(generator.lognormal(1.4, 0.6), 0.5, 20.0))
        path, samples = folder / f"{number:04d}.wav", round(seconds * RATE)
        soundfile.write(path, 0.1 * generator.standard_normal(samples), RATE, subtype="PCM_16")
        cuts.append(to_cut(Utterance(path.stem, str(path), samples, RATE)))
    return cuts


def pooled_by_transformers(
    model: nn.Module, cuts: list[Any], device: torch.device, precision: Any, seconds: float
) -> dict[str, Tensor]:
    """Return the mean of every hidden state over time, as people write it with transformers."""
    found: dict[str, Tensor] = {}
    for group in group_by_length(cuts, max(seconds, 48.0)):
        rows = [torch.from_numpy(load_waveform(cut)) for cut in group]
        mask = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for row, samples in zip(mask, rows, strict=True):
            row[: len(samples)] = 1
        waveforms = pad(rows)[:, : mask.shape[1]].to(device)
        with torch.inference_mode(), autocast(precision, device):
            output = model(waveforms, attention_mask=mask.to(device), output_hidden_states=True)
            lengths = model._get_feat_extract_output_lengths(mask.sum(1))
            states = torch.stack(output.hidden_states).float()
            valid = torch.arange(states.shape[2]) < lengths[:, None]
            weights = (valid / lengths[:, None]).to(device)
            means = (states * weights[None, ..., None]).sum(2).cpu()
        found |= {cut.id: means[:, number] for number, cut in enumerate(group)}
    return found


def features(
    folder: Path, cuts: list[Any], device: torch.device, precision: Any, rounds: int
) -> float:
    """Return how many times faster than transformers' loop our pass is."""
    from transformers import HubertModel

    encoder = load_encoder(folder / "base")
    model = HubertModel.from_pretrained(folder / "base").eval().to(device)
    seconds, _ = batch_limits(encoder, device)
    spent = in_turn(
        {
            "ours": lambda: extract(encoder, cuts, device=device, precision=precision),
            "theirs": lambda: pooled_by_transformers(model, cuts, device, precision, seconds),
        },
        device,
        rounds,
    )
    return spent["theirs"] / spent["ours"]


def probes(folder: Path, device: torch.device, precision: Any, steps: int, rounds: int) -> float:
    """Return how many times faster than one probe after the other a grid of five is."""
    encoder = load_encoder(folder / "base")
    states, dim, batch = encoder.num_layers + 1, encoder.dim, 32
    means = torch.randn(states, batch, 1, dim, device=device)
    ones = torch.ones(batch, dtype=torch.int64, device=device)
    targets = torch.arange(batch, device=device) % CLASSES
    loss = nn.CrossEntropyLoss()

    def probe() -> Probe:
        return Probe(states, UtteranceHead(dim, CLASSES, HIDDEN)).to(device)

    def ours() -> None:
        grid = make_grid(probe, list(RATES))
        for _ in range(steps):
            with autocast(precision, device):
                rows = grid.logits(means, ones).float()
            grid.update(torch.stack([loss(row, targets) for row in rows]))

    def theirs() -> None:
        for rate in RATES:
            one = probe()
            optimizer = torch.optim.Adam(one.parameters(), lr=rate)
            for _ in range(steps):
                optimizer.zero_grad()
                with autocast(precision, device):
                    logits = one(means, ones).float()
                loss(logits, targets).backward()
                optimizer.step()

    spent = in_turn({"ours": ours, "theirs": theirs}, device, rounds)
    return spent["theirs"] / spent["ours"]


def sweep(folder: Path, cuts: list[Any], device: torch.device, precision: Any) -> float:
    """Return how many times faster than transformers' loop eleven merges and their features are."""
    from transformers import HubertModel

    def ours() -> None:
        merger = Merger(str(folder / "base"), [str(folder / "tuned")])
        encoder, cache = load_encoder(folder / "base"), DownsamplerCache()
        for alpha in ALPHAS:
            merged = merger.merge(MergeSettings(alpha=alpha)).checkpoint
            if not set_weights(encoder, merged):  # type: ignore[arg-type] # a HuBERT
                raise SystemExit("the merge does not fit the encoder")
            extract(encoder, cuts, device=device, precision=precision, cache=cache)

    def theirs() -> None:
        base, tuned = (
            HubertModel.from_pretrained(folder / name).eval().to(device)
            for name in ("base", "tuned")
        )
        seconds, _ = batch_limits(load_encoder(folder / "base"), device)
        before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
        after = tuned.state_dict()
        for alpha in ALPHAS:
            merged = {n: t + alpha * (after[n] - t) for n, t in before.items()}
            base.load_state_dict(merged)
            pooled_by_transformers(base, cuts, device, precision, seconds)

    spent = in_turn({"ours": ours, "theirs": theirs}, device, 1)
    return spent["theirs"] / spent["ours"]


def training(options: argparse.Namespace) -> Iterable[tuple[str, str, float, str]]:
    """Yield rows of `benchmarks/finetuning.py`: part, precision, ratio, MFU."""
    variants = "hf-sorted,hf-sorted-bf16,ours-main-fp32,ours-main-bf16"
    command = [sys.executable, finetuning.__file__, "--variants", variants, "--json"]
    command += ["--size", options.size, "--device", options.device, "--batch", str(options.batch)]
    command += ["--minutes", str(options.minutes), "--longest", str(options.longest)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(told.splitlines()[-1])
    rates, bounds = found["rates"], found["bounds"]
    for precision, theirs in zip(PRECISIONS, ("hf-sorted", "hf-sorted-bf16"), strict=True):
        ours = rates[f"ours-main-{precision}"]
        mfu = f"MFU {ours / bounds[f'main {precision}']:.1%}"
        yield "training", precision, ours / rates[theirs], mfu


def rows(options: argparse.Namespace) -> Iterable[tuple[str, str, float, str]]:
    """Yield part, precision, ratio to transformers' loop, and a remark, as they are measured."""
    device = torch.device("cpu") if options.device == "cpu" else pick_device()
    parts = options.parts.split(",")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_encoders(folder, options.size)
        cuts = write_audio(folder, options.utterances)
        for precision in PRECISIONS:
            if "features" in parts:
                yield (
                    "features",
                    precision,
                    features(folder, cuts, device, precision, options.rounds),
                    "",
                )
            if "probes" in parts:
                ratio = probes(folder, device, precision, options.steps, options.rounds)
                yield "probes", precision, ratio, f"grid of {len(RATES)}"
            if "sweep" in parts:
                ratio = sweep(folder, cuts, device, precision)
                yield "sweep", precision, ratio, f"{len(ALPHAS)} alphas"
    if "training" in parts:
        yield from training(options)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=tuple(finetuning.SIZES), default="base")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--utterances", type=int, default=64, help="of the features and the sweep")
    parser.add_argument("--steps", type=int, default=50, help="of each probe")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=10.0, help="of audio to train on")
    parser.add_argument("--longest", type=float, default=18.0, help="longest of it, s")
    parser.add_argument("--batch", type=int, default=8, help="utterances of a training step")
    parser.add_argument("--parts", default=",".join(PARTS))
    return parser.parse_args(given)


def main() -> None:
    options = arguments()
    device = torch.device("cpu") if options.device == "cpu" else pick_device()
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    print(f"{named}, HuBERT {options.size}; transformers' own loop takes so many times as long:")
    for part, precision, ratio, remark in rows(options):
        print(f"{part:10}{precision:6}{ratio:8.2f} x  {remark}", flush=True)


if __name__ == "__main__":
    main()
