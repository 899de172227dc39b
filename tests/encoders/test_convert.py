"""Conversion both ways: equal to the bit, heads named, nothing left behind by what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, HubertForCTC, Wav2Vec2ForPreTraining

from helpers import noise, speech_encoder
from oracle_data import oracle, oracle_json
from speechft.encoders.convert import convert
from speechft.encoders.load import load_encoder
from speechft.errors import CheckpointError, ConfigError, RunError

MODELS = ("hubert", "hubert_ln", "wav2vec2", "wavlm_base_plus", "wavlm_ln", "decoar2")


@pytest.fixture
def s3prl(tmp_path: Path) -> Any:
    """Write a model of the oracle as s3prl's converted checkpoint, return its path and content."""

    def write(name: str, **changes: Any) -> tuple[Path, dict[str, Any]]:
        content = oracle_json(f"merge/{name}_base.config.json")
        path = tmp_path / f"{name}.pt"
        if name == "decoar2":
            path.with_suffix(".config.json").write_text(json.dumps(content))
            content = {}
        key = "model_weight" if "model_cfg" in content else "model"
        content[key] = {**load_file(oracle(f"merge/{name}_base.safetensors")), **changes}
        torch.save(content, path)
        return path, content

    return write


def weights(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = content.get("model_weight") or content["model"]
    return found


def states(path: Path, **options: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = load_encoder(path, **options)(*noise(9_000, 5_000)).hidden_states
    return found


@pytest.mark.parametrize("name", MODELS)
def test_s3prl_to_hugging_face_and_back(name: str, s3prl: Any, tmp_path: Path) -> None:
    path, content = s3prl(name)
    there = convert(path, tmp_path / "hf", source_format="s3prl")
    assert there.parity == 0.0
    assert there.heads_left_out == ()
    assert there.tensors + len(there.heads_kept) == len(weights(content))
    model, loading = AutoModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert model.config.architectures == [type(model).__name__]
    back = convert(tmp_path / "hf", tmp_path / "back.pt")
    assert (back.target, back.parity) == ("s3prl", 0.0)
    written = torch.load(tmp_path / "back.pt", weights_only=True)
    assert list(weights(written)) == list(weights(content))
    for key, tensor in weights(content).items():
        assert torch.equal(weights(written)[key].view(torch.int32), tensor.view(torch.int32)), key
    other = {k: v for k, v in written.items() if not k.startswith("model") or k == "model_cfg"}
    wanted: Any = {k: v for k, v in content.items() if k in other}
    for key in ("data", "label_dir"):  # of the machine that it was pre-trained on
        if str(wanted.get("task_cfg", {}).get(key)).startswith("/"):
            wanted["task_cfg"] = wanted["task_cfg"] | {key: Path(wanted["task_cfg"][key]).name}
    assert other == wanted
    assert written.keys() == content.keys()
    assert torch.equal(states(tmp_path / "back.pt"), states(path))


@pytest.mark.parametrize("name", ["hubert_ln", "wav2vec2", "wavlm_base_plus"])
def test_downstream_checkpoint_becomes_an_upstream(name: str, s3prl: Any, tmp_path: Path) -> None:
    path, content = s3prl(name)
    upstream = {f"model.{key}": tensor for key, tensor in weights(content).items()}
    heads = {"Downstream": {"w": torch.ones(2)}, "Featurizer": {"weights": torch.zeros(4)}}
    torch.save({"Upstream": upstream, **heads}, tmp_path / "dev-best.ckpt")
    report = convert(tmp_path / "dev-best.ckpt", tmp_path / "up.pt", config=path)
    assert report.source_format == "s3prl-downstream"
    written = torch.load(tmp_path / "up.pt", weights_only=True)
    assert weights(written).keys() == weights(content).keys()
    assert all(torch.equal(weights(written)[k], v) for k, v in weights(content).items())
    assert torch.equal(states(tmp_path / "up.pt"), states(path))
    for mode in ("exact", "s3prl"):
        convert(tmp_path / "up.pt", tmp_path / mode)
        expected = states(path, mode=mode)
        assert torch.equal(states(tmp_path / mode, mode=mode), expected)


def test_fairseq_spin_and_both_spellings_of_weight_norm(s3prl: Any, tmp_path: Path) -> None:
    path, content = s3prl("hubert")
    expected = states(path)
    bare = weights(content)
    new = {
        key.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): tensor
        for key, tensor in bare.items()
    }
    assert new.keys() != bare.keys()
    cfg = {"model": content["model_cfg"], "task": content["task_cfg"]}
    torch.save({"cfg": cfg, "model": new, "args": None}, tmp_path / "fairseq.pt")
    report = convert(tmp_path / "fairseq.pt", tmp_path / "fairseq", source_format="fairseq")
    assert (report.source_format, report.parity) == ("fairseq", 0.0)
    assert torch.equal(states(tmp_path / "fairseq"), expected)
    convert(tmp_path / "fairseq.pt", tmp_path / "s3prl.pt")
    written = torch.load(tmp_path / "s3prl.pt", weights_only=True)
    assert {"task_cfg", "model_cfg", "model_weight", "dictionaries_symbols"} == set(written)
    assert len(written["dictionaries_symbols"][0]) == len(bare["label_embs_concat"])
    assert torch.equal(states(tmp_path / "s3prl.pt"), expected)
    spin = {f"encoder.model.{k}": v for k, v in bare.items() if "final_proj" not in k}
    spin["pred_head.layers.0.weight"] = torch.zeros(3)
    torch.save({"state_dict": spin, "epoch": 1}, tmp_path / "spin.ckpt")
    report = convert(tmp_path / "spin.ckpt", tmp_path / "spin", source_format="spin", config=path)
    assert report.heads_left_out == ("pred_head.layers.0.weight",)
    assert torch.equal(states(tmp_path / "spin"), expected)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_task_model_gives_its_encoder(kind: str, tmp_path: Path) -> None:
    encoder = speech_encoder("hubert")
    task = HubertForCTC(encoder.model.config)
    task.hubert.load_state_dict(encoder.model.state_dict())
    task.save_pretrained(tmp_path / "ctc")
    if kind == "bin":
        state = load_file(tmp_path / "ctc" / "model.safetensors")
        torch.save(state, tmp_path / "ctc" / "pytorch_model.bin")
        (tmp_path / "ctc" / "model.safetensors").unlink()
    report = convert(tmp_path / "ctc", tmp_path / "bare")
    assert set(report.heads_left_out) == {"lm_head.weight", "lm_head.bias"}
    assert "heads left out: lm_head" in "\n".join(report.lines())
    config = json.loads((tmp_path / "bare" / "config.json").read_text())
    assert config["architectures"] == ["HubertModel"]
    with torch.inference_mode():
        expected = encoder(*noise(9_000, 5_000)).hidden_states
    assert torch.equal(states(tmp_path / "bare"), expected)
    assert torch.equal(states(tmp_path / "ctc"), expected)


def test_quantizer_of_a_hugging_face_model_goes_to_s3prl_and_back(tmp_path: Path) -> None:
    encoder = speech_encoder("wav2vec2")
    fields = {"num_codevectors_per_group": 4, "num_codevector_groups": 2, "codevector_dim": 6}
    config = encoder.model.config
    config.update({**fields, "proj_codevector_dim": 10})
    torch.manual_seed(0)
    whole = Wav2Vec2ForPreTraining(config)
    whole.wav2vec2.load_state_dict(encoder.model.state_dict())
    whole.save_pretrained(tmp_path / "pre")
    report = convert(tmp_path / "pre", tmp_path / "pre.pt", target="s3prl")
    assert len(report.heads_kept) == 7
    written = torch.load(tmp_path / "pre.pt", weights_only=True)
    cfg = written["model_cfg"]
    assert (cfg["quantize_targets"], cfg["latent_vars"], cfg["latent_groups"]) == (True, 4, 2)
    assert (cfg["latent_dim"], cfg["final_dim"]) == (6, 10)
    quantizer = written["model_weight"]["quantizer.vars"]
    assert torch.equal(quantizer, whole.quantizer.codevectors)
    assert written["model_weight"]["final_proj.weight"].shape == (10, config.hidden_size)


def test_hugging_face_without_heads_gets_the_zeros_that_s3prl_insists_on(tmp_path: Path) -> None:
    speech_encoder("hubert").save(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "x.pt")
    written = torch.load(tmp_path / "x.pt", weights_only=True)
    found = written["model_weight"]
    assert found["label_embs_concat"].shape[0] == len(written["dictionaries_symbols"][0])
    assert found["final_proj.weight"].abs().sum() == 0
    assert torch.equal(states(tmp_path / "x.pt"), states(tmp_path / "hf"))


def test_half_precision_stays_as_it_is(tmp_path: Path) -> None:
    speech_encoder("wavlm").half().save(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "x.pt")
    convert(tmp_path / "x.pt", tmp_path / "again")
    first, second = (load_file(tmp_path / n / "model.safetensors") for n in ("hf", "again"))
    assert {t.dtype for t in second.values()} == {torch.float16}
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["dtype"] == "float16"


def test_an_earlier_conversion_is_replaced_and_other_folders_are_not(
    s3prl: Any, tmp_path: Path
) -> None:
    path, _ = s3prl("hubert")
    convert(path, tmp_path / "hf")
    before = (tmp_path / "hf" / "model.safetensors").read_bytes()
    convert(path, tmp_path / "hf")
    assert (tmp_path / "hf" / "model.safetensors").read_bytes() == before
    (tmp_path / "hf" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"already holds notes\.txt"):
        convert(path, tmp_path / "hf")
    assert (tmp_path / "hf" / "notes.txt").read_text() == "mine"


NAN = "encoder.layers.1.fc1.bias"


def nan() -> dict[str, torch.Tensor]:
    tensor = load_file(oracle("merge/hubert_base.safetensors"))[NAN]
    tensor.view(-1)[0] = float("nan")
    return {NAN: tensor}


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"encoder.layers.0.fc9.weight": torch.ones(2)}, {}, "without a place.*fc9"),
        ({"encoder.layers.0.fc1.bias": torch.ones(5)}, {}, "of another shape.*intermediate"),
        (nan, {}, "NaN or infinite weights in encoder.layers.1"),
        ({}, {"source_format": "spin"}, "of the format s3prl, not spin"),
        ({}, {"source_format": "s3prll"}, "did you mean 's3prl'"),
        ({}, {"target": "onnx"}, "unknown target format 'onnx'; choices are: hf, s3prl"),
        ({}, {"config": "nowhere.json"}, r"nowhere\.json does not exist"),
        ({}, {"config": lambda: oracle("merge/wavlm_ln_base.config.json")}, "hubert|fit"),
    ],
)
def test_bad_input_leaves_nothing_behind(
    changes: Any, options: Any, message: str, s3prl: Any, tmp_path: Path
) -> None:
    path, _ = s3prl("hubert", **(changes() if callable(changes) else changes))
    options = {name: value() if callable(value) else value for name, value in options.items()}
    before = sorted(tmp_path.iterdir())
    with pytest.raises((CheckpointError, ConfigError), match=message):
        convert(path, tmp_path / "out", **options)
    assert sorted(tmp_path.iterdir()) == before


def test_nan_weights_go_through_when_asked(s3prl: Any, tmp_path: Path) -> None:
    path, _ = s3prl("hubert", **nan())
    report = convert(path, tmp_path / "out", allow_nonfinite=True)
    assert report.parity is None
    assert "NaN weights, features not compared" in "\n".join(report.lines())


def test_missing_tensor_is_named(s3prl: Any, tmp_path: Path) -> None:
    path, content = s3prl("wavlm_ln")
    last = content["cfg"]["encoder_layers"] - 1
    weights(content).pop(f"encoder.layers.{last}.fc2.weight")
    torch.save(content, path)
    missing = rf"missing: \['encoder.layers.{last}.feed_forward.output"
    with pytest.raises(CheckpointError, match=missing):
        convert(path, tmp_path / "out")


@pytest.mark.parametrize("kept", [0, 100, 0.15, -1])
def test_truncated_files_are_refused(kept: float, s3prl: Any, tmp_path: Path) -> None:
    path, content = s3prl("wavlm_base_plus")
    save_file(weights(content), tmp_path / "x.safetensors")
    for file in (path, tmp_path / "x.safetensors"):
        size = file.stat().st_size
        file.write_bytes(file.read_bytes()[: int(kept * size) if 0 < kept < 1 else int(kept)])
        with pytest.raises(CheckpointError, match=r"truncated|holds|lacks|readable"):
            convert(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_of_outputs_must_fit_their_format(s3prl: Any, tmp_path: Path) -> None:
    path, _ = s3prl("hubert")
    for out, target in (("x.safetensors", None), ("x.pt", "hf")):
        with pytest.raises(ConfigError, match="is a folder"):
            convert(path, tmp_path / out, target=target)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="is a file"):
        convert(path, tmp_path / "folder", target="s3prl")


def test_source_is_not_overwritten(s3prl: Any, tmp_path: Path) -> None:
    path, _ = s3prl("hubert")
    convert(path, tmp_path / "hf")
    for source in (path, tmp_path / "hf"):
        with pytest.raises(ConfigError, match="is the source itself"):
            convert(source, source)
