"""The Python functions behind the verbs that need a recipe's defaults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechft import pipeline
from speechft.evaluation.config import EvaluationConfig
from speechft.finetuning.distributed import main_process_scope
from speechft.recipe import Recipe, load_recipe
from speechft.results import ResultRow


def finetune(recipe: str = "demo", *, out: str | Path, **settings: Any) -> Path:
    """Fine-tune an encoder by a recipe.

    Where a launcher started several processes, all of them call it: the first runs the recipe, the
    others take part in its fine-tuning.

    Args:
        recipe: Packaged name or YAML file.
        out: Folder; the tuned encoder is in ``out/encoder``.
        **settings: Overrides of the recipe, sections joined by two underscores:
            ``finetuning__steps=100``, ``encoder="facebook/hubert-base-ls960"``.

    Returns:
        The folder of the tuned encoder.

    Raises:
        SpeechftError: Something is wrong with recipe, data or encoder.
    """
    changes = {key.replace("__", "."): value for key, value in settings.items()}
    with main_process_scope() as first:
        if first:
            loaded = load_recipe(Recipe, recipe, changes=changes)
            pipeline.finetune_recipe(loaded, Path(out))
    return Path(out) / "encoder"


def evaluate(
    encoders: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    tasks: Sequence[str] | None = None,
    corpus: str | Path | Sequence[str | Path] = "synthetic",
    protocol: str = "mini",
    seed: int = 0,
    language_model: str | Path | None = None,
) -> list[ResultRow]:
    """Evaluate frozen encoders with probes.

    Args:
        encoders: Folders, packaged names or hub ids, one or several.
        out: Folder for results and predictions.
        tasks: Keys of tasks; None takes all that the corpus supports.
        corpus: Embedded corpus, CSV, or folder of a prepared corpus; one or several, a task takes
            the first that has lists of its own for it, else the first that supports it.
        protocol: ``default``, ``s3prl`` or ``mini``.
        seed: Seed of the probes.
        language_model: Word n-gram model, ``.arpa`` or ``.arpa.gz``: a second figure of ``asr``.

    Returns:
        A row for each encoder, task and metric.

    Raises:
        SpeechftError: Something is wrong with an encoder, a task or the corpus.
    """
    names = [encoders] if isinstance(encoders, (str, Path)) else list(encoders)
    config = EvaluationConfig(
        tasks="available" if tasks is None else tuple(tasks),
        protocol=protocol,
        floors=(),
        language_model=None if language_model is None else str(language_model),
    )
    corpora = [corpus] if isinstance(corpus, (str, Path)) else list(corpus)
    return pipeline.evaluate(
        [str(name) for name in names], [str(c) for c in corpora], config, Path(out), seed=seed
    )
