"""Our heads in the terms of transformers' classes: settings, weights, and what cannot be said so.

Shapes: D dim, H hidden, C classes, N hidden states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechft.errors import CheckpointError
from speechft.tasks.heads import FrameHead, UtteranceHead
from speechft.tasks.speaker import SpeakerHead

if TYPE_CHECKING:
    from speechft.prediction.pipelines import Pipeline


@dataclass(frozen=True)
class Counterpart:
    """A head of transformers that computes what ours does."""

    kind: str
    """End of its class: ``ForCTC``."""
    settings: dict[str, Any]
    """Fields of the configuration."""
    tensors: dict[str, Tensor]
    """Its weights by name."""
    output: str = "logits"
    """Which of its outputs is ours."""
    same: Callable[[Tensor], Tensor] = lambda output: output
    """From that output to ours."""
    ours: Callable[[Tensor], Tensor] = lambda logits: logits
    """From all that our head gives to what is compared."""
    pipeline: str = ""
    """Name of the ``transformers.pipeline`` that runs it; empty where none does."""
    notes: tuple[str, ...] = field(default=())
    """What differs, in sentences."""


def counterpart_of(pipeline: Pipeline) -> Counterpart:
    """Return the head of transformers that computes the same.

    Raises:
        CheckpointError: There is none.
    """
    model, head = pipeline.task.model, pipeline.probe.head
    kind = "" if model is None else model.counterpart
    makers: dict[str, tuple[type[nn.Module], Callable[[Pipeline, Any], Counterpart]]] = {
        "ForCTC": (FrameHead, _ctc),
        "ForSequenceClassification": (UtteranceHead, _sequence_classification),
        "ForXVector": (SpeakerHead, _xvector),
        "ForAudioFrameClassification": (FrameHead, _frame_classification),
    }
    if kind not in makers:
        raise refused("" if model is None else model.no_counterpart, pipeline)
    takes, make = makers[kind]
    if not isinstance(head, takes):
        raise refused(
            f"its head is a {type(head).__name__} (LSTMs), and {kind} has a linear layer", pipeline
        )
    return make(pipeline, head)


def refused(why: str, pipeline: Pipeline) -> CheckpointError:
    """Return the error for what transformers has no counterpart for."""
    return CheckpointError(
        f"this head of task {pipeline.task.name} cannot be exported: {why}",
        hint="predict and load_pipeline take it as it is",
    )


def _ctc(pipeline: Pipeline, head: FrameHead) -> Counterpart:
    if not _sees_last(pipeline):
        raise refused(
            "it reads a weighted sum of hidden states, and ForCTC reads the last one alone",
            pipeline,
        )
    weight, bias = _one_layer(head)
    settings = {"vocab_size": len(weight), "pad_token_id": 0, "ctc_zero_infinity": True}
    return Counterpart(
        "ForCTC",
        settings,
        {"lm_head.weight": weight, "lm_head.bias": bias},
        pipeline="automatic-speech-recognition",
    )


def _sequence_classification(pipeline: Pipeline, head: UtteranceHead) -> Counterpart:
    projector, dim = head.projector, pipeline.encoder.dim
    weight, bias = torch.eye(dim), torch.zeros(dim)
    if isinstance(projector, nn.Linear):
        weight, bias = projector.weight.data, projector.bias.data
    tensors = {
        "projector.weight": weight,
        "projector.bias": bias,
        "classifier.weight": head.linear.weight,
        "classifier.bias": head.linear.bias,
    }
    return Counterpart(
        "ForSequenceClassification",
        {"classifier_proj_size": len(weight), **_labels(pipeline), **_sum(pipeline, tensors)},
        tensors,
        pipeline="audio-classification",
    )


def _frame_classification(pipeline: Pipeline, head: FrameHead) -> Counterpart:
    weight, bias = _one_layer(head)
    tensors = {"classifier.weight": weight, "classifier.bias": bias}
    settings = {**_labels(pipeline), **_sum(pipeline, tensors)}
    return Counterpart("ForAudioFrameClassification", settings, tensors)


def _xvector(pipeline: Pipeline, head: SpeakerHead) -> Counterpart:
    """Return the x-vector; its embedding is taken before our ReLU, and is of no unit length."""
    vector = head.xvector
    if vector.pooling != "statistics":
        raise refused(
            f"it pools by {vector.pooling}, and ForXVector by mean and standard deviation", pipeline
        )
    tensors = {
        "projector.weight": vector.projector.weight,
        "projector.bias": vector.projector.bias,
        "feature_extractor.weight": vector.linear1.weight,
        "feature_extractor.bias": vector.linear1.bias,
        "classifier.weight": vector.linear2.weight,
        "classifier.bias": vector.linear2.bias,
        "objective.weight": head.speakers,
    }
    sizes, kernels, dilations = [], [], []
    layers: Any = vector.layers
    for number, layer in enumerate(layers):
        tensors[f"tdnn.{number}.kernel.weight"] = layer.kernel.weight
        tensors[f"tdnn.{number}.kernel.bias"] = layer.kernel.bias
        sizes.append(len(layer.kernel.weight))
        kernels.append(layer.size)
        dilations.append(layer.dilation)
    settings = {
        "tdnn_dim": sizes,
        "tdnn_kernel": kernels,
        "tdnn_dilation": dilations,
        "xvector_output_dim": len(vector.linear1.weight),
        **_labels(pipeline),
        **_sum(pipeline, tensors),
    }
    speakers = len(pipeline.vocabulary)
    notes = (
        "The embedding of speechft is `torch.nn.functional.normalize(output.embeddings.relu())`: "
        "transformers returns it before ReLU and without unit length. Compare embeddings of that.",
        "`output.logits` are not scores of speakers here or there; speechft scores them by cosines "
        "with the ReLU between, which ForXVector leaves out.",
        "In padded batches ForXVector counts frames by its kernels without their dilation, and so "
        "pools more of them than there are: give recordings one by one.",
    )
    return Counterpart(
        "ForXVector",
        settings,
        tensors,
        output="embeddings",
        same=lambda embeddings: F.normalize(embeddings.relu(), dim=-1, eps=1e-12),
        ours=lambda logits: logits[:, speakers:],
        notes=notes,
    )


def _one_layer(head: FrameHead) -> tuple[Tensor, Tensor]:
    """Return a projection and the linear layer after it as one: (C, D) and (C,)."""
    linear, projector = head.linear, head.projector
    if not isinstance(projector, nn.Linear):
        return linear.weight, linear.bias
    outer, inner = linear.weight.double(), projector.weight.double()
    bias = outer @ projector.bias.double() + linear.bias.double()
    return (outer @ inner).float(), bias.float()


def _sees_last(pipeline: Pipeline) -> bool:
    return pipeline.layers == "last"


def _sum(pipeline: Pipeline, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return whether the head reads a weighted sum of all hidden states, and add its weights."""
    if not _sees_last(pipeline):
        tensors["layer_weights"] = pipeline.probe.featurizer.weights
    return {"use_weighted_layer_sum": not _sees_last(pipeline)}


def _labels(pipeline: Pipeline) -> dict[str, Any]:
    symbols = pipeline.vocabulary.symbols
    return {
        "id2label": dict(enumerate(symbols)),
        "label2id": {symbol: number for number, symbol in enumerate(symbols)},
    }
