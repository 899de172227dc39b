"""Tasks: labels, head, loss and metric of each; `TASKS` is the list of them."""

from __future__ import annotations

from speechft.errors import unknown_choice
from speechft.tasks import metrics
from speechft.tasks.base import Task
from speechft.tasks.ctc import CharacterRecognition, PhoneRecognition
from speechft.tasks.intent import IntentClassification
from speechft.tasks.label import LabelClassification
from speechft.tasks.phone_frames import PhoneClassification

__all__ = ["TASKS", "Task", "find_task", "metrics"]

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        PhoneRecognition(),
        CharacterRecognition(),
        LabelClassification("sid", "speaker identification", label="speaker"),
        IntentClassification(),
        PhoneClassification(),
        LabelClassification("style", "speaking style", label="style"),
        LabelClassification("label", "classification by the column 'label'", label="label"),
    )
}
"""Every task by its key."""


def find_task(name: str) -> Task:
    """Return a task by its key.

    Raises:
        ConfigError: There is no such task.
    """
    if name not in TASKS:
        raise unknown_choice("task", name, TASKS)
    return TASKS[name]
