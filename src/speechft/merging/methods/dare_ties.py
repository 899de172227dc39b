"""DARE with TIES: drop and rescale, then elect signs and average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from speechft.merging.method import option
from speechft.merging.methods.dropping import Dare
from speechft.merging.methods.election import (
    ABOUT_DIVISOR,
    ABOUT_ELECTION,
    Divisor,
    Election,
    merge_agreeing,
)

if TYPE_CHECKING:
    from speechft.encoders.conversion.tensors import Buffer


@dataclass(frozen=True)
class DareTies(Dare):
    """Elect signs among dropped and rescaled task vectors and average those that agree.

    The equations are in `speechft.merging.methods.dropping.drop` and
    `speechft.merging.methods.election.merge_agreeing`. The defaults are PEFT's: a mean over the
    number of agreeing models. mergekit elects with weights and takes the plain sum
    (``election="weighted", divisor="none"``).
    """

    name = "dare-ties"
    title = "drop entries of the task vectors at random, rescale, then elect and average"
    paper = "Yu et al., Language Models are Super Mario, ICML 2024, with the election of TIES"

    election: Election = option("unweighted", ABOUT_ELECTION)
    divisor: Divisor | None = option(None, ABOUT_DIVISOR)

    def merge_dropped(self, base: Buffer, dropped: Sequence[Buffer], alpha: float) -> Buffer:
        """Average the dropped task vectors where their signs agree."""
        return merge_agreeing(
            base,
            dropped,
            alpha,
            weights=self.weights,
            election=self.election,
            divisor=self.divisor,
        )
