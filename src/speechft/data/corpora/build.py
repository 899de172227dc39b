"""From what a look at a corpus found to manifests: every recording inspected, damage named."""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from speechft.console import progress_bar, warn
from speechft.data.acoustics import SAMPLE_RATE
from speechft.data.corpora.across import across_splits, characters_of
from speechft.data.corpora.base import Card, Draft, Scan
from speechft.data.corpora.inspecting import Inspection
from speechft.data.inspection import Found, Header
from speechft.data.issues import HINTS, ISSUES_FILE, Issue, count, summary, write_issues
from speechft.data.kept_cuts import sorted_order
from speechft.data.kept_items import KeptItems
from speechft.data.losses import ALLOWED, LOST, UNPLACED, is_loss
from speechft.data.manifest import CORPUS_FILE, Corpus, open_corpus, write_corpus
from speechft.data.text import composed, words
from speechft.data.utterances import Utterance, kept_utterances
from speechft.errors import DataError
from speechft.parallel.claims import FOLDER, Claim
from speechft.parallel.sharing import Unit, work_off
from speechft.runs import check_free, invalidate, is_done, is_output, stage
from speechft.storage.files import file_digest, json_digest, list_digest, write_text
from speechft.storage.locks import waiting
from speechft.storage.outputs import replacing
from speechft.storage.scratch import Names

_FRAME, _HOP = 400, 320
"""Window and step of the common encoders in samples at 16 kHz."""


@dataclass(frozen=True)
class Options:
    """How a corpus is prepared."""

    allow_missing: bool = False
    """Leave out recordings that are missing, rather than stop."""
    samples: bool = True
    """Decode every recording and look for NaN, silence and clipping; otherwise headers only."""
    jobs: int = 0
    """Recordings inspected at a time; 0: four more than there are processors."""


def build(
    card: Card,
    root: Path,
    scan: Scan,
    folder: Path,
    options: Options | None = None,
    *,
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> Corpus:
    """Inspect all recordings and write manifests, ``issues.tsv`` and ``corpus.json``.

    Any number of processes may be given the same: they share the recordings, see `sharing`, and one
    of them writes the manifests.

    Args:
        card: Of the corpus.
        root: Folder that paths in ``issues.tsv`` are relative to.
        scan: What its label files say.
        folder: Where the manifests go.
        options: How.
        name: Name of the corpus, where it is not the card's.
        config: What else decides the result.

    Raises:
        DataError: Damage that is fatal, or nothing can be used.
    """
    options = options or Options()
    settings = {
        "corpus": card.name,
        "samples": options.samples,
        "allow_missing": options.allow_missing,
        **(config or {}),
    }
    inputs = {
        "labels": json_digest([file_digest(path) for path in scan.sources]),
        "audio": list_digest(_stamps(root, scan)),
    }
    job: Any = {"name": "corpus", "config": settings, "inputs": inputs}
    outputs = _written(scan)
    check_free(folder, outputs)
    key = json_digest(job)[:8]
    inspection = Inspection(
        list(scan.splits.values()),
        folder / FOLDER / f"inspected-{key}",
        samples=options.samples,
        jobs=options.jobs,
    )

    def make(claim: Claim | None) -> None:
        with waiting(), stage(folder, outputs=outputs, **job) as work:
            if not work.done:
                digest = json_digest({"settings": settings, **inputs})
                found = inspection.found()
                _make(card, root, scan, folder, options, found, work.scratch, name, digest)
                if claim is not None:
                    claim.check()

    made = partial(is_done, folder, **job)
    with progress_bar("inspecting recordings", len(inspection)) as bar:
        units = list(inspection.units(bar, made))
        before = [unit.name for unit in units]
        units.append(Unit(f"manifests-{key}", made, make, after=before))
        failed = work_off(folder, "prepare", units)
    for error in failed.values():
        raise error
    return open_corpus(folder)


def _make(
    card: Card,
    root: Path,
    scan: Scan,
    folder: Path,
    options: Options,
    found: Iterator[Found],
    scratch: Path,
    name: str | None,
    digest: str,
) -> None:
    """Write the corpus to a scratch folder, of what was found in each recording."""
    splits, issues, lost = _inspect_all(scan, options, folder, found)
    issues = [_relative(issue, root) for issue in [*scan.issues, *issues]]
    _stop_if_fatal(issues, folder, card, root)
    write_issues(scratch / ISSUES_FILE, issues)
    unlisted = sum(issue.resolved() == "left out" for issue in scan.issues)
    total = sum(map(len, scan.splits.values())) + unlisted
    if not any(splits.values()):
        where = scan.sources[0] if len(scan.sources) == 1 else root
        told = f": {summary(issues, root)}" if issues else ""
        raise DataError(f"none of the {total} recordings in {where} can be used{told}")
    others = sum(issue.resolved() == "left out" and not is_loss(issue) for issue in issues)
    _report(issues, sum(map(Counter.total, lost.values())) + others, total, root)
    kept = {split: items for split, items in splits.items() if items}
    info = {**card.info(), **scan.info, "issues": count(issues), **_pairs(scan)}
    info |= {LOST: lost} if lost else {}
    info |= {ALLOWED: ["missing-audio"]} if options.allow_missing else {}
    for file, text in _pair_texts(scan, kept).items():
        write_text(scratch / file, text)
    info["seconds"] = {split: _durations(items) for split, items in kept.items()}
    write_corpus(scratch, name or card.name, digest, kept, info)


def _written(scan: Scan) -> tuple[str, ...]:
    """Return the names that a corpus surely has."""
    return (CORPUS_FILE, ISSUES_FILE, *(f"{split}.jsonl.gz" for split in scan.splits))


def _stamps(root: Path, scan: Scan) -> Iterator[list[str | int]]:
    """Yield name, size and time of change of every recording: a change of these is a change."""
    paths = Names(str(draft.path) for drafts in scan.splits.values() for draft in drafts)
    order = sorted_order((path.replace(os.sep, "\0") for path in paths), len(paths))
    for path in (paths.name(number.item()) for number in order):
        name = _below(path, root)
        try:
            status = os.stat(path)
        except (OSError, ValueError):  # ValueError: a name that no file can have
            yield [name]
        else:
            yield [name, status.st_size, status.st_mtime_ns]


def _below(path: Path | str, root: Path) -> str:
    text, prefix = str(path), f"{root}{os.sep}"
    return text[len(prefix) :] if text.startswith(prefix) else text


def _relative(issue: Issue, root: Path) -> Issue:
    problem = issue.problem.replace(f"{root}{os.sep}", "")
    return replace(issue, path=_below(issue.path, root), problem=problem)


def _inspect_all(
    scan: Scan, options: Options, folder: Path, found_in: Iterator[Found]
) -> tuple[dict[str, KeptItems[Utterance]], list[Issue], dict[str, Counter[str]]]:
    """Return utterances by split, every issue, and how many utterances are lost to what."""
    splits: dict[str, KeptItems[Utterance]] = {}
    issues: list[Issue] = []
    lost: dict[str, Counter[str]] = defaultdict(Counter)
    for issue in filter(is_loss, scan.issues):
        lost[issue.split or UNPLACED][issue.kind] += 1
    for split, drafts in scan.splits.items():
        splits[split] = kept_utterances()
        for draft, found in zip(drafts, found_in, strict=False):
            problems = problems_of(draft, found, scan, options)
            for kind, problem, outcome in problems:
                issues.append(Issue(kind, problem, str(draft.path), draft.id, split, outcome))
            drops = [kind for kind, _, outcome in problems if drops_by(kind, outcome)]
            if drops:
                lost[split][drops[0]] += 1
            elif found.header:
                splits[split].append(_utterance(draft, found, found.header, folder))
    issues = _once_a_file(issues)
    return splits, [*issues, *across_splits(splits, scan)], lost


def _once_a_file(issues: list[Issue]) -> list[Issue]:
    """Merge the issues of utterances that lack the same file."""
    lacking: dict[str, list[Issue]] = {}
    for issue in issues:
        if issue.kind == "missing-audio":
            lacking.setdefault(issue.path, []).append(issue)
    merged = [issue for issue in issues if issue.kind != "missing-audio"]
    for group in lacking.values():
        more = f"; {len(group)} utterances of it" if len(group) > 1 else ""
        merged.append(replace(group[0], problem=group[0].problem + more))
    return merged


Problem = tuple[str, str, Any]
"""Kind, problem, outcome where it is not the kind's own."""


def problems_of(draft: Draft, found: Found, scan: Scan, options: Options) -> list[Problem]:
    """Return what is wrong with an utterance by what was found in its recording and its labels."""
    return [*_audio_issues(draft, found, scan, options), *_label_issues(draft, found, scan)]


def drops_by(kind: str, outcome: str = "") -> bool:
    """Return whether a problem of a kind drops its utterance, or stops the preparation."""
    return Issue(kind, "", outcome=outcome).resolved() != "kept"  # type: ignore[arg-type]


def _audio_issues(draft: Draft, found: Found, scan: Scan, options: Options) -> Iterator[Problem]:
    for kind, problem in found.problems:
        if kind == "silence" and scan.silence_allowed:
            continue
        lenient = options.allow_missing or scan.missing_allowed
        outcome = "left out" if kind == "missing-audio" and lenient else ""
        yield kind, problem, outcome
    if found.header is not None and scan.sample_rate is not None:
        if found.header.sample_rate != scan.sample_rate:
            given, wanted = found.header.sample_rate, scan.sample_rate
            yield "rate-mismatch", f"{given} Hz instead of {wanted} Hz; it is resampled", ""
        averaged = found.header.channels != 1 and draft.channel is None
        if averaged and not any(drops_by(kind) for kind, _ in found.problems):
            yield "channel-mismatch", f"{found.header.channels} channels instead of 1; averaged", ""


def _label_issues(draft: Draft, found: Found, scan: Scan) -> Iterator[Problem]:
    if draft.text and not words(draft.text):
        yield "no-words", f"the text {draft.text!r} holds no letter: tasks of text leave it out", ""
    if draft.text and scan.alphabet is not None:
        strange = sorted(set(draft.text) - scan.alphabet)
        if strange:
            shown = " ".join(repr(c) for c in strange[:8])
            yield "characters", f"the text holds {shown}, which the vocabulary does not", ""
    if found.header is None or any(drops_by(kind) for kind, _ in found.problems):
        return
    if told := _other_length(draft, found.samples / found.header.sample_rate):
        yield "length-differs", told, ""
    samples = found.samples * SAMPLE_RATE / found.header.sample_rate
    frames = max(0, int(samples - _FRAME) // _HOP + 1)
    for what, units in (("characters", characters_of(draft.text)), ("phones", _phones(draft))):
        needed = len(units) + sum(a == b for a, b in itertools.pairwise(units))
        if needed > frames:
            problem = f"{len(units)} {what} need {needed} frames, the audio has {frames}"
            yield "text-too-long", problem, ""


def _other_length(draft: Draft, seconds: float) -> str:
    """Say that a row gives another duration than its recording has, and cuts nothing from it."""
    try:
        said = float(draft.labels.get("duration", "nan"))
    except ValueError:  # a label of the user's own
        return ""
    reach = max(0.25, 0.05 * seconds)
    if any(abs(value - seconds) <= reach for value in (said, said / 1000)) or math.isnan(said):
        return ""
    return (
        f"the row has the duration {said:g}, the recording {seconds:.2f} s, all of which is read: "
        "a column start (0) beside it makes it a part"
    )


def _phones(draft: Draft) -> list[str]:
    return [phone for phone, _, _ in draft.phones]


def _utterance(draft: Draft, found: Found, header: Header, folder: Path) -> Utterance:
    segment = found.samples != header.samples
    return Utterance(
        id=draft.id,
        path=_below(draft.path.absolute(), folder.resolve()),
        samples=found.samples,
        sample_rate=header.sample_rate,
        channels=header.channels,
        channel=draft.channel,
        text=composed(draft.text or "") or None,
        speaker=composed(draft.speaker or "") or None,
        phones=draft.phones,
        words=[(composed(word), start, end) for word, start, end in draft.words],
        labels={k: composed(value) for k, value in draft.labels.items() if value != ""},
        offset=found.offset if segment else 0,
        recording_samples=header.samples if segment else 0,
    )


def _stop_if_fatal(issues: list[Issue], folder: Path, card: Card, root: Path) -> None:
    fatal = [issue for issue in issues if issue.resolved() == "fatal"]
    if not fatal:
        return
    path = folder / ISSUES_FILE
    invalidate(folder)  # an older corpus here is no longer whole
    with replacing(path, earlier=lambda: is_output(path)) as hidden:
        write_issues(hidden, issues)
    raise DataError(
        f"corpus {card.name} cannot be prepared: {summary(fatal, root)} (all in {path})",
        hint="; ".join(HINTS[kind] for kind in count(fatal)),
    )


def _report(issues: list[Issue], count: int, total: int, root: Path) -> None:
    out = [issue for issue in issues if issue.resolved() == "left out"]
    kept = [issue for issue in issues if issue.resolved() == "kept"]
    if out:
        told = f"{count} of {total} recordings are left out (see {ISSUES_FILE})"
        warn(f"{told}: {summary(out, root)}")
    if kept:
        told = f"{len(kept)} recordings are kept with remarks (see {ISSUES_FILE})"
        warn(f"{told}: {summary(kept, root)}")


def _pairs(scan: Scan) -> dict[str, Any]:
    """Return what ``corpus.json`` says about the files beside the manifests."""
    return {"files": sorted(scan.pairs)} if scan.pairs else {}


def _pair_texts(scan: Scan, splits: Mapping[str, Sequence[Utterance]]) -> dict[str, str]:
    if not scan.pairs:
        return {}
    ids = {item.id for items in splits.values() for item in items}
    texts = {}
    for name, pairs in scan.pairs.items():
        rows = [row for row in pairs.rows if all(row[cell] in ids for cell in pairs.ids)]
        if len(rows) < len(pairs.rows):
            warn(f"{name}: {len(pairs.rows) - len(rows)} of {len(pairs.rows)} lines lack audio")
        texts[name] = "".join(pairs.separator.join(row) + "\n" for row in rows)
    return texts


def _durations(items: Sequence[Utterance]) -> dict[str, float]:
    """Return shortest, median, 95th percentile and longest duration in seconds."""
    seconds = np.fromiter((item.samples / item.sample_rate for item in items), float)
    points = np.quantile(seconds, [0.0, 0.5, 0.95, 1.0])
    return dict(zip(("min", "median", "p95", "max"), np.round(points, 3).tolist(), strict=True))
