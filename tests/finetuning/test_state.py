"""Checkpoints of a training that goes back are forgotten, those of its best step too."""

from __future__ import annotations

from pathlib import Path

from speechft.finetuning.state import forget_after, load_checkpoint, save_checkpoint


def test_later_steps_are_forgotten_by_a_training_that_goes_back(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "best"):
        for step in (5, 10, 15):
            save_checkpoint(place, step, {"step": step}, keep=3)
    forget_after(tmp_path, 10)
    for place in (tmp_path, tmp_path / "best"):
        assert len(list(place.glob("step-*.pt"))) == 2
        newest = load_checkpoint(place)
        assert newest is not None
        assert newest["step"] == 10
