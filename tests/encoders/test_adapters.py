"""Adapters of PEFT on their base, against PEFT's own merge; what every verb makes of them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import HubertForCTC, HubertModel

from helpers import speech_encoder, tiny_encoder
from speechft import cli
from speechft.encoders.build import torch_tensors
from speechft.encoders.conversion.adapted import AdaptedTensor
from speechft.encoders.conversion.tensors import memory_tensor
from speechft.encoders.inspection import inspect_encoder
from speechft.encoders.load import digest_of, load_encoder
from speechft.encoders.opening import open_encoder
from speechft.errors import CheckpointError, LineageError
from speechft.merging import merge
from speechft.storage.files import encoder_digest, file_digest

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning"),  # peft asks
    pytest.mark.filterwarnings("ignore:Adapter 'default'. 6 LoRA tensor:UserWarning"),  # biases
    pytest.mark.filterwarnings("ignore:Careful, disabling adapter layers:UserWarning"),
]

State = dict[str, torch.Tensor]
Make = Callable[..., Path]

KINDS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "DoRA": {"use_dora": True},
    "rank-stabilised": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.0.*k_proj": 3}},
    "all biases": {"bias": "all"},
    "biases of its layers": {"bias": "lora_only"},
    "biases of its own": {"lora_bias": True},
    "whole modules": {"modules_to_save": ["layer_norm"]},
    "fan in": {"init_lora_weights": "gaussian"},
    "convolutions": {"target_modules": ["conv"], "exclude_modules": ".*pos_conv.*"},
    "convolutions with magnitudes": {
        "target_modules": ["conv"],
        "exclude_modules": ".*pos_conv.*",
        "use_dora": True,
    },
}
HEADED = HubertForCTC
TARGETS = ["q_proj", "k_proj", "output_dense"]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT asks the hub whether a vocabulary was changed."""
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda *_: True)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Folder of a tiny HuBERT with a head, so that models with and without one are equal."""
    folder = tmp_path / "base"
    torch.manual_seed(0)
    HubertForCTC(tiny_encoder().model.config).save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Make:
    """Write an adapter for the base as PEFT does, with settings."""

    def write(kind: Any = HubertModel, name: str = "adapter", **settings: Any) -> Path:
        chosen = {"r": 4, "lora_alpha": 6, "target_modules": TARGETS, **settings}
        model = get_peft_model(kind.from_pretrained(base), LoraConfig(**chosen))
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.02 * torch.randn_like(parameter))
        model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return write


def by_peft(base: Path, adapter: Path, kind: Any) -> State:
    """Return the weights of the encoder after PEFT's own merge."""
    whole: Any = PeftModel.from_pretrained(kind.from_pretrained(base), adapter)
    merged = whole.merge_and_unload()
    state: State = (merged.hubert if kind is HEADED else merged).state_dict()
    return state


@pytest.mark.parametrize("model", [HubertModel, HEADED])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_on_its_base_is_what_peft_merges(
    kind: str, model: Any, base: Path, adapter: Make
) -> None:
    folder = adapter(model, **KINDS[kind])
    expected, before = by_peft(base, folder, model), torch_tensors(open_encoder(base).by_name())
    opened = open_encoder(folder)
    found = torch_tensors(opened.by_name())
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=0, atol=2e-7), name  # 2 last bits of 1
    changed = [n for n in expected if not torch.equal(found[n], before[n])]
    assert len(changed) >= 6
    assert max(float((found[n] - before[n]).abs().max()) for n in changed) > 5e-3


def test_every_piece_of_a_matrix_has_the_same_bits(base: Path, adapter: Make) -> None:
    opened = open_encoder(adapter(use_dora=True))
    tensor = opened.by_name()["encoder.layers.0.feed_forward.output_dense.weight"]
    assert isinstance(tensor, AdaptedTensor)
    whole = tensor.held().data
    for start, count in ((0, 1), (5, 700), (31, 33), (len(whole) - 9, 9)):
        piece = np.empty(count, np.float32)
        tensor.read(start, piece)
        assert np.array_equal(piece, whole[start : start + count])
        raw = tensor.raw(4 * start + 2, 4 * (start + count))
        assert raw.tobytes() == whole[start : start + count].tobytes()[2:]


@pytest.mark.parametrize("rank", [1, 7])
def test_low_rank_sums_against_float64(rank: int) -> None:
    rng = np.random.default_rng(rank)
    weight, down, up, magnitudes = (
        rng.normal(size=shape).astype(np.float32)
        for shape in ((70, 11), (rank, 11), (70, rank), (70,))
    )
    tensors = [memory_tensor(str(n), a) for n, a in enumerate((weight, down, up, magnitudes))]
    wide = weight.astype(np.float64) + 1.5 * up.astype(np.float64) @ down.astype(np.float64)
    plain = AdaptedTensor("w", *tensors[:3], 1.5).held().data.reshape(70, 11)
    assert np.abs(plain - wide).max() <= np.spacing(np.float32(np.abs(wide).max()))
    scaled = AdaptedTensor("w", *tensors[:3], 1.5, tensors[3]).held().data.reshape(70, 11)
    expected = wide * (magnitudes.astype(np.float64) / np.linalg.norm(wide, axis=1))[:, None]
    assert np.allclose(scaled, expected, rtol=1e-6, atol=1e-7)


def test_a_merge_streams_an_adapter_as_it_does_the_encoder_that_it_makes(
    base: Path, adapter: Make, tmp_path: Path
) -> None:
    folder = adapter()
    cli.app(["convert", str(folder), str(tmp_path / "whole")], standalone_mode=False)
    for tuned, out in ((folder, "a"), (tmp_path / "whole", "b"), (f"{base}+{folder}", "c")):
        report = merge(base, tuned, alpha=0.3, out=tmp_path / out)
        assert len(report.evidence) == 1
    prints = {file_digest(tmp_path / out / "model.safetensors") for out in "abc"}
    assert len(prints) == 1
    in_memory = merge(base, folder, alpha=0.3)
    written = load_file(tmp_path / "a" / "model.safetensors")
    assert all(torch.equal(in_memory[n], written[n]) for n in written)
    state = torch_tensors(open_encoder(base).by_name())
    given = merge(state, folder, alpha=0.3)  # a base that lies nowhere
    name = "encoder.layers.1.attention.k_proj.weight"
    assert torch.equal(given[name], written[f"hubert.{name}"])


def test_base_by_name_by_place_and_from_the_cache(
    base: Path, adapter: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = adapter()
    expected = digest_of(folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    asked: list[Any] = []

    def cached(name: str, *, local_files_only: bool, revision: Any, **_: Any) -> str:
        asked.append((name, local_files_only, revision))
        return str(base)

    monkeypatch.setattr("huggingface_hub.snapshot_download", cached)
    settings |= {"base_model_name_or_path": "somebody/hubert", "revision": "v2"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    assert open_encoder(folder).source == f"{base}+{folder}"
    assert set(asked) == {("somebody/hubert", True, "v2")}
    settings |= {"base_model_name_or_path": None, "revision": None}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="does not say which encoder it is for") as caught:
        open_encoder(folder)
    assert f"BASE+{folder}" in str(caught.value.hint)
    assert digest_of(f"{base}+{folder}") != expected  # its configuration is another
    assert digest_of(f"{base}+{folder}") != encoder_digest(base)
    monkeypatch.chdir(tmp_path)
    assert torch_tensors(open_encoder("base+adapter").by_name()).keys()


def test_a_digest_covers_base_adapter_and_settings(base: Path, adapter: Make) -> None:
    folder = adapter()
    seen = {digest_of(folder), digest_of(base)}
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 7}))
    seen.add(digest_of(folder))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-4}))
    seen.add(digest_of(folder))
    assert len(seen) == 4
    assert digest_of(folder / "adapter_model.safetensors") == digest_of(folder)
    assert inspect_encoder(folder).digest == digest_of(folder)


def test_an_adapter_on_an_adapter(base: Path, adapter: Make) -> None:
    first, second = adapter(name="first"), adapter(name="second", use_dora=True)
    stacked = torch_tensors(open_encoder(f"{base}+{first}+{second}").by_name())
    once: Any = PeftModel.from_pretrained(HubertModel.from_pretrained(base), first)
    twice: Any = PeftModel.from_pretrained(once.merge_and_unload(), second)
    for name, tensor in twice.merge_and_unload().state_dict().items():
        assert torch.allclose(stacked[name], tensor, rtol=0, atol=4e-7), name
    settings = json.loads((first / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(first)  # of itself
    (first / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="the last of 8 that lie on one another"):
        open_encoder(first)


VERBS = {
    "inspect": "inspect {0} --json",
    "convert": "convert {0} OUT",
    "to s3prl": "convert {0} OUT.pt",
    "extract": "extract {0} a.wav --out OUT",
    "merge as tuned": "merge {1} {4} --out OUT",
    "merge as base": "merge {0} {2} --out OUT --alpha 0.5",
    "delta": "delta {1} {4} --out OUT.safetensors",
    "evaluate": "evaluate {0} --tasks sid --corpus {3} --protocol mini --limit 6 --out OUT",
    "analyze": "analyze {1} {0} --corpus {3} --out OUT",
    "sweep": "sweep {1} {4} --alphas 0,1 --tasks sid --corpus {3} --protocol mini --out OUT",
}


LONG = ("analyze", "evaluate", "sweep")


@pytest.mark.parametrize(
    "verb", [pytest.param(v, marks=[pytest.mark.long] * (v in LONG)) for v in VERBS]
)
@pytest.mark.usefixtures("quick_probes")
def test_every_verb_takes_an_adapter(
    verb: str,
    base: Path,
    adapter: Make,
    tones: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = adapter()
    soundfile.write("a.wav", 0.1 * np.random.default_rng(0).normal(size=4_000), 16_000)
    other = torch_tensors(open_encoder(folder).by_name())
    (tmp_path / "other").mkdir()
    moved = {f"hubert.{n}": t + 0.01 * t.abs().mean() for n, t in other.items()}
    save_file(moved, tmp_path / "other" / "model.safetensors")
    (tmp_path / "other" / "config.json").write_text((base / "config.json").read_text())
    nameless = adapter(name="nameless")  # what takes a base puts it on that
    _edit(nameless, base_model_name_or_path=None)
    words = shlex.split(VERBS[verb].format(folder, base, "other", tones.folder, nameless))
    cli.app(words, standalone_mode=False)
    told = capsys.readouterr().out
    if verb == "inspect":
        found = json.loads(told)
        assert found["adapter"].startswith("LoRA, rank 4 on 6 matrices")
        assert not found["problem"]
        assert "convert" in found["next"][0]
    else:
        assert any(tmp_path.glob("OUT*"))
    if verb == "extract":
        features = load_file(tmp_path / "OUT" / "a.safetensors")["hidden_states"]
        waveform = torch.from_numpy(soundfile.read("a.wav", dtype="float32")[0])[None]
        with torch.inference_mode():
            expected = load_encoder(folder)(waveform, torch.tensor([4_000])).hidden_states[:, 0]
        assert torch.allclose(features, expected, atol=1e-5)


def _edit(folder: Path, **settings: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def _drop(folder: Path, ending: str, instead: dict[str, torch.Tensor] | None = None) -> None:
    path = folder / "adapter_model.safetensors"
    state = {n: t for n, t in load_file(path).items() if not n.endswith(ending)}
    save_file({**state, **(instead or {})}, path)


LAYER = "base_model.model.encoder.layers.0.attention.q_proj"
BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another kind": (lambda f: _edit(f, peft_type="LOHA"), "is no LoRA: only LoRA and DoRA"),
    "unknown setting": (lambda f: _edit(f, use_qalora=True), "setting use_qalora = 'True' is not"),
    "changed base": (lambda f: _edit(f, init_lora_weights="pissa"), "'pissa' changed the weights"),
    "no rank": (lambda f: _edit(f, r="four"), "r is 'four', expected a whole number"),
    "infinite alpha": (lambda f: _edit(f, lora_alpha=1e999), "lora_alpha is 'inf', expected a num"),
    "wild pattern": (lambda f: _edit(f, rank_pattern={"(a+)+": 2}), "rank_pattern has the pattern"),
    "patterns in a list": (lambda f: _edit(f, alpha_pattern=["q"]), "expected a mapping"),
    "other rank": (
        lambda f: _edit(f, r=3),
        r"lora_A of .* is of shape \[4, 24\], expected \[3, 24",
    ),
    "no magnitudes": (lambda f: _edit(f, use_dora=True), "lacks lora_magnitude_vector of"),
    "half": (
        lambda f: _drop(f, "0.attention.q_proj.lora_B.weight"),
        "lacks lora_B of .* not whole",
    ),
    "embedding": (
        lambda f: _drop(f, "nothing", {f"{LAYER}.lora_embedding_A": torch.ones(4, 4)}),
        "lora_embedding_A is of a kind that is not known",
    ),
    "no such layer": (
        lambda f: _drop(
            f, "nothing", {LAYER.replace("s.0", "s.7") + ".lora_A.weight": torch.ones(4)}
        ),
        "changes encoder.layers.7.attention.q_proj, which that lacks",
    ),
    "whole numbers": (
        lambda f: _drop(f, "nothing", {f"{LAYER}.bias": torch.ones(24, dtype=torch.int8)}),
        "is of type I8, expected a float",
    ),
    "no weights": (
        lambda f: (f / "adapter_model.safetensors").unlink(),
        "and no file adapter_model",
    ),
    "a head alone": (
        lambda f: save_file(
            {"base_model.model.lm_head.weight": torch.ones(8, 24)}, f / "adapter_model.safetensors"
        ),
        "it changes none of its tensors in the encoder",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_adapters_are_refused_by_name(
    fault: str, base: Path, adapter: Make, tmp_path: Path
) -> None:
    damage, told = BAD[fault]
    folder = adapter()
    damage(folder)
    with pytest.raises(CheckpointError, match=told):
        merge(base, folder, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.partial").exists()


def test_an_adapter_of_another_base(base: Path, adapter: Make, tmp_path: Path) -> None:
    folder = adapter()
    wide = tmp_path / "wide"
    tiny_encoder(hidden_size=36, num_attention_heads=3).save(wide)
    with pytest.raises(
        CheckpointError, match=r"lora_A .* shape \[4, 24\], expected \[4, 36\]"
    ) as e:
        merge(wide, folder, out=tmp_path / "out")
    assert "BASE+ADAPTER" in str(e.value.hint)
    short = tmp_path / "short"
    tiny_encoder(num_hidden_layers=1).save(short)
    with pytest.raises(CheckpointError, match=r"does not fit .*layers\.1\.attention\.k_proj"):
        merge(short, folder, out=tmp_path / "out")
    with pytest.raises(CheckpointError, match="near to whatever it is put on"):
        cli.app(["inspect", str(folder), "--bases", str(tmp_path)], standalone_mode=False)
    grown = load_file(folder / "adapter_model.safetensors")
    grown = {n: 1e3 * t for n, t in grown.items()}
    save_file(grown, folder / "adapter_model.safetensors")
    with pytest.raises(LineageError):  # what it makes is looked at like any encoder
        merge(base, folder, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pickled_adapters_and_folders_of_several(base: Path, adapter: Make, tmp_path: Path) -> None:
    folder = adapter()
    expected = torch_tensors(open_encoder(folder).by_name())
    state = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    torch.save(state, folder / "adapter_model.bin")
    found = torch_tensors(open_encoder(folder).by_name())
    assert all(torch.equal(found[n], expected[n]) for n in expected)
    above = tmp_path / "above"
    above.mkdir()
    folder.rename(above / "one")
    assert open_encoder(above).adapter == open_encoder(above / "one").adapter
    adapter(name="above/two")
    with pytest.raises(CheckpointError, match="2 of them, give one: one, two"):
        open_encoder(above)


@pytest.mark.parametrize("family", ["wav2vec2", "wavlm", "hubert"])
def test_other_families_and_half_precision(family: str, tmp_path: Path) -> None:
    encoder = speech_encoder(family)
    encoder.save(tmp_path / "base")
    model: Any = get_peft_model(encoder.model, LoraConfig(r=2, target_modules=["output_dense"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.05)
    model.save_pretrained(tmp_path / "adapter")
    expected = model.merge_and_unload().state_dict()
    source = f"{tmp_path / 'base'}+{tmp_path / 'adapter'}"
    found = load_encoder(source).state_dict()
    for name, tensor in expected.items():
        assert torch.allclose(found[f"model.{name}"], tensor, rtol=0, atol=2e-7), name
    half = {n: t.half() for n, t in load_file(tmp_path / "base" / "model.safetensors").items()}
    save_file(half, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    report = merge(tmp_path / "base", tmp_path / "adapter", alpha=1, out=tmp_path / "merged")
    assert report.dtype == "F32"  # an adapter is not rounded to its base's type
    name = "encoder.layers.0.feed_forward.output_dense.weight"
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert torch.allclose(merged[name], expected[name], atol=1e-3)
