"""Slot metrics against s3prl; see oracle/superb/07_metrics."""

from __future__ import annotations

from typing import Any

import pytest

from oracle_data import oracle_json
from speechft.tasks import metrics

NAMES: dict[str, Any] = {
    "slot_type_f1": metrics.slot_type_f1,
    "slot_value_cer": metrics.slot_value_cer,
    "slot_value_wer": metrics.slot_value_wer,
    "slot_edit_f1_full": lambda r, h: metrics.slot_edit_f1(r, h, full=True),
    "slot_edit_f1_part": lambda r, h: metrics.slot_edit_f1(r, h, full=False),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_value_is_that_of_s3prl(name: str) -> None:
    data, compared = oracle_json("superb/07_metrics/slot_metrics.json"), 0
    for pair in data["pairs"]:
        expected = pair[name]["s3prl.metric"]
        if "value" in expected:
            found = NAMES[name]([pair["ref"]], [pair["hyp"]])
            assert found == pytest.approx(expected["value"], abs=1e-12), pair["note"]
            compared += 1
        elif "ZeroDivision" in expected["error"]:
            with pytest.raises(ValueError, match=r"holds a slot"):
                NAMES[name]([pair["ref"]], [pair["hyp"]])
    assert compared == sum("value" in p[name]["s3prl.metric"] for p in data["pairs"]) > 0
    kept = [pair for pair in data["pairs"] if "crash" not in pair["note"]]
    found = NAMES[name]([p["ref"] for p in kept], [p["hyp"] for p in kept])
    assert found == pytest.approx(data["corpus"][name]["s3prl.metric"]["value"], abs=1e-12)


def test_values_may_hold_colons() -> None:
    reference = "B-rating_value NINE E-rating_value"
    hypothesis = "B-rating_value 9:30 E-rating_value"
    assert metrics.slot_type_f1([reference], [hypothesis]) == 1.0
    assert metrics.slot_value_cer([reference], [hypothesis]) == 1.0
    assert metrics.slots_of("B-a X;Y:Z E-a") == {"a": ["X;Y:Z"]}


@pytest.mark.parametrize("name", NAMES)
def test_texts_come_in_pairs(name: str) -> None:
    slot = "B-a X E-a"
    with pytest.raises(ValueError):
        NAMES[name]([slot, slot], [slot])
    with pytest.raises(ValueError):
        NAMES[name]([], [])
