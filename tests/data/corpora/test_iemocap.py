"""IEMOCAP: five folds by session, excited counts as happy, dev drawn as s3prl draws it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from corpora import issues, miniature, prepared, sizes, train
from speechft.data.labels import label_of
from speechft.data.manifest import Corpus
from speechft.errors import DataError
from speechft.tasks.label import classification

BASE = Path("IEMOCAP_full_release")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    miniature(tmp_path / "iemocap", "iemocap", speakers=10, per_speaker=2, shared=True)
    return tmp_path / "iemocap"


def ids(corpus: Corpus, split: str) -> set[str]:
    return {cut.id for cut in corpus.split(split)}


def labels_file(root: Path) -> Path:
    return root / BASE / "Session1" / "dialog" / "EmoEvaluation" / "Ses01F_impro01.txt"


def test_the_archive_has_its_true_shape(root: Path) -> None:
    wav = root / BASE / "Session1" / "sentences" / "wav" / "Ses01F_impro01"
    assert (wav / "Ses01F_impro01_F000.wav").is_file()
    assert labels_file(root).read_text().splitlines()[2] == (
        "[0.0000 - 0.6000]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]"
    )


def test_counts_ids_and_one_example(root: Path) -> None:
    corpus = prepared("iemocap", root)
    # of six emotions in turn, five count (excited is happy, frustrated is dropped)
    assert sizes(corpus)["fold1-test"] == 10
    assert sizes(corpus)["fold1-train"] + sizes(corpus)["fold1-dev"] == 40
    cuts = {cut.id: cut for cut in corpus.split("fold1-test")}
    assert len([name for name in cuts if name.startswith("Ses01F")]) == 5
    assert label_of(cuts["Ses01F_impro01_F002"], "emotion") == "hap", "was exc"
    assert label_of(cuts["Ses01F_impro01_F003"], "emotion") == "ang"
    assert label_of(cuts["Ses01M_impro01_M000"], "speaker") == "Ses01M"
    assert label_of(cuts["Ses01F_impro01_F000"], "text") == "go on"
    assert "Ses01F_impro01_F005" not in cuts, "frustrated"
    assert "sorted ids" in corpus.info["notes"][0]
    train(corpus, classification("er", "emotion", label="emotion"))


def test_every_session_is_tested_once_and_never_trained_on(root: Path) -> None:
    corpus = prepared("iemocap", root)
    folds = corpus.info["folds"]["er"]
    assert [tuple(f) for f in folds] == [
        (f"fold{n}-train", f"fold{n}-dev", f"fold{n}-test") for n in (1, 2, 3, 4, 5)
    ]
    seen: set[str] = set()
    for number, (first, dev, test) in enumerate(folds, 1):
        parts = [ids(corpus, name) for name in (first, dev, test)]
        assert {name[:5] for name in parts[2]} == {f"Ses0{number}"}
        assert not {name[:5] for name in parts[0] | parts[1]} & {f"Ses0{number}"}
        assert sum(map(len, parts)) == len(set.union(*parts)) == 50
        assert len(parts[0]) == int(0.8 * 40)
        seen |= parts[2]
    assert len(seen) == 50


def test_dev_is_what_random_split_draws(root: Path) -> None:
    corpus = prepared("iemocap", root)
    pool = sorted(ids(corpus, "fold2-train") | ids(corpus, "fold2-dev"))
    torch.manual_seed(0)
    _, dev = torch.utils.data.random_split(range(len(pool)), [32, 8])
    assert ids(corpus, "fold2-dev") == {pool[i] for i in dev}


def test_metadata_fixes_the_order_before_the_draw(root: Path, tmp_path: Path) -> None:
    plain = prepared("iemocap", root)
    for number in range(1, 6):
        folder = tmp_path / "meta" / f"Session{number}"
        folder.mkdir(parents=True)
        rest = ids(plain, f"fold{number}-train") | ids(plain, f"fold{number}-dev")
        for name, pool in (("train", rest), ("test", ids(plain, f"fold{number}-test"))):
            rows = [{"path": f"x/{i}.wav", "label": "neu"} for i in sorted(pool, reverse=True)]
            (folder / f"{name}_meta_data.json").write_text(json.dumps({"meta_data": rows}))
    corpus = prepared("iemocap", root, f"metadata={tmp_path / 'meta'}")
    pool = sorted(ids(plain, "fold1-train") | ids(plain, "fold1-dev"), reverse=True)
    torch.manual_seed(0)
    _, dev = torch.utils.data.random_split(range(len(pool)), [32, 8])
    assert ids(corpus, "fold1-dev") == {pool[i] for i in dev} != ids(plain, "fold1-dev")
    assert "order of meta" in corpus.info["notes"][0]
    with pytest.raises(DataError, match=r"train_meta_data\.json does not exist"):
        prepared("iemocap", root, f"metadata={tmp_path}")


def test_deleted_renamed_and_reordered(root: Path) -> None:
    before = prepared("iemocap", root)
    file = labels_file(root)
    file.write_text("\n".join(reversed(file.read_text().splitlines())) + "\n")
    assert prepared("iemocap", root).split("fold3-train") == before.split("fold3-train")

    wav = root / BASE / "Session1" / "sentences" / "wav" / "Ses01F_impro01"
    (wav / "Ses01F_impro01_F000.wav").unlink()
    (wav / "Ses01F_impro01_F001.wav").rename(wav / "other.wav")
    with pytest.raises(DataError, match="2 missing-audio"):
        prepared("iemocap", root)
    assert len(issues(root)) == 2, "once a file, not once a fold"
    after = prepared("iemocap", root, allow_missing=True)
    assert sizes(after)["fold1-test"] == 8


def test_a_missing_session_is_refused(root: Path) -> None:
    (root / BASE / "Session4").rename(root / "elsewhere")
    with pytest.raises(DataError, match="Session4/dialog/EmoEvaluation"):
        prepared("iemocap", root)
