"""Generation: the same audio every time, aligned phones that fit it, failures that are told."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from speechft.data.corpora import synthetic
from speechft.data.corpora.synthetic import PartitionSpec, SyntheticSpec, espeak, worker
from speechft.data.corpora.synthetic.espeak import Espeak, Speech
from speechft.data.corpora.synthetic.phones import ARPABET, SILENCE
from speechft.data.corpora.synthetic.voices import STYLES
from speechft.data.labels import label_of, phones_of
from speechft.data.manifest import Corpus, load_waveform
from speechft.errors import DataError, PackageError

COUNT = 6
VOWELS = {"AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"}


def part(name: str, **changes: Any) -> PartitionSpec:
    content: dict[str, Any] = {
        "name": name,
        "utterances": COUNT,
        "voices": "seen",
        "speakers": 3,
        "texts": "command",
        "text_set": "train",
        **changes,
    }
    return PartitionSpec(**content)


CLEAN, NOISY = part("clean", noise=False), part("noisy", voices="new", text_set="test")
SPEC = SyntheticSpec(name="small", seed=3, partitions=(CLEAN, NOISY))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Two partitions of six utterances."""
    return synthetic.prepare(SPEC, tmp_path_factory.mktemp("small"))


def records(corpus: Corpus) -> dict[str, Any]:
    return {
        cut.id: cut.supervisions[0].to_dict()
        for partition in SPEC.partitions
        for cut in corpus.split(partition.name)
    }


def visible(folder: Path) -> list[str]:
    return [item.name for item in folder.iterdir() if not item.name.startswith(".")]


def test_interrupted_generation_goes_on_and_gives_the_same(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken: list[str] = []
    run = synthetic._run_worker

    def interrupted(job: dict[str, Any]) -> None:
        if spoken:
            raise KeyboardInterrupt
        run(job)
        spoken.append(job["partition"]["name"])

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "_run_worker", interrupted)
        with pytest.raises(KeyboardInterrupt):
            synthetic.prepare(SPEC, tmp_path, processes=1)
    assert visible(tmp_path) == [], "nothing under a final name"
    # a shard that was being spoken when the power went: audio without its last line
    (shard,) = tmp_path.glob(".partial/*/clean/shard-0000")
    half = shard.parent.parent / "noisy" / "shard-0000"
    half.mkdir(parents=True)
    (half / "noisy-000000.wav").write_bytes(b"RIFF")

    def counted(job: dict[str, Any]) -> None:
        spoken.append(job["partition"]["name"])
        run(job)

    monkeypatch.setattr(synthetic, "_run_worker", counted)
    again = synthetic.prepare(SPEC, tmp_path, processes=1)
    assert spoken == ["clean", "noisy"], "finished shards are not spoken again"
    assert records(again) == records(corpus), "texts, labels, phones and audio digests"
    assert again.digest == corpus.digest
    assert again.statistics == corpus.statistics
    synthetic.prepare(SPEC, tmp_path)
    assert len(spoken) == 2, "nothing left to do"


def test_recorded_digests_are_those_of_the_audio(corpus: Corpus) -> None:
    digests = set()
    for partition in SPEC.partitions:
        cuts = list(corpus.split(partition.name))
        assert len(cuts) == COUNT
        for cut in cuts:
            path = cut.recording.sources[0].source
            pcm, rate = soundfile.read(path, dtype="int16")
            assert rate == 16_000
            assert pcm.ndim == 1
            assert len(pcm) == cut.num_samples
            assert hashlib.sha256(pcm.tobytes()).hexdigest() == label_of(cut, "sha256")
            digests.add(label_of(cut, "sha256"))
    assert len(digests) == 2 * COUNT


def test_levels_and_labels(corpus: Corpus) -> None:
    for partition in SPEC.partitions:
        for number, cut in enumerate(corpus.split(partition.name)):
            waveform = load_waveform(cut).astype(np.float64)
            level = 20 * np.log10(np.sqrt(np.mean(waveform**2)))
            assert -33 < level < -19.9
            assert np.abs(waveform).max() < 0.991
            assert label_of(cut, "speaker") == f"{partition.voices}-{number % 3:03d}"
            assert label_of(cut, "style") in STYLES
            action, thing, location = (label_of(cut, "intent") or "").split("/")
            assert thing in (label_of(cut, "text") or "").lower()
            assert location in (label_of(cut, "text") or "").lower()
            assert action
    assert corpus.statistics["clean"]["speakers"] == 3


def test_spec_digest_changes_with_seed_version_and_content(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digests = {
        spec.digest()
        for spec in (
            SPEC,
            SPEC.model_copy(update={"seed": 4}),
            SPEC.model_copy(update={"partitions": (CLEAN,)}),
            SPEC.model_copy(update={"partitions": (NOISY, CLEAN)}),
        )
    }
    assert len(digests) == 4
    assert SyntheticSpec(**SPEC.as_dict()).digest() == SPEC.digest()
    before = SPEC.digest()
    monkeypatch.setattr(synthetic, "GENERATOR_VERSION", 0)
    assert SPEC.digest() != before


def test_phones_cover_the_utterance_in_order(corpus: Corpus) -> None:
    for partition in SPEC.partitions:
        for cut in corpus.split(partition.name):
            phones = phones_of(cut)
            assert {phone for phone, _, _ in phones} <= {SILENCE}.union(*ARPABET.values())
            assert phones[0][1] == pytest.approx(0.0, abs=0.08)
            assert phones[-1][2] == pytest.approx(cut.duration, abs=2e-3)
            for _, start, end in phones:
                assert 0 <= start <= end <= cut.duration + 1e-3
            for one, two in itertools.pairwise(phones):
                assert two[1] == pytest.approx(one[2], abs=1e-3), "no gap, no overlap"


def mean_power(corpus: Corpus, kinds: set[str], shift: float = 0.0) -> float:
    """Mean power of the segments of some phones in clean audio, in dB."""
    pieces: list[npt.NDArray[np.float64]] = []
    for cut in corpus.split("clean"):
        waveform = load_waveform(cut).astype(np.float64)
        waveform /= np.sqrt(np.mean(waveform**2))
        for phone, start, end in phones_of(cut):
            if phone in kinds:
                first, last = (max(0, round((edge + shift) * 16_000)) for edge in (start, end))
                pieces.append(waveform[first:last])
    return float(10 * np.log10(np.mean(np.concatenate(pieces) ** 2)))


def test_pauses_are_much_quieter_than_vowels(corpus: Corpus) -> None:
    contrast = {
        shift: mean_power(corpus, VOWELS, shift) - mean_power(corpus, {SILENCE}, shift)
        for shift in (-0.1, 0.0, 0.1)
    }
    assert contrast[0.0] > 8
    assert contrast[0.0] > contrast[-0.1] + 2, "the alignment is in place"
    assert contrast[0.0] > contrast[0.1] + 2


def test_trim_keeps_phones_within_the_audio() -> None:
    quiet, loud = np.zeros(8_000, np.float32), np.full(16_000, 0.5, np.float32)
    waveform = np.concatenate([quiet, loud, quiet])
    given = [(SILENCE, 0.0, 0.5), ("AA", 0.5, 1.5), ("T", 1.6, 1.7), (SILENCE, 1.7, 2.0)]
    trimmed, phones = worker.trim(waveform, given)
    assert len(trimmed) == 16_000 + 2 * 960
    assert phones[0] == (SILENCE, 0.0, 0.06)
    assert phones[1] == ("AA", 0.06, 1.06)
    assert [phone for phone, _, _ in phones] == [SILENCE, "AA", "T"]
    for _, start, end in phones:
        assert 0 <= start <= end <= len(trimmed) / 16_000


def test_align_splits_double_phones_and_follows_the_warp() -> None:
    speech = Speech(np.zeros(22_050, np.float32), 22_050, (("@L", 0.0), ("_:", 0.6)))
    assert worker.align(speech, 1.0) == [
        ("AH", 0.0, 0.3),
        ("L", 0.3, 0.6),
        (SILENCE, 0.6, 1.0),
    ]
    warped = worker.align(speech, 1.1)
    assert [end for _, _, end in warped] == pytest.approx([0.33, 0.66, 1.1])


def test_foreign_speech_has_no_phones_and_shards_do_not_matter_to_the_text(
    tmp_path: Path,
) -> None:
    spec = part("p", texts="words", voices="pretrain", text_set="pretrain", foreign_share=1.0)
    job = {"partition": spec.as_dict(), "first": 2, "last": 4, "seed": 1, "folder": str(tmp_path)}
    synthetic._run_worker(job)
    lines = [json.loads(line) for line in (tmp_path / "shard.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["p-000002", "p-000003"]
    for line in lines:
        assert line["phones"] == []
        assert not line["language"].startswith("en")
        assert soundfile.info(tmp_path / f"{line['id']}.wav").frames == line["samples"] > 4_000


def test_a_failing_worker_is_one_error_with_the_reason(tmp_path: Path) -> None:
    bad = part("bad", texts="sentence", text_set="test")  # there are no such sentences
    spec = SyntheticSpec(name="bad", partitions=(bad,))
    with pytest.raises(DataError, match="a worker of the embedded corpus failed: KeyError: 'test'"):
        synthetic.prepare(spec, tmp_path)
    assert visible(tmp_path) == []


def test_a_killed_worker_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killer = tmp_path / "python"
    killer.write_text("#!/bin/sh\nkill -9 $$\n")
    killer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killer))
    with pytest.raises(DataError, match="exit status -9"):
        synthetic.prepare(SPEC, tmp_path / "corpus")
    assert visible(tmp_path / "corpus") == []


def test_an_error_of_the_worker_is_told_without_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "espeakng_loader.py").write_text("raise ImportError\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    job = {"partition": CLEAN.as_dict(), "first": 0, "last": 1, "seed": 1, "folder": str(tmp_path)}
    with pytest.raises(DataError) as caught:
        synthetic._run_worker(job)
    assert caught.value.message == (
        "a worker of the embedded corpus failed: "
        "the embedded corpus needs espeak-ng, which is not installed"
    )


def test_without_espeak_there_is_a_hint_and_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(job: dict[str, Any]) -> None:
        raise AssertionError("no worker is started")

    espeak.variants.cache_clear()
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    monkeypatch.setattr(synthetic, "_run_worker", refuse)
    for attempt in (Espeak, espeak.variants, lambda: synthetic.prepare(SPEC, tmp_path)):
        with pytest.raises(PackageError, match="espeak-ng, which is not installed") as caught:
            attempt()
        assert "speechft[demo]" in (caught.value.hint or "")
    assert visible(tmp_path) == []
