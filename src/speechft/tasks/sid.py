"""Speaker identification (SUPERB SID)."""

from speechft.tasks.label import LabelClassification

SPEAKER_IDENTIFICATION = LabelClassification("sid", "speaker identification", label="speaker")
