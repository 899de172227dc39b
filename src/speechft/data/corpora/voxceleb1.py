"""VoxCeleb1: speaker identification by the official list, verification trials."""

from __future__ import annotations

from pathlib import Path

from speechft.data.corpora.base import Card, Draft, Pairs, Scan, read_lines
from speechft.data.issues import Issue
from speechft.errors import DataError

CARD = Card(
    name="voxceleb1",
    title="VoxCeleb1: 1,251 celebrities in interviews",
    root="the folder with dev/wav and test/wav (or wav) and iden_split.txt, veri_test.txt",
    licence="CC BY 4.0 for the metadata; the recordings belong to their owners",
    hours="351 h",
    splits="train, dev, test (identification), asv-train, asv-test (verification)",
    tasks=("sid", "asv"),
    source="www.robots.ox.ac.uk/~vgg/data/voxceleb: links are gated, by request",
)

SPLIT_FILES = ("iden_split.txt", "veri_test_class.txt")
"""Names of the identification list: VoxCeleb's and s3prl's."""
TRIAL_FILES = ("veri_test2.txt", "veri_test.txt", "voxceleb1_test_v2.txt", "voxceleb1_test.txt")
FIRST_SPEAKER = 10_001
_SPLITS = {"1": "train", "2": "dev", "3": "test"}


def scan(root: Path, *, split_file: str = "", trials: str = "") -> Scan:
    """Read the identification list and the verification trials.

    The verification folders ``*/wav/`` hold every recording, so they are enough for
    identification. ``asv-train`` is every speaker that the trials do not name; there is no
    official dev set for verification, so its dev split is the test split.

    Args:
        root: The unpacked archives and lists.
        split_file: The identification list, ``1|2|3 idXXXXX/video/n.wav`` a line.
        trials: The trials, ``1|0 path path`` a line.

    Raises:
        DataError: Neither list is there, or no folder ``wav``.
    """
    if not root.is_dir():
        raise DataError(f"{root} does not exist", hint=f"ROOT is {CARD.root}")
    bases = [p for p in (root / "wav", *sorted(root.glob("*/wav"))) if p.is_dir()]
    if not bases:
        raise DataError(
            f"{root} holds neither wav nor */wav",
            hint="unpack vox1_dev_wav.zip into dev/ and vox1_test_wav.zip into test/",
        )
    listing = _find(root, split_file, SPLIT_FILES)
    trial_file = _find(root, trials, TRIAL_FILES)
    if listing is None and trial_file is None:
        raise DataError(
            f"{root} holds no identification list ({', '.join(SPLIT_FILES)}) and no trials",
            hint="get iden_split.txt from the VoxCeleb site, or --set split_file=FILE",
        )
    result = Scan({}, sources=[p for p in (listing, trial_file) if p])
    tasks: dict[str, tuple[str, ...]] = {}
    if listing is not None:
        result.splits = {name: [] for name in _SPLITS.values()}
        _identification(listing, bases, result)
        tasks["sid"] = ("train", "dev", "test")
    if trial_file is not None:
        _verification(trial_file, bases, result)
        tasks["asv"] = ("asv-train", "asv-test", "asv-test")
        result.disjoint = (("asv-train", "asv-test"),)
        result.info["trials"] = "trials.txt"
    result.info["task_splits"] = tasks
    return result


def _find(root: Path, given: str, names: tuple[str, ...]) -> Path | None:
    if given:
        path = Path(given).expanduser()
        if not path.is_file():
            raise DataError(f"{path} does not exist")
        return path
    return next((root / name for name in names if (root / name).is_file()), None)


def _locate(bases: list[Path], relative: str) -> Path:
    """Return where a recording lies; the first place it could lie where it is missing."""
    return next((b / relative for b in bases if (b / relative).is_file()), bases[0] / relative)


def _draft(bases: list[Path], relative: str) -> Draft:
    speaker = relative.split("/")[0]
    name = relative.removesuffix(".wav").replace("/", "-")
    label = str(int(speaker[2:]) - FIRST_SPEAKER)
    return Draft(name, _locate(bases, relative), speaker=speaker, labels={"sid": label})


def _identification(listing: Path, bases: list[Path], result: Scan) -> None:
    for number, line in enumerate(read_lines(listing), 1):
        if not line.strip():
            continue
        code, _, relative = line.strip().partition(" ")
        if code not in _SPLITS or not _is_recording(relative):
            problem = f"line {number} is not '1|2|3 idXXXXX/video/n.wav': {line.strip()!r}"
            result.issues.append(Issue("bad-label", problem, str(listing)))
            continue
        result.splits[_SPLITS[code]].append(_draft(bases, relative))


def _is_recording(relative: str) -> bool:
    parts = relative.split("/")
    return len(parts) == 3 and parts[0][:2] == "id" and parts[0][2:].isdigit()


def _verification(trial_file: Path, bases: list[Path], result: Scan) -> None:
    rows: list[tuple[str, ...]] = []
    tested: dict[str, Draft] = {}
    for number, line in enumerate(read_lines(trial_file), 1):
        if not line.strip():
            continue
        cells = line.split()
        if len(cells) != 3 or cells[0] not in "01" or not all(map(_is_recording, cells[1:])):
            problem = f"line {number} is not '1|0 path path': {line.strip()!r}"
            result.issues.append(Issue("bad-label", problem, str(trial_file)))
            continue
        drafts = [tested.setdefault(path, _draft(bases, path)) for path in cells[1:]]
        rows.append((cells[0], drafts[0].id, drafts[1].id))
    speakers = {draft.speaker for draft in tested.values()}
    found = {
        path.relative_to(base).as_posix(): path
        for base in bases
        for path in base.glob("id*/*/*.wav")
        if path.parent.parent.name not in speakers
    }
    result.splits["asv-train"] = [_draft(bases, relative) for relative in sorted(found)]
    result.splits["asv-test"] = list(tested.values())
    result.pairs["trials.txt"] = Pairs(rows, ids=(1, 2), separator=" ")
