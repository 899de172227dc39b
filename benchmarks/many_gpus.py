"""What Base and Large cost on 1 to 512 GPUs, by formula: no GPU is needed, and none is measured.

    python benchmarks/many_gpus.py [--tflops 125] [--node 8] [--inside 450] [--between 50]
                                   [--host 25] [--step-us 150]

Prints the tables of ``docs/scaling.md``, which a test compares. Every assumption about the machine
is an option; every figure of a model is counted from its shape, every size of a task is the number
of utterances of its lists times a mean length.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

SAMPLES, HOP = 16_000, 320
FRAMES = SAMPLES / HOP
CONVOLUTIONS = tuple(zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), strict=True))
"""Kernel and stride of the downsampler of HuBERT, wav2vec 2.0 and WavLM."""
CHANNELS = 512
GPUS = (1, 8, 64, 512)
TRAINING = 3
"""Forward passes that a forward and a backward pass cost."""
DDP = 8.0
"""Bytes a parameter that go around the ring: float32 gradients are summed, then spread."""
SHARDED = 12.0
"""The same of ``fully_shard``: float32 weights are gathered twice, gradients summed once."""
KEPT = 16.0
"""Bytes a parameter that training keeps: weight, gradient, two moments of Adam, all float32."""


@dataclass(frozen=True)
class Shape:
    """An encoder by its shape.

    Args:
        name: Of the encoder.
        width: Of its hidden states.
        inner: Of its feed-forward layers.
        layers: How many.
        normed: Whether every convolution has a bias and a layer norm (Large), or the first one
            alone a group norm (Base).
        batch: Seconds of audio a GPU takes in a step of pre-training, as published.
    """

    name: str
    width: int
    inner: int
    layers: int
    normed: bool
    batch: float

    def parameters(self) -> int:
        """Return how many parameters the encoder has, mask embedding included."""
        channels, found = 1, 0
        for number, (kernel, _) in enumerate(CONVOLUTIONS):
            found += CHANNELS * channels * kernel
            found += 3 * CHANNELS if self.normed else 2 * CHANNELS * (number == 0)
            channels = CHANNELS
        width = self.width
        found += 2 * CHANNELS + CHANNELS * width + width  # norm, projection
        found += width * width // 16 * 128 + 128 + width  # positions: weight norm, bias
        found += 2 * width + width  # norm, mask embedding
        attention = 4 * (width * width + width)
        feed_forward = 2 * width * self.inner + self.inner + width
        return found + self.layers * (attention + feed_forward + 4 * width)

    def gflop(self, seconds: float = 14.0) -> float:
        """Return multiply-adds x 2 of a second of audio, forward, in GFLOP.

        Args:
            seconds: Length of the utterances, which attention depends on.
        """
        samples, channels, macs = float(SAMPLES), 1, 0.0
        for kernel, stride in CONVOLUTIONS:
            samples /= stride
            macs += samples * CHANNELS * channels * kernel
            channels = CHANNELS
        width = self.width
        macs += FRAMES * (CHANNELS * width + width * width // 16 * 128)
        macs += FRAMES * self.layers * (4 * width**2 + 2 * width * self.inner)
        macs += FRAMES * self.layers * 2 * width * FRAMES * seconds
        return 2 * macs / 1e9


BASE = Shape("Base", 768, 3072, 12, False, 87.5)
LARGE = Shape("Large", 1024, 4096, 24, True, 56.25)
SHAPES = (BASE, LARGE)


@dataclass(frozen=True)
class Machine:
    """GPUs and what connects them; bytes in 1e9 a second, one direction.

    Args:
        tflops: Sustained in bf16, an eighth of what an H100 is sold with.
        node: GPUs in a machine.
        inside: Between two GPUs of a machine.
        between: From machine to machine, for each GPU.
        host: From the memory of the machine to a GPU.
        step: Microseconds that a step of a probe costs at the least (Python, kernels' launches).
    """

    tflops: float = 125.0
    node: int = 8
    inside: float = 450.0
    between: float = 50.0
    host: float = 25.0
    step: float = 150.0

    def seconds(self, gflop: float) -> float:
        """Return how long a GPU computes."""
        return gflop / (self.tflops * 1e3)

    def ring(self, gpus: int, volume: float) -> float:
        """Return seconds of a ring's pass over all GPUs: each sends (n - 1) / n of the bytes."""
        rate = self.inside if gpus <= self.node else self.between
        return (gpus - 1) / gpus * volume / (rate * 1e9)


@dataclass(frozen=True)
class Probed:
    """A task of SUPERB as work.

    Args:
        name: Of the task.
        train, rest: Utterances of training, and of dev and test.
        seconds: Mean length of an utterance.
        steps: Of the probe in s3prl; 0 where nothing is trained.
        batch: Utterances of a step.
        heard: Seconds of an utterance that a step hears, where it is a crop.
        units: What the hidden states go into: units of the head's first layer.
        macs: Multiply-adds of the rest of the head for a frame, or for an utterance where it is
            pooled first.
        pooled: Whether the head takes means over time.
        rates: Learning rates that ``default`` tries.
        epochs: Passes over training that ``default`` takes until dev stops improving: assumed.
        times: Folds.
    """

    name: str
    train: int
    rest: int
    seconds: float
    steps: int
    batch: int
    units: int
    macs: float
    pooled: bool
    rates: int
    heard: float = 0.0
    epochs: int = 30
    times: int = 1

    @property
    def hours(self) -> float:
        """Return all audio, each second once."""
        return (self.train + self.rest) * self.seconds / 3600

    def by_s3prl(self, shape: Shape, machine: Machine) -> float:
        """Return GPU-hours where the frozen encoder runs again in every step."""
        audio = self.steps * self.batch * (self.heard or self.seconds)
        audio += self.rest * self.seconds
        return (
            self.times
            * (self._passes(audio, shape, machine) + self._head(1, shape, machine))
            / 3600
        )

    def by_us(self, shape: Shape, machine: Machine, *, s3prl: bool) -> float:
        """Return GPU-hours where the encoder runs once, and frames come from memory.

        Args:
            shape: Of the encoder.
            machine: Where.
            s3prl: Steps and rate of s3prl instead of the grid of ``default``.
        """
        crops = {"sid": 47, "ks": 112}.get(self.name, 1) if s3prl else 1
        audio = self.rest * self.seconds + self.train * crops * (self.heard or self.seconds)
        rates, epochs = (1, None) if s3prl else (self.rates, self.epochs)
        probes = self._head(rates, shape, machine, epochs)
        read = 0.0
        if not self.pooled and self.steps:
            steps = self.steps if s3prl else self.epochs * self.train / self.batch
            frames = steps * self.batch * self.seconds * FRAMES
            read = frames * (shape.layers + 1) * shape.width * 2 / (machine.host * 1e9)
        return (self._passes(audio, shape, machine) + self.times * max(probes, read)) / 3600

    def _passes(self, audio: float, shape: Shape, machine: Machine) -> float:
        return machine.seconds(audio * shape.gflop(self.heard or self.seconds))

    def _head(self, rates: int, shape: Shape, machine: Machine, epochs: int | None = None) -> float:
        """Return seconds of all steps of the head; several rates step together."""
        steps = self.steps if epochs is None else epochs * self.train / self.batch
        items = self.batch * (1 if self.pooled else self.seconds * FRAMES)
        macs = self.units * shape.width + self.macs
        computing = machine.seconds(2 * TRAINING * macs * items * rates / 1e9)
        return steps * max(computing, machine.step * 1e-6) if self.steps else 0.0


def lstm(inputs: int, units: int, directions: int = 2) -> int:
    """Return multiply-adds of an LSTM for a frame."""
    return directions * 4 * units * (inputs + units)


RECURRENT = lstm(1024, 1024) + lstm(2048, 1024) + 2048 * 40
XVECTOR = 512 * 512 * (5 + 3 + 3 + 1) + 512 * 1500
TASKS = (
    Probed("pr", 28_539, 5_323, 12.2, 100_000, 32, 256, 256 * 74, False, 5),
    Probed("asr", 28_539, 5_323, 12.2, 200_000, 32, 1024, RECURRENT, False, 3),
    Probed("ks", 51_094, 9_879, 1.0, 200_000, 32, 256, 256 * 12, True, 4, heard=1.0),
    Probed("qbe", 0, 3_000, 6.0, 0, 1, 0, 0, False, 1),
    Probed("sid", 138_361, 15_155, 8.2, 200_000, 32, 256, 256 * 1251, True, 4, heard=8.0),
    Probed("asv", 148_642, 4_874, 8.2, 200_000, 50, 512, XVECTOR, False, 3, heard=8.0),
    Probed("sd", 13_901, 6_016, 14.0, 30_000, 32, 4 * 512, 4 * 512 * 512, False, 4),
    Probed("er", 4_446, 1_085, 4.5, 30_000, 32, 256, 256 * 4, True, 4, times=5),
    Probed("ic", 23_132, 6_911, 2.3, 200_000, 32, 256, 256 * 24, True, 4),
    Probed("sf", 104_672, 5_600, 2.9, 200_000, 32, 1024, RECURRENT, False, 3),
)
"""Utterances as s3prl's lists have them; mean lengths to a tenth or so, by the corpora's hours."""


def steps_table(machine: Machine) -> Iterator[str]:
    """Yield the table of a step of training on many GPUs."""
    yield (
        "| | GPUs | audio a step (h) | computing (ms) | DDP: each sends (MB) | in (ms) "
        "| fully_shard: each sends (MB) | in (ms) | to be loaded (s of audio a second) |"
    )
    yield "|" + "---|" * 9
    for shape in SHAPES:
        seconds = machine.seconds(TRAINING * shape.gflop() * shape.batch)
        for gpus in GPUS:
            sent = " | ".join(
                f"{(gpus - 1) / gpus * each * shape.parameters() / 1e6:,.0f} "
                f"| {1e3 * machine.ring(gpus, each * shape.parameters()):.1f}"
                for each in (DDP, SHARDED)
            )
            yield (
                f"| {shape.name} | {gpus} | {gpus * shape.batch / 3600:.2f} | {1e3 * seconds:.0f} "
                f"| {sent} | {gpus * shape.batch / seconds:,.0f} |"
            )


def memory_table() -> Iterator[str]:
    """Yield the table of bytes that weights, gradients and Adam take on each GPU."""
    yield "| | parameters (M) | DDP (GB a GPU) | fully_shard on 8 | on 64 | on 512 |"
    yield "|" + "---|" * 6
    for shape in SHAPES:
        count = shape.parameters()
        whole = KEPT * count / 1e9
        parts = " | ".join(f"{whole / gpus:.3f}" for gpus in GPUS[1:])
        yield f"| {shape.name} | {count / 1e6:.1f} | {whole:.2f} | {parts} |"


def superb_table(machine: Machine) -> Iterator[str]:
    """Yield the table of GPU-hours of SUPERB by task and protocol, and of what frames take."""
    heads = [f"{s.name}: s3prl's loop | ours, `s3prl` | ours, `default`" for s in SHAPES]
    yield "| task | audio (h) | " + " | ".join(heads) + " | frames of Base (GB) |"
    yield "|" + "---|" * 9
    sums = [0.0] * 6
    for task in TASKS:
        costs = [cost for shape in SHAPES for cost in _costs(task, shape, machine)]
        sums = [a + b for a, b in zip(sums, costs, strict=True)]
        a_second = FRAMES * (BASE.layers + 1) * 2 * BASE.width
        frames = 0 if task.pooled else task.hours * 3600 * a_second
        cells = " | ".join(f"{cost:.2f}" for cost in costs)
        kept = f"{frames / 1e9:,.0f}" if frames else "pooled"
        yield f"| {task.name} | {task.hours:.0f} | {cells} | {kept} |"
    yield "| **all** | | " + " | ".join(f"**{cost:.1f}**" for cost in sums) + " | |"


def _costs(task: Probed, shape: Shape, machine: Machine) -> Iterator[float]:
    yield task.by_s3prl(shape, machine)
    yield task.by_us(shape, machine, s3prl=True)
    yield task.by_us(shape, machine, s3prl=False)


def tables(machine: Machine) -> list[str]:
    """Return the three tables, each as text."""
    found = (steps_table(machine), memory_table(), superb_table(machine))
    return ["\n".join(table) for table in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = Machine()
    for name in ("tflops", "inside", "between", "host"):
        parser.add_argument(f"--{name}", type=float, default=getattr(default, name))
    parser.add_argument("--node", type=int, default=default.node)
    parser.add_argument("--step-us", dest="step", type=float, default=default.step)
    print("\n\n".join(tables(Machine(**vars(parser.parse_args())))))


if __name__ == "__main__":
    main()
