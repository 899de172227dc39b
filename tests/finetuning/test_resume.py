"""A training that stops anywhere goes on to the same bits, whatever the strategy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers import tiny_encoder
from speechft.data.manifest import Corpus
from speechft.finetuning.finetune import FinetuningConfig, finetune_encoder
from speechft.finetuning.loop import _Training
from speechft.storage.files import file_digest

_SETTINGS = {
    "task": "pr",
    "steps": 16,
    "learning_rate": 5e-3,
    "hidden": None,
    "batch_utterances": 6,
    "precision": "fp32",
    "trackers": (),
    "head_only": 0.5,
    "checkpoint_every": 3,
    "evaluate_every": 4,
    "dropout": {"hidden_dropout": 0.1},
}
_CASES: dict[str, dict[str, Any]] = {
    "hidden states reused": {"head_only_mode": "eval"},
    "moving average": {"select": "ema", "ema_decay": 0.8},
    "adapters": {"strategy": "dora", "adapter": {"rank": 2, "dropout": 0.1}},
    "distillation": {"strategy": "distill"},
    "early checkpoint": {"strategy": "early-checkpoint", "early": {"share": 0.7}},
    "two tasks in turns": {"tasks": {"pr": 1.0, "sid": 2.0}, "mixing": "alternating"},
    "augmentation": {"specaugment": {"time_width": (0, 5), "channel_width": (0, 5)}},
    "continued pre-training": {"task": "hubert", "targets": {"clusters": 4}, "max_duration": 0.4},
}


class _Killed(BaseException):
    pass


def _run(folder: Path, corpus: Corpus, changes: dict[str, Any]) -> list[float]:
    config = FinetuningConfig(**{**_SETTINGS, **changes})
    return finetune_encoder(
        tiny_encoder(), config, corpus, folder, seed=2, splits=("train", "dev")
    ).history.losses


@pytest.mark.parametrize("case", _CASES)
def test_stopped_in_both_phases_and_gone_on(
    case: str, tmp_path: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _run(tmp_path / "whole", tones, _CASES[case])
    update, deaths = _Training._update, [5, 10]

    def dying(self: _Training, group: Any) -> float:
        if deaths and self.step == deaths[0]:
            deaths.pop(0)
            raise _Killed
        return update(self, group)

    monkeypatch.setattr(_Training, "_update", dying)
    for _ in range(2):
        with pytest.raises(_Killed):
            _run(tmp_path / "stopped", tones, _CASES[case])
    assert _run(tmp_path / "stopped", tones, _CASES[case]) == whole
    names = [p.name for p in (tmp_path / "whole").glob("head*.safetensors")]
    assert names
    for name in ("encoder/model.safetensors", *names):
        ours, theirs = tmp_path / "stopped" / name, tmp_path / "whole" / name
        assert file_digest(ours) == file_digest(theirs), name
