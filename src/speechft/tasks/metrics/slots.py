"""Metrics of slot filling on tagged text such as ``PLAY B-artist ADELE E-artist``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from speechft.tasks.metrics.edit_distance import edits

_SLOT = re.compile(r"B-(.+?) (.+?) E-\1")
"""A slot and its value. The closing tag matches as a prefix, as in s3prl."""

Slots = dict[str, list[str]]


def slots_of(text: str, *, clean: bool = False) -> Slots:
    """Return the values of every slot type in tagged text, in order.

    Args:
        text: Words with ``B-type`` before and ``E-type`` after the value of a slot.
        clean: Remove tags inside of values.
    """
    found: Slots = {}
    for name, value in _SLOT.findall(re.sub(" +", " ", text)):
        found.setdefault(name, []).append(_without_tags(value) if clean else value)
    return found


def slot_type_f1(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Return the mean over utterances of the F1 of the sets of slot types (SUPERB SF).

    1 where neither text has a slot, 0 where only one has. Source: s3prl 0.4 ``slot_type_f1``.

    Raises:
        ValueError: Different numbers of texts, or none.
    """
    if not references:
        raise ValueError("there are no texts: slot type F1 is not defined")
    parts = [slot_type_f1_of(r, h) for r, h in zip(references, hypotheses, strict=True)]
    return sum(parts) / len(parts)


def slot_type_f1_of(reference: str, hypothesis: str) -> float:
    """Return the F1 of the slot types of one utterance."""
    expected, found = slots_of(reference).keys(), slots_of(hypothesis, clean=True).keys()
    if not expected or not found:
        return float(not expected and not found)
    common = len(expected & found)
    precision, recall = common / len(found), common / len(expected)
    return 2 * precision * recall / (precision + recall) if common else 0.0


def slot_value_cer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Return the character error rate of slot values over a corpus (SUPERB SF).

    Each reference value is compared with the hypothesised value of its type that has the lowest
    rate, or with nothing. Source: s3prl 0.4 ``slot_value_cer``.

    Raises:
        ValueError: Different numbers of texts, or no reference holds a slot.
    """
    return _value_rate(references, hypotheses, words=False)


def slot_value_wer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Return the word error rate of slot values over a corpus; see `slot_value_cer`."""
    return _value_rate(references, hypotheses, words=True)


def slot_value_edits(reference: str, hypothesis: str, *, words: bool = False) -> tuple[int, int]:
    """Return (edits, reference length) over the slot values of one utterance.

    Args:
        reference: Tagged text.
        hypothesis: Tagged text.
        words: Count words rather than characters; words are separated by single spaces.
    """
    found = slots_of(hypothesis, clean=True)
    counted = length = 0
    for name, values in slots_of(reference).items():
        for value in values:
            expected = _units(value, words)
            options = [
                edits(expected, _units(option, words)).total for option in found.get(name, [])
            ]
            counted += min(options) if options else edits(expected, _units("", words)).total
            length += len(expected)
    return counted, length


def slot_edit_f1(
    references: Sequence[str], hypotheses: Sequence[str], *, full: bool = True
) -> float:
    """Return the F1 of exactly matching slot values, as a fraction.

    A reference value is right when any hypothesised value of its type equals it, missed when its
    type is absent, missed and a false alarm otherwise; surplus values of a type that the reference
    has do not count. Source: s3prl 0.4 ``slot_edit_f1_full`` and ``slot_edit_f1_part``.

    Args:
        references: Tagged texts.
        hypotheses: As many.
        full: Count values of types that the reference lacks as false alarms.

    Raises:
        ValueError: Different numbers of texts, or there is nothing to count.
    """
    right = missed = false = 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        expected, found = slots_of(reference), slots_of(hypothesis, clean=True)
        for name, values in expected.items():
            hits = sum(value in found.get(name, []) for value in values)
            right += hits
            missed += len(values) - hits
            false += len(values) - hits if name in found else 0
        if full:
            false += sum(len(found[name]) for name in found.keys() - expected.keys())
    if right + missed + false == 0:
        raise ValueError("no text holds a slot: slot edit F1 is not defined")
    return 2 * right / (2 * right + missed + false)


def _value_rate(references: Sequence[str], hypotheses: Sequence[str], words: bool) -> float:
    counted = [
        slot_value_edits(r, h, words=words) for r, h in zip(references, hypotheses, strict=True)
    ]
    length = sum(total for _, total in counted)
    if length == 0:
        raise ValueError("no reference holds a slot: the error rate of values is not defined")
    return sum(amount for amount, _ in counted) / length


def _units(value: str, words: bool) -> Sequence[str]:
    return value.split(" ") if words else value


def _without_tags(value: str) -> str:
    return re.sub(r" E-\S+", "", re.sub(r"B-\S+ ", "", value))
