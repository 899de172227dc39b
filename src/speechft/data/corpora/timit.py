"""TIMIT: read sentences, phones and words aligned by hand; no SA sentences, core test set."""

from __future__ import annotations

from pathlib import Path

from speechft.data.corpora.base import Card, Draft, Scan, read_lines
from speechft.data.issues import Issue
from speechft.errors import DataError, unknown_choice

CARD = Card(
    name="timit",
    title="TIMIT: read sentences with aligned phones and words",
    root="the folder that holds TRAIN and TEST (or data/TRAIN)",
    licence="LDC user agreement",
    hours="5 h (4 h without SA)",
    splits="train (462 speakers), dev (50), test (core, 24)",
    tasks=("pr", "pc", "asr"),
    source="LDC93S1",
    hub="timit-asr/timit_asr",
)

SAMPLE_RATE = 16_000
CORE_TEST = frozenset(
    "mdab0 mwbt0 felc0 mtas1 mwew0 fpas0 mjmp0 mlnt0 fpkt0 mlll0 mtls0 fjlm0 "
    "mbpm0 mklt0 fnlp0 mcmj0 mjdh0 fmgd0 mgrt0 mnjm0 fdhc0 mjln0 mpam0 fmld0".split()
)
DEV = frozenset(
    "faks0 fdac1 fjem0 mgwt0 mjar0 mmdb1 mmdm2 mpdf0 fcmh0 fkms0 mbdg0 mbwm0 mcsh0 fadg0 fdms0 "
    "fedw0 mgjf0 mglb0 mrtk0 mtaa0 mtdt0 mthc0 mwjg0 fnmr0 frew0 fsem0 mbns0 mmjr0 mdls0 mdlf0 "
    "mdvc0 mers0 fmah0 fdrw0 mrcs0 mrjm4 fcal1 mmwh0 fjsj0 majc0 mjsw0 mreb0 fgjd0 fjmg0 mroa0 "
    "mteb0 mjfc0 mrjr0 fmml0 mrws1".split()
)
"""Speakers of TEST in the usual development set (Halberstadt 1998), as in Kaldi."""

_TO_48 = {
    "ax-h": "ax",
    "axr": "er",
    "em": "m",
    "eng": "ng",
    "hv": "hh",
    "nx": "n",
    "ux": "uw",
    "h#": "sil",
    "pau": "sil",
    **dict.fromkeys(("bcl", "dcl", "gcl"), "vcl"),
    **dict.fromkeys(("pcl", "tcl", "kcl"), "cl"),
}
_TO_39 = {
    "ao": "aa",
    "ax": "ah",
    "el": "l",
    "en": "n",
    "ix": "ih",
    "zh": "sh",
    **dict.fromkeys(("vcl", "cl", "epi"), "sil"),
}


def fold(phone: str, phones: str) -> str | None:
    """Return the phone in a smaller set (Lee and Hon 1989); None for the glottal stop.

    Args:
        phone: One of the 61.
        phones: ``61``, ``48`` or ``39``.
    """
    if phones == "61":
        return phone
    if phone == "q":
        return None
    phone = _TO_48.get(phone, phone)
    return _TO_39.get(phone, phone) if phones == "39" else phone


def scan(root: Path, *, phones: str = "39") -> Scan:
    """Read the SX and SI sentences of all speakers in a set; SA are the same for everyone.

    Args:
        root: The unpacked archive.
        phones: Size of the phone set: 61, 48 or 39.

    Raises:
        ConfigError: No such phone set.
        DataError: This is not TIMIT.
    """
    if phones not in ("61", "48", "39"):
        raise unknown_choice("phone set", phones, ("61", "48", "39"))
    train, test = (_part(root, name) for name in ("TRAIN", "TEST"))
    result = Scan({"train": [], "dev": [], "test": []})
    others: set[str] = set()
    for part in (train, test):
        for folder in sorted(p for p in part.glob("*/*") if p.is_dir()):
            speaker = folder.name.lower()
            split = _split(speaker, part is train)
            if split is None:
                others.add(speaker)
            else:
                result.splits[split].extend(_speaker(folder, speaker, phones, result))
    result.disjoint = (("train", "dev", "test"),)
    result.info = {
        "tuning_splits": ("train", "dev"),
        "notes": [f"{phones} phones; {len(others)} speakers of TEST are in no set"],
    }
    return result


def _part(root: Path, name: str) -> Path:
    for parent in (root, root / "data", root / "TIMIT", root / "timit", root / "timit" / "data"):
        for spelling in (name, name.lower()):
            if (parent / spelling).is_dir():
                return parent / spelling
    raise DataError(f"{root} holds no {name}", hint=f"ROOT is {CARD.root}")


def _split(speaker: str, train: bool) -> str | None:
    if train:
        return "train"
    if speaker in CORE_TEST:
        return "test"
    return "dev" if speaker in DEV else None


def _speaker(folder: Path, speaker: str, phones: str, result: Scan) -> list[Draft]:
    files = {path.name.lower(): path for path in folder.iterdir()}
    sentences = sorted({n.split(".")[0] for n in files if n.endswith((".phn", ".wav"))})
    drafts = []
    for sentence in sentences:
        if sentence.startswith("sa"):
            continue
        label = files.get(f"{sentence}.phn")
        audio = files.get(f"{sentence}.wav", folder / f"{sentence.upper()}.WAV")
        name = f"{speaker}-{sentence}"
        if label is None:
            problem = f"there is no {sentence.upper()}.PHN beside it"
            result.issues.append(Issue("no-label", problem, str(audio), name))
            continue
        result.sources.append(label)
        draft = Draft(name, audio, speaker=speaker, labels={"dialect": folder.parent.name.lower()})
        try:
            folded = ((fold(p, phones), start, end) for p, start, end in _times(label))
            draft.phones = [(p, start, end) for p, start, end in folded if p is not None]
            if f"{sentence}.wrd" in files:
                result.sources.append(files[f"{sentence}.wrd"])
                draft.words = _times(files[f"{sentence}.wrd"])
            if f"{sentence}.txt" in files:
                draft.text = " ".join(read_lines(files[f"{sentence}.txt"])[0].split()[2:])
        except (ValueError, IndexError) as error:
            result.issues.append(Issue("bad-label", f"not 'start end label': {error}", str(label)))
        else:
            drafts.append(draft)
    return drafts


def _times(path: Path) -> list[tuple[str, float, float]]:
    """Return (phone or word, start, end) in seconds; the file has samples."""
    lines = (line.split() for line in read_lines(path) if line.strip())
    return [
        (symbol, int(start) / SAMPLE_RATE, int(end) / SAMPLE_RATE) for start, end, symbol in lines
    ]
