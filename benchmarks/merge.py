"""Time and memory of merging two 94.7M-parameter float32 encoders: ours against its peers.

    python benchmarks/merge.py [--folder DIR] [--runs 3] [--mergekit VENV] [--billion]
                               [--official VENV CODE]

Each candidate is a whole process on a warm cache, candidates take turns, and the median counts; on
a shared machine the smallest wall time is the better guide, so both are printed.
``speechft``     our command line: plan, checks, digests of the inputs, card, fsync, atomic rename
``load-all``     torch: load both, interpolate, save
``mergekit``     ``mergekit-pytorch`` from a virtual environment of its own, which ``--mergekit`` or
                 the variable ``MERGEKIT`` names; without, the script says how to make one
``official``     ``merge_model.py`` of the authors in the folder CODE, by an environment with
                 s3prl, on the same pair as s3prl's checkpoints; ``speechft .pt`` is ours on these.
                 Make it as that of mergekit, with s3prl==0.4.18, and an empty torchaudio.py in its
                 site-packages, which s3prl imports and a merge does not use
``system calls`` reads both inputs and writes as many bytes as one has; nothing is computed

All start with the bytecode that an earlier start has left, whatever ``PYTHONDONTWRITEBYTECODE``
says: a first run of each is not counted. ``--billion`` adds a pair of 1 billion parameters (4 GB
each) for the peak memory only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np

POOL = 1 << 22
"""Random numbers that all tensors are cut from, so that making a large pair is quick."""
MAKE_MERGEKIT = """mergekit is left out: it wants a virtual environment of its own, made once by
  python -m venv VENV
  echo {packages} > VENV/lib/{version}/site-packages/main.pth   # for torch, transformers
  VENV/bin/pip install --no-deps mergekit==0.1.5 immutables
and then named by --mergekit VENV, or by MERGEKIT=VENV in the environment."""
DOWNSTREAM = """
import sys, torch
weights = torch.load(f"{sys.argv[1]}/tuned.pt", weights_only=True)["model_weight"]
upstream = {f"model.{name}": tensor for name, tensor in weights.items()}
content = {"Upstream": upstream, "Downstream": {}, "Featurizer": {}}
torch.save(content, f"{sys.argv[1]}/tuned.ckpt")
"""
"""In a process of its own, whose memory no candidate inherits."""
PUBLISHED = "https://huggingface.co/s3prl/converted_ckpts/resolve/main/hubert_base_ls960.pt"
"""What the official script looks for when it saves."""
LOAD_ALL = """
import os, sys, torch
from safetensors.torch import load_file, save_file
base, tuned = (load_file(f"{p}/model.safetensors") for p in sys.argv[1:3])
os.makedirs(sys.argv[3], exist_ok=True)
merged = {n: b + 0.25 * (tuned[n] - b) for n, b in base.items()}
save_file(merged, f"{sys.argv[3]}/model.safetensors", metadata={"format": "pt"})
"""
SYSTEM_CALLS = """
import os, sys
buffer = bytearray(4 << 20)
inputs = [os.open(f"{p}/model.safetensors", os.O_RDONLY) for p in sys.argv[1:3]]
os.makedirs(sys.argv[3], exist_ok=True)
out = os.open(f"{sys.argv[3]}/model.safetensors", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
while count := os.readv(inputs[0], [buffer]):
    os.readv(inputs[1], [buffer])
    os.write(out, memoryview(buffer)[:count])
"""


def write_pair(folder: Path, hidden: int, layers: int) -> None:
    """Write a base and a tuned folder of HuBERT's names and shapes, tensor by tensor."""
    wide = 4 * hidden
    shapes: dict[str, tuple[int, ...]] = {"masked_spec_embed": (hidden,)}
    for index, kernel in enumerate([10, 3, 3, 3, 3, 2, 2]):
        channels = 1 if index == 0 else 512
        shapes[f"feature_extractor.conv_layers.{index}.conv.weight"] = (512, channels, kernel)
    for part in ("weight", "bias"):
        shapes[f"feature_extractor.conv_layers.0.layer_norm.{part}"] = (512,)
        shapes[f"feature_projection.layer_norm.{part}"] = (512,)
    shapes["feature_projection.projection.weight"] = (hidden, 512)
    shapes["feature_projection.projection.bias"] = (hidden,)
    position = "encoder.pos_conv_embed.conv"
    shapes[f"{position}.bias"] = (hidden,)
    shapes[f"{position}.parametrizations.weight.original0"] = (1, 1, 128)
    shapes[f"{position}.parametrizations.weight.original1"] = (hidden, hidden // 16, 128)
    for layer in range(layers):
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes[f"encoder.layers.{layer}.attention.{name}.weight"] = (hidden, hidden)
            shapes[f"encoder.layers.{layer}.attention.{name}.bias"] = (hidden,)
        dense = f"encoder.layers.{layer}.feed_forward"
        shapes[f"{dense}.intermediate_dense.weight"] = (wide, hidden)
        shapes[f"{dense}.intermediate_dense.bias"] = (wide,)
        shapes[f"{dense}.output_dense.weight"] = (hidden, wide)
        shapes[f"{dense}.output_dense.bias"] = (hidden,)
        for norm in ("layer_norm", "final_layer_norm"):
            for part in ("weight", "bias"):
                shapes[f"encoder.layers.{layer}.{norm}.{part}"] = (hidden,)
    for part in ("weight", "bias"):
        shapes[f"encoder.layer_norm.{part}"] = (hidden,)
    for name in ("base", "tuned"):
        _write(folder / name, shapes, tuned=name == "tuned")
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    print(f"{count / 1e6:.1f}M parameters", flush=True)


def make_pair(folder: Path, hidden: int, layers: int) -> None:
    """Write a pair in another process: a child's peak memory counts its parent's from before."""
    command = [sys.executable, __file__, "--make", str(folder), str(hidden), str(layers)]
    subprocess.run(command, check=True)


def _write(folder: Path, shapes: dict[str, tuple[int, ...]], tuned: bool) -> None:
    folder.mkdir(parents=True)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = np.random.default_rng(0)
    pool = generator.standard_normal(POOL, np.float32) * np.float32(0.02)
    noise = generator.standard_normal(POOL, np.float32)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            changed = tuned and not name.startswith("feature_extractor")
            values = pool + 0.002 * noise if changed else pool
            for start in range(0, size, pool.size):
                file.write(values[: min(pool.size, size - start)].tobytes())
    config = {"model_type": "hubert", "architectures": ["HubertModel"]}
    (folder / "config.json").write_text(json.dumps(config))


def ours(folder: Path, out: Path) -> list[str]:
    """Return our command line for the pair in a folder."""
    inputs = [str(folder / "base"), str(folder / "tuned")]
    return [
        sys.executable,
        "-m",
        "speechft",
        "merge",
        *inputs,
        "--alpha",
        "0.25",
        "--out",
        str(out),
    ]


def measure(command: list[str], out: Path) -> tuple[float, float, float]:
    """Run a process; return wall seconds, CPU seconds, and peak memory in MB."""
    if out.is_dir():
        shutil.rmtree(out)
    os.sync()
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:  # progress bars, unless it fails
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=said, env=_environment()
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            name = " ".join(command[:3])
            raise SystemExit(f"failed with {process.returncode}: {name}\n{said.read()[-2000:]}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def _environment() -> dict[str, str]:
    return {name: v for name, v in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def find_mergekit(named: str | None) -> str | None:
    """Return ``mergekit-pytorch`` of a virtual environment; None, and how to make one, without it.

    Args:
        named: The environment, or the program itself.
    """
    if not named:
        packages, version = sysconfig.get_path("purelib"), f"python{sysconfig.get_python_version()}"
        print(MAKE_MERGEKIT.format(packages=packages, version=version), flush=True)
        return None
    path = Path(named)
    program = path / "bin" / "mergekit-pytorch" if path.is_dir() else path
    if not os.access(program, os.X_OK):
        raise SystemExit(f"--mergekit: {program} is no program; give the folder of its environment")
    return str(program)


def mergekit_recipe(folder: Path) -> Path:
    """Write the recipe of the same merge for mergekit-pytorch."""
    path = folder / "mergekit.yaml"
    models = "".join(
        f"  - model: {folder / name}/model.safetensors\n    parameters:\n      weight: {weight}\n"
        for name, weight in (("base", 0.75), ("tuned", 0.25))
    )
    path.write_text(f"merge_method: linear\ndtype: float32\nmodels:\n{models}")
    return path


def prepare_official(folder: Path, venv: Path, code: Path) -> tuple[list[str], list[str]]:
    """Write the pair as s3prl's checkpoints; return the authors' command and ours for it.

    The script asks for HuBERT's published checkpoint again when it saves: the base lies where s3prl
    would have downloaded it, below a home of its own.
    """
    for name in ("base", "tuned"):
        command = [sys.executable, "-m", "speechft", "convert", str(folder / name)]
        command += [str(folder / f"{name}.pt"), "--to", "s3prl"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    subprocess.run([sys.executable, "-c", DOWNSTREAM, str(folder)], check=True)
    cached = folder / ".cache" / "s3prl" / "download"
    cached.mkdir(parents=True)
    digest = hashlib.sha256(PUBLISHED.encode()).hexdigest()
    os.link(folder / "base.pt", cached / f"{digest}.{PUBLISHED.rpartition('/')[2]}")
    inputs = [str(folder / name) for name in ("base.pt", "tuned.ckpt")]
    config = {
        "merge_method": "linear",
        "alpha": 0.25,
        "base_model_name": "hubert",
        "base_model_ckpt_path": inputs[0],
        "finetune_model_paths": inputs[1:],
        "output_dir": str(folder / "official"),
    }
    (folder / "official.yaml").write_text(json.dumps(config))
    theirs = ["env", f"HOME={folder}", str(venv / "bin" / "python"), str(code / "merge_model.py")]
    mine = [sys.executable, "-m", "speechft", "merge", *inputs, "--alpha", "0.25", "--overwrite"]
    mine += ["--out", str(folder / "speechft.pt")]
    return [*theirs, "-c", str(folder / "official.yaml")], mine


def check_official(folder: Path) -> None:
    """Stop unless our checkpoint holds what that of the authors holds, to the bit."""
    import torch

    one, other = (
        torch.load(path, weights_only=True)["model_weight"]
        for path in (folder / "speechft.pt", folder / "official" / "merged_model.pt")
    )
    if one.keys() != other.keys() or not all(torch.equal(one[n], other[n]) for n in one):
        raise SystemExit("our checkpoint differs from the authors'")
    print("checkpoint checked: bit-equal to the authors'", flush=True)


def check(ours: Path, reference: Path) -> None:
    """Stop unless our output equals the load-all result to the bit."""
    same = np.fromfile(ours / "model.safetensors", np.uint8)
    other = np.fromfile(reference / "model.safetensors", np.uint8)

    def data(raw: np.ndarray) -> dict[str, bytes]:
        length = int(raw[:8].view("<u8")[0])
        header = json.loads(raw[8 : 8 + length].tobytes())
        header.pop("__metadata__")
        return {
            n: raw[8 + length + e["data_offsets"][0] : 8 + length + e["data_offsets"][1]].tobytes()
            for n, e in header.items()
        }

    if data(same) != data(other):
        raise SystemExit("our output differs from the load-all result")
    print("output checked: bit-equal to the load-all result", flush=True)


def report(rows: dict[str, list[tuple[float, float, float]]]) -> None:
    """Print medians, the smallest wall time, and their ratios to ours."""
    table = {}
    for candidate, values in rows.items():
        wall, cpu, memory = (statistics.median(column) for column in zip(*values, strict=True))
        table[candidate] = (wall, min(value[0] for value in values), cpu, memory)
    print(f"{'':14}{'wall s':>9}{'min s':>9}{'CPU s':>9}{'RSS MB':>9}   ratios to ours")
    for candidate, row in table.items():
        ratios = ", ".join(f"{a / b:.2f}" for a, b in zip(row, table["speechft"], strict=True))
        numbers = f"{row[0]:9.2f}{row[1]:9.2f}{row[2]:9.2f}{row[3]:9.0f}"
        print(f"{candidate:14}{numbers}   {ratios}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the pair is made; default: temporary")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--mergekit",
        default=os.environ.get("MERGEKIT"),
        metavar="VENV",
        help="virtual environment that holds mergekit",
    )
    parser.add_argument("--official", nargs=2, type=Path, metavar=("VENV", "CODE"))
    parser.add_argument("--billion", action="store_true", help="also a pair of 1B parameters")
    parser.add_argument("--make", nargs=3, metavar=("DIR", "DIM", "LAYERS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        write_pair(Path(options.make[0]), int(options.make[1]), int(options.make[2]))
        return
    mergekit = find_mergekit(options.mergekit)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make_pair(folder, 768, 12)
        python = [sys.executable, "-c"]
        inputs = [str(folder / "base"), str(folder / "tuned")]
        outs = {n: folder / n.replace(" ", "-") for n in ("speechft", "load-all", "system calls")}
        commands = {
            "speechft": ours(folder, outs["speechft"]),
            "load-all": [*python, LOAD_ALL, *inputs, str(outs["load-all"])],
            "system calls": [*python, SYSTEM_CALLS, *inputs, str(outs["system calls"])],
        }
        if mergekit is not None:
            outs["mergekit"] = folder / "mergekit"
            recipe = str(mergekit_recipe(folder))
            commands["mergekit"] = [mergekit, recipe, str(outs["mergekit"])]
        if options.official:
            outs |= {"speechft .pt": folder / "speechft.pt", "official": folder / "official"}
            theirs, mine = prepare_official(folder, *options.official)
            commands |= {"speechft .pt": mine, "official": theirs}
        rows: dict[str, list[tuple[float, float, float]]] = {n: [] for n in commands}
        for number in range(1 + options.runs):
            for candidate, command in commands.items():
                found = measure(command, outs[candidate])
                rows[candidate] += [found] * (number > 0)
        check(outs["speechft"], outs["load-all"])
        if options.official:
            check_official(folder)
        report(rows)
    if options.billion:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            make_pair(folder, 1280, 51)
            wall, cpu, memory = measure(ours(folder, folder / "out"), folder / "out")
            print(f"1B pair: {wall:.1f} s wall, {cpu:.1f} s CPU, peak {memory:.0f} MB")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
