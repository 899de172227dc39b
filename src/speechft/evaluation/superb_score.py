"""SUPERB_S: one figure over tasks, between a baseline and the best known, by named constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from speechft.config import Config
from speechft.errors import ConfigError, unknown_choice
from speechft.evaluation.score import Floats, bootstrap_values
from speechft.tasks import TASKS
from speechft.tasks.measures import Item

Figures = Mapping[str, Mapping[str, float]]
"""Figures by task and metric, as result rows have them: percent, but MTWV as a fraction."""
Items = Mapping[str, Sequence[Item]]
"""Scored items by task."""


class Constants(Config):
    """Baseline and best figure of every metric of a score."""

    source: str
    """Where they come from."""
    tasks: dict[str, dict[str, tuple[float, float]]]
    """By task and metric: (baseline, best). Several metrics of a task count half, a third..."""


def _four(
    best: tuple[float, float, float, float, float],
) -> dict[str, dict[str, tuple[float, float]]]:
    per, sid, er, f1, cer = best
    return {
        "pr": {"per": (82.01, per)},
        "sid": {"accuracy": (8.5e-4, sid)},
        "er": {"accuracy": (35.39, er)},
        "sf": {"slot_type_f1": (69.64, f1), "slot_value_cer": (52.94, cer)},
    }


_WAVLM = (3.06, 95.49, 70.62, 92.21, 18.36)

CONSTANTS: dict[str, Constants] = {
    "speech-ft": Constants(
        source="FBANK baselines; best figures fitted to the six scores published with Speech-FT "
        "(arXiv 2502.12672), which they give to 0.01. Effective values: single ones are not "
        "identified",
        tasks=_four((2.42, 95.13, 70.67, 92.39, 17.68)),
    ),
    "speech-ft-b": Constants(
        source="a second fit to the same six scores",
        tasks=_four((2.40, 95.13, 70.67, 92.37, 17.67)),
    ),
    "speech-ft-c": Constants(
        source="a third fit to the same six scores",
        tasks=_four((2.39, 95.16, 70.68, 92.38, 17.74)),
    ),
    "wavlm-large": Constants(
        source="FBANK baselines; WavLM Large as the best. About 4 points above what was published",
        tasks=_four(_WAVLM),
    ),
}
"""Named sets of constants; sets are added, never changed."""
FITTED = ("speech-ft", "speech-ft-b", "speech-ft-c")
"""The sets that were fitted to six published rows: nobody knows which of them was used."""


def superb_score(figures: Figures, constants: str = "speech-ft") -> float:
    """Return 1000 times the mean over tasks of (x - baseline) / (best - baseline), not clipped.

    Source: SUPERB_S as in Speech-FT, equations 4 and 5.

    Args:
        figures: By task and metric; tasks that the set does not have are ignored.
        constants: Name of the set.

    Raises:
        ConfigError: There is no such set, or a figure is missing.
    """
    chosen = constants_named(constants)
    missing = [
        f"{task} {metric}"
        for task, metrics in chosen.tasks.items()
        for metric in metrics
        if metric not in figures.get(task, {})
    ]
    if missing:
        raise ConfigError(
            f"score {constants} needs figures that are missing: {', '.join(missing)}",
            hint="evaluate these tasks, or choose another set of constants: "
            + ", ".join(CONSTANTS),
        )
    return float(_combined({t: dict(m) for t, m in figures.items()}, chosen))


def superb_score_values(items: Items, constants: str = "speech-ft", *, seed: int = 0) -> Floats:
    """Return the score of 2,000 resamples; every task's items are drawn on their own.

    Two encoders' values belong together draw by draw, if their items are the same.

    Raises:
        ConfigError: There is no such set, or a task is missing.
    """
    chosen = constants_named(constants)
    values: dict[str, dict[str, Floats]] = {}
    for place, task in enumerate(chosen.tasks):
        measures = {m.name: m for m in TASKS[task].measures}
        values[task] = {}
        for metric in chosen.tasks[task]:
            drawn = bootstrap_values(items[task], seed=seed + place, measure=measures[metric])
            if drawn is None:
                raise ConfigError(f"score {constants}: task {task} has fewer than two items")
            values[task][metric] = drawn
    result: Floats = np.asarray(_combined(values, chosen))
    return result


def constants_named(name: str) -> Constants:
    """Return a set of constants.

    Raises:
        ConfigError: There is no such set.
    """
    if name not in CONSTANTS:
        raise unknown_choice("set of constants", name, CONSTANTS)
    return CONSTANTS[name]


def _combined(
    figures: Mapping[str, Mapping[str, float | Floats]], chosen: Constants
) -> float | Floats:
    parts = [
        sum(
            (figures[task][metric] - baseline) / (best - baseline)
            for metric, (baseline, best) in metrics.items()
        )
        / len(metrics)
        for task, metrics in chosen.tasks.items()
    ]
    return 1000.0 * sum(parts) / len(parts)
