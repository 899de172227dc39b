"""Language identification, by the column ``language`` (or ``locale``) of a corpus."""

from speechft.tasks.label import ACCURACY, MACRO_F1, UAR, classification

LID = classification(
    "lid", "language identification", label="language", measures=(ACCURACY, UAR, MACRO_F1)
)
