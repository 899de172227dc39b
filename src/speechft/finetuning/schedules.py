"""Learning rate as a function of the step."""

from __future__ import annotations

from pydantic import Field

from speechft.config import Config


class Schedule(Config):
    """Three parts: linear warm-up, hold, linear decay to zero.

    Source: Speech-FT (arXiv 2502.12672), official ``stable_finetuning_schedule``.
    """

    warmup: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the steps in which the factor rises from 0 to 1."""
    hold: float = Field(default=0.4, ge=0.0, le=1.0)
    """Share of the steps in which the factor stays 1."""

    def factor(self, step: int, steps: int) -> float:
        """Return the factor of the peak learning rate.

        With w = int(warmup T), h = w + int(hold T): s/w for s < w, 1 for s < h, then
        (T - s) / (T - h).

        Args:
            step: Updates done so far, from 0; the first update has factor 0 if there is a warm-up.
            steps: T, all updates.
        """
        warm = int(self.warmup * steps)
        held = warm + int(self.hold * steps)
        if step < warm:
            return step / warm
        if step < held:
            return 1.0
        return max(0.0, (steps - step) / max(1, steps - held))
