"""Speaker identification (SUPERB SID)."""

from speechft.tasks.label import classification

SID = classification("sid", "speaker identification", label="speaker")
