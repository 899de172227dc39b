"""Figures of each language, where the tested speech is in several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from speechft.data.labels import label_of
from speechft.tasks.measures import Item, Measure

if TYPE_CHECKING:
    from lhotse.cut import Cut

LANGUAGE = "language"
"""Kind of label; tables call it ``locale`` or ``lang`` too."""


def by_language(
    measure: Measure, items: Sequence[Item], cuts: Iterable[Cut]
) -> dict[str, dict[str, Any]]:
    """Return value and number of items by language; nothing where there are fewer than two.

    Args:
        measure: Of the figure.
        items: That it is taken over; those that are no utterance, such as trials, have no language.
        cuts: Whose label ``language`` counts.
    """
    if measure.whole_groups:
        return {}
    spoken = {cut.id: label_of(cut, LANGUAGE) for cut in cuts}
    groups: dict[str, list[Item]] = {}
    for item in items:
        if (language := spoken.get(item.id)) is not None:
            groups.setdefault(language, []).append(item)
    if len(groups) < 2:
        return {}
    return {
        language: {"value": round(measure.value(own), 4), "n": len(own)}
        for language, own in sorted(groups.items())
    }
