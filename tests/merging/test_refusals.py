"""Every refusal names what is wrong, writes nothing, and can be forced where that makes sense."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2Model

from speechft.errors import CheckpointError, ConfigError, LineageError, RunError
from speechft.merging import make_delta, merge
from speechft.merging.digests import InputDigests
from speechft.storage.files import file_digest

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


def refused(kind: type[Exception], match: str, out: Path, *arguments: Any, **keywords: Any) -> str:
    with pytest.raises(kind, match=match) as caught:
        merge(*arguments, out=out, **keywords)
    assert not out.exists()
    assert not [p for p in out.parent.iterdir() if p.name.startswith(".")]
    return str(caught.value)


def test_another_seed_is_recognised_and_can_be_forced(
    hubert_config: Any, base_model: Any, save: Any, tmp_path: Path
) -> None:
    torch.manual_seed(99)
    other = type(base_model)(hubert_config)
    base, stranger = save(base_model, "base"), save(other, "other")
    text = refused(LineageError, "does not look tuned from", tmp_path / "out", base, stranger)
    assert "median cosine" in text
    assert "force=True (or allow='lineage')" in text, "in Python's words"
    report = merge(base, stranger, out=tmp_path / "out", force=True)
    assert report.forced
    assert report.evidence[0].forced
    assert "Forced" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "merge.json").read_text())["forced"]


def test_shuffled_layers_are_recognised(
    base_model: Any, tune: Any, save: Any, tmp_path: Path
) -> None:
    tuned = tune(base_model)
    layers = tuned.encoder.layers
    layers[1], layers[2] = layers[2], layers[1]
    base, shuffled = save(base_model, "base"), save(tuned, "shuffled")
    refused(
        LineageError, r"in layer [12] the weights point elsewhere", tmp_path / "out", base, shuffled
    )


def test_another_family_of_equal_shape_is_refused_by_name(
    base_model: Any, tune: Any, save: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    other = Wav2Vec2Model(Wav2Vec2Config(**SIZES, vocab_size=12))
    other.load_state_dict(tune(base_model).state_dict())
    base, tuned = save(base_model, "base"), save(other, "tuned")
    text = refused(LineageError, "family", tmp_path / "out", base, tuned)
    assert "'hubert' in the base, 'wav2vec2' in the tuned model" in text


@pytest.mark.parametrize(
    ("field", "value", "label"),
    [
        ("do_stable_layer_norm", True, "pre-LN or post-LN layers"),
        ("hidden_act", "relu", "activation"),
        ("num_attention_heads", 4, "number of attention heads"),
        ("feat_extract_norm", "layer", "normalisation of the CNN"),
    ],
)
def test_configurations_that_differ_are_refused_by_name(
    field: str, value: Any, label: str, base_model: Any, tune: Any, save: Any, tmp_path: Path
) -> None:
    base = save(base_model, "base")
    tuned = save(tune(base_model), "tuned", **{field: value})
    text = refused(LineageError, label, tmp_path / "out", base, tuned)
    assert f"{value!r} in the tuned model" in text
    with pytest.raises(LineageError, match="allow='settings'"):
        merge(base, tuned, out=tmp_path / "out", force=True)
    assert merge(base, tuned, out=tmp_path / "out", allow="settings").forced


def test_normalisation_of_the_audio_is_compared(
    base_model: Any, tune: Any, save: Any, tmp_path: Path
) -> None:
    """Where a group norm takes scale and offset out, it is a note: `test_layouts.py`."""
    base = save(base_model, "base", feat_extract_norm="layer")
    tuned = save(tune(base_model), "tuned", feat_extract_norm="layer")
    (base / "preprocessor_config.json").write_text('{"do_normalize": false}')
    (tuned / "preprocessor_config.json").write_text('{"do_normalize": true}')
    refused(LineageError, "normalisation of the audio", tmp_path / "out", base, tuned)


def test_position_buckets_are_compared(
    wavlm_model: Any, tune: Any, save: Any, tmp_path: Path
) -> None:
    base = save(wavlm_model, "base")
    tuned = save(tune(wavlm_model), "tuned", max_bucket_distance=32)
    refused(LineageError, "largest position distance", tmp_path / "out", base, tuned)


def test_equal_models_are_refused_also_after_rounding(
    base_model: Any, save: Any, tmp_path: Path
) -> None:
    base, same = save(base_model, "base"), save(base_model, "same")
    half = save(base_model, "half", torch.float16)
    text = refused(LineageError, "equals the base", tmp_path / "out", base, same)
    assert "given twice" in text
    refused(LineageError, "equals the base", tmp_path / "out", base, half)
    refused(LineageError, "equals the base", tmp_path / "out", half, base)


def test_half_precision_tuned_model_shows_a_bit_equal_cnn(
    base_model: Any, tune: Any, save: Any, tmp_path: Path
) -> None:
    base, tuned = save(base_model, "base"), save(tune(base_model), "tuned", torch.float16)
    report = merge(base, tuned, out=tmp_path / "out")
    assert report.evidence[0].cnn_equal is True
    moved = tune(base_model)
    with torch.no_grad():
        moved.feature_extractor.conv_layers[0].conv.weight *= 1.01
    report = merge(base, save(moved, "moved"), out=tmp_path / "out")
    assert report.evidence[0].cnn_equal is False  # evidence, not a refusal


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", ["base", "tuned"])
def test_nan_and_infinity_are_refused_by_tensor(
    value: float, side: str, base_model: Any, tune: Any, save: Any, tmp_path: Path
) -> None:
    tuned_model = tune(base_model)
    broken = base_model if side == "base" else tuned_model
    with torch.no_grad():
        broken.encoder.layers[2].final_layer_norm.bias[3] = value
    base, tuned = save(base_model, "base"), save(tuned_model, "tuned")
    text = refused(LineageError, "holds NaN or infinite", tmp_path / "out", base, tuned)
    assert f"{side}: tensor encoder.layers.2.final_layer_norm.bias" in text
    report = merge(base, tuned, out=tmp_path / "out", force=True)
    assert "holds NaN or infinite values in 1 tensors" in report.forced[0]
    assert report.public().forced[0] in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(LineageError, match="holds NaN or infinite") as caught:
        make_delta(base, tuned, tmp_path / "d.safetensors", force=True)
    assert "force" not in str(caught.value.hint)


def test_missing_superfluous_and_misshapen_tensors(
    base_model: Any, tune: Any, oracle: Path, tmp_path: Path
) -> None:
    base, tuned = base_model.state_dict(), tune(base_model).state_dict()
    fewer = {n: w for n, w in tuned.items() if "encoder.layers.2." not in n}
    with pytest.raises(LineageError, match=r"lacks 16 of its tensors \(encoder.layers.2"):
        merge(base, fewer)
    with pytest.raises(LineageError, match=r"has 16 that it lacks"):
        merge(fewer, tuned)
    wrong = tuned | {"masked_spec_embed": torch.zeros(1)}  # would broadcast
    with pytest.raises(LineageError, match=r"masked_spec_embed: \[16\] in the base, \[1\] in the"):
        merge(base, wrong)
    with pytest.raises(LineageError, match="does not fit the base state dict as its base"):
        merge(base, torch.load(oracle / "decoar2_base.pt", weights_only=True)["model"])
    quantised = {n: w.to(torch.int8) for n, w in tuned.items()}
    with pytest.raises(LineageError, match="not floating-point"):
        merge(base, quantised)


def test_pretraining_parts_may_be_missing(base_model: Any, tune: Any) -> None:
    base, tuned = base_model.state_dict(), tune(base_model).state_dict()
    del tuned["masked_spec_embed"]
    merged = merge(base, tuned)
    assert torch.equal(merged["masked_spec_embed"], base["masked_spec_embed"])


def test_arguments_are_checked(pair: Any, tmp_path: Path) -> None:
    base, tuned = pair
    out = tmp_path / "out"
    refused(ConfigError, "did you mean 'linear'", out, base, tuned, method="liner")
    refused(ConfigError, "has no option 'density'", out, base, tuned, density=0.5)
    refused(ConfigError, "has no option 'denisty'", out, base, tuned, denisty=0.5)
    refused(ConfigError, "density is 0", out, base, tuned, method="ties", density=0)
    refused(ConfigError, "two tuned models", out, base, tuned, method="model-stock")
    refused(ConfigError, "takes one tuned model", out, base, [tuned, tuned], method="slerp")
    refused(ConfigError, "2 weights were given", out, base, tuned, method="ties", weights=(1, 2))
    refused(ConfigError, "finite", out, base, tuned, alpha=float("nan"))
    refused(ConfigError, "expected a number", out, base, tuned, alpha="much")
    refused(ConfigError, "unknown output format", out, base, tuned, to="onnx")
    refused(ConfigError, "unknown weight norm", out, base, tuned, weight_norm="none")
    refused(ConfigError, "unknown dtype", out, base, tuned, dtype="fp8")
    refused(ConfigError, "matches no tensor", out, base, tuned, rules=["layers.7: 0.1"])
    refused(CheckpointError, "no tuned model", out, base, [])
    refused(CheckpointError, "no encoder at", out, base, tmp_path / "nowhere")


def test_output_over_an_input_or_over_other_files(pair: Any, tmp_path: Path) -> None:
    base, tuned = pair
    merge(base, tuned, out=tmp_path / "merged")
    before = file_digest(tmp_path / "merged" / "model.safetensors")
    with pytest.raises(ConfigError, match="merged is an input or holds one"):
        merge(base, tmp_path / "merged" / "model.safetensors", out=tmp_path / "merged")
    assert file_digest(tmp_path / "merged" / "model.safetensors") == before
    merge(base, tmp_path / "merged" / "model.safetensors", out=tmp_path / "merged" / "x.pt")
    with pytest.raises(ConfigError, match="is an input"):
        merge(base, tuned, out=base)
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.tex").write_text("x")
    with pytest.raises(RunError, match=r"already holds chapter\.tex"):
        merge(base, tuned, out=other)
    assert (other / "chapter.tex").read_text() == "x"
    theirs = tmp_path / "theirs"
    shutil.copytree(tuned, theirs)
    with pytest.raises(RunError, match=r"already holds config\.json, model\.safetensors, which w"):
        merge(base, tuned, out=theirs)
    (tmp_path / "empty").mkdir()
    assert merge(base, tuned, out=tmp_path / "empty").out_digest


def test_endings_that_are_not_written(pair: Any, tmp_path: Path) -> None:
    refused(ConfigError, "names a file, but --to hf", tmp_path / "o.safetensors", *pair, to="hf")
    refused(ConfigError, "names a file, but --to hf", tmp_path / "o.pt", *pair, to="hf")
    refused(ConfigError, "not written as s3prl", tmp_path / "o.safetensors", *pair, to="s3prl")
    refused(ConfigError, "not written as weights", tmp_path / "o.bin", *pair)


def test_an_input_that_vanishes_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read an input: .*gone\.safetensors"):
        InputDigests([tmp_path / "gone.safetensors"]).result()


def test_truncated_and_foreign_files(pair: Any, tmp_path: Path) -> None:
    base, tuned = pair
    data = (tuned / "model.safetensors").read_bytes()
    (tuned / "model.safetensors").write_bytes(data[: len(data) // 2])
    refused(CheckpointError, "not a complete safetensors file", tmp_path / "out", base, tuned)
    (tuned / "model.safetensors").unlink()
    refused(CheckpointError, "holds no weights", tmp_path / "out", base, tuned)
    text = tmp_path / "notes.pt"
    text.write_text("not a checkpoint")
    told = refused(CheckpointError, "is text, not a checkpoint", tmp_path / "out", base, text)
    assert "weights_only" not in told


def test_an_adapter_is_no_encoder(pair: Any, tmp_path: Path) -> None:
    base, _ = pair
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    text = refused(CheckpointError, "holds an adapter", tmp_path / "out", base, adapter)
    assert "merge_and_unload" in text


def test_more_models_than_can_be_open_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="201 tuned models were given, of which at most 200"):
        merge(tmp_path / "base", [tmp_path / "tuned"] * 201, out=tmp_path / "merged")


def test_an_output_that_holds_an_input_is_refused(pair: Any, tmp_path: Path) -> None:
    base, tuned = pair
    for out in (tmp_path, tuned, tuned / "model.safetensors"):
        with pytest.raises(ConfigError, match="is an input or holds one"):
            merge(base, tuned, out=out)
    merge(base, tuned, out=tuned / "below")  # holds none


@pytest.mark.parametrize("density", [0.0, 1.01, 1.5, 2.0])
def test_a_density_is_a_share(density: float, pair: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a number above 0 and up to 1"):
        merge(*pair, method="ties", density=density, out=tmp_path / "m")


def test_the_report_tells_range_and_seconds(pair: Any, tmp_path: Path) -> None:
    done = merge(*pair, alpha=0.5, rules={"layers.0": 0.1}, out=tmp_path / "m")
    assert done.alpha_range == (0.1, 0.5)
    assert 0 < done.seconds < 1000


def test_a_model_that_is_given_twice_is_warned_of(
    base_model: Any, tune: Any, save: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    tuned_model = tune(base_model)
    base, tuned = save(base_model, "base"), save(tuned_model, "tuned")
    for models in ([tuned, tuned], [tuned_model, tuned_model]):
        merge(base, models)
        assert capfd.readouterr().err.count("is given more than once, and counts as often") == 1
    merge(base, [tuned, tuned_model])
    assert "more than once" not in capfd.readouterr().err


def test_modules_are_called_what_they_are(base_model: Any) -> None:
    with pytest.raises(LineageError, match="the tuned module equals the base module in every"):
        merge(base_model, base_model)
