"""Configurations that a file does not hold: read off the tensors, published, given, or refused."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, HubertConfig, HubertModel

from helpers import TINY, speech_encoder, tiny_decoar2
from speechft.encoders.conversion import configs
from speechft.encoders.conversion.checkpoints import open_checkpoint
from speechft.encoders.conversion.schema import COUNTS
from speechft.encoders.conversion.settings import (
    complete_settings,
    implied_normalisation,
    published_settings,
)
from speechft.encoders.convert import convert
from speechft.encoders.families import FAMILIES
from speechft.encoders.inspection import inspect_encoder
from speechft.encoders.load import load_encoder
from speechft.errors import CheckpointError, SpeechftError
from speechft.merging import merge
from speechft.storage.files import read_json, write_json

PUBLISHED: dict[str, dict[str, Any]] = {
    "hubert base": {},
    "hubert large": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16},
    "hubert x-large": {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16},
    "wav2vec2 base": {},
    "wav2vec2 large": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16},
    "wavlm base": {},
    "wavlm large": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16},
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_models_are_described_by_their_tensors(name: str) -> None:
    """Two layers of the published width, on the meta device; the whole would be gigabytes."""
    family = name.split()[0]
    fields = {**PUBLISHED[name], "num_hidden_layers": 2}
    if "large" in name:
        fields |= {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    config = AutoConfig.for_model(family, **fields)
    with torch.device("meta"):
        state = AutoModel.from_config(config).state_dict()
    arrays = {n: np.broadcast_to(np.float32(0), tuple(t.shape)) for n, t in state.items()}
    if family != "wavlm":
        head = "label_embs_concat" if family == "hubert" else "project_q.bias"
        arrays[head] = np.zeros((4, 4), np.float32)
    found = published_settings(open_checkpoint({n: a[:] for n, a in arrays.items()}))
    assert found.pop("do_normalize") == ("large" in name)
    assert found.pop("architectures") == [FAMILIES[family].architecture]
    for key, value in found.items():
        assert value == (
            list(known) if isinstance(known := getattr(config, key), tuple) else known
        ), key


def bare(family: str, path: Path, **heads: torch.Tensor) -> Path:
    state = speech_encoder(family).model.state_dict()
    save_file({**{n: t.contiguous() for n, t in state.items()}, **heads}, path)
    return path


def test_unpublished_sizes_without_configuration_are_refused(tmp_path: Path) -> None:
    path = bare("hubert", tmp_path / "x.safetensors", label_embs_concat=torch.ones(4, 2))
    with pytest.raises(CheckpointError, match="number of attention heads cannot be known") as error:
        load_encoder(path)
    assert "config='CONFIG'" in str(error.value.hint)


def test_hubert_is_not_guessed_where_it_could_be_wav2vec2(tmp_path: Path) -> None:
    path = bare("hubert", tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="it is: wavlm, hubert, wav2vec2"):
        load_encoder(path)


def test_wavlm_tells_its_heads(tmp_path: Path) -> None:
    found = complete_settings(open_checkpoint(bare("wavlm", tmp_path / "x.safetensors")))
    assert (found["model_type"], found["num_attention_heads"]) == ("wavlm", 2)


def test_configuration_of_another_family_is_refused(tmp_path: Path) -> None:
    path = bare("wavlm", tmp_path / "x.safetensors")
    speech_encoder("hubert").save(tmp_path / "hubert")
    with pytest.raises(CheckpointError, match="is a wavlm model; its configuration is of type"):
        load_encoder(path, config=tmp_path / "hubert")


def test_given_configuration_may_be_a_folder_its_json_or_a_mapping(tmp_path: Path) -> None:
    path = bare("wavlm", tmp_path / "x.safetensors")
    encoder = speech_encoder("wavlm", large=False)
    encoder.normalize = True
    encoder.save(tmp_path / "hf")
    for given in (tmp_path / "hf", tmp_path / "hf" / "config.json"):
        loaded: Any = load_encoder(path, config=given)
        assert loaded.normalize is True


def test_json_that_is_no_configuration_is_refused(tmp_path: Path) -> None:
    path = bare("wavlm", tmp_path / "x.safetensors")
    (tmp_path / "c.json").write_text('{"a": 1}')
    with pytest.raises(CheckpointError, match=r"c\.json is not a configuration: it has neither"):
        load_encoder(path, config=tmp_path / "c.json")


@pytest.mark.parametrize("name", ["data2vec_audio", "unispeech", "mms"])
def test_fairseq_models_of_other_families_are_refused_by_name(name: str) -> None:
    content = {"cfg": {"model": {"_name": name, "encoder_embed_dim": 8}}}
    with pytest.raises(CheckpointError, match=f"the family '{name}'; supported in s3prl's"):
        configs.to_hugging_face(content, None, {})


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_what_a_configuration_leaves_out_is_at_its_default(name: str) -> None:
    """As in transformers, where ``{"model_type": ...}`` alone is a model of the usual size."""
    family = FAMILIES[name]
    whole = family.whole({"model_type": name})
    full = family.model_class({"model_type": name})[1].to_dict()
    assert whole == {"model_type": name, **{key: full[key] for key in family.defaults}}
    assert family.strides(whole) == family.strides(full)
    assert family.window(whole) == family.window(full)
    told = {"do_normalize": False}
    assert family.processor({**whole, **told}) == family.processor({**full, **told})
    assert family.whole(full) == full
    assert implied_normalisation({"model_type": name}) == implied_normalisation(full)
    given = dict.fromkeys(family.defaults, 7)
    assert family.whole(given) == given


def test_an_encoder_whose_configuration_leaves_out_what_is_usual(tmp_path: Path) -> None:
    """Loaded, converted and merged as the same one with all fields written out."""
    usual = {"conv_dim", "conv_kernel", "conv_stride", "feat_extract_norm"}
    sizes = {**TINY, "conv_dim": [512] * 7, "num_hidden_layers": 1}
    torch.manual_seed(0)
    for each in ("whole", "short"):
        HubertModel(HubertConfig(**sizes)).save_pretrained(tmp_path / each)
    config = read_json(tmp_path / "short" / "config.json")
    assert usual <= set(config)
    write_json(tmp_path / "short" / "config.json", {k: config[k] for k in config.keys() - usual})
    (tmp_path / "whole" / "model.safetensors").replace(tmp_path / "short" / "model.safetensors")
    shutil.copy(tmp_path / "short" / "model.safetensors", tmp_path / "whole")
    files = {}
    for each in ("whole", "short"):
        place = tmp_path / each
        convert(place, tmp_path / f"{each}.pt", target="s3prl")
        convert(place, tmp_path / f"{each} as a folder")
        merge(place, place, 0.25, out=tmp_path / f"{each} merged.pt", force=True)
        names = (f"{each}.pt", f"{each} merged.pt")
        files[each] = [torch.load(tmp_path / n, weights_only=True)["model_cfg"] for n in names]
        files[each].append(read_json(tmp_path / f"{each} as a folder" / "config.json")["conv_dim"])
    assert files["short"] == files["whole"]
    audio = torch.randn(1, 8000)
    features = [load_encoder(tmp_path / each)(audio, torch.tensor([8000])) for each in files]
    assert torch.equal(features[0].last_hidden_state, features[1].last_hidden_state)


def _save(family: str, place: Path) -> None:
    if family in ("whisper", "wav2vec2-bert"):
        module = importlib.import_module(f"encoders.test_{family.replace('-', '_')}")
        module.tiny().save_pretrained(place)
    else:
        (tiny_decoar2() if family == "decoar2" else speech_encoder(family)).save(place)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_any_one_field_may_be_left_out(name: str, tmp_path: Path) -> None:
    """It ends in an encoder, or in one error where the default is not what the weights are of."""
    place, files = tmp_path / "encoder", FAMILIES[name].in_s3prl
    _save(name, place)
    config = read_json(place / "config.json")
    verbs: list[Callable[[Path], Any]] = [
        lambda out: inspect_encoder(place),
        lambda out: convert(place, out),
        lambda out: merge(place, place, 0.5, out=out, force=True),
    ]
    if files:
        verbs += [
            lambda out: convert(place, out.with_suffix(".pt"), target="s3prl"),
            lambda out: merge(place, place, 0.5, out=out.with_suffix(".pt"), force=True),
        ]
    ended = 0
    for number, field in enumerate(sorted(config)):
        write_json(place / "config.json", {k: v for k, v in config.items() if k != field})
        for verb, work in enumerate(verbs):
            try:
                work(tmp_path / f"out-{number}-{verb}")
            except SpeechftError:
                assert field in {"model_type", *COUNTS, *_SHAPED}, field
            else:
                ended += 1
    assert ended > len(config) * (len(verbs) - 1)


_SHAPED = {"conv_dim", "conv_kernel", "conv_stride", "conv_bias", "feat_extract_norm"}
_SHAPED |= {"do_stable_layer_norm", "add_adapter", "feat_proj_layer_norm"}
