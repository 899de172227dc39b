"""A look at a recording: what its header and its samples say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechft.data.inspection import Header, inspect


def noise(seconds: float = 1.0, level: float = 0.1, seed: int = 0) -> np.ndarray:  # type: ignore[type-arg]
    return level * np.random.default_rng(seed).standard_normal(round(16_000 * seconds))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.aiff", "a.sph"])
def test_a_sound_recording_has_no_problem(tmp_path: Path, name: str) -> None:
    kind = "NIST" if name.endswith("sph") else None
    soundfile.write(tmp_path / name, noise(), 16_000, format=kind)
    found = inspect(tmp_path / name)
    assert found.header == Header(16_000, 16_000, 1)
    assert (found.offset, found.samples, found.problems) == (0, 16_000, ())


def test_a_segment(tmp_path: Path) -> None:
    samples = noise(2.0)
    samples[16_000:] = 0.0
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    found = inspect(tmp_path / "a.wav", 0.25, 1.0)
    assert (found.offset, found.samples, found.problems) == (4_000, 12_000, ())
    assert inspect(tmp_path / "a.wav", 1.0, 2.0).problems[0][0] == "silence", "only the segment"
    assert inspect(tmp_path / "a.wav", 1.0, 2.0, samples=False).problems == ()
    assert inspect(tmp_path / "a.wav", 1.5).samples == 8_000
    assert inspect(tmp_path / "a.wav", 0.5, 2.04).samples == 24_000, "stamps are rounded"
    for start, end in ((0.5, 2.2), (2.0, 2.5), (3.0, 4.0)):
        ((kind, problem),) = inspect(tmp_path / "a.wav", start, end).problems
        assert kind == "segment-outside"
        assert problem.endswith("of a recording of 2.00 s")
    for start, end, unit in ((100, 1_900, "milliseconds"), (4_000, 32_000, "samples")):
        ((_, problem),) = inspect(tmp_path / "a.wav", start, end).problems
        assert problem.endswith(f"in {unit} it would lie inside, but start and end are seconds")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_a_number_anywhere(tmp_path: Path, value: float) -> None:
    samples = noise(70.0)
    samples[-1] = value  # in the second block that is read
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    assert [kind for kind, _ in inspect(tmp_path / "a.wav").problems] == ["not-a-number"]
    assert inspect(tmp_path / "a.wav", samples=False).problems == ()


@pytest.mark.parametrize(
    ("share", "kinds"), [(0.0, []), (0.0005, []), (0.002, ["clipping"]), (0.5, ["clipping"])]
)
def test_clipping_counts_samples_at_full_scale(
    tmp_path: Path, share: float, kinds: list[str]
) -> None:
    samples = np.clip(noise(10.0), -0.9, 0.9)
    samples[: round(share * len(samples))] = -1.0
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    found = inspect(tmp_path / "a.wav").problems
    assert [kind for kind, _ in found] == kinds
    if kinds:
        assert found[0][1] == f"{100 * share:.1f} % of the samples are at full scale"


@pytest.mark.parametrize(("level", "silent"), [(0.0, True), (5e-5, True), (1e-3, False)])
def test_silence(tmp_path: Path, level: float, silent: bool) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(16_000, level), 16_000, subtype="FLOAT")
    kinds = [kind for kind, _ in inspect(tmp_path / "a.wav").problems]
    assert kinds == (["silence"] if silent else [])


def test_a_truncated_flac_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(5.0), 16_000)
    path.write_bytes(path.read_bytes()[:20_000])
    assert inspect(path, samples=False).problems == (), "the header is whole"
    ((kind, problem),) = inspect(path).problems
    assert kind == "unreadable-audio"
    assert "\n" not in problem
