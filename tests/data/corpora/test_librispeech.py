"""LibriSpeech: chapters of FLAC and transcripts; phones through lexicons; lhotse agrees."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpora import issues, miniature, prepared, sizes, train
from speechft.data.corpora.prepare import prepare
from speechft.data.labels import label_of, phones_of
from speechft.errors import DataError
from speechft.tasks import find_task

LEXICON = "GO  G OW1\n\nGO  G AO1\nON\tAA1 N\nYES Y EH1 S\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    miniature(tmp_path / "libri", "librispeech")
    base = tmp_path / "libri" / "LibriSpeech"
    (base / "librispeech-lexicon.txt").write_text(LEXICON)
    return base


def test_the_archive_has_its_true_shape(root: Path) -> None:
    chapter = root / "train-clean-100" / "23" / "198"
    assert sorted(p.name for p in chapter.iterdir()) == [
        "23-198-0000.flac",
        "23-198-0001.flac",
        "23-198-0002.flac",
        "23-198.trans.txt",
    ]
    assert (chapter / "23-198.trans.txt").read_text().splitlines()[0] == "23-198-0000 GO ON"


def test_counts_ids_and_one_example(root: Path) -> None:
    corpus = prepared("librispeech", root)
    assert sizes(corpus) == {"train-clean-100": 6, "dev-clean": 6, "test-clean": 6}
    assert corpus.task_splits("asr") == ("train-clean-100", "dev-clean", "test-clean")
    cut = next(iter(corpus.split("train-clean-100")))
    assert (cut.id, cut.duration) == ("23-198-0000", 0.6)
    assert (label_of(cut, "text"), label_of(cut, "speaker")) == ("GO ON", "23")
    assert [phone for phone, _, _ in phones_of(cut)] == ["G", "OW1", "AA1", "N"]
    assert "train-clean-100: 6 of 28539 official utterances" in corpus.info["notes"]
    train(corpus, find_task("asr"))
    train(corpus, find_task("pr"))


def test_words_without_pronunciation_are_counted(root: Path) -> None:
    corpus = prepared("librispeech", root)
    (note,) = (note for note in corpus.info["notes"] if "no lexicon" in note)
    assert note.startswith("1 words (6 times) are in no lexicon and became SPN: LEFT")


def test_a_second_lexicon_fills_the_gaps_only(root: Path, tmp_path: Path) -> None:
    more = tmp_path / "g2p.txt"
    more.write_text("left  L EH1 F T\nGO  G UW1\n")
    corpus = prepared("librispeech", root, f"lexicon={root / 'librispeech-lexicon.txt'},{more}")
    cuts = {cut.id: cut for cut in corpus.split("train-clean-100")}
    assert [p for p, _, _ in phones_of(cuts["23-198-0000"])] == ["G", "OW1", "AA1", "N"]
    assert [p for p, _, _ in phones_of(cuts["23-198-0002"])][-4:] == ["L", "EH1", "F", "T"]
    assert not any("no lexicon" in note for note in corpus.info["notes"])


def test_without_a_lexicon_there_are_no_phones_and_it_says_so(root: Path) -> None:
    (root / "librispeech-lexicon.txt").unlink()
    corpus = prepared("librispeech", root)
    assert "phones" not in corpus.statistics["dev-clean"]["labels"]
    assert any("lexicon=FILE" in note for note in corpus.info["notes"])


def test_the_same_as_lhotse(root: Path) -> None:
    from lhotse.recipes import prepare_librispeech

    theirs = prepare_librispeech(root, dataset_parts=["dev-clean"])["dev-clean"]
    ours = {cut.id: cut for cut in prepared("librispeech", root).split("dev-clean")}
    assert {s.id for s in theirs["supervisions"]} == set(ours)
    for item in theirs["supervisions"]:
        cut = ours[item.id]
        expected = (item.text, item.speaker, item.duration)
        assert (label_of(cut, "text"), label_of(cut, "speaker"), cut.duration) == expected


def test_the_folder_above_and_a_single_part_will_do(root: Path, tmp_path: Path) -> None:
    above = prepare("librispeech", str(root.parent), tmp_path / "above")
    assert sizes(above)["train-clean-100"] == 6
    (tmp_path / "one").mkdir()
    (root / "dev-clean").rename(tmp_path / "one" / "dev-clean")
    assert sizes(prepare("librispeech", str(tmp_path / "one"), tmp_path / "part")) == {
        "dev-clean": 6
    }


def test_deleted_renamed_and_reordered(root: Path) -> None:
    before = prepared("librispeech", root)
    chapter = root / "train-clean-100" / "23" / "198"
    lines = (chapter / "23-198.trans.txt").read_text().splitlines()
    (chapter / "23-198.trans.txt").write_text("\n".join(reversed(lines)) + "\n")
    assert [c.id for c in prepared("librispeech", root).split("train-clean-100")] == [
        c.id for c in before.split("train-clean-100")
    ], "the order of lines does not matter"

    (chapter / "23-198-0000.flac").unlink()
    (chapter / "23-198-0001.flac").rename(chapter / "23-198-9999.flac")
    with pytest.raises(DataError, match="2 missing-audio"):
        prepared("librispeech", root)
    after = prepared("librispeech", root, allow_missing=True)
    assert sizes(after)["train-clean-100"] == 4
    assert [(line[0], Path(line[4]).name) for line in issues(root)] == [
        ("missing-audio", "23-198-0000.flac"),
        ("missing-audio", "23-198-0001.flac"),
        ("no-label", "23-198-9999.flac"),
    ]


def test_a_speaker_in_two_parts_is_fatal(root: Path) -> None:
    (root / "dev-clean" / "19").rename(root / "dev-clean" / "23")
    with pytest.raises(DataError, match=r"speaker-overlap.*speaker 23 is in train-clean-100") as e:
        prepared("librispeech", root, allow_missing=True)
    assert "move each speaker" in (e.value.hint or "")
