"""What an evaluation keeps of a trained probe: its weights, and the description beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save

from speechft.naming import public
from speechft.storage.files import atomic_write
from speechft.tasks.saved import (
    PIPELINE_FILE,
    PROBE_WEIGHTS,
    SavedHead,
    saved_search,
    write_record,
)

if TYPE_CHECKING:
    from speechft.evaluation.candidates import Candidate
    from speechft.evaluation.config import EvaluationConfig, ProbeConfig
    from speechft.evaluation.probe import ProbeResult
    from speechft.tasks.base import Task


def save_pipeline(
    folder: Path,
    result: ProbeResult,
    task: Task,
    config: ProbeConfig,
    *,
    protocol: str,
    candidate: Candidate,
    digest: str,
    evaluation: EvaluationConfig,
) -> None:
    """Write a trained probe, and what else it takes to predict with it.

    Args:
        folder: Where it goes; made.
        result: The chosen probe.
        task: Its task.
        config: Sizes of its head.
        protocol: Name of the protocol.
        candidate: The encoder.
        digest: Of the encoder.
        evaluation: Precision and mode of the encoder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / PROBE_WEIGHTS) as file:
        file.write(save({n: tensor.contiguous() for n, tensor in result.weights.items()}))
    search = task.language_model
    known = SavedHead(
        task=task.name,
        protocol=protocol,
        vocabulary=list(result.vocabulary.symbols),
        states=len(result.layer_weights),
        dim=result.dim,
        hidden=config.hidden,
        units=list(config.units),
        encoder=public(candidate.record()),
        encoder_digest=digest,
        precision=evaluation.precision,
        mode=evaluation.mode,
        learning_rate=result.learning_rate,
        setting=result.setting,
        language_model=None if search is None else saved_search(search),
    )
    write_record(folder / PIPELINE_FILE, known)
