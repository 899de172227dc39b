"""Every task in every way to fine-tune: it does, or a sentence says why not, with a true hint."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from helpers import TIMING, tiny_encoder
from speechft.data.manifest import Corpus
from speechft.encoders.base import Encoder
from speechft.errors import ConfigError, SpeechftError
from speechft.features.extract import count_frames
from speechft.finetuning import examples
from speechft.finetuning.config import FinetuningConfig
from speechft.finetuning.finetune import Tuned, finetune_encoder
from speechft.tasks import TASKS
from superb import superb_corpus

TRAINED = [name for name, task in TASKS.items() if task.can_finetune]
# one convolution with the usual window and hop: the same frames at a fraction of the time
_ENCODER = tiny_encoder(
    num_hidden_layers=1, intermediate_size=8, conv_dim=[4], conv_kernel=[400], conv_stride=[320]
)
_SETTINGS: dict[str, Any] = {
    "steps": 2,
    "head_only": 0.5,
    "learning_rate": 1e-3,
    "hidden": 8,
    "batch_utterances": 4,
    "precision": "fp32",
    "trackers": (),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Return the labels of all tasks on eight utterances a split."""
    return superb_corpus(tmp_path_factory.mktemp("corpus"), per_speaker=2)


@pytest.fixture(scope="module")
def without_dev(corpus: Corpus) -> Corpus:
    """Return the same corpus without the splits that tasks are chosen on."""
    statistics = {n: s for n, s in corpus.statistics.items() if "dev" not in n}
    return dataclasses.replace(corpus, statistics=statistics)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)


def tune(folder: Path, corpus: Corpus, **changes: Any) -> Tuned:
    encoder: Encoder = copy.deepcopy(_ENCODER)
    config = FinetuningConfig(**{**_SETTINGS, **changes})
    tuned = finetune_encoder(encoder, config, corpus, folder)
    assert torch.tensor(tuned.history.losses).isfinite().all()
    return tuned


@pytest.mark.parametrize("dev", [True, False], ids=["dev", "no dev"])
@pytest.mark.parametrize("way", ["stable", "plain-cnn", "no downsampler cache"])
@pytest.mark.parametrize("task", TRAINED)
def test_every_task_is_tuned_on_in_every_way(
    task: str,
    way: str,
    dev: bool,
    corpus: Corpus,
    without_dev: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if way == "no downsampler cache":
        monkeypatch.setattr(examples, "CACHE_BYTES", 0)
    changes = {"task": task, "strategy": "plain-cnn" if way == "plain-cnn" else "stable"}
    if dev:
        tuned = tune(tmp_path, corpus, **changes)
        assert tuned.dev == tuned.dev, "a figure on dev"
        return
    with pytest.raises(SpeechftError, match=r"has no split '\S*dev\S*' to select with") as caught:
        tune(tmp_path, without_dev, **changes)
    assert advised(caught.value) == {"select": "last"}
    tuned = tune(tmp_path, without_dev, **changes, **advised(caught.value))
    assert len(tuned.history.losses) == 2


def advised(error: SpeechftError) -> dict[str, str]:
    """Return the settings of fine-tuning that the hint of a one-sentence error recommends."""
    assert error.hint, error.message
    assert "\n" not in error.message
    found = dict(re.findall(r"finetuning\.(\w+)=(\w+)", error.hint))
    if "finetuning.task to one" in error.hint:
        found["task"] = error.hint.rpartition(": ")[2]
    return found


@pytest.mark.parametrize("dev", [True, False], ids=["dev", "no dev"])
def test_a_task_that_trains_nothing_names_those_that_do(
    dev: bool, corpus: Corpus, without_dev: Corpus, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match="cannot be fine-tuned on qbe: it trains no head"
    ) as caught:
        tune(tmp_path, corpus if dev else without_dev, task="qbe")
    found = advised(caught.value)
    assert found.pop("task").split(", ") == TRAINED, "the test above tunes on each of them"
    assert found == ({} if dev else {"select": "last"})


OTHER_WAYS: dict[str, dict[str, Any]] = {
    "l2sp": {"strategy": "l2sp"},
    "lora": {"strategy": "lora"},
    "distill": {"strategy": "distill"},
    "early-checkpoint": {"strategy": "early-checkpoint", "early": {"share": 0.5}},
    "average": {"select": "ema"},
    "frozen states": {"head_only_mode": "eval"},
    "crops": {"max_duration": 0.3},
    "crops of samples": {"max_duration": 0.3, "strategy": "plain-cnn"},
    "masks": {"specaugment": {}, "strategy": "plain-cnn"},
    "BiLSTM": {"recurrent": {"layers": 1, "size": 4}, "strategy": "plain-cnn"},
    "joint": {"tasks": {"asv": 1.0, "sd": 1.0, "sf": 0.5}, "strategy": "plain-cnn"},
}


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_other_ways_take_tasks_of_every_kind(way: str, corpus: Corpus, tmp_path: Path) -> None:
    tasks = ("asv",) if way == "joint" else ("sf", "asv", "sd", "pc", "ic")
    chosen = tasks if way in ("joint", "BiLSTM", "lora") else tasks[len(way) % 5 :][:2]
    for task in chosen:
        changes = {"task": task, **OTHER_WAYS[way]}
        if way == "BiLSTM" and not TASKS[task].per_frame:
            with pytest.raises(ConfigError, match=f"that work on frames; {task} does not") as error:
                tune(tmp_path / task, corpus, **changes)
            changes |= dict.fromkeys(advised(error.value))
        tune(tmp_path / task, corpus, **changes)


@pytest.mark.parametrize("name", TRAINED)
def test_frames_of_padding_change_no_loss(name: str, corpus: Corpus) -> None:
    """A batch of waveforms is padded to few shapes, one of kept outputs is not."""
    task, generator = TASKS[name].at(TIMING), torch.Generator().manual_seed(0)
    cuts = list(corpus.split(corpus.task_splits(name)[0]))[:4]
    vocabulary = task.vocabulary(corpus.split(corpus.task_splits(name)[0]))
    frames = torch.tensor(count_frames(_ENCODER, cuts))
    features = torch.randn(4, int(frames.max()), 24, generator=generator)
    head = task.head(24, vocabulary, 8).eval()
    targets = [task.target(c, vocabulary, int(n)) for c, n in zip(cuts, frames, strict=True)]
    losses = [
        task.losses(head(F.pad(features, (0, 0, 0, more)), frames), frames, targets, vocabulary)
        for more in (0, 6)
    ]
    torch.testing.assert_close(losses[0], losses[1])
