"""What goes in and what comes out: types, shards, pickles, spellings, order, no torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModel, HubertForCTC

from speechft.commands import running
from speechft.encoders.conversion.tensors import encode
from speechft.errors import CheckpointError, ConfigError, RunError
from speechft.merging import merge
from speechft.merging.config import MergeConfig
from speechft.merging.execution import write_merge
from speechft.merging.methods import METHODS
from speechft.storage.files import encoder_digest, file_digest


def test_folder_is_whole_and_loads(pair: Any, tmp_path: Path, official_formula: Any) -> None:
    base, tuned = pair
    (base / "preprocessor_config.json").write_text('{"do_normalize": false}')
    out = tmp_path / "out"
    config = MergeConfig(base=base, tuned=tuned, alpha=0.25, out=out)
    with running("speechft merge base tuned"):
        report = write_merge(config)
    model, loading = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    states = [AutoModel.from_pretrained(p).state_dict() for p in pair]
    expected = official_formula(states[0], [states[1]], 0.25)
    assert all(torch.equal(v, expected[n]) for n, v in model.state_dict().items())
    card = (out / "README.md").read_text()
    for fact in (report.base_digest, report.tuned_digests[0], "linear", "0.25", "speechft merge"):
        assert str(fact) in card
    assert json.loads((out / "preprocessor_config.json").read_text()) == {"do_normalize": False}
    assert report.base_digest == encoder_digest(base)
    assert report.out_digest == encoder_digest(out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "out", "tuned"]


@pytest.mark.parametrize(
    ("base_type", "tuned_type", "wanted", "expected"),
    [
        ("float32", "float32", "auto", "float32"),
        ("float16", "float32", "auto", "float32"),
        ("float32", "bfloat16", "auto", "float32"),
        ("bfloat16", "bfloat16", "auto", "bfloat16"),
        ("float16", "float32", "keep", "float16"),
        ("float32", "float32", "bfloat16", "bfloat16"),
        ("float16", "bfloat16", "float16", "float16"),
    ],
)
def test_types_are_mixed_in_float32(
    base_type: str,
    tuned_type: str,
    wanted: str,
    expected: str,
    base_model: Any,
    tune: Any,
    save: Any,
    read: Any,
    tmp_path: Path,
) -> None:
    base = save(base_model, "base", getattr(torch, base_type))
    tuned = save(tune(base_model), "tuned", getattr(torch, tuned_type))
    merge(base, tuned, alpha=0.3, out=tmp_path / "out", dtype=wanted)
    b, t, merged = read(base), read(tuned), read(tmp_path / "out")
    target = getattr(torch, expected)
    for name, value in merged.items():
        exact = b[name].float() + 0.3 * (t[name].float() - b[name].float())
        assert value.dtype == target
        assert torch.equal(value, exact.to(target)), name
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == expected


def test_bfloat16_rounding_is_torchs() -> None:
    values = np.frombuffer(np.random.default_rng(0).bytes(400_000), np.float32)
    values = values[np.isfinite(values)]
    ours = torch.from_numpy(encode(values, "BF16")).view(torch.bfloat16)
    assert torch.equal(ours, torch.from_numpy(values.copy()).to(torch.bfloat16))


def test_value_beyond_float16_is_refused(
    base_model: Any, tune: Any, save: Any, tmp_path: Path
) -> None:
    with torch.no_grad():
        base_model.encoder.layer_norm.weight[0] = 1e6
    base, tuned = save(base_model, "base"), save(tune(base_model), "tuned")
    with pytest.raises(
        Exception, match=r"encoder.layer_norm.weight reaches \S+, beyond the range of float16"
    ):
        merge(base, tuned, out=tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shards", [2, 5])
def test_shards_in_and_out(
    shards: int, base_model: Any, tune: Any, save: Any, read: Any, tmp_path: Path
) -> None:
    base, tuned = save(base_model, "base"), save(tune(base_model), "tuned")
    merge(base, tuned, alpha=0.4, out=tmp_path / "whole")
    split = save(base_model, "base-shards", shards=shards)
    split_tuned = save(tune(base_model), "tuned-shards", shards=shards + 1)
    config = MergeConfig(base=split, tuned=split_tuned, alpha=0.4, out=tmp_path / "parts")
    report = write_merge(config, shard_bytes=15_000)
    files = sorted((tmp_path / "parts").glob("model-*.safetensors"))
    assert len(files) > 2
    assert report.out_digest == encoder_digest(tmp_path / "parts")
    whole, parts = read(tmp_path / "whole"), read(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[n], parts[n]) for n in whole)
    model, loading = AutoModel.from_pretrained(tmp_path / "parts", output_loading_info=True)
    assert not loading["missing_keys"]
    assert torch.equal(model.state_dict()["masked_spec_embed"], whole["masked_spec_embed"])


def test_pytorch_bin_sharded_too(
    base_model: Any, tune: Any, save: Any, read: Any, tmp_path: Path
) -> None:
    base, tuned = save(base_model, "base"), save(tune(base_model), "tuned")
    merge(base, tuned, alpha=0.4, out=tmp_path / "expected")
    state = read(tuned)
    (tuned / "model.safetensors").unlink()
    names = list(state)
    where = {n: f"pytorch_model-{i % 2}.bin" for i, n in enumerate(names)}
    for file in set(where.values()):
        torch.save({n: state[n] for n in names if where[n] == file}, tuned / file)
    (tuned / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    merge(base, tuned, alpha=0.4, out=tmp_path / "out")
    assert file_digest(tmp_path / "out" / "model.safetensors") == file_digest(
        tmp_path / "expected" / "model.safetensors"
    )


def test_both_spellings_of_weight_norm(
    base_model: Any, tune: Any, read: Any, save: Any, tmp_path: Path
) -> None:
    base, tuned = save(base_model, "base"), save(tune(base_model), "tuned")
    merge(base, tuned, alpha=0.4, out=tmp_path / "expected")
    state = {
        n.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): w
        for n, w in read(tuned).items()
    }
    assert any(n.endswith("weight_g") for n in state)
    save_file(state, tuned / "model.safetensors", metadata={"format": "pt"})
    merge(base, tuned, alpha=0.4, out=tmp_path / "out")
    assert file_digest(tmp_path / "out" / "model.safetensors") == file_digest(
        tmp_path / "expected" / "model.safetensors"
    )


def test_head_of_a_task_model_is_set_aside_by_name(
    hubert_config: Any, base_model: Any, tune: Any, save: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    task = HubertForCTC(hubert_config)
    task.hubert.load_state_dict(tune(base_model).state_dict())
    base, tuned = save(base_model, "base"), save(task, "ctc")
    plain = save(tune(base_model), "plain")
    report = merge(base, tuned, alpha=0.25, out=tmp_path / "out")
    merge(base, plain, alpha=0.25, out=tmp_path / "expected")
    assert set(report.set_aside) == {"lm_head.weight", "lm_head.bias"}
    assert "set aside (heads of the tuned models): lm_head" in "\n".join(report.lines())
    assert file_digest(tmp_path / "out" / "model.safetensors") == file_digest(
        tmp_path / "expected" / "model.safetensors"
    )


def test_other_layouts_of_pickles(
    base_model: Any, tune: Any, save: Any, oracle: Path, tmp_path: Path
) -> None:
    """SPIN and fairseq wrap the same weights under other keys and prefixes."""
    upstream = torch.load(oracle / "hubert_ft1_downstream.ckpt", weights_only=False)["Upstream"]
    bare = {n.removeprefix("model."): w for n, w in upstream.items()}
    spin = {f"encoder.{n}": w for n, w in upstream.items() if "final_proj" not in n}
    spin["pred_head.layers.0.weight"] = torch.zeros(3)
    torch.save({"state_dict": spin, "epoch": 1}, tmp_path / "spin.ckpt")
    continued = {n: w for n, w in bare.items() if n != "label_embs_concat"}
    torch.save({"model": continued, "args": None}, tmp_path / "fairseq.pt")
    ctc = {f"w2v_encoder.w2v_model.{n}": w for n, w in bare.items()}
    ctc["w2v_encoder.proj.weight"] = torch.zeros(3)
    torch.save({"model": ctc, "cfg": {}}, tmp_path / "ctc.pt")
    save_file(bare, tmp_path / "bare.safetensors")
    expected = tmp_path / "expected.safetensors"
    base = oracle / "hubert_base.pt"
    merge(base, oracle / "hubert_ft1_downstream.ckpt", alpha=0.25, out=expected)
    for name in ("spin.ckpt", "fairseq.pt", "ctc.pt", "bare.safetensors"):
        out = tmp_path / f"{name}.out.safetensors"
        merge(base, tmp_path / name, alpha=0.25, out=out)
        assert file_digest(out) == file_digest(expected), name


def test_key_order_is_the_bases(pair: Any, tmp_path: Path) -> None:
    base, tuned = pair
    merge(base, tuned, alpha=0.25, out=tmp_path / "out")
    orders = []
    for folder in (base, tmp_path / "out"):
        data = (folder / "model.safetensors").read_bytes()
        length = int.from_bytes(data[:8], "little")
        orders.append([n for n in json.loads(data[8 : 8 + length]) if n != "__metadata__"])
    assert orders[0] == orders[1]
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_torch_is_not_imported_for_safetensors(pair: Any, tmp_path: Path) -> None:
    base, tuned = pair
    code = (
        "import sys; from speechft.merging import merge; "
        f"merge({str(base)!r}, {str(tuned)!r}, out={str(tmp_path / 'out')!r}); "
        "bad = {'torch', 'transformers', 'pydantic'} & set(sys.modules); "
        "sys.exit(str(bad) if bad else 0)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_dry_run_checks_and_writes_nothing(pair: Any, tmp_path: Path) -> None:
    base, tuned = pair
    before = sorted(tmp_path.rglob("*"))
    report = merge(base, tuned, alpha=0.25, out=tmp_path / "out", dry_run=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert report.out is None
    assert report.merged == 67
    assert report.base_digest == encoder_digest(base)
    assert report.evidence[0].cnn_equal is True


@pytest.mark.parametrize("to", ["hf", "s3prl"])
def test_dry_run_without_a_name_shows_the_format_that_was_asked_for(
    to: str, pair: Any, tmp_path: Path
) -> None:
    named = merge(*pair, out=tmp_path / "out", to=to, dry_run=True)
    assert merge(*pair, to=to, dry_run=True).plan == named.plan
    with pytest.raises(ConfigError, match="says what is written"):
        merge(*pair, to=to)


def test_dry_run_refuses_what_the_run_would(pair: Any, tmp_path: Path) -> None:
    base, tuned = pair
    with pytest.raises(ConfigError, match="is an input"):
        merge(base, tuned, out=tuned, dry_run=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    with pytest.raises(RunError, match="already holds"):
        merge(base, tuned, out=tmp_path / "thesis", dry_run=True)
    alone = tmp_path / "alone.safetensors"
    shutil.copy(base / "model.safetensors", alone)
    with pytest.raises(CheckpointError, match=r"needs a configuration: .*holds no configuration"):
        merge(alone, tuned, out=tmp_path / "out", dry_run=True)


def test_dry_run_tells_the_types_of_a_folder(
    base_model: Any, tune: Any, save: Any, tmp_path: Path
) -> None:
    base, tuned = save(base_model, "base", torch.float16), save(tune(base_model), "tuned")
    for out in (None, tmp_path / "out"):
        plan = merge(base, tuned, out=out, dry_run=True).plan
        assert {types for _, _, types, _ in plan} == {"F16 + F32 -> F32"}


def test_a_base_in_the_older_spelling_loads_whole(
    base_model: Any, tune: Any, save: Any, tmp_path: Path
) -> None:
    """As the first HuBERT on the hub: ``pytorch_model.bin`` with weight_g and weight_v."""
    base, tuned = save(base_model, "base"), save(tune(base_model), "tuned")
    merge(base, tuned, alpha=0.4, out=tmp_path / "expected")
    (base / "model.safetensors").unlink()
    old = {
        n.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): w
        for n, w in base_model.state_dict().items()
    }
    torch.save(old, base / "pytorch_model.bin")
    merge(base, tuned, alpha=0.4, out=tmp_path / "out")
    model, loading = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    expected = AutoModel.from_pretrained(tmp_path / "expected").state_dict()
    assert all(torch.equal(w, expected[n]) for n, w in model.state_dict().items())


def test_every_method_writes_a_loadable_folder(
    base_model: Any, tune: Any, save: Any, tmp_path: Path
) -> None:
    base = save(base_model, "base")
    tuned = [save(tune(base_model, seed), f"tuned{seed}") for seed in (1, 2)]
    calls: list[tuple[str, dict[str, Any]]] = [
        ("task-arithmetic", {"weights": (0.5, 0.5)}),
        ("ties", {}),
        ("ties", {"trim": "tensor", "election": "weighted", "weights": (1, 2)}),
        ("dare-linear", {"density": 0.9, "seed": 3}),
        ("dare-ties", {"rescale": "l1"}),
        ("model-stock", {}),
        ("lines", {"first": 0.1}),
    ]
    digests = set()
    for method, options in calls:
        out = tmp_path / "out"
        alpha = 0.5 if METHODS[method].takes_alpha else None
        first = merge(base, tuned, alpha, out, method, **options).out_digest
        again = merge(base, tuned, alpha, out, method, **options).out_digest
        assert first == again, method
        digests.add(first)
    assert len(digests) == len(calls)
    AutoModel.from_pretrained(tmp_path / "out")


def test_harmless_differences_of_the_configuration_are_reported(
    base_model: Any, tune: Any, save: Any, tmp_path: Path
) -> None:
    base = save(base_model, "base")
    tuned = save(tune(base_model), "tuned", layerdrop=0.0, mask_time_prob=0.5)
    report = merge(base, tuned, out=tmp_path / "out")
    assert len(report.differences) == 2
    assert "layerdrop is 0.1 in the base (kept), 0.0 in" in "\n".join(report.lines())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["layerdrop"] == 0.1


@pytest.mark.parametrize("name", ["UniSpeechSat", "Data2VecAudio", "Wav2Vec2Conformer", "WavLM"])
def test_siblings_merge_too(name: str, tune: Any, save: Any, tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(2)
    sizes = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "vocab_size": 12}
    sizes |= {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(transformers, f"{name}Config")(**sizes, intermediate_size=32, conv_dim=[8] * 7)
    model = getattr(transformers, f"{name}Model")(config)
    task = getattr(transformers, f"{name}ForCTC")(config)
    encoder = getattr(task, task.base_model_prefix)
    encoder.load_state_dict(tune(model).state_dict())
    report = merge(save(model, "base"), save(task, "tuned"), alpha=0.25, out=tmp_path / "out")
    assert set(report.set_aside) == {"lm_head.weight", "lm_head.bias"}
    merged, loading = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not loading["missing_keys"]
    tuned = encoder.state_dict()
    for key, value in model.state_dict().items():
        expected = value + 0.25 * (tuned[key] - value) if value.is_floating_point() else value
        assert torch.equal(merged.state_dict()[key], expected), key
