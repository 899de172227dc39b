"""Damaged recipes, files of merges, values of ``--set``, results and predictions."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from fuzz.cases import Case
from fuzz.changes import COMMAND, changed_bytes, changed_values, nasty_texts, nasty_values
from fuzz.fixtures import as_json

RECIPE: dict[str, Any] = {
    "extends": "demo",
    "encoder": "tiny-hubert",
    "data": {"corpus": "synthetic"},
    "finetuning": {"task": "ks", "steps": 4, "learning_rate": 1e-4},
    "merging": {"alpha": 0.25},
    "evaluation": {"tasks": ["ks"], "protocol": "mini"},
}
_BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
_YAML = [
    *(_BOMB, "&a [*a]", "a: &a\n  <<: *a", "!!python/object/apply:os.system ['" + COMMAND + "']"),
    *(
        "!!python/name:os.system",
        "!!timestamp x",
        "!!bool x",
        "? [a]\n: b",
        "- " * 5_000,
        "[" * 5_000,
    ),
    *(
        "a: b: c",
        "\t",
        "%YAML 9.9\n---",
        "---\n---",
        "!!set {a}",
        "!!binary x",
        "a: !!int x",
        "{a: 1, a: 2}",
    ),
]


@st.composite
def recipes(draw: DrawFn, fixtures: Path) -> Case:
    """Change recipes, files of merges and what ``--set`` gives."""
    import yaml

    target = draw(st.sampled_from(["recipe", "recipe", "merge-file"]))
    merge = {"base": str(fixtures / "base"), "tuned": [str(fixtures / "tuned")], "alpha": 0.5}
    merge |= {"method": "linear", "rules": ["layers.0: 0.1"], "out": "merged"}
    start = RECIPE if target == "recipe" else merge
    kind = draw(st.integers(0, 9))
    sets: tuple[str, ...] = ()
    if kind == 0:
        data = draw(st.sampled_from(_YAML)).encode()
    elif kind < 4 and target == "recipe":
        data = yaml.safe_dump(start).encode()
        keys = [
            "finetuning.steps",
            "finetuning.task",
            "merging.alpha",
            "evaluation.tasks",
            "data.corpus",
        ]
        keys += ["encoder", "evaluation", "", ".", "a.b.c", "finetuning"]
        text = st.one_of(nasty_texts, nasty_values.map(str), st.sampled_from(_YAML))
        text = text | nasty_values.map(lambda v: json.dumps(v, default=str))
        sets = tuple(f"{draw(st.sampled_from(keys))}={draw(text)}" for _ in range(2))
        sets += (draw(nasty_texts),) if draw(st.integers(0, 4)) == 0 else ()
    else:
        value = draw(changed_values(start))
        data = as_json(value)  # JSON is YAML
        if draw(st.booleans()):
            with contextlib.suppress(yaml.YAMLError, RecursionError):
                data = yaml.safe_dump(value).encode("utf-8", "surrogatepass")
        data = draw(changed_bytes(data, head=len(data))) if draw(st.integers(0, 3)) == 0 else data
    return Case(target, {"r.yaml": data}, ("r.yaml", *sets))


ROW: dict[str, Any] = {
    "encoder": "m",
    "encoder_digest": "0" * 64,
    "task": "ks",
    "metric": "accuracy",
    "value": 50.0,
    "higher_is_better": True,
    "n": 2,
    "interval": [0.4, 0.6],
    "split": "test",
    "seed": 0,
    "protocol": "mini",
    "learning_rate": 0.1,
    "evaluation": "e",
    "role": "further",
    "predictions": "p.jsonl",
    "details": {"dev": 0.5, "layer_weights": [0.5, 0.5]},
}
ITEM: dict[str, Any] = {
    "id": "a",
    "prediction": "x",
    "reference": "x",
    "amount": 1.0,
    "total": 1.0,
    "counts": {"hits": 1.0},
    "group": "s",
    "fold": 0,
}


@st.composite
def results(draw: DrawFn, fixtures: Path) -> Case:
    """Change rows of results and their predictions."""
    rows = [ROW, {**ROW, "encoder": "n", "encoder_digest": "1" * 64}]
    rows[0] = draw(changed_values(rows[0], most=2))
    items = [ITEM, {**ITEM, "id": "b"}]
    if draw(st.booleans()):
        items[0] = draw(changed_values(items[0], most=2))
    files = {"e/results.jsonl": b"\n".join(map(as_json, rows)) + b"\n"}
    files["e/p.jsonl"] = b"\n".join(map(as_json, items)) + b"\n"
    if draw(st.integers(0, 9)) == 0:
        files["e/results.jsonl"] = draw(changed_bytes(files["e/results.jsonl"]))
    return Case("compare", files, ("e",))


_COMMANDS = """
inspect X
inspect X --json
inspect {base} --config X
extract {base} X --out o
extract X {a} --out o
extract {base} {a} --layer X --out o
convert X out
extract {base} {a} --batch-seconds X --out o
convert {base} out --config X
convert {base} out --from X
convert {base} out --to X
extract {base} {a} X --out o
merge {base} X --out o
merge X {tuned} --out o
merge {base} {tuned} --alpha X --out o
merge {base} {tuned} --alpha-rule X --out o
merge {base} {tuned} --option X --out o
merge {base} {tuned} --method X --out o
merge --config X
delta {base} X --out o
compare X
compare X X --json
compare X --format csv
prepare generic X --out o
prepare timit X --out o
prepare snips X --out o
prepare X {tones} --out o
prepare timit {tones} --set X --out o
prepare generic {tones} --jobs X --out o
evaluate X --tasks asv --corpus {tones} --out o
run X --out o
finetune X --out o
evaluate {base} --tasks asv --corpus X --out o
pretrain X --out o
run X --set X --out o
evaluate {base} --tasks X --corpus {tones} --out o
evaluate {base} --seeds X --out o
evaluate {base} --tasks asv --corpus {tones} --layers X --out o
run demo --set X --out o
evaluate {base} --tasks asv --corpus {tones} --set X --out o
pretrain demo --set X --out o
evaluate {base} --tasks asr --corpus {tones} --language-model X --out o
tasks X
compare {tones} --baseline X
delta {base} {tuned} --dtype X --out o
X
recipes X
report X
report {tones} --out X
analyze {base} X --corpus {tones} --out o
analyze {base} {tuned} --layers X --out o
sweep {base} X --tasks asv --corpus {tones} --out o
sweep {base} {tuned} --alphas X --out o
search {base} {tuned} --methods X --out o
""".strip().split("\n")
"""Commands with X where somebody types; nothing that is typed there lets one of them train."""


@st.composite
def commands(draw: DrawFn, fixtures: Path) -> Case:
    """Type paths, names and numbers that are none."""
    cells = draw(st.sampled_from(_COMMANDS)).split()
    given = [draw(nasty_texts) if cell == "X" else cell for cell in cells]
    return Case("verb", {"x": b"x"}, tuple(given))
