"""Exports: transformers' own classes give the same logits, its pipelines the same answers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import speechft
from helpers import noise, speech_encoder, tiny_decoar2, tiny_encoder
from pipelines import SIZES, SYMBOLS, save_head
from speechft.cards.card import read_card
from speechft.encoders.base import Encoder
from speechft.errors import CheckpointError, RunError
from speechft.exporting import export as verb
from speechft.naming import public_name


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse every connection, and let WavLM hand torch its masks as it does."""

    def connect(*_: Any) -> None:
        raise AssertionError("something wants the network")

    monkeypatch.setattr("socket.socket.connect", connect)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
        yield


def waveform(samples: int = 21_003, seed: int = 3) -> np.ndarray[Any, Any]:
    """Return noise over a tone that rises, so that frames differ."""
    time = np.arange(samples) / 16_000
    tone = np.sin(2 * np.pi * (200 + 900 * time) * time)
    return (0.1 * noise(samples, seed=seed)[0][0].numpy() + tone).astype(np.float32)


def exported(folder: Path, task: str, encoder: Encoder, **options: Any) -> Path:
    save_head(folder, task, encoder, **options)
    speechft.export(folder, folder / "out")
    return folder / "out"


def logits_of(folder: Path, kind: Any, output: str = "logits") -> torch.Tensor:
    """Return what a class of transformers gives for a waveform, through its own front end."""
    front = transformers.AutoFeatureExtractor.from_pretrained(folder)
    model = kind.from_pretrained(folder).eval()
    inputs = front(waveform(), sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        return model(**inputs)[output][0]


def ours(folder: Path) -> torch.Tensor:
    return speechft.load_pipeline(folder).logits(torch.from_numpy(waveform()))[0][0]


def balance(folder: Path) -> None:
    """Give every symbol of a tuned head the same mean logit, so that text comes of it."""
    weights = load_file(folder / "head.safetensors")
    weights["linear.bias"] -= ours(folder).mean(0)
    save_file(weights, folder / "head.safetensors")


CLASSES = [
    ("hubert", transformers.HubertForCTC, transformers.HubertForSequenceClassification),
    ("wav2vec2", transformers.Wav2Vec2ForCTC, transformers.Wav2Vec2ForSequenceClassification),
    ("wavlm", transformers.WavLMForCTC, transformers.WavLMForSequenceClassification),
    (
        "data2vec-audio",
        transformers.Data2VecAudioForCTC,
        transformers.Data2VecAudioForSequenceClassification,
    ),
]


@pytest.mark.parametrize("large", [False, True], ids=["base", "large"])
@pytest.mark.parametrize(("family", "ctc", "classes"), CLASSES, ids=[c[0] for c in CLASSES])
def test_tuned_heads_give_the_same_logits(
    family: str, ctc: Any, classes: Any, large: bool, tmp_path: Path
) -> None:
    encoder = speech_encoder(family, large=large)
    for task, kind, hidden in (("asr", ctc, 7), ("sid", classes, None if large else 9)):
        folder = tmp_path / f"{task}-{hidden}"
        out = exported(folder, task, encoder, tuned=True, hidden=hidden)
        expected = ours(folder)
        found = logits_of(out, kind)
        assert found.shape == expected.shape
        assert float((found - expected).abs().max()) < 2e-5 * max(1, float(expected.abs().max()))


@pytest.mark.parametrize("hidden", [None, 9])
def test_probes_on_the_weighted_sum_give_the_same_logits(
    hidden: int | None, tmp_path: Path
) -> None:
    out = exported(tmp_path, "sid", speech_encoder("wav2vec2"), hidden=hidden)
    found = logits_of(out, transformers.Wav2Vec2ForSequenceClassification)
    assert torch.allclose(found, ours(tmp_path), atol=2e-5)
    config = json.loads((out / "config.json").read_text())
    assert config["use_weighted_layer_sum"]
    assert config["id2label"] == {str(n): name for n, name in enumerate(SYMBOLS["sid"])}
    assert config["architectures"] == ["Wav2Vec2ForSequenceClassification"]


def test_embeddings_are_ours_after_relu_and_to_unit_length(tmp_path: Path) -> None:
    out = exported(tmp_path, "asv", speech_encoder("wavlm"), **SIZES["asv"])
    found = logits_of(out, transformers.WavLMForXVector, "embeddings")
    expected = ours(tmp_path)[len(SYMBOLS["asv"]) :]
    assert torch.allclose(torch.nn.functional.normalize(found.relu(), dim=0), expected, atol=1e-5)
    assert "normalize(output.embeddings.relu())" in (out / "README.md").read_text()
    objective = transformers.WavLMForXVector.from_pretrained(out).objective
    assert objective.weight.shape == (6, 2)


def test_frames_are_classified_alike(tmp_path: Path) -> None:
    out = exported(tmp_path, "pc", speech_encoder("wav2vec2"))
    found = logits_of(out, transformers.Wav2Vec2ForAudioFrameClassification)
    assert torch.allclose(found, ours(tmp_path), atol=2e-5)


@pytest.mark.parametrize("task", ["asr", "pr", "sf"])
def test_the_pipeline_of_transformers_writes_the_same_text(task: str, tmp_path: Path) -> None:
    save_head(tmp_path, task, speech_encoder("hubert"), tuned=True)
    balance(tmp_path)
    out = tmp_path / "out"
    speechft.export(tmp_path, out)
    run = transformers.pipeline("automatic-speech-recognition", model=str(out))
    own = speechft.load_pipeline(tmp_path)
    for seed in range(3):
        [answer] = own.answers([torch.from_numpy(waveform(seed=seed))])
        assert len(answer.text) > 3
        assert run(waveform(seed=seed).copy())["text"].split() == answer.text.split()
    vocabulary = json.loads((out / "vocab.json").read_text())
    assert vocabulary == {symbol: number for number, symbol in enumerate(SYMBOLS[task])}
    processor = transformers.AutoProcessor.from_pretrained(out)
    inputs = processor(waveform(), sampling_rate=16_000, return_tensors="pt")
    model = transformers.AutoModelForCTC.from_pretrained(out).eval()
    with torch.inference_mode():
        ids = model(**inputs).logits.argmax(-1)
    [answer] = own.answers([torch.from_numpy(waveform())])
    assert processor.batch_decode(ids)[0].split() == answer.text.split()


@pytest.mark.parametrize("tuned", [True, False])
def test_the_pipeline_of_transformers_gives_the_same_class(tuned: bool, tmp_path: Path) -> None:
    out = exported(tmp_path, "sid", speech_encoder("wav2vec2"), tuned=tuned)
    run = transformers.pipeline("audio-classification", model=str(out))
    [answer] = speechft.load_pipeline(tmp_path).answers([torch.from_numpy(waveform())])
    best = max(run(waveform().copy()), key=lambda row: row["score"])
    assert best["label"] == answer.values["label"]
    assert best["score"] == pytest.approx(answer.values["probability"], abs=1e-5)


def test_normalised_waveforms_and_masks_are_transformers_own(tmp_path: Path) -> None:
    """Large models: the front end normalises, and its mask leaves the padding of a batch out."""
    out = exported(tmp_path, "sid", speech_encoder("wav2vec2", large=True), tuned=True)
    front = json.loads((out / "preprocessor_config.json").read_text())
    assert front["do_normalize"]
    assert front["return_attention_mask"]
    run = transformers.pipeline("audio-classification", model=str(out), batch_size=2)
    arrays = [waveform(), waveform(9_001, seed=4)]
    own = speechft.load_pipeline(tmp_path)
    for array, rows in zip(arrays, run([a.copy() for a in arrays]), strict=True):
        [answer] = own.answers([torch.from_numpy(array)])
        best = max(rows, key=lambda row: row["score"])
        assert best["label"] == answer.values["label"]
        assert best["score"] == pytest.approx(answer.values["probability"], abs=1e-5)
    assert "What differs" not in (out / "README.md").read_text()


def test_what_differs_in_batches_is_measured_and_named(tmp_path: Path) -> None:
    save_head(tmp_path, "sid", speech_encoder("hubert"), tuned=True)
    report = speechft.export(tmp_path, tmp_path / "out")
    [note] = report.notes
    assert "In padded batches" in note
    assert note in (tmp_path / "out" / "README.md").read_text()
    assert f"note: {note}" in report.lines()
    front = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "out")
    model = transformers.HubertForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    arrays = [waveform(), waveform(9_001)]
    inputs = front(arrays, sampling_rate=16_000, return_tensors="pt", padding=True)
    with torch.inference_mode():
        padded = model(**inputs).logits[1]
    alone = speechft.load_pipeline(tmp_path).logits(torch.from_numpy(arrays[1]))[0][0]
    assert float((padded - alone).abs().max()) > 1e-2, "it does differ there"


REFUSED: list[tuple[str, Any, dict[str, Any], str]] = [
    ("asr", None, {}, "weighted sum of hidden states, and ForCTC reads the last one alone"),
    ("asr", None, {"tuned": True, "recurrent": [4]}, r"RecurrentHead \(LSTMs\), and ForCTC has a"),
    ("sf", None, {"units": (6,)}, r"RecurrentHead \(LSTMs\)"),
    ("sd", None, {"units": (6,)}, "diarisation here is an LSTM"),
    ("ic", None, {}, "an intent has several slots"),
    ("sid", "large", {}, "differ by up to .* normalised first"),
    ("asv", None, SIZES["asv"], "no ForXVector on an encoder of the family hubert"),
    ("sid", "decoar2", {"tuned": True}, "no ForSequenceClassification on .* family decoar2"),
    ("sid", None, {"mode": "s3prl"}, "heard in s3prl mode"),
]


@pytest.mark.parametrize(("task", "kind", "options", "message"), REFUSED)
def test_what_has_no_counterpart_is_refused_in_a_sentence(
    task: str, kind: str | None, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    encoders = {"large": lambda: speech_encoder("hubert", large=True), "decoar2": tiny_decoar2}
    save_head(tmp_path / "head", task, encoders.get(str(kind), tiny_encoder)(), **options)
    with pytest.raises(CheckpointError, match=message) as caught:
        speechft.export(tmp_path / "head", tmp_path / "out")
    assert "predict and load_pipeline take it" in str(caught.value.hint)
    assert [path.name for path in tmp_path.iterdir()] == ["head"]


def test_nothing_is_written_where_transformers_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_head(tmp_path / "head", "sid", tiny_encoder(), tuned=True)
    made = verb.counterpart_of

    def wrong(pipeline: Any) -> Any:
        found = made(pipeline)
        found.tensors["classifier.bias"] = found.tensors["classifier.bias"] + 0.01
        return found

    monkeypatch.setattr(verb, "counterpart_of", wrong)
    with pytest.raises(CheckpointError, match=r"gives values that differ by up to 1\.0e-02"):
        speechft.export(tmp_path / "head", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_outputs_of_others_stay(tmp_path: Path) -> None:
    save_head(tmp_path / "head", "sid", tiny_encoder(), tuned=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match=r"already holds mine\.txt"):
        speechft.export(tmp_path / "head", tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    speechft.export(tmp_path / "head", tmp_path / "out", overwrite=True)
    speechft.export(tmp_path / "head", tmp_path / "out")
    assert not (tmp_path / "out" / "mine.txt").exists()


def test_the_card_names_sources_and_the_evaluated_encoder(tmp_path: Path) -> None:
    """No licence, as nobody told that of the head; the digest by which results know the model."""
    save_head(tmp_path / "head", "asr", tiny_encoder(), tuned=True)
    (tmp_path / "head" / "encoder" / "README.md").write_text(
        "---\nlicense: mit\nbase_model: some/encoder\n---\n"
    )
    report = speechft.export(tmp_path / "head", tmp_path / "out")
    told, body = read_card(tmp_path / "out")
    assert told == {
        "library_name": "transformers",
        "pipeline_tag": "automatic-speech-recognition",
        "base_model": "some/encoder",
        "base_model_relation": "finetune",
        "tags": ["speech", "speechft", "speech-ft"],
        "encoder_digest": report.encoder_digest,
    }
    assert f"| encoder | `encoder` | mit | `{report.encoder_digest}` |" in body
    assert "| head | `asr` | not known | `" in body
    assert 'run = pipeline("automatic-speech-recognition", model="FOLDER")' in body


def test_no_place_leaves_the_machine(tmp_path: Path) -> None:
    save_head(tmp_path / "head", "asr", tiny_encoder(), tuned=True)
    report = speechft.export(tmp_path / "head", tmp_path / "out")
    assert report.model == public_name(tmp_path / "head") == "head"
    for file in (tmp_path / "out").rglob("*"):
        assert str(tmp_path) not in file.read_bytes().decode("latin-1"), file.name


def test_an_exported_folder_is_an_encoder_still(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    out = exported(tmp_path, "asr", encoder, tuned=True)
    waveforms, lengths = noise(9_000)
    again = speechft.load_encoder(out)
    assert torch.equal(again(waveforms, lengths).layers[-1], encoder(waveforms, lengths).layers[-1])
