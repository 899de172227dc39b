"""The Python functions behind the verbs; the command line calls the same ones.

Arguments have the names of the verb's options. What a verb takes as ``--set section.key=value`` is
a keyword here, sections joined by two underscores: ``finetuning__steps=100``. Heavy imports happen
inside the functions. Verbs of one room have theirs there: `speechft.sweeping.api`,
`speechft.merging.api`, `speechft.reporting.analysis`, `speechft.encoders.convert`,
`speechft.features.files`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechft.arguments import (
    PathLike,
    Paths,
    Texts,
    changes_of,
    folder_of,
    listed_encoders,
    texts_of,
)
from speechft.storage.outputs import overwriting
from speechft.storage.remote import address_of
from speechft.storage.uploads import at_hand, moved_up

if TYPE_CHECKING:
    from speechft.data.manifest import Corpus
    from speechft.encoders.inspection import Inspection
    from speechft.evaluation.compare import Difference
    from speechft.evaluation.superb_table import SuperbTable
    from speechft.features.looks import DataInspection
    from speechft.merging.bases import BaseRanking
    from speechft.pipeline import Summary
    from speechft.results import ResultRow


@moved_up("out")
def run(
    recipe: PathLike = "demo",
    *,
    out: PathLike,
    corpus: PathLike | None = None,
    device: str = "auto",
    overrides: Texts = (),
    overwrite: bool = False,
    command: str = "speechft.run(...)",
    **settings: Any,
) -> Summary | None:
    """Fine-tune, merge, evaluate and report, by a recipe; run it again to go on.

    Where a launcher started several processes, all of them call it: the first runs the recipe, the
    others take part in its fine-tuning.

    Args:
        recipe: Packaged name or YAML file.
        out: Folder for everything.
        corpus: Takes the place of the recipe's ``data.corpus``.
        device: Where to compute: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        overrides: Changes of the recipe as text, ``section.key=value``.
        overwrite: Replace what no command of ours wrote, too.
        command: What the report says how it was made.
        **settings: Changes of the recipe.

    Returns:
        What the run found; None on processes other than the first.

    Raises:
        SpeechftError: Something is wrong with recipe, data or encoder.
    """
    from speechft import pipeline
    from speechft.devices import use_device
    from speechft.finetuning.distributed import main_process_scope
    from speechft.finetuning.finetune import finetune as follow
    from speechft.recipe import Recipe, load_recipe

    changes = changes_of(settings, {"data.corpus": corpus})
    with overwriting(overwrite), use_device(device), main_process_scope(follow) as first:
        if not first:
            return None
        loaded = load_recipe(Recipe, recipe, overrides, changes)
        return pipeline.run(loaded, folder_of(out), command=command)


@moved_up("out")
def finetune(
    recipe: PathLike = "demo",
    *,
    out: PathLike,
    strategy: str | None = None,
    corpus: PathLike | None = None,
    device: str = "auto",
    overrides: Texts = (),
    overwrite: bool = False,
    **settings: Any,
) -> Path:
    """Fine-tune the encoder of a recipe; several processes as for `run`.

    Args:
        recipe: Packaged name or YAML file.
        out: Folder; the tuned encoder is in ``out/encoder``.
        strategy: Takes the place of the recipe's ``finetuning.strategy``.
        corpus: Takes the place of the recipe's ``data.corpus``.
        device: Where to compute: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        overrides: Changes of the recipe as text, ``section.key=value``.
        overwrite: Replace what no command of ours wrote, too.
        **settings: Changes of the recipe: ``encoder="facebook/hubert-base-ls960"``.

    Returns:
        The folder of the tuned encoder.

    Raises:
        SpeechftError: Something is wrong with recipe, data or encoder.
    """
    from speechft import pipeline
    from speechft.devices import use_device
    from speechft.finetuning.distributed import main_process_scope
    from speechft.finetuning.finetune import finetune as follow
    from speechft.recipe import Recipe, load_recipe

    folder = folder_of(out)
    changes = changes_of(settings, {"finetuning.strategy": strategy, "data.corpus": corpus})
    with overwriting(overwrite), use_device(device), main_process_scope(follow) as first:
        if first:
            loaded = load_recipe(Recipe, recipe, overrides, changes)
            return pipeline.finetune_recipe(loaded, folder)
    return folder / "encoder"


@moved_up("out")
def pretrain(
    recipe: PathLike = "pretrain-tiny",
    *,
    out: PathLike,
    corpus: PathLike | None = None,
    device: str = "auto",
    dry_run: bool = False,
    overrides: Texts = (),
    overwrite: bool = False,
    **settings: Any,
) -> Path:
    """Pre-train an encoder by a recipe; run it again to go on; several processes as for `run`.

    Args:
        recipe: Packaged name or YAML file.
        out: Folder; the encoder is in ``out/encoder``. Several processes all see it.
        corpus: Takes the place of the recipe's ``corpus``.
        device: Where to compute: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        dry_run: Say what would be done and what it takes, and train nothing.
        overrides: Changes of the recipe as text, ``section.key=value``.
        overwrite: Replace what no command of ours wrote, too.
        **settings: Changes of the recipe.

    Returns:
        The folder of the encoder.

    Raises:
        SpeechftError: Something is wrong with recipe or corpus.
    """
    from speechft.devices import use_device
    from speechft.finetuning.config import PretrainingConfig
    from speechft.finetuning.distributed import main_process_scope
    from speechft.finetuning.pretraining import pretrain as follow
    from speechft.finetuning.pretraining import pretrain_recipe
    from speechft.recipe import load_recipe

    folder = folder_of(out)
    changes = changes_of(settings, {"corpus": corpus})
    with overwriting(overwrite), use_device(device), main_process_scope(follow) as first:
        if first:
            config = load_recipe(PretrainingConfig, recipe, overrides, changes)
            pretrain_recipe(config, folder, dry_run=dry_run)
    return folder / "encoder"


@moved_up("out")
def evaluate(
    encoders: Any,
    *,
    out: PathLike,
    tasks: Texts | None = None,
    corpus: Paths = "synthetic",
    protocol: str = "mini",
    seed: int = 0,
    seeds: int = 1,
    layers: str | int | Sequence[int] | None = None,
    mode: str = "exact",
    limit: int | None = None,
    cache: PathLike | bool = True,
    frame_cache_gb: float | None = None,
    precision: str | None = None,
    device: str = "auto",
    language_model: PathLike | None = None,
    overrides: Texts = (),
    overwrite: bool = False,
    **settings: Any,
) -> list[ResultRow]:
    """Evaluate frozen encoders with probes; run it again to go on.

    Args:
        encoders: Folders, packaged names or hub ids, one or several; or encoders of your own:
            objects, ``my.py:MyEncoder``, or entry points, see docs/encoders.md.
        out: Folder for results and predictions.
        tasks: Keys of tasks, in a list or a text with commas; ``all`` for SUPERB's ten;
            ``available``, as None, for all that the corpora support.
        corpus: Embedded corpus, CSV, or folder of a prepared corpus; one or several, a task takes
            the first that has lists of its own for it, else the first that supports it.
        protocol: ``default``, ``s3prl`` or ``mini``.
        seed: First seed of the probes.
        seeds: Probe seeds, trained side by side.
        layers: Hidden states that get probes of their own beside those on the weighted sum of all:
            ``all``, ``last``, or numbers: ``"6,9-12"``; 0 is the input of the first layer.
        mode: How hidden states are computed: ``exact`` or ``s3prl``, see `load_encoder`.
        limit: So many utterances of every split at most, for a quick look.
        cache: Folder of features that evaluations share; True is ``out/cache``, False none.
        frame_cache_gb: Quota of frames in it.
        precision: Of the encoder: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        device: Where to compute: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        language_model: Word n-gram model, ``.arpa`` or ``.arpa.gz``: a second figure of ``asr``.
        overrides: Further fields of `EvaluationConfig` as text, ``beam_search.weight=1.5``.
        overwrite: Replace what no command of ours wrote, too.
        **settings: Further fields: ``beam_search__weight=1.5``.

    Returns:
        A row for each encoder, task and metric.

    Raises:
        SpeechftError: Something is wrong with an encoder, a task or the corpus.
    """
    from speechft.devices import use_device
    from speechft.evaluation.config import evaluation_config
    from speechft.evaluation.encoders import evaluate as follow

    folder = folder_of(out)
    given = {
        "tasks": tasks,
        "protocol": protocol,
        "seeds": seeds,
        "layers": layers,
        "mode": mode,
        "limit": limit,
        "cache": str(folder / "cache" if cache is True else cache) if cache else None,
        "frame_cache_gb": frame_cache_gb,
        "precision": precision,
        "language_model": None if language_model is None else str(language_model),
    }
    config = evaluation_config(given, overrides, changes_of(settings, {}))
    with overwriting(overwrite), use_device(device):
        return follow(listed_encoders(encoders), texts_of(corpus), config, folder, seed=seed)


@moved_up("out")
def report(
    folders: Paths,
    *,
    out: PathLike | None = None,
    overwrite: bool = False,
) -> Path:
    """Write ``report.html`` from the files of folders, several side by side; nothing is computed.

    Args:
        folders: That `run`, `finetune`, `evaluate`, `analyze` or a sweep wrote.
        out: Folder for the page; None takes the folder itself, if it is one.
        overwrite: Replace what no command of ours wrote, too.

    Returns:
        The page.

    Raises:
        SpeechftError: A folder holds nothing to report, or the page cannot be written.
    """
    from speechft.reporting import folder as reporting

    given = texts_of(folders)
    if out is None and len(given) == 1 and (address := address_of(given[0])) is not None:
        return report(given, out=address, overwrite=overwrite)
    places = [at_hand(place) for place in given]
    with overwriting(overwrite):
        return reporting.publish_report(places, None if out is None else folder_of(out))


def compare(results: Paths, *, baseline: str | None = None) -> list[Difference]:
    """Compare evaluated encoders on the same items.

    Args:
        results: Folders that `evaluate` or `run` wrote, or their ``results.jsonl``.
        baseline: Encoder that the others are compared with; None takes that of the first place
            which the others started from (pre-trained, alpha 0), else its first.

    Returns:
        A difference for each further encoder, task and metric, with its interval.

    Raises:
        SpeechftError: There is nothing to compare.
    """
    from speechft.evaluation import compare as comparison

    return comparison.compare(_result_files(results), baseline)


def superb_table(results: Paths) -> SuperbTable:
    """Put the SUPERB row of evaluated encoders beside published ones.

    Args:
        results: Folders that `evaluate` or `run` wrote, or their ``results.jsonl``.

    Raises:
        SpeechftError: They hold no figure of a task of SUPERB, or one name stands for two encoders.
    """
    from speechft.belonging import read_evaluated
    from speechft.evaluation import superb_table as tables

    return tables.superb_table([e.row for e in read_evaluated(_result_files(results))])


def inspect(
    name: PathLike, config: PathLike | None = None, bases: PathLike | None = None
) -> Inspection | DataInspection | BaseRanking:
    """Say what an encoder or data is, and what can be done with it.

    Args:
        name: An encoder, checkpoint, recording, table, manifest, folder or prepared corpus.
        config: Configuration of a checkpoint that does not tell it.
        bases: Folder: rank the encoders below it by whether ``name`` was tuned from them.

    Raises:
        SpeechftError: It is none of these, or cannot be read.
    """
    if bases is not None:
        from speechft.merging.bases import rank_bases

        return rank_bases(name, bases)
    from speechft.features.looks import inspect_anything

    return inspect_anything(name, config)


def _result_files(results: Paths) -> list[Path]:
    places = [at_hand(place) for place in texts_of(results)]
    return [place / "results.jsonl" if place.is_dir() else place for place in places]


@moved_up("out", "shards")
def prepare(
    corpus: str,
    root: PathLike | None = None,
    *,
    out: PathLike | None = None,
    allow_missing: bool = False,
    headers_only: bool = False,
    jobs: int = 0,
    shards: PathLike | None = None,
    shard_size: int = 1000,
    overrides: Texts = (),
    overwrite: bool = False,
    **settings: Any,
) -> Corpus:
    """Turn a corpus as it came out of its archive into manifests.

    Args:
        corpus: Name of the corpus.
        root: The unpacked archive; embedded corpora have none.
        out: Folder for the manifests; embedded corpora have a place in the cache.
        allow_missing: Leave out recordings that are missing, rather than stop.
        headers_only: Do not look for NaN, silence and clipping.
        jobs: Recordings inspected at a time; 0 goes by the processors.
        shards: Also write Lhotse Shar here, and return that corpus.
        shard_size: Recordings a shard.
        overrides: Settings of the corpus as text, ``subset=first-10h``.
        overwrite: Replace what no command of ours wrote, too.
        **settings: Settings of the corpus: ``subset="first-10h"``.

    Returns:
        The corpus.

    Raises:
        SpeechftError: An argument is wrong, or the corpus is damaged.
    """
    from speechft.data.corpora.build import Options
    from speechft.data.corpora.prepare import prepare as prepare_corpus
    from speechft.data.shar import export_shards

    options = Options(allow_missing, samples=not headers_only, jobs=jobs)
    texts = [*texts_of(overrides), *(f"{key}={value}" for key, value in settings.items())]
    place = None if out is None else folder_of(out)
    with overwriting(overwrite):
        found = prepare_corpus(corpus, None if root is None else str(root), place, options, texts)
        if shards is None:
            return found
        return export_shards(found, folder_of(shards), shard_size=shard_size)
