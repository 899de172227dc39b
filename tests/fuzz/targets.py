"""What cases are run on: verbs of the command line, and readers that no verb reaches quickly."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from speechft.errors import SpeechftError

REFUSALS = (SpeechftError, typer.BadParameter.__mro__[2], typer.Exit)
"""The second is the base of what typer says of a command line that it cannot read."""

Run = Callable[[Path, Path, tuple[str, ...]], Any]


@dataclass(frozen=True)
class Target:
    """A verb or reader."""

    run: Run
    """Takes the folder of the case, that of the fixtures, and the arguments of the case."""
    reads_inside: bool = False
    """Whether reading a file outside the folder is a breach; tables and manifests may name any."""


def warm(fixtures: Path) -> None:
    """Import what the targets need, once for all cases of a child."""
    os.environ |= {"MPLCONFIGDIR": str(fixtures / "cache")}
    import torch

    import speechft.cli
    import speechft.encoders.convert
    import speechft.features.files
    import speechft.features.looks
    import speechft.merging.execution
    import speechft.prediction.pipelines
    import speechft.recipe  # noqa: F401
    from speechft.reporting.svg import panel, to_svg

    torch.set_num_threads(1)
    with panel() as (figure, axes):  # matplotlib looks for fonts once, with a program
        axes.plot([0, 1], [0, 1])
        to_svg(figure, "x", "x")
    verb("inspect", str(fixtures / "base"), "--json")
    verb("inspect", str(fixtures / "tones"), "--json")


def verb(*arguments: str) -> None:
    """Run the command line in this process; errors come out as exceptions."""
    from speechft.cli.app import app, told

    with told():
        app(list(arguments), standalone_mode=False)


def _verb(folder: Path, fixtures: Path, given: tuple[str, ...]) -> None:
    places = {"{a}": "a.wav", "{base}": "base", "{tuned}": "tuned", "{tones}": "tones"}
    verb(*(str(fixtures / places[text]) if text in places else text for text in given))


def _inspect(folder: Path, fixtures: Path, given: tuple[str, ...]) -> None:
    verb("inspect", *given)


def _extract(folder: Path, fixtures: Path, given: tuple[str, ...]) -> None:
    verb("extract", str(fixtures / "base"), *given, "--out", "feats", "--layer", "last")


def _extract_with(folder: Path, fixtures: Path, given: tuple[str, ...]) -> None:
    verb("extract", given[0], str(fixtures / "a.wav"), "--out", "feats")


def _convert(folder: Path, fixtures: Path, given: tuple[str, ...]) -> None:
    verb("convert", given[0], "out.pt" if len(given) > 1 else "out")


def _merge(folder: Path, fixtures: Path, given: tuple[str, ...]) -> None:
    verb("merge", str(fixtures / "base"), *given, "--out", "merged")


def _merge_file(folder: Path, fixtures: Path, given: tuple[str, ...]) -> None:
    verb("merge", "--config", *given, "--dry-run")


def _delta(folder: Path, fixtures: Path, given: tuple[str, ...]) -> None:
    verb("delta", str(fixtures / "base"), *given, "--out", "delta.safetensors")


def _compare(folder: Path, fixtures: Path, given: tuple[str, ...]) -> None:
    verb("compare", *given)


def _prepare(folder: Path, fixtures: Path, given: tuple[str, ...]) -> None:
    verb("prepare", *given, "--out", "out")


def _recipe(folder: Path, fixtures: Path, given: tuple[str, ...]) -> None:
    from speechft.cli.app import told
    from speechft.recipe import Recipe, load_recipe

    with told():
        load_recipe(Recipe, given[0], list(given[1:])).as_yaml()


def _pipeline(folder: Path, fixtures: Path, given: tuple[str, ...]) -> None:
    from speechft.prediction.pipelines import load_pipeline

    load_pipeline(given[0]).predict(fixtures / "a.wav")


def _corpus(folder: Path, fixtures: Path, given: tuple[str, ...]) -> None:
    """Do with a prepared corpus what evaluation and fine-tuning do before they compute."""
    from speechft.data.corpora import find_corpus
    from speechft.data.waveform import load_waveform
    from speechft.tasks import TASKS

    corpus = find_corpus(given[0], folder / "work")
    for split in list(corpus.statistics)[:3]:
        cuts = corpus.split(split)
        for cut in cuts:
            load_waveform(cut)
        for task in TASKS.values():
            with contextlib.suppress(SpeechftError):
                task.vocabulary(cuts)


def _keeping(target: Run, place: str) -> Run:
    """Run a target beside a file of somebody else, which must be as it was."""

    def run(folder: Path, fixtures: Path, given: tuple[str, ...]) -> None:
        mine = folder / place
        before = mine.read_bytes() if mine.is_file() else None  # it may be a pipe
        try:
            target(folder, fixtures, given)
        finally:
            assert before is None or mine.read_bytes() == before

    return run


def _ngrams(folder: Path, fixtures: Path, given: tuple[str, ...]) -> None:
    from speechft.tasks.word_search import LanguageModel, WordSearch

    WordSearch(LanguageModel(Path(given[0])), ["<blank>", "H", "E", "L", "O", "|"], blank=0)


def _evaluate(folder: Path, fixtures: Path, given: tuple[str, ...]) -> None:
    base = str(fixtures / "base")
    limits = ("--limit", "4") if "--limit" not in given else ()
    verb("evaluate", base, "--corpus", *given, *limits, "--out", "results")


TARGETS: dict[str, Target] = {
    "inspect": Target(_inspect),
    "inspect-model": Target(_inspect, reads_inside=True),
    "extract": Target(_extract),
    "extract-with": Target(_extract_with, reads_inside=True),
    "convert": Target(_convert, reads_inside=True),
    "merge": Target(_merge, reads_inside=True),
    "merge-file": Target(_merge_file),
    "delta": Target(_delta, reads_inside=True),
    "compare": Target(_compare, reads_inside=True),
    "prepare": Target(_prepare),
    "recipe": Target(_recipe),
    "verb": Target(_verb),
    "pipeline": Target(_pipeline),
    "corpus": Target(_corpus),
    "evaluate": Target(_evaluate),
    "keeps-prepare": Target(_keeping(_prepare, "out/mine.txt")),
    "keeps-delta": Target(_keeping(_delta, "mine.txt")),
    "ngrams": Target(_ngrams),
}
