"""Damaged models: weights, configurations, indices, torch files, probes."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from fuzz.cases import Case
from fuzz.changes import changed_bytes, changed_values
from fuzz.fixtures import as_json, below, legacy_file, read, torch_file
from fuzz.pickling import changed_opcodes, pickle_bombs, pickles


def _split_safetensors(data: bytes) -> tuple[Any, bytes]:
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


@st.composite
def safetensors(draw: DrawFn, data: bytes) -> bytes:
    """Change the header, the length of the header, or bytes of a safetensors file."""
    if draw(st.integers(0, 3)) == 0:
        return draw(changed_bytes(data))
    header, body = _split_safetensors(data)
    text = as_json(draw(changed_values(header)))
    size = len(text)
    if draw(st.integers(0, 5)) == 0:
        size = draw(st.sampled_from([0, 1, 7, len(text) - 1, 2**32, 2**63, 2**64 - 1]))
    if draw(st.integers(0, 5)) == 0:
        body = draw(st.sampled_from([b"", body[:-4], body + bytes(7), b"\xff" * len(body)]))
    return struct.pack("<Q", size) + text + body


def _encoder(fixtures: Path) -> dict[str, bytes]:
    return {f"m/{name}": data for name, data in below(fixtures / "base").items()}


_MODEL_TARGETS = st.sampled_from(
    ["inspect-model", "inspect-model", "convert", "extract-with", "merge", "delta"]
)


@st.composite
def models(draw: DrawFn, fixtures: Path) -> Case:
    """Damage an encoder folder: its weights, its configuration, its index."""
    files = dict(_encoder(fixtures))
    where = draw(st.sampled_from(["weights", "config", "index", "processor", "names"]))
    weights = files["m/model.safetensors"]
    if where == "weights":
        files["m/model.safetensors"] = draw(safetensors(weights))
    elif where == "config":
        config = json.loads(files["m/config.json"])
        made = draw(changed_values(config))
        files["m/config.json"] = as_json(made)
    elif where == "index":
        header, _ = _split_safetensors(weights)
        names = [name for name in header if name != "__metadata__"]
        index = {
            "metadata": {"total_size": 1},
            "weight_map": dict.fromkeys(names[:6], "a.safetensors"),
        }
        files["m/model.safetensors.index.json"] = as_json(draw(changed_values(index)))
        files["m/a.safetensors"] = files.pop("m/model.safetensors")
    elif where == "processor":
        processor = {"sampling_rate": 16_000, "do_normalize": True, "feature_size": 1}
        files["m/preprocessor_config.json"] = as_json(draw(changed_values(processor)))
    else:
        name = draw(st.sampled_from(sorted(files)))
        files[name] = draw(changed_bytes(files[name]))
    return Case(draw(_MODEL_TARGETS), files, ("m",))


@st.composite
def checkpoints(draw: DrawFn, fixtures: Path) -> Case:
    """Make torch files: gadgets, bombs, changed opcodes, changed bytes."""
    kind = draw(st.sampled_from("gadgets gadgets bombs opcodes bytes".split()))
    weights = read(fixtures / "weights.bin")
    if kind == "bytes":
        data = draw(changed_bytes(weights, head=len(weights)))
    else:
        if kind == "gadgets":
            inner = draw(pickles())
        elif kind == "bombs":
            inner = draw(pickle_bombs())
        else:
            content = {"model": {"a": 1.5, "b": [1, 2]}, "cfg": {"model": {"_name": "hubert"}}}
            inner = draw(changed_opcodes(pickle.dumps(content, 2)))
        data = draw(st.sampled_from([torch_file, legacy_file, bytes]))(inner)
    name = draw(st.sampled_from(["m.pt", "m.ckpt", "m.bin", "m.th"]))
    return Case(draw(_MODEL_TARGETS), {name: data}, (name,))


def _probe(fixtures: Path) -> dict[str, bytes]:
    return {f"p/{name}": data for name, data in below(fixtures / "probe").items()}


@st.composite
def probes(draw: DrawFn, fixtures: Path) -> Case:
    """Damage the folder of a probe."""
    files = dict(_probe(fixtures))
    if draw(st.booleans()):
        content = json.loads(files["p/pipeline.json"])
        files["p/pipeline.json"] = as_json(draw(changed_values(content, most=2)))
    else:
        files["p/probe.safetensors"] = draw(safetensors(files["p/probe.safetensors"]))
    return Case("pipeline", files, ("p",))
