"""The embedded corpus with labels for all SUPERB tasks; imitations of archives are made from it.

Splits ``train``, ``dev`` and ``test`` hold commands by speakers that share nothing (phones, text,
slots, intents, emotions); ``ic-*`` shorter commands for intents; ``sid-*`` the speakers of train
once more; ``ks-*`` keywords, other words and silence; ``sd-*`` mixtures of two speakers with their
turns; ``documents`` and ``*-queries`` what query by example needs; ``languages-*`` numbers in five
languages. Verification trials are drawn over test.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from speechft.config import Config
from speechft.data.acoustics import SAMPLE_RATE, add_noise, set_level
from speechft.data.corpora.synthetic import material_texts as texts
from speechft.data.corpora.synthetic.espeak import variants
from speechft.data.corpora.synthetic.voices import Speaker, VoicePool, make_speakers, prosody
from speechft.data.manifest import Corpus, open_corpus, write_corpus
from speechft.data.utterances import Utterance
from speechft.runs import stage
from speechft.storage.files import json_digest, write_text

VERSION = 3
"""Raised whenever the same spec would give other audio or lists."""

_SHARD = 100
_SPEECH_DB = -40.0
"""Level below the peak, in dB, from which a sample at the edge of a line counts as speech."""


class MaterialSpec(Config):
    """Sizes of the parts; each field with three numbers is train, dev and test."""

    name: str = "synthetic-archives"
    """Name of the corpus."""
    seed: int = 11
    """Seed of every draw."""
    speakers: tuple[int, int, int] = (16, 6, 10)
    """Speakers of the commands, by split."""
    commands: tuple[int, int, int] = (400, 96, 200)
    """Commands with slots, intents and emotions."""
    intents: tuple[int, int, int] = (600, 96, 200)
    """Short commands for intents."""
    same_speakers: tuple[int, int] = (96, 200)
    """Commands by the speakers of train, for dev and test of speaker identification."""
    keywords: tuple[int, int, int] = (240, 66, 132)
    """Keywords and other words; an eleventh of it is added as silence."""
    mixtures: tuple[int, int, int] = (48, 16, 24)
    """Mixtures of two speakers."""
    documents: int = 60
    """Sentences to search in."""
    queries: tuple[int, int] = (20, 20)
    """Spoken nouns to search for, dev and test; no noun is in both."""
    languages: tuple[int, int, int] = (100, 25, 50)
    """Numbers in German, Spanish, French, Italian and Mandarin."""

    def digest(self) -> str:
        """Return the digest of spec and version."""
        return json_digest({"material": VERSION, "spec": self.as_dict()})


MATERIAL = MaterialSpec()

TASK_SPLITS = {
    "*": ("train", "dev", "test"),
    "ic": ("ic-train", "ic-dev", "ic-test"),
    "sid": ("train", "sid-dev", "sid-test"),
    "ks": ("ks-train", "ks-dev", "ks-test"),
    "sd": ("sd-train", "sd-dev", "sd-test"),
    "qbe": ("documents", "dev-queries", "test-queries"),
    "label": ("languages-train", "languages-dev", "languages-test"),
}
_POOLS: tuple[VoicePool, ...] = ("seen", "unseen-dev", "unseen-test")
_PARTS = ("train", "dev", "test")

Run = Callable[[list[dict[str, Any]], int], None]
"""Runs jobs in processes of their own, so many at a time."""


def prepare(spec: MaterialSpec, folder: Path, run: Run, processes: int = 2) -> Corpus:
    """Speak, mix and label the corpus into ``folder`` unless it is there already.

    Args:
        spec: How much of what.
        folder: Where it goes.
        run: How jobs are run.
        processes: Worker processes at a time.

    Raises:
        DataError: espeak-ng is not installed, or a worker failed.
        RunError: The folder is in use, or the disk is full.
    """
    inputs = {"spec": spec.digest()}
    with stage(folder, name="corpus", config=spec.as_dict(), inputs=inputs) as work:
        if not work.done:
            lines = _lines(spec)
            run(list(_jobs(lines, work.scratch)), processes)
            spoken = read_spoken(work.scratch)
            splits = {name: items for name, items in spoken.items() if name[:6] != "voices"}
            for number, part in enumerate(_PARTS):
                quiet = _silences(spec, number, work.scratch)
                splits.setdefault(f"ks-{part}", []).extend(quiet)
                voices = spoken.get(f"voices-{part}", [])
                splits[f"sd-{part}"] = _mixtures(spec, number, voices, work.scratch)
            splits = {name: items for name, items in splits.items() if items}
            info = _info(splits, work.scratch)
            write_corpus(work.scratch, spec.name, spec.digest(), splits, info)
    return open_corpus(folder)


def _info(splits: Mapping[str, list[Utterance]], folder: Path) -> dict[str, Any]:
    write_text(folder / "trials.txt", "".join(f"{line}\n" for line in _trials(splits["test"])))
    write_text(folder / "qbe.tsv", "".join(f"{line}\n" for line in _searches(splits)))
    return {
        "licence": "generated speech, no rights reserved; made with espeak-ng (GPL-3 program)",
        "task_splits": TASK_SPLITS,
        "trials": "trials.txt",
        "qbe": "qbe.tsv",
        "files": ["qbe.tsv", "trials.txt"],
    }


def _rng(*parts: object) -> np.random.Generator:
    text = "/".join(map(str, parts))
    return np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))


def _lines(spec: MaterialSpec) -> list[dict[str, Any]]:
    """Return every line to be spoken: its text, voice and prosody for `speak`, and its labels."""
    known = variants()
    voices = [make_speakers(pool, n, known) for pool, n in zip(_POOLS, spec.speakers, strict=True)]
    result = []
    for number, part in enumerate(_PARTS):
        people = voices[number]
        plans: dict[str, tuple[int, Any]] = {
            part: (spec.commands[number], lambda _, rng: texts.command(rng)),
            f"ic-{part}": (spec.intents[number], lambda _, rng: texts.command(rng, short=True)),
            f"ks-{part}": (spec.keywords[number], texts.keyword),
            f"voices-{part}": (4 * spec.mixtures[number], lambda _, rng: texts.sentence(rng)),
            f"languages-{part}": (spec.languages[number], texts.counting),
        }
        for name, (count, draw) in plans.items():
            result += _part(spec, name, count, people, draw)
    for name, count in zip(("sid-dev", "sid-test"), spec.same_speakers, strict=True):
        result += _part(spec, name, count, voices[0], lambda _, rng: texts.command(rng))
    result += _part(
        spec, "documents", spec.documents, voices[2], lambda _, rng: texts.sentence(rng)
    )
    for part, count in zip(("dev", "test"), spec.queries, strict=True):
        result += _part(spec, f"{part}-queries", count, voices[1], partial(_query, part))
    return result


def _query(part: Any, index: int, _: np.random.Generator) -> texts.Line:
    return texts.query(part, index)


def _part(
    spec: MaterialSpec, name: str, count: int, people: list[Speaker], draw: Any
) -> list[dict[str, Any]]:
    lines = []
    for index in range(count):
        rng = _rng(spec.seed, name, index)
        line: texts.Line = draw(index, rng)
        # speakers advance after a round of texts too, so that neither tells the other
        speaker = people[(index + index // len(people) // 7) % len(people)]
        style = str(rng.choice(list(texts.EMOTIONS)))
        english = line.language == "en"
        accent = speaker.accent if english else line.language
        labels = {"style": style, "language": "en", **line.labels}
        if name in (*_PARTS, "sid-dev", "sid-test"):
            labels["emotion"] = texts.EMOTIONS[style]
        lines.append(
            {
                "id": f"{name}-{index:05d}",
                "split": name,
                "text": line.text,
                "voice": f"{accent}+{speaker.variant}",
                "prosody": vars(prosody(speaker, style, rng)),
                "warp": speaker.warp,
                "seed": int(rng.integers(2**63)),
                "noise": not name.startswith("voices"),
                "aligned": english,
                "speaker": speaker.name,
                "labels": labels,
            }
        )
    return lines


def _jobs(lines: list[dict[str, Any]], folder: Path) -> Iterator[dict[str, Any]]:
    module = f"{__name__.rpartition('.')[0]}.speak"
    for first in range(0, len(lines), _SHARD):
        place = folder / "spoken" / f"shard-{first // _SHARD:04d}"
        yield {"module": module, "folder": str(place), "lines": lines[first : first + _SHARD]}


def read_spoken(folder: Path) -> dict[str, list[Utterance]]:
    """Return the utterances that `speak` wrote, by split."""
    splits: dict[str, list[Utterance]] = {}
    for shard in sorted((folder / "spoken").iterdir()):
        for text in (shard / "shard.jsonl").read_text().splitlines():
            line = json.loads(text)
            item = Utterance(
                id=line["id"],
                path=f"spoken/{shard.name}/{line['id']}.wav",
                samples=line["samples"],
                text=line["text"],
                speaker=line["speaker"],
                phones=[tuple(phone) for phone in line["phones"]],
                labels=line["labels"],
                sha256=line["sha256"],
            )
            splits.setdefault(line["split"], []).append(item)
    return splits


def _write(folder: Path, split: str, name: str, waveform: Any) -> Utterance:
    """Write a waveform that was mixed or made here; return its utterance, without labels."""
    pcm = np.round(waveform * 32767.0).astype(np.int16)
    path = folder / split / f"{name}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, pcm, SAMPLE_RATE, subtype="PCM_16")
    digest = hashlib.sha256(pcm.tobytes()).hexdigest()
    return Utterance(name, f"{split}/{name}.wav", len(pcm), sha256=digest)


def _silences(spec: MaterialSpec, number: int, folder: Path) -> Iterator[Utterance]:
    """Yield seconds of faint noise, as many as any keyword has recordings."""
    split = f"ks-{_PARTS[number]}"
    for index in range(spec.keywords[number] // (len(texts.KEYWORDS) + 1)):
        rng = _rng(spec.seed, split, "silence", index)
        noise = add_noise(np.zeros(SAMPLE_RATE, np.float32), rng)
        made = _write(folder, split, f"{split}-silence-{index:04d}", set_level(noise, -55.0))
        yield _with(made, labels={"keyword": "_silence_", "word": "_silence_", "language": "en"})


def _mixtures(
    spec: MaterialSpec, number: int, spoken: list[Utterance], folder: Path
) -> list[Utterance]:
    """Mix two speakers who take turns twice, with pauses and overlaps; their times are known."""
    split = f"sd-{_PARTS[number]}"
    by_speaker: dict[str, list[Utterance]] = {}
    for item in spoken:
        by_speaker.setdefault(item.speaker or "", []).append(item)
    made = []
    for index in range(spec.mixtures[number]):
        rng = _rng(spec.seed, split, index)
        names = rng.choice(sorted(by_speaker), 2, replace=False).tolist()
        order = [names[0], names[1], names[0], names[1]]
        pieces, turns, end = [], [], 0.1
        for name in order:
            item = by_speaker[name][int(rng.integers(len(by_speaker[name])))]
            samples, _ = soundfile.read(folder / item.path, dtype="float32")
            start = max(0.0, end + rng.uniform(-0.5, 0.6))
            end = start + len(samples) / SAMPLE_RATE
            pieces.append((round(start * SAMPLE_RATE), samples))
            magnitude = np.abs(samples)
            loud = np.flatnonzero(magnitude > magnitude.max() * 10 ** (_SPEECH_DB / 20))
            edges = [round(start + at / SAMPLE_RATE, 3) for at in (loud[0], loud[-1] + 1)]
            turns.append([name, *map(float, edges)])
        mixture = np.zeros(max(at + len(samples) for at, samples in pieces), np.float32)
        for at, samples in pieces:
            mixture[at : at + len(samples)] += samples
        peak = float(np.abs(mixture).max())
        item = _write(folder, split, f"{split}-{index:04d}", mixture * min(1.0, 0.95 / peak))
        made.append(_with(item, labels={"turns": json.dumps(turns), "language": "en"}))
    return made


def _with(item: Utterance, labels: dict[str, str]) -> Utterance:
    return Utterance(item.id, item.path, item.samples, labels=labels, sha256=item.sha256)


def _trials(items: list[Utterance]) -> Iterator[str]:
    """Yield trials: neighbours of one speaker, and as many pairs of different speakers."""
    ordered = sorted(items, key=lambda item: (item.speaker or "", item.id))
    for first, second in itertools.pairwise(ordered):
        if first.speaker == second.speaker:
            yield f"1 {first.id} {second.id}"
    half = len(ordered) // 2
    for first, second in zip(ordered, ordered[half:], strict=False):
        if first.speaker != second.speaker:
            yield f"0 {first.id} {second.id}"


def _searches(splits: Mapping[str, list[Utterance]]) -> Iterator[str]:
    """Yield query, document and whether the document holds the word."""
    for split in ("dev-queries", "test-queries"):
        for query in splits[split]:
            for document in splits["documents"]:
                found = query.text in (document.text or "").split()
                yield f"{query.id}\t{document.id}\t{int(found)}"
