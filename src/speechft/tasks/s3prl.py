"""Weights of s3prl's SUPERB heads in ours and back: one table of key prefixes by task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from speechft.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_UTTERANCE = {"projector": "projector", "model.post_net.linear": "linear"}
_RECURRENT = {
    "projector": "projector",
    **{f"model.rnns.{n}.layer": f"layers.{n}.lstm" for n in range(8)},
    **{f"model.rnns.{n}.ln": f"layers.{n}.norm" for n in range(8)},
    **{f"model.rnns.{n}.pj": f"layers.{n}.projection" for n in range(8)},
    "model.linear": "linear",
}
S3PRL_KEYS: dict[str, dict[str, str]] = {
    "pr": {"projector": "projector", "model.linear": "linear"},
    "asr": _RECURRENT,
    "sf": _RECURRENT,
    "sid": _UTTERANCE,
    "er": _UTTERANCE,
    "ks": _UTTERANCE,
    "ic": _UTTERANCE,
    "asv": {
        "connector": "projector",
        **{
            f"model.framelevel_feature_extractor.module.{n}.kernel": f"layers.{n}.kernel"
            for n in range(5)
        },
        "model.utterancelevel_feature_extractor.linear1": "linear1",
        "model.utterancelevel_feature_extractor.linear2": "linear2",
        "objective.W": "loss.weight",
        "objective.weight": "loss.class_weight",
        "objective.fc": "loss.linear",
    },
    "sd": {"model.rnn": "lstm", "model.linear": "linear"},
}
"""By task: prefix of a key in s3prl's ``DownstreamExpert.state_dict()``, and ours. The loss of ASV
has weights of its own: they come out under ``loss.``, apart from those of the head."""

_NOT_WEIGHTS = frozenset({"best_score"})


def from_s3prl(task: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of one of s3prl's heads under our keys.

    Args:
        task: Key in ``speechft.tasks.TASKS``.
        state: ``DownstreamExpert.state_dict()``.

    Raises:
        CheckpointError: A key is not one of this task's head.
    """
    return {
        _renamed(key, S3PRL_KEYS[task], task): tensor
        for key, tensor in state.items()
        if key not in _NOT_WEIGHTS
    }


def to_s3prl(task: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of one of our heads under s3prl's keys; the inverse of `from_s3prl`."""
    table = {own: theirs for theirs, own in S3PRL_KEYS[task].items()}
    return {_renamed(key, table, task): tensor for key, tensor in state.items()}


def _renamed(key: str, table: Mapping[str, str], task: str) -> str:
    for prefix, replacement in table.items():
        if key == prefix or key.startswith(f"{prefix}."):
            return replacement + key[len(prefix) :]
    raise CheckpointError(
        f"key {key!r} is not one of the head of task {task}",
        hint=f"its keys begin with: {', '.join(table)}",
    )
