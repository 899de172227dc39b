"""Which task each batch of a joint fine-tuning is for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from speechft.data.batching import seed_of


def task_schedule(
    weights: Mapping[str, float], mixing: str, steps: int, accumulation: int, seed: int
) -> tuple[list[str], int]:
    """Return the task of every batch, and how many batches an update has.

    Args:
        weights: By task.
        mixing: ``weighted``: every update has ``accumulation`` batches of each task;
            ``alternating``: every update is of one task, drawn in proportion to its weight.
        steps: Updates.
        accumulation: Batches of a task in an update.
        seed: Seed of the draw.
    """
    tasks = list(weights)
    if mixing == "weighted":
        return tasks * accumulation * steps, accumulation * len(tasks)
    shares = np.array(list(weights.values())) / sum(weights.values())
    rng = np.random.default_rng(seed_of(seed, "tasks"))
    drawn = rng.choice(len(tasks), size=steps, p=shares)
    return [tasks[number] for number in drawn for _ in range(accumulation)], accumulation
