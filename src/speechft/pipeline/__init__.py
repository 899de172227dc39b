"""A whole run: the stages of a recipe in order, from its corpora to its report."""

from speechft.pipeline.stages import Summary, finetune_recipe, run

__all__ = ["Summary", "finetune_recipe", "run"]
