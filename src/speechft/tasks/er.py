"""Emotion recognition (SUPERB ER)."""

from speechft.tasks.label import classification

ER = classification("er", "emotion recognition", label="emotion")
