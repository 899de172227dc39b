"""SUPERB_S against the published rows, and its interval."""

from __future__ import annotations

import numpy as np
import pytest

from speechft.errors import ConfigError
from speechft.evaluation.score import RATIO
from speechft.evaluation.superb_score import CONSTANTS, superb_score, superb_score_values
from speechft.tasks.base import Item

PUBLISHED = [
    ((5.17, 81.86, 64.99, 88.54, 24.70), 870.20),
    ((5.22, 79.89, 65.38, 88.52, 23.80), 870.71),
    ((3.94, 84.11, 67.78, 88.84, 23.46), 905.79),
    ((5.78, 75.26, 63.45, 88.12, 24.88), 837.08),
    ((6.84, 72.95, 64.53, 87.22, 26.45), 824.82),
    ((4.14, 78.44, 64.87, 88.37, 24.10), 864.79),
]
"""PER, SID, ER, SF F1 and CER of Speech-FT's table (arXiv 2502.12672), and SUPERB_S."""
WAVLM_LARGE = (874.44, 875.03, 910.17, 841.32, 828.92, 869.12)


def four(row: tuple[float, ...]) -> dict[str, dict[str, float]]:
    per, sid, er, f1, cer = row
    return {
        "pr": {"per": per},
        "sid": {"accuracy": sid},
        "er": {"accuracy": er},
        "sf": {"slot_type_f1": f1, "slot_value_cer": cer},
    }


@pytest.mark.parametrize("name", ["speech-ft", "speech-ft-b", "speech-ft-c"])
def test_published_rows_give_the_published_scores(name: str) -> None:
    for row, score in PUBLISHED:
        assert superb_score(four(row), name) == pytest.approx(score, abs=0.0101)


def test_other_constants_give_what_the_fact_sheet_says() -> None:
    for (row, _), score in zip(PUBLISHED, WAVLM_LARGE, strict=True):
        assert superb_score(four(row), "wavlm-large") == pytest.approx(score, abs=0.011)


def test_score_is_not_clipped() -> None:
    assert superb_score(four((0.0, 100.0, 100.0, 100.0, 0.0))) > 1000
    assert superb_score(four((100.0, 0.0, 0.0, 0.0, 100.0))) < 0


def test_missing_figures_and_sets_are_named() -> None:
    with pytest.raises(ConfigError, match="missing: er accuracy"):
        superb_score({k: v for k, v in four(PUBLISHED[0][0]).items() if k != "er"})
    with pytest.raises(ConfigError, match="unknown set of constants 'wavlm'"):
        superb_score(four(PUBLISHED[0][0]), "wavlm")


def test_spread_of_the_score_is_that_of_its_parts() -> None:
    rng = np.random.default_rng(0)

    def hits(count: int, share: float) -> list[Item]:
        return [Item(f"{n:04d}", "", "", float(rng.random() < share), 1.0) for n in range(count)]

    def slots(count: int) -> list[Item]:
        return [
            Item(
                f"{n:04d}", "", "", float(rng.random()), 1.0,
                {"value_edits": float(rng.integers(0, 5)), "value_length": 10.0},
            )
            for n in range(count)
        ]  # fmt: skip

    items = {"pr": hits(300, 0.1), "sid": hits(300, 0.8), "er": hits(300, 0.6), "sf": slots(300)}
    values = superb_score_values(items)
    cer = 100 * sum(i.counts["value_edits"] for i in items["sf"]) / 3000
    expected = superb_score(
        four((*(RATIO.value(items[t]) for t in ("pr", "sid", "er", "sf")), cer))
    )
    assert values.mean() == pytest.approx(expected, abs=1.0)
    slopes = {"pr": 1 / (82.01 - 2.42), "sid": 1 / 95.13, "er": 1 / (70.67 - 35.39)}
    spread = sum(
        (250 * slope * 100 * np.std([i.amount for i in items[t]]) / 300**0.5) ** 2
        for t, slope in slopes.items()
    )
    f1 = np.array([i.amount for i in items["sf"]]) / (92.39 - 69.64) * 100
    edits = np.array([i.counts["value_edits"] for i in items["sf"]]) * 10 / (52.94 - 17.68)
    spread += (250 * np.std((f1 - edits) / 2) / 300**0.5) ** 2
    assert values.std() == pytest.approx(spread**0.5, rel=0.08)


def test_every_set_says_where_it_comes_from() -> None:
    assert all(len(constants.source) > 20 for constants in CONSTANTS.values())
