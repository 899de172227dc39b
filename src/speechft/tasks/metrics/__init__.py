"""Metrics as pure functions, by the names of the field; rates are fractions, references first."""

from speechft.tasks.metrics.classification import accuracy
from speechft.tasks.metrics.diarization import (
    DiarizationErrors,
    der,
    diarization_error_rate,
    diarization_errors,
    diarization_frame_statistics,
)
from speechft.tasks.metrics.edit_distance import Edits, cer, edits, per, wer
from speechft.tasks.metrics.slots import (
    slot_edit_f1,
    slot_type_f1,
    slot_value_cer,
    slot_value_wer,
    slots_of,
)
from speechft.tasks.metrics.verification import (
    equal_error_rate,
    equal_error_rate_and_threshold,
    min_dcf,
    min_dcf_and_threshold,
    mtwv,
    mtwv_and_threshold,
)

eer = equal_error_rate
"""Short name of `equal_error_rate`."""

__all__ = [
    "DiarizationErrors",
    "Edits",
    "accuracy",
    "cer",
    "der",
    "diarization_error_rate",
    "diarization_errors",
    "diarization_frame_statistics",
    "edits",
    "eer",
    "equal_error_rate",
    "equal_error_rate_and_threshold",
    "min_dcf",
    "min_dcf_and_threshold",
    "mtwv",
    "mtwv_and_threshold",
    "per",
    "slot_edit_f1",
    "slot_type_f1",
    "slot_value_cer",
    "slot_value_wer",
    "slots_of",
    "wer",
]
