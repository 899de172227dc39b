"""QUESST 2014: documents, queries, which holds which; English of non-natives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from corpora import issues, prepared, sizes, speak
from helpers import tiny_encoder
from speechft.data.corpora.synthetic.layouts import write_layout
from speechft.data.manifest import load_waveform
from speechft.errors import DataError

BASE = Path("quesst14Database")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    documents = ("turn the lamp on", "a quiet garden", "lamp and garden")
    splits = {
        "train": [speak(f"d{i}", "x", i, text=text) for i, text in enumerate(documents)],
        "dev": [speak("q0", "y", text="lamp"), speak("q1", "y", text="garden")],
        "test": [speak("e0", "z", text="quiet")],
    }
    foreign = {"language": "albanian"}
    splits["train"].append(speak("d9", "x", text="lamp", labels=foreign))
    write_layout("quesst14", tmp_path / "qbe", splits)
    return tmp_path / "qbe"


def test_counts_ids_and_one_example(root: Path) -> None:
    scoring = root / BASE / "scoring"
    assert (scoring / "language_key_utterances.lst").read_text().splitlines()[0] == (
        "quesst14Database/Audio/quesst14_00001.wav nnenglish"
    )
    assert (scoring / "groundtruth_quesst14_dev" / "quesst2014.rttm").read_text().splitlines()[
        0
    ] == "LEXEME quesst14_00001 1 0.00 1.00 quesst14_dev_0001 lex <NA> 0.5"
    corpus = prepared("quesst14", root)
    assert sizes(corpus) == {"documents": 3, "dev-queries": 2, "test-queries": 1}
    rows = [
        tuple(line.split("\t"))
        for line in (corpus.folder / corpus.info["qbe"]).read_text().splitlines()
    ]
    assert [row for row in rows if row[2] == "1"] == [
        ("quesst14_dev_0001", "quesst14_00001", "1"),
        ("quesst14_dev_0001", "quesst14_00003", "1"),
        ("quesst14_dev_0002", "quesst14_00002", "1"),
        ("quesst14_dev_0002", "quesst14_00003", "1"),
        ("quesst14_eval_0001", "quesst14_00002", "1"),
    ]
    assert len(rows) == 9, "every query against every document"


def test_queries_and_documents_have_features(root: Path) -> None:
    """The task is not trained: what it needs is hidden states of both sides."""
    corpus = prepared("quesst14", root)
    encoder = tiny_encoder()
    for split in corpus.task_splits("qbe"):
        for cut in corpus.split(split):
            waveform = torch.from_numpy(load_waveform(cut))[None]
            with torch.inference_mode():
                output = encoder(waveform, torch.tensor([waveform.shape[1]]))
            assert torch.isfinite(output.hidden_states).all()


def test_other_languages_on_request(root: Path) -> None:
    assert sizes(prepared("quesst14", root, "language=all"))["documents"] == 4
    with pytest.raises(DataError, match="nothing in language 'klingon'"):
        prepared("quesst14", root, "language=klingon")


def test_deleted_renamed_and_reordered(root: Path) -> None:
    before = prepared("quesst14", root)
    listing = root / BASE / "scoring" / "language_key_utterances.lst"
    listing.write_text("\n".join(reversed(listing.read_text().splitlines())) + "\nodd line here\n")
    after = prepared("quesst14", root)
    assert after.split("documents") == before.split("documents")
    assert [line[0] for line in issues(root)] == ["bad-label"]

    (root / BASE / "Audio" / "quesst14_00001.wav").unlink()
    queries = root / BASE / "dev_queries"
    (queries / "quesst14_dev_0001.wav").rename(queries / "other.wav")
    with pytest.raises(DataError, match="2 missing-audio"):
        prepared("quesst14", root)
    less = prepared("quesst14", root, allow_missing=True)
    assert sizes(less) == {"documents": 2, "dev-queries": 1, "test-queries": 1}
    assert len((less.folder / "qbe.tsv").read_text().splitlines()) == 4


def test_without_ground_truth(root: Path) -> None:
    (root / BASE / "scoring" / "groundtruth_quesst14_dev" / "quesst2014.rttm").unlink()
    with pytest.raises(DataError, match=r"holds no \.rttm"):
        prepared("quesst14", root)
