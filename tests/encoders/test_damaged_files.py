"""Mutated checkpoints, pickles, configurations and indices: an encoder or one error, in no time.

More of the same, with other seeds:  python tests/encoders/test_damaged_files.py 3000 SEED
"""

from __future__ import annotations

import collections
import contextlib
import copy
import json
import pickle
import random
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import HubertConfig, HubertModel

from speechft.encoders.conversion.configs import conv_layers
from speechft.encoders.conversion.schema import MAX_PARAMETERS_VARIABLE, check_size
from speechft.encoders.inspection import inspect_encoder
from speechft.encoders.load import load_encoder
from speechft.encoders.opening import open_encoder
from speechft.errors import CheckpointError, SpeechftError
from speechft.storage.files import CONFIG_NAME, INDEX_NAME, WEIGHTS_NAME, weight_files

SLOWEST = 20.0
ODD: list[Any] = [
    *(None, True, 0, -1, 1, 2**31, 2**63, 10**9, 10**400, 1.5, 1e308, float("nan"), float("inf")),
    *("", "x", "\0", "\ud800", "../x", "/etc/passwd", "١٢", "a" * 5000, "[(1,1,1)]*9999999"),
    *([], {}, [0], [-1], [[]], [None] * 7, [10**9] * 7, {"a": {"b": []}}, [5, 2, 2, 2, 2, 2]),
]


def tiny() -> HubertModel:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "conv_dim": [4] * 7,
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
        "vocab_size": 4,
    }
    return HubertModel(HubertConfig(**sizes))


class Files:
    """A small valid encoder in every format, and where mutants of it are written."""

    def __init__(self, root: Path) -> None:
        model = tiny()
        self.root = root
        self.state = {n: w.contiguous() for n, w in model.state_dict().items()}
        self.config = json.loads(json.dumps(model.config.to_dict()))
        self.folder = root / "encoder"
        self.folder.mkdir(exist_ok=True)
        save_file(self.state, self.folder / WEIGHTS_NAME, metadata={"format": "pt"})
        (self.folder / CONFIG_NAME).write_text(json.dumps(self.config))
        self.weights = (self.folder / WEIGHTS_NAME).read_bytes()
        length = struct.unpack("<Q", self.weights[:8])[0]
        self.header = json.loads(self.weights[8 : 8 + length])
        self.data = self.weights[8 + length :]

    def reset(self) -> None:
        (self.folder / WEIGHTS_NAME).write_bytes(self.weights)
        (self.folder / CONFIG_NAME).write_text(json.dumps(self.config))
        (self.folder / INDEX_NAME).unlink(missing_ok=True)


def mutated(value: Any, rng: random.Random) -> Any:
    """Return JSON with one to three places changed, removed, doubled or nested."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, 3)):
        place = value
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(place[key], dict | list) and rng.random() < 0.6:
                place = place[key]
                continue
            action = rng.random()
            if action < 0.2:
                del place[key]
            elif action < 0.3 and isinstance(place[key], int):
                place[key] = place[key] * rng.choice([-1, 0, 2, 1000, 10**7]) + rng.randint(-1, 1)
            else:
                place[key] = copy.deepcopy(rng.choice(ODD))
            break
    return value


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return bytes cut, flipped, doubled or with others put in."""
    content = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        spot = rng.randrange(max(min(len(content), rng.choice([16, 400, len(content) or 1])), 1))
        action = rng.randrange(5)
        if action == 0:
            content = content[:spot]
        elif action == 1 and content:
            content[spot % len(content)] ^= 1 << rng.randrange(8)
        elif action == 2:
            content[spot:spot] = rng.randbytes(rng.randint(1, 9))
        elif action == 3:
            content += rng.randbytes(rng.randint(1, 5))
        else:
            content[spot : spot + rng.randint(1, 20)] = b""
    return bytes(content)


def safetensors(files: Files, rng: random.Random) -> Path:
    files.reset()
    kind = rng.randrange(6)
    header = mutated(files.header, rng) if kind < 4 else files.header
    text = json.dumps(header)
    if kind == 1:
        name = rng.choice(list(files.header)[1:])
        text = text[:-1] + f", {json.dumps(name)}: {json.dumps(files.header[name])}}}"
    elif kind == 2:
        text = rng.choice(["[" * 100_000, '{"a":' * 100_000, text + " " * 9, "[]", "null", "3"])
    encoded = text.encode("utf-8", "surrogatepass")
    data = struct.pack("<Q", len(encoded)) + encoded + files.data
    data = damaged_bytes(data, rng) if kind >= 4 else data + b"\0" * rng.choice([0, 0, 3])
    path = files.folder if rng.random() < 0.5 else files.root / "x.safetensors"
    (path / WEIGHTS_NAME if path.is_dir() else path).write_bytes(data)
    return path


def configuration(files: Files, rng: random.Random) -> Path:
    files.reset()
    if rng.random() < 0.85:
        data = json.dumps(mutated(files.config, rng)).encode()
    else:
        data = damaged_bytes(json.dumps(files.config).encode(), rng)
    (files.folder / CONFIG_NAME).write_bytes(data)
    return files.folder


def index(files: Files, rng: random.Random) -> Path:
    files.reset()
    (files.folder / WEIGHTS_NAME).rename(files.folder / "model-1.safetensors")
    where: Any = {"metadata": {}, "weight_map": dict.fromkeys(files.state, "model-1.safetensors")}
    (files.folder / INDEX_NAME).write_text(json.dumps(mutated(where, rng)))
    return files.folder


def checkpoint(files: Files, rng: random.Random) -> dict[str, Any]:
    model: dict[str, Any] = {
        "encoder_embed_dim": 8,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_embed_dim": 8,
        "conv_pos": 4,
        "conv_pos_groups": 2,
        "_name": "hubert",
        "conv_feature_layers": "[(4,10,5)] + [(4,3,2)] * 4 + [(4,2,2)] * 2",
        "activation_fn": "gelu",
        "extractor_mode": "default",
        "layer_norm_first": False,
    }
    names = {
        "feature_extractor.conv_layers.0.conv.weight": "feature_extractor.conv_layers.0.0.weight"
    }
    weights: dict[str, Any] = {names.get(n, n): w for n, w in files.state.items()}
    key = rng.choice(list(weights))
    if rng.random() < 0.3:
        weights[key] = rng.choice(
            [
                *(None, 3, "x", [], {}, torch.zeros(1).expand(10**9), torch.zeros(0)),
                *(torch.zeros((), dtype=torch.complex64), torch.zeros(3, 3).t()),
                *(
                    torch.sparse_coo_tensor([[0]], [1.0], (10**9,), check_invariants=True),
                    torch.zeros(2, device="meta"),
                ),
            ]
        )
    content = {"model_weight": weights, "model_cfg": model, "task_cfg": {"normalize": False}}
    if rng.random() < 0.6:
        part = rng.choice(["model_cfg", "task_cfg"])
        field = rng.choice(list(content[part]))
        content[part][field] = rng.choice(ODD)
    if rng.random() < 0.15:
        content[rng.choice(list(content))] = rng.choice(ODD)
    return content


def torch_file(files: Files, rng: random.Random) -> Path:
    path = files.root / "x.pt"
    torch.save(checkpoint(files, rng), path, _use_new_zipfile_serialization=rng.random() < 0.6)
    if rng.random() < 0.5:
        path.write_bytes(damaged_bytes(path.read_bytes(), rng))
    return path


def bare_pickle(files: Files, rng: random.Random) -> Path:
    opcodes = b"()]}.lt\x85\x86\x87asuRbNK\x01\x88\x89h\x00q\x00q\x01h\x01e02\x8f\x90\x91\x94"
    body = bytes(rng.choice(opcodes) for _ in range(rng.randint(1, 60)))
    gadget = rng.choice(
        [b"", b"cos\nsystem\n", b"cbuiltins\neval\n", b"ccollections\nOrderedDict\n"]
    )
    path = files.root / "x.ckpt"
    path.write_bytes(b"\x80\x02" + gadget + body + b".")
    return path


KINDS: dict[str, Callable[[Files, random.Random], Path]] = {
    "safetensors": safetensors,
    "configurations": configuration,
    "indices": index,
    "torch files": torch_file,
    "pickles": bare_pickle,
}


def attempt(path: Path, is_whole: bool) -> str:
    """Open, and where that works load or inspect, a file; return how it ended."""
    start = time.process_time()  # others may compute here too
    try:
        opened = open_encoder(path)
        if is_whole and opened.family in (None, "hubert"):
            load_encoder(path)
        inspect_encoder(path)
    except SpeechftError as error:
        str(error).encode()
        assert time.process_time() - start < SLOWEST
        return "refused"
    assert time.process_time() - start < SLOWEST
    return "read"


def run(root: Path, seed: int, count: int) -> Iterator[tuple[str, str, int]]:
    files = Files(root)
    for number in range(count):
        for kind, make in KINDS.items():
            rng = random.Random(f"{kind} {seed} {number}")
            path = make(files, rng)
            try:
                outcome = attempt(path, is_whole=kind != "pickles")
            except Exception as error:
                outcome = f"traceback: {type(error).__name__}: {str(error)[:150]}"
            yield kind, outcome, number


def test_mutants_end_in_an_encoder_or_in_one_error(tmp_path: Path) -> None:
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for kind, outcome, number in run(tmp_path, 1, 60):
        assert not outcome.startswith("traceback"), (kind, number, outcome)
        counts[kind, outcome] += 1
    assert all(counts[kind, "refused"] >= 10 for kind in KINDS)


@pytest.mark.parametrize(
    "text",
    [
        *("1000000000*[(512,10,5)]", "[(512,10,5)]*1000000000", "[(1,1,1)]*9 * 9", "(" * 3000),
        *("[(1,1,1)]+9", "2*3", "[(0,1,1)]", "[(1,1)]", "[[1,1,1.5]]", "__import__('os')", ""),
        *("[(1,1,1)] * -1 + [3]", "9**9**9", "[(1,1,1)]" + "+[(1,1,1)]" * 3000, "[1]" * 2000),
    ],
)
def test_texts_of_convolutions_are_read_within_limits(text: str) -> None:
    with pytest.raises(CheckpointError, match="conv_feature_layers"):
        conv_layers(text)


def test_texts_of_convolutions() -> None:
    assert conv_layers("[(4,10,5)] + 2*[(4,3,2)] + [(4,2,2)] * 2") == [
        *((4, 10, 5), (4, 3, 2), (4, 3, 2), (4, 2, 2), (4, 2, 2))
    ]


def test_pickles_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    nested = b")" + b"2\x86" * 40  # a tuple of itself twice, 40 times
    for bomb in (b"}" + nested + b"K\x01s.", nested + b".", b"(" + nested + b"K\x01d."):
        path.write_bytes(b"\x80\x02" + bomb)
        with pytest.raises(CheckpointError, match="tuple"):
            open_encoder(path)
    doubled: Any = []
    for _ in range(40):
        doubled = [doubled, doubled]
    itself: Any = {}
    itself["itself"] = itself
    for bomb in (doubled, itself):
        torch.save({"model_weight": {"w": torch.ones(2)}, "cfg": {"model": bomb}}, path)
        with pytest.raises(CheckpointError, match="without end"):
            open_encoder(path)
    torch.save({"w": torch.zeros(1).expand(10**12)}, path)
    with pytest.raises(CheckpointError, match="4 are stored"):
        open_encoder(path)
    path.write_bytes(pickle.dumps({"w": bytearray(4)}, protocol=2))
    with pytest.raises(CheckpointError, match="builtin"):
        open_encoder(path)


def test_archives_that_are_larger_than_they_look(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("x/data/0", bytes(10**7))
    with pytest.raises(CheckpointError, match="compressed"):
        open_encoder(path)
    torch.save({"w": torch.ones(2)}, tmp_path / "good.pt")
    data = (tmp_path / "good.pt").read_bytes()
    path.write_bytes(data.replace(b"data.pkl", b"data.pki"))
    with pytest.raises(CheckpointError, match=r"without data\.pkl"):
        open_encoder(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("num_hidden_layers", 10**9), ("num_hidden_layers", 900), ("conv_stride", [0] * 7)),
        *(("hidden_size", -8), ("intermediate_size", 10**6), ("layer_norm_eps", float("nan"))),
        *(("conv_kernel", None), ("hidden_act", 3), ("model_type", ["hubert"])),
        *(("conv_bias", "yes"), ("activation_dropout", 10**400), ("hidden_dropout", 7)),
    ],
)
def test_configurations_have_a_schema(field: str, value: Any, tmp_path: Path) -> None:
    files = Files(tmp_path)
    (files.folder / CONFIG_NAME).write_text(json.dumps({**files.config, field: value}))
    with pytest.raises(CheckpointError) as caught:
        load_encoder(files.folder)
    assert any(words in str(caught.value) for words in (field, "do not fit", "300 digits"))


def test_the_largest_model_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"num_hidden_layers": 100, "hidden_size": 20_000, "intermediate_size": 80_000}
    with pytest.raises(CheckpointError, match=MAX_PARAMETERS_VARIABLE):
        check_size(settings, [], 10**12, "x")
    monkeypatch.setenv(MAX_PARAMETERS_VARIABLE, "1e12")
    check_size(settings, [], 10**12, "x")
    with pytest.raises(CheckpointError, match="its file holds 7"):
        check_size(settings, [], 7, "x")
    with pytest.raises(CheckpointError, match="its weights have 3 layers"):
        check_size(settings, ["encoder.layers.2.x"], 10**12, "x")
    monkeypatch.setenv(MAX_PARAMETERS_VARIABLE, "much")
    with pytest.raises(SpeechftError, match="expected a number"):
        check_size(settings, [], 10**12, "x")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "..", "a/b", "", "a\0b", 3, None])
def test_indices_stay_in_their_folder(name: Any, tmp_path: Path) -> None:
    (tmp_path / INDEX_NAME).write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(CheckpointError, match=r"expected the name of a file|a zero byte"):
        weight_files(tmp_path)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    (tmp_path / INDEX_NAME).unlink()
    with pytest.raises(CheckpointError, match=r"expected the name of a file|a zero byte"):
        open_encoder(tmp_path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    total: collections.Counter[tuple[str, str]] = collections.Counter()
    with (
        tempfile.TemporaryDirectory() as scratch,
        contextlib.suppress(KeyboardInterrupt),  # Ctrl-C shows what there is
    ):
        for kind, outcome, number in run(Path(scratch), int(sys.argv[2]), int(sys.argv[1])):
            total[kind, outcome.partition(":")[0]] += 1
            if outcome.startswith("traceback"):
                print(kind, number, outcome, flush=True)
    for (kind, outcome), count in sorted(total.items()):
        print(f"{kind:16} {outcome:12} {count}")
