"""Rows of an analysis: one measured value each, of a measure, a layer and an encoder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from speechft.analysis.intervals import Estimate
from speechft.config import Config
from speechft.errors import DataError
from speechft.storage.documents import read_limited, text_of
from speechft.storage.outputs import put_text

Question = Literal["similarity", "linearity", "weights", "phones", "words", "speakers", "labels"]


class AnalysisRow(Config):
    """One value of one encoder at one layer."""

    model_config = ConfigDict(allow_inf_nan=True)

    encoder: str
    """Name of the encoder."""
    encoder_digest: str
    """SHA-256 of its weights and configuration."""
    question: Question
    """What it says something about."""
    measure: str
    """Name of the measure; see docs/analysis.md."""
    layer: int | None
    """Hidden state: 0 is the input of the first transformer layer; None stands for all."""
    value: float | None
    """The value, None where it is not defined, with the reason in ``details``."""
    interval: tuple[float, float] | None = None
    """95 % interval by a jackknife over speakers; None where there is none."""
    n: int = 0
    """Items that it is taken over: utterances, frames, segments, triples or pairs."""
    unit: str = ""
    """``%`` or nothing."""
    against: str | None = None
    """The encoder that it is compared with, or the other end of a line."""
    module: str | None = None
    """Kind of module, for weights; None stands for all."""
    details: dict[str, Any] = Field(default_factory=dict)
    """Anything else that is needed to read the value."""


def row_values(estimate: Estimate, unit: str = "") -> dict[str, Any]:
    """Return what a row says of an estimate; what is in percent stays between 0 and 100."""
    ends = estimate.interval()
    if ends is not None and unit == "%":
        ends = max(ends[0], 0.0), min(ends[1], 100.0)
    return {"value": estimate.value, "interval": ends, "n": estimate.n, "unit": unit}


def read_analysis(path: Path) -> list[AnalysisRow]:
    """Read rows that `write_analysis` wrote.

    Raises:
        DataError: The file is missing, or a line is not a row.
    """
    try:
        lines = text_of(read_limited(path)).splitlines()
        return [AnalysisRow.model_validate_json(line) for line in lines]
    except (OSError, ValueError) as error:
        raise DataError(f"analysis {path} cannot be read: {error}") from None


def write_analysis(
    path: Path, rows: Iterable[AnalysisRow], *, earlier: Callable[[], bool] | None = None
) -> None:
    """Write rows as JSON lines in the place of earlier ones of ours.

    Args:
        path: The file.
        rows: Its rows.
        earlier: See `speechft.storage.outputs.replacing`.
    """
    lines = (json.dumps(row.as_dict(), ensure_ascii=False) + "\n" for row in rows)
    put_text(path, "".join(lines), earlier=earlier)
