"""Does the lineage check tell tuned encoders from strangers? Pairs, scores, and a ROC.

    python studies/lineage.py [--work runs/lineage]

Tuned: the packaged encoder and two others of its shape, pre-trained from other seeds, fine-tuned on
speakers of the embedded corpus with every strategy at a usual and at a reckless learning rate, in
float32 and stored in half precision, and merged; with the oracle pairs.
Strangers: the same tuned encoders beside every other base, encoders of another family of equal
shape, fresh weights, and tuned encoders with layers shuffled, swapped, doubled or grafted.
Training is written out here so that the study does not depend on the engine that it serves.

Writes ``studies/lineage.jsonl`` (a row a pair) and ``docs/images/lineage.png``.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, LoraModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, Wav2Vec2Config, Wav2Vec2Model

from speechft.api import pretrain
from speechft.data.corpora import find_corpus
from speechft.data.manifest import Corpus, load_waveform
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.encoders.load import load_encoder, random_encoder, resolve_encoder
from speechft.merging import compare, merge
from speechft.merging.lineage import MIN_SCORE

HERE = Path(__file__).parent
ORACLE = HERE.parent / "tests" / "oracle" / "merge"
STRATEGIES = ("stable", "plain", "l2sp", "lora", "dora", "early-checkpoint", "distill")
RATES = {"usual": 5e-4, "reckless": 3e-3}
STATISTICS = ("score", "median_cosine", "median_relative_change")
State = dict[str, Tensor]


@dataclass
class Row:
    """One pair."""

    related: bool
    kind: str
    base: str
    tuned: str
    score: float | None
    median_cosine: float | None
    median_relative_change: float | None


class Audio:
    """Random crops of the embedded corpus with their speakers."""

    def __init__(self, corpus: Corpus, seconds: float = 1.0) -> None:
        self.samples = int(seconds * 16_000)
        cuts = [c for c in corpus.split(corpus.tuning_splits()[0]) if c.duration >= seconds]
        self.waveforms = [load_waveform(cut) for cut in cuts[:400]]
        speakers = [cut.supervisions[0].speaker for cut in cuts[:400]]
        self.speakers = sorted(set(speakers))
        self.targets = [self.speakers.index(s) for s in speakers]

    def batch(self, rng: random.Random, size: int = 8) -> tuple[Tensor, Tensor]:
        """Return waveforms (size, samples) and speakers (size,)."""
        crops, targets = [], []
        for index in rng.sample(range(len(self.waveforms)), size):
            start = rng.randrange(len(self.waveforms[index]) - self.samples + 1)
            crops.append(torch.from_numpy(self.waveforms[index][start : start + self.samples]))
            targets.append(self.targets[index])
        return torch.stack(crops), torch.tensor(targets)


def fine_tune(
    start: Path | HuggingFaceEncoder,
    strategy: str,
    audio: Audio,
    steps: int,
    rate: float,
    seed: int,
) -> HuggingFaceEncoder:
    """Fine-tune on speakers from the last hidden state: mean over time and one linear layer."""
    encoder = load_encoder(start) if isinstance(start, Path) else start
    assert isinstance(encoder, HuggingFaceEncoder)
    torch.manual_seed(seed)
    head, rng = nn.Linear(encoder.dim, len(audio.speakers)), random.Random(seed)
    before = {n: w.detach().clone() for n, w in encoder.named_parameters()}
    adapted = None
    if strategy in ("lora", "dora"):
        settings = LoraConfig(
            r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], use_dora=strategy == "dora"
        )
        adapted = LoraModel(encoder.model, settings, "default")
    teacher = copy.deepcopy(encoder).requires_grad_(False) if strategy == "distill" else None
    trained = [p for p in encoder.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam([*head.parameters(), *trained], rate)
    last = steps // 5 if strategy == "early-checkpoint" else steps
    lengths = torch.full((8,), audio.samples)
    for step in range(last):
        head_only = strategy != "plain" and step < steps // 10
        for name, parameter in encoder.named_parameters():
            if adapted is None:
                frozen = "feature_extractor" in name and strategy != "plain"
                parameter.requires_grad_(not (head_only or frozen))
        waveforms, targets = audio.batch(rng)
        states = encoder(waveforms, lengths).last_hidden_state
        loss = nn.functional.cross_entropy(head(states.mean(1)), targets)
        if strategy == "l2sp":
            moved = [(w - before[n]).square().sum() for n, w in encoder.named_parameters()]
            loss = loss + 0.005 * torch.stack(moved).sum()
        if teacher is not None:
            with torch.no_grad():
                wanted = teacher(waveforms, lengths).last_hidden_state
            loss = loss + nn.functional.mse_loss(states, wanted)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*head.parameters(), *encoder.parameters()], 1.0)
        optimizer.step()
    if adapted is not None:
        encoder.model = adapted.merge_and_unload()
    return encoder


def saved(folder: Path, make: Any) -> Path:
    """Return an encoder folder, made once."""
    if not (folder / "model.safetensors").is_file():
        make().save(folder)
        print(f"made {folder}", flush=True)
    return folder


def tuned_encoders(
    bases: dict[str, Path], audio: Audio, steps: int, work: Path
) -> Iterator[tuple[str, str, Path]]:
    """Yield base, kind and folder of every tuned encoder."""
    for base, folder in bases.items():
        runs = [("stable", "usual"), ("plain", "reckless")]
        if base == "tiny-hubert":
            runs = [(strategy, rate) for strategy in STRATEGIES for rate in RATES]
        for strategy, rate in runs:
            place = work / f"{base}-{strategy}-{rate}"
            made = partial(fine_tune, folder, strategy, audio, steps, RATES[rate], seed=0)
            yield base, f"{strategy}, {rate} rate", saved(place, made)
    merged = work / "merged"
    merge(bases["tiny-hubert"], work / "tiny-hubert-plain-reckless", out=merged, force=True)
    yield "tiny-hubert", "merged at 0.25", merged


def other_family(like: Path, audio: Audio, steps: int) -> HuggingFaceEncoder:
    """Return a wav2vec 2.0 model of the same shape, trained a little from fresh weights."""
    fields = AutoConfig.from_pretrained(like).to_dict()
    fields = {n: v for n, v in fields.items() if n not in ("model_type", "architectures", "dtype")}
    torch.manual_seed(77)
    encoder = HuggingFaceEncoder(Wav2Vec2Model(Wav2Vec2Config(**fields)))
    return fine_tune(encoder, "plain", audio, steps, 5e-4, seed=7)


def rearranged(state: State, other: State, layers: int) -> Iterator[tuple[str, State]]:
    """Yield a tuned encoder with its layers in disorder, and with one layer of another base."""
    order = list(range(layers))
    random.Random(layers).shuffle(order)
    middle = layers // 2
    yield "layers shuffled", with_layers(state, order if order != sorted(order) else order[::-1])
    for low in (0, layers - 2):
        swapped = list(range(layers))
        swapped[low], swapped[low + 1] = swapped[low + 1], swapped[low]
        yield f"layers {low} and {low + 1} swapped", with_layers(state, swapped)
    doubled = list(range(layers))
    doubled[middle] = middle - 1
    yield "one layer doubled", with_layers(state, doubled)
    graft = f"encoder.layers.{middle}."
    grafted = {n: other[n] if n.startswith(graft) else w for n, w in state.items()}
    yield "one layer of another base", grafted


def with_layers(state: State, order: list[int]) -> State:
    """Return the state with layer ``order[i]`` in the place of layer i."""
    result = {n: w for n, w in state.items() if not n.startswith("encoder.layers.")}
    for place, source in enumerate(order):
        prefix = f"encoder.layers.{source}."
        for name, weight in state.items():
            if name.startswith(prefix):
                result[f"encoder.layers.{place}.{name.removeprefix(prefix)}"] = weight
    return result


def row(related: bool, kind: str, names: tuple[str, str], base: Any, tuned: Any) -> Row:
    """Measure one pair."""
    found = compare(base, tuned)
    return Row(
        related,
        kind,
        *names,
        found.score,
        found.median_cosine,
        found.median_relative_change,
    )


def weights(folder: Path) -> State:
    return load_file(folder / "model.safetensors")


def embedded_rows(audio: Audio, pretraining: int, steps: int, work: Path) -> Iterator[Row]:
    """Yield the pairs around the packaged encoder."""
    bases = {"tiny-hubert": resolve_encoder("tiny-hubert")}
    for seed in (2, 3):
        overrides = ["corpus=synthetic", f"seed={seed}", f"optimization.steps={pretraining}"]
        overrides.append("optimization.learning_rate=1e-3")
        place = work / f"seed-{seed}"
        bases[place.name] = pretrain("pretrain-tiny", out=place, overrides=overrides)
    states = {name: weights(folder) for name, folder in bases.items()}
    layers = AutoConfig.from_pretrained(bases["tiny-hubert"]).num_hidden_layers
    names = list(bases)
    for base, kind, folder in tuned_encoders(bases, audio, steps, work):
        state = weights(folder)
        yield row(True, kind, (base, folder.name), states[base], state)
        for dtype in (torch.float16, torch.bfloat16):
            half = {n: w.to(dtype) for n, w in state.items()}
            text = str(dtype).removeprefix("torch.")
            yield row(True, f"{kind}, {text}", (base, folder.name), states[base], half)
        others = [name for name in names if name != base]
        for other in others:
            yield row(False, "another seed", (other, folder.name), states[other], state)
        for disorder, changed in rearranged(state, states[others[0]], layers):
            yield row(False, disorder, (base, folder.name), states[base], changed)
    family = saved(work / "wav2vec2", lambda: other_family(bases["tiny-hubert"], audio, steps))
    fresh = saved(work / "fresh", lambda: random_encoder("tiny-hubert", 5))
    for name in names:
        yield row(False, "another family", (name, "wav2vec2"), states[name], weights(family))
        yield row(False, "fresh weights", (name, "fresh"), states[name], weights(fresh))
        for other in names:
            if other != name:
                yield row(False, "another seed", (name, other), states[name], states[other])


def oracle_rows() -> Iterator[Row]:
    """Yield the pairs of the official code's data."""
    families = ("hubert", "wav2vec2", "wavlm_base_plus", "decoar2")
    for family in families:
        base, tuned = ORACLE / f"{family}_base.pt", ORACLE / f"{family}_ft1_downstream.ckpt"
        yield row(True, "oracle", (family, f"{family}_ft1"), base, tuned)
    for first, second in (("hubert", "wav2vec2"), ("wav2vec2", "hubert")):
        tuned = ORACLE / f"{second}_ft1_downstream.ckpt"
        names = (first, f"{second}_ft1")
        yield row(False, "another family", names, ORACLE / f"{first}_base.pt", tuned)


def curve(rows: list[Row], statistic: str) -> tuple[list[float], list[float], float]:
    """Return false and true positive rates over all limits, and the area under them."""
    sign = -1.0 if statistic == "median_relative_change" else 1.0
    values = np.array([sign * getattr(r, statistic) for r in rows])
    related = np.array([r.related for r in rows])
    limits = [np.inf, *sorted(set(values), reverse=True)]
    false = [float((values[~related] >= limit).mean()) for limit in limits]
    true = [float((values[related] >= limit).mean()) for limit in limits]
    return false, true, float(np.trapezoid(true, false))


def draw(rows: list[Row], path: Path) -> None:
    """Draw scores by kind, and the ROC of three statistics."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(2, 1))
    kinds = sorted({(not r.related, r.kind.split(",")[0]) for r in rows}, reverse=True)
    for place, (stranger, kind) in enumerate(kinds):
        values = [
            r.score for r in rows if (not r.related, r.kind.split(",")[0]) == (stranger, kind)
        ]
        left.plot(values, [place] * len(values), "x" if stranger else "o", color=f"C{3 * stranger}")
    left.set_yticks(range(len(kinds)), [kind for _, kind in kinds], fontsize=7)
    left.axvline(MIN_SCORE, color="black", linestyle=":")
    left.set_xlabel("score: lowest median cosine of a layer; o tuned, x strangers, : limit")
    for statistic in STATISTICS:
        false, true, area = curve(rows, statistic)
        right.plot(false, true, label=f"{statistic.replace('_', ' ')}, area {area:.4f}")
    right.set(xlabel="strangers accepted", ylabel="tuned accepted", title="ROC")
    right.legend(fontsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/lineage"))
    parser.add_argument("--pretraining", type=int, default=120, help="updates of another seed")
    parser.add_argument("--steps", type=int, default=25, help="updates of fine-tuning")
    options = parser.parse_args()
    corpus = find_corpus("synthetic", options.work / "corpus")
    rows = list(oracle_rows())
    rows += embedded_rows(Audio(corpus), options.pretraining, options.steps, options.work)
    text = "".join(json.dumps(asdict(r)) + "\n" for r in rows)
    (HERE / "lineage.jsonl").write_text(text)
    draw(rows, HERE.parent / "docs" / "images" / "lineage.png")
    near = [r.score for r in rows if r.related and r.score is not None]
    far = [r.score for r in rows if not r.related and r.score is not None]
    errors = sum(s < MIN_SCORE for s in near) + sum(s >= MIN_SCORE for s in far)
    print(
        f"{len(near)} tuned, lowest score {min(near):.3f}; {len(far)} strangers, highest ", end=""
    )
    print(f"{max(far):.3f}; errors at {MIN_SCORE}: {errors}")
    for statistic in STATISTICS:
        print(f"area under the ROC, {statistic}: {curve(rows, statistic)[2]:.4f}")


if __name__ == "__main__":
    main()
