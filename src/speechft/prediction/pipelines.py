"""An encoder with a trained head, whoever trained it: what it says about audio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from speechft.data.batching import pad
from speechft.data.labels import Vocabulary
from speechft.devices import Precision, autocast, pick_device, resolve_precision
from speechft.encoders.timing import SAMPLE_RATE
from speechft.errors import CheckpointError, ConfigError, DataError
from speechft.evaluation.candidates import find_candidate
from speechft.evaluation.grid import Probe
from speechft.features.extract import batch_limits
from speechft.features.layers import Layers, pick_layers, read_layers
from speechft.prediction.finding import find_pipeline
from speechft.prediction.windows import Window, cut_windows
from speechft.storage.files import file_digest
from speechft.tasks import find_task
from speechft.tasks.saved import SavedHead, read_record, with_weights
from speechft.tasks.word_search import LanguageModel

if TYPE_CHECKING:
    from speechft.encoders.base import Encoder
    from speechft.tasks.answers import Answer
    from speechft.tasks.base import Task

GREEDY = "none"
"""Said instead of a language model: decode without, whatever the figures were decoded with."""
WINDOW, CONTEXT = 60.0, 5.0
"""Seconds of the windows that longer recordings are heard in, and of the context on each side."""


class Pipeline:
    """An encoder and a trained head.

    Shapes: B batch, S samples, T frames, D dim, N hidden states.

    Args:
        encoder: In evaluation mode.
        probe: Of the task.
        task: What it does.
        vocabulary: Of the head's training split.
        setting: Of the decision, chosen on dev.
        precision: Of the encoder's forward pass.
        layers: The hidden states that the head sees.
        window: Seconds beyond which a recording is heard in windows.
        context: Seconds of a window on each side that are context alone.
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
        window: float = WINDOW,
        context: float = CONTEXT,
    ) -> None:
        self.encoder, self.probe = encoder, probe.eval()
        self.task, self.vocabulary, self.layers = task, vocabulary, layers
        self._setting, self._context = setting, context
        self.device = next(self.probe.parameters()).device
        self.precision = resolve_precision(precision, self.device)
        longest = round(window * SAMPLE_RATE)
        self.longest = min(longest, encoder.window or longest)

    def __repr__(self) -> str:
        count = len(self.vocabulary)
        return f"Pipeline(task {self.task.name}, {count} classes, {self.precision}, {self.device})"

    def predict(self, audio: str | Path | Tensor) -> str:
        """Return what is said about an audio file, or (S,) samples of 16 kHz, in one line.

        Text of ASR, phones of PR, tagged text of SF, turns of SD as JSON, the numbers of an
        embedding of ASV, and the class otherwise; the slots of IC are separated by ``/``.

        Raises:
            DataError: The file cannot be read or is too short, or the samples are not in one row.
        """
        return self.answer(audio).text

    def answer(self, audio: str | Path | Tensor) -> Answer:
        """Return all that is said about it: `Answer.values` holds plain JSON types.

        Arguments and errors as for `predict`.
        """
        if isinstance(audio, str | Path):
            heard = read_audio(Path(audio))
        else:
            heard = torch.as_tensor(audio)
            if heard.dim() != 1 or not heard.is_floating_point():
                raise DataError(
                    f"samples are {heard.dtype} {tuple(heard.shape)}; expected floating-point "
                    "numbers (S,) in [-1, 1] at 16 kHz"
                )
        [answer] = self.answers([heard.float()])
        return answer

    def answers(self, waveforms: Sequence[Tensor], multiple: int = 1) -> list[Answer]:
        """Return what is said about each of several (S,) waveforms of 16 kHz.

        They are one batch; one that is longer than a window has to be alone.

        Args:
            waveforms: B of them.
            multiple: Samples that lengths are padded to.

        Raises:
            DataError: One is shorter than the encoder or the head takes.
        """
        logits, lengths = self.logits(*waveforms, multiple=multiple)
        if not bool(torch.isfinite(logits).all()):
            raise DataError(f"gives no finite numbers in {self.precision}")
        return self.task.answers(logits, lengths, self.vocabulary, self._setting)

    @torch.inference_mode()
    def logits(self, *waveforms: Tensor, multiple: int = 1) -> tuple[Tensor, Tensor]:
        """Return what the head gives, (B, T, C) or (B, C), and (B,) frames; see `answers`."""
        if len(waveforms) == 1 and self.is_long(len(waveforms[0])):
            features, lengths = self._stitched(waveforms[0])
        else:
            lengths = torch.tensor([len(row) for row in waveforms])
            features, lengths = self._features(pad(list(waveforms), multiple), lengths)
        least = 1 if self.task.model is None else self.task.model.least_frames
        if int(lengths.min()) < least:
            raise DataError(
                f"has {int(lengths.min())} frames; the head of task {self.task.name} needs at "
                f"least {least}"
            )
        return self.probe.head(features, lengths), lengths

    def is_long(self, samples: int) -> bool:
        """Return whether a recording is heard in windows; in s3prl's mode it is heard whole."""
        return samples > self.longest and not self.encoder.depends_on_batch

    def _features(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (B, T, D) weighted sum of hidden states, and (B,) frames."""
        with autocast(self.precision, self.device):
            output = self.encoder(waveforms.to(self.device), lengths.to(self.device))
        chosen = pick_layers(self.layers, len(output.layers) - 1)
        states = torch.stack([output.layers[number].float() for number in chosen])
        return self.probe.featurizer(states), output.lengths

    def _stitched(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (1, T, D) features of a long recording, window by window."""
        samples = len(waveform)
        frames = int(self.encoder.frame_lengths(torch.tensor(samples)))
        timing = self.encoder.timing
        windows = cut_windows(samples, frames, timing, longest=self.longest, context=self._context)
        parts = []
        for group in self._groups(windows):
            rows = [waveform[window.start : window.stop] for window in group]
            found, _ = self._features(pad(rows, 1), torch.tensor([len(row) for row in rows]))
            for window, row in zip(group, found, strict=True):
                part = row[window.skip : window.skip + window.keep]
                assert len(part) == window.keep, "a window gives fewer frames than it has"
                parts.append(part)
        return torch.cat(parts)[None], torch.tensor([frames], device=self.device)

    def _groups(self, windows: Sequence[Window]) -> Iterator[Sequence[Window]]:
        """Yield windows in batches of what suits the encoder."""
        seconds, _ = batch_limits(self.encoder, self.device)
        size = max(1, int(seconds * SAMPLE_RATE) // self.longest)
        for first in range(0, len(windows), size):
            yield windows[first : first + size]


def load_pipeline(
    folder: str | Path,
    *,
    name: str | None = None,
    task: str | None = None,
    encoder: Any = None,
    language_model: str | Path | LanguageModel | None = None,
    precision: Precision | None = None,
    window: float = WINDOW,
    context: float = CONTEXT,
) -> Pipeline:
    """Load a head that `finetune`, `run` or `evaluate` trained, with its encoder.

    Args:
        folder: OUT of one of them, a folder of one task in it, or a folder with ``pipeline.json``.
        name: With OUT: name of the encoder in its results, or the folder of a tuned head below it,
            where they hold several; None takes the merged encoder, where there is one.
        task: With OUT: key of the task, where they hold several.
        encoder: Where the encoder lies now, if not where it was; an encoder of your own has to be
            given, as an object or as ``my.py:MyEncoder``.
        language_model: For ASR: a word n-gram model, ``.arpa`` or ``.arpa.gz``, or one with the
            settings of its search; ``none`` decodes greedily. None does so too, but where figures
            were decoded with one, that has to be given.
        precision: Of the encoder's forward pass; None takes that of the training.
        window: Seconds beyond which a recording is heard in windows.
        context: Seconds of a window on each side that are context alone.

    Raises:
        CheckpointError: The folder holds no head, several that fit, or its encoder is gone or has
            changed.
        ConfigError: A language model for another task than ASR, one that is missing, or its extra
            is not installed.
        DataError: The task does not predict on single files, or the language model is none.
    """
    return open_pipeline(
        find_pipeline(Path(folder).expanduser(), name, task),
        encoder=encoder,
        language_model=language_model,
        precision=precision,
        window=window,
        context=context,
    )


def open_pipeline(
    file: Path,
    *,
    encoder: Any = None,
    language_model: str | Path | LanguageModel | None = None,
    precision: Precision | None = None,
    window: float = WINDOW,
    context: float = CONTEXT,
    device: str = "auto",
) -> Pipeline:
    """Load the head that a ``pipeline.json`` describes; arguments as for `load_pipeline`."""
    known = read_record(file)
    about = find_task(known.task).variant(known.protocol)
    vocabulary = Vocabulary(tuple(known.vocabulary))
    about = _decoding(about, known, language_model).final(vocabulary)
    probe = _load_probe(file.with_name(known.weights), known, about, vocabulary)
    found = find_candidate(file.parent, known.encoder, known.encoder_digest, encoder)
    place = pick_device(device)
    loaded = found.load("s3prl" if known.mode == "s3prl" else "exact").to(place)
    layers = read_layers(known.layers)
    shape = (known.states, known.dim)
    has = (len(pick_layers(layers, loaded.num_layers)), loaded.dim)
    if has != shape:
        raise CheckpointError(f"{file}: the head takes {shape}, its encoder gives {has}")
    return Pipeline(
        loaded,
        probe.to(place),
        about.at(loaded.timing),
        vocabulary,
        known.setting,
        precision or known.precision,
        layers,
        window,
        context,
    )


def _decoding(about: Task, known: SavedHead, given: str | Path | LanguageModel | None) -> Task:
    """Return the task with its language model, if it is to have one."""
    kept = known.language_model
    if given is None and kept is not None:
        raise ConfigError(
            f"the figures of this {known.task} head were decoded with the language model "
            f"{kept.name} (sha256 {kept.digest[:12]}), which is not kept with it",
            hint=f"give it with --language-model FILE, or --language-model {GREEDY} to decode "
            "without",
        )
    if given is None or given == GREEDY:
        return about
    if not about.takes_language_model:
        raise ConfigError(f"a language model is for task asr; this is a probe of {about.name}")
    if isinstance(given, LanguageModel):
        return about.with_language_model(given)
    model = LanguageModel(Path(given).expanduser())
    about = about.with_language_model(model)  # which looks at the file
    if kept is None or file_digest(model.file) != kept.digest:
        return about
    settings = kept.model_dump(exclude={"name", "digest"})
    return about.with_language_model(LanguageModel(model.file, **settings))


def _load_probe(path: Path, known: SavedHead, about: Task, vocabulary: Vocabulary) -> Probe:
    """Build a probe and read its weights; shapes are compared before anything is allocated.

    Raises:
        CheckpointError: The file is damaged, or of another probe.
    """

    def make() -> Probe:
        return Probe(known.states, known.head(about, vocabulary))

    def part(probe: Probe) -> torch.nn.Module:
        return probe if known.weighted else probe.head

    return with_weights(make, path, "another head than is described beside it", part)


def read_audio(path: Path) -> Tensor:
    """Read an audio file as (S,) 16 kHz mono samples.

    Raises:
        DataError: It cannot be read or is empty.
    """
    from speechft.data.manifest import load_waveform
    from speechft.features.sources import audio_cut

    try:
        cut = audio_cut(path.stem, path.resolve())
    except DataError as error:
        raise DataError(f"audio {path} {error.message}") from None
    return torch.from_numpy(load_waveform(cut))
