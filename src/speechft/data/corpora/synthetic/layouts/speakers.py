"""Layouts for speakers and emotions: VoxCeleb1, IEMOCAP, CREMA-D."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from speechft.data.corpora import crema_d as crema_d_corpus
from speechft.data.corpora.synthetic.layouts.spoken import (
    Spoken,
    by_speaker,
    numbers,
    write_audio,
    write_lines,
)

Splits = Mapping[str, Sequence[Spoken]]

_CODES = {"train": 1, "dev": 2, "test": 3}
_IEMOCAP = ("neu", "hap", "exc", "ang", "sad", "fru")
"""Emotions that are handed out in turn; recipes drop the last one."""
_CREMA_D = {"ang": "anger", "hap": "happy", "neu": "neutral", "sad": "sad"}
_LEVELS = ("XX", "LO", "MD", "HI")


def voxceleb1(root: Path, splits: Splits) -> None:
    """Write ``{dev,test}/wav/idXXXXX/video/n.wav``, ``iden_split.txt`` and ``veri_test2.txt``.

    A quarter of the speakers (at least two, where there are three) lie in ``test`` and make up
    the trials: neighbours of the same speaker, and of speakers next to each other.
    """
    known = numbers(splits, first=10_001)
    tested = sorted(known)[-max(2, len(known) // 4) :] if len(known) > 2 else []
    listing: list[str] = []
    trial_files: dict[str, list[str]] = {}
    for split, items in splits.items():
        for speaker, spoken in by_speaker(items).items():
            part = "test" if speaker in tested else "dev"
            for number, item in enumerate(spoken, 1):
                relative = f"id{known[speaker]}/video-{split}/{number:05d}.wav"
                write_audio(root / part / "wav" / relative, item.waveform)
                listing.append(f"{_CODES[split]} {relative}")
                if part == "test":
                    trial_files.setdefault(speaker, []).append(relative)
    write_lines(root / "iden_split.txt", listing)
    lines = []
    for index, (speaker, files) in enumerate(sorted(trial_files.items())):
        others = sorted(trial_files.items())[(index + 1) % len(trial_files)][1]
        for first, second in itertools.pairwise(files):
            lines.append(f"1 {first} {second}")
        if others is not trial_files[speaker]:
            lines += [f"0 {a} {b}" for a, b in zip(files, others, strict=False)]
    write_lines(root / "veri_test2.txt", lines)


def iemocap(root: Path, splits: Splits) -> None:
    """Write ``IEMOCAP_full_release/SessionN`` with waves, emotion labels and transcripts.

    Speakers become the two of each session in turn; the split of an utterance does not count.
    The label ``emotion`` is used where it is one of IEMOCAP's.
    """
    base = root / "IEMOCAP_full_release"
    items = [item for split in splits.values() for item in split]
    for number, (_, spoken) in enumerate(by_speaker(items).items()):
        session, gender = number // 2 % 5 + 1, "FM"[number % 2]
        folder = base / f"Session{session}"
        dialog = f"Ses{session:02d}{gender}_impro{number // 10 + 1:02d}"
        lines, texts, now = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""], [], 0.0
        for index, item in enumerate(spoken):
            name = f"{dialog}_{gender}{index:03d}"
            emotion = item.labels.get("emotion", "")
            label = emotion if emotion in _IEMOCAP else _IEMOCAP[index % len(_IEMOCAP)]
            end = now + item.seconds
            write_audio(folder / "sentences" / "wav" / dialog / f"{name}.wav", item.waveform)
            lines.append(f"[{now:.4f} - {end:.4f}]\t{name}\t{label}\t[2.5000, 2.5000, 2.5000]")
            lines += ["C-E1:\tNeutral;\t()", "A-E1:\tval 3; act 2; dom  2;\t()", ""]
            texts.append(f"{name} [{now:08.4f}-{end:08.4f}]: {item.text}")
            now = end
        write_lines(folder / "dialog" / "EmoEvaluation" / f"{dialog}.txt", lines)
        write_lines(folder / "dialog" / "transcriptions" / f"{dialog}.txt", texts)


def crema_d(root: Path, splits: Splits) -> None:
    """Write ``AudioWAV/ACTOR_SENTENCE_EMOTION_LEVEL.wav``.

    The label ``emotion`` is used where it is one of CREMA-D's; the sentence is the text's where it
    is one of the twelve. Both go in turn otherwise.
    """
    folder = root / "AudioWAV"
    codes = {text: code for code, text in crema_d_corpus.SENTENCES.items()}
    emotions = {name: code for code, name in crema_d_corpus.EMOTIONS.items()}
    emotions |= {short: emotions[name] for short, name in _CREMA_D.items()}
    items = [item for split in splits.values() for item in split]
    for actor, (_, spoken) in enumerate(by_speaker(items).items(), 1001):
        turns = dict.fromkeys(emotions.values(), 0)
        for index, item in enumerate(spoken):
            emotion = emotions.get(item.labels.get("emotion", ""))
            emotion = emotion or list(turns)[index % len(turns)]
            level, turn = divmod(turns[emotion], len(codes))
            turns[emotion] += 1
            sentence = codes.get(item.text, list(codes.values())[turn])
            name = f"{actor}_{sentence}_{emotion}_{_LEVELS[level]}.wav"
            write_audio(folder / name, item.waveform)
