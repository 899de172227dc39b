"""The training loop: parity with a loop written by hand, exact resume, divergence, selection."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F

from helpers import tiny_encoder
from processes import Child
from speechft.data.batching import Batch, BatchPlan, pad
from speechft.data.labels import label_of
from speechft.data.manifest import Corpus, load_waveform, open_corpus, write_corpus
from speechft.data.utterances import Utterance
from speechft.errors import DataError, RunError, TrainingError
from speechft.finetuning.distributed import make_accelerator
from speechft.finetuning.finetune import FinetuningConfig, finetune_encoder
from speechft.finetuning.loop import _Training
from speechft.finetuning.state import load_checkpoint, save_checkpoint
from speechft.storage.files import file_digest

_SETTINGS = {
    "task": "sid",
    "steps": 20,
    "learning_rate": 5e-3,
    "hidden": None,
    "batch_utterances": 6,
    "batch_seconds": 30.0,
    "precision": "fp32",
}


def test_losses_equal_those_of_a_loop_written_by_hand(tmp_path: Path, tones: Corpus) -> None:
    config = FinetuningConfig(**_SETTINGS)
    encoder = tiny_encoder()
    tuned = finetune_encoder(encoder, config, tones, tmp_path, seed=3, splits=("train", "dev"))

    twin = tiny_encoder()
    twin.set_dropout({})
    cuts = tones.split("train")
    speakers = sorted({label_of(cut, "speaker") for cut in cuts})
    torch.manual_seed(3)
    head = torch.nn.Linear(twin.dim, len(speakers))
    optimizer = torch.optim.Adam([*twin.parameters(), *head.parameters()], lr=5e-3)
    plan = BatchPlan(cuts, seconds=30.0, utterances=6, seed=3)
    losses = []
    for step in range(20):
        factor = step / 2 if step < 2 else 1.0 if step < 10 else (20 - step) / 10
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * factor
        batch = plan.batch(step)
        rows = [torch.from_numpy(load_waveform(cut)) for cut in batch]
        output = twin(pad(rows), torch.tensor([len(row) for row in rows]))
        means = torch.stack(
            [row[:n].mean(0) for row, n in zip(output.layers[-1], output.lengths, strict=True)]
        )
        target = torch.tensor([speakers.index(label_of(cut, "speaker")) for cut in batch])
        loss = F.cross_entropy(head(means), target)
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in twin.named_parameters():
            if step + 1 < 0.1 * 20 or "feature_extractor" in name:
                parameter.grad = None
        trained = [p for p in (*twin.parameters(), *head.parameters()) if p.grad is not None]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert tuned.history.losses == pytest.approx(losses, abs=2e-5)


def test_losses_and_gradients_equal_those_of_plain_torch(
    tmp_path: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Batch, dict[str, torch.Tensor]]] = []
    update = _Training._update

    def recorded(self: _Training, group: list[Batch]) -> float:
        loss = update(self, group)
        named = self.objective.named_parameters()
        seen.append((group[0], {n: p.grad.clone() for n, p in named if p.grad is not None}))
        return loss

    monkeypatch.setattr(_Training, "_update", recorded)
    config = FinetuningConfig(**{**_SETTINGS, "task": "pr", "learning_rate": 1e-3, "trackers": ()})
    tuned = finetune_encoder(
        tiny_encoder(), config, tones, tmp_path, seed=3, splits=("train", "dev")
    )
    twin = tiny_encoder().train()
    twin.set_dropout({})
    torch.manual_seed(3)
    symbols = len(json.loads((tmp_path / "vocabulary.json").read_text()))
    head = torch.nn.Linear(twin.dim, symbols)
    named = {f"encoder.{n}": p for n, p in twin.named_parameters()}
    named |= {f"head.pr.linear.{n}": p for n, p in head.named_parameters()}
    optimizer = torch.optim.Adam(named.values())
    for step, (batch, gradients) in enumerate(seen):
        factor = step / 2 if step < 2 else 1.0 if step < 10 else (20 - step) / 10
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * factor
        output = twin.contextualize(batch.features, batch.lengths)
        scores = head(output.last_hidden_state).log_softmax(-1).transpose(0, 1)
        sizes = torch.tensor([len(target) for target in batch.targets])
        loss = F.ctc_loss(scores, torch.cat(batch.targets), output.lengths, sizes)
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in named.items():
            if (name.startswith("encoder.") and step + 1 < 0.1 * 20) or "feature_extr" in name:
                parameter.grad = None
        trained = [p for p in named.values() if p.grad is not None]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        assert tuned.history.losses[step] == pytest.approx(loss.item(), rel=1e-6, abs=1e-6)
        assert set(gradients) == {n for n, p in named.items() if p.grad is not None}
        for name, gradient in gradients.items():
            assert torch.allclose(gradient, named[name].grad, atol=1e-6, rtol=1e-4), (step, name)
        optimizer.step()
    assert len(seen) == 20


_CHILD = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from finetuning.test_loop import long_run
from speechft.data.manifest import open_corpus
torch.set_num_threads(1)
long_run(Path(sys.argv[3]), open_corpus(Path(sys.argv[2])), sys.argv[4], int(sys.argv[5]))
"""


def long_run(folder: Path, corpus: Corpus, strategy: str, workers: int) -> None:
    """Fine-tune with dropout; long enough to be killed on the way."""
    config = FinetuningConfig(
        task="pr",
        steps=40,
        learning_rate=3e-3,
        hidden=None,
        batch_utterances=6,
        checkpoint_every=4,
        evaluate_every=10,
        dropout={"hidden_dropout": 0.1},
        strategy=strategy,  # type: ignore[arg-type]
        workers=workers,
    )
    finetune_encoder(tiny_encoder(), config, corpus, folder, seed=1, splits=("train", "dev"))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("strategy", "workers"),
    [("stable", 0), pytest.param("plain", 0, marks=pytest.mark.long), ("plain-cnn", 2)],
)
def test_killed_and_resumed_equals_uninterrupted_to_the_bit(
    tmp_path: Path, tones: Corpus, strategy: str, workers: int
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = [str(Path(__file__).parents[1]), str(tones.folder), str(killed)]
    child = Child(_CHILD, [*arguments, strategy, str(workers)], tmp_path)
    deadline = time.monotonic() + 120
    while not list(killed.glob(".checkpoints/step-*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    assert list(killed.glob(".checkpoints/step-*.pt"))
    assert not (killed / "encoder").exists()
    long_run(killed, tones, strategy, workers)
    long_run(whole, tones, strategy, workers)
    for name in ("encoder/model.safetensors", "head.safetensors"):
        assert file_digest(whole / name) == file_digest(killed / name)
    histories = [json.loads((f / "history.json").read_text()) for f in (whole, killed)]
    assert histories[0]["losses"] == histories[1]["losses"]
    assert len(histories[0]["losses"]) == 40


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (5, 10, 15):
        save_checkpoint(tmp_path, step, {"step": step})
    newest = max(tmp_path.glob("step-*.pt"))
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    state = load_checkpoint(tmp_path)
    assert state == {"step": 10}
    assert "damaged" in capsys.readouterr().err
    assert len(list(tmp_path.glob("step-*.pt"))) == 2


def test_losses_that_are_not_finite_end_with_a_hint(tmp_path: Path, tones: Corpus) -> None:
    encoder = tiny_encoder()
    with torch.no_grad():
        encoder.model.encoder.layers[0].final_layer_norm.weight.fill_(float("inf"))
    config = FinetuningConfig(**{**_SETTINGS, "steps": 60})
    with pytest.raises(TrainingError, match="diverged") as caught:
        finetune_encoder(encoder, config, tones, tmp_path, splits=("train", "dev"))
    assert "learning_rate" in str(caught.value)


def test_the_best_step_after_unfreezing_is_exported(tmp_path: Path, tones: Corpus) -> None:
    config = FinetuningConfig(**{**_SETTINGS, "steps": 40, "evaluate_every": 2})
    tuned = finetune_encoder(tiny_encoder(), config, tones, tmp_path, splits=("train", "dev"))
    evaluations = [e for e in tuned.history.evaluations if "accuracy" in e]
    selected = next(e["step"] for e in tuned.history.evaluations if "selected" in e)
    allowed = [e for e in evaluations if e["step"] > 3]  # 3 updates of the head alone
    best = max(allowed, key=lambda e: (e["score"], -e["step"]))
    assert evaluations[0]["step"] == 2
    assert selected == best["step"]
    assert tuned.dev == pytest.approx(best["accuracy"])


def test_official_selection_takes_the_best_of_all_steps(tmp_path: Path, tones: Corpus) -> None:
    """As dev-best.ckpt: the step may lie in the head-only updates; nothing is tuned then."""
    start = tiny_encoder()
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    changes = {"steps": 8, "evaluate_every": 1, "head_only": 0.9, "select": "official"}
    config = FinetuningConfig(**{**_SETTINGS, **changes})
    tuned = finetune_encoder(start, config, tones, tmp_path, splits=("train", "dev"))
    evaluations = [e for e in tuned.history.evaluations if "accuracy" in e]
    assert [e["step"] for e in evaluations] == list(range(1, 9))
    selected = next(e["step"] for e in tuned.history.evaluations if "selected" in e)
    assert selected == max(evaluations, key=lambda e: (e["score"], -e["step"]))["step"]
    state = start.state_dict()
    assert all(torch.equal(state[n], before[n]) for n in before) == (selected <= 6)


def test_training_learns_the_task(tmp_path: Path, tones: Corpus) -> None:
    config = FinetuningConfig(**{**_SETTINGS, "steps": 150, "strategy": "plain"})
    tuned = finetune_encoder(tiny_encoder(), config, tones, tmp_path, splits=("train", "dev"))
    losses = tuned.history.losses
    assert sum(losses[:10]) / 10 > 1.0  # three speakers: ln 3 = 1.1 at chance
    assert sum(losses[-10:]) / 10 < 0.5


def test_a_missing_label_names_the_split(tmp_path: Path, tones: Corpus) -> None:
    config = FinetuningConfig(**_SETTINGS)
    with pytest.raises(DataError, match="no split 'nowhere'"):
        finetune_encoder(tiny_encoder(), config, tones, tmp_path, splits=("nowhere", "dev"))


def test_a_missing_label_names_the_tasks_that_the_corpus_supports(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).standard_normal(8000).astype(np.float32) * 0.1
    splits: dict[str, list[Utterance]] = {"train": [], "dev": []}
    for split, items in splits.items():
        soundfile.write(tmp_path / f"{split}.wav", samples, 16_000)
        items.append(Utterance(id=split, path=f"{split}.wav", samples=8000, text="a word"))
    write_corpus(tmp_path, "spoken", "none", splits, {})
    with pytest.raises(DataError, match="needs label 'speaker'") as caught:
        finetune_encoder(
            tiny_encoder(), FinetuningConfig(**_SETTINGS), open_corpus(tmp_path), tmp_path / "out"
        )
    assert "that it supports: asr" in str(caught.value)


def test_sequence_tasks_are_not_cropped(tmp_path: Path, tones: Corpus) -> None:
    settings = {**_SETTINGS, "task": "pr", "steps": 2}
    whole = FinetuningConfig(**settings)
    short = FinetuningConfig(**settings, max_duration=0.3)
    losses = [
        finetune_encoder(
            tiny_encoder(), config, tones, tmp_path / name, splits=("train", "dev")
        ).history.losses
        for name, config in (("whole", whole), ("short", short))
    ]
    assert losses[0] == losses[1]


def test_the_precision_may_change_between_stages_of_a_process() -> None:
    for precision in ("fp32", "bf16", "fp32"):
        assert make_accelerator(precision).native_amp == (precision == "bf16")


def test_processes_that_do_not_form_a_group_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    make_accelerator("fp32")  # the group of this process is one
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="2 processes were started"):
        make_accelerator("fp32")
