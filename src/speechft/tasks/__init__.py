"""Tasks: what there is, by key. Listing and finding them imports nothing heavy."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from speechft.errors import unknown_choice
from speechft.tasks.asr import ASR
from speechft.tasks.asv import ASV
from speechft.tasks.base import Task
from speechft.tasks.er import ER
from speechft.tasks.ic import IC
from speechft.tasks.ks import KS
from speechft.tasks.label import COLUMN, classification, column_task
from speechft.tasks.lid import LID
from speechft.tasks.measures import Measure, ratio
from speechft.tasks.pc import PC
from speechft.tasks.pr import PR
from speechft.tasks.qbe import QBE
from speechft.tasks.s3prl import S3PRL_KEYS, from_s3prl, to_s3prl
from speechft.tasks.sd import SD
from speechft.tasks.sf import SF
from speechft.tasks.sid import SID
from speechft.tasks.text import WAV2VEC2_SYMBOLS
from speechft.tasks.word_search import LanguageModel

if TYPE_CHECKING:
    from speechft.tasks import metrics
    from speechft.tasks.detection import match_all
    from speechft.tasks.heads import FrameHead, UtteranceHead, mean_pool
    from speechft.tasks.losses import ctc_losses, slot_losses
    from speechft.tasks.recurrent import DiarizationHead, RecurrentHead
    from speechft.tasks.speaker import SpeakerHead, XVectorHead, aam_softmax, am_softmax
    from speechft.tasks.turns import pit_losses, turn_labels, turns_of

__all__ = [
    "S3PRL_KEYS",
    "SUPERB",
    "TASKS",
    "WAV2VEC2_SYMBOLS",
    "DiarizationHead",
    "FrameHead",
    "LanguageModel",
    "RecurrentHead",
    "SpeakerHead",
    "Task",
    "UtteranceHead",
    "XVectorHead",
    "aam_softmax",
    "am_softmax",
    "classification",
    "ctc_losses",
    "find_task",
    "from_s3prl",
    "match_all",
    "mean_pool",
    "measure_of",
    "metrics",
    "pit_losses",
    "slot_losses",
    "to_s3prl",
    "turn_labels",
    "turns_of",
]

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        PR,
        ASR,
        KS,
        QBE,
        SID,
        ASV,
        SD,
        ER,
        IC,
        SF,
        PC,
        classification("style", "speaking style", label="style"),
        classification("label", "classification by the column 'label'", label="label"),
    )
}
"""Every task by its key: SUPERB's ten, and some more for small corpora.

Beside them, ``label:COLUMN`` is a task for any column of labels; `find_task` makes it."""
BY_NAME: dict[str, Task] = {LID.name: LID}
"""Tasks that are taken where they are named, and not for being available: speech in one language,
or in accents that a corpus calls languages, would be probed for it otherwise."""
SUPERB = ("pr", "asr", "ks", "qbe", "sid", "asv", "sd", "er", "ic", "sf")
"""Keys of SUPERB's ten tasks."""


def find_task(name: str, also: Iterable[str] = ()) -> Task:
    """Return a task by its key, or that of a column of labels by ``label:COLUMN``.

    Args:
        name: The key.
        also: Further choices, for the error.

    Raises:
        ConfigError: There is no such task.
    """
    if name in TASKS or name in BY_NAME:
        return TASKS.get(name) or BY_NAME[name]
    if name.startswith(COLUMN):
        return column_task(name)
    raise unknown_choice("task", name, [*TASKS, *BY_NAME, f"{COLUMN}COLUMN", *also])


def is_task(name: str) -> bool:
    """Return whether `find_task` finds a task, such as that of a row of older results."""
    return name in {*TASKS, *BY_NAME} or bool(
        name.startswith(COLUMN) and name.removeprefix(COLUMN).strip()
    )


def measure_of(task: str, metric: str) -> Measure:
    """Return how to show a figure of a result row: of its task, else of any task that has it.

    A metric that no task knows is a figure as it is.
    """
    own = [find_task(task)] if is_task(task) else []
    for known in (*own, *TASKS.values()):
        if measure := known.measure(metric):
            return measure
    return replace(_UNKNOWN, name=metric)


_UNKNOWN = Measure("", True, ratio, percent=False, decimals=3)

_HOMES = {
    "DiarizationHead": "recurrent",
    "FrameHead": "heads",
    "RecurrentHead": "recurrent",
    "SpeakerHead": "speaker",
    "UtteranceHead": "heads",
    "XVectorHead": "speaker",
    "aam_softmax": "speaker",
    "am_softmax": "speaker",
    "ctc_losses": "losses",
    "match_all": "detection",
    "mean_pool": "heads",
    "pit_losses": "turns",
    "slot_losses": "losses",
    "turn_labels": "turns",
    "turns_of": "turns",
}
"""Where what computes is imported from, when it is first used."""


def __getattr__(name: str) -> Any:
    """Import what computes when it is first used (PEP 562)."""
    if name == "metrics":
        return importlib.import_module("speechft.tasks.metrics")
    if name in _HOMES:
        return getattr(importlib.import_module(f"speechft.tasks.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'speechft.tasks' has no attribute {name!r}")
