"""Pre-train a lineage of the tiny encoder and measure it on dev: the curve and the gate.

Two rounds of HuBERT pre-training, then frozen probes on the dev splits of ``synthetic-study``
(never its test splits), speaker EER and phone ABX, beside MFCC and random weights. One command,
resumable; another seed is another lineage:

    python studies/pretraining.py --seed 1 --out runs/lineage-1

Rows go to ``studies/pretraining/seed-N.jsonl``. ``--topline`` adds the supervised topline of the
same size, trained from scratch on the probes' data, which the gate needs. ``--rounds`` measures
encoders that are there already, those of the rounds in order, instead of training them.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_curve
from torch import Tensor

from speechft.api import pretrain
from speechft.data.batching import pad
from speechft.data.corpora import find_corpus
from speechft.data.labels import label_of, phones_of
from speechft.data.manifest import Corpus, load_waveform
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.encoders.load import random_encoder
from speechft.evaluation.candidates import Candidate
from speechft.evaluation.config import EvaluationConfig
from speechft.evaluation.suite import choose_tasks, evaluate_encoder
from speechft.features.extract import DownsamplerCache
from speechft.files import write_text
from speechft.finetuning.finetune import FinetuningConfig, finetune_encoder

TASKS = ("pr", "pc", "sid", "ic", "style")
SILENCE = "SIL"
TOPLINE = {"pr": 2000, "sid": 1500}
"""Updates of the topline by task."""


def rounds(seed: int, folder: Path) -> Iterator[tuple[str, Path]]:
    """Run both rounds; yield name and encoder of each."""
    first = pretrain("pretrain-tiny", out=folder / "round-1", overrides=[f"seed={seed}"])
    yield "round 1", first
    start = [f"start_from={first}", f"targets.source={first}", f"seed={seed + 100}"]
    yield "round 2", pretrain("pretrain-tiny-2", out=folder / "round-2", overrides=start)


def probes(name: str, candidate: Candidate, corpus: Corpus, folder: Path) -> list[dict[str, Any]]:
    """Return dev figures of frozen probes, trained until dev stops improving."""
    config = EvaluationConfig(tasks=TASKS)
    tasks, cache = choose_tasks(config, corpus), DownsamplerCache()
    rows = evaluate_encoder(
        candidate, tasks, corpus, config, folder, seed=0, test=False, cache=cache
    )
    return [
        {
            "encoder": name,
            "task": row.task,
            "metric": row.metric,
            "value": round(row.value, 3),
            "n": row.n,
            "converged": row.details["converged"],
        }
        for row in rows
    ]


@torch.inference_mode()
def states(candidate: Candidate, corpus: Corpus, split: str) -> Iterator[tuple[Any, Tensor]]:
    """Yield every cut of a split with its (N, T, D) hidden states."""
    encoder = candidate.load()
    for cut in corpus.split(split):
        waveform = torch.from_numpy(load_waveform(cut))
        output = encoder(pad([waveform]), torch.tensor([len(waveform)]))
        yield cut, torch.stack([layer[0, : int(output.lengths[0])] for layer in output.layers])


def probe_free(name: str, candidate: Candidate, corpus: Corpus) -> list[dict[str, Any]]:
    """Return speaker EER and phone ABX error, each at its best hidden state, in percent."""
    means, speakers = [], []
    segments: dict[str, list[npt.NDArray[np.float32]]] = defaultdict(list)
    for cut, hidden in states(candidate, corpus, "dev-unseen"):
        means.append(hidden.mean(1).numpy())
        speakers.append(label_of(cut, "speaker"))
        for phone, start, end in phones_of(cut):
            first, last = round(start * 50), max(round(start * 50) + 1, round(end * 50))
            if phone != SILENCE and last <= hidden.shape[1]:
                segments[phone].append(hidden[:, first:last].mean(1).numpy())
    measures: dict[str, Callable[[int], float]] = {
        "speaker EER": lambda n: equal_error_rate(np.stack(means)[:, n], np.array(speakers)),
        "phone ABX error": lambda n: abx({p: np.stack(s)[:, n] for p, s in segments.items()}),
    }
    rows = []
    for metric, measure in measures.items():
        values = [measure(n) for n in range(len(means[0]))]
        best = int(np.argmin(values))
        rows.append(
            {
                "encoder": name,
                "task": "probe-free",
                "metric": metric,
                "value": round(values[best], 3),
                "layer": best,
            }
        )
    return rows


def equal_error_rate(vectors: npt.NDArray[np.float32], names: npt.NDArray[np.str_]) -> float:
    """Return the EER of cosine similarity over all pairs of utterances, in percent."""
    centred = vectors - vectors.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    rows, columns = np.triu_indices(len(names), 1)
    scores = (centred @ centred.T)[rows, columns]
    false, true, _ = roc_curve(names[rows] == names[columns], scores)
    crossing = np.argmin(np.abs(false - (1 - true)))
    return float(100 * (false[crossing] + 1 - true[crossing]) / 2)


def abx(segments: dict[str, npt.NDArray[np.float32]], draws: int = 20_000) -> float:
    """Return how often a phone is nearer to another phone than to its own kind, in percent.

    Segments are means over a phone's frames, distances are cosine; phones are drawn evenly.
    """
    rng = np.random.default_rng(0)
    phones = [phone for phone, kept in segments.items() if len(kept) >= 10]
    wrong = 0
    for _ in range(draws):
        one, other = rng.choice(len(phones), 2, replace=False)
        same, different = segments[phones[one]], segments[phones[other]]
        a, x = same[rng.choice(len(same), 2, replace=False)]
        b = different[rng.integers(len(different))]
        near, far = (float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) for y in (a, b))
        wrong += near < far
    return 100.0 * wrong / draws


def topline(task: str, like: Path, corpus: Corpus, folder: Path) -> dict[str, Any]:
    """Train encoder and head from scratch on the probe's data; return the best dev figure."""
    encoder = random_encoder(str(like), 0)
    assert isinstance(encoder, HuggingFaceEncoder)
    config = FinetuningConfig(
        task=task,
        strategy="plain-cnn",
        steps=TOPLINE[task],
        learning_rate=1e-3,
        hidden=None,
        batch_seconds=48,
        batch_utterances=20,
        max_duration=1.5,
        evaluate_every=100,
        dropout={"hidden_dropout": 0.1, "attention_dropout": 0.1},
    )
    train, dev, _ = corpus.task_splits(task)
    tuned = finetune_encoder(encoder, config, corpus, folder / task, splits=(train, dev))
    return {"encoder": "topline", "task": task, "metric": "dev", "value": round(tuned.dev, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/lineage-1"))
    parser.add_argument("--topline", action="store_true")
    parser.add_argument("--rounds", type=Path, nargs="*", help="encoders to measure")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out, corpus = arguments.out, find_corpus("synthetic-study", arguments.out / "corpus")
    candidates = [("MFCC", Candidate("MFCC", "mfcc"))]
    given = [(f"round {n}", path) for n, path in enumerate(arguments.rounds or (), start=1)]
    for name, encoder in given or rounds(arguments.seed, out):
        if name == "round 1":
            candidates.append(("random", Candidate("random", "random", like=str(encoder))))
        candidates.append((name, Candidate(name, str(encoder))))
    rows = []
    for name, candidate in candidates:
        rows += probes(name, candidate, corpus, out / "dev" / name.replace(" ", "-"))
        rows += probe_free(name, candidate, corpus)
    if arguments.topline:
        like = Path(candidates[-1][1].source)
        rows += [topline(task, like, corpus, out / "topline") for task in TOPLINE]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_text(Path(__file__).with_suffix("") / f"seed-{arguments.seed}.jsonl", text)
    print(text)


if __name__ == "__main__":
    main()
