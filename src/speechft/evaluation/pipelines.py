"""A trained probe with its encoder, kept in a folder, that predicts on an audio file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from speechft.commands import command
from speechft.config import Config, build
from speechft.data.labels import Vocabulary
from speechft.devices import Precision, autocast, pick_device, resolve_precision
from speechft.encoders.base import Encoder, Mode
from speechft.errors import CheckpointError, ConfigError, DataError
from speechft.evaluation.candidates import find_candidate
from speechft.evaluation.grid import Probe
from speechft.features.layers import Layers, pick_layers, read_layers
from speechft.files import atomic_write, read_json, write_json
from speechft.headers import read_header
from speechft.naming import public
from speechft.results import read_rows
from speechft.tasks import find_task
from speechft.tasks.word_search import LanguageModel

if TYPE_CHECKING:
    from speechft.evaluation.candidates import Candidate
    from speechft.evaluation.config import EvaluationConfig, ProbeConfig
    from speechft.evaluation.probe import ProbeResult
    from speechft.tasks.base import Task

PIPELINE_FILE, WEIGHTS_FILE = "pipeline.json", "probe.safetensors"
RESULTS_FILE = "results.jsonl"
M = TypeVar("M", bound=nn.Module)


class Pipeline:
    """An encoder and a trained probe.

    Args:
        encoder: In evaluation mode.
        probe: Of the task.
        task: What it does.
        vocabulary: Of the probe's training split.
        setting: Of the decision, chosen on dev.
        precision: Of the encoder's forward pass.
        layers: The hidden states that the probe sees.
    """

    def __init__(
        self,
        encoder: Encoder,
        probe: Probe,
        task: Task,
        vocabulary: Vocabulary,
        setting: Any = None,
        precision: Precision = "auto",
        layers: Layers = "all",
    ) -> None:
        self.encoder, self.probe = encoder, probe.eval()
        self.task, self.vocabulary = task, vocabulary
        self._setting, self._precision, self._layers = setting, precision, layers

    def predict(self, audio: str | Path) -> str:
        """Return what the probe says about an audio file.

        Text of ASR, phones of PR, tagged text of SF, turns of SD as JSON, and the class otherwise;
        the slots of IC are separated by ``/``.

        Raises:
            DataError: The file cannot be read or is too short.
        """
        waveform = read_audio(Path(audio))
        device = next(self.probe.parameters()).device
        precision = resolve_precision(self._precision, device)
        with torch.inference_mode():
            with autocast(precision, device):
                output = self.encoder(
                    waveform[None].to(device), torch.tensor([len(waveform)], device=device)
                )
            layers = pick_layers(self._layers, len(output.layers) - 1)
            states = torch.stack([output.layers[number].float() for number in layers])
            logits = self.probe(states, output.lengths)
        [prediction] = self.task.predict(logits, output.lengths, self.vocabulary)
        return self.task.describe(prediction, self.vocabulary, self._setting)


def load_pipeline(
    folder: str | Path,
    *,
    name: str | None = None,
    task: str | None = None,
    encoder: Any = None,
    language_model: str | Path | LanguageModel | None = None,
) -> Pipeline:
    """Load a probe that `evaluate` trained, with its encoder.

    Args:
        folder: OUT of an evaluation or a run, a folder of one task in it, or a ``probe``.
        name: With OUT: name of the encoder in its results, where they hold several.
        task: With OUT: key of the task, where they hold several.
        encoder: Where the encoder lies now, if not where the evaluation saw it; an encoder of your
            own has to be given, as an object or as ``my.py:MyEncoder``.
        language_model: For ASR: a word n-gram model, ``.arpa`` or ``.arpa.gz``, or one with the
            settings of its search; None decodes greedily.

    Raises:
        CheckpointError: The folder holds no probe, several that fit, or its encoder is gone or has
            changed.
        ConfigError: A language model for another task than ASR, or its extra is not installed.
        DataError: The task does not predict on single files, or the language model is none.
    """
    place = Path(folder).expanduser()
    if (place / RESULTS_FILE).is_file() and not (place / "probe").is_dir():
        place = _chosen(place, name, task)
    place = place if (place / PIPELINE_FILE).is_file() else place / "probe"
    if not (place / PIPELINE_FILE).is_file():
        raise CheckpointError(
            f"{folder} holds no trained probe",
            hint=f"give OUT of {command('evaluate', 'ENCODER', out='OUT')}, with name= and task=",
        )
    known = _read_record(place / PIPELINE_FILE)
    about = find_task(known.task).variant(known.protocol)
    if not about.predicts_files:
        raise DataError(f"task {about.name} does not predict on a file: {about.no_files}")
    vocabulary = Vocabulary(tuple(known.vocabulary))
    if language_model is not None:
        if not about.takes_language_model:
            raise ConfigError(f"a language model is for task asr; this is a probe of {about.name}")
        if not isinstance(language_model, LanguageModel):
            language_model = LanguageModel(Path(language_model).expanduser())
        about = about.with_language_model(language_model).final(vocabulary)
    probe = _load_probe(place / WEIGHTS_FILE, known, about, vocabulary)
    found = find_candidate(place, known.encoder, known.encoder_digest, encoder)
    device = pick_device()
    loaded = found.load(known.mode).to(device)
    layers = read_layers(known.layers)
    shape = (known.states, known.dim)
    has = (len(pick_layers(layers, loaded.num_layers)), loaded.dim)
    if has != shape:
        raise CheckpointError(f"{place}: the probe takes {shape}, its encoder gives {has}")
    return Pipeline(
        loaded,
        probe.to(device),
        about.at(loaded.timing),
        vocabulary,
        known.setting,
        known.precision,
        layers,
    )


class _Record(Config):
    """What ``pipeline.json`` holds."""

    task: str
    protocol: str
    vocabulary: list[str] = Field(min_length=1, max_length=1_000_000)
    states: int = Field(ge=1, le=1_000)
    dim: int = Field(ge=1, le=1 << 16)
    hidden: Annotated[int, Field(ge=0, le=1 << 16)] | None
    units: list[Annotated[int, Field(ge=1, le=1 << 16)]] = Field(max_length=16)
    encoder: Any
    encoder_digest: str
    precision: Precision
    mode: Mode = "exact"
    layers: str | list[int] = "all"
    learning_rate: float | None = None
    setting: (
        tuple[Annotated[float, Field(ge=0, le=1)], Annotated[int, Field(ge=1, le=10_001)]] | None
    ) = None


def _read_record(path: Path) -> _Record:
    """Read what `save_pipeline` wrote beside the weights.

    Raises:
        CheckpointError: It is something else.
    """
    content = read_json(path)
    try:
        return build(_Record, content, str(path))
    except ConfigError as error:
        raise CheckpointError(error.message, hint="evaluate that encoder again") from None


def _load_probe(path: Path, known: _Record, about: Task, vocabulary: Vocabulary) -> Probe:
    """Build a probe and read its weights; shapes are compared before anything is allocated.

    Raises:
        CheckpointError: The file is damaged, or of another probe.
    """

    def make() -> Probe:
        head = about.probe_head(
            known.dim, vocabulary, hidden=known.hidden, units=tuple(known.units)
        )
        return Probe(known.states, head)

    return with_weights(make, path, f"another probe than {PIPELINE_FILE} describes")


def with_weights(make: Callable[[], M], path: Path, other: str) -> M:
    """Return a module with the weights of a file; shapes are compared before it is built.

    Args:
        make: Makes the module.
        path: Safetensors that anybody may have written.
        other: What the file holds where they do not fit.

    Raises:
        CheckpointError: The file is damaged, or of another module.
    """
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in make().state_dict().items()}
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
    made.load_state_dict(weights)
    return made


def _chosen(out: Path, name: str | None, task: str | None) -> Path:
    """Return the folder of the evaluation that is meant, the latest where there are several."""
    rows = [row for row in read_rows(out / RESULTS_FILE) if row.predictions is not None]
    fit = [r for r in rows if name in (None, r.encoder) and task in (None, r.task)]
    found = {(row.encoder, row.task): row for row in fit}
    if len(found) != 1:
        choices = sorted({(row.encoder, row.task) for row in fit or rows})
        listed = ", ".join(f"name={n!r}, task={t!r}" for n, t in choices)
        raise CheckpointError(
            f"{out} holds {len(found) or 'no'} probe{'s' * (len(found) != 1)} that fit",
            hint=f"choose from: {listed}" if listed else "evaluate into it again",
        )
    [row] = found.values()
    return (out / str(row.predictions)).parent


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
    """Write a trained probe, and what else `load_pipeline` needs.

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
    with atomic_write(folder / WEIGHTS_FILE) as file:
        file.write(save({n: tensor.contiguous() for n, tensor in result.weights.items()}))
    content: dict[str, Any] = {
        "task": task.name,
        "protocol": protocol,
        "vocabulary": list(result.vocabulary.symbols),
        "states": len(result.layer_weights),
        "dim": result.dim,
        "hidden": config.hidden,
        "units": list(config.units),
        "encoder": public(candidate.record()),
        "encoder_digest": digest,
        "precision": evaluation.precision,
        "mode": evaluation.mode,
        "learning_rate": result.learning_rate,
        "setting": result.setting,
    }
    write_json(folder / PIPELINE_FILE, content)


def read_audio(path: Path) -> torch.Tensor:
    """Read an audio file as (S,) 16 kHz mono samples.

    Raises:
        DataError: It cannot be read or is empty.
    """
    from speechft.data.audio import read_header
    from speechft.data.manifest import Utterance, load_waveform, to_cut

    try:
        header = read_header(path)
    except DataError as error:
        raise DataError(f"audio {path} cannot be read: {error.message}") from None
    if header.cut_off:
        raise DataError(f"audio {path} {header.cut_off}")
    if header.samples == 0:
        raise DataError(f"audio {path} is empty")
    cut = to_cut(
        Utterance(
            id=path.stem,
            path=str(path.resolve()),
            samples=header.samples,
            sample_rate=header.sample_rate,
            channels=header.channels,
        )
    )
    return torch.from_numpy(load_waveform(cut))
