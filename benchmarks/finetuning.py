"""Speed and memory of CTC fine-tuning at HuBERT-Base size against what people run today.

    python benchmarks/finetuning.py [--minutes 10] [--longest 18] [--batches 5] [--threads 1]

Every variant is a process of its own on the same generated audio of very unequal length, random
weights, batches of 4 utterances, dropout on, Adam. `rate` is seconds of audio (without padding) a
second of processor time, so that a busy machine counts less.

    hf-file-order   transformers' HubertForCTC, CNN frozen, padded in file order         (a)
    hf-sorted       the same, sorted by length                                           (b)
    s3prl           s3prl's pattern: CNN every step, all hidden states stacked, sorted   (c)
    ours-*          the engine: main phase, head-only with dropout, head-only without    (d)

The bound is the rate of the largest matrix product of a layer, measured in the same precision,
divided by the multiplications that the transformer needs: forward and backward in the main phase.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH = 4
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
VARIANTS = (
    "hf-file-order",
    "hf-sorted",
    "s3prl",
    "ours-main-fp32",
    "ours-main-bf16",
    "ours-head-train-fp32",
    "ours-head-train-bf16",
    "ours-head-eval-fp32",
    "ours-head-eval-bf16",
)
EPOCHS = 10
"""Epochs of the head-only phase without dropout, over which its one pass is spread (the TED-LIUM
recipe has seven: 2,000 updates of 16 utterances, ten hours)."""


def make_corpus(folder: Path, minutes: float, longest: float) -> None:
    import numpy as np
    import soundfile

    from speechft.data.manifest import Utterance, write_corpus

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

    return HubertConfig(layerdrop=0.0, vocab_size=32, mask_time_prob=0.0, activation_dropout=0.0)


def batches_of(folder: Path, count: int, *, by_length: bool) -> list[list[Any]]:
    """Return batches of cuts, spread evenly over the corpus."""
    from speechft.data.manifest import open_corpus

    cuts = list(open_corpus(folder).split("train"))
    if by_length:
        cuts.sort(key=lambda cut: cut.duration)
    groups = [cuts[n : n + BATCH] for n in range(0, len(cuts) - BATCH + 1, BATCH)]
    places = [round((n + 0.5) * len(groups) / count - 0.5) for n in range(count)]
    return [groups[place] for place in places]


def run_transformers(folder: Path, count: int, *, by_length: bool, s3prl: bool) -> dict[str, float]:
    import torch
    from transformers import HubertForCTC

    from speechft.data.batching import pad
    from speechft.data.manifest import load_waveform

    torch.manual_seed(0)
    model = HubertForCTC(base_config()).train()
    model.freeze_feature_encoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    heard = spent = 0.0
    groups = batches_of(folder, count, by_length=by_length)
    for number, group in enumerate([groups[0], *groups]):  # the first one warms up
        started = time.process_time()
        rows = [torch.from_numpy(load_waveform(cut)) for cut in group]
        waveforms = pad(rows)
        mask = torch.zeros(waveforms.shape, dtype=torch.long)
        for row, samples in zip(mask, rows, strict=True):
            row[: len(samples)] = 1
        texts = [[LETTERS.index(c) + 1 for c in cut.supervisions[0].text] for cut in group]
        labels = torch.full((len(group), max(map(len, texts))), -100)
        for row, text in zip(labels, texts, strict=True):
            row[: len(text)] = torch.tensor(text)
        output = model(waveforms, attention_mask=mask, labels=labels, output_hidden_states=s3prl)
        loss = output.loss
        if s3prl:
            loss = loss + 0.0 * torch.stack(output.hidden_states).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
        optimizer.step()
        if number:
            spent += time.process_time() - started
            heard += sum(len(row) for row in rows) / 16_000
    return {"rate": heard / spent}


def run_ours(folder: Path, count: int, phase: str, mode: str, precision: str) -> dict[str, float]:
    import torch
    from transformers import HubertModel

    from speechft.data.manifest import open_corpus
    from speechft.encoders.hugging_face import HuggingFaceEncoder
    from speechft.finetuning import loop
    from speechft.finetuning.finetune import FinetuningConfig, finetune_encoder

    loop.save_checkpoint = lambda *arguments: None  # the peers save nothing
    torch.manual_seed(0)
    encoder = HuggingFaceEncoder(HubertModel(base_config()))
    corpus = open_corpus(folder)
    utterances = corpus.statistics["train"]["utterances"]
    steps = EPOCHS * -(-utterances // BATCH) if mode == "eval" else count
    config = FinetuningConfig(
        task="asr",
        steps=steps,
        learning_rate=1e-5,
        hidden=None,
        batch_utterances=BATCH,
        batch_seconds=1000.0,
        head_only=10.0 if phase == "head" else 0.0,
        head_only_mode=mode,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        select="last",
        dropout={"hidden_dropout": 0.1, "attention_dropout": 0.1, "feat_proj_dropout": 0.1},
        checkpoint_every=10**6,
        trackers=(),
    )
    spent: list[float] = []
    run = loop._Training.run

    def timed(self: Any, *arguments: Any) -> Any:
        started = time.process_time()
        history = run(self, *arguments)
        spent.append(time.process_time() - started)
        return history

    loop._Training.run = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as out:
        started = time.process_time()
        history = finetune_encoder(encoder, config, corpus, Path(out)).history
        whole = time.process_time() - started
    result = {"rate": history.seconds_of_audio / spent[0]}
    if mode == "eval":  # the pass that is reused is part of the price
        result["rate, with the one pass"] = history.seconds_of_audio / whole
    return result


def bound(layers: int = 12) -> dict[str, float]:
    """Return audio seconds a second if nothing but the transformer's products took time."""
    import torch

    frames, dim, inner = 50, 768, 3072
    forward = 2 * frames * layers * (4 * dim * dim + 2 * dim * inner)
    result = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        left, right = torch.randn(2000, dim, dtype=dtype), torch.randn(dim, inner, dtype=dtype)
        times = []
        for _ in range(6):
            started = time.process_time()
            left @ right
            times.append(time.process_time() - started)
        rate = 2 * 2000 * dim * inner / min(times)
        result[f"GFLOP/s {name}"] = rate / 1e9
        result[f"main {name}"] = rate / (3 * forward)
        result[f"head train {name}"] = rate / forward
    return result


def child(variant: str, folder: Path, count: int, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    if variant == "bound":
        result = bound()
    elif variant.startswith("ours"):
        _, phase, *rest = variant.split("-")
        mode = rest[0] if phase == "head" else "train"
        result = run_ours(folder, count, phase, mode, rest[-1])
    else:
        by_length, s3prl = variant != "hf-file-order", variant == "s3prl"
        result = run_transformers(folder, count, by_length=by_length, s3prl=s3prl)
    result["peak RSS MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the corpus")
    parser.add_argument("--longest", type=float, default=18.0, help="longest utterance, s")
    parser.add_argument("--batches", type=int, default=5, help="timed batches of each variant")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], Path(options.child[1]), options.batches, options.threads)
        return
    with tempfile.TemporaryDirectory() as place:
        make_corpus(Path(place), options.minutes, options.longest)
        results: dict[str, dict[str, float]] = {}
        for variant in ("bound", *options.variants.split(",")):
            command = [sys.executable, __file__, "--child", variant, place]
            command += ["--batches", str(options.batches), "--threads", str(options.threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{variant}: failed: {done.stderr.strip().splitlines()[-1]}", flush=True)
                continue
            results[variant] = json.loads(done.stdout.splitlines()[-1])
            figures = ", ".join(f"{name} {value:.2f}" for name, value in results[variant].items())
            print(f"{variant}: {figures}", flush=True)
    first, second = results.get("hf-file-order"), results.get("hf-sorted")
    for variant, result in results.items():
        if first and second and "rate" in result:
            rate = result.get("rate, with the one pass", result["rate"])
            ratios = f"{rate / first['rate']:.2f} x (a), {rate / second['rate']:.2f} x (b)"
            print(f"{variant:24}{ratios}")


if __name__ == "__main__":
    main()
