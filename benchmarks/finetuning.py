"""Speed and memory of CTC fine-tuning at HuBERT-Base size against what people run today.

    python benchmarks/finetuning.py [--minutes 10] [--longest 18] [--batch 4] [--threads 1]
                                    [--device auto] [--variants ...] [--at-once 4]
                                    [--size base|tiny] [--json]

Every variant is a process of its own and goes once through the same generated audio of very unequal
length: random weights, dropout on, Adam. `--at-once` of them live at a time and take turns, one
update each, so that the load of the machine hits all alike. `rate` is seconds of audio (without
padding) a second: of processor time on a CPU, of the clock on a GPU.

    hf-file-order   transformers' HubertForCTC, CNN frozen, padded in file order         (a)
    hf-sorted       the same, sorted by length                                           (b)
    s3prl           s3prl's pattern: CNN every step, all hidden states stacked, sorted   (c)
    ours-*          the engine: main phase, head-only with dropout, head-only without    (d)

Names end in a precision, fp32 where none is said (`hf-sorted-bf16`); `ours-main-bf16-compile` is
with torch.compile. On a GPU, and where something is compiled, an epoch goes before that is not
counted. What ours computes once (outputs of the frozen CNN, hidden states in `eval`) is part of its
time, spread over EPOCHS epochs.

The bound is the rate of the largest matrix product of a layer, measured in the same precision,
divided by the multiplications that the transformer needs: forward and backward in the main phase.
`MFU` is the rate of the main phase in shares of that bound. `overall` is a training of which a
tenth is head-only, as in the recipes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
VARIANTS = (
    "hf-file-order",
    "hf-sorted",
    "ours-main-fp32",
    "ours-main-bf16",
    "ours-head-train-fp32",
    "ours-head-train-bf16",
    "ours-head-eval-fp32",
    "ours-head-eval-bf16",
    "s3prl",
)
EPOCHS = 10
"""Epochs over which what is computed once is spread (the TED-LIUM recipe has 70: 20,000 updates of
16 utterances, ten hours; 7 of them in the head-only phase)."""
SIZES: dict[str, dict[str, Any]] = {
    "base": {},
    "tiny": {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 96,
        "conv_dim": (32,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    },
}
"""What differs from HuBERT Base; ``tiny`` shows that all of it runs."""
HEAD_ONLY = 0.1
"""Share of the updates in which the head learns alone."""


def make_corpus(folder: Path, minutes: float, longest: float) -> None:
    import numpy as np
    import soundfile

    from speechft.data.manifest import write_corpus
    from speechft.data.utterances import Utterance

    rng, items, total = np.random.default_rng(0), [], 0.0
    while total < 60 * minutes:
        seconds = float(rng.uniform(longest / 9, longest))
        samples = int(seconds * 16_000)
        path = f"u{len(items):03d}.wav"
        noise = 0.1 * rng.standard_normal(samples).astype(np.float32)
        soundfile.write(folder / path, noise, 16_000)
        text = "".join(rng.choice(list(LETTERS), int(14 * seconds)))
        items.append(Utterance(id=path, path=path, samples=samples, text=text, speaker="s"))
        total += seconds
    write_corpus(folder, "benchmark", "noise", {"train": items}, {})


def base_config() -> Any:
    from transformers import HubertConfig

    rates = {"layerdrop": 0.0, "mask_time_prob": 0.0, "activation_dropout": 0.0}
    return HubertConfig(vocab_size=32, **rates, **SIZES[os.environ.get("BENCHMARK_SIZE", "base")])


class Turns:
    """Does one update whenever the parent says so, and reports what it took."""

    def __init__(self, device: str, warm_up: int = 0) -> None:
        self.device, self.warm_up = device, warm_up
        self.started = 0.0
        self.wait()

    def clock(self) -> float:
        """Return processor time, or on a GPU the time of the clock when all work is done."""
        import torch

        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def wait(self) -> None:
        """Wait for the next turn."""
        sys.stdin.readline()
        self.started = self.clock()

    def done(self, seconds: float) -> None:
        """Report an update on so many seconds of audio, and wait for the next turn."""
        spent = self.clock() - self.started
        warm = self.warm_up > 0
        self.warm_up -= warm
        print(json.dumps({} if warm else {"spent": spent, "heard": seconds}), flush=True)
        self.wait()


def batches_of(folder: Path, size: int, *, by_length: bool) -> list[list[Any]]:
    """Return the batches of one epoch."""
    from speechft.data.manifest import open_corpus

    cuts = list(open_corpus(folder).split("train"))
    if by_length:
        cuts.sort(key=lambda cut: cut.duration)
    return [cuts[n : n + size] for n in range(0, len(cuts), size)]


def run_transformers(folder: Path, size: int, kind: str, precision: str, device: str) -> None:
    import torch
    from transformers import HubertForCTC

    from speechft.data.batching import pad
    from speechft.data.manifest import load_waveform
    from speechft.devices import autocast

    torch.manual_seed(0)
    model = HubertForCTC(base_config()).train().to(device)
    model.freeze_feature_encoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    groups = batches_of(folder, size, by_length=kind != "hf-file-order")
    warm_up = 0 if device == "cpu" else len(groups)
    turns = Turns(device, warm_up)
    for group in [*groups[:warm_up], *groups]:
        rows = [torch.from_numpy(load_waveform(cut)) for cut in group]
        waveforms = pad(rows)
        mask = torch.zeros(waveforms.shape, dtype=torch.long)
        for row, samples in zip(mask, rows, strict=True):
            row[: len(samples)] = 1
        texts = [[LETTERS.index(c) + 1 for c in cut.supervisions[0].text] for cut in group]
        labels = torch.full((len(group), max(map(len, texts))), -100)
        for row, text in zip(labels, texts, strict=True):
            row[: len(text)] = torch.tensor(text)
        inputs = {"input_values": waveforms, "attention_mask": mask, "labels": labels}
        with autocast(precision, torch.device(device)):
            output = model(
                **{name: value.to(device) for name, value in inputs.items()},
                output_hidden_states=kind == "s3prl",
            )
        loss = output.loss
        if kind == "s3prl":
            loss = loss + 0.0 * torch.stack(output.hidden_states).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
        optimizer.step()
        turns.done(sum(len(row) for row in rows) / 16_000)


def run_ours(folder: Path, size: int, phase: str, mode: str, precision: str, **more: Any) -> None:
    import torch
    from transformers import HubertModel

    from speechft.data.batching import BatchPlan
    from speechft.data.manifest import open_corpus
    from speechft.devices import pick_device
    from speechft.encoders.hugging_face import HuggingFaceEncoder
    from speechft.finetuning import loop, training_setup
    from speechft.finetuning.finetune import FinetuningConfig, finetune_encoder
    from speechft.finetuning.memory import Limits

    loop.save_checkpoint = lambda *arguments: None  # the peers save nothing
    torch.manual_seed(0)
    encoder = HuggingFaceEncoder(HubertModel(base_config()))
    corpus = open_corpus(folder)
    plan = BatchPlan(corpus.split("train"), seconds=1000.0, utterances=size, seed=0)
    batches, device = round(1 / plan.epochs(1)), pick_device().type
    warm_up = batches if device != "cpu" or "compile" in more else 0
    config = FinetuningConfig(
        task="asr",
        steps=batches * (EPOCHS if mode == "eval" else 1) + warm_up,
        learning_rate=1e-5,
        hidden=None,
        batch_utterances=size,
        batch_seconds=1000.0,
        head_only=10.0 if phase == "head" else 0.0,
        head_only_mode=mode,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        select="last",
        dropout={"hidden_dropout": 0.1, "attention_dropout": 0.1, "feat_proj_dropout": 0.1},
        checkpoint_every=10**6,
        trackers=(),
        **more,
    )
    turns = Turns(device, warm_up)
    once = [0.0]

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            started = turns.clock()
            result = function(*arguments)
            once[0] += turns.clock() - started
            return result

        return call

    training_setup.keep_downsampled = timed(training_setup.keep_downsampled)
    training_setup.keep_hidden = timed(training_setup.keep_hidden)
    run, record = loop._Training.run, loop._Training._record

    def started(self: Any, *arguments: Any) -> Any:
        print(json.dumps({"once": once[0]}), flush=True)
        turns.wait()
        return run(self, *arguments)

    def recorded(self: Any, group: Any, loss: float) -> None:
        record(self, group, loss)
        turns.done(sum(batch.seconds for batch in group))

    loop._Training.run = started  # type: ignore[method-assign]
    loop._Training._record = recorded  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as out:
        limits = Path(out) / ".checkpoints" / "limits.json"  # the trial of memory is not timed
        limits.parent.mkdir()
        limits.write_text(json.dumps(asdict(Limits.of(config))))
        finetune_encoder(encoder, config, corpus, Path(out))


def bound(device: str) -> dict[str, float]:
    """Return audio seconds a second if nothing but the transformer's products took time."""
    import torch

    config = base_config()
    frames, layers = 50, config.num_hidden_layers
    dim, inner = config.hidden_size, config.intermediate_size
    forward = 2 * frames * layers * (4 * dim * dim + 2 * dim * inner)
    result = {}
    rows = 2000 if device == "cpu" else 32_000
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        left = torch.randn(rows, dim, dtype=dtype, device=device)
        right = torch.randn(dim, inner, dtype=dtype, device=device)
        times = []
        for _ in range(6):
            clock = time.process_time if device == "cpu" else time.perf_counter
            started = clock()
            left @ right
            if device != "cpu":
                torch.cuda.synchronize()
            times.append(clock() - started)
        rate = 2 * rows * dim * inner / min(times)
        result[f"GFLOP/s {name}"] = rate / 1e9
        result[f"main {name}"] = rate / (3 * forward)
        result[f"head train {name}"] = rate / forward
    return result


def child(variant: str, folder: Path, size: int, threads: int) -> None:
    import torch

    from speechft.devices import pick_device

    torch.set_num_threads(threads)
    device = pick_device().type
    if variant == "bound":
        print(json.dumps(bound(device)), flush=True)
        return
    words = variant.split("-")
    precision = next((word for word in words if word in ("fp32", "bf16", "fp16")), "fp32")
    if words[0] == "ours":
        mode = words[2] if words[1] == "head" else "train"
        more = {"compile": True} if "compile" in words else {}
        run_ours(folder, size, words[1], mode, precision, **more)
    else:
        kind = variant.removesuffix(f"-{precision}")
        run_transformers(folder, size, kind, precision, device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if device != "cpu":
        peak = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps({"peak MB": peak}), flush=True)


class Child:
    """A variant in a process of its own, and what it has reported."""

    def __init__(self, variant: str, place: str, options: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--child", variant, place]
        command += ["--batch", str(options.batch), "--threads", str(options.threads)]
        environment = {**os.environ, "BENCHMARK_SIZE": options.size}
        if options.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        self.variant, self.figures = variant, {"heard": 0.0, "spent": 0.0, "once": 0.0}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def turn(self) -> bool:
        """Let the variant do one thing; return whether there is more to come."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        for name, value in json.loads(line or "{}").items():
            self.figures[name] = self.figures.get(name, 0.0) + value
        return bool(line) and "peak MB" not in self.figures

    def result(self) -> dict[str, float]:
        """Return the rate and the rest; the process has ended."""
        if self.process.wait():
            print(f"{self.variant}: failed", flush=True)
            return {}
        figures = self.figures
        epochs = EPOCHS if "eval" in self.variant else 1
        spent = figures["spent"] + figures["once"] * epochs / EPOCHS
        rate = figures["heard"] / spent
        return {"rate": rate, **{k: v for k, v in figures.items() if k in ("once", "peak MB")}}


def measured(variants: list[str], place: str, options: argparse.Namespace) -> Iterator[Any]:
    """Yield each variant with its figures; some at a time take turns."""
    for first in range(0, len(variants), options.at_once):
        children = [Child(v, place, options) for v in variants[first : first + options.at_once]]
        going = list(children)
        while going:
            going = [one for one in going if one.turn()]
        for one in children:
            yield one.variant, one.result()


def report(results: dict[str, dict[str, float]], bounds: dict[str, float], as_json: bool) -> None:
    rates = {variant: figures["rate"] for variant, figures in results.items() if figures}
    for variant in list(rates):
        head = variant.replace("main", "head-train")
        if "main" in variant and head in rates:
            whole = 1 / (HEAD_ONLY / rates[head] + (1 - HEAD_ONLY) / rates[variant])
            rates[variant.replace("main", "overall")] = whole
    if as_json:
        print(json.dumps({"rates": rates, "bounds": bounds}))
        return
    for variant, rate in rates.items():
        line = f"{variant:24}{rate:9.2f}"
        for mark, peer in (("(a)", "hf-file-order"), ("(b)", "hf-sorted")):
            if peer in rates:
                line += f"  {rate / rates[peer]:6.2f} x {mark}"
        peak = bounds.get(f"main {variant.split('-')[2]}") if "ours-main" in variant else None
        print(line + (f"  MFU {rate / peak:.0%}" if peak else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the corpus")
    parser.add_argument("--longest", type=float, default=18.0, help="longest utterance, s")
    parser.add_argument("--batch", type=int, default=4, help="utterances in a batch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--at-once", type=int, default=4, help="processes; 3 to 5 GB each")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--size", choices=tuple(SIZES), default="base")
    parser.add_argument("--json", action="store_true", help="end with the rates as JSON")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], Path(options.child[1]), options.batch, options.threads)
        return
    with tempfile.TemporaryDirectory() as place:
        make_corpus(Path(place), options.minutes, options.longest)
        reference = Child("bound", place, options)
        reference.turn()
        bounds = {name: x for name, x in reference.figures.items() if x}
        print("bound:", ", ".join(f"{name} {x:.2f}" for name, x in bounds.items()), flush=True)
        results = {}
        for variant, figures in measured(options.variants.split(","), place, options):
            results[variant] = figures
            parts = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
            print(f"{variant}: {parts}; load {os.getloadavg()[0]:.1f}", flush=True)
    report(results, bounds, options.json)


if __name__ == "__main__":
    main()
