"""Damaged outputs of our own verbs: reports, records, journals, shards; and parquet, n-grams."""

from __future__ import annotations

import gzip
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from fuzz.cases import LINK, Case
from fuzz.changes import changed_bytes, changed_text, changed_values
from fuzz.fixtures import as_json, below, read
from fuzz.settings import ITEM, RECIPE, ROW

_HISTORY: dict[str, Any] = {
    "task": "ks",
    "strategy": "stable",
    "losses": [2.0, 1.0, 0.5],
    "evaluations": [{"step": 1, "score": 0.5, "values": {"accuracy": 50.0}}],
    "seconds": 3.0,
    "hours_of_audio": 0.1,
    "skipped": 1,
    "head_only": 1,
}
_RUN: dict[str, Any] = {
    "facts": {"encoder": "m"},
    "seconds": {"fine-tuning": 3.0},
    "memory_gb": {"process": 1.0},
    "scores": {"m": 50.0},
    "dev_splits": {"ks": "dev"},
    "failed": ["asr"],
}
_CHANGE = {"gain": 1.0, "low": 0.5, "high": 1.5}
_POINT = {"name": "alpha 0.5", "alpha": 0.5, "changes": {"ks": _CHANGE}, "gain": 1.0, "kept": 0.1}
_SWEEP: dict[str, Any] = {
    "base": "b",
    "tuned": ["t"],
    "tuned_on": ["ks"],
    "rule": {"keep_within": 1.0, "text": "x"},
    "points": [_POINT, {**_POINT, "name": "base", "alpha": 0.0}],
    "choice": "alpha 0.5",
    "command": "speechft merge b t",
}
_ANALYSIS: dict[str, Any] = {
    "encoder": "m",
    "encoder_digest": "0" * 64,
    "question": "similarity",
    "measure": "cka",
    "layer": 1,
    "value": 0.5,
    "interval": [0.4, 0.6],
    "n": 3,
    "against": "b",
    "details": {"uncertainty": "speakers"},
}
_SUGGESTION: dict[str, Any] = {
    "alpha": 0.25,
    "alphas": [0.0, 0.5, 1.0],
    "reason": "x",
    "curves": {"gain": [0.0, 0.9, 1.0], "drift": [0.0, 0.2, 1.0]},
}


@st.composite
def reports(draw: DrawFn, fixtures: Path) -> Case:
    """Change one of the files that a report is made of."""
    rows = [ROW, {**ROW, "encoder": "n", "encoder_digest": "1" * 64, "role": "pre-trained"}]
    items = [ITEM, {**ITEM, "id": "b"}]
    stage = {"stage": "finetune", "config": {"task": "ks", "strategy": "plain"}}
    values: dict[str, Any] = {
        "history.json": _HISTORY,
        "finetuning/plain/history.json": _HISTORY,
        "finetuning/plain/stage.json": stage,
        "run.json": _RUN,
        "recipe.yaml": RECIPE,
        draw(st.sampled_from(["sweep.json", "search.json"])): _SWEEP,
        "suggestion.json": _SUGGESTION,
    }
    lines: dict[str, list[Any]] = {
        "results.jsonl": rows,
        "p.jsonl": items,
        "analysis.jsonl": [_ANALYSIS, {**_ANALYSIS, "layer": 2}],
    }
    name = draw(st.sampled_from([*values, *lines]))
    if name in values:
        values[name] = draw(changed_values(values[name]))
    else:
        lines[name] = [draw(changed_values(lines[name][0])), *lines[name][1:]]
    files = {f"e/{key}": as_json(value) for key, value in values.items()}
    files |= {f"e/{key}": b"\n".join(map(as_json, part)) + b"\n" for key, part in lines.items()}
    if draw(st.booleans()):  # a folder rarely has them all
        kept = draw(st.sampled_from([*values, *lines]))
        files = {key: data for key, data in files.items() if key[2:] in (name, kept)}
    return Case("verb", files, ("report", "e"))


_JOURNAL: dict[str, Any] = {
    "key": "a" * 16,
    "stage": "prepare",
    "outputs": ["train.jsonl.gz"],
    "written": {"train.jsonl.gz": {"": "1-0"}},
    "stale": ["mine.txt"],
    "before": {"mine.txt": {"": "1-0"}},
}
_RECORD: dict[str, Any] = {"written": {"o.safetensors": ["1-0"], "corpus.json": "1-0"}}
_MINE = b"what somebody keeps here"


@st.composite
def records(draw: DrawFn, fixtures: Path) -> Case:
    """Plant records, journals, scratch and locks where a verb writes, beside somebody's files."""
    target = draw(st.sampled_from(["prepare", "delta"]))
    place = "out/" if target == "prepare" else ""
    out = "corpus.json" if target == "prepare" else "delta.safetensors"
    planted: dict[str, bytes] = {
        f"{place}.speechft.json": as_json(draw(changed_values(_RECORD))),
        f"{place}stage.json": as_json(draw(changed_values(_JOURNAL))),
        f"{place}.moving.json": as_json(draw(changed_values(_JOURNAL))),
        f"{place}.partial/{'a' * 16}/train.jsonl.gz": b"x",
        f"{place}.lock": LINK + b"mine.txt",
        f"{place}.partial": LINK + b"..",
        f".{out}.partial": LINK + b".",
        f"{place}.{out}.12345678.tmp": LINK + b"mine.txt",
        f"{place}{out}": draw(st.sampled_from([_MINE, LINK + b"mine.txt", b"{}"])),
    }
    names = draw(st.lists(st.sampled_from(sorted(planted)), min_size=1, max_size=3, unique=True))
    names = [name for name in names if not any(o.startswith(f"{name}/") for o in names)]
    files = {f"{place}mine.txt": _MINE, **{name: planted[name] for name in names}}
    if target == "delta":
        return Case("keeps-delta", files, (str(fixtures / "tuned"), "--force"))
    files |= {"t.csv": b"path,split\na.wav,train\na.wav,dev\na.wav,test\n"}
    return Case("keeps-prepare", {**files, "a.wav": read(fixtures / "a.wav")}, ("generic", "t.csv"))


@st.composite
def shards(draw: DrawFn, fixtures: Path) -> Case:
    """Change a corpus in shards: its cuts, its index, its archives."""
    files = {f"c/{name}": data for name, data in below(fixtures / "shards").items()}
    name = draw(st.sampled_from(sorted(files)))
    data = files[name]
    if name.endswith(".jsonl.gz"):
        items = [json.loads(line) for line in gzip.decompress(data).splitlines()]
        items[0] = draw(changed_values(items[0]))
        files[name] = gzip.compress(b"\n".join(map(as_json, items)) + b"\n")
    elif name.endswith(".json") and draw(st.integers(0, 9)):
        files[name] = as_json(draw(changed_values(json.loads(data))))
    else:
        files[name] = draw(changed_bytes(data))
    return Case(draw(st.sampled_from(["corpus", "corpus", "inspect", "extract"])), files, ("c",))


@cache
def _parquet(fixtures: Path, rows: int = 1) -> bytes:
    import pyarrow
    import pyarrow.parquet

    audio = [{"bytes": read(fixtures / "a.wav"), "path": "a.wav"}] * rows
    columns = {"audio": audio, "split": ["train"] * rows, "label": [0] * rows}
    known = {"huggingface": json.dumps({"info": {"features": {"label": {"names": ["x"]}}}})}
    buffer = io.BytesIO()
    table = pyarrow.table(columns).replace_schema_metadata(known)
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


@st.composite
def parquets(draw: DrawFn, fixtures: Path) -> Case:
    """Change the end of a parquet file, where its description is, or its pages."""
    data = _parquet(fixtures, draw(st.sampled_from([1, 3])))
    if draw(st.integers(0, 3)):
        end = draw(changed_bytes(data[-1500:], head=1500))
        data = data[:-1500] + end
    else:
        data = draw(changed_bytes(data, head=len(data)))
    return Case("prepare", {"p/train.parquet": data}, ("generic", "p/train.parquet"))


_ARPA = (
    b"\\data\\\nngram 1=3\nngram 2=1\n\n\\1-grams:\n-1\t<s>\t-0.5\n-1\t</s>\n-1\thello\t-0.5\n\n"
    b"\\2-grams:\n-0.1\t<s> hello\n\n\\end\\\n"
)


@st.composite
def ngrams(draw: DrawFn, fixtures: Path) -> Case:
    """Change a language model in ARPA's format."""
    return Case("ngrams", {"l.arpa": draw(changed_text(_ARPA))}, ("l.arpa",))


@st.composite
def chains(draw: DrawFn, fixtures: Path) -> Case:
    """Have recipes extend each other, once or several times, far and wide."""
    count, wide = draw(st.sampled_from([(3, 1), (150, 1), (20, 2), (2, 500)]))
    files = {f"r{n}.yaml": {"extends": [f"r{n + 1}.yaml"] * wide} for n in range(count)}
    files[f"r{count}.yaml"] = {**RECIPE, "extends": "demo"}
    name = draw(st.sampled_from(sorted(files)))
    files[name] = draw(changed_values(files[name]))
    return Case("recipe", {key: as_json(value) for key, value in files.items()}, ("r0.yaml",))
