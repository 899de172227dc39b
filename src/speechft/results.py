"""Result rows: one measured figure each, with all that is needed to trust and to compare it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from speechft.checkpoint import atomic_write
from speechft.config import Config
from speechft.errors import DataError


class ResultRow(Config):
    """One figure of one encoder on one task."""

    encoder: str
    """Name of the encoder, such as ``pre-trained`` or ``Speech-FT``."""
    encoder_digest: str
    """SHA-256 of the encoder's weights and configuration."""
    task: str
    """Key of the task in ``speechft.tasks.TASKS``."""
    metric: str
    """Name of the metric, such as ``per`` or ``accuracy``."""
    value: float
    """The figure, in percent where the field gives it in percent."""
    higher_is_better: bool
    """Direction of the metric."""
    n: int
    """Number of items that the figure is taken over."""
    interval: tuple[float, float] | None
    """95 % bootstrap interval over items; None where it has none."""
    split: str
    """The data split that the figure was measured on."""
    seed: int
    """Seed of the probe."""
    protocol: str
    """Name of the evaluation protocol."""
    learning_rate: float | None
    """Learning rate chosen on the development split."""
    alpha: float | None = None
    """Interpolation coefficient of a merged encoder."""
    details: dict[str, Any] = Field(default_factory=dict)
    """Anything else worth keeping, such as the weights of the layers."""


def write_rows(path: Path, rows: Iterable[ResultRow]) -> None:
    """Write rows as JSON lines, atomically."""
    with atomic_write(path) as file:
        for row in rows:
            file.write((json.dumps(row.as_dict(), ensure_ascii=False) + "\n").encode())


def read_rows(path: Path) -> list[ResultRow]:
    """Read rows from JSON lines.

    Raises:
        DataError: The file is missing, or a line is not a result row.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"results {path} cannot be read: {reason}") from None
    rows = []
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, start=1):
        try:
            rows.append(ResultRow.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            reason = f"{where}: {first['msg']}" if where else first["msg"]
            raise DataError(f"{path}, line {number}, is not a result row: {reason}") from None
    return rows
