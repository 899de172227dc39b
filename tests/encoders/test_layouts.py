"""Checkpoints as they lie about: each layout is read, or refused by one error that names it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save, save_file

from helpers import noise, speech_encoder
from speechft import cli
from speechft.encoders.conversion.foreign import refuse_foreign
from speechft.encoders.conversion.keys import to_s3prl
from speechft.encoders.convert import convert
from speechft.encoders.inspection import inspect_encoder
from speechft.encoders.load import load_encoder, random_encoder
from speechft.encoders.opening import open_encoder
from speechft.errors import CheckpointError, SpeechftError
from speechft.merging import make_delta, merge

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layouts") / "base"
    speech_encoder("hubert").save(folder)
    return folder


@pytest.fixture
def state(base: Path) -> State:
    return load_file(base / "model.safetensors")


def moved(state: State, seed: int = 1) -> State:
    """Return weights as fine-tuning leaves them: near, and in the same direction."""
    generator = torch.Generator().manual_seed(seed)
    return {n: t + 0.02 * t * torch.randn(t.shape, generator=generator) for n, t in state.items()}


def torchaudio_names(state: State) -> State:
    def spelt(name: str) -> str:
        if name.startswith("feature_projection."):
            return f"encoder.{name}"
        return name.replace("encoder.", "encoder.transformer.", 1)

    return {spelt(name) if "masked" not in name else name: t for name, t in state.items()}


def copied(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


READ: dict[str, Callable[[State], Any]] = {
    "model_state_dict": lambda s: {"epoch": 3, "model_state_dict": s, "optimizer": {"state": {}}},
    "module of DeepSpeed": lambda s: {"module": {f"hubert.{n}": t for n, t in s.items()}},
    "a key of their own": lambda s: {"upstream_weights": s, "step": 5},
    "two keys deep": lambda s: {"checkpoint": {"net": s}, "args": None},
    "Lightning with arrays beside": lambda s: {
        "state_dict": {f"model.{n}": t for n, t in s.items()},
        "callbacks": {"scores": np.arange(3.0), "best": np.float64(0.5)},
    },
    "Lightning's own module": lambda s: {
        "state_dict": {f"net.hubert.{n}": t for n, t in s.items()}
    },
    "numbers among the tensors": lambda s: {**s, "version": 2, "_metadata": {"a": 1}},
    "torchaudio": torchaudio_names,
    "torchaudio in a model": lambda s: {
        **{f"wav2vec2.{n}": t for n, t in torchaudio_names(s).items()},
        "aux.weight": torch.zeros(3, 24),
    },
    "student and teacher": lambda s: {
        "state_dict": {
            **{f"teacher.{n}": t for n, t in moved(s).items()},
            **{f"student.{n}": t for n, t in s.items()},
        }
    },
    "a running average beside": lambda s: {"model_state_dict": s, "ema_state_dict": moved(s)},
    "a running average within": lambda s: {
        **{f"encoder.{n}": t for n, t in s.items()},
        **{f"ema.encoder.{n}": t for n, t in moved(s).items()},
    },
}


@pytest.mark.parametrize("layout", READ)
def test_a_layout_is_read(layout: str, base: Path, state: State, tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    torch.save(READ[layout](state), file)
    found = load_encoder(file, config=base).state_dict()
    expected = load_encoder(base).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_torchaudio_merges_and_converts(base: Path, state: State, tmp_path: Path) -> None:
    torch.save(torchaudio_names(moved(state)), tmp_path / "tuned.pt")
    merged = merge(base, tmp_path / "tuned.pt", alpha=1.0)
    tuned = moved(state)
    assert all(torch.allclose(merged[name], tuned[name]) for name in tuned)
    report = convert(tmp_path / "tuned.pt", tmp_path / "hf", config=base)
    assert report.heads_left_out == ()


def test_the_other_encoder_is_named_and_is_no_head(
    base: Path, state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(READ["student and teacher"](state), tmp_path / "last.ckpt")
    found = inspect_encoder(tmp_path / "last.ckpt", base)
    assert (found.task_heads, found.other_encoders) == ([], ["teacher."])
    assert "under 'student.'" in "\n".join(found.lines())
    assert "further encoders are left out: teacher." in capsys.readouterr().err
    torch.save(READ["a running average beside"](state), tmp_path / "ema.pt")
    assert inspect_encoder(tmp_path / "ema.pt", base).other_encoders == ["ema_state_dict"]


def test_an_unknown_tensor_is_named_once(
    base: Path, state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"lm_head.weight": torch.zeros(2), "film.scale": torch.ones(2)}
    torch.save({**{f"hubert.{n}": t for n, t in state.items()}, **more}, tmp_path / "x.pt")
    found = inspect_encoder(tmp_path / "x.pt", base)
    assert (found.task_heads, found.not_understood) == (["lm_head.weight"], ["film.scale"])
    load_encoder(tmp_path / "x.pt", config=base)
    assert capsys.readouterr().err.count("film.scale") == 1


REFUSED: dict[str, tuple[Callable[[State], Any], str]] = {
    "two encoders": (
        lambda s: {f"{p}.{n}": t for p in ("left", "right") for n, t in s.items()},
        r"several encoders, under left\., right\.",
    ),
    "two encoders below keys": (lambda s: {"left": s, "right": s}, "several encoders, under left"),
    "a teacher alone": (
        lambda s: {**{f"teacher.{n}": t for n, t in s.items()}, "student.w": torch.ones(2)},
        r"no encoder but a teacher or a running average, under teacher\.",
    ),
    "LoRA within a state dict": (
        lambda s: {**s, "encoder.layers.0.attention.q_proj.lora_A.default.weight": torch.ones(4)},
        r"holds an adapter \(LoRA: tensor",
    ),
    "a tensor of the model's own": (
        lambda s: {**{f"hubert.{n}": t for n, t in s.items()}, "hubert.prompt": torch.ones(2)},
        r"without a place: \['prompt'\]",
    ),
    "half": (
        lambda s: {n: t for n, t in s.items() if "layers.1." not in n},
        "weights have 1 layers",
    ),
    "another width": (
        lambda s: {**s, "masked_spec_embed": torch.ones(3)},
        r"of another shape: \['masked_spec_embed",
    ),
    "nothing": (lambda s: {"state_dict": {"epoch": 1}}, "holds dict, expected weights|no tensors"),
    "data2vec of fairseq": (
        lambda s: {
            "cfg": {"model": {"_name": "data2vec_audio", "encoder_embed_dim": 24}},
            "model": {**{to_s3prl(list(s))[n]: t for n, t in s.items()}, "_ema": {"w": s}},
        },
        "names the family 'data2vec_audio'",
    ),
}


@pytest.mark.parametrize("layout", REFUSED)
def test_a_layout_is_refused_by_name(layout: str, base: Path, state: State, tmp_path: Path) -> None:
    content, told = REFUSED[layout]
    torch.save(content(state), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=told):
        load_encoder(tmp_path / "x.pt", config=base)
    inspect_or_error(tmp_path / "x.pt", base)


def inspect_or_error(file: Path, config: Path) -> None:
    """Make sure that inspect, too, says that a file cannot be used."""
    try:
        problem = inspect_encoder(file, config).problem
    except CheckpointError as error:
        problem = error.message
    assert problem


def hydra(state: State, **model: Any) -> dict[str, Any]:
    spelled = to_s3prl(list(state))
    weights = {f"w2v_encoder.w2v_model.{spelled[n]}": t for n, t in state.items()}
    fields = {"_name": "hubert_ctc", "w2v_path": "/b.pt", "w2v_args": None, "normalize": False}
    return {"args": None, "cfg": {"model": {**fields, **model}, "task": {}}, "model": weights}


def test_fairseq_without_w2v_args(
    base: Path, state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "best.pt"
    torch.save(hydra(moved(state), encoder_embed_dim=768, encoder_layers=12), file)
    assert merge(base, file, dry_run=True).merged
    assert inspect_encoder(file).problem is not None
    (copied(base, tmp_path / "c") / "preprocessor_config.json").write_text('{"do_normalize": true}')
    encoder: Any = load_encoder(file, config=tmp_path / "c")
    assert encoder.normalize is False  # as the file says that it was trained
    assert "as they are: taken" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["model_cfg null", "cfg null"])
def test_null_sections_are_no_traceback(
    layout: str, base: Path, state: State, tmp_path: Path
) -> None:
    spelled = {to_s3prl(list(state))[n]: t for n, t in state.items()}
    content: dict[str, Any] = {"cfg": None, "args": None, "model": spelled}
    if layout == "model_cfg null":
        content = {"task_cfg": None, "model_cfg": None, "model_weight": spelled}
    torch.save(content, tmp_path / "x.pt")
    assert load_encoder(tmp_path / "x.pt", config=base).num_layers == 2
    with pytest.raises(CheckpointError, match="holds no configuration"):
        load_encoder(tmp_path / "x.pt")


CONFIGS: dict[str, tuple[dict[str, Any], str | None]] = {
    "family in capitals": ({"model_type": "HuBERT"}, None),
    "sizes null": ({"conv_dim": None, "hidden_size": None}, "hidden_size, conv_dim null"),
    "normalisation as text": ({"do_normalize": "false"}, "do_normalize = 'false'"),
    "8 kHz": ({"sampling_rate": 8_000}, "takes audio at 8000 Hz"),
    "a rate as text": ({"sampling_rate": "16k"}, "takes audio at '16k' Hz"),
    "nulls of the processor": ({"do_normalize": None, "sampling_rate": None}, None),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_and_processors(name: str, base: Path, tmp_path: Path) -> None:
    changes, told = CONFIGS[name]
    folder = copied(base, tmp_path / "x")
    of_audio = {"do_normalize", "sampling_rate"}
    for file in ("config.json", "preprocessor_config.json"):
        content = json.loads((folder / file).read_text())
        own = {k: v for k, v in changes.items() if (k in of_audio) == file.startswith("pre")}
        (folder / file).write_text(json.dumps(content | own))
    if told is None:
        load_encoder(folder)
        return
    with pytest.raises(CheckpointError, match=told):
        load_encoder(folder)
    with pytest.raises(CheckpointError, match=told):
        random_encoder(folder, 0)


def test_a_key_in_capitals_is_named(base: Path, tmp_path: Path) -> None:
    folder = copied(base, tmp_path / "x")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("model_type", "Model_Type"))
    with pytest.raises(CheckpointError, match="has the key 'Model_Type', expected 'model_type'"):
        load_encoder(folder)


def test_header_with_null_metadata(base: Path, state: State, tmp_path: Path) -> None:
    raw = save(state)
    size = int.from_bytes(raw[:8], "little")
    header = json.dumps({"__metadata__": None, **json.loads(raw[8 : 8 + size])}).encode()
    file = tmp_path / "w.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + size :])
    assert inspect_encoder(file, base).problem is None


FOREIGN: dict[str, tuple[str, bytes, str]] = {
    "LFS, safetensors": ("m.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
    "LFS, pickle": ("m.bin", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "a web page": ("m.safetensors", b"<!DOCTYPE html><html>", "is a web page"),
    "nothing": ("m.pt", b"", "is empty"),
    "code": ("my.py", b"class A: pass", "is Python code, not a checkpoint"),
    "a recipe": ("r.yaml", b"a: 1", "is text in YAML"),
    "JSON": ("c.json", b'{"a": 1}', "is JSON, not a checkpoint"),
    "ONNX": ("m.onnx", b"\x08\x07", "is ONNX"),
    "Flax": ("flax_model.msgpack", b"\x81", "holds weights of Flax"),
    "TensorFlow": ("tf_model.h5", b"\x89HDF\r\n", "is HDF5"),
    "an archive": ("m.tar.gz", b"\x1f\x8b\x08", "is compressed with gzip"),
    "text without a suffix": ("utt2spk", b"u1 anna\nu2 ben\n", "is text, not a checkpoint"),
    "text of another suffix": ("a.scp", "u1 \u00fc.wav\n".encode(), "is text, not a checkpoint"),
    "long text, cut in a letter": ("m.bin", b"a" + "\u00fc".encode() * 999, "is text, not a check"),
    "UTF-16": ("m.pt", "u1 anna\n".encode("utf-16"), "is text, not a checkpoint"),
    "text as a checkpoint": ("m.ckpt", b"Not found\n", "is text, not a checkpoint"),
    "text as safetensors": ("m.safetensors", b"Not found\n", "is text, not a checkpoint"),
    "JSON of no suffix": ("config", b'{"a": 1}', "is JSON, not a checkpoint"),
    "XML": ("m.pt", b"<?xml version='1.0'?><Error/>", "is text in XML"),
    "a recording": ("m", b"OggS\0\x02", "is a recording"),
    "parquet": ("m", b"PAR1\x15\x04", "is parquet, a table"),
    "tar": ("m.nemo", b"a".ljust(257, b"\0") + b"ustar\x0000", "is a tar archive"),
    "xz": ("m.pt", b"\xfd7zXZ\0\0", "is compressed with xz"),
    "zeros": ("m.pt", bytes(600), "begins with zeros"),
    "torch as safetensors": ("m.safetensors", b"PK\x03\x04\0\0", "call it m.pt"),
    "safetensors as torch": ("m.bin", save({"a": torch.ones(1)}), "call it m.safetensors"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_checkpoint_says_what_it_is(name: str, base: Path, tmp_path: Path) -> None:
    file, content, told = FOREIGN[name]
    (tmp_path / file).write_bytes(content)
    for verb in (inspect_encoder, load_encoder):
        with pytest.raises(CheckpointError, match=told):
            verb(tmp_path / file)
    with pytest.raises(CheckpointError, match=told):
        merge(base, tmp_path / file)


@pytest.mark.parametrize("length", [0x280, 0x685A42, 0x334449, 0x8B1F20])
def test_the_length_of_a_header_is_not_taken_for_another_format(
    length: int, tmp_path: Path
) -> None:
    """0x280 begins as a pickle does, the others as bzip2, MP3 and, behind a blank, gzip."""
    raw = save({"a": torch.ones(1)})
    size = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + size].ljust(length)
    file = tmp_path / "w.safetensors"
    file.write_bytes(length.to_bytes(8, "little") + header + raw[8 + size :])
    refuse_foreign(file)
    assert load_file(file).keys() == {"a"}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_pointers_and_links_in_a_folder(name: str, base: Path, tmp_path: Path) -> None:
    folder = copied(base, tmp_path / "x")
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CheckpointError, match="is a Git LFS pointer"):
        load_encoder(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("../blobs/gone")
    with pytest.raises(
        CheckpointError, match=r"is a link to \.\./blobs/gone, which does not exist"
    ):
        load_encoder(folder)
    (tmp_path / "w.pt").symlink_to("gone.pt")
    with pytest.raises(CheckpointError, match=r"is a link to gone\.pt"):
        inspect_encoder(tmp_path / "w.pt")


def test_folders_without_weights_say_what_can_be_given(base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    copied(base, run / "merged")
    with pytest.raises(CheckpointError) as caught:
        inspect_encoder(run)
    assert f"encoders lie below it: {run / 'merged'}" in str(caught.value)
    flax = tmp_path / "flax"
    flax.mkdir()
    (flax / "flax_model.msgpack").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="holds weights of Flax"):
        inspect_encoder(flax)


def test_encoders_below_count_before_stray_files(base: Path, state: State, tmp_path: Path) -> None:
    """As in what finetune and run write: heads, work and features lie beside encoders."""
    run = tmp_path / "run"
    run.mkdir()
    copied(base, run / "encoder")
    save_file({"linear.weight": torch.ones(2)}, run / "head.safetensors")
    torch.save(state, run / "stray.pt")
    told = f"encoders lie below it: {run / 'encoder'}"
    tuned: list[Callable[[], object]] = [
        lambda: inspect_encoder(run),
        lambda: load_encoder(run),
        lambda: merge(base, run),
        lambda: make_delta(base, run, tmp_path / "d.safetensors"),
    ]
    for verb in tuned:
        with pytest.raises(CheckpointError) as caught:
            verb()
        assert str(caught.value).endswith(told)
    deep = tmp_path / "runs" / "a" / "b"
    deep.mkdir(parents=True)
    copied(base, deep / "tuned")
    (deep / ".partial").mkdir()
    copied(base, deep / ".partial" / "half")
    (deep / "no weights").mkdir()
    (deep / "no weights" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError) as caught:
        inspect_encoder(tmp_path / "runs")
    assert str(caught.value).endswith(f"encoders lie below it: {deep / 'tuned'}")


def test_only_a_file_that_may_be_an_encoder_is_recommended(state: State, tmp_path: Path) -> None:
    save_file({"hidden_states": torch.ones(1, 2, 3)}, tmp_path / "001.safetensors")
    with pytest.raises(CheckpointError) as caught:
        inspect_encoder(tmp_path)
    assert "001.safetensors has no layers" in str(caught.value)
    assert "give the file" not in str(caught.value)
    save_file(state, tmp_path / "best.safetensors")
    with pytest.raises(CheckpointError) as caught:
        inspect_encoder(tmp_path)
    file = tmp_path / "best.safetensors"
    assert str(caught.value).endswith(f"give the file itself, such as {file}")


def sharded(state: State, folder: Path, left_out: int | None) -> Path:
    """Write two shards; the index lists but one where the other is left out."""
    names, parts = list(state), {}
    for number in (1, 2):
        own = names[: len(names) // 2] if number == 1 else names[len(names) // 2 :]
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({n: state[n] for n in own}, folder / file)
        parts |= {} if number == left_out else dict.fromkeys(own, file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    return folder


def test_an_index_that_lists_half_is_refused(base: Path, state: State, tmp_path: Path) -> None:
    torch.save(moved(state), tmp_path / "tuned.pt")
    for left_out in (1, 2):
        folder = sharded(state, copied(base, tmp_path / str(left_out)), left_out)
        with pytest.raises(
            CheckpointError, match=f"lists 1 of 2 shards; it lacks number {left_out}"
        ):
            merge(folder, tmp_path / "tuned.pt")
    folder = sharded(state, copied(base, tmp_path / "whole"), None)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lacks shards that its index lists"):
        merge(folder, tmp_path / "tuned.pt")


@pytest.mark.parametrize("part", ["feature_extractor.", "encoder.layers.1.", "k_proj.bias"])
def test_half_a_base_is_not_merged(part: str, base: Path, state: State, tmp_path: Path) -> None:
    """Both lack the same: only the configuration knows."""
    folder = copied(base, tmp_path / "half")
    kept = {n: t for n, t in state.items() if part not in n or (part[0] == "k" and "s.0." not in n)}
    save_file(kept, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks \d+ tensors of the hubert model"):
        merge(folder, moved(kept))


ADAPTER = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": "somebody/hubert"}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A folder as PEFT writes it."""
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    name = "base_model.model.encoder.layers.0.attention.q_proj.lora_A.weight"
    save_file({name: torch.ones(4, 24)}, folder / "adapter_model.safetensors")
    return folder


VERBS: dict[str, str] = {
    "inspect": "inspect {0}",
    "inspect its file": "inspect {0}/adapter_model.safetensors",
    "inspect the folder above": "inspect {2}",
    "convert": "convert {0} OUT",
    "extract": "extract {0} {1}/a.wav --out OUT",
    "evaluate": "evaluate {0} --tasks sid --out OUT --limit 2",
    "finetune": "finetune demo --set encoder={0} --out OUT",
    "merge as base": "merge {0} {1} --out OUT",
    "delta as base": "delta {0} {1} --out OUT.safetensors",
    "sweep as base": "sweep {0} {1} --tasks sid --corpus speech-mini --out OUT",
    "analyze as base": "analyze {0} {1} --corpus speech-mini --out OUT",
    "config": "inspect {1} --config {0}",
}


@pytest.mark.parametrize("verb", VERBS)
def test_an_adapter_whose_base_is_not_at_hand_is_refused_alike_by_every_verb(
    verb: str, adapter: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    import soundfile

    (tmp_path / "above").mkdir()
    adapter.rename(tmp_path / "above" / "lora")
    place = copied(base, tmp_path / "base")
    soundfile.write(place / "a.wav", np.zeros(4_000), 16_000)
    words = VERBS[verb].format(tmp_path / "above" / "lora", place, tmp_path / "above")
    told = (
        r"an adapter \(LoRA, rank 4\) for somebody/hubert, which is not in the Hugging Face cache"
    )
    if verb == "config":
        found = inspect_encoder(place, tmp_path / "above" / "lora").problem
        assert "holds an adapter" in str(found)
        return
    with pytest.raises(CheckpointError, match=told) as caught:
        cli.app(shlex.split(words), standalone_mode=False)
    assert "BASE+" in str(caught.value.hint)
    assert not (tmp_path / "OUT").exists() or not any((tmp_path / "OUT").glob("*.*"))


def test_commands_that_are_recommended_work(
    base: Path, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    import soundfile

    (tmp_path / "my models").mkdir()
    file = tmp_path / "my models" / "w.pt"
    torch.save(state, file)
    torch.save(moved(state), tmp_path / "TUNED")
    soundfile.write(tmp_path / "a.wav", 0.1 * noise(4_000)[0][0].numpy(), 16_000)
    found = inspect_encoder(file, base)
    assert found.problem is None
    commands = [command for command in found.next if "evaluate" not in command]
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command.replace("AUDIO...", "a.wav"))
        cli.app(words[1:], standalone_mode=False)
    commands = [c for c in inspect_encoder("encoder").next if "s3prl" in c]
    cli.app(shlex.split(commands[0])[1:], standalone_mode=False)
    asked = inspect_encoder(file).next
    assert asked == [f"speechft inspect '{file}' --config CONFIG"]


def test_a_name_gives_the_configuration_as_everywhere(state: State, tmp_path: Path) -> None:
    import speechft

    tiny = open_encoder("tiny-hubert")
    assert tiny.folder is not None
    file = tmp_path / "w.pt"
    torch.save(speechft.load_encoder("tiny-hubert").state_dict(), file)
    assert inspect_encoder(file, "tiny-hubert").problem is None


def test_positional_batch_norm_leaves_padding_out() -> None:
    """mHuBERT-25Hz; batched equals single, though the norm moves padding off zero."""
    encoder = speech_encoder("hubert", conv_pos_batch_norm=True)
    torch.manual_seed(0)
    encoder.model.encoder.pos_conv_embed.batch_norm.running_mean.normal_()
    encoder.model.encoder.pos_conv_embed.batch_norm.bias.data.normal_()
    waveforms, lengths = noise(8_000, 4_100)
    with torch.inference_mode():
        batched = encoder(waveforms, lengths).layers
        single = encoder(waveforms[1:, :4_100], lengths[1:]).layers
    for one, other in zip(batched, single, strict=True):
        scale = max(1.0, float(other.square().mean().sqrt()))
        assert float((one[1, : other.shape[1]] - other[0]).abs().max()) < 1e-5 * scale


def test_normalisation_on_one_side(base: Path, state: State, tmp_path: Path) -> None:
    """A group norm takes scale and offset out: a note. A layer norm does not: refused."""
    for large in (False, True):
        encoder = speech_encoder("hubert", large=large)
        encoder.normalize = True
        encoder.save(tmp_path / f"base{large}")
        folder = copied(tmp_path / f"base{large}", tmp_path / f"tuned{large}")
        save_file(moved(load_file(folder / "model.safetensors")), folder / "model.safetensors")
        (folder / "preprocessor_config.json").write_text('{"do_normalize": false}')
    report = merge(tmp_path / "baseFalse", tmp_path / "tunedFalse", dry_run=True)
    assert any("do_normalize is True in the base (kept)" in line for line in report.differences)
    with pytest.raises(SpeechftError, match="normalisation of the audio"):
        merge(tmp_path / "baseTrue", tmp_path / "tunedTrue", dry_run=True)


def test_rates_on_two_sides_are_refused(base: Path, state: State, tmp_path: Path) -> None:
    narrow = copied(base, tmp_path / "narrow")
    save_file(moved(state), narrow / "model.safetensors")
    processor = json.loads((narrow / "preprocessor_config.json").read_text())
    (narrow / "preprocessor_config.json").write_text(
        json.dumps(processor | {"sampling_rate": 8_000})
    )
    with pytest.raises(SpeechftError, match="rate of the audio"):
        make_delta(base, narrow, tmp_path / "d.safetensors")
