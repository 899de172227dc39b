"""A round of pre-training by recipe, in a folder of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from speechft.data.corpora import find_corpus
from speechft.encoders.load import digest_of
from speechft.finetuning.config import PretrainingConfig
from speechft.finetuning.pretraining import pretrain
from speechft.recipe import load_recipe
from speechft.runs import lock, stage


def pretrain_recipe(recipe: str, folder: Path, overrides: Sequence[str] = ()) -> Path:
    """Pre-train by a recipe; returns the folder of the encoder. Run it again to go on.

    Args:
        recipe: Packaged name or YAML file.
        folder: Where everything goes.
        overrides: ``key=value``.

    Raises:
        SpeechftError: Something is wrong with recipe or corpus.
    """
    config = load_recipe(PretrainingConfig, recipe, overrides)
    inputs = {}
    for name, encoder in (("start", config.start_from), ("targets", config.targets.source)):
        if encoder is not None:
            inputs[name] = digest_of(encoder)
    with lock(folder):
        inputs["corpus"] = (corpus := find_corpus(config.corpus, folder / "corpus")).digest
    with stage(folder, name="pretrain", config=config.as_dict(), inputs=inputs) as work:
        if not work.done:
            pretrain(config, corpus, work.scratch)
    return folder / "encoder"
