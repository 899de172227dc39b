"""Predictions in files: every input, every format, stops and goes on, and what is refused."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lhotse import SupervisionSet

import speechft
from helpers import speech_encoder, tiny_encoder
from pipelines import SIZES, save_head
from speechft.data.manifest import Corpus
from speechft.errors import CheckpointError, ConfigError, DataError, RunError
from speechft.prediction import predict as verb
from speechft.prediction.pipelines import Pipeline
from speechft.storage.locks import lock
from speechft.tasks import SUPERB

SECONDS = {"a": 1.5, "b/b": 0.7, "b/c": 2.3, "d": 0.7}


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of noise that swells and fades."""
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    for name, seconds in SECONDS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        count = int(16_000 * seconds)
        swell = 1 + np.sin(np.arange(count) / 2_000)
        soundfile.write(folder / f"{name}.wav", 0.1 * swell * rng.standard_normal(count), 16_000)
    return folder


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return folders of heads of random weights, a task each."""
    folder = tmp_path_factory.mktemp("heads")
    encoder = tiny_encoder()
    tasks = [*SUPERB, "pc"]
    return {
        task: save_head(folder / task, task, encoder, **SIZES.get(task, {}))
        for task in tasks
        if task not in ("qbe", "ks", "er")
    }


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_pipeline_hears_samples_as_it_hears_their_file(
    heads: dict[str, Path], audio: Path
) -> None:
    pipeline = speechft.load_pipeline(heads["sid"])
    samples, _ = soundfile.read(audio / "b/c.wav", dtype="float64")
    one_row = torch.from_numpy(samples)
    assert pipeline.predict(one_row) == pipeline.predict(audio / "b/c.wav")
    assert repr(pipeline).startswith("Pipeline(task sid, ")
    for wrong in (one_row[None], one_row.short()):
        with pytest.raises(DataError, match=r"expected floating-point numbers \(S,\)"):
            pipeline.answer(wrong)


@pytest.mark.parametrize("task", ["pr", "asr", "sid", "asv", "sd", "ic", "sf", "pc"])
def test_every_task_says_of_files_together_what_it_says_of_each(
    task: str, heads: dict[str, Path], audio: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    report = speechft.predict(heads[task], [audio], out)
    assert (report.written, report.failed, report.resumed) == (4, {}, 0)
    assert report.seconds == pytest.approx(sum(SECONDS.values()))
    found = lines(out)
    assert [row["id"] for row in found] == sorted(SECONDS)
    assert [row["seconds"] for row in found] == [SECONDS[row["id"]] for row in found]
    pipeline = speechft.load_pipeline(heads[task])
    for row in found:
        alone = pipeline.answer(audio / f"{row['id']}.wav").values
        assert set(row) == {"id", "seconds", *alone}
        for name, value in alone.items():
            if name in ("probability", "embedding"):
                assert row[name] == pytest.approx(value, abs=2e-6)
            elif task != "ic":
                assert row[name] == value
    one = tmp_path / "one.jsonl"
    speechft.predict(heads[task], [audio / "b/c.wav"], one, batch_seconds=0.1)
    assert lines(one)[0]["seconds"] == 2.3


def test_inputs_of_every_kind_give_the_same(
    heads: dict[str, Path], audio: Path, tones: Corpus, tmp_path: Path
) -> None:
    def said(*given: Path) -> dict[str, Any]:
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        speechft.predict(heads["asr"], given, out)
        return {row["id"]: row["text"] for row in lines(out)}

    folder = said(audio)
    assert folder == said(*(audio / f"{name}.wav" for name in SECONDS))
    table = tmp_path / "mine.csv"
    table.write_text(f"path,start,end\n{audio}/a.wav,,\n{audio}/b/c.wav,0.5,1.5\n")
    rows = said(table)
    assert rows["a"] == folder["a"]
    assert len(rows) == 2
    assert list(rows)[1].endswith("-0000500-0001500")
    stereo = np.stack([soundfile.read(audio / "a.wav")[0]] * 2, axis=1)
    soundfile.write(tmp_path / "stereo.flac", stereo, 16_000)
    assert said(tmp_path / "stereo.flac")["stereo"] == folder["a"]
    corpus = said(tones.folder)
    split = said(tones.folder / "test.jsonl.gz")
    assert split == {n.removeprefix("test/"): t for n, t in corpus.items() if n[:5] == "test/"}


def test_csv_holds_what_json_lines_hold(
    heads: dict[str, Path], audio: Path, tmp_path: Path
) -> None:
    for task in ("asv", "sid", "asr"):
        speechft.predict(heads[task], [audio], tmp_path / f"{task}.csv")
        speechft.predict(heads[task], [audio], tmp_path / f"{task}.jsonl")
        with open(tmp_path / f"{task}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        for row, expected in zip(rows, lines(tmp_path / f"{task}.jsonl"), strict=True):
            for name, value in expected.items():
                read = row[name] if isinstance(value, str) else json.loads(row[name])
                assert read == value


def test_turns_are_read_back_by_lhotse(heads: dict[str, Path], audio: Path, tmp_path: Path) -> None:
    speechft.predict(heads["sd"], [audio], tmp_path / "out.rttm")
    speechft.predict(heads["sd"], [audio], tmp_path / "out.jsonl")
    read = sorted(
        (s.recording_id, s.start, round(s.end, 3), s.speaker)
        for s in SupervisionSet.from_rttm(tmp_path / "out.rttm")
    )
    assert len(read) > 3
    assert read == sorted(
        (row["id"], turn["start"], turn["end"], turn["speaker"])
        for row in lines(tmp_path / "out.jsonl")
        for turn in row["turns"]
    )


CUE = re.compile(r"(\d\d):(\d\d):(\d\d\.\d{3}) --> (\d\d):(\d\d):(\d\d\.\d{3})\n(.+)\n")


def test_captions_hold_all_words_in_their_times(
    heads: dict[str, Path], audio: Path, tmp_path: Path
) -> None:
    speechft.predict(heads["pr"], [audio / "b/c.wav"], tmp_path / "c.vtt")
    speechft.predict(heads["pr"], [audio], tmp_path / "all", format="vtt")
    speechft.predict(heads["pr"], [audio], tmp_path / "all.jsonl")
    said = {row["id"]: row for row in lines(tmp_path / "all.jsonl")}
    files = {p.relative_to(tmp_path / "all").as_posix() for p in (tmp_path / "all").rglob("*.vtt")}
    assert files == {f"{name}.vtt" for name in SECONDS}
    text = (tmp_path / "c.vtt").read_text()
    assert text == (tmp_path / "all" / "b" / "c.vtt").read_text()
    assert text.startswith("WEBVTT\n\n")
    cues = CUE.findall(text)
    assert " ".join(cue[6] for cue in cues) == said["b/c"]["text"].replace("<unk>", "&lt;unk&gt;")
    times = [[60 * int(c[n + 1]) + float(c[n + 2]) for n in (0, 3)] for c in cues]
    assert times[0][0] == said["b/c"]["phones"][0]["start"]
    assert times[-1][1] == said["b/c"]["phones"][-1]["end"]
    assert all(a < b for a, b in times)


def test_a_long_recording_is_heard_in_windows(
    heads: dict[str, Path], audio: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    soundfile.write(tmp_path / "long.wav", 0.1 * rng.standard_normal(16_000 * 12), 16_000)
    speechft.predict(
        heads["pc"], [tmp_path / "long.wav", audio], tmp_path / "o.jsonl", window=2.0, context=0.3
    )
    [long] = [row for row in lines(tmp_path / "o.jsonl") if row["id"].endswith("long")]
    assert long["phones"][0]["start"] == 0.0
    assert long["phones"][-1]["end"] == pytest.approx(599 * 0.02)
    for before, after in itertools.pairwise(long["phones"]):
        assert before["end"] == after["start"]


def stopping(after: int) -> Any:
    """Return `Pipeline.answers` that is interrupted at some call."""
    answers, calls = Pipeline.answers, iter(range(after))

    def stop(self: Pipeline, *given: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return answers(self, *given)

    return stop


def test_a_stopped_run_goes_on_and_gives_the_same(
    heads: dict[str, Path], audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"batch_seconds": 0.1}
    speechft.predict(heads["asr"], [audio], tmp_path / "whole.jsonl", **options)
    out = tmp_path / "out.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "answers", stopping(2))
        with pytest.raises(KeyboardInterrupt):
            speechft.predict(heads["asr"], [audio], out, **options)
    assert not out.exists()
    kept = tmp_path / ".out.jsonl.answers" / "answers.jsonl"
    assert len(lines(kept)) == 2
    with kept.open("a") as file:
        file.write('{"id": "d", "audio": "half of a li')  # as a kill leaves it
    report = speechft.predict(heads["asr"], [audio], out, **options)
    assert (report.resumed, report.written) == (2, 4)
    assert report.seconds == pytest.approx(sum(SECONDS.values()) - 2.3 - 1.5)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not kept.parent.exists()


def test_answers_of_another_head_or_of_changed_audio_are_made_anew(
    heads: dict[str, Path], audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "audio"
    own.mkdir()
    for name in ("x", "y", "z"):
        (own / f"{name}.wav").write_bytes((audio / "a.wav").read_bytes())
    out = tmp_path / "out.jsonl"

    def stopped(task: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Pipeline, "answers", stopping(2))
            with pytest.raises(KeyboardInterrupt):
                speechft.predict(heads[task], [own], out, batch_seconds=0.1)

    stopped("asr")
    assert speechft.predict(heads["sid"], [own], out).resumed == 0
    stopped("asr")
    (own / "x.wav").write_bytes((audio / "d.wav").read_bytes())
    report = speechft.predict(heads["asr"], [own], out, batch_seconds=0.1)
    assert report.resumed == 1
    assert lines(out)[0]["seconds"] == 0.7


def test_what_cannot_be_read_is_named_and_the_rest_done(
    heads: dict[str, Path], audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "audio"
    own.mkdir()
    for name in ("a", "z"):
        (own / f"{name}.wav").write_bytes((audio / "a.wav").read_bytes())
    (own / "m.wav").write_text("no audio at all")
    whole = (audio / "a.wav").read_bytes()
    (own / "n.wav").write_bytes(whole[: len(whole) // 2])
    soundfile.write(own / "o.wav", np.zeros(100), 16_000)
    soundfile.write(own / "p.wav", np.full(8_000, np.nan), 16_000, subtype="FLOAT")
    report = speechft.predict(heads["asv"], [own], tmp_path / "out.jsonl")
    assert [row["id"] for row in lines(tmp_path / "out.jsonl")] == ["a", "z"]
    reasons = {Path(place).stem: reason for place, reason in report.failed.items()}
    assert reasons.keys() == {"m", "n", "o", "p"}
    assert "not readable as audio" in reasons["m"]
    assert "cut off" in reasons["n"]
    assert "fewer than the 16 frames" in reasons["o"]
    assert "NaN" in reasons["p"]
    said = capsys.readouterr().err
    assert all(f"left out: {own / name}.wav" in said for name in "mnop")
    (own / "a.wav").unlink()
    (own / "z.wav").unlink()
    with pytest.raises(DataError, match="none of 4 audio files can be used"):
        speechft.predict(heads["asv"], [own], tmp_path / "none.jsonl")
    assert not list(tmp_path.glob("*none*"))
    assert not list(tmp_path.glob(".none*"))


def test_bad_requests_are_refused_with_nothing_written(
    heads: dict[str, Path], audio: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine.jsonl").write_text("{}\n")
    wrong: list[tuple[str, list[Path], str, dict[str, Any], type[Exception], str]] = [
        ("asr", [tmp_path / "empty"], "o.jsonl", {}, DataError, "holds no audio"),
        ("asr", [tmp_path / "none.wav"], "o.jsonl", {}, DataError, "does not exist"),
        ("asr", [audio], "mine.jsonl", {}, RunError, "not written by this command"),
        ("asr", [audio], "o.rttm", {}, ConfigError, "as rttm; they can be as jsonl, csv, vtt"),
        ("sid", [audio], "o.vtt", {}, ConfigError, "sid cannot be written as vtt"),
        ("asr", [audio], "o.txt", {}, ConfigError, "unknown format 'txt'"),
        ("asr", [audio], "o.vtt", {}, ConfigError, "is about one recording; there are 4"),
        ("asr", [audio], "o", {"window": 1.0, "context": 0.5}, ConfigError, "leave nothing"),
        ("asr", [audio], "o", {"window": 0.0}, ConfigError, "are no lengths"),
        ("asr", [audio], "o", {"task": "pr"}, CheckpointError, "task asr, not of pr"),
        ("sid", [audio], "o", {"language_model": "x"}, ConfigError, "is for task asr"),
        ("asr", [audio], "o", {"encoder": "tiny-hubert"}, CheckpointError, "has changed"),
        ("asr", [audio], "o", {"device": "nowhere"}, ConfigError, "device 'nowhere'"),
    ]
    before = sorted(tmp_path.iterdir())
    for task, given, out, options, error, message in wrong:
        with pytest.raises(error, match=message):
            speechft.predict(heads[task], given, tmp_path / out, **options)
        assert sorted(tmp_path.iterdir()) == before
    speechft.predict(heads["asr"], [audio], tmp_path / "mine.jsonl", overwrite=True)
    assert len(lines(tmp_path / "mine.jsonl")) == 4
    with (
        lock(tmp_path / ".o.jsonl.answers"),
        pytest.raises(RunError, match="in use by another process"),
    ):
        speechft.predict(heads["asr"], [audio], tmp_path / "o.jsonl")


def test_names_that_rttm_cannot_tell_apart(
    heads: dict[str, Path], audio: Path, tmp_path: Path
) -> None:
    own = tmp_path / "audio"
    own.mkdir()
    for name in ("one two", "one_two"):
        (own / f"{name}.wav").write_bytes((audio / "a.wav").read_bytes())
    with pytest.raises(DataError, match="'one two' and 'one_two' are one"):
        speechft.predict(heads["sd"], [own], tmp_path / "o.rttm")


def test_numbers_that_are_none_are_left_out(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_head(tmp_path, "sid", speech_encoder("hubert"))
    logits = Pipeline.logits

    def broken(self: Pipeline, *waveforms: Any, **named: Any) -> Any:
        found, lengths = logits(self, *waveforms, **named)
        found = found.clone()
        for number, row in enumerate(waveforms):
            if len(row) == 16_000 * 2.3:
                found[number] = float("nan")
        return found, lengths

    monkeypatch.setattr(Pipeline, "logits", broken)
    report = speechft.predict(folder, [audio], tmp_path / "o.jsonl", batch_seconds=99.0)
    assert list(report.failed.values()) == ["gives no finite numbers in fp32"]
    assert report.written == 3


def test_a_group_is_heard_whole_when_some_of_it_is_known(
    heads: dict[str, Path], audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch decides the last bits, so that what goes on is what would have been."""
    heard: list[int] = []
    read = verb.read_ahead

    def spy(groups: list[dict[str, Any]]) -> Iterator[Any]:
        heard.append(sum(map(len, groups)))
        yield from read(groups)

    def crash(self: Any, answers: dict[str, Any]) -> None:
        add(self, dict(list(answers.items())[:1]))
        raise KeyboardInterrupt

    monkeypatch.setattr(verb, "read_ahead", spy)
    add = verb.Journal.add
    with monkeypatch.context() as patch:
        patch.setattr(verb.Journal, "add", crash)
        with pytest.raises(KeyboardInterrupt):
            speechft.predict(heads["asr"], [audio], tmp_path / "o.jsonl")
    report = speechft.predict(heads["asr"], [audio], tmp_path / "o.jsonl")
    assert (report.resumed, report.written, heard) == (1, 4, [4, 4])
