"""CREMA-D: six emotions by 91 actors; there is no official split."""

from __future__ import annotations

import re
from pathlib import Path

from speechft.data.corpora.base import Card, Draft, Scan, need
from speechft.data.issues import Issue
from speechft.errors import ConfigError

CARD = Card(
    name="crema-d",
    title="CREMA-D: twelve sentences in six acted emotions",
    root="the repository CREMA-D with AudioWAV",
    licence="Open Database License 1.0",
    hours="5 h",
    splits="train, dev, test by actor (no official split), or five folds",
    tasks=("er", "sid"),
    source="github.com/CheyneyComputerScience/CREMA-D (git lfs pull)",
)

EMOTIONS = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
SENTENCES = {
    "IEO": "It's eleven o'clock",
    "TIE": "That is exactly what happened",
    "IOM": "I'm on my way to the meeting",
    "IWW": "I wonder what this is about",
    "TAI": "The airplane is almost full",
    "MTI": "Maybe tomorrow it will be cold",
    "IWL": "I would like a new alarm clock",
    "ITH": "I think I have a doctor's appointment",
    "DFA": "Don't forget a jacket",
    "ITS": "I think I've seen this before",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
_NAME = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_([A-Z]{2})")
_OFFICIAL = 7_442
_DEV_SHARE, _TEST_SHARE = 0.1, 0.2


def scan(root: Path, *, seed: int = 0, folds: int = 0) -> Scan:
    """List ``AudioWAV/ACTOR_SENTENCE_EMOTION_LEVEL.wav`` and split by actor.

    Args:
        root: The repository.
        seed: Of the order of actors.
        folds: 0 for one split of 70, 10 and 20 % of the actors; otherwise so many folds, each
            with its own test actors.

    Raises:
        ConfigError: Fewer than two folds.
        DataError: This is not CREMA-D.
    """
    import numpy as np  # here: `speechft corpora` needs only the card

    if folds < 0 or folds == 1:
        raise ConfigError(f"folds={folds} is not 0 or at least 2")
    folder = need(root, "AudioWAV", what=CARD.root)
    result = Scan({})
    drafts = []
    for path in sorted(folder.glob("*.wav")):
        match = _NAME.fullmatch(path.stem)
        if match is None or match[2] not in SENTENCES or match[3] not in EMOTIONS:
            problem = "its name is not ACTOR_SENTENCE_EMOTION_LEVEL"
            result.issues.append(Issue("bad-label", problem, str(path), path.stem))
            continue
        labels = {"emotion": EMOTIONS[match[3]], "level": match[4].lower()}
        drafts.append(Draft(path.stem, path, SENTENCES[match[2]], match[1], labels=labels))
    actors = sorted({draft.speaker for draft in drafts if draft.speaker})
    order = [actors[i] for i in np.random.default_rng(seed).permutation(len(actors))]
    found = len(drafts) + len(result.issues)
    notes = [f"{found} of {_OFFICIAL} clips"] if found != _OFFICIAL else []
    result.info = {"notes": [*notes, f"split by actor with seed {seed}"]}
    if not folds:
        test = order[: max(1, round(_TEST_SHARE * len(order)))]
        rest = [actor for actor in order if actor not in test]
        _split(result, drafts, rest, set(test), ("train", "dev", "test"))
        return result
    triples = []
    for number in range(folds):
        test = order[number::folds]
        names = tuple(f"fold{number + 1}-{part}" for part in ("train", "dev", "test"))
        _split(result, drafts, [a for a in order if a not in test], set(test), names)
        triples.append(names)
    result.info |= {
        "folds": {"er": triples},
        "task_splits": {"*": triples[0], "er": triples[0]},
        "tuning_splits": triples[0][:2],
    }
    return result


def _split(
    result: Scan, drafts: list[Draft], rest: list[str], test: set[str], names: tuple[str, ...]
) -> None:
    dev = set(rest[: max(1, round(_DEV_SHARE * (len(rest) + len(test))))])
    train = set(rest) - dev
    for name, actors in zip(names, (train, dev, test), strict=True):
        result.splits[name] = [draft for draft in drafts if draft.speaker in actors]
    result.disjoint += (names,)
