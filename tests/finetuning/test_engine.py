"""What the engine does around the loop: memory, reuse, selection, several tasks, curves, errors."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from helpers import cut_of, tiny_encoder, tone_corpus
from speechft.data.batching import BatchPlan
from speechft.data.manifest import Corpus, open_corpus, write_corpus
from speechft.data.utterances import Utterance
from speechft.encoders.load import load_encoder
from speechft.errors import ConfigError, DataError, PackageError, RunError, TrainingError
from speechft.finetuning.config import FinetuningConfig
from speechft.finetuning.distributed import make_accelerator
from speechft.finetuning.finetune import Tuned, finetune, finetune_encoder
from speechft.finetuning.loop import train
from speechft.finetuning.objective import TaskObjective
from speechft.finetuning.task_schedule import task_schedule

_SETTINGS = {
    "task": "sid",
    "steps": 20,
    "learning_rate": 5e-3,
    "hidden": None,
    "batch_utterances": 6,
    "batch_seconds": 30.0,
    "precision": "fp32",
    "trackers": (),
}


def _config(**changes: object) -> FinetuningConfig:
    return FinetuningConfig(**{**_SETTINGS, **changes})  # type: ignore[arg-type]


def _tune(folder: Path, corpus: Any, seed: int = 0, **changes: object) -> Tuned:
    encoder = tiny_encoder()
    return finetune_encoder(
        encoder, _config(**changes), corpus, folder, seed=seed, splits=("train", "dev")
    )


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "encoder" / "model.safetensors")


# memory


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make the objective run out of memory with more than two utterances; return batch sizes."""
    sizes: list[int] = []
    forward = TaskObjective.forward

    def limited(self: TaskObjective, batch: Any) -> torch.Tensor:
        if batch.targets is None:  # dev
            return forward(self, batch)
        sizes.append(len(batch.ids))
        if len(batch.ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return forward(self, batch)

    monkeypatch.setattr(TaskObjective, "forward", limited)
    return sizes


def test_a_batch_that_does_not_fit_is_halved_and_the_accumulation_doubled(
    tmp_path: Path, tones: Corpus, small_memory: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    _tune(tmp_path, tones, batch_utterances=8, steps=3)
    assert small_memory[:3] == [8, 4, 2], "tried before the first update"
    assert max(small_memory[3:]) == 2
    assert len(small_memory) == 3 + 3 * 4
    recorded = json.loads((tmp_path / "history.json").read_text())["batch"]
    assert recorded == {"seconds": 7.5, "utterances": 2, "accumulation": 4}
    said = capsys.readouterr().err
    assert "a batch of 8 utterances" in said
    assert "2 utterances, 4 an update" in said


def test_not_even_one_utterance_fits(
    tmp_path: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: TaskObjective, batch: Any) -> torch.Tensor:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(TaskObjective, "forward", full)
    with pytest.raises(TrainingError, match=r"not even one utterance fits into memory: train-\d+"):
        _tune(tmp_path, tones)


def test_another_failure_is_not_taken_for_a_lack_of_memory(
    tmp_path: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: TaskObjective, batch: Any) -> torch.Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(TaskObjective, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        _tune(tmp_path, tones)


def test_the_largest_batch_is_as_large_as_any_of_the_plan(tones: Corpus) -> None:
    plan = BatchPlan(tones.split("train"), seconds=2.5, utterances=4, seed=0)

    def size(cuts: list[Any]) -> tuple[float, int]:
        return max(c.duration for c in cuts) * len(cuts), len(cuts)

    largest = size(plan.largest())
    assert largest[0] <= 2.5
    assert max(c.duration for c in plan.largest()) == max(c.duration for c in tones.split("train"))
    assert all(size(plan.batch(step))[0] <= 2.5 for step in range(20))


# reuse while the head learns alone


def test_reused_hidden_states_give_what_recomputing_them_gives(
    tmp_path: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, object] = {"head_only": 0.8, "head_only_mode": "eval"}
    settings["dropout"] = {"hidden_dropout": 0.3}
    calls: list[str] = []
    encode = TaskObjective.encode

    def counted(self: TaskObjective, batch: Any) -> Any:
        calls.append("training" if torch.is_grad_enabled() else "dev")
        return encode(self, batch)

    monkeypatch.setattr(TaskObjective, "encode", counted)
    reused = _tune(tmp_path / "reused", tones, **settings)
    assert calls.count("training") == 1 + 5, "the trial of the largest batch, and the last updates"
    monkeypatch.setattr("speechft.finetuning.examples.CACHE_BYTES", 0)
    recomputed = _tune(tmp_path / "recomputed", tones, **settings)
    first = reused.history.losses[:15]  # dropout draws differ afterwards, as the padding does
    assert first == pytest.approx(recomputed.history.losses[:15], abs=2e-5)
    with_dropout = _tune(tmp_path / "train", tones, **{**settings, "head_only_mode": "train"})
    assert with_dropout.history.losses[5] != pytest.approx(reused.history.losses[5], abs=1e-4)


def test_kept_downsampler_outputs_give_what_recomputing_them_gives(
    tmp_path: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = _tune(tmp_path / "kept", tones, max_duration=None)
    cropped = _tune(tmp_path / "cropped", tones, max_duration=0.4)
    monkeypatch.setattr("speechft.finetuning.examples.CACHE_BYTES", 0)
    again = _tune(tmp_path / "again", tones, max_duration=None)
    assert kept.history.losses == pytest.approx(again.history.losses, abs=2e-5)
    assert cropped.history.losses[3] != pytest.approx(kept.history.losses[3], abs=1e-4)


# selection


def test_the_moving_average_is_the_recursion_over_the_updates(
    tmp_path: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    name = "encoder.model.encoder.layers.0.layer_norm.weight"
    from speechft.finetuning.loop import _Training

    record = _Training._record

    def keep(self: Any, group: Any, loss: float) -> None:
        seen.append(self.objective.get_parameter(name).detach().double().clone())
        record(self, group, loss)

    monkeypatch.setattr(_Training, "_record", keep)
    _tune(tmp_path, tones, select="ema", ema_decay=0.7, head_only=0.2)
    boundary = int(0.2 * 20) - 1
    average = seen[boundary]
    for value in seen[boundary + 1 :]:
        average = 0.7 * average + 0.3 * value
    exported = _weights(tmp_path)[name.removeprefix("encoder.model.")]
    assert torch.allclose(exported.double(), average, atol=1e-6)
    assert not torch.allclose(exported.double(), seen[-1], atol=1e-6)


def test_the_last_state_is_exported_on_request(tmp_path: Path, tones: Corpus) -> None:
    last = _tune(tmp_path / "last", tones, select="last", evaluate_every=2, learning_rate=0.05)
    best = _tune(tmp_path / "best", tones, select="best", evaluate_every=2, learning_rate=0.05)
    figures = [e["accuracy"] for e in last.history.evaluations]
    assert last.dev == pytest.approx(figures[-1])
    assert best.dev == pytest.approx(max(figures[1:]))
    assert not any("selected" in e for e in last.history.evaluations)


def _without_dev(folder: Path, corpus: Corpus) -> Corpus:
    items = [
        Utterance(
            id=cut.id,
            path=cut.recording.sources[0].source,
            samples=cut.num_samples,
            speaker=cut.supervisions[0].speaker,
        )
        for cut in corpus.split("train")
    ]
    folder.mkdir()
    write_corpus(folder, "no-dev", "none", {"train": items}, {})
    return open_corpus(folder)


def test_no_dev_split_is_an_error_unless_nothing_is_selected(tmp_path: Path, tones: Corpus) -> None:
    corpus = _without_dev(tmp_path / "corpus", tones)
    with pytest.raises(DataError, match="no split 'dev' to select with") as caught:
        _tune(tmp_path / "best", corpus)
    assert "finetuning.select=last" in str(caught.value)
    tuned = _tune(tmp_path / "last", corpus, select="last", steps=4)
    assert np.isnan(tuned.dev)
    assert (tmp_path / "last" / "encoder" / "model.safetensors").exists()


def test_ctc_that_is_all_blank_at_the_unfreeze_step_is_pointed_out(
    tmp_path: Path, tones: Corpus, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    settings = {"task": "pr", "steps": 20, "head_only": 0.3, "learning_rate": 1e-6}
    from speechft.tasks.ctc import CtcModel

    head = CtcModel.head

    def blank(self: Any, *args: Any) -> Any:
        made = head(self, *args)
        with torch.no_grad():
            made.linear.bias[0] = 30.0
        return made

    _tune(tmp_path / "awake", tones, **{**settings, "steps": 10, "head_only": 0.0})
    assert "nothing but blanks" not in capsys.readouterr().err
    monkeypatch.setattr(CtcModel, "head", blank)
    _tune(tmp_path / "asleep", tones, **settings)
    said = capsys.readouterr().err
    assert said.count("task pr: CTC still gives nothing but blanks at the unfreeze step") == 1


# several tasks


def test_several_tasks_have_a_head_and_figures_each(tmp_path: Path, tones: Corpus) -> None:
    settings: dict[str, object] = {"steps": 4, "learning_rate": 0.0, "task": "sid"}
    joint = _tune(tmp_path / "joint", tones, **settings, tasks={"pr": 3.0, "sid": 1.0})
    heads = {n: load_file(tmp_path / "joint" / f"head-{n}.safetensors") for n in ("pr", "sid")}
    assert heads["pr"]["linear.weight"].shape[1] == heads["sid"]["linear.weight"].shape[1] == 24
    names = {e for figures in joint.history.evaluations for e in figures}
    assert {"pr per", "sid accuracy", "score"} <= names
    figures = joint.history.evaluations[0]
    assert figures["score"] == pytest.approx((figures["sid accuracy"] - figures["pr per"]) / 2)


def test_the_weights_of_tasks_are_those_of_their_losses(tmp_path: Path, tones: Corpus) -> None:
    def first(**weights: float) -> float:
        folder = tmp_path / "-".join(f"{k}{v}" for k, v in weights.items())
        return _tune(folder, tones, steps=1, learning_rate=0.0, tasks=weights).history.losses[0]

    even, pr, sid = first(pr=1, sid=1), first(pr=1e6, sid=1), first(pr=1, sid=1e6)
    assert even == pytest.approx((pr + sid) / 2, rel=1e-4)
    assert first(pr=3, sid=1) == pytest.approx((3 * pr + sid) / 4, rel=1e-4)


def test_order_of_batches() -> None:
    order, accumulation = task_schedule({"pr": 1, "sid": 1}, "weighted", 3, 2, 0)
    assert accumulation == 4
    assert order == ["pr", "sid"] * 6
    order, accumulation = task_schedule({"pr": 3, "sid": 1}, "alternating", 2000, 2, 0)
    assert accumulation == 2
    assert all(order[n] == order[n + 1] for n in range(0, 4000, 2))
    assert order.count("pr") / 4000 == pytest.approx(0.75, abs=0.04)
    assert order == task_schedule({"pr": 3, "sid": 1}, "alternating", 2000, 2, 0)[0]


def test_tasks_with_corpora_of_their_own_take_turns(tmp_path: Path, tones: Corpus) -> None:
    (tmp_path / "other").mkdir()
    other = tone_corpus(tmp_path / "other", speakers=4, per_speaker=3, seed=5)
    corpora = {"sid": other, "pr": tones}
    tuned = _tune(
        tmp_path / "run",
        corpora,
        steps=30,
        tasks={"sid": 1.0, "pr": 1.0},
        mixing="alternating",
        recurrent=None,
    )
    symbols = json.loads((tmp_path / "run" / "vocabulary-sid.json").read_text())
    assert len(symbols) == 4, "speakers of the corpus that belongs to the task"
    assert len(tuned.history.losses) == 30
    assert load_encoder(tmp_path / "run" / "encoder").dim == 24


# continued pre-training


def test_continued_pretraining_needs_no_labels_and_keeps_the_downsampler(
    tmp_path: Path, tones: Corpus
) -> None:
    tiny_encoder().save(tmp_path / "base")
    config = _config(
        task="hubert",
        steps=40,
        targets={"source": "self", "layer": 1, "clusters": 4},
        masking={"probability": 0.2, "span": 3},
        evaluate_every=20,
        max_duration=0.5,
    )
    tuned = finetune(config, tmp_path / "base", tones, tmp_path / "run", seed=1)
    assert np.mean(tuned.history.losses[-8:]) < np.mean(tuned.history.losses[:8])
    losses = [e["loss"] for e in tuned.history.evaluations if "loss" in e]
    assert tuned.dev == pytest.approx(min(losses), rel=1e-5), "the same masks whenever dev counts"
    base, after = load_file(tmp_path / "base" / "model.safetensors"), _weights(tmp_path / "run")
    for name, tensor in base.items():
        same = name.startswith("feature_extractor.")
        assert torch.equal(tensor, after[name]) == same, name
    with pytest.raises(ConfigError, match="strategy distill is for tasks with labels"):
        finetune(
            config.model_copy(update={"strategy": "distill"}),
            tmp_path / "base",
            tones,
            tmp_path / "no",
        )


# heads, augmentation, curves


def test_ted_head_symbols_and_specaugment_train(tmp_path: Path, tones: Corpus) -> None:
    settings: dict[str, object] = {
        "task": "asr",
        "hidden": 8,
        "recurrent": {"layers": 3, "size": 6, "dropout": 0.2},
        "vocabulary": "wav2vec2",
    }
    tuned = _tune(tmp_path / "plain", tones, **settings)
    masked = _tune(tmp_path / "masked", tones, **settings, specaugment={"time_width": (0, 4)})
    symbols = json.loads((tmp_path / "plain" / "vocabulary.json").read_text())
    assert len(symbols) == 32
    head = load_file(tmp_path / "plain" / "head.safetensors")
    assert head["linear.weight"].shape == (32, 12)
    assert tuned.history.losses[0] != masked.history.losses[0]
    assert np.isfinite(masked.history.losses).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recurrent": {}}, "finetuning.recurrent is for tasks that work on frames"),
        ({"vocabulary": "wav2vec2"}, "is for tasks on text; sid needs speaker"),
        ({"task": "nothing"}, "unknown task 'nothing'"),
        ({"dropout": {"hiden_dropout": 0.1}}, "unknown dropout 'hiden_dropout'"),
        ({"dropout": {"hidden_dropout": 1.5}}, "dropout hidden_dropout: 1.5 is no rate"),
        ({"trackers": ("banana",)}, "unknown tracker 'banana'"),
        ({"trackers": ("clearml",)}, "tracker clearml needs clearml, which is not installed"),
        ({"precision": "fp16"}, "fp16 needs a GPU"),
    ],
)
def test_what_contradicts_itself_is_refused(
    tmp_path: Path, tones: Corpus, changes: dict[str, object], message: str
) -> None:
    if changes.get("precision") == "fp16" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises((ConfigError, PackageError), match=message):
        _tune(tmp_path, tones, **changes)


@pytest.mark.parametrize("weights", [{"pr": 0.0}, {"pr": -1.0}, {"hubert": 1.0}])
def test_weights_of_tasks_are_checked(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"finetuning\.tasks"):
        _config(tasks=weights)


def test_curves_go_to_tensorboard(tmp_path: Path, tones: Corpus) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _tune(tmp_path, tones, trackers=("tensorboard",), steps=6, evaluate_every=3)
    events = EventAccumulator(str(tmp_path / "logs" / "speechft"))
    events.Reload()
    assert {"loss", "learning rate", "x real time", "dev accuracy"} <= set(events.Tags()["scalars"])
    history = json.loads((tmp_path / "history.json").read_text())
    logged = [event.value for event in events.Scalars("loss")]
    assert logged == pytest.approx(history["losses"], abs=1e-4)
    assert [event.step for event in events.Scalars("dev accuracy")] == [3, 6]


def test_trackers_are_checked_before_anything_is_read(tmp_path: Path, tones: Corpus) -> None:
    with pytest.raises(ConfigError, match="unknown tracker 'wandbb'"):
        _tune(tmp_path, tones, trackers=("wandbb",))
    assert not list(tmp_path.iterdir())


def test_resolved_dropout_is_said_with_its_source(
    tmp_path: Path, tones: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    _tune(tmp_path, tones, steps=2, dropout={"hidden_dropout": 0.05})
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "dropout: hidden_dropout 0.05 as the recipe says, 0 where the recipe says nothing; " in said
    )
    assert re.search(r"the encoder came with .*0\.1 \(.*layerdrop\)", said)
    history = json.loads((tmp_path / "history.json").read_text())
    assert history["dropout"]["hidden_dropout"] == 0.05
    assert history["dropout"]["layerdrop"] == 0.0
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    assert config["layerdrop"] == 0.1, "the exported configuration is that of the base"


# damage


def test_transcripts_too_long_for_ctc_are_left_out_and_named(
    tmp_path: Path, tones: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    from speechft.finetuning.splits import SplitReader
    from speechft.tasks import find_task

    class Two:
        name = "two"
        info: ClassVar[dict[str, Any]] = {"tuning_splits": ["train", "dev"]}
        statistics: ClassVar = {"train": {"utterances": 2, "labels": {"text": 2}}}

        def cuts(self, name: str) -> list[Any]:
            return [cut_of("short", 16_000, text="ab"), cut_of("long", 3_200, text="ab" * 20)]

    corpus: Any = Two()
    reader = SplitReader(corpus, tiny_encoder(), ("train", "dev"), need_dev=False, limit=0.5)
    found = reader.read(find_task("asr"))
    assert [cut.id for cut in found.train] == ["short"]
    assert found.dev == []
    found.left_out.report()
    expected = "task asr: 1 left out, target longer than the frames: long"
    assert expected in capsys.readouterr().err


def _corpus(folder: Path, speakers: dict[str, list[str]], seconds: float = 0.5) -> Corpus:
    rng, splits = np.random.default_rng(0), {}
    for split, names in speakers.items():
        splits[split] = []
        for number, name in enumerate(names):
            path, samples = f"{split}{number}.wav", int(seconds * 16_000)
            soundfile.write(folder / path, 0.1 * rng.standard_normal(samples), 16_000)
            splits[split].append(
                Utterance(id=path, path=path, samples=samples, speaker=name or None)
            )
    write_corpus(folder, "mine", "none", splits, {})
    return open_corpus(folder)


def test_a_label_that_training_does_not_hold_ends_it_before_it_begins(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path, {"train": ["a", "b"], "dev": ["a", "c"]})
    with pytest.raises(DataError, match=r"dev1\.wav \(class unseen in training\)"):
        _tune(tmp_path / "run", corpus)
    assert not (tmp_path / "run" / ".checkpoints").exists()


def test_one_class_alone_and_an_empty_label(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least two values of 'speaker'"):
        _tune(tmp_path / "run", _corpus(tmp_path, {"train": ["a", "a"], "dev": ["a"]}))
    with pytest.raises(DataError, match="needs label 'speaker' for every utterance"):
        _tune(tmp_path / "run", _corpus(tmp_path, {"train": ["a", ""], "dev": ["a"]}))


def test_audio_without_samples_is_named(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path, {"train": ["a", "b"], "dev": ["a", "b"]})
    soundfile.write(tmp_path / "train1.wav", np.zeros(0), 16_000)
    with pytest.raises(DataError, match=r"train1\.wav"):
        _tune(tmp_path / "run", corpus)


def test_a_full_disk_at_checkpoint_time_leaves_nothing_half_written(
    tmp_path: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, calls = os.fsync, iter(range(1000))

    def full(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and next(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="no space left to write") as caught:
        _tune(tmp_path, tones, checkpoint_every=2)
    assert "free some space" in str(caught.value)
    assert not list(tmp_path.rglob("*.tmp"))
    monkeypatch.setattr(os, "fsync", fsync)
    resumed = _tune(tmp_path, tones, checkpoint_every=2)
    assert len(resumed.history.losses) == 20


class _Losses(torch.utils.data.Dataset[Any]):
    """Steps whose number is their batch."""

    def __getitem__(self, step: int) -> Any:
        return _Step(step)


class _Step:
    seconds, task = 1.0, ""

    def __init__(self, number: int) -> None:
        self.number = number

    def to(self, device: torch.device) -> _Step:
        return self


class _Scripted(torch.nn.Module):
    """A loss that is not finite at some steps."""

    def __init__(self, broken: set[int]) -> None:
        super().__init__()
        self.encoder: Any = tiny_encoder()
        self.head = torch.nn.Linear(1, 1)
        self.broken = broken

    def forward(self, batch: _Step) -> torch.Tensor:
        loss = self.head(torch.ones(1, 1)).square().sum()
        return loss * float("nan") if batch.number in self.broken else loss


def _history(folder: Path, broken: set[int], steps: int) -> Any:
    from speechft.finetuning.optimization import Optimization
    from speechft.finetuning.phases import Phase

    torch.manual_seed(0)
    objective: Any = _Scripted(broken)
    settings = Optimization(steps=steps, learning_rate=0.1, precision="fp32", checkpoint_every=1000)
    phases = [Phase(steps, "head")]
    accelerator = make_accelerator("fp32")
    history = train(objective, _Losses(), settings, phases, folder, accelerator=accelerator, seed=0)
    return history, objective


def test_updates_that_are_not_finite_are_left_out_and_counted(tmp_path: Path) -> None:
    history, objective = _history(tmp_path, {3, 4, 9}, 30)
    assert history.skipped == 3
    assert [n for n, loss in enumerate(history.losses) if np.isnan(loss)] == [3, 4, 9]
    assert all(p.isfinite().all() for p in objective.head.parameters())


def test_too_many_of_them_in_a_row_or_in_all_end_the_training(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="21 updates had a loss"):
        _history(tmp_path / "row", set(range(100, 130)), 1000)
    with pytest.raises(TrainingError, match="51 updates had a loss"):
        _history(tmp_path / "all", set(range(0, 1000, 3)), 1000)
