"""SUPERB's ten tasks in miniature on the embedded corpus, derived from its alignments.

Keywords and spoken queries are words cut out of commands, recordings for diarisation two commands
of different speakers that overlap, emotions the speaking styles, slots the parts of the intent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from speechft.checkpoint import json_digest, write_text
from speechft.console import progress_bar
from speechft.data.acoustics import SAMPLE_RATE
from speechft.data.batching import seed_of
from speechft.data.corpora import cache_folder, find_corpus
from speechft.data.labels import label_of, phones_of
from speechft.data.manifest import Corpus, Utterance, load_waveform, open_corpus, write_corpus
from speechft.runs import stage
from speechft.tasks.verification import drawn_trials

if TYPE_CHECKING:
    from lhotse.cut import Cut

NAME = "synthetic-superb"
_VERSION = 1
_BASE = "synthetic"
_SPLITS = ("train", "dev", "dev-unseen", "test", "test-unseen")
_PARTS = {"train": "train", "dev": "dev-unseen", "test": "test-unseen"}
_FOLDS = 5
_PRONUNCIATIONS = {
    "lamp": "L AE M P",
    "music": "M Y UW Z IH K",
    "kitchen": "K IH CH AH N",
    "radio": "R EY D IH Y OW",
    "curtains": "K ER T AH N Z",
    "heating": "HH IY T IH NG",
    "garden": "G AA D AH N",
    "office": "AA F IH S",
    "bedroom": "B EH D R UW M",
}
_MIXTURES = {"train": 120, "dev": 24, "test": 60}
_QUERIES = {"dev": 12, "test": 24}
_DOCUMENTS = 120

Wave = npt.NDArray[np.float32]


def open_evaluation_corpus(name: str, work_folder: Path) -> Corpus:
    """Open a corpus as `find_corpus` does, or make the miniature of all ten tasks."""
    if name != NAME:
        return find_corpus(name, work_folder)
    base = find_corpus(_BASE, work_folder)
    key = json_digest({"base": base.digest, "version": _VERSION})
    folder = cache_folder() / f"{NAME}-{key[:12]}"
    with stage(folder, name="corpus", config={"version": _VERSION}, inputs={"base": key}) as work:
        if not work.done:
            _Maker(base, work.scratch, folder).write(key)
    return open_corpus(folder)


class _Maker:
    """Derives all splits, and writes the audio that is cut or mixed.

    Args:
        base: The embedded corpus.
        scratch: Where files are written now.
        folder: Where they will be.
    """

    def __init__(self, base: Corpus, scratch: Path, folder: Path) -> None:
        self._scratch, self._folder = scratch, folder
        self._cuts = {split: list(base.split(split)) for split in _SPLITS}
        self._info = base.info

    def write(self, digest: str) -> None:
        """Write manifests, audio, trials and query pairs."""
        splits: dict[str, list[Utterance]] = {
            split: [_whole(cut) for cut in cuts] for split, cuts in self._cuts.items()
        }
        makers: list[Callable[[], Mapping[str, list[Utterance]]]] = [
            self._keywords,
            self._mixtures,
            self._folds,
            self._queries,
        ]
        with progress_bar("deriving SUPERB's tasks", len(makers)) as bar:
            for make in makers:
                splits |= make()
                bar.advance(1)
        trials = drawn_trials(self._cuts["test-unseen"], limit=2000)
        lines = (f"{int(same)} {first} {second}\n" for same, first, second in trials)
        write_text(self._scratch / "trials.txt", "".join(lines))
        folds = [[f"er{n}-{part}" for part in _PARTS] for n in range(1, _FOLDS + 1)]
        info = {
            "licence": self._info.get("licence", ""),
            "task_splits": {
                **self._info["task_splits"],
                "ks": ["ks-train", "ks-dev", "ks-test"],
                "sd": ["sd-train", "sd-dev", "sd-test"],
                "er": folds[0],
                "qbe": ["qbe-documents", "qbe-dev", "qbe-test"],
            },
            "folds": {"er": folds},
            "trials": {"test-unseen": "trials.txt"},
            "qbe": "qbe.tsv",
        }
        write_corpus(self._scratch, NAME, digest, splits, info)

    def _keywords(self) -> dict[str, list[Utterance]]:
        """Return words cut out of commands, with what is around them up to a second."""
        splits: dict[str, list[Utterance]] = {}
        for part, source in _PARTS.items():
            kept = splits[f"ks-{part}"] = []
            for cut, word, start, end in _spoken_words(self._cuts[source]):
                around = max(0.0, (0.9 - (end - start)) / 2)
                wave = _between(load_waveform(cut), start - around, end + around)
                kept.append(self._new(f"ks-{cut.id}-{word}", wave, cut, keyword=word))
        return splits

    def _mixtures(self) -> dict[str, list[Utterance]]:
        """Return pairs of commands, the second beginning before the first has ended."""
        splits: dict[str, list[Utterance]] = {}
        for part, source in _PARTS.items():
            cuts, kept = self._cuts[source], splits.setdefault(f"sd-{part}", [])
            for number in range(_MIXTURES[part]):
                rng = np.random.default_rng(seed_of("mixture", part, number) % 2**63)
                first = cuts[int(rng.integers(len(cuts)))]
                others = [c for c in cuts if _speaker(c) != _speaker(first)]
                second = others[int(rng.integers(len(others)))]
                waves = [load_waveform(cut) for cut in (first, second)]
                start = max(0, len(waves[0]) - int(rng.uniform(-0.3, 1.0) * SAMPLE_RATE))
                mixed = np.zeros(max(len(waves[0]), start + len(waves[1])), dtype=np.float32)
                mixed[: len(waves[0])] += waves[0]
                mixed[start : start + len(waves[1])] += waves[1]
                offsets = (0.0, start / SAMPLE_RATE)
                turns = [_turn(c, o) for c, o in zip((first, second), offsets, strict=True)]
                name = f"sd-{part}-{number:03d}"
                peak = max(1.0, float(np.abs(mixed).max()))
                kept.append(self._new(name, mixed / peak, None, turns=json.dumps(turns)))
        return splits

    def _folds(self) -> dict[str, list[Utterance]]:
        """Return five folds by speaker, a fifth of the other speakers for dev."""
        cuts = [cut for source in _PARTS.values() for cut in self._cuts[source]]
        speakers = sorted({_speaker(cut) for cut in cuts})
        splits: dict[str, list[Utterance]] = {}
        for fold in range(_FOLDS):
            rest = [s for n, s in enumerate(speakers) if n % _FOLDS != fold]
            dev = set(rest[::_FOLDS])
            named = dict.fromkeys(speakers, "test") | {
                speaker: "dev" if speaker in dev else "train" for speaker in rest
            }
            for part in _PARTS:
                chosen = [cut for cut in cuts if named[_speaker(cut)] == part]
                splits[f"er{fold + 1}-{part}"] = [_whole(cut) for cut in chosen]
        return splits

    def _queries(self) -> dict[str, list[Utterance]]:
        """Return documents and queries, and write which query occurs in which document."""
        documents = self._cuts["test-unseen"][:_DOCUMENTS]
        splits = {"qbe-documents": [_whole(cut) for cut in documents]}
        lines: list[str] = []
        for part, source in (("dev", "dev-unseen"), ("test", "train")):
            found = list(_spoken_words(self._cuts[source]))
            step = max(1, len(found) // _QUERIES[part])
            kept = splits[f"qbe-{part}"] = []
            for cut, word, start, end in found[::step][: _QUERIES[part]]:
                wave = _between(load_waveform(cut), start, end)
                name = f"qbe-{part}-{cut.id}-{word}"
                kept.append(self._new(name, wave, cut))
                lines += [f"{name}\t{d.id}\t{int(word in _words(d))}\n" for d in documents]
        write_text(self._scratch / "qbe.tsv", "".join(lines))
        return splits

    def _new(self, name: str, wave: Wave, like: Cut | None, **labels: str) -> Utterance:
        import soundfile

        path = Path("audio") / f"{name}.wav"
        (self._scratch / "audio").mkdir(exist_ok=True)
        soundfile.write(self._scratch / path, wave, SAMPLE_RATE, subtype="PCM_16")
        speaker = None if like is None else _speaker(like)
        return Utterance(name, str(path), len(wave), speaker=speaker, labels=labels)


def _whole(cut: Cut) -> Utterance:
    """Return an utterance of the base corpus with the labels that the ten tasks need."""
    supervision = cut.supervisions[0]
    text = label_of(cut, "text") or ""
    custom: dict[str, Any] = dict(supervision.custom or {})
    labels = {str(k): str(v) for k, v in custom.items() if k != "sha256"}
    labels |= {"emotion": labels["style"], "slots": " ".join(_slots(text, labels["intent"]))}
    return Utterance(
        id=cut.id,
        path=str(cut.recording.sources[0].source),
        samples=cut.num_samples,
        text=" ".join(_words(cut)).upper(),
        speaker=supervision.speaker,
        phones=phones_of(cut),
        labels=labels,
        sha256=custom.get("sha256"),
    )


def _slots(text: str, intent: str) -> Iterator[str]:
    _, thing, location = intent.split("/")
    for word in _bare(text):
        yield "object" if word == thing else "location" if word == location else "O"


def _spoken_words(cuts: Sequence[Cut]) -> Iterator[tuple[Cut, str, float, float]]:
    """Yield the known words of utterances with the times of their phones."""
    for cut in cuts:
        phones = phones_of(cut)
        symbols = [phone for phone, _, _ in phones]
        for word in dict.fromkeys(_words(cut)):
            wanted = _PRONUNCIATIONS.get(word, "").split()
            for first in range(len(symbols) - len(wanted) + 1 if wanted else 0):
                if symbols[first : first + len(wanted)] == wanted:
                    yield cut, word, phones[first][1], phones[first + len(wanted) - 1][2]
                    break


def _turn(cut: Cut, offset: float) -> tuple[str, float, float]:
    """Return when somebody speaks, without the silence around."""
    spoken = [(a, b) for phone, a, b in phones_of(cut) if phone != "SIL"]
    return _speaker(cut), round(spoken[0][0] + offset, 3), round(spoken[-1][1] + offset, 3)


def _between(wave: Wave, start: float, end: float) -> Wave:
    return wave[max(0, int(start * SAMPLE_RATE)) : int(end * SAMPLE_RATE)]


def _speaker(cut: Cut) -> str:
    return str(cut.supervisions[0].speaker)


def _words(cut: Cut) -> list[str]:
    return _bare(label_of(cut, "text") or "")


def _bare(text: str) -> list[str]:
    return re.sub(r"[^a-z' ]", " ", text.lower()).split()
