"""Keyword spotting (SUPERB KS): every class is drawn equally often, only noise is cropped."""

from speechft.tasks.label import LabelClassification

KEYWORD_SPOTTING = LabelClassification(
    "ks", "keyword spotting", label="keyword", balanced=True, noise="_silence_"
)
