"""What is known of how an encoder was tuned: its tasks, its folder, the head that was kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from speechft.config import build
from speechft.data.found_again import Recorded, find_again
from speechft.data.labels import Vocabulary
from speechft.encoders.load import digest_of
from speechft.errors import CheckpointError, ConfigError
from speechft.finetuning.config import PRETRAINING, FinetuningConfig
from speechft.finetuning.training_setup import tuning_head
from speechft.runs import STAGE_FILE
from speechft.storage.files import file_digest, read_json
from speechft.tasks import find_task
from speechft.tasks.base import Task
from speechft.tasks.saved import with_weights


@dataclass(frozen=True)
class Tuning:
    """A fine-tuning of ours whose result is an encoder that the user gave."""

    folder: Path
    """With ``encoder``, ``head.safetensors`` and ``vocabulary.json``."""
    config: dict[str, Any]
    """Section ``finetuning`` of its recipe, as it was resolved."""
    digests: tuple[str, ...] = ()
    """Of the corpora that it heard."""

    @property
    def corpora(self) -> list[Recorded]:
        """Return the corpora that it heard, with their places now."""
        return [find_again(self.folder, digest) for digest in self.digests]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return what it was tuned on."""
        several = self.config.get("tasks")
        named = tuple(several) if isinstance(several, dict | list) else ()
        return tuple(map(str, named)) or (str(self.config.get("task")),)


def find_tuning(encoder: Any) -> Tuning | None:
    """Return the fine-tuning that an encoder comes from; None where nothing around it tells.

    Looked at are the folder around the encoder and, in the folder of a run, its fine-tunings: the
    one whose encoder has the same digest.

    Args:
        encoder: As the user gave it.
    """
    if not isinstance(encoder, str | Path) or not Path(encoder).expanduser().is_dir():
        return None
    place = Path(encoder).expanduser().resolve()
    around = place.parent
    if place.name in ("encoder", "adapter") and (found := _read(around)) is not None:
        return found
    files = sorted((around / "finetuning").glob(f"**/{STAGE_FILE}"))
    try:
        digest = digest_of(place) if files else None
    except CheckpointError:  # an adapter may name no base of its own
        return None
    for file in files:
        found = _read(file.parent)
        if found is not None and digest_of(found.folder / "encoder") == digest:
            return found
    return None


def _read(folder: Path) -> Tuning | None:
    if not (folder / STAGE_FILE).is_file():
        return None
    try:
        content = read_json(folder / STAGE_FILE)
    except CheckpointError:
        return None
    if not isinstance(content, dict) or content.get("stage") != "finetune":
        return None
    config = content.get("config")
    tuning = config.get("finetuning") if isinstance(config, dict) else None
    if not isinstance(tuning, dict):
        return None
    inputs = content.get("inputs")
    told = inputs.items() if isinstance(inputs, dict) else ()
    heard = (str(digest) for name, digest in told if str(name).partition(" ")[0] == "corpus")
    return Tuning(folder, tuning, tuple(dict.fromkeys(heard)))


@dataclass(frozen=True)
class KeptHead:
    """The head that an encoder was tuned with."""

    task: Task
    vocabulary: Vocabulary
    config: FinetuningConfig
    """What decides its shape."""
    file: Path

    @property
    def name(self) -> str:
        """Return the key of the task."""
        return self.task.name

    @property
    def digest(self) -> str:
        """Return the digest of its weights."""
        return file_digest(self.file)

    def build(self, dim: int) -> nn.Module:
        """Return it with its weights, for features of so many dimensions.

        Raises:
            CheckpointError: The weights do not fit.
        """
        return with_weights(
            lambda: tuning_head(self.task, dim, self.vocabulary, self.config),
            self.file,
            "a head of other shapes: it does not fit the encoder, or its vocabulary",
        )


def kept_head(tuned: Sequence[Any]) -> KeptHead:
    """Return the head that was kept of the one encoder that is given.

    Raises:
        ConfigError: There is none.
    """
    found = find_tuning(tuned[0]) if len(tuned) == 1 else None
    task = found.tasks[0] if found is not None and len(found.tasks) == 1 else None
    if found is None or task is None or task == PRETRAINING:
        raise _no_head(tuned, found)
    files = [found.folder / name for name in ("head.safetensors", "vocabulary.json")]
    if not all(file.is_file() for file in files):
        raise _no_head(tuned, found)
    keys = ("steps", "learning_rate", "hidden", "recurrent")  # what is required, and the shape
    kept = {"task": task, **{key: found.config.get(key) for key in keys}}
    config = build(FinetuningConfig, kept, str(found.folder / STAGE_FILE))
    symbols = read_json(files[1])
    if not isinstance(symbols, list) or not all(isinstance(one, str) for one in symbols):
        raise CheckpointError(f"{files[1]} holds no list of texts, as a vocabulary is")
    return KeptHead(find_task(task), Vocabulary(tuple(symbols)), config, files[0])


def _no_head(tuned: Sequence[Any], found: Tuning | None) -> ConfigError:
    if len(tuned) != 1:
        why = f"{len(tuned)} tuned encoders were given"
    elif found is None:
        why = f"nothing around {tuned[0]} says how it was tuned"
    else:
        why = f"{found.folder} was tuned on {', '.join(found.tasks)} and holds no single head"
    return ConfigError(
        f"a suggestion needs the head that one encoder was tuned with: {why}",
        hint="give the folder that finetune wrote, OUT/encoder beside "
        "OUT/head.safetensors, or sweep with labels: --tasks",
    )
