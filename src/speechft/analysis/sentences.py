"""What the rows of an analysis say, in one plain sentence a question and encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from speechft.analysis.rows import AnalysisRow
from speechft.merging.coefficients import rule_of_state

_ALIKE = 0.95
"""CKA from which hidden states count as much the same."""
_STRAIGHT = 0.1
"""Share of the distance between the ends up to which features count as on the line."""
_UNRELATED = 1.0
"""Move of the weights, over the base's norm, from which they were not tuned from that base."""

_BETTER_LOW = ("abx_", "speaker_eer")
LEADING = {
    "phones": ("abx_across", "abx_within", "cca_phone"),
    "words": ("cca_word",),
    "speakers": ("speaker_eer", "knn_speaker"),
}
"""The measures of a question that a sentence goes by, the first that there is."""
_NAMES = {
    "abx_across": "ABX error across speakers",
    "abx_within": "ABX error within speakers",
    "cca_phone": "CCA with phones",
    "cca_word": "CCA with words",
    "speaker_eer": "speaker EER",
    "knn_speaker": "accuracy of nearest neighbours",
}

Sentences = dict[str, list[str]]


def sentences(rows: Sequence[AnalysisRow]) -> Sentences:
    """Return plain sentences by question, for every encoder one.

    Args:
        rows: Of one analysis.
    """
    found: Sentences = {}
    encoders = dict.fromkeys(row.encoder for row in rows if row.against is not None)
    for name in encoders:
        own = [row for row in rows if row.encoder == name]
        for question, text in _of_encoder(own):
            found.setdefault(question, []).append(f"{name}: {text}")
    return found


def _of_encoder(rows: Sequence[AnalysisRow]) -> Iterator[tuple[str, str]]:
    similar = _pick(rows, "cka")
    if similar:
        yield "similarity", _similarity(similar)
    ratios = _pick(rows, "llfc_ratio")
    if ratios:
        yield "linearity", _linearity(ratios)
    moved = [row for row in rows if row.measure == "weight_move"]
    if moved:
        yield "weights", _weights(moved, rows)
    changes: dict[str, tuple[list[int], list[int]]] = {}
    for question, measures in LEADING.items():
        leading = next((found for m in measures if (found := _pick(rows, m))), None)
        if leading:
            changes[question] = _changes(leading)
            yield question, _ability(leading, *changes[question])
    if {"phones", "speakers"} <= set(changes):
        turned = _turned(changes["phones"], changes["speakers"])
        if turned:
            yield "phones", turned
    for measure in dict.fromkeys(row.measure for row in rows if row.question == "labels"):
        labels = _pick(rows, measure)
        if labels:
            kind = labels[0].details["label"]
            yield "labels", f"{kind}: {_ability(labels, *_changes(labels))}"


def _pick(rows: Sequence[AnalysisRow], measure: str) -> list[AnalysisRow]:
    """Return the rows of a measure by layer; for a comparison those with one other encoder."""
    found = [row for row in rows if row.measure == measure and row.layer is not None]
    return found if any(row.value is not None for row in found) or "ratio" in measure else []


def _similarity(rows: Sequence[AnalysisRow]) -> str:
    known = [row for row in rows if row.value is not None]
    least, most = (f(known, key=lambda row: row.value or 0.0) for f in (min, max))
    if (least.value or 0) >= _ALIKE:
        return (
            f"hidden states are much the same as the base's at every layer (CKA at least "
            f"{least.value:.2f}{_interval(least)}, layer {least.layer})."
        )
    return (
        f"hidden states are least like the base's at layer {least.layer} (CKA {least.value:.2f}"
        f"{_interval(least)}) and most at layer {most.layer} ({most.value:.2f})."
    )


def _linearity(rows: Sequence[AnalysisRow]) -> str:
    alpha = rows[0].details["alpha"]
    judged = [row for row in rows if row.value is not None]
    silent = [row.layer for row in rows if row.value is None and row.layer is not None]
    if not judged:
        return "no verdict on linearity: features of base and tuned encoder hardly differ."
    worst = max(judged, key=lambda row: row.value or 0.0)
    straight = (worst.value or 0) <= _STRAIGHT
    on = "lie" if straight else "do not lie"
    text = (
        f"features at alpha {alpha:g} {on} on the line between the ends: they are away from it by "
        f"{100 * (worst.value or 0):.0f} % of the distance between these at most, at layer "
        f"{worst.layer}, so that a merge there {'acts' if straight else 'does not act'} as the "
        "average of both"
    )
    return f"{text}; no verdict on {layers_text(silent)}." if silent else f"{text}."


def _weights(moved: Sequence[AnalysisRow], rows: Sequence[AnalysisRow]) -> str:
    def whole(measure: str) -> float | None:
        found = [
            row.value
            for row in rows
            if row.measure == measure and row.layer is None and row.module is None
        ]
        return found[0] if found else None

    total = whole("weight_move")
    if not total:
        return "no weight moved."
    if total >= _UNRELATED:
        return (
            f"weights differ by {100 * total:.0f} % of the base's norm: not tuned from this base."
        )
    by_layer = [
        r for r in moved if r.layer is not None and r.module is None and r.value is not None
    ]
    most = max(by_layer, key=lambda row: row.value or 0.0)
    text = (
        f"weights moved by {100 * total:.1f} % of the base's norm, most at layer {most.layer} "
        f"({100 * (most.value or 0):.1f} %; in a merge rule {rule_of_state(most.layer or 0)})"
    )
    measure = next((row.measure for row in rows if row.measure.startswith("energy_top")), None)
    if measure is None:
        return f"{text}."
    measure = measure.removesuffix("_gaussian")
    share, noise = whole(measure), whole(f"{measure}_gaussian")
    if share is None or noise is None:
        return f"{text}."
    count = measure.removeprefix("energy_top")
    return (
        f"{text}; {100 * share:.0f} % of the energy of that move lies in {count} directions of "
        f"each matrix, of noise {100 * noise:.0f} %."
    )


def _changes(rows: Sequence[AnalysisRow]) -> tuple[list[int], list[int]]:
    """Return the layers that got better and worse than the base's, beyond the interval."""
    better: list[int] = []
    worse: list[int] = []
    for row in rows:
        interval = (row.details.get("change") or {}).get("interval")
        if interval is None or row.layer is None or interval[0] <= 0 <= interval[1]:
            continue
        rose = interval[0] > 0
        (worse if rose == row.measure.startswith(_BETTER_LOW) else better).append(row.layer)
    return better, worse


def _ability(rows: Sequence[AnalysisRow], better: list[int], worse: list[int]) -> str:
    known = [row for row in rows if row.value is not None]
    low = rows[0].measure.startswith(_BETTER_LOW)
    best = (min if low else max)(known, key=lambda row: row.value or 0.0)
    digits = 1 if best.unit else 2
    name = _NAMES.get(best.measure, "accuracy of nearest neighbours")
    space = " %" if best.unit == "%" else ""
    text = f"{name} is best at layer {best.layer} ({best.value:.{digits}f}{space})"
    parts = []
    if better:
        parts.append(f"better at {layers_text(better)}")
    if worse:
        parts.append(f"worse at {layers_text(worse)}")
    said = f"{' and '.join(parts)} than the base's" if parts else "no layer differs from the base's"
    return f"{text}; {said}{'' if parts else ' beyond its interval'}."


def _turned(
    phones: tuple[list[int], list[int]], speakers: tuple[list[int], list[int]]
) -> str | None:
    """Return which layers gave up one ability for the other."""
    to_speakers = sorted(set(phones[1]) & set(speakers[0]))
    to_phones = sorted(set(phones[0]) & set(speakers[1]))
    texts = []
    if to_speakers:
        texts.append(f"{layers_text(to_speakers)} turned from phones to speakers")
    if to_phones:
        texts.append(f"{layers_text(to_phones)} turned from speakers to phones")
    return f"{', '.join(texts)}." if texts else None


def layers_text(layers: Sequence[int]) -> str:
    """Return numbers in words: ``layer 3``, ``layers 5 and 6``, ``layers 0 to 4 and 9``."""
    runs: list[list[int]] = []
    for layer in sorted(set(layers)):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    parts: list[str] = []
    for run in runs:
        parts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run)
    *first, last = parts
    text = f"{', '.join(first)} and {last}" if first else last
    return f"{'layer' if len(set(layers)) == 1 else 'layers'} {text}"


def _interval(row: AnalysisRow) -> str:
    return "" if row.interval is None else f" [{row.interval[0]:.2f}, {row.interval[1]:.2f}]"
