"""What is said for the SUPERB tasks: commands with slots, keywords, searches, other languages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

EMOTIONS = {"neutral": "neu", "lively": "hap", "hurried": "ang", "monotone": "sad"}
"""Speaking styles that stand for the four emotions of SUPERB."""

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
OTHER_WORDS = (
    "bed bird cat dog eight five four happy house marvin nine one seven sheila six three tree two "
    "wow zero"
).split()
"""Words of Speech Commands that are no keywords."""

ACTIONS = {
    "activate": ("start", "switch on"),
    "deactivate": ("stop", "switch off"),
    "increase": ("raise", "turn up"),
    "decrease": ("lower", "turn down"),
    "bring": ("bring", "fetch"),
}
OBJECTS = ("lamp", "heating", "music", "fan", "radio", "kettle")
LOCATIONS = ("kitchen", "bedroom", "garden", "office")
PERSONS = ("anna", "robert", "maria", "peter smith", "julia", "tom baker", "nina", "oscar")
TIMES = ("at seven", "at half past nine", "tomorrow", "on monday morning", "tonight", "at noon")
_COMMANDS = (
    ("{person}", "{action}", "the", "{object}", "in", "the", "{location}", "{time}"),
    ("please", "{action}", "the", "{object}", "of", "{person}", "{time}", "{location?}"),
    ("{time}", "{action}", "the", "{location}", "{object}"),
    ("could", "{person}", "{action}", "the", "{object}", "in", "the", "{location}"),
)

_SHORT_COMMANDS = (
    ("{action}", "the", "{object}"),
    ("{action}", "the", "{object}", "in", "the", "{location}"),
    ("{action}", "the", "{location}", "{object}"),
    ("please", "{action}", "the", "{location}", "{object}"),
)

NOUNS = (
    "apple bridge castle dancer engine flower garden hammer island jacket kitchen ladder monkey "
    "needle orange pepper quilt river soldier temple"
).split()
_SENTENCES = (
    "the {0} is behind the {1}",
    "every {0} needs a {1}",
    "we saw a {0} and a {1}",
    "near the old {0} there was a {1}",
)

WORDS = {
    "de": "eins zwei drei vier fünf sechs sieben acht neun zehn".split(),
    "es": "uno dos tres cuatro cinco seis siete ocho nueve diez".split(),
    "fr": "un deux trois quatre cinq six sept huit neuf dix".split(),
    "it": "uno due tre quattro cinque sei sette otto nove dieci".split(),
    "cmn": "一 二 三 四 五 六 七 八 九 十".split(),
}
"""One to ten, by espeak's code of the language."""
PINYIN = dict(zip(WORDS["cmn"], "yi1 er4 san1 si4 wu3 liu4 qi1 ba1 jiu3 shi2".split(), strict=True))


@dataclass(frozen=True)
class Line:
    """A text and what is known about it."""

    text: str
    language: str = "en"
    labels: dict[str, str] = field(default_factory=dict)


def command(rng: np.random.Generator, *, short: bool = False) -> Line:
    """Draw a command: its slots in IOB, aligned with its words, and its intent.

    The intent is action, object and location; the location is ``none`` where it is not said.

    Args:
        rng: Where draws come from.
        short: Say the intent and hardly anything else, as in Fluent Speech Commands.
    """
    templates = _SHORT_COMMANDS if short else _COMMANDS
    chosen = {
        "action": str(rng.choice(list(ACTIONS))),
        "object": str(rng.choice(OBJECTS)),
        "location": str(rng.choice(LOCATIONS)),
        "person": str(rng.choice(PERSONS)),
        "time": str(rng.choice(TIMES)),
    }
    words: list[str] = []
    slots: list[str] = []
    said = set()
    for part in templates[int(rng.integers(len(templates)))]:
        kind = part.strip("{?}")
        if part.endswith("?}"):
            continue
        if not part.startswith("{"):
            words.append(part)
            slots.append("O")
            continue
        said.add(kind)
        value = str(rng.choice(ACTIONS[chosen[kind]])) if kind == "action" else chosen[kind]
        tokens = value.split()
        words += tokens
        slots += [f"{'B' if n == 0 else 'I'}-{kind}" for n in range(len(tokens))]
    location = chosen["location"] if "location" in said else "none"
    intent = "/".join((chosen["action"], chosen["object"], location))
    return Line(" ".join(words), labels={"slots": " ".join(slots), "intent": intent})


def keyword(index: int, rng: np.random.Generator) -> Line:
    """Return a keyword, or another word every eleventh time, in turn."""
    place = index % (len(KEYWORDS) + 1)
    if place < len(KEYWORDS):
        word = KEYWORDS[place]
        return Line(word, labels={"keyword": word, "word": word})
    word = str(rng.choice(OTHER_WORDS))
    return Line(word, labels={"keyword": "_unknown_", "word": word})


def sentence(rng: np.random.Generator) -> Line:
    """Draw a sentence with two nouns that queries may look for."""
    first, second = rng.choice(len(NOUNS), 2, replace=False)
    template = _SENTENCES[int(rng.integers(len(_SENTENCES)))]
    return Line(template.format(NOUNS[first], NOUNS[second]))


def query(part: Literal["dev", "test"], index: int) -> Line:
    """Return a noun of one half of them, in turn: dev and test search for different ones."""
    half = NOUNS[part == "test" :: 2]
    return Line(half[index % len(half)])


def counting(index: int, rng: np.random.Generator) -> Line:
    """Draw three to six numbers in one of the languages, in turn."""
    language = list(WORDS)[index % len(WORDS)]
    words: Sequence[str] = rng.choice(WORDS[language], int(rng.integers(3, 7))).tolist()
    code = "zh" if language == "cmn" else language
    labels = {"language": code, "label": code}
    if language == "cmn":
        labels["pinyin"] = " ".join(PINYIN[word] for word in words)
    text = ("" if language == "cmn" else " ").join(words)
    return Line(text, language, labels)
