"""Tasks: labels, head, loss and metric of each; `TASKS` is the list of them."""

from __future__ import annotations

from speechft.errors import unknown_choice
from speechft.tasks import metrics
from speechft.tasks.asr import CharacterRecognition
from speechft.tasks.asv import SpeakerVerification
from speechft.tasks.base import Task
from speechft.tasks.detection import match
from speechft.tasks.er import EMOTION_RECOGNITION
from speechft.tasks.heads import FrameHead, UtteranceHead, mean_pool
from speechft.tasks.ic import IntentClassification
from speechft.tasks.ks import KEYWORD_SPOTTING
from speechft.tasks.label import LabelClassification
from speechft.tasks.losses import ctc_losses, slot_losses
from speechft.tasks.pc import PhoneClassification
from speechft.tasks.pr import PhoneRecognition
from speechft.tasks.qbe import QueryByExample
from speechft.tasks.recurrent import DiarizationHead, RecurrentHead
from speechft.tasks.s3prl import S3PRL_KEYS, from_s3prl, to_s3prl
from speechft.tasks.sd import SpeakerDiarization
from speechft.tasks.sf import SlotFilling
from speechft.tasks.sid import SPEAKER_IDENTIFICATION
from speechft.tasks.speaker import AAMSoftmaxLoss, AMSoftmaxLoss, SoftmaxLoss, XVectorHead
from speechft.tasks.text import (
    CharacterText,
    LetterText,
    PhoneText,
    SlotText,
    TedliumText,
    greedy_decode,
    normalize_tedlium,
)
from speechft.tasks.turns import pit_loss, pit_losses, rttm_lines, turn_labels, turns_of
from speechft.tasks.word_search import LanguageModel

__all__ = [
    "S3PRL_KEYS",
    "SUPERB",
    "TASKS",
    "AAMSoftmaxLoss",
    "AMSoftmaxLoss",
    "CharacterText",
    "DiarizationHead",
    "FrameHead",
    "LanguageModel",
    "LetterText",
    "PhoneText",
    "RecurrentHead",
    "SlotText",
    "SoftmaxLoss",
    "Task",
    "TedliumText",
    "UtteranceHead",
    "XVectorHead",
    "ctc_losses",
    "find_task",
    "from_s3prl",
    "greedy_decode",
    "match",
    "mean_pool",
    "metrics",
    "normalize_tedlium",
    "pit_loss",
    "pit_losses",
    "rttm_lines",
    "slot_losses",
    "to_s3prl",
    "turn_labels",
    "turns_of",
]

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        PhoneRecognition(),
        CharacterRecognition(),
        KEYWORD_SPOTTING,
        QueryByExample(),
        SPEAKER_IDENTIFICATION,
        SpeakerVerification(),
        SpeakerDiarization(),
        EMOTION_RECOGNITION,
        IntentClassification(),
        SlotFilling(),
        PhoneClassification(),
        LabelClassification("style", "speaking style", label="style"),
        LabelClassification("label", "classification by the column 'label'", label="label"),
    )
}
"""Every task by its key: SUPERB's ten, and some more for small corpora."""
SUPERB = ("pr", "asr", "ks", "qbe", "sid", "asv", "sd", "er", "ic", "sf")
"""Keys of SUPERB's ten tasks."""


def find_task(name: str) -> Task:
    """Return a task by its key.

    Raises:
        ConfigError: There is no such task.
    """
    if name not in TASKS:
        raise unknown_choice("task", name, TASKS)
    return TASKS[name]
