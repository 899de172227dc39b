"""AISHELL-3: characters and pinyin of one line, 44.1 kHz, dev by hash."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpora import issues, prepared, sizes, speak, train
from speechft.data.corpora.synthetic.layouts import write_layout
from speechft.data.labels import label_of
from speechft.data.waveform import load_waveform
from speechft.errors import DataError
from speechft.tasks import find_task


@pytest.fixture
def root(tmp_path: Path) -> Path:
    spoken = {
        split: [
            speak(
                f"{split}{who}{n}",
                f"s{who}",
                n,
                text="广州女大",
                labels={"pinyin": "guang3 zhou1 nv3 da4"},
            )
            for who in range(2)
            for n in range(12)
        ]
        for split in ("train", "test")
    }
    write_layout("aishell3", tmp_path / "aishell", {**spoken, "dev": []})
    return tmp_path / "aishell" / "data_aishell3"


def test_counts_ids_and_one_example(root: Path) -> None:
    assert (root / "train" / "content.txt").read_text(encoding="utf-8").splitlines()[0] == (
        "SSB00050000.wav\t广 guang3 州 zhou1 女 nv3 大 da4"
    )
    corpus = prepared("aishell3", root)
    assert sizes(corpus)["train"] + sizes(corpus)["dev"] == 24
    assert sizes(corpus)["dev"] == 1
    cut = next(iter(corpus.split("test")))
    assert (cut.id, cut.sampling_rate) == ("SSB00050012", 44_100)
    expected = {
        "text": "广州女大",
        "pinyin": "guang3 zhou1 nv3 da4",
        "speaker": "SSB0005",
        "gender": "female",
        "accent": "north",
        "language": "zh",
    }
    assert {kind: label_of(cut, kind) for kind in expected} == expected
    assert len(load_waveform(cut)) == 9_600, "0.6 s at 16 kHz"
    train(corpus, find_task("sid"))
    train(corpus, find_task("asr"))


def test_dev_does_not_depend_on_what_else_is_there(root: Path) -> None:
    dev = {cut.id for cut in prepared("aishell3", root).split("dev")}
    content = root / "train" / "content.txt"
    lines = content.read_text(encoding="utf-8").splitlines()
    keep = [line for number, line in enumerate(lines) if number % 3 or line[:11] in dev]
    content.write_text("\n".join(reversed(keep)), encoding="utf-8")
    after = prepared("aishell3", root)
    assert {cut.id for cut in after.split("dev")} == dev
    assert {line[0] for line in issues(root)} == {"no-label"}


def test_deleted_renamed_and_damaged(root: Path) -> None:
    folder = root / "test" / "wav" / "SSB0005"
    (folder / "SSB00050012.wav").unlink()
    (folder / "SSB00050013.wav").rename(folder / "SSB00059999.wav")
    with open(root / "test" / "content.txt", "a", encoding="utf-8") as file:
        file.write("SSB00050099.wav\t广 guang3 州\n")
    with pytest.raises(DataError, match="2 missing-audio"):
        prepared("aishell3", root)
    assert sizes(prepared("aishell3", root, allow_missing=True))["test"] == 22
    assert [line[0] for line in issues(root)] == [
        "missing-audio",
        "missing-audio",
        "bad-label",
        "no-label",
    ]


def test_another_rate_is_named_and_kept(root: Path) -> None:
    import numpy as np
    import soundfile

    path = root / "test" / "wav" / "SSB0005" / "SSB00050012.wav"
    noise = 0.1 * np.random.default_rng(0).standard_normal((16_000, 2))
    soundfile.write(path, noise, 16_000)
    assert sizes(prepared("aishell3", root))["test"] == 24
    assert [line[:2] for line in issues(root)] == [
        ["rate-mismatch", "kept"],
        ["channel-mismatch", "kept"],
    ]
