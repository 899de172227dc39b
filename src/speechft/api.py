"""The Python functions behind the verbs; the command line calls the same ones.

Arguments have the names of the verb's options. What a verb takes as ``--set section.key=value`` is
a keyword here, sections joined by two underscores: ``finetuning__steps=100``. Heavy imports happen
inside the functions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechft.outputs import overwriting

if TYPE_CHECKING:
    from speechft.analysis.rows import AnalysisRow
    from speechft.data.manifest import Corpus
    from speechft.encoders.inspection import Inspection
    from speechft.evaluation.compare import Difference
    from speechft.evaluation.superb_table import SuperbTable
    from speechft.features.looks import DataInspection
    from speechft.merging.bases import BaseRanking
    from speechft.pipeline import Summary
    from speechft.results import ResultRow
    from speechft.sweeping.search import Search
    from speechft.sweeping.sweep import Sweep

PathLike = str | Path


def run(
    recipe: PathLike = "demo",
    *,
    out: PathLike,
    corpus: PathLike | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
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

    changes = _changes(settings, {"data.corpus": corpus})
    with overwriting(overwrite), use_device(device), main_process_scope(follow) as first:
        if not first:
            return None
        loaded = load_recipe(Recipe, recipe, overrides, changes)
        return pipeline.run(loaded, _folder(out), command=command)


def finetune(
    recipe: PathLike = "demo",
    *,
    out: PathLike,
    strategy: str | None = None,
    corpus: PathLike | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
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

    folder = _folder(out)
    changes = _changes(settings, {"finetuning.strategy": strategy, "data.corpus": corpus})
    with overwriting(overwrite), use_device(device), main_process_scope(follow) as first:
        if first:
            loaded = load_recipe(Recipe, recipe, overrides, changes)
            return pipeline.finetune_recipe(loaded, folder)
    return folder / "encoder"


def pretrain(
    recipe: PathLike = "pretrain-tiny",
    *,
    out: PathLike,
    corpus: PathLike | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    **settings: Any,
) -> Path:
    """Pre-train an encoder by a recipe; run it again to go on.

    Args:
        recipe: Packaged name or YAML file.
        out: Folder; the encoder is in ``out/encoder``.
        corpus: Takes the place of the recipe's ``corpus``.
        device: Where to compute: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        overrides: Changes of the recipe as text, ``section.key=value``.
        overwrite: Replace what no command of ours wrote, too.
        **settings: Changes of the recipe.

    Returns:
        The folder of the encoder.

    Raises:
        SpeechftError: Something is wrong with recipe or corpus.
    """
    from speechft.data.corpora import find_corpus
    from speechft.devices import use_device
    from speechft.encoders.load import digest_of
    from speechft.finetuning import pretraining
    from speechft.finetuning.config import PretrainingConfig
    from speechft.recipe import load_recipe
    from speechft.runs import lock, stage

    folder = _folder(out)
    config = load_recipe(
        PretrainingConfig, recipe, overrides, _changes(settings, {"corpus": corpus})
    )
    inputs = {}
    for name, encoder in (("start", config.start_from), ("targets", config.targets.source)):
        if encoder is not None:
            inputs[name] = digest_of(encoder)
    with overwriting(overwrite), lock(folder):
        inputs["corpus"] = (found := find_corpus(config.corpus, folder / "corpus")).digest
    job: Any = {"name": "pretrain", "config": config.as_dict(), "inputs": inputs}
    with (
        overwriting(overwrite),
        use_device(device),
        stage(folder, outputs=("encoder", "targets.npz"), **job) as work,
    ):
        if not work.done:
            pretraining.pretrain(config, found, work.scratch)
    return folder / "encoder"


def evaluate(
    encoders: Any,
    *,
    out: PathLike,
    tasks: str | Sequence[str] | None = None,
    corpus: PathLike | Sequence[PathLike] = "synthetic",
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
    overrides: Sequence[str] = (),
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
    from speechft import pipeline
    from speechft.devices import use_device
    from speechft.evaluation.config import evaluation_config

    folder = _folder(out)
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
    config = evaluation_config(given, overrides, _changes(settings, {}))
    with overwriting(overwrite), use_device(device):
        return pipeline.evaluate(_listed(encoders), _texts(corpus), config, folder, seed=seed)


def sweep(
    base: Any,
    tuned: Any,
    *,
    out: PathLike,
    alphas: str | float | Sequence[float] = "0:1:0.1",
    by: str | None = None,
    tasks: str | Sequence[str] | None = None,
    corpus: PathLike | Sequence[PathLike] = "synthetic",
    tuned_on: str | Sequence[str] = (),
    keep_within: float = 1.0,
    method: str = "linear",
    options: Mapping[str, Any] | Sequence[str] = (),
    rules: Mapping[str, float | str] | Sequence[str] = (),
    weight_norm: str = "gv",
    dtype: str = "auto",
    extrapolate: bool = False,
    test: bool = False,
    suggest: bool = False,
    protocol: str = "mini",
    seed: int = 0,
    seeds: int = 1,
    limit: int | None = None,
    precision: str | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    **settings: Any,
) -> Sweep:
    """Measure merges of a base and encoders tuned from it, none of them written; choose an alpha.

    Args:
        base: Encoder folder, weight file, packaged name or hub id.
        tuned: The same, one or a list, tuned from the base.
        out: Folder for ``results.jsonl``, ``sweep.json`` and pictures.
        alphas: ``FIRST:LAST:STEP``, numbers with commas, or numbers; the base is always measured.
        by: ``layers`` or ``module``: every part moves alone, the others stay the base's.
        tasks: Keys of tasks, see `evaluate`.
        corpus: See `evaluate`.
        tuned_on: Tasks that were tuned on; by default what the folder of the tuned encoders tells.
        keep_within: Points that may be lost on each other task: the upper bound of the paired 90 %
            interval on dev, not the point.
        method: One of `speechft.merging.methods.METHODS` that takes an alpha.
        options: Options of the method.
        rules: Coefficients by layer that do not move, see `merge`.
        weight_norm: ``gv`` or ``fused``.
        dtype: Type of the merged weights, see `merge`.
        extrapolate: Let alphas lie outside 0 to 1.
        test: Report the test split beside what is chosen on dev.
        suggest: Instead, suggest an alpha without labels of other tasks, from the head that the
            encoder was tuned with; not yet judged.
        protocol: See `evaluate`.
        seed: First seed of the probes.
        seeds: Probe seeds.
        limit: So many utterances of every split at most.
        precision: Of the encoder.
        device: Where to compute: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        overrides: Further fields of `EvaluationConfig` as text, ``cache=features``.
        overwrite: Replace what no command of ours wrote, too.
        **settings: Further fields.

    Returns:
        Rows, every merge against the base, and the choice.

    Raises:
        SpeechftError: Something is wrong with an encoder, a task, the corpus or the alphas.
    """
    from speechft.devices import use_device
    from speechft.errors import ConfigError
    from speechft.evaluation.config import evaluation_config
    from speechft.merging.config import MergeSettings
    from speechft.merging.config_file import split_options
    from speechft.sweeping import suggestion
    from speechft.sweeping import sweep as sweeping
    from speechft.sweeping.settings import Rule, SweepSettings, read_alphas

    asked = SweepSettings(
        base=base,
        tuned=tuple(_listed(tuned)),
        merge=MergeSettings(
            method=method,
            options=dict(options) if isinstance(options, Mapping) else split_options(options),
            rules=rules,  # type: ignore[arg-type] # a sequence is read there
            weight_norm=weight_norm,  # type: ignore[arg-type] # checked there
            dtype=dtype,  # type: ignore[arg-type] # checked there
        ),
        alphas=read_alphas(alphas, extrapolate=extrapolate),
        by=by,  # type: ignore[arg-type] # checked there
        tuned_on=_names(tuned_on),
        rule=Rule(keep_within),
    )
    given = {
        "tasks": tasks,
        "protocol": protocol,
        "seeds": seeds,
        "limit": limit,
        "precision": precision,
    }
    config = evaluation_config(given, overrides, _changes(settings, {}))
    if suggest:
        if by is not None or test or tuned_on:
            raise ConfigError("--suggest takes neither --by nor --test nor --tuned-on")
        with overwriting(overwrite), use_device(device):
            return suggestion.suggest(
                asked, _texts(corpus), _folder(out), seed=seed, precision=config.precision
            )
    with overwriting(overwrite), use_device(device):
        return sweeping.sweep(asked, _texts(corpus), config, _folder(out), seed=seed, test=test)


def search(
    base: Any,
    tuned: Any,
    *,
    out: PathLike,
    trials: int = 30,
    groups: int = 3,
    methods: str | Sequence[str] = "linear",
    tasks: str | Sequence[str] | None = None,
    corpus: PathLike | Sequence[PathLike] = "synthetic",
    tuned_on: str | Sequence[str] = (),
    keep_within: float = 1.0,
    weight_norm: str = "gv",
    dtype: str = "auto",
    test: bool = False,
    protocol: str = "mini",
    seed: int = 0,
    seeds: int = 1,
    limit: int | None = None,
    precision: str | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    **settings: Any,
) -> Search:
    """Search coefficients by layer group and a method with optuna, by the rule of `sweep`.

    Trials are guided and pruned on one half of dev, the choice is made on the other; test stays
    closed until then.

    Args:
        base: See `sweep`.
        tuned: See `sweep`.
        out: Folder for ``results.jsonl``, ``search.json`` and ``chosen.yaml``, which
            ``speechft merge --config`` takes.
        trials: Merges to measure.
        groups: Groups of neighbouring layers with a coefficient each, beside one for the rest.
        methods: Merge methods to choose from, those that take coefficients by layer.
        tasks: See `evaluate`.
        corpus: See `evaluate`.
        tuned_on: See `sweep`.
        keep_within: See `sweep`.
        weight_norm: ``gv`` or ``fused``.
        dtype: Type of the merged weights, see `merge`.
        test: Report base and choice on test in the end.
        protocol: See `evaluate`.
        seed: Of probes, halves and trials.
        seeds: Probe seeds.
        limit: So many utterances of every split at most.
        precision: Of the encoder.
        device: Where to compute: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        overrides: Further fields of `EvaluationConfig` as text, ``cache=features``.
        overwrite: Replace what no command of ours wrote, too.
        **settings: Further fields.

    Raises:
        SpeechftError: optuna is not installed, or something is wrong with an encoder, a task or the
            corpus.
    """
    from speechft.devices import use_device
    from speechft.evaluation.config import evaluation_config
    from speechft.merging.config import MergeSettings
    from speechft.sweeping import search as searching
    from speechft.sweeping.settings import Rule, SweepSettings

    asked = searching.SearchSettings(
        SweepSettings(
            base=base,
            tuned=tuple(_listed(tuned)),
            merge=MergeSettings(weight_norm=weight_norm, dtype=dtype),  # type: ignore[arg-type]
            alphas=(0.25, 0.5, 1.0),
            tuned_on=_names(tuned_on),
            rule=Rule(keep_within),
        ),
        _names(methods),
        groups,
        trials,
    )
    given = {
        "tasks": tasks,
        "protocol": protocol,
        "seeds": seeds,
        "limit": limit,
        "precision": precision,
    }
    config = evaluation_config(given, overrides, _changes(settings, {}))
    with overwriting(overwrite), use_device(device):
        return searching.search(asked, _texts(corpus), config, _folder(out), seed=seed, test=test)


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
    from speechft.analysis.settings import read_settings
    from speechft.devices import use_device
    from speechft.reporting.analysis import analyze_and_draw

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
    folder = _folder(out)
    with overwriting(overwrite), use_device(device):
        return analyze_and_draw(base, _listed(encoders), str(corpus), folder, settings)


def report(
    folders: PathLike | Sequence[PathLike],
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

    places = [_folder(place) for place in _texts(folders)]
    with overwriting(overwrite):
        return reporting.publish_report(places, None if out is None else _folder(out))


def compare(
    results: PathLike | Sequence[PathLike], *, baseline: str | None = None
) -> list[Difference]:
    """Compare evaluated encoders on the same items.

    Args:
        results: Folders that `evaluate` or `run` wrote, or their ``results.jsonl``.
        baseline: Encoder that the others are compared with; None takes the first.

    Returns:
        A difference for each further encoder, task and metric, with its interval.

    Raises:
        SpeechftError: There is nothing to compare.
    """
    from speechft.evaluation import compare as comparison

    return comparison.compare(_result_files(results), baseline)


def superb_table(results: PathLike | Sequence[PathLike]) -> SuperbTable:
    """Put the SUPERB row of evaluated encoders beside published ones.

    Args:
        results: Folders that `evaluate` or `run` wrote, or their ``results.jsonl``.

    Raises:
        SpeechftError: They hold no figure of a task of SUPERB.
    """
    from speechft.evaluation import superb_table as tables
    from speechft.results import read_rows

    return tables.superb_table([r for file in _result_files(results) for r in read_rows(file)])


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


def _result_files(results: PathLike | Sequence[PathLike]) -> list[Path]:
    places = [_folder(place) for place in _texts(results)]
    return [place / "results.jsonl" if place.is_dir() else place for place in places]


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
    overrides: Sequence[str] = (),
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
    texts = [*overrides, *(f"{key}={value}" for key, value in settings.items())]
    place = None if out is None else _folder(out)
    with overwriting(overwrite):
        found = prepare_corpus(corpus, None if root is None else str(root), place, options, texts)
        if shards is None:
            return found
        return export_shards(found, _folder(shards), shard_size=shard_size)


def _folder(path: PathLike) -> Path:
    return Path(os.path.expanduser(path))


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return names of a list, or of a text with commas."""
    parts = given.split(",") if isinstance(given, str) else given
    return tuple(part.strip() for part in parts if part.strip())


def _texts(names: PathLike | Sequence[PathLike]) -> list[str]:
    """Return one or several names as a list of texts."""
    return [str(name) for name in ([names] if isinstance(names, (str, Path)) else names)]


def _listed(encoders: Any) -> list[Any]:
    """Return one or several encoders, names or objects, as a list; paths become text."""
    several = not isinstance(encoders, (str, Path)) and not callable(encoders)
    listed = list(encoders) if several and hasattr(encoders, "__iter__") else [encoders]
    return [str(item) if isinstance(item, Path) else item for item in listed]


def _changes(settings: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return changes by key; options that were given come last, so that they win."""
    changes = {key.replace("__", "."): value for key, value in settings.items()}
    return changes | {key: value for key, value in options.items() if value is not None}
