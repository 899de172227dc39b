"""Sweep and search from Python; the command line has the same options, read off these functions."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from speechft.arguments import (
    PathLike,
    changes_of,
    folder_of,
    listed_encoders,
    names_of,
    texts_of,
)
from speechft.storage.uploads import moved_up

if TYPE_CHECKING:
    from speechft.evaluation.config import EvaluationConfig
    from speechft.merging.config import MergeSettings
    from speechft.sweeping.search import Search
    from speechft.sweeping.sweep import Sweep


@moved_up("out")
def sweep(
    base: Any,
    tuned: Any,
    *,
    out: PathLike,
    alphas: str | float | Sequence[float] = "0:1:0.1",
    by: str | None = None,
    tasks: str | Sequence[str] = "available",
    corpus: PathLike | Sequence[PathLike] = (),
    tuned_on: str | Sequence[str] = "",
    keep_within: float = 1.0,
    method: str = "linear",
    options: Mapping[str, Any] | str | Sequence[str] = (),
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
    allow: str | Sequence[str] = (),
    force: bool = False,
    overrides: str | Sequence[str] = (),
    overwrite: bool = False,
    **settings: Any,
) -> Sweep:
    """Measure merges of a base and encoders tuned from it, none of them written; choose an alpha.

    Args:
        base: Encoder folder, weight file, packaged name or hub id.
        tuned: The same, one or several, tuned from the base.
        out: Folder for ``results.jsonl``, ``sweep.json`` and pictures.
        alphas: FIRST:LAST:STEP, or numbers with commas; the base is always measured.
        by: layers or module: every part moves alone, the others stay the base's.
        tasks: Keys of tasks, see `evaluate`.
        corpus: See `evaluate`; by default what TUNED's folder tells that it was tuned on, else
            the embedded one, synthetic.
        tuned_on: Tasks that were tuned on, with commas; by default what TUNED's folder tells.
        keep_within: Points that may be lost on each other task: the upper bound of the paired 90 %
            interval on dev, not the point.
        method: Of merge, with an alpha.
        options: Options of the method.
        rules: Coefficients by layer that do not move, see `merge`.
        weight_norm: gv (official) or fused.
        dtype: Of the merged weights: auto, keep, float32, float16 or bfloat16.
        extrapolate: Let alphas lie outside 0 to 1.
        test: Report the test split beside what is chosen on dev.
        suggest: Instead, suggest an alpha without labels of other tasks, from the head that the
            encoder was tuned with; not yet judged. It takes corpus, method, options, rules, weight
            norm, dtype, allow, force, seed, precision, device and the setting
            max_left_out; whatever else is refused.
        protocol: mini, default or s3prl.
        seed: First seed of the probes.
        seeds: Probe seeds.
        limit: So many utterances of every split at most.
        precision: Of the encoder: auto, fp32, bf16 or fp16.
        device: Where to compute: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        allow: Checks of `merge` that may fail; what they object to is said and written.
        force: See `merge`.
        overrides: Further fields of `EvaluationConfig` as text, ``cache=features``.
        overwrite: Replace what no command of ours wrote, too.
        **settings: Further fields.

    Returns:
        Rows, every merge against the base, and the choice.

    Raises:
        SpeechftError: Something is wrong with an encoder, a task, the corpus or the alphas.
    """
    given = locals()
    from speechft.devices import use_device
    from speechft.merging.config_file import split_options
    from speechft.storage.outputs import overwriting
    from speechft.sweeping import suggestion
    from speechft.sweeping import sweep as sweeping
    from speechft.sweeping.settings import Rule, SweepSettings, read_alphas

    if suggest:
        _check_suggestion(given)
    asked = SweepSettings(
        base=base,
        tuned=tuple(listed_encoders(tuned)),
        merge=_merge(
            allow,
            force,
            method=method,
            options=dict(options) if isinstance(options, Mapping) else split_options(options),
            rules=rules,
            weight_norm=weight_norm,
            dtype=dtype,
        ),
        alphas=read_alphas(alphas, extrapolate=extrapolate),
        by=by,  # type: ignore[arg-type] # checked there
        tuned_on=names_of(tuned_on),
        rule=Rule(keep_within),
    )
    config = _evaluation(overrides, settings, tasks, protocol, seeds, limit, precision)
    places, folder = texts_of(corpus), folder_of(out)
    with overwriting(overwrite), use_device(device):
        if not suggest:
            return sweeping.sweep(asked, places, config, folder, seed=seed, test=test)
        about = config.precision, config.max_left_out
        return suggestion.suggest(asked, places, folder, seed, *about)


@moved_up("out")
def search(
    base: Any,
    tuned: Any,
    *,
    out: PathLike,
    trials: int = 30,
    groups: int = 3,
    methods: str | Sequence[str] = "linear",
    tasks: str | Sequence[str] = "available",
    corpus: PathLike | Sequence[PathLike] = (),
    tuned_on: str | Sequence[str] = "",
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
    allow: str | Sequence[str] = (),
    force: bool = False,
    overrides: str | Sequence[str] = (),
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
        methods: Merge methods to choose from, with commas: those that take alphas by layer.
        tasks: See `sweep`.
        corpus: See `sweep`.
        tuned_on: See `sweep`.
        keep_within: See `sweep`.
        weight_norm: See `sweep`.
        dtype: See `sweep`.
        test: Report base and choice on test in the end.
        protocol: See `sweep`.
        seed: Of probes, halves and trials.
        seeds: See `sweep`.
        limit: See `sweep`.
        precision: See `sweep`.
        device: See `sweep`.
        allow: See `sweep`.
        force: See `sweep`.
        overrides: See `sweep`.
        overwrite: See `sweep`.
        **settings: See `sweep`.

    Raises:
        SpeechftError: optuna is not installed, or something is wrong with an encoder, a task or the
            corpus.
    """
    from speechft.devices import use_device
    from speechft.storage.outputs import overwriting
    from speechft.sweeping import search as searching
    from speechft.sweeping.settings import Rule, SweepSettings
    from speechft.sweeping.space import SearchSettings

    asked = SearchSettings(
        SweepSettings(
            base=base,
            tuned=tuple(listed_encoders(tuned)),
            merge=_merge(allow, force, weight_norm=weight_norm, dtype=dtype),
            alphas=(0.25, 0.5, 1.0),
            tuned_on=names_of(tuned_on),
            rule=Rule(keep_within),
        ),
        names_of(methods),
        groups,
        trials,
    )
    config = _evaluation(overrides, settings, tasks, protocol, seeds, limit, precision)
    with overwriting(overwrite), use_device(device):
        return searching.search(
            asked, texts_of(corpus), config, folder_of(out), seed=seed, test=test
        )


_SUGGESTION = (
    *("base", "tuned", "out", "suggest", "corpus", "seed", "precision", "device", "overwrite"),
    *("method", "options", "rules", "weight_norm", "dtype", "allow", "force", "max_left_out"),
)
"""Arguments of `sweep` that a suggestion takes; it has no use for whatever else there is."""


def _check_suggestion(given: Mapping[str, Any]) -> None:
    """Refuse arguments of `sweep` without effect on a suggestion, unless they are at their default.

    Raises:
        ConfigError: Names them.
    """
    from speechft.errors import ConfigError

    idle: list[str] = []
    for name, parameter in inspect.signature(sweep).parameters.items():
        value, keys = given[name], parameter.kind is parameter.VAR_KEYWORD
        default = None if keys else parameter.default
        if name not in _SUGGESTION and value != default and (value or default):
            texts = list(value) if keys else texts_of(value) if name == "overrides" else [name]
            told = [text for text in texts if text.partition("=")[0] not in _SUGGESTION]
            option = "--set" if name == "overrides" else f"--{name.replace('_', '-')}"
            idle += told if keys else [option] * bool(told)
    if idle:
        raise ConfigError(
            f"--suggest takes no {', '.join(idle)}: it looks at the tuned task alone, at alphas of "
            "its own",
            hint="leave that out, or leave --suggest out to sweep with labels",
        )


def _merge(allow: str | Sequence[str], force: bool, **settings: Any) -> MergeSettings:
    """Return how encoders are merged; what is forced stands among the checks that may fail."""
    from speechft.merging.checks import FORCED, read_allowed
    from speechft.merging.config import MergeSettings

    allowed = {*read_allowed(allow), *(FORCED if force else ())}
    return MergeSettings(allow=read_allowed(allowed), **settings)


def _evaluation(
    overrides: Sequence[str],
    settings: Mapping[str, Any],
    tasks: str | Sequence[str],
    protocol: str,
    seeds: int,
    limit: int | None,
    precision: str | None,
) -> EvaluationConfig:
    from speechft.evaluation.config import evaluation_config

    given = {
        "tasks": tasks,
        "protocol": protocol,
        "seeds": seeds,
        "limit": limit,
        "precision": precision,
    }
    return evaluation_config(given, overrides, changes_of(settings, {}))
