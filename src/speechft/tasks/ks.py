"""Keyword spotting (SUPERB KS): every class is drawn equally often, only noise is cropped."""

from speechft.tasks.label import classification

KS = classification("ks", "keyword spotting", label="keyword", balanced=True, noise="_silence_")
