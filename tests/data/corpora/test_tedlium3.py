"""TED-LIUM 3: STM segments of SPHERE talks, filters, the ten-hour subsets, normalisation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpora import issues, miniature, prepared, sizes, train
from speechft.data.corpora import tedlium3
from speechft.data.corpora.tedlium3 import normalise
from speechft.data.labels import label_of
from speechft.data.waveform import load_waveform
from speechft.errors import ConfigError, DataError
from speechft.tasks import find_task

LEGACY = Path("TEDLIUM_release-3/legacy")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    miniature(tmp_path / "ted", "tedlium3", seconds=1.2)
    return tmp_path / "ted"


def stm(root: Path, split: str = "train", talk: int = 0) -> Path:
    return sorted((root / LEGACY / split / "stm").glob("*.stm"))[talk]


def test_the_archive_has_its_true_shape(root: Path) -> None:
    talk = root / LEGACY / "train" / "sph" / "Train0_2026.sph"
    assert talk.read_bytes().startswith(b"NIST_1A\n   1024\n")
    assert stm(root).read_text().splitlines()[:2] == [
        "Train0_2026 1 Train0_2026 0.00 0.25 <o,f0,unknown> ignore_time_segment_in_scoring",
        "Train0_2026 1 Train0_2026 0.25 1.45 <o,f0,unknown> go on",
    ]


def test_counts_ids_and_one_example(root: Path) -> None:
    corpus = prepared("tedlium3", root)
    assert sizes(corpus) == {"train": 6, "dev": 6, "test": 6}
    assert corpus.info["filtered"] == {"ignored in scoring": 18}
    cut = next(iter(corpus.split("train")))
    assert cut.id == "Train0_2026-0000025-0000145"
    assert (cut.start, cut.duration) == (0.25, 1.2)
    assert label_of(cut, "text") == "GO ON"
    assert label_of(cut, "speaker") == "Train0_2026"
    whole, _ = soundfile.read(root / LEGACY / "train" / "sph" / "Train0_2026.sph", dtype="float32")
    np.testing.assert_array_equal(load_waveform(cut), whole[4_000:23_200])
    train(corpus, find_task("asr"))


def test_filters_of_the_official_fine_tuning(root: Path) -> None:
    file = stm(root)
    lines = file.read_text().splitlines()
    lines[1] = lines[1].replace("go on", "go <unk> on")
    lines[3] = lines[3].replace(lines[3].split()[4], f"{float(lines[3].split()[3]) + 0.99:.2f}")
    file.write_text("\n".join(lines))
    corpus = prepared("tedlium3", root)
    assert sizes(corpus)["train"] == 4
    assert corpus.info["filtered"] == {
        "ignored in scoring": 18,
        "shorter than 1 s or longer than 60 s": 1,
        "with <unk>": 1,
    }
    assert issues(root) == [], "what a rule leaves out is no damage"


@pytest.mark.parametrize(
    ("start", "end", "words", "kept"),
    [
        (0.0, 1.0, "a", True),
        (0.0, 0.99, "a", False),
        (3.0, 63.0, "a", True),
        (3.0, 63.01, "a", False),
        (0.0, 5.0, "a <unk>", False),
        (0.0, 5.0, "ignore_time_segment_in_scoring", False),
    ],
)
def test_filter(start: float, end: float, words: str, kept: bool) -> None:
    assert (tedlium3._filter(start, end, words.split()) is None) == kept


@pytest.mark.parametrize(
    ("given", "official", "mended"),
    [
        ("it 's a well-known idea", "IT'S A WELL KNOWN IDEA", "IT'S A WELL KNOWN IDEA"),
        ("{NOISE} so {SMACK}", "NOISE SO SMACK", "SO"),
        ("the 'cause of café", "THE'CAUSE OF CAF", "THE 'CAUSE OF CAFE"),
        ("they 're 3 people", "THEY'RE PEOPLE", "THEY'RE PEOPLE"),
    ],
)
def test_normalisation(given: str, official: str, mended: str) -> None:
    assert normalise(given, "official") == official
    assert normalise(given, "mended") == mended


def test_first_and_random_ten_hours(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tedlium3, "SUBSET_SECONDS", 2.5)
    first = [d.id for d in tedlium3.scan(root, subset="first-10h").splits["train"]]
    everything = [d.id for d in tedlium3.scan(root).splits["train"]]
    assert first == everything[:3], "until 2.5 s are exceeded: 1.2 + 1.2 + 1.2"
    draws = [
        [d.id for d in tedlium3.scan(root, subset="random-10h", seed=s).splits["train"]]
        for s in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert len(draws[0]) == 3
    assert set(draws[0]) <= set(everything)
    assert len(tedlium3.scan(root, subset="first-10h").splits["dev"]) == 6, "train only"


def test_deleted_audio_is_listed_and_needs_leave(root: Path) -> None:
    (root / LEGACY / "train" / "sph" / "Train1_2026.sph").unlink()
    with pytest.raises(DataError, match=r"1 missing-audio: .*Train1_2026\.sph: .*3 utt") as caught:
        prepared("tedlium3", root)
    assert "--allow-missing" in (caught.value.hint or "")
    assert issues(root)[0][:3] == ["missing-audio", "fatal", "train"]
    corpus = prepared("tedlium3", root, allow_missing=True)
    assert sizes(corpus)["train"] == 3
    assert issues(root)[0][:2] == ["missing-audio", "left out"]


def test_renamed_audio_is_missing_and_unlabelled(root: Path) -> None:
    sph = root / LEGACY / "dev" / "sph"
    (sph / "Dev0_2026.sph").rename(sph / "Other_2026.sph")
    corpus = prepared("tedlium3", root, allow_missing=True)
    assert sizes(corpus)["dev"] == 3
    assert [(line[0], Path(line[4]).name) for line in issues(root)] == [
        ("missing-audio", "Dev0_2026.sph"),
        ("no-label", "Other_2026.sph"),
    ]


def test_order_of_lines_decides_the_official_subset_only(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = prepared("tedlium3", root)
    monkeypatch.setattr(tedlium3, "SUBSET_SECONDS", 2.0)
    first = {d.id for d in tedlium3.scan(root, subset="first-10h").splits["train"]}
    file = stm(root)
    file.write_text("\n".join(reversed(file.read_text().splitlines())) + "\n")
    after = prepared("tedlium3", root)
    assert [c.id for c in before.split("train")] == [c.id for c in after.split("train")]
    assert {d.id for d in tedlium3.scan(root, subset="first-10h").splits["train"]} != first


def test_damaged_lines_are_named(root: Path) -> None:
    file = stm(root, "test")
    file.write_text(file.read_text() + "Test0_2026 1 Test0_2026 late 3.00 <o> words\n")
    assert sizes(prepared("tedlium3", root))["test"] == 6
    assert issues(root)[0][0] == "bad-label"
    assert "line 7 is not 'talk channel" in issues(root)[0][5]


@pytest.mark.parametrize(
    ("setting", "message"),
    [("text=raw", "mended, official"), ("subset=10h", "first-10h"), ("seed=x", "is not int")],
)
def test_unknown_settings(root: Path, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepared("tedlium3", root, setting)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not look like the folder TEDLIUM_release-3"):
        prepared("tedlium3", tmp_path)
