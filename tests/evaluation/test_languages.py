"""Figures by language: those of each language's utterances alone, and only where there are two."""

from __future__ import annotations

from speechft.data.utterances import Utterance, to_cut
from speechft.evaluation.languages import by_language
from speechft.tasks import TASKS
from speechft.tasks.measures import Item


def cut(name: str, language: str | None) -> object:
    labels = {} if language is None else {"language": language}
    return to_cut(Utterance(name, f"{name}.wav", 16_000, labels=labels))


def test_each_language_has_the_figure_of_its_own_utterances() -> None:
    """Errors over words of each: 3 of 10 and 1 of 2; what has no language counts for none."""
    measure = TASKS["asr"].measure("wer")
    assert measure is not None
    items = [
        Item("a", "", "", 1.0, 4.0),
        Item("b", "", "", 2.0, 6.0),
        Item("c", "", "", 1.0, 2.0),
        Item("d", "", "", 9.0, 9.0),
        Item("a trial", "", "", 9.0, 9.0),
    ]
    cuts = [cut("a", "de"), cut("b", "de"), cut("c", "fr"), cut("d", None)]
    assert by_language(measure, items, cuts) == {
        "de": {"value": 30.0, "n": 2},
        "fr": {"value": 50.0, "n": 1},
    }
    assert by_language(measure, items, cuts[:2]) == {}
    assert by_language(measure, items, []) == {}
