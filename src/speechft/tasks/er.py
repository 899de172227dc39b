"""Emotion recognition (SUPERB ER)."""

from speechft.tasks.label import LabelClassification

EMOTION_RECOGNITION = LabelClassification("er", "emotion recognition", label="emotion")
