"""A trained head on disk: its weights beside ``pipeline.json``, which says all that it takes.

Fine-tuning and evaluation write the same description, so that one reader serves both: a tuned head
on the encoder's last hidden state, or a probe on the weighted sum of hidden states.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field

from speechft.config import Config, build
from speechft.devices import Precision
from speechft.errors import CheckpointError, ConfigError
from speechft.naming import public_name
from speechft.storage.files import file_digest, read_json, write_json
from speechft.storage.headers import read_header

if TYPE_CHECKING:
    from torch import nn

    from speechft.data.labels import Vocabulary
    from speechft.tasks.base import Task
    from speechft.tasks.word_search import LanguageModel

PIPELINE_FILE = "pipeline.json"
PROBE_WEIGHTS = "probe.safetensors"

M = TypeVar("M", bound="nn.Module")
Size = Annotated[int, Field(ge=1, le=1 << 16)]


class SavedSearch(Config):
    """The language model that figures were decoded with, and the settings of the search."""

    name: str
    """Of the file; its place leaves no machine."""
    digest: str
    """SHA-256 of the file."""
    weight: float
    word_score: float
    beam: int
    beam_threshold: float


class SavedHead(Config):
    """What ``pipeline.json`` holds."""

    task: str
    """Key of the task."""
    protocol: str
    """Protocol of the evaluation; ``finetuning`` of a tuned head."""
    vocabulary: list[str] = Field(min_length=1, max_length=1_000_000)
    """Symbols of the training split, in the order of the logits."""
    states: int = Field(ge=1, le=1_000)
    """Hidden states that it sees."""
    dim: Size
    """D of the features."""
    hidden: Annotated[int, Field(ge=0, le=1 << 16)] | None
    """Size of the projection; null for none."""
    units: list[Size] = Field(max_length=16)
    """Sizes of further layers, see `Model.head`."""
    recurrent: list[Size] = Field(default_factory=list, max_length=64)
    """Units of a BiLSTM head that stands in for the task's own, by layer."""
    encoder: Any
    """The encoder by its name, and by its place relative to this file where it lies beside."""
    encoder_digest: str
    """What the encoder must have."""
    precision: Precision
    """Of the encoder's forward pass."""
    mode: str = Field(default="exact", pattern="^(exact|s3prl)$")
    layers: str | list[int] = "all"
    """The hidden states that it sees; ``last`` of a tuned head."""
    learning_rate: float | None = None
    setting: (
        tuple[Annotated[float, Field(ge=0, le=1)], Annotated[int, Field(ge=1, le=10_001)]] | None
    ) = None
    """Of the decision, chosen on dev."""
    weights: str = Field(default=PROBE_WEIGHTS, pattern=r"^[A-Za-z0-9_-]+\.safetensors$")
    """Name of the file of weights beside this one."""
    weighted: bool = True
    """Whether the weights hold those of the weighted sum, ``featurizer.weights``, and the head as
    ``head.*``; a tuned head is all that its file holds."""
    language_model: SavedSearch | None = None
    """What its figures were decoded with."""

    def head(self, task: Task, vocabulary: Vocabulary) -> nn.Module:
        """Build the head, without its weights."""
        if self.recurrent:
            from speechft.tasks.recurrent import RecurrentHead

            return RecurrentHead(
                self.dim, len(vocabulary), projection=self.hidden, hidden=self.recurrent
            )
        return task.probe_head(self.dim, vocabulary, hidden=self.hidden, units=tuple(self.units))


def saved_search(model: LanguageModel) -> SavedSearch:
    """Return what is kept of a language model: name, digest and settings."""
    return SavedSearch(
        name=public_name(model.file),
        digest=file_digest(model.file),
        weight=model.weight,
        word_score=model.word_score,
        beam=model.beam,
        beam_threshold=model.beam_threshold,
    )


def write_record(path: Path, known: SavedHead) -> None:
    """Write a description, fields at their defaults left out."""
    always = {"task", "protocol", "vocabulary", "states", "dim", "hidden", "units", "encoder"}
    always |= {"encoder_digest", "precision", "mode"}
    content = known.model_dump(mode="json")
    changed = known.model_dump(mode="json", exclude_defaults=True)
    write_json(path, {n: v for n, v in content.items() if n in always or n in changed})


def read_record(path: Path) -> SavedHead:
    """Read a description.

    Raises:
        CheckpointError: It is something else.
    """
    content = read_json(path)
    try:
        return build(SavedHead, content, str(path))
    except ConfigError as error:
        raise CheckpointError(
            error.message, hint="evaluate or fine-tune that encoder again"
        ) from None


def with_weights(
    make: Callable[[], M],
    path: Path,
    other: str,
    part: Callable[[M], nn.Module] = lambda module: module,
) -> M:
    """Return a module with the weights of a file; shapes are compared before it is built.

    Args:
        make: Makes the module.
        path: Safetensors that anybody may have written.
        other: What the file holds where they do not fit.
        part: Returns the part of the module that the file holds.

    Raises:
        CheckpointError: The file is damaged, or of another module.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with torch.device("meta"):
        state = part(make()).state_dict()
        wanted = {name: tuple(tensor.shape) for name, tensor in state.items()}
    entries, _ = read_header(path)
    if wanted != {name: entry.shape for name, entry in entries.items()}:
        raise CheckpointError(f"{path} holds {other}")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not all(
        tensor.is_floating_point() and tensor.isfinite().all() for tensor in weights.values()
    ):
        raise CheckpointError(f"{path} holds weights that are no finite numbers")
    made = make()
    part(made).load_state_dict(weights)
    return made
