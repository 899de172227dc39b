"""Speech Commands v0.01: keyword spotting in twelve classes, split by s3prl's rule."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from speechft.data.corpora.base import Card, Draft, Scan, need
from speechft.errors import DataError

CARD = Card(
    name="speech-commands",
    title="Speech Commands v0.01: spoken keywords",
    root="the folder that holds speech_commands_v0.01 and speech_commands_test_set_v0.01",
    licence="CC BY 4.0",
    hours="18 h",
    splits="train, dev, test",
    tasks=("ks",),
    source="download.tensorflow.org/data: speech_commands_v0.01.tar.gz, "
    "speech_commands_test_set_v0.01.tar.gz",
    hub="google/speech_commands",
)

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
UNKNOWN, SILENCE = "_unknown_", "_silence_"
NOISE_FOLDER = "_background_noise_"
OFFICIAL = {"train": 51_094, "dev": 6_798, "test": 3_081}
"""Examples by split under s3prl's rule."""
_MAX_PER_CLASS = 2**27 - 1
_NOHASH = re.compile(r"_nohash_.*$")


def scan(root: Path, *, test_root: str = "") -> Scan:
    """List the recordings of both archives.

    Train and dev hold each file of ``_background_noise_`` whole as ``_silence_``: who trains draws
    its second from it.

    Args:
        root: The unpacked archives (each in a folder of its archive's name), or
            ``speech_commands_v0.01`` itself.
        test_root: ``speech_commands_test_set_v0.01`` where it lies elsewhere.

    Raises:
        DataError: This is not Speech Commands, or the test set is missing.
    """
    marker = need(root, "speech_commands_v0.01", NOISE_FOLDER, what=CARD.root)
    base = root if marker.name == NOISE_FOLDER else marker
    test = Path(test_root).expanduser() if test_root else _test_folder(root, base)
    result = Scan({"train": [], "dev": [], "test": []}, silence_allowed=True)
    for folder in sorted(p for p in base.iterdir() if p.is_dir() and p.name[0] not in "._"):
        for path in sorted(folder.glob("*.wav")):
            split = which_split(path.name)
            if split is not None:
                result.splits[split].append(_draft(path, folder.name, folder.name))
    for split in ("train", "dev"):
        for path in sorted((base / NOISE_FOLDER).glob("*.wav")):
            name = f"{split}-{SILENCE}-{path.stem}"
            result.splits[split].append(Draft(name, path, labels={"keyword": SILENCE}))
    for folder in sorted(p for p in test.iterdir() if p.is_dir() and p.name[0] != "."):
        for path in sorted(folder.glob("*.wav")):
            result.splits["test"].append(_draft(path, f"test-{folder.name}", folder.name))
    result.info["notes"] = [
        f"{split}: {len(result.splits[split])} of {number} examples of the official archives"
        for split, number in OFFICIAL.items()
        if len(result.splits[split]) != number
    ]
    result.disjoint = (("train", "dev", "test"),)
    return result


def which_split(file_name: str) -> str | None:
    """Return train, dev, or None for what s3prl drops, by the hash of the speaker.

    The share is ``SHA1(speaker) mod 2^27 * 100 / (2^27 - 1)``: below 10 dev, below 20 dropped.

    Args:
        file_name: Such as ``0a7c2a8d_nohash_0.wav``.
    """
    speaker = _NOHASH.sub("", file_name)
    digest = int(hashlib.sha1(speaker.encode(), usedforsecurity=False).hexdigest(), 16)
    share = (digest % (_MAX_PER_CLASS + 1)) * (100.0 / _MAX_PER_CLASS)
    if share < 10.0:
        return "dev"
    return None if share < 20.0 else "train"


def _test_folder(root: Path, base: Path) -> Path:
    name = "speech_commands_test_set_v0.01"
    for place in (root / name, base.parent / name):
        if place.is_dir():
            return place
    raise DataError(
        f"{root} holds no {name}", hint="unpack the test archive beside, or --set test_root=DIR"
    )


def _draft(path: Path, prefix: str, word: str) -> Draft:
    known = word in (*KEYWORDS, SILENCE)
    hashed = _NOHASH.sub("", path.name) if _NOHASH.search(path.name) else None
    labels = {"keyword": word if known else UNKNOWN}
    return Draft(f"{prefix}-{path.stem}", path, speaker=hashed, labels=labels)
