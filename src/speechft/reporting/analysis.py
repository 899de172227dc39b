"""An analysis with its page: as `speechft analyze` makes it, and as a stage of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from speechft.analysis.analyze import ROWS_NAME, analyze
from speechft.analysis.rows import AnalysisRow, read_analysis
from speechft.analysis.sentences import sentences
from speechft.analysis.settings import Settings
from speechft.console import warn
from speechft.data.manifest import Corpus
from speechft.encoders.load import digest_of
from speechft.errors import ConfigError, DataError
from speechft.outputs import RECORD_NAME, check_own
from speechft.reporting.layers import PAGE_NAME, TITLES, write_page
from speechft.runs import lock, stage


def analyze_and_draw(
    base: Any, encoders: Sequence[Any], corpus: str, folder: Path, settings: Settings
) -> list[AnalysisRow]:
    """Analyse encoders and write rows, figures and page; see `speechft.analysis.analyze`.

    Args:
        base: What the encoders were tuned from.
        encoders: The others.
        corpus: As `find_corpus` takes it.
        folder: For everything.
        settings: What is measured.
    """
    with lock(folder):
        before = _is_earlier(folder)
        for name in (ROWS_NAME, PAGE_NAME, *(f"{question}.svg" for question in TITLES)):
            check_own(folder / name, earlier=lambda: before)
        return _analyze(base, encoders, corpus, folder, settings, before=before)


def _is_earlier(folder: Path) -> bool:
    """Return whether a version that kept no record analysed into a folder."""
    with contextlib.suppress(DataError):
        return not (folder / RECORD_NAME).exists() and bool(read_analysis(folder / ROWS_NAME))
    return False


def analysis_stage(
    base: str, encoders: Sequence[Path], corpus: Corpus, folder: Path, settings: Settings
) -> list[str]:
    """Analyse the encoders of a run, unless that was done; return what it found in sentences.

    What cannot be analysed ends no run: it is said in a warning.

    Args:
        base: The pre-trained encoder.
        encoders: Folders of the others, which tables call by the folders' names.
        corpus: What the run is evaluated on.
        folder: Of the stage.
        settings: What is measured.
    """
    inputs = {"base": digest_of(base), "corpus": corpus.digest}
    inputs |= {path.name: digest_of(path) for path in encoders}
    try:
        with stage(folder, name="analysis", config=asdict(settings), inputs=inputs) as work:
            if not work.done:
                listed = [str(path) for path in encoders]
                _analyze(base, listed, corpus.place, work.scratch, settings)
    except (ConfigError, DataError) as error:
        warn(f"no analysis: {error.message}")
        return []
    found = sentences(read_analysis(folder / ROWS_NAME))
    said = [text for texts in found.values() for text in texts]
    return [*said, f"layer by layer: {folder / PAGE_NAME}"]


def _analyze(
    base: Any,
    encoders: Sequence[Any],
    corpus: str,
    folder: Path,
    settings: Settings,
    *,
    before: bool = False,
) -> list[AnalysisRow]:
    rows = analyze(base, encoders, corpus, folder, settings, earlier=lambda: before)
    write_page(rows, folder, lambda: before)
    return rows
