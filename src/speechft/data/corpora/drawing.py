"""Splits that a table lacks: drawn by a digest, the same for the same table everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from speechft.errors import DataError, unknown_choice

DRAWN = ("recordings", "speakers")
"""What stays together: the segments of a recording, or all that a speaker says."""


def draw_splits(
    rows: Iterable[dict[str, str]], what: str, table: str, parts: Sequence[str] = ("test", "dev")
) -> list[str]:
    """Return a split for each row: a tenth for each part (at least one), the rest train.

    Args:
        rows: Cells by column.
        what: One of `DRAWN`.
        table: Its name, for errors.
        parts: Splits that are drawn.

    Raises:
        ConfigError: ``what`` is none of them.
        DataError: There are too few for train and every part, or rows without a speaker.
    """
    if what not in DRAWN:
        raise unknown_choice("draw", what, DRAWN)
    column = "path" if what == "recordings" else "speaker"
    names = [row.get(column, "") for row in rows]
    if not all(names):
        raise DataError(
            f"{table} has {sum(not name for name in names)} rows without a {column}, and its "
            f"splits are to be drawn by {what}",
            hint="fill them in, or draw=recordings",
        )
    order = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(order) <= len(parts):
        raise DataError(
            f"{table} has {len(order)} {what}, too few for train and {' and '.join(parts)}",
            hint=f"at least {len(parts) + 1}; draw=recordings counts files, draw=speakers voices",
        )
    tenth = max(1, round(len(order) / 10))
    all_parts = (*parts, "train")
    part = {name: all_parts[min(n // tenth, len(parts))] for n, name in enumerate(order)}
    return [part[name] for name in names]
