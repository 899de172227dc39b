"""What the augmentation of features may be configured to do; light, for recipes."""

from __future__ import annotations

from pydantic import Field

from speechft.config import Config


class SpecAugmentConfig(Config):
    """Sizes of warp and masks; the defaults are those of s3prl's ASR and SF."""

    time_warp: int = Field(default=5, ge=0)
    """Largest shift in frames; 0 leaves time as it is."""
    time_masks: int = Field(default=2, ge=0)
    """Masks over time in an utterance."""
    time_width: tuple[int, int] = (0, 40)
    """Width of a mask over time in frames, drawn from [low, high)."""
    channel_masks: int = Field(default=4, ge=0)
    """Masks over channels in an utterance."""
    channel_width: tuple[int, int] = (0, 50)
    """Width of a mask over channels, drawn from [low, high)."""
    adaptive: float = Field(default=0.0, ge=0.0, le=1.0)
    """If above 0, number and largest width of the time masks are this share of the utterance's
    frames (at most 20 masks, at most the width above)."""
