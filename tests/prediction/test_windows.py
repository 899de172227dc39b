"""Long recordings in windows: nothing lost, nothing twice, and the same frames where it can be."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from helpers import TIMING, noise, speech_encoder
from pipelines import save_head
from speechft.encoders.load import load_encoder
from speechft.encoders.timing import FrameTiming
from speechft.errors import ConfigError
from speechft.prediction.pipelines import Pipeline, load_pipeline
from speechft.prediction.windows import cut_windows


def frames_of(samples: int, timing: FrameTiming = TIMING) -> int:
    return (samples - timing.receptive_field) // timing.hop_size + 1


@pytest.mark.parametrize("samples", [3_201, 10_000, 16_000, 16_319, 123_457])
@pytest.mark.parametrize("context", [0.0, 0.02, 0.05])
def test_windows_hold_every_frame_once_with_its_context(samples: int, context: float) -> None:
    frames, longest = frames_of(samples), 3_200
    windows = cut_windows(samples, frames, TIMING, longest=longest, context=context)
    around = math.ceil(context / 0.02)
    kept: list[int] = []
    for window in windows:
        first = window.start // 320 + window.skip
        kept += range(first, first + window.keep)
        assert window.start % 320 == 0
        assert window.stop - window.start <= longest
        assert frames_of(window.stop - window.start) >= window.skip + window.keep
        assert window.skip == min(around, first)
        after = window.start // 320 + frames_of(window.stop - window.start)
        assert after == min(first + window.keep + around, frames)
    assert kept == list(range(frames))


def test_a_recording_of_one_window_is_whole() -> None:
    [window] = cut_windows(3_200, 9, TIMING, longest=3_200, context=1.0)
    assert (window.start, window.stop, window.skip, window.keep) == (0, 3_200, 0, 9)
    with pytest.raises(ConfigError, match=r"windows of 0.2 s leave nothing between .* of 0.1 s"):
        cut_windows(3_201, 9, TIMING, longest=3_200, context=0.1)


def in_windows(folder: Path, seconds: float, context: float) -> Pipeline:
    return load_pipeline(folder, window=seconds, context=context)


def local(folder: Path) -> Path:
    """Save a head on hidden state 0 of an encoder whose convolutions normalise by frame.

    The state sees the receptive field and four frames on each side, nothing further.
    """
    encoder = speech_encoder("wav2vec2", large=True)
    encoder.normalize = False
    return save_head(folder, "pr", encoder, states=1, layers=[0])


def test_stitched_frames_are_those_of_the_whole_where_context_suffices(tmp_path: Path) -> None:
    folder = local(tmp_path)
    waveforms, _ = noise(61_234)
    whole, count = load_pipeline(folder).logits(waveforms[0])
    stitched, frames = in_windows(folder, 1.0, 0.1).logits(waveforms[0])
    assert frames.tolist() == count.tolist() == [191]
    assert float((stitched - whole).abs().max()) < 2e-5 * float(whole.abs().max())
    bare, _ = in_windows(folder, 1.0, 0.0).logits(waveforms[0])
    wrong = (bare - whole).abs().amax(-1)[0] > 1e-3
    kept = (16_000 - 400 - 320) // 320 + 1
    near = torch.zeros(191, dtype=torch.bool)
    for seam in range(kept, 191, kept):
        near[seam - 4 : seam + 4] = True
    assert wrong.any(), "without context frames at seams differ"
    assert not (wrong & ~near).any(), "and no others"


def test_frames_of_a_transformer_hardly_differ_away_from_the_ends(tmp_path: Path) -> None:
    """Attention reads everything: a window is a shorter recording; the figure is stated in docs."""
    encoder = speech_encoder("wav2vec2", large=True)
    folder = save_head(tmp_path, "pr", encoder, tuned=True)
    waveforms, _ = noise(61_234)
    whole, _ = load_pipeline(folder).logits(waveforms[0])
    stitched, _ = in_windows(folder, 2.0, 0.5).logits(waveforms[0])
    difference = (stitched - whole).square().mean().sqrt() / whole.std()
    assert float(difference) < 0.05


@pytest.mark.parametrize("task", ["sid", "asr"])
def test_batches_of_windows_change_nothing(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_head(tmp_path, task, speech_encoder("hubert"))
    pipeline = in_windows(folder, 0.5, 0.1)
    waveforms, _ = noise(40_000)
    together, _ = pipeline.logits(waveforms[0])
    monkeypatch.setattr("speechft.prediction.pipelines.batch_limits", lambda *_: (0.0, 1))
    alone, _ = pipeline.logits(waveforms[0])
    assert torch.allclose(together, alone, atol=1e-5)


def test_an_encoder_with_a_window_hears_longer_recordings(tmp_path: Path) -> None:
    encoder = speech_encoder("hubert")
    folder = save_head(tmp_path, "asr", encoder)
    pipeline = load_pipeline(folder)
    assert pipeline.longest == 60 * 16_000
    pipeline.encoder.window = 16_000
    limited = Pipeline(
        pipeline.encoder, pipeline.probe, pipeline.task, pipeline.vocabulary, context=0.1
    )
    assert limited.longest == 16_000
    logits, lengths = limited.logits(noise(50_000)[0][0])
    assert logits.shape[1] == int(lengths) == frames_of(50_000)


def test_features_of_no_memory_are_stitched_to_the_bit() -> None:
    encoder = load_encoder("mfcc")
    waveform = noise(50_001)[0][0]
    frames = int(encoder.frame_lengths(torch.tensor(50_001)))
    whole = encoder(waveform[None], torch.tensor([50_001])).last_hidden_state[0]
    parts = []
    for window in cut_windows(50_001, frames, encoder.timing, longest=9_600, context=0.1):
        row = waveform[window.start : window.stop]
        found = encoder(row[None], torch.tensor([len(row)])).last_hidden_state[0]
        parts.append(found[window.skip : window.skip + window.keep])
    assert torch.equal(torch.cat(parts), whole)


def test_padding_in_front_is_covered_by_context() -> None:
    """Frames that begin before the recording, as Whisper's, take the samples that they read."""
    timing = dataclasses.replace(TIMING, start=-200)
    windows = cut_windows(20_000, 62, timing, longest=6_400, context=0.04)
    assert sum(window.keep for window in windows) == 62
    for window in windows[:-1]:
        last = window.start // 320 + window.skip + window.keep - 1
        assert window.stop >= last * 320 - 200 + 400
    assert windows[-1].stop == 20_000
