"""Write an encoder with its head as transformers loads them, and show that they say the same."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechft.cards.card import CARD_NAME
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.encoders.timing import SAMPLE_RATE
from speechft.exporting.card import export_card
from speechft.exporting.counterparts import Counterpart, counterpart_of, refused
from speechft.exporting.tokenizer import write_tokenizer
from speechft.naming import public_config, public_name
from speechft.prediction.finding import find_pipeline
from speechft.prediction.pipelines import GREEDY, Pipeline, open_pipeline
from speechft.storage.disk import as_usual
from speechft.storage.files import CONFIG_NAME, read_json, write_json, write_text
from speechft.storage.outputs import check_own, overwriting, publish
from speechft.storage.uploads import moved_up
from speechft.tasks.saved import read_record

TOLERANCE = 1e-4
"""Largest difference of a logit, over max(1, the largest logit), that counts as equal."""
_PROBES = (SAMPLE_RATE, 9_013)


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how well it agrees."""

    out: str
    model: str
    task: str
    architecture: str
    """Class of transformers that loads it."""
    pipeline: str
    """Name of the ``transformers.pipeline`` that runs it; empty where none does."""
    difference: float
    """Largest difference of what it gives from what ours gives, on noise."""
    largest: float
    """Largest magnitude of these."""
    encoder_digest: str
    notes: tuple[str, ...]
    """What differs, in sentences; also in the card."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the report as text."""
        same = f"largest difference {self.difference:.1e} of {self.largest:.3g}"
        head = f"{self.model} (task {self.task}) -> {self.out}, {self.architecture}"
        return [head, f"parity with transformers: {same}", *(f"note: {n}" for n in self.notes)]


@moved_up("out")
def export(
    model: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    task: str | None = None,
    encoder: Any = None,
    overwrite: bool = False,
) -> ExportReport:
    """Write a head that `finetune`, `run` or `evaluate` trained as a folder of transformers.

    The folder holds configuration, weights, feature extractor, for CTC a tokenizer, and a card. It
    is loaded again, and what it gives is compared; nothing is written where they differ.

    Args:
        model: See `load_pipeline`.
        out: Folder.
        name: See `load_pipeline`.
        task: See `load_pipeline`.
        encoder: See `load_pipeline`.
        overwrite: Replace an ``out`` that no command of ours wrote.

    Raises:
        CheckpointError: The model cannot be used, or transformers has no counterpart for it.
        RunError: ``out`` is somebody else's, in use, or cannot be written.
    """
    place = Path(os.path.abspath(os.path.expanduser(out)))
    with overwriting(overwrite):
        check_own(place)
        file = find_pipeline(Path(model).expanduser(), name, task)
        pipeline = open_pipeline(
            file, encoder=encoder, language_model=GREEDY, precision="fp32", device="cpu"
        )
        made = counterpart_of(pipeline)
        kind = _class(pipeline, made)
        known = read_record(file)
        with publish(place) as hidden, _quiet():
            _write(hidden, pipeline, made, kind)
            difference, largest, notes = _compare(hidden, pipeline, made, kind)
            if known.language_model is not None:
                notes += (
                    f"Figures were decoded with the language model {known.language_model.name}, "
                    "which is not part of this folder: it decodes greedily.",
                )
            report = ExportReport(
                str(out),
                public_name(str(model)),
                known.task,
                kind.__name__,
                made.pipeline,
                difference,
                largest,
                known.encoder_digest,
                (*made.notes, *notes),
            )
            write_text(hidden / CARD_NAME, export_card(report, file, encoder))
    return report


def _class(pipeline: Pipeline, made: Counterpart) -> Any:
    """Return the class of transformers for the family and the head.

    Raises:
        CheckpointError: There is none whose encoder is that of the pipeline.
    """
    from transformers.models.auto import modeling_auto

    encoder = pipeline.encoder
    if not isinstance(encoder, HuggingFaceEncoder):
        raise refused("its encoder is none of transformers'", pipeline)
    if encoder.mode != "exact":
        raise refused(
            f"its encoder was heard in {encoder.mode} mode, which transformers has not", pipeline
        )
    listed = {
        "ForCTC": modeling_auto.MODEL_FOR_CTC_MAPPING,
        "ForSequenceClassification": modeling_auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING,
        "ForXVector": modeling_auto.MODEL_FOR_AUDIO_XVECTOR_MAPPING,
        "ForAudioFrameClassification": modeling_auto.MODEL_FOR_AUDIO_FRAME_CLASSIFICATION_MAPPING,
    }[made.kind]
    kind = listed.get(type(encoder.model.config), None)
    base = modeling_auto.MODEL_MAPPING.get(type(encoder.model.config), None)
    if kind is None or type(encoder.model) is not base:
        raise refused(
            f"transformers has no {made.kind} on an encoder of the family {encoder.family.name} "
            "alone",
            pipeline,
        )
    return kind


def _write(folder: Path, pipeline: Pipeline, made: Counterpart, kind: Any) -> None:
    """Write the folder: the encoder first, then the whole in its place."""
    encoder: Any = pipeline.encoder
    encoder.save(folder)
    settings = {**read_json(folder / CONFIG_NAME), **made.settings}
    config = type(encoder.model.config)(**settings)
    with torch.random.fork_rng(devices=[]):
        whole = kind(config)
    getattr(whole, whole.base_model_prefix).load_state_dict(encoder.model.state_dict())
    state = whole.state_dict()
    own = {n for n in state if not n.startswith(f"{whole.base_model_prefix}.")}
    assert own == set(made.tensors), f"{kind.__name__} has the weights {sorted(own)}"
    with torch.no_grad():
        for name, tensor in made.tensors.items():
            state[name].copy_(tensor)
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    whole.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        as_usual(file)
    write_json(folder / CONFIG_NAME, public_config(read_json(folder / CONFIG_NAME)))
    if made.kind == "ForCTC":
        scorer: Any = pipeline.task.scorer
        write_tokenizer(folder, pipeline.vocabulary.symbols, spelled=scorer.spelled)


@torch.inference_mode()
def _compare(
    folder: Path, pipeline: Pipeline, made: Counterpart, kind: Any
) -> tuple[float, float, tuple[str, ...]]:
    """Return the largest difference, the largest value, and what differs in padded batches.

    Raises:
        CheckpointError: They differ, one recording at a time.
    """
    from transformers import AutoFeatureExtractor

    front = AutoFeatureExtractor.from_pretrained(folder)
    whole = kind.from_pretrained(folder).eval()
    generator = torch.Generator().manual_seed(0)
    waveforms = [0.1 * torch.randn(count, generator=generator) for count in _PROBES]

    def theirs(rows: list[Tensor]) -> list[Tensor]:
        arrays = [row.numpy() for row in rows]
        inputs = front(arrays, sampling_rate=SAMPLE_RATE, return_tensors="pt", padding=True)
        return list(made.same(whole(**inputs)[made.output]))

    expected = [made.ours(pipeline.logits(row)[0])[0] for row in waveforms]
    alone = [_like(theirs([row])[0], one) for row, one in zip(waveforms, expected, strict=True)]
    largest = max(float(one.abs().max()) for one in expected)
    difference = _difference(alone, expected)
    if not difference <= TOLERANCE * max(1.0, largest):
        why = f"{kind.__name__} gives values that differ by up to {difference:.1e} of {largest:.3g}"
        if made.settings.get("use_weighted_layer_sum"):
            why += (
                "; its weighted sum is over other hidden states, as in models whose layers are "
                "normalised first (pre-LN): the last one there is not the encoder's output"
            )
        raise refused(why, pipeline)
    together = [_like(a, b) for a, b in zip(theirs(waveforms), expected, strict=True)]
    padded = _difference(together, expected)
    if padded <= TOLERANCE * max(1.0, largest):
        return difference, largest, ()
    note = (
        f"In padded batches of recordings of different lengths transformers gives other values "
        f"(on noise by up to {padded:.1e} of {largest:.3g}): not all of it leaves padding out. "
        "Give recordings one by one (batch_size=1); in speechft they do not depend on their batch."
    )
    return difference, largest, (note,)


def _like(given: Tensor, expected: Tensor) -> Tensor:
    """Return as many frames of a padded output as are expected."""
    return given[: len(expected)] if given.dim() > 1 else given


def _difference(given: list[Tensor], expected: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(given, expected, strict=True))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from drawing bars and from telling what is told here."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            # WavLM hands torch a boolean mask beside a float bias
            warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
            yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
