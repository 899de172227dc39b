"""Make abx.json: ABX errors of random triphones by fastabx 0.9.0 (Python 3.12 or newer).

python3.12 -m venv env && env/bin/pip install fastabx==0.9.0
env/bin/python make.py abx.json
"""

import json
import sys

import fastabx
import numpy as np
import polars as pl
import torch
from fastabx.accessor import InMemoryAccessor

rng = np.random.default_rng(0)
PHONES, CONTEXTS, SPEAKERS, DIM = "AEIOU", [("P", "T"), ("K", "S"), ("B", "D")], ["x", "y", "z"], 5
centres = {name: rng.normal(size=DIM) for name in [*PHONES, *SPEAKERS]}
tokens, parts, spans = [], [], []
for before, after in CONTEXTS:
    for speaker in SPEAKERS:
        for phone in PHONES:
            for _ in range(rng.integers(0, 5)):
                length = int(rng.integers(1, 9))
                mean = centres[phone] + 0.7 * centres[speaker]
                frames = np.round(mean + 1.2 * rng.normal(size=(length, DIM)), 3)
                start = spans[-1][1] if spans else 0
                tokens.append([phone, before, after, speaker])
                parts.append(frames)
                spans.append((start, start + length))
features = np.concatenate(parts)
names = ["phone", "before", "after", "speaker"]
labels = pl.DataFrame(tokens, schema=names, orient="row")


def error(by, across):
    data = torch.from_numpy(features.astype(np.float32))
    accessor = InMemoryAccessor(dict(enumerate(spans)), data, torch.device("cpu"))
    dataset = fastabx.Dataset(labels=labels, accessor=accessor)
    task = fastabx.Task(dataset, on="phone", by=by, across=across)
    score = fastabx.Score(task, "angular", progress=False)
    return 100 * score.collapse(levels=[("before", "after"), "speaker"])


content = {
    "version": fastabx.__version__ if hasattr(fastabx, "__version__") else "0.9.0",
    "tokens": tokens,
    "spans": spans,
    "features": features.tolist(),
    "within": error(["before", "after", "speaker"], None),
    "across": error(["before", "after"], ["speaker"]),
}
with open(sys.argv[1], "w") as file:
    json.dump(content, file)
    file.write("\n")
