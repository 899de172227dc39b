"""From a name to an encoder, and what is said when that fails."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import HubertForCTC

from helpers import noise, speech_encoder
from speechft.encoders import load
from speechft.encoders.build import all_finite
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.encoders.load import (
    digest_of,
    load_encoder,
    packaged_encoders,
    random_encoder,
    resolve_encoder,
)
from speechft.encoders.mfcc import MfccEncoder
from speechft.errors import CheckpointError, ConfigError
from speechft.storage.files import encoder_digest, file_digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    speech_encoder("hubert").save(tmp_path / "encoder")
    return tmp_path / "encoder"


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, {"format": "pt"})


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("family", ["hubert", "wav2vec2", "wavlm"])
def test_loaded_encoder_gives_the_same_states(family: str, large: bool, tmp_path: Path) -> None:
    encoder = speech_encoder(family, large=large)
    encoder.save(tmp_path)
    loaded = load_encoder(tmp_path)
    assert isinstance(loaded, HuggingFaceEncoder)
    assert not loaded.training
    assert loaded.normalize == large
    batch = noise(5_000, 3_000)
    with torch.inference_mode():
        assert torch.equal(loaded(*batch).hidden_states, encoder(*batch).hidden_states)


def test_half_weights_compute_in_float32(tmp_path: Path) -> None:
    speech_encoder("hubert").half().save(tmp_path)
    loaded = load_encoder(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_encoder_inside_a_task_model_loads(tmp_path: Path) -> None:
    encoder = speech_encoder("hubert")
    task_model = HubertForCTC(encoder.model.config)
    task_model.hubert.load_state_dict(encoder.model.state_dict())
    task_model.save_pretrained(tmp_path)
    batch = noise(5_000)
    with torch.inference_mode():
        states = load_encoder(tmp_path)(*batch).hidden_states
        assert torch.equal(states, encoder(*batch).hidden_states)


@pytest.mark.parametrize("name", sorted(packaged_encoders()))
def test_packaged_encoder_loads_by_name(name: str) -> None:
    encoder = load_encoder(name)
    with torch.inference_mode():
        output = encoder(*noise(8_000))
    assert len(output.layers) == encoder.num_layers + 1
    assert output.hidden_states.isfinite().all()
    assert digest_of(name) == digest_of(packaged_encoders()[name])


def test_there_is_a_packaged_encoder() -> None:
    assert "tiny-hubert" in packaged_encoders()


def test_features_without_weights_load_by_name() -> None:
    plain, normalised = load_encoder("mfcc"), load_encoder("mfcc-cmvn")
    assert isinstance(plain, MfccEncoder)
    assert isinstance(normalised, MfccEncoder)
    assert (plain.cmvn, normalised.cmvn) == (False, True)
    assert digest_of("mfcc") != digest_of("mfcc-cmvn")


def test_unknown_mode_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="unknown mode 'exakt'; choices are: exact, s3prl"):
        load_encoder(folder, mode="exakt")  # type: ignore[arg-type]


def test_mode_reaches_the_encoder(folder: Path) -> None:
    loaded = load_encoder(folder, mode="s3prl")
    assert isinstance(loaded, HuggingFaceEncoder)
    assert loaded.mode == "s3prl"


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no encoder at") as caught:
        load_encoder(tmp_path / "nowhere")
    assert "tiny-hubert" in str(caught.value.hint)


def test_the_weight_file_of_a_folder_stands_for_it(folder: Path) -> None:
    batch = noise(5_000)
    with torch.inference_mode():
        expected = load_encoder(folder)(*batch).hidden_states
        assert torch.equal(
            load_encoder(folder / "model.safetensors")(*batch).hidden_states, expected
        )


def test_hub_id_that_cannot_be_downloaded_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(CheckpointError, match="could it be downloaded: ConnectionError"):
        resolve_encoder("somebody/some-encoder")


def test_hub_id_is_downloaded_without_pickles(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert resolve_encoder("somebody/some-encoder") == folder
    assert (asked["name"], asked["revision"]) == ("somebody/some-encoder", None)
    resolve_encoder("somebody/some-encoder@refs/pr/3")
    assert (asked["name"], asked["revision"]) == ("somebody/some-encoder", "refs/pr/3")
    assert not any(pattern.endswith((".bin", ".pt")) for pattern in asked["patterns"])
    assert {"preprocessor_config.json", "processor_config.json"} <= set(asked["patterns"])


def test_other_model_types_are_refused(folder: Path) -> None:
    change_config(folder, model_type="bert")
    with pytest.raises(
        CheckpointError, match="type 'bert'; supported are: data2vec-audio, decoar2"
    ):
        load_encoder(folder)


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_broken_configuration_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_encoder(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": "wide"},
        {"hidden_act": "nope"},
        {"conv_dim": [8] * 3},
        {"feat_extract_norm": "nope"},
        {"num_attention_heads": 0},
    ],
)
def test_impossible_configuration_is_refused(folder: Path, fields: dict[str, Any]) -> None:
    change_config(folder, **fields)
    with pytest.raises(CheckpointError, match="cannot be loaded as hubert"):
        load_encoder(folder)


def test_missing_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors"):
        load_encoder(folder)


@pytest.mark.parametrize("kept", [4, 100, -1])
def test_truncated_weights_are_refused(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="not a complete safetensors file") as caught:
        load_encoder(folder)
    assert "truncated" in str(caught.value.hint)


def test_trailing_bytes_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\0" * 8)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_encoder(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    name = "encoder.layers.1.attention.k_proj.weight"
    change_weights(folder, lambda weights: weights[name].view(-1)[3:4].fill_(value))
    with pytest.raises(CheckpointError, match=f"NaN or infinite weights in {name}"):
        load_encoder(folder)


def test_missing_tensor_is_refused(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.pop("encoder.layers.1.attention.k_proj.weight"))
    with pytest.raises(CheckpointError, match=r"missing: \['encoder.layers.1.attention.k_proj"):
        load_encoder(folder)


def test_mask_embedding_may_be_missing(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.pop("masked_spec_embed"))
    assert load_encoder(folder).num_layers == 2


def test_tensor_of_another_shape_is_named(folder: Path) -> None:
    def shorten(weights: dict[str, torch.Tensor]) -> None:
        weights["encoder.layer_norm.weight"] = torch.ones(5)

    change_weights(folder, shorten)
    with pytest.raises(CheckpointError, match=r"of another shape: .*encoder\.layer_norm\.weight"):
        load_encoder(folder)


def test_random_encoder_depends_on_its_seed_only(folder: Path) -> None:
    torch.manual_seed(1)
    first = random_encoder(folder, seed=3)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    torch.manual_seed(2)
    same, other = random_encoder(folder, seed=3), random_encoder(folder, seed=4)
    name = "model.encoder.layers.0.attention.k_proj.weight"
    weights = [dict(e.named_parameters())[name] for e in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not first.training


def test_digest_sees_weights_and_configuration(folder: Path, tmp_path: Path) -> None:
    before = digest_of(folder)
    shutil.copytree(folder, tmp_path / "copy")
    assert digest_of(tmp_path / "copy") == before
    change_config(folder, hidden_dropout=0.3)
    assert digest_of(folder) != before
    change_weights(tmp_path / "copy", lambda weights: weights["masked_spec_embed"].add_(1))
    assert digest_of(tmp_path / "copy") != before


def test_digest_sees_normalisation_only_where_the_configuration_does_not_imply_it(
    folder: Path,
) -> None:
    processor = folder / "preprocessor_config.json"
    assert digest_of(folder) == encoder_digest(folder)
    processor.write_text('{"do_normalize": true}')
    changed = digest_of(folder)
    assert changed != encoder_digest(folder)
    change_config(folder, do_normalize=True)
    assert digest_of(folder) == encoder_digest(folder) != changed
    processor.unlink()
    assert digest_of(folder) == encoder_digest(folder)


def test_digest_of_a_file_sees_the_configuration_beside_it(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    shutil.copy(folder / "model.safetensors", path)
    alone = digest_of(path)
    assert alone == file_digest(path)
    shutil.copy(folder / "config.json", tmp_path / "x.config.json")
    beside = digest_of(path)
    change_config(folder, hidden_dropout=0.3)
    shutil.copy(folder / "config.json", tmp_path / "x.config.json")
    assert len({alone, beside, digest_of(path)}) == 3


def test_a_folder_without_configuration_has_a_digest(folder: Path, tmp_path: Path) -> None:
    config = (folder / "config.json").rename(tmp_path / "elsewhere.json")
    assert load_encoder(folder, config=config).num_layers == 2
    assert digest_of(folder) == file_digest(folder / "model.safetensors")


def test_loading_leaves_the_libraries_verbosity_alone(folder: Path) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity()
    load_encoder(folder)
    assert logging.get_verbosity() == before
    assert load.FEATURES.keys() == {"mfcc", "mfcc-cmvn"}


def test_hub_id_with_pickles_only_is_downloaded_and_read_safely(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first HuBERT and WavLM are published so."""
    batch = noise(4_000)
    with torch.inference_mode():
        expected = load_encoder(folder)(*batch).hidden_states
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    asked: list[str] = []

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        target = tmp_path / "snapshot"
        target.mkdir(exist_ok=True)
        (target / "adapter.deu.safetensors").touch()  # MMS: beside the weights, none of them
        shutil.copy(folder / "config.json", target)
        if "pytorch_model*.bin" in allow_patterns:
            shutil.copy(tmp_path / "pytorch_model.bin", target)
        return str(target)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with torch.inference_mode():
        assert torch.equal(load_encoder("somebody/old")(*batch).hidden_states, expected)
    assert asked.index("model.safetensors") < asked.index("pytorch_model*.bin")
    assert not any(fnmatch("adapter.deu.safetensors", pattern) for pattern in asked)
    assert len(digest_of("somebody/old")) == 64


@pytest.mark.parametrize("large", [False, True])
def test_normalisation_is_as_published_where_the_folder_does_not_say(
    large: bool, tmp_path: Path
) -> None:
    speech_encoder("wav2vec2", large=large).save(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    loaded = load_encoder(tmp_path)
    assert isinstance(loaded, HuggingFaceEncoder)
    assert loaded.normalize == large


@pytest.mark.parametrize("from_json", [False, True])
def test_normalisation_is_read_from_what_transformers_5_writes(
    from_json: bool, folder: Path
) -> None:
    """Its ``Wav2Vec2Processor`` writes no ``preprocessor_config.json``."""
    (folder / "preprocessor_config.json").unlink()
    inside = {"feature_extractor": {"do_normalize": True}, "processor_class": "Wav2Vec2Processor"}
    (folder / "processor_config.json").write_text(json.dumps(inside))
    given: Any = {"config": folder / "config.json"} if from_json else {}
    loaded = load_encoder(folder, **given)
    assert isinstance(loaded, HuggingFaceEncoder)
    assert loaded.normalize is True


def test_task_vector_is_no_encoder(folder: Path, tmp_path: Path) -> None:
    from speechft.merging import make_delta

    make_delta(folder, folder, tmp_path / "delta.safetensors", force=True)
    with pytest.raises(CheckpointError, match="is a task vector, not an encoder"):
        load_encoder(tmp_path / "delta.safetensors")


@pytest.mark.parametrize("name", [None, "somebody/adapter"])
def test_adapter_is_no_encoder(
    name: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "adapter_config.json").write_text("{}")

    def download(*_: Any, allow_patterns: list[str], **__: Any) -> str:
        for path in folder.iterdir():
            if not any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                path.unlink()
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(CheckpointError, match="holds an adapter") as caught:
        load_encoder(name or folder)
    assert "merge_and_unload" in str(caught.value.hint)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_is_found(value: float, dtype: torch.dtype) -> None:
    for place in (0, 20, 34):
        tensor = torch.randn(5, 7).to(dtype)
        assert all_finite(tensor)
        tensor.view(-1)[place] = value
        assert not all_finite(tensor)
    assert all_finite(torch.empty(0, 3, dtype=dtype))
