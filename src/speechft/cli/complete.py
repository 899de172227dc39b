"""What the shell completes in the place of a value; imports happen when it asks."""

from __future__ import annotations


def recipes(incomplete: str) -> list[str]:
    """Return the packaged recipes that begin so."""
    from speechft.recipe_files import packaged_recipes

    return [name for name in packaged_recipes() if name.startswith(incomplete)]


def corpora(incomplete: str) -> list[str]:
    """Return the corpora that begin so."""
    from speechft.data.corpora import cards

    return [name for name in cards() if name.startswith(incomplete)]


def tasks(incomplete: str) -> list[str]:
    """Return lists of tasks with commas, the last one completed."""
    from speechft.tasks import TASKS

    before, comma, last = incomplete.rpartition(",")
    given = before.split(",")
    names = [] if comma else ["all", "available"]
    names += [name for name in TASKS if name not in given]
    return [f"{before}{comma}{name}" for name in names if name.startswith(last)]
