"""Batches: a pure plan with every cut once an epoch, the same with any number of workers."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lhotse import CutSet

from speechft.data.batching import (
    PAD_TO,
    Batch,
    BatchPlan,
    StepDataset,
    load_steps,
    pad,
    read_plain,
    read_waveforms,
    seed_of,
)
from speechft.data.manifest import Corpus
from speechft.data.utterances import Utterance, to_cut
from speechft.errors import DataError

SECONDS, UTTERANCES = 12.0, 5


def make_cuts(count: int = 37, longest: float = 3.0) -> list[Any]:
    samples = np.random.default_rng(0).integers(8_000, int(longest * 16_000), count)
    return [
        to_cut(Utterance(id=f"u{number:03d}", path=f"u{number:03d}.wav", samples=int(size)))
        for number, size in enumerate(samples)
    ]


def make_plan(cuts: Any = None, **changes: Any) -> BatchPlan:
    options = {"seconds": SECONDS, "utterances": UTTERANCES, "seed": 1, **changes}
    return BatchPlan(make_cuts() if cuts is None else cuts, **options)


def ids_of(plan: BatchPlan, step: int) -> list[str]:
    return [cut.id for cut in plan.batch(step)]


def epochs(plan: BatchPlan, count: int, cuts: int) -> list[list[list[str]]]:
    """Return the steps of each epoch, told by the number of cuts alone."""
    result, step = [], 0
    for _ in range(count):
        steps: list[list[str]] = []
        while sum(map(len, steps)) < cuts:
            steps.append(ids_of(plan, step))
            step += 1
        result.append(steps)
    return result


def test_every_cut_exactly_once_an_epoch() -> None:
    everything = sorted(cut.id for cut in make_cuts())
    for steps in epochs(make_plan(), 3, 37):
        assert sorted(name for step in steps for name in step) == everything


def test_limits_hold_with_padding() -> None:
    plan = make_plan()
    for step in range(40):
        cuts = plan.batch(step)
        assert 1 <= len(cuts) <= UTTERANCES
        assert len(cuts) * max(cut.duration for cut in cuts) <= SECONDS


def test_plan_is_a_pure_function() -> None:
    plan, again = make_plan(), make_plan(CutSet.from_cuts(make_cuts()))
    forward = [ids_of(plan, step) for step in range(60)]
    backward = [ids_of(again, step) for step in reversed(range(60))]
    assert forward == backward[::-1]
    assert ids_of(make_plan(), 59) == forward[59], "a resumed run needs its step only"


def test_seeds_and_epochs_differ() -> None:
    first, second = epochs(make_plan(), 2, 37)
    other = epochs(make_plan(seed=2), 1, 37)[0]
    assert first != second
    assert first != other


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_partition_the_steps(world_size: int) -> None:
    whole = make_plan()
    ranks = [make_plan(rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in range(12):
        for rank, plan in enumerate(ranks):
            assert ids_of(plan, step) == ids_of(whole, step * world_size + rank)


def test_a_cut_beyond_the_limit_is_a_batch_of_its_own() -> None:
    long = to_cut(Utterance(id="long", path="long.wav", samples=60 * 16_000))
    steps = epochs(make_plan([*make_cuts(), long]), 2, 38)
    for epoch in steps:
        assert [step for step in epoch if "long" in step] == [["long"]]


def test_cropped_cuts_count_as_long_as_they_are_read() -> None:
    cuts = [
        to_cut(Utterance(id=f"u{number}", path="x.wav", samples=10 * 16_000)) for number in range(8)
    ]
    plan = make_plan(cuts, max_duration=3.0)
    sizes = [len(plan.batch(step)) for step in range(2)]
    assert sizes == [4, 4]
    assert all(cut.duration == 10.0 for cut in plan.batch(0)), "whoever reads them crops them"


def test_one_cut_is_enough_and_none_is_an_error() -> None:
    plan = make_plan(make_cuts(1))
    assert [ids_of(plan, step) for step in range(3)] == [["u000"]] * 3
    with pytest.raises(DataError, match="the training split is empty"):
        make_plan([])


def test_many_epochs_later() -> None:
    plan = make_plan(make_cuts(6))
    late = ids_of(plan, 200)
    early = ids_of(plan, 0)
    assert late == ids_of(plan, 200)
    assert early == ids_of(make_plan(make_cuts(6)), 0), "forgotten plans are made again"


def test_an_epoch_is_planned_once_however_late_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, planned = make_plan(make_cuts(6)), []
    plan_epoch = plan._plan_epoch
    monkeypatch.setattr(plan, "_plan_epoch", lambda n: planned.append(n) or plan_epoch(n))
    steps = round(10 / plan.epochs(1))
    for step in range(steps):
        plan.batch(step)
    assert planned == list(range(10))


def test_plan_travels_to_spawned_workers() -> None:
    plan = make_plan()
    plan.batch(3)
    copy = pickle.loads(pickle.dumps(plan))
    assert [ids_of(copy, step) for step in range(20)] == [ids_of(plan, step) for step in range(20)]


def number_of(cut: Any, samples: int) -> tuple[str, int]:
    return cut.id, samples


def noisy(cut: Any, step: int) -> Any:
    rng = np.random.default_rng(seed_of(0, step, cut.id))
    clean = read_plain(cut, step)
    return clean + rng.standard_normal(len(clean)).astype(np.float32)


def tone_steps(tones: Corpus, **changes: Any) -> StepDataset:
    plan = make_plan(tones.split("train"), seconds=4.0, utterances=4)
    return StepDataset(plan, target=number_of, collate=list, **changes)


def test_step_dataset_pads_and_pairs_targets(tones: Corpus) -> None:
    dataset = tone_steps(tones)
    batch = dataset[0]
    cuts = dataset.plan.batch(0)
    assert batch.ids == tuple(cut.id for cut in cuts)
    assert batch.lengths.tolist() == [cut.num_samples for cut in cuts]
    assert batch.features is None
    assert batch.waveforms is not None
    assert batch.waveforms.shape[1] % PAD_TO == 0
    assert batch.waveforms.shape[1] - int(batch.lengths.max()) < PAD_TO
    for row, cut in zip(batch.waveforms, cuts, strict=True):
        assert torch.equal(row[: cut.num_samples], torch.from_numpy(read_plain(cut, 0)))
        assert not row[cut.num_samples :].any()
    assert batch.targets == [(cut.id, cut.num_samples) for cut in cuts]
    assert batch.seconds == pytest.approx(sum(cut.duration for cut in cuts))


def test_step_dataset_with_downsampled_features(tones: Corpus) -> None:
    generator = torch.Generator().manual_seed(0)
    stored = {
        cut.id: (torch.randn(3 + number, 2, generator=generator), 1000 + number)
        for number, cut in enumerate(tones.split("train"))
    }

    def refuse(cut: Any, step: int) -> Any:
        raise AssertionError("audio is not read")

    batch = tone_steps(tones, downsampled=lambda cut, step: stored[cut.id], read=refuse)[1]
    assert batch.waveforms is None
    assert batch.features is not None
    assert batch.lengths.tolist() == [stored[name][1] for name in batch.ids]
    for row, name in zip(batch.features, batch.ids, strict=True):
        features = stored[name][0]
        assert torch.equal(row[: len(features)], features)
        assert not row[len(features) :].any()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # a machine with one core
def test_workers_change_nothing(tones: Corpus) -> None:
    alone = list(load_steps(tone_steps(tones, read=noisy), 2, 9))
    helped = list(load_steps(tone_steps(tones, read=noisy), 2, 9, workers=2))
    assert len(alone) == len(helped) == 7
    for one, two in zip(alone, helped, strict=True):
        assert one.ids == two.ids
        assert one.waveforms is not None
        assert two.waveforms is not None
        assert torch.equal(one.waveforms, two.waveforms)
        assert torch.equal(one.lengths, two.lengths)
        assert one.targets == two.targets
    resumed = list(load_steps(tone_steps(tones, read=noisy), 6, 7))
    assert resumed[0].waveforms is not None
    assert alone[4].waveforms is not None
    assert torch.equal(resumed[0].waveforms, alone[4].waveforms)


def test_pad() -> None:
    rows = [torch.tensor([1.0, 2.0]), torch.tensor([3.0])]
    assert pad(rows).tolist() == [[1.0, 2.0], [3.0, 0.0]]
    assert pad(rows, 5).tolist() == [[1.0, 2.0, 0, 0, 0], [3.0, 0, 0, 0, 0]]
    assert pad([torch.ones(4)], 4).shape == (1, 4), "a whole multiple is not padded further"
    frames = pad([torch.ones(2, 3), torch.ones(1, 3)])
    assert frames.shape == (2, 2, 3)
    assert frames[1].tolist() == [[1.0] * 3, [0.0] * 3]
    assert pad([torch.tensor([7])]).dtype == torch.int64


def test_whole_cuts_are_read_as_they_are_padded(tones: Corpus) -> None:
    cuts = sorted(tones.split("dev"), key=lambda cut: cut.duration)[-3:]
    rows = [torch.from_numpy(read_plain(cut, 0)) for cut in cuts]
    for multiple in (1, PAD_TO):
        waveforms, lengths = read_waveforms(cuts, multiple)
        assert torch.equal(waveforms, pad(rows, multiple))
        assert lengths.tolist() == [len(row) for row in rows]


def test_seed_of_has_a_stable_value() -> None:
    # sha256(b"0/plan/3")[:8] as a big-endian number, shifted right by one
    assert seed_of(0, "plan", 3) == 0xDB6B7711893059A1 >> 1
    assert seed_of(0, "plan", 3) != seed_of(0, "plan", 4)
    assert 0 <= seed_of("x") < 2**63


def test_batch_moves_all_its_tensors() -> None:
    batch = Batch(("a",), torch.tensor([3]), torch.ones(1, 3), None, [torch.tensor([1, 2])])
    moved = batch.to(torch.device("meta"))
    assert moved.ids == ("a",)
    assert moved.features is None
    assert moved.lengths.is_meta
    assert moved.waveforms is not None
    assert moved.waveforms.is_meta
    assert moved.targets[0].is_meta
    one = Batch(("a",), torch.tensor([3]), targets=torch.tensor([1])).to(torch.device("meta"))
    assert one.targets.is_meta
    assert not batch.lengths.is_meta


def test_unreadable_audio_in_a_batch_is_named(tmp_path: Path) -> None:
    cut = to_cut(Utterance(id="gone", path=str(tmp_path / "gone.wav"), samples=16_000))
    dataset = StepDataset(make_plan([cut]), target=number_of, collate=list)
    with pytest.raises(DataError, match=r"gone\.wav does not exist"):
        dataset[0]
