"""The card that is published: that of the folder, with its licence, figures and digests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechft.belonging import left_out, newest, settings_of
from speechft.cards.card import Card, read_card, with_metadata
from speechft.cards.licences import check_licence, identifier
from speechft.console import log
from speechft.data.corpora import cards as corpus_cards
from speechft.encoders.conversion.adapters import ADAPTER_NAME
from speechft.errors import CheckpointError, ConfigError, DataError
from speechft.naming import hub_id, is_hub_id
from speechft.publishing.contents import File
from speechft.results import ResultRow, mean_over_seeds, of_all_layers, of_part, read_rows
from speechft.storage.files import CONFIG_NAME, read_json
from speechft.tasks import find_task, is_task, measure_of
from speechft.tasks.base import Task

RESULTS_NAME = "results.jsonl"
_PIPELINES = (("CTC", "automatic-speech-recognition"), ("Classification", "audio-classification"))
"""By the end of a class of transformers, what it is for."""


def published_card(
    folder: Path,
    repo_id: str,
    files: Sequence[File],
    rows: Sequence[ResultRow],
    licence: str | None,
) -> str:
    """Return README.md as it is uploaded; the folder's own stays as it is.

    Args:
        folder: The model.
        repo_id: Where it goes.
        files: What is published with it.
        rows: Figures of this model.
        licence: As the user gave it; None takes what the card tells.

    Raises:
        ConfigError: No licence is known, or the hub does not know the one that was given.
        CheckpointError: The folder's card is damaged.
    """
    metadata, body = read_card(folder)
    told = next((p for n in (CONFIG_NAME, ADAPTER_NAME) if (p := folder / n).is_file()), None)
    config = {} if told is None else read_json(told)
    if not body.strip():
        metadata, body = {**_from_config(config, repo_id), **metadata}, _plain_body(folder, config)
    metadata["license"] = _licence(metadata, licence, body)
    if metadata["license"] != "other":
        metadata = {k: v for k, v in metadata.items() if k not in ("license_name", "license_link")}
    if rows:
        metadata["model_name"] = repo_id.partition("/")[2]
        metadata["eval_results"] = [eval_result(row) for row in rows]
        metadata.pop("model-index", None)
    parts = [body.strip(), *([_figures(rows)] if rows else []), _digests(files)]
    try:
        return with_metadata(metadata, "\n\n".join(parts) + "\n")
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the metadata of the card in {folder} are not what the hub takes: {error}",
            hint="mend the lines between --- at its beginning, or take them out",
        ) from None


def _licence(metadata: dict[str, Any], given: str | None, body: str) -> str:
    """Return the licence: the one that was given, else the one that the card tells.

    Raises:
        ConfigError: There is none, or it is none.
    """
    told = metadata.get("license")
    known = told if isinstance(told, str) and (identifier(told) or told == "other") else None
    if given is not None:
        chosen = check_licence(given)
        if known is not None and known != chosen:
            log(f"licence: {chosen}, as given; the card in the folder says {known}")
        return chosen
    if known is None:
        terms = [line for line in body.splitlines() if line.startswith("|") and "not known" in line]
        lacking = f" ({len(terms)} of its sources tell none)" if terms else ""
        raise ConfigError(
            f"no licence is known for this model{lacking}: it follows from what it was made of "
            "only where all of that has one and the same",
            hint="look at the terms in its card and choose: --license apache-2.0, cc-by-4.0, ...",
        )
    return known


def _from_config(config: Any, repo_id: str) -> dict[str, Any]:
    """Return metadata of a model without a card: what its configuration says, no more."""
    kinds = config.get("architectures") if isinstance(config, dict) else None
    kind = kinds[0] if isinstance(kinds, list) and kinds and isinstance(kinds[0], str) else ""
    origin = config.get("_name_or_path") or config.get("base_model_name_or_path")
    base = hub_id(origin) if isinstance(origin, str) else None
    adapter = "peft_type" in config if isinstance(config, dict) else False
    found = {
        "library_name": "peft" if adapter else "transformers",
        "base_model_relation": "adapter" if adapter else None,
        "pipeline_tag": next((t for end, t in _PIPELINES if kind.endswith(end)), None),
        "base_model": base if base != repo_id else None,
        "tags": ["speech", "speechft"],
    }
    return {name: value for name, value in found.items() if value}


def _plain_body(folder: Path, config: Any) -> str:
    kind = config.get("model_type", "speech") if isinstance(config, dict) else "speech"
    card = Card(title=folder.name, summary=f"A model of the family {kind}.")
    return card.text().partition("\n---\n")[2]


def figures_of(sources: Sequence[Path], digests: set[str]) -> list[ResultRow]:
    """Return the test figures that files of results hold for a model, means over probe seeds.

    Of several evaluations of the same test the newest counts, see `newest`; the others are told.

    Args:
        sources: Files ``results.jsonl``, or folders that hold one.
        digests: By which the model is known in them; rows of others are not its figures.

    Raises:
        DataError: A file cannot be read.
    """
    rows = []
    for source in sources:
        rows += read_rows(source / RESULTS_NAME if source.is_dir() else source)
    own = tested_of(rows, digests)
    if rows and not own:
        named = ", ".join(dict.fromkeys(row.encoder for row in rows))
        raise DataError(
            f"none of the {len(rows)} results is of this model: its SHA-256 is "
            f"{', '.join(sorted(d[:12] for d in digests))}, they are of {named}",
            hint="give the folder of an evaluation of this model with --results",
        )
    alike = {"encoder": "", "encoder_digest": "", "alpha": None}
    counted, older = newest(row.model_copy(update=alike) for row in own)
    for note in left_out(counted, older):
        log(note)
    return mean_over_seeds(counted)


def tested_of(rows: Sequence[ResultRow], digests: set[str]) -> list[ResultRow]:
    """Return a model's figures on test, not on dev, which chose the merge; see `figures_of`."""
    tested = of_part(of_all_layers(rows), "test")
    return [row for row in tested if row.encoder_digest in digests]


def eval_result(row: ResultRow) -> Any:
    """Return a figure as the hub's ``model-index`` has it: with protocol and interval named."""
    from huggingface_hub import EvalResult

    corpus = str(row.details.get("corpus", "not named"))
    known = corpus_cards().get(corpus)
    place = known.hub if known and known.hub else corpus
    task = find_task(row.task) if is_task(row.task) else None
    return EvalResult(
        task_type=_task_type(task),
        task_name=task.title if task else row.task,
        dataset_type=place if is_hub_id(place) else corpus,
        dataset_name=corpus,
        dataset_split=row.split,
        metric_type=row.metric,
        metric_value=round(row.value, 4),
        metric_name=f"{measure_of(row.task, row.metric).heading} ({_how(row)})",
        metric_args={
            "protocol": row.protocol,
            "interval_95": None if row.interval is None else [round(v, 4) for v in row.interval],
            "n": row.n,
            "seeds": row.details.get("seeds", 1),
            "higher_is_better": row.higher_is_better,
            "evaluation": row.evaluation,
        },
        verified=False,
    )


def _task_type(task: Task | None) -> str:
    """Return the hub's name of a task."""
    if task is None or task.model is None:
        return "other"
    if task.label in ("text", "phones"):
        return "automatic-speech-recognition"
    return "audio-classification" if task.level == "utterance" else "other"


def _how(row: ResultRow) -> str:
    interval = "no interval"
    if row.interval is not None:
        interval = f"95 % interval {row.interval[0]:.2f} to {row.interval[1]:.2f}"
    return ", ".join([interval, *_settings(row), f"protocol {row.protocol}", "frozen encoder"])


def _settings(row: ResultRow) -> list[str]:
    """Return what of an evaluation differed from the defaults, such as ``limit 7``."""
    return [f"{name} {value}" for name, value in settings_of(row).items()]


def _figures(rows: Sequence[ResultRow]) -> str:
    """Return the figures as a table."""
    lines = [
        "## Results",
        "",
        "Probes on the frozen encoder, by `speechft evaluate`.",
        "",
        "| task | data, split | figure | value | 95 % interval | items | protocol |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low_high = "" if row.interval is None else f"{row.interval[0]:.2f} to {row.interval[1]:.2f}"
        named = str(row.details.get("corpus", "not named"))
        data = ", ".join([named, row.split, *_settings(row)])
        figure = measure_of(row.task, row.metric).heading
        cells = (row.task, data, figure, f"{row.value:.2f}", low_high, str(row.n), row.protocol)
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines)


def _digests(files: Sequence[File]) -> str:
    rows = [f"| `{f.name}` | {f.size:,} | `{f.sha256}` |" for f in files]
    return "\n".join(["## Files", "", "| file | bytes | SHA-256 |", "|---|---|---|", *rows])
