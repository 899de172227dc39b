"""QUESST 2014: query by example; spoken queries, documents, and which holds which."""

from __future__ import annotations

import re
from pathlib import Path

from speechft.data.corpora.base import Card, Draft, Pairs, Scan, need, read_lines
from speechft.data.issues import Issue
from speechft.errors import DataError

CARD = Card(
    name="quesst14",
    title="QUESST 2014: query by example spoken term detection",
    root="the folder quesst14Database (or the one that holds it)",
    licence="research only, see the archive",
    hours="23 h (six languages; SUPERB uses non-native English)",
    splits="documents, dev-queries, test-queries",
    tasks=("qbe",),
    source="speech.fit.vutbr.cz/software/quesst-2014: quesst14Database.tgz",
)

LANGUAGE = "nnenglish"
"""The language that SUPERB uses."""
LISTS = {
    "documents": "language_key_utterances.lst",
    "dev-queries": "language_key_dev.lst",
    "test-queries": "language_key_eval.lst",
}
TRUTH = {"dev-queries": "groundtruth_quesst14_dev", "test-queries": "groundtruth_quesst14_eval"}
_LEXEME = re.compile(r"LEXEME\s+(quesst14_\d+)\s.*?(quesst14_(?:dev|eval)_\d+)")


def scan(root: Path, *, language: str = LANGUAGE) -> Scan:
    """Read the lists of documents and queries and the ground truth in ``scoring/``.

    ``qbe.tsv`` holds (query, document, 1 or 0) for every query of dev and test against every
    document.

    Args:
        root: The unpacked archive.
        language: Which language of the lists, or ``all``.

    Raises:
        DataError: This is not QUESST 2014.
    """
    listing = need(
        root,
        f"scoring/{LISTS['documents']}",
        f"quesst14Database/scoring/{LISTS['documents']}",
        what=CARD.root,
    )
    scoring, base = listing.parent, listing.parent.parent
    result = Scan({})
    for split, name in LISTS.items():
        result.splits[split] = _listed(scoring / name, base, language, split, result)
    if not any(result.splits.values()):
        raise DataError(f"the lists in {scoring} hold nothing in language {language!r}")
    documents = [draft.id for draft in result.splits["documents"]]
    rows: list[tuple[str, ...]] = []
    for split, folder in TRUTH.items():
        found = _truth(scoring / folder, result)
        for query in result.splits[split]:
            rows += [
                (query.id, document, str(int((query.id, document) in found)))
                for document in documents
            ]
    result.pairs["qbe.tsv"] = Pairs(rows, ids=(0, 1), separator="\t")
    result.info = {
        "qbe": "qbe.tsv",
        "task_splits": {"qbe": ("documents", "dev-queries", "test-queries")},
        "notes": [f"language: {language}"],
    }
    return result


def _listed(path: Path, base: Path, language: str, split: str, result: Scan) -> list[Draft]:
    result.sources.append(path)
    drafts = []
    for number, line in enumerate(read_lines(path), 1):
        cells = line.split()
        if not cells:
            continue
        if len(cells) != 2:
            problem = f"line {number} is not 'path language'"
            result.issues.append(Issue("bad-label", problem, str(path), split=split))
        elif language in ("all", cells[1]):
            audio = base / cells[0].split("/", 1)[-1]  # paths begin with the archive's name
            drafts.append(Draft(audio.stem, audio, labels={"language": cells[1]}))
    return drafts


def _truth(folder: Path, result: Scan) -> set[tuple[str, str]]:
    """Return (query, document) of every occurrence, from the RTTM file."""
    files = sorted(folder.glob("*.rttm"))
    if not files:
        raise DataError(f"{folder} holds no .rttm", hint="unpack the whole archive again")
    found = set()
    for file in files:
        result.sources.append(file)
        for line in read_lines(file):
            match = _LEXEME.match(line)
            if match:
                found.add((match[2], match[1]))
    return found
