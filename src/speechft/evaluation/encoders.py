"""Evaluate several encoders into one folder: earlier rows stay where nothing replaces them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechft.console import log, warn
from speechft.data.corpora import find_corpus
from speechft.evaluation.candidates import typed_candidates
from speechft.evaluation.config import EvaluationConfig
from speechft.evaluation.failures import Failures
from speechft.evaluation.protocols import protocol_notes
from speechft.evaluation.suite import assign_tasks, evaluate_encoder
from speechft.features.extract import DownsamplerCache
from speechft.outputs import check_own, replacing
from speechft.results import ResultRow, read_rows, write_rows
from speechft.runs import lock


def evaluate(
    encoders: Sequence[Any],
    corpus: str | Sequence[str],
    config: EvaluationConfig,
    folder: Path,
    *,
    seed: int = 0,
) -> list[ResultRow]:
    """Evaluate frozen encoders; writes ``results.jsonl``.

    Rows of earlier evaluations into the same folder stay, where nothing new replaces them.

    Args:
        encoders: As the user typed or gave them, see `typed_candidates`.
        corpus: As `find_corpus` takes it, one or several; see `assign_tasks`.
        config: Tasks and protocol.
        folder: Where results go.
        seed: Seed of the probes.

    Raises:
        SpeechftError: Something is wrong with an encoder, a task or the corpus. Where single tasks
            of encoders fail, all others are evaluated and written before it is raised.
    """
    with lock(folder):
        candidates = typed_candidates(encoders)
        digests = {candidate.name: candidate.digest() for candidate in candidates}
        file = folder / "results.jsonl"

        def earlier_run() -> bool:
            return bool(read_rows(file))  # of which every one that stays true is kept

        check_own(file, earlier=earlier_run)
        earlier = read_rows(file) if file.exists() else []
        given = [corpus] if isinstance(corpus, str) else corpus
        places = [folder / f"corpus{f'-{n}' * (n > 1)}" for n in range(1, len(given) + 1)]
        opened = [find_corpus(c, place) for c, place in zip(given, places, strict=True)]
        tasks, by_task = assign_tasks(config, opened)
        for note, about in protocol_notes(config.protocol, tasks).items():
            log(f"protocol {config.protocol}, {', '.join(about)}: {note}")
        cache, rows, failures = DownsamplerCache(), [], Failures()
        settings: dict[str, Any] = {"seed": seed, "cache": cache, "failures": failures}
        for candidate in candidates:
            rows += evaluate_encoder(candidate, tasks, by_task, config, folder, **settings)
        kept = _kept(earlier, rows, digests)
        with replacing(file, earlier=earlier_run) as hidden:
            write_rows(hidden, [*kept, *rows])
        failures.raise_any(folder)
    return rows


def _kept(
    earlier: Sequence[ResultRow], rows: Sequence[ResultRow], digests: Mapping[str, str]
) -> list[ResultRow]:
    """Return the earlier rows that stay: nothing new replaces them, and names mean what they meant.

    Args:
        earlier: Rows that the folder held.
        rows: New rows.
        digests: Of the encoders that were evaluated now, by name.
    """
    measured: set[tuple[object, ...]] = {(r.encoder, r.task, r.evaluation, r.seed) for r in rows}
    measured |= {(r.encoder, r.task, None, r.protocol) for r in rows}
    kept, others = [], set()
    for row in earlier:
        older = row.evaluation is None
        key = (row.encoder, row.task, row.evaluation, row.protocol if older else row.seed)
        if digests.get(row.encoder, row.encoder_digest) != row.encoder_digest:
            others.add(row.encoder)
        elif key not in measured:
            kept.append(row)
    for name in sorted(others):
        warn(f"{name} is another encoder than before: earlier figures of that name are left out")
    return kept
