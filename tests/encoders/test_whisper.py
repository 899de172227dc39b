"""Whisper's encoder: transformers' hidden states, windows, batches, folders, merging, tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
    WhisperModel,
)

import speechft
from helpers import cut_of, noise
from speechft.data.manifest import Corpus
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.encoders.inspection import inspect_encoder
from speechft.encoders.load import load_encoder
from speechft.errors import CheckpointError, ConfigError, DataError
from speechft.features.downsampler import downsampler_key
from speechft.features.extract import count_frames, group_by_length
from speechft.features.files import extract_files
from speechft.finetuning.config import FinetuningConfig
from speechft.finetuning.finetune import finetune_encoder
from speechft.prediction.pipelines import load_pipeline

SECONDS = 2
LENGTHS = (32_000, 16_000, 319, 321, 12_345)


def tiny(seed: int = 0, kind: Any = WhisperModel, **changes: Any) -> Any:
    """Return a tiny model with a window of 2 s."""
    config = WhisperConfig(
        d_model=24,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        vocab_size=60,
        max_source_positions=50 * SECONDS,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        **changes,
    )
    torch.manual_seed(seed)
    return kind(config).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whisper")
    tiny(kind=WhisperForConditionalGeneration).save_pretrained(path)
    return path


def test_states_are_those_of_transformers_batched_and_alone(folder: Path) -> None:
    encoder = load_encoder(folder)
    model = WhisperForConditionalGeneration.from_pretrained(folder).model.encoder
    waveforms, lengths = noise(*LENGTHS)
    audio = [row[:n].numpy() for row, n in zip(waveforms, LENGTHS, strict=True)]
    extract = WhisperFeatureExtractor(feature_size=80, chunk_length=SECONDS)
    features = extract(audio, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.inference_mode():
        expected = model(features, output_hidden_states=True).hidden_states
        output = encoder(waveforms, lengths)
    frames = [-(-n // 320) for n in LENGTHS]
    assert output.lengths.tolist() == frames
    assert len(output.layers) == len(expected) == 3
    assert output.layers[0].shape[1] == 100
    for row, count in enumerate(frames):
        samples = LENGTHS[row]
        with torch.inference_mode():
            alone = encoder(waveforms[row : row + 1, :samples], lengths[row : row + 1])
        assert alone.layers[0].shape[1] == count
        for number, state in enumerate(expected):
            reference = state[row, :count]
            torch.testing.assert_close(
                output.layers[number][row, :count], reference, atol=2e-5, rtol=0
            )
            torch.testing.assert_close(alone.layers[number][0], reference, atol=2e-5, rtol=0)


def test_front_end_is_that_of_transformers_over_30_seconds() -> None:
    from speechft.encoders.families.whisper import log_mel

    for bins in (80, 128):
        extract = WhisperFeatureExtractor(feature_size=bins)
        audio = np.random.default_rng(0).normal(0, 0.1, 100_000).astype(np.float32)
        expected = extract(audio, sampling_rate=16_000, return_tensors="pt").input_features[0]
        padded = torch.nn.functional.pad(torch.from_numpy(audio), (0, 380_000))[None]
        found = log_mel(padded, torch.from_numpy(extract.mel_filters).float())[0]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_audio_longer_than_the_window_is_refused(folder: Path, tones: Corpus) -> None:
    encoder = load_encoder(folder)
    message = r"2\.0 s; whisper sees 2 s and takes nothing longer"
    with pytest.raises(DataError, match=message):
        encoder(*noise(32_001))
    with pytest.raises(DataError, match=r"recording long lasts 3\.0 s; the encoder sees 2 s"):
        count_frames(encoder, [cut_of("short"), cut_of("long", 48_000)])


def test_timing_and_window_follow_the_model(folder: Path) -> None:
    encoder = load_encoder(folder)
    assert (encoder.frame_rate, encoder.hop_size, encoder.window) == (50.0, 320, 32_000)
    assert encoder.timing.centre_seconds == 0.0
    assert downsampler_key(encoder) is None, "the silence behind an utterance is read too"
    groups = list(group_by_length([cut_of(f"cut-{n}") for n in range(5)], 4.0, encoder.window))
    assert [len(group) for group in groups] == [2, 2, 1], "an utterance of 1 s takes 2 s"


def test_frame_centres_are_where_a_click_is_heard() -> None:
    """The downsampler answers to a click in the frames whose receptive field holds it."""
    encoder = HuggingFaceEncoder(tiny()).eval()
    quiet = 1e-3 * torch.sin(torch.arange(32_000) / 7.0)[None]
    click = quiet.clone()
    click[0, 10_000:10_100] += 0.002
    lengths = torch.tensor([32_000])
    with torch.inference_mode():
        moved = (encoder.downsample(click, lengths) - encoder.downsample(quiet, lengths)).abs()
    changed = (moved[0].amax(-1) > 1e-6).nonzero().flatten().tolist()
    timing = encoder.timing
    first = [t * timing.hop_size + timing.start for t in range(100)]
    inside = [t for t, f in enumerate(first) if f < 10_100 and f + timing.receptive_field > 10_000]
    assert changed
    assert set(changed) <= set(inside)
    assert abs(sum(changed) / len(changed) - 10_050 / 320) < 1.0


def test_saved_folder_loads_in_transformers(tmp_path: Path, folder: Path) -> None:
    encoder = load_encoder(folder)
    assert isinstance(encoder, HuggingFaceEncoder)
    encoder.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert all(name.startswith("encoder.") for name in weights)
    again = load_encoder(tmp_path)
    batch = noise(9_000, 5_000)
    with torch.inference_mode():
        assert torch.equal(again(*batch).hidden_states, encoder(*batch).hidden_states)
    own = WhisperForAudioClassification.from_pretrained(tmp_path).encoder.state_dict()
    assert all(torch.equal(own[n.removeprefix("encoder.")], t) for n, t in weights.items())
    extractor = WhisperFeatureExtractor.from_pretrained(tmp_path)
    assert (extractor.feature_size, extractor.n_samples) == (80, 32_000)


def test_merge_interpolates_the_encoder_and_keeps_the_decoder(tmp_path: Path, folder: Path) -> None:
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "tuned")
    report = speechft.merge(folder, tmp_path / "tuned", out=tmp_path / "merged", alpha=0.25)
    assert report is not None
    base, tuned, merged = (
        load_file(path / "model.safetensors")
        for path in (folder, tmp_path / "tuned", tmp_path / "merged")
    )
    assert base.keys() == merged.keys()
    for name, value in merged.items():
        expected = base[name]
        if name.startswith("model.encoder."):
            expected = torch.lerp(base[name], tuned[name], 0.25)
        torch.testing.assert_close(value, expected, atol=1e-7, rtol=1e-6)
    assert isinstance(load_encoder(tmp_path / "merged"), HuggingFaceEncoder)


def test_refusals_name_the_family(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match="mode 's3prl' is not known for whisper"):
        load_encoder(folder, "s3prl")
    with pytest.raises(CheckpointError, match="s3prl has no upstream for the family 'whisper'"):
        speechft.convert(folder, tmp_path / "x.pt")
    encoder = load_encoder(folder)
    features = encoder.downsample(*noise(3_200))
    masked = torch.ones(features.shape[:2], dtype=torch.bool)
    with pytest.raises(ConfigError, match="whisper encoder has no mask embedding"):
        encoder.contextualize(features, torch.tensor([3_200]), masked)


def test_fine_tuning_freezes_stem_and_positions(tmp_path: Path, tones: Corpus) -> None:
    encoder = HuggingFaceEncoder(tiny()).eval()
    before = {n: t.clone() for n, t in encoder.state_dict().items()}
    config = FinetuningConfig(
        task="sid",
        steps=6,
        learning_rate=1e-2,
        batch_seconds=20.0,
        hidden=None,
        precision="fp32",
        dropout={"attention_dropout": 0.1, "encoder_layerdrop": 0.1},
    )
    finetune_encoder(encoder, config, tones, tmp_path, seed=0)
    tuned = load_encoder(tmp_path / "encoder").state_dict()
    assert tuned.keys() == before.keys()
    fixed = {n for n in before if torch.equal(before[n], tuned[n])}
    kept = {n for n in before if any(part in n for part in (".conv", ".embed_positions."))}
    assert fixed == kept
    assert len(kept) == 5


def test_dropout_reaches_every_module() -> None:
    encoder = HuggingFaceEncoder(tiny(dropout=0.3, attention_dropout=0.2)).eval()
    encoder.set_dropout({})
    encoder.train()
    batch = noise(4_000)
    assert torch.equal(encoder(*batch).layers[-1], encoder(*batch).layers[-1])
    encoder.set_dropout({"encoder_layerdrop": 1.0})
    output = encoder(*batch)
    assert torch.equal(output.layers[0], output.layers[1])
    with pytest.raises(ConfigError, match="unknown dropout 'layerdrop'"):
        encoder.set_dropout({"layerdrop": 0.1})


def test_evaluation_and_extraction(folder: Path, tones: Corpus, tmp_path: Path) -> None:
    rows = speechft.evaluate(folder, tasks="sid,pc", corpus=tones.folder, out=tmp_path / "out")
    assert [(row.task, row.n > 0) for row in rows] == [("sid", True), ("pc", True)]
    assert load_pipeline(tmp_path / "out", task="pc").task.timing == load_encoder(folder).timing
    soundfile.write(tmp_path / "short.wav", np.zeros(8_000), 16_000)
    soundfile.write(tmp_path / "long.wav", np.zeros(48_000), 16_000)
    files = [tmp_path / "short.wav", tmp_path / "long.wav"]
    report = extract_files(folder, files, tmp_path / "features", device="cpu")
    assert report.written == 1
    [problem] = report.failed.values()
    assert problem == "lasts 3.0 s; the encoder sees 2 s and takes nothing longer"
    assert load_file(tmp_path / "features" / "short.safetensors")["hidden_states"].shape[1] == 25


def test_inspection_tells_sizes_and_suggests_what_can_be_done(folder: Path) -> None:
    found = inspect_encoder(folder)
    assert (found.family, found.layers, found.dim, found.attention_heads) == ("whisper", 2, 24, 2)
    assert (found.frame_rate, found.problem, found.normalize) == (50.0, None, False)
    assert found.task_heads
    assert all("decoder" in name or name == "proj_out.weight" for name in found.task_heads)
    assert len(found.next) == 3
    assert not any("s3prl" in command for command in found.next)
