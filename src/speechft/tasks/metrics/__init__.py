"""Metrics as pure functions, by the names of the field."""

from speechft.tasks.metrics.classification import accuracy
from speechft.tasks.metrics.edit_distance import Edits, cer, edits, per, wer

__all__ = ["Edits", "accuracy", "cer", "edits", "per", "wer"]
