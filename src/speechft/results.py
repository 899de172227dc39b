"""Result rows: one measured figure each, with all that is needed to trust and to compare it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from speechft.commands import command
from speechft.config import Config
from speechft.errors import DataError
from speechft.storage.documents import read_limited, text_of
from speechft.storage.files import atomic_write

Part = Literal["dev", "test"]
MAX_ENCODERS, MAX_TASKS = 1_000, 100
"""Of a report or a comparison."""


class Role(StrEnum):
    """What an encoder stands for in a comparison."""

    FLOOR = "floor"
    """Not a pre-trained encoder: MFCC, or random weights."""
    PRE_TRAINED = "pre-trained"
    """The encoder that the others started from."""
    TUNED = "tuned"
    """Fine-tuned, by the strategy that the row names."""
    MERGED = "merged"
    """Interpolated between the pre-trained and a tuned one."""
    FURTHER = "further"
    """Any other encoder."""


class ResultRow(Config):
    """One figure of one encoder on one task."""

    model_config = ConfigDict(allow_inf_nan=True)

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
    """95 % bootstrap interval over groups of items, such as speakers, or over items where they have
    no groups (``details["uncertainty"]`` says which); None where it has none."""
    split: str
    """Name of the data split that the figure was measured on, as the corpus has it."""
    part: Part = "test"
    """What that split is to the task: ``test``, or ``dev``, which probes, merges and alphas are
    chosen on. Rows of versions up to 2026-11 do not say; it is told by their counts."""
    seed: int
    """Seed of the probe."""
    protocol: str
    """Name of the evaluation protocol."""
    learning_rate: float | None
    """Learning rate chosen on the development split."""
    alpha: float | None = None
    """Interpolation coefficient of a merged encoder."""
    layer: int | None = None
    """Hidden state that the probe saw alone, 0 being the input of the first layer; None for the
    weighted sum of all."""
    role: Role = Role.FURTHER
    """What the encoder stands for; reports go by it, not by names."""
    strategy: str | None = None
    """How a tuned encoder, or the tuned end of a merged one, was fine-tuned."""
    evaluation: str | None = None
    """Digest of what was measured beside encoder and seed: task, manifests, resolved configuration.
    Only figures that share it can be compared item by item; None in rows of older versions."""
    predictions: str | None = None
    """File with the scored items, relative to the folder of the file that holds this row."""
    left_out: dict[str, int] = Field(default_factory=dict)
    """How many items of the task's splits could not be used, by reason."""
    details: dict[str, Any] = Field(default_factory=dict)
    """Anything else worth keeping, such as the weights of the layers."""


def write_rows(path: Path, rows: Iterable[ResultRow]) -> None:
    """Write rows as JSON lines, atomically."""
    with atomic_write(path) as file:
        for row in rows:
            file.write((json.dumps(row.as_dict(), ensure_ascii=False) + "\n").encode())


def of_part(rows: Iterable[ResultRow], part: Part) -> list[ResultRow]:
    """Return the figures that were measured on dev, or on test."""
    return [row for row in rows if row.part == part]


def of_all_layers(rows: Iterable[ResultRow]) -> list[ResultRow]:
    """Return the figures of probes on the weighted sum, which stand for an encoder."""
    return [row for row in rows if row.layer is None]


def check_number(rows: Iterable[ResultRow]) -> None:
    """Refuse to show more side by side than anybody could read, which would take very long.

    Raises:
        DataError: There are more than `MAX_ENCODERS` encoders or `MAX_TASKS` tasks.
    """
    encoders, tasks = set(), set()
    for row in rows:
        encoders.add((row.encoder, row.encoder_digest))
        tasks.add(row.task)
    for what, found, most in (("encoders", encoders, MAX_ENCODERS), ("tasks", tasks, MAX_TASKS)):
        if len(found) > most:
            raise DataError(
                f"the results hold {len(found):,} {what}; at most {most:,} are shown side by side",
                hint="give fewer files or folders, or take rows out of results.jsonl",
            )


def mean_over_seeds(rows: Iterable[ResultRow]) -> list[ResultRow]:
    """Return one row for each encoder and figure: the mean over its probe seeds.

    Its interval is the one over seeds and test data where all seeds were probed together, its
    ``details["seeds"]`` their number; a figure with a single seed stays as it is.
    """
    groups: dict[tuple[object, ...], list[ResultRow]] = {}
    for row in rows:
        key = (
            *(row.encoder, row.encoder_digest, row.task, row.metric, row.split, row.part),
            row.protocol,
            *(row.alpha, row.layer, row.evaluation),
        )
        groups.setdefault(key, []).append(row)
    return [part[0] if len(part) == 1 else _mean(part) for part in groups.values()]


def _mean(rows: list[ResultRow]) -> ResultRow:
    first = rows[0]
    details = {**first.details, "seeds": len(rows)}
    if "dev" in details:
        details["dev"] = fmean(row.details["dev"] for row in rows)
    if "converged" in details:
        states = [row.details["converged"] for row in rows]
        details["converged"] = None if None in states else all(states)
    spoken = [row.details.get("languages") or {} for row in rows]
    if spoken[0] and all(one.keys() == spoken[0].keys() for one in spoken):
        details["languages"] = {
            name: {**told, "value": fmean(one[name]["value"] for one in spoken)}
            for name, told in spoken[0].items()
        }
    together = [row.details.get("interval_over_seeds") for row in rows]
    interval = together[0] if all(found == together[0] for found in together) else None
    changes = {
        "value": fmean(row.value for row in rows),
        "interval": None if interval is None else tuple(interval),
        "details": details,
        "predictions": None,
    }
    return first.model_copy(update=changes)


def read_rows(path: Path) -> list[ResultRow]:
    """Read rows from JSON lines.

    Raises:
        DataError: The file is missing, or a line is not a result row.
    """
    try:
        lines = text_of(read_limited(path)).split("\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"results {path} cannot be read: {reason}",
            hint="give a folder that evaluate, run or sweep wrote: "
            f"{command('evaluate', 'ENCODER', out='OUT')}",
        ) from None
    rows = []
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, start=1):
        try:
            row = ResultRow.model_validate_json(line)
            rows.append(row if "part" in row.model_fields_set else _with_part(row))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            reason = f"{where}: {first['msg']}" if where else first["msg"]
            raise DataError(
                f"{path}, line {number}, is not a result row: {reason}",
                hint="if it was cut off or changed, take that line out or evaluate again into "
                "another folder",
            ) from None
    return rows


def _with_part(row: ResultRow) -> ResultRow:
    """Return a row of an older version with its part: figures on dev had no interval there."""
    dev, count = row.details.get("dev"), row.details.get("dev_n")
    same = isinstance(dev, int | float) and abs(row.value - dev) < 1e-3
    part: Part = "dev" if row.interval is None and count == row.n and same else "test"
    return row.model_copy(update={"part": part})
