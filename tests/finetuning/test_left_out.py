"""One bad item never ends a fine-tuning: it is left out, named in a file, and changes no weight."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file

from helpers import tiny_encoder, tone_corpus
from speechft.data.labels import phones_of
from speechft.data.manifest import Corpus, open_corpus, write_corpus
from speechft.data.utterances import Utterance
from speechft.errors import DataError
from speechft.finetuning.config import FinetuningConfig
from speechft.finetuning.finetune import Tuned, finetune_encoder
from speechft.finetuning.splits import SplitReader
from speechft.tasks import find_task

ENCODER = tiny_encoder(num_hidden_layers=1)
_SETTINGS: dict[str, Any] = {
    "steps": 2,
    "learning_rate": 1e-3,
    "hidden": 8,
    "batch_utterances": 6,
    "precision": "fp32",
    "trackers": (),
}
TARGETS = {"source": "mfcc", "clusters": 2, "fit_frames": 200}


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Utterance]]:
    """Return the utterances of a corpus of tones, and a recording of 10 ms."""
    folder = tmp_path_factory.mktemp("tones")
    corpus = tone_corpus(folder, per_speaker=3)
    soundfile.write(folder / "blip.wav", 0.1 * np.ones(160), 16_000)
    return {
        split: [
            Utterance(
                cut.id,
                cut.recording.sources[0].source,
                cut.num_samples,
                text=cut.supervisions[0].text,
                speaker=cut.supervisions[0].speaker,
                phones=phones_of(cut),
                labels=dict(cut.supervisions[0].custom),
            )
            for cut in corpus.split(split)
        ]
        for split in ("train", "dev")
    }


def blip(items: dict[str, list[Utterance]]) -> Utterance:
    first = items["train"][0]
    return replace(first, id="blip", path=str(Path(first.path).parent / "blip.wav"), samples=160)


def written(folder: Path, items: dict[str, list[Utterance]], **more: list[Utterance]) -> Corpus:
    folder.mkdir()
    splits = {split: [*found, *more.get(split, [])] for split, found in items.items()}
    write_corpus(folder, "tones", "1", splits, {"tuning_splits": ["train", "dev"]})
    return open_corpus(folder)


def tune(folder: Path, corpus: Corpus, **changes: Any) -> Tuned:
    config = FinetuningConfig(**{**_SETTINGS, "max_left_out": 0.25, **changes})
    return finetune_encoder(copy.deepcopy(ENCODER), config, corpus, folder)


def named(file: Path) -> dict[str, tuple[str, str]]:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return {line["id"]: (line["split"], line["reason"]) for line in lines}


@pytest.mark.parametrize(
    ("task", "strategy", "bad", "dev", "reasons"),
    [
        (
            "pr",
            "plain",
            {"phones": [("AE"[n % 2], 0.0, 0.1) for n in range(99)]},
            {"phones": []},
            ("target longer than the frames", "no label"),
        ),
        (
            "sid",
            "stable",
            {"speaker": None},
            {"speaker": "new"},
            ("no label", "class unseen in training"),
        ),
    ],
)
def test_bad_items_change_nothing(
    task: str,
    strategy: str,
    bad: dict[str, Any],
    dev: dict[str, Any],
    reasons: tuple[str, str],
    items: dict[str, list[Utterance]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train = [replace(items["train"][0], id="bad", **bad), blip(items)]
    spoiled = written(
        tmp_path / "b", items, train=train, dev=[replace(items["dev"][0], id="odd", **dev)]
    )
    tuned = tune(tmp_path / "1", spoiled, task=task, strategy=strategy)
    assert f"task {task}: 1 left out, shorter than one frame: blip" in capsys.readouterr().err
    assert named(tmp_path / "1" / "left_out.jsonl") == {
        "bad": ("train", reasons[0]),
        "blip": ("train", "shorter than one frame"),
        "odd": ("dev", reasons[1]),
    }
    clean = tune(tmp_path / "2", written(tmp_path / "a", items), task=task, strategy=strategy)
    assert not (tmp_path / "2" / "left_out.jsonl").exists()
    assert tuned.dev == clean.dev
    one, two = (load_file(t.encoder / "model.safetensors") for t in (tuned, clean))
    assert all(one[name].equal(two[name]) for name in two)


def test_each_of_several_tasks_has_a_file(
    items: dict[str, list[Utterance]], tmp_path: Path
) -> None:
    silent = replace(items["train"][0], id="silent", phones=[], speaker=None)
    corpus = written(tmp_path / "b", items, train=[silent])
    tune(tmp_path / "1", corpus, tasks={"pr": 1.0, "sid": 1.0, "style": 1.0})
    for task in ("pr", "sid"):
        assert named(tmp_path / "1" / f"left_out-{task}.jsonl") == {"silent": ("train", "no label")}
    assert not (tmp_path / "1" / "left_out-style.jsonl").exists()


def test_continued_pretraining_leaves_out_what_has_no_frame(
    items: dict[str, list[Utterance]], tmp_path: Path
) -> None:
    corpus = written(tmp_path / "b", items, train=[blip(items)], dev=[blip(items)])
    tune(tmp_path / "1", corpus, task="hubert", targets=TARGETS)
    file = tmp_path / "1" / "left_out.jsonl"
    assert file.read_text().count("shorter than one frame") == 2
    with pytest.raises(DataError, match="task hubert cannot use 1 of the 10 items of split train"):
        tune(tmp_path / "2", corpus, task="hubert", targets=TARGETS, max_left_out=0.09)


def test_too_many_are_refused_before_anything_and_the_hint_helps(
    items: dict[str, list[Utterance]], tmp_path: Path
) -> None:
    corpus = written(tmp_path / "b", items, dev=[replace(blip(items), id=f"b{n}") for n in "12"])
    with pytest.raises(DataError, match=r"2 of the 11 items of split dev, .*: b1 \(sho") as caught:
        tune(tmp_path / "1", corpus, task="pr", max_left_out=0.1)
    assert not (tmp_path / "1").exists()
    assert "raise finetuning.max_left_out" in str(caught.value)
    tune(tmp_path / "1", corpus, task="pr", max_left_out=0.2)
    nothing = written(tmp_path / "c", {"train": items["train"], "dev": [blip(items)]})
    with pytest.raises(DataError, match="cannot use any of the 1 items of split dev: blip"):
        tune(tmp_path / "2", nothing, task="pr", max_left_out=1.0)


def test_trials_of_dev_are_those_that_the_corpus_names(
    items: dict[str, list[Utterance]], tmp_path: Path
) -> None:
    """Where none can be drawn, the hint says where to name some; doing so helps."""
    dev = items["dev"][:3]  # one of each speaker
    corpus = written(tmp_path / "b", {"train": items["train"], "dev": dev})
    reader = SplitReader(corpus, ENCODER)
    with pytest.raises(DataError, match="draws its trials from a split that has none") as caught:
        reader.read(find_task("asv"))
    assert caught.value.hint is not None
    assert '"info": {"trials": {"dev": FILE}}' in caught.value.hint
    one, two, three = (item.id for item in dev)
    (corpus.folder / "dev.txt").write_text(f"1 {one} {one}\n0 {one} {two}\n0 {two} {three}\n")
    content = json.loads((corpus.folder / "corpus.json").read_text())
    content["info"]["trials"] = {"dev": "dev.txt"}
    (corpus.folder / "corpus.json").write_text(json.dumps(content))
    found = SplitReader(open_corpus(corpus.folder), ENCODER).read(find_task("asv"))
    assert found.context == [(True, one, one), (False, one, two), (False, two, three)]


@pytest.mark.parametrize("task", ["pr", "hubert"])
def test_what_preparation_lost_is_refused_too(
    task: str, items: dict[str, list[Utterance]], tmp_path: Path
) -> None:
    corpus = written(tmp_path / "b", items)
    corpus.info["lost"] = {"train": {"cut-off": 1}, "test": {"cut-off": 9}}
    reader = SplitReader(corpus, ENCODER, limit=0.09)

    def read() -> None:
        reader.read(find_task(task)) if task != "hubert" else reader.read_unlabelled()

    with pytest.raises(DataError, match="lacks 1 of 10 recordings of split train") as caught:
        read()
    assert "raise finetuning.max_left_out" in str(caught.value.hint)
    reader = replace(reader, limit=0.1)
    read()
    tune(tmp_path / "1", corpus, task=task, targets=TARGETS if task == "hubert" else {})
    history = json.loads((tmp_path / "1" / "history.json").read_text())
    assert list(history["left_out"].values()) == [{"when the corpus was prepared: cut-off": 1}]
