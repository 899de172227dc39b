"""Time of SUPERB's probes: ours against s3prl's pattern, and a grid of five against one rate.

    python benchmarks/superb.py [--encoder base|FOLDER] [--seconds 16] [--heads pr,sd,asv,asr,sf]

Pattern of s3prl: the frozen encoder runs again in every training step, at s3prl's own number of
steps, and over dev and test in every evaluation. Ours: the encoder runs once over every utterance,
pooled probes train on what it gave. Both are measured on a slice and extrapolated. The bound is
the ratio of encoder passes, all that pooling can win if probes cost nothing.

s3prl itself is not run: its step is imitated with the same encoder and the same head on frames, so
that the ratio holds for the pattern, not for the two encoders' code. CPU seconds of this process on
one thread are counted (`time.process_time`), which other processes disturb little. The encoder is
random: time does not depend on the weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from speechft.data.labels import Vocabulary
from speechft.encoders.base import Encoder, pooled
from speechft.encoders.load import load_encoder
from speechft.evaluation.grid import Probe, make_grid
from speechft.evaluation.protocols import settings_of
from speechft.tasks import UtteranceHead, find_task

RATE = 16_000


@dataclass(frozen=True)
class Size:
    """A task's corpus and s3prl's schedule."""

    train: int
    dev: int
    test: int
    steps: int
    batch: int
    accumulate: int
    every: int
    classes: int
    seconds: float

    @property
    def passes(self) -> float:
        """Return utterances that s3prl's pattern encodes."""
        evaluations = self.steps // self.every
        return self.steps * self.batch * self.accumulate + evaluations * (self.dev + self.test)

    @property
    def utterances(self) -> int:
        """Return utterances that are there."""
        return self.train + self.dev + self.test


POOLED = {
    "sid": Size(138_361, 6_904, 8_251, 200_000, 8, 4, 5_000, 1_251, 8.0),
    "ks": Size(51_094, 6_798, 3_081, 200_000, 32, 1, 5_000, 12, 1.0),
    "ic": Size(23_132, 3_118, 3_793, 200_000, 32, 1, 5_000, 24, 2.3),
    "er (a fold)": Size(3_557, 889, 1_085, 30_000, 4, 8, 1_000, 4, 4.5),
}
CLASSES = {"pr": 74, "asr": 32, "sf": 120, "asv": 1_211, "sd": 2}


def base_encoder() -> Encoder:
    from transformers import HubertConfig, HubertModel

    from speechft.encoders.hugging_face import HuggingFaceEncoder

    return HuggingFaceEncoder(HubertModel(HubertConfig())).eval()


def cpu(work: Callable[[], object], least: float = 1.0) -> float:
    """Return CPU seconds of one call, after a first one, over at least ``least`` seconds."""
    work()
    count, started = 0, time.process_time()
    while True:
        work()
        count += 1
        spent = time.process_time() - started
        if spent >= least:
            return spent / count


def encode(encoder: Encoder, count: int, seconds: float) -> Callable[[], tuple[Tensor, Tensor]]:
    waveforms = torch.randn(count, int(seconds * RATE)) * 0.1
    lengths = torch.full((count,), waveforms.shape[1])

    def run() -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            output = encoder(waveforms, lengths)
            return output.hidden_states, output.lengths

    return run


def pooled_task(name: str, size: Size, encoder: Encoder, most: int) -> str:
    """Measure one utterance-level task, s3prl's step on ``most`` utterances of its batch."""
    loss = torch.nn.CrossEntropyLoss()
    count = min(size.batch, most)
    labels = torch.arange(count) % size.classes
    probe = Probe(encoder.num_layers + 1, UtteranceHead(encoder.dim, size.classes, 256))
    optimizer = torch.optim.Adam(probe.parameters(), lr=1e-4)
    forward = encode(encoder, count, size.seconds)

    def their_step() -> None:
        states, lengths = forward()
        optimizer.zero_grad()
        loss(probe(states.clone(), lengths.clone()), labels).backward()
        optimizer.step()

    def our_pass() -> None:
        with torch.inference_mode():
            waveforms = torch.randn(1, int(size.seconds * RATE)) * 0.1
            pooled(encoder(waveforms, torch.tensor([waveforms.shape[1]])))

    def our_steps(probes: int) -> float:
        rates = [1e-4 * 10**n for n in range(probes)]
        grid = make_grid(lambda: Probe(encoder.num_layers + 1, probe_head()), rates)
        full = size.batch * size.accumulate
        means = torch.randn(encoder.num_layers + 1, full, 1, encoder.dim)
        ones, targets = torch.ones(full, dtype=torch.int64), torch.arange(full) % size.classes

        def step() -> None:
            logits = grid.logits(means, ones)
            grid.update(torch.stack([loss(row, targets) for row in logits]))

        return cpu(step, 0.5)

    def probe_head() -> UtteranceHead:
        return UtteranceHead(encoder.dim, size.classes, 256)

    step, encoded = cpu(their_step) * size.batch / count, cpu(forward) / count
    evaluations = size.steps // size.every * (size.dev + size.test)
    theirs = size.steps * size.accumulate * step + evaluations * encoded
    once = size.utterances * cpu(our_pass)
    one, five = (once + size.steps * our_steps(probes) for probes in (1, 5))
    bound = size.passes / size.utterances
    return (
        f"{name:12} bound {bound:5.0f} x   s3prl's pattern {theirs / 3600:9.1f} h   "
        f"ours {one / 3600:6.2f} h (encoder {once / 3600:.2f} h): {theirs / one:5.1f} x   "
        f"grid of five {five / 3600:6.2f} h: {5 * theirs / five:5.1f} x"
    )


def framed_task(name: str, encoder: Encoder, audio: float) -> str:
    """Measure how much a grid of five costs beside a single rate when features are streamed."""
    task, settings = find_task(name), settings_of("default", find_task(name))
    count, seconds = max(1, round(audio / 8)), 8.0
    vocabulary = Vocabulary(tuple(f"symbol-{n}" for n in range(CLASSES[name])))
    forward = encode(encoder, count, seconds)
    states, lengths = (tensor.clone() for tensor in forward())
    frames = int(lengths[0])
    if name == "sd":
        targets = [torch.randint(2, (frames, 2)).float() for _ in range(count)]
    elif name == "asv":
        targets = [torch.tensor([n]) for n in range(count)]
    else:
        targets = [torch.arange(60) % (CLASSES[name] - 2) + 2 for _ in range(count)]

    def step(probes: int) -> Callable[[], None]:
        def make() -> Probe:
            head = task.probe_head(
                encoder.dim, vocabulary, hidden=settings.hidden, units=settings.units
            )
            return Probe(encoder.num_layers + 1, head)

        grid = make_grid(make, [1e-4] * probes)

        def run() -> None:
            logits = grid.logits(states, lengths)
            losses = task.losses(
                logits.flatten(0, 1), lengths.repeat(probes), targets * probes, vocabulary
            )
            grid.update(losses.view(probes, -1).mean(1))

        return run

    encoder_time = cpu(forward)
    one, five = (cpu(step(probes)) for probes in (1, 5))
    ratio = (encoder_time + five) / (encoder_time + one)
    limit = (encoder_time + 5 * one) / (encoder_time + one)
    return (
        f"{name:5} encoder {encoder_time:6.2f} s, one head {one:6.2f} s, five {five:6.2f} s for "
        f"{count * seconds:.0f} s of audio: grid of five {ratio:4.2f} x one "
        f"(heads on their own: {limit:4.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--encoder", default="base", help="base (random HuBERT Base), or a folder")
    parser.add_argument("--seconds", type=float, default=16.0, help="audio in a streamed batch")
    parser.add_argument("--pooled", default=",".join(n.split()[0] for n in POOLED))
    parser.add_argument("--heads", default="pr,sd,asv,asr,sf")
    parser.add_argument(
        "--slice", type=int, default=32, help="utterances of s3prl's batch that are measured"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder = base_encoder() if options.encoder == "base" else load_encoder(options.encoder)
    for name, size in POOLED.items():
        if name.split()[0] in options.pooled.split(","):
            print(pooled_task(name, size, encoder, options.slice), flush=True)
    for name in filter(None, options.heads.split(",")):
        print(framed_task(name, encoder, options.seconds), flush=True)


if __name__ == "__main__":
    main()
