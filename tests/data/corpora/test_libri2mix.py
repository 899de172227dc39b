"""Libri2Mix: who speaks when, from Kaldi folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corpora import issues, miniature, prepared, sizes
from speechft.data.labels import label_of
from speechft.errors import DataError

TURNS = [["a", 0.0, 0.4], ["b", 0.25, 0.6]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    miniature(tmp_path / "mix", "libri2mix", labels=lambda *_: {"turns": json.dumps(TURNS)})
    return tmp_path / "mix"


def test_counts_ids_and_one_example(root: Path) -> None:
    data = root / "data" / "train"
    assert (data / "segments").read_text().splitlines()[0] == (
        "a_train-0-0_000000_000400 train-0-0 0.000 0.400"
    )
    assert (data / "rttm").read_text().splitlines()[0] == (
        "SPEAKER train-0-0 1 0.000 0.400 <NA> <NA> a <NA>"
    )
    corpus = prepared("libri2mix", root)
    assert sizes(corpus) == {"train": 6, "dev": 6, "test": 6}
    cut = next(iter(corpus.split("train")))
    assert cut.id == "train-0-0"
    assert json.loads(label_of(cut, "turns") or "") == TURNS
    assert "train: 6 of 13901 official mixtures" in corpus.info["notes"]


def test_a_tiny_model_learns_who_speaks(root: Path) -> None:
    import torch

    from helpers import tiny_encoder
    from speechft.data.batching import BatchPlan, StepDataset

    corpus = prepared("libri2mix", root)
    encoder, head = tiny_encoder(), torch.nn.Linear(24, 2)
    dataset = StepDataset(
        BatchPlan(corpus.split("train"), seconds=8.0, utterances=6, seed=0),
        target=lambda cut, _: json.loads(label_of(cut, "turns") or ""),
        collate=list,
    )
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=1e-2)
    losses = []
    for step in range(4):
        batch = dataset[step]
        output = encoder(batch.waveforms, batch.lengths)
        logits = head(output.last_hidden_state)
        seconds = torch.arange(logits.shape[1]) * 0.02
        target = torch.stack(
            [
                torch.stack([((seconds >= s) & (seconds < e)).float() for _, s, e in turns], -1)
                for turns in batch.targets
            ]
        )
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_rttm_instead_of_segments(root: Path) -> None:
    for split in ("train", "dev", "test"):
        (root / "data" / split / "segments").unlink()
        (root / "data" / split / "utt2spk").unlink()
    cut = next(iter(prepared("libri2mix", root).split("train")))
    assert json.loads(label_of(cut, "turns") or "") == TURNS


def test_paths_of_another_machine_are_found(root: Path, tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        scp = root / "data" / split / "wav.scp"
        scp.write_text(scp.read_text().replace(str(root), "/home/someone/corpora"))
    assert sizes(prepared("libri2mix", root))["train"] == 6
    (root / "Libri2Mix").rename(tmp_path / "Libri2Mix-moved")
    with pytest.raises(DataError, match="18 missing-audio"):
        prepared("libri2mix", root)
    (tmp_path / "there").mkdir()
    (tmp_path / "Libri2Mix-moved").rename(tmp_path / "there" / "Libri2Mix")
    assert sizes(prepared("libri2mix", root, f"wavs={tmp_path / 'there'}"))["train"] == 6


def test_deleted_renamed_and_reordered(root: Path) -> None:
    before = prepared("libri2mix", root)
    data = root / "data" / "train"
    for name in ("segments", "wav.scp", "utt2spk"):
        lines = (data / name).read_text().splitlines()
        (data / name).write_text("\n".join(reversed(lines)) + "\n")
    assert prepared("libri2mix", root).split("train") == before.split("train")

    mixtures = root / "Libri2Mix" / "wav16k" / "max" / "train-100" / "mix_both"
    (mixtures / "train-0-0.wav").unlink()
    (mixtures / "train-0-1.wav").rename(mixtures / "other.wav")
    with pytest.raises(DataError, match="2 missing-audio"):
        prepared("libri2mix", root)
    segments = data / "segments"
    lines = [s for s in segments.read_text().splitlines() if "train-0-2" not in s]
    segments.write_text("\n".join([*lines, "half a line"]) + "\n")
    assert sizes(prepared("libri2mix", root, allow_missing=True))["train"] == 3
    assert [line[0] for line in issues(root)] == [
        "missing-audio",
        "missing-audio",
        "bad-label",
        "no-label",
    ]


def test_a_bad_line_of_utt2spk_is_named(root: Path) -> None:
    table = root / "data" / "dev" / "utt2spk"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(["alone", " ", *lines]) + "\n")
    assert sizes(prepared("libri2mix", root))["dev"] == 6
    assert [line[5] for line in issues(root)] == ["line 1 is not 'utterance speaker'"]


def test_a_command_in_wav_scp_is_named(root: Path) -> None:
    scp = root / "data" / "dev" / "wav.scp"
    lines = scp.read_text().splitlines()
    scp.write_text("\n".join([lines[0].split()[0] + " sox a.wav -t wav - |", *lines[1:]]))
    assert sizes(prepared("libri2mix", root))["dev"] == 5
    assert "gives a command" in issues(root)[0][5]
