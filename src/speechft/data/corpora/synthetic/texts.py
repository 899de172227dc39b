"""What the synthetic speakers say: free sentences, commands with intent slots, pseudo-words.

Words and sentence templates are partitioned into sets so that pre-training, fine-tuning, probe
training and test never share a template, nor a content word outside the command vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

TextSet = Literal["pretrain", "tune", "train", "test"]
_SETS: tuple[TextSet, ...] = ("pretrain", "tune", "train", "test")

_LEXICON_SIZE = 4_000

_NAMES = """
Oliver Amelia Harry Isla George Ava Noah Mia Jack Ivy Leo Lily Arthur Rosie Oscar Sophia Henry
Grace Archie Willow Thomas Freya Charlie Florence Jacob Emily Theo Ella James Poppy Alfie Evie
Edward Charlotte Max Evelyn Logan Daisy Lucas Sienna Daniel Hannah Joseph Ruby Samuel Alice Adam
Phoebe Reuben Matilda Felix Harper Hugo Clara Martin Nora Victor Edith Simon Julia Peter Susan
Walter Irene
""".split()

_NOUNS = """
river mountain paper window teacher engine bottle doctor market station village planet basket
feather carpet dragon forest island jacket kettle ladder magnet needle orange pencil rabbit saddle
ticket umbrella valley wagon yellow zebra anchor bridge candle desert eagle farmer glove harbour
insect jungle knight lemon mirror nurse ocean palace queen robot shadow tower uncle violin whistle
author branch coffee dinner empire finger guitar hammer idea journal king letter monkey number
officer picture question road soldier temple uniform voyage winter yard bread cloud dream earth
flower ghost horse judge kitten leather mouse night owl potato quarter ring stone table universe
vase wheel artist butter cotton danger energy fabric golden helmet iron jewel kingdom lawyer metal
novel onion pepper ribbon silver thunder velvet weather angle bishop castle dancer evening fashion
goose hotel
""".split()

_VERBS = """
carries follows watches paints measures collects answers borrows delivers examines finishes
gathers hides imagines joins kicks loves mentions notices offers pushes questions repairs sells
touches uses visits washes breaks chooses draws explains forgets guards helps invents judges keeps
leaves makes needs orders pulls remembers steals teaches understands values wants begs catches
discovers
""".split()

_ADJECTIVES = """
ancient broken careful distant empty foreign gentle hollow icy jolly little modern narrow open
patient quiet rusty simple tiny ugly vast wooden young bitter clever dusty eager famous grey heavy
innocent lucky magic nervous odd purple rapid sharp tall useful violent warm angry brave curious
deep electric
""".split()

_LINKS = "the a this that every another our your their some".split()
_PREPOSITIONS = "near behind under above without beside before after across around".split()

ACTIONS = {
    "activate": ("start", "switch on"),
    "increase": ("raise", "turn up"),
    "bring": ("bring", "fetch"),
    "clean": ("clean", "wash"),
}
OBJECTS = ("lamp", "heating", "music", "curtains")
LOCATIONS = ("kitchen", "bedroom", "office")

_COMMANDS: dict[str, tuple[str, ...]] = {
    "train": (
        "{name}, {verb} the {object} in the {location}.",
        "Please {verb} the {location} {object}, {name}.",
        "{verb} the {object} in the {location} and the {noun}.",
        "Now {verb} my {object} in the {adjective} {location}.",
    ),
    "test": (
        "In the {location}, {name} can {verb} the {object}.",
        "You should {verb} that {object} of the {location}.",
        "Will you {verb} the {adjective} {location} {object}?",
        "Your {noun}: {verb} this {object}, {location}.",
    ),
}

_SENTENCES: dict[str, tuple[str, ...]] = {
    "tune": (
        "{link} {adjective} {noun} {verb} {link2} {noun2}.",
        "{name} {verb} {link} {noun} {preposition} {link2} {noun2}.",
        "When {name} {verb} {link} {adjective} {noun}, {name2} {verb2}.",
    ),
}

_ONSETS = """
b d f g h k l m n p r s t v w y sh ch th br dr fl gr kl pl pr sk sl sp st tr
""".split()
_NUCLEI = "a e i o u ai ee oa oo ou ar or er".split()
_CODAS = ["", "", "", *"b d g k l m n p s t v z sh ng nd nt st rk".split()]

_COMMAND_WORDS = (
    *(word for phrases in ACTIONS.values() for phrase in phrases for word in phrase.split()),
    *OBJECTS,
    *LOCATIONS,
)
_REAL_WORDS = frozenset(
    word.lower()
    for words in (_NAMES, _NOUNS, _VERBS, _ADJECTIVES, _LINKS, _PREPOSITIONS, _COMMAND_WORDS)
    for word in words
)


@dataclass(frozen=True)
class Text:
    """A sentence and, for a command, its intent."""

    words: str
    intent: tuple[str, str, str] | None = None
    """Action, object and location."""


def word_set(words: list[str], name: TextSet) -> list[str]:
    """Return the part of a word list that belongs to one text set."""
    return words[_SETS.index(name) :: len(_SETS)]


def make_text(kind: str, name: TextSet, rng: np.random.Generator) -> Text:
    """Draw a text.

    Args:
        kind: ``command``, ``sentence`` or ``words`` (words of a large lexicon with Zipf
            frequencies, a fifth of them made up on the spot) or ``pseudo`` (pseudo-words only, for
            other languages).
        name: The text set.
        rng: Source of all draws.
    """
    if kind == "command":
        return _command(name, rng)
    if kind == "sentence":
        return Text(_fill(_pick(_SENTENCES[name], rng), name, rng))
    return Text(_word_list(name, rng, pseudo_share=1.0 if kind == "pseudo" else 0.2))


def _command(name: TextSet, rng: np.random.Generator) -> Text:
    action = _pick(tuple(ACTIONS), rng)
    thing, location = _pick(OBJECTS, rng), _pick(LOCATIONS, rng)
    template = _pick(_COMMANDS[name], rng)
    template = template.replace("{verb}", _pick(ACTIONS[action], rng))
    template = template.replace("{object}", thing).replace("{location}", location)
    return Text(_fill(template, name, rng), (action, thing, location))


def _fill(template: str, name: TextSet, rng: np.random.Generator) -> str:
    slots = {
        "name": word_set(_NAMES, name),
        "noun": word_set(_NOUNS, name),
        "verb": word_set(_VERBS, name),
        "adjective": word_set(_ADJECTIVES, name),
        "link": _LINKS,
        "preposition": _PREPOSITIONS,
    }
    drawn = {
        f"{slot}{suffix}": _pick(words, rng)
        for slot, words in slots.items()
        for suffix in ("", "2")
    }
    text = template.format(**drawn)
    return text[0].upper() + text[1:]


def _word_list(name: TextSet, rng: np.random.Generator, pseudo_share: float) -> str:
    words, cumulative = lexicon(name)
    chosen = []
    for _ in range(int(rng.integers(5, 14))):
        if rng.random() < pseudo_share:
            chosen.append(pseudo_word(rng))
        else:
            chosen.append(words[int(np.searchsorted(cumulative, rng.random()))])
        if rng.random() < 0.08:
            chosen[-1] += ","
    return " ".join(chosen).capitalize() + "."


@cache
def lexicon(name: TextSet) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
    """Return a text set's words, common ones first, and their cumulative frequencies.

    A fixed lexicon of 4,000 words, mostly invented ones, short ones in front, with the
    frequencies of Zipf and Mandelbrot: that of rank r is proportional to 1 / (r + 2.7).
    """
    rng = np.random.default_rng([17, _SETS.index(name)])
    content = [w for words in (_NOUNS, _VERBS, _ADJECTIVES, _NAMES) for w in word_set(words, name)]
    invented = [pseudo_word(rng) for _ in range(_LEXICON_SIZE - len(content) - len(_LINKS))]
    rest = sorted([*content, *invented], key=lambda word: len(word) + rng.normal(0.0, 2.0))
    words = (*_LINKS, *rest)
    cumulative = np.cumsum(1.0 / (np.arange(1, len(words) + 1) + 2.7))
    return words, cumulative / cumulative[-1]


def pseudo_word(rng: np.random.Generator) -> str:
    """Draw a word of one to four syllables that follows English spelling and is none of ours."""
    while True:
        syllables = int(rng.choice([1, 2, 2, 3, 3, 4]))
        word = "".join(
            _pick(_ONSETS, rng) + _pick(_NUCLEI, rng) + _pick(_CODAS, rng) for _ in range(syllables)
        )
        if word not in _REAL_WORDS:
            return word


def _pick(choices: tuple[str, ...] | list[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
