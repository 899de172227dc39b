"""An analysis with its page: as `speechft analyze` makes it, and as a stage of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from speechft.analysis.analyze import ROWS_NAME, analysis_rows
from speechft.analysis.rows import AnalysisRow, read_analysis
from speechft.analysis.sentences import sentences
from speechft.analysis.settings import Settings, read_settings
from speechft.arguments import PathLike, folder_of, listed_encoders
from speechft.console import warn
from speechft.data.manifest import Corpus
from speechft.devices import use_device
from speechft.encoders.load import digest_of
from speechft.errors import ConfigError, DataError
from speechft.reporting.layers import PAGE_NAME, TITLES, write_page
from speechft.runs import lock, stage
from speechft.storage.locks import waiting
from speechft.storage.outputs import RECORD_NAME, check_own, overwriting
from speechft.storage.uploads import moved_up


@moved_up("out")
def analyze(
    base: Any,
    encoders: Any,
    *,
    out: PathLike,
    corpus: PathLike = "synthetic",
    split: str | None = None,
    measures: str | Sequence[str] = "available",
    layers: str | int | Sequence[int] = "all",
    relative_depth: bool = False,
    alpha: float = 0.5,
    limit: int = 1000,
    seed: int = 0,
    precision: str = "fp32",
    device: str = "auto",
    overwrite: bool = False,
) -> list[AnalysisRow]:
    """Measure, layer by layer, what fine-tuning did to encoders: docs/analysis.md.

    Args:
        base: What they were tuned from: a folder, packaged name, hub id, or an encoder of your own.
        encoders: The others, one or several.
        out: Folder for ``analysis.jsonl``, ``analysis.md`` and a figure a question.
        corpus: Embedded corpus, CSV, or folder of a prepared corpus.
        split: Of it; None for the development split.
        measures: Of similarity, linearity, weights, cca, abx, speaker and knn some,
            in a list or a text with commas; ``available`` for all that encoders and corpus allow.
        layers: Hidden states of the base: ``all``, ``last``, or numbers: ``"6,9-12"``.
        relative_depth: Compare encoders of another shape, layer by relative depth, by CKA alone.
        alpha: Where between base and encoder linearity is measured.
        limit: Utterances at most, speakers in turn.
        seed: Of everything that is drawn.
        precision: Of the encoders: ``fp32``, ``bf16``, ``fp16`` or ``auto``.
        device: Where to compute: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        overwrite: Replace what no command of ours wrote, too.

    Returns:
        A row for each measure, layer and encoder.

    Raises:
        SpeechftError: Something is wrong with an encoder or the corpus, or they do not fit.
    """
    settings = read_settings(
        measures,
        layers,
        alpha,
        limit,
        precision,
        split=split,
        relative_depth=relative_depth,
        seed=seed,
    )
    folder = folder_of(out)
    with overwriting(overwrite), use_device(device):
        with waiting(60), lock(folder):
            before = _is_earlier(folder)
            for name in (ROWS_NAME, PAGE_NAME, *(f"{question}.svg" for question in TITLES)):
                check_own(folder / name, earlier=lambda: before)
        listed = listed_encoders(encoders)
        return _analyze(base, listed, str(corpus), folder, settings, before=before)


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
    rows = analysis_rows(base, encoders, corpus, folder, settings, earlier=lambda: before)
    with waiting(60), lock(folder):
        write_page(rows, folder, lambda: before)
    return rows
