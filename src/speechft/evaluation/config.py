"""What an evaluation may be configured to do; light, so that recipes are read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from speechft.arguments import Texts
from speechft.config import Config, apply_changes, apply_overrides, build
from speechft.data.labels import MAX_LEFT_OUT
from speechft.devices import Precision
from speechft.errors import ConfigError
from speechft.features.layers import Layers, read_layers

Codec = Literal["float16", "bfloat16", "int8"]
"""How frames are kept on disk."""
Mode = Literal["exact", "s3prl"]
"""Modes of `speechft.encoders.base.MODES`."""
RANDOM = "random"
"""Floor with the weights of an untrained encoder."""

LIMIT = "evaluation.max_left_out, for evaluate, sweep and search --set max_left_out"
"""What errors call the setting that says how much may be left out."""


def _read_tasks(given: Any) -> Any:
    if not isinstance(given, str) or given == "available":
        return given
    from speechft.tasks import SUPERB

    names = [name.strip() for name in given.split(",") if name.strip()]
    chosen = [key for name in names for key in (SUPERB if name == "all" else (name,))]
    return tuple(dict.fromkeys(chosen))


def _read_layers(given: Any) -> Layers | None:
    if given is None:
        return None
    try:
        layers = read_layers(given)
    except (ConfigError, TypeError) as error:
        raise ValueError(getattr(error, "message", "expected all, last, or numbers")) from None
    return layers if isinstance(layers, str) else tuple(sorted(layers))


class BeamSearchConfig(Config):
    """How words are searched with a language model; the defaults are s3prl's."""

    weight: float = 2.0
    """Of the language model's log10 probability."""
    word_score: float = -1.0
    """Added for every word."""
    beam: int = Field(default=5, ge=1)
    """Hypotheses that are kept."""
    beam_threshold: float = Field(default=25.0, gt=0.0)
    """Hypotheses that are so much worse than the best one are given up."""


class EvaluationConfig(Config):
    """Which tasks, how."""

    tasks: Annotated[tuple[str, ...] | Literal["available"], BeforeValidator(_read_tasks)] = (
        "pr",
        "sid",
        "ic",
        "style",
    )
    """Keys of tasks, as a list or as text with commas; ``all`` for SUPERB's ten, ``available`` for
    all that the corpus supports."""
    protocol: str = "mini"
    """Name of the protocol."""
    seeds: int = Field(default=1, ge=1)
    """Probe seeds, one after the other on the same features; of several the mean is shown, with an
    interval over seeds and test data."""
    layers: Annotated[Layers | None, BeforeValidator(_read_layers)] = None
    """Hidden states that get probes of their own beside those on the weighted sum of all: ``all``,
    ``last``, or numbers and ranges such as ``6,9-12``, 0 being the input of the first layer; null
    trains none."""
    mode: Mode = "exact"
    """How hidden states are computed: ``exact``, or ``s3prl``, see `load_encoder`."""
    limit: int | None = Field(default=None, ge=1)
    """So many utterances of every split at most, balanced by class; null takes all."""
    cache: str | None = None
    """Folder of features that evaluations share; null keeps none on disk."""
    frame_cache_gb: float = Field(default=0.0, ge=0.0)
    """Quota of the frames in it, in gigabytes; pooled statistics are always kept there."""
    frame_codec: Codec = "bfloat16"
    """How frames are kept there; ``int8`` takes half the room."""
    frame_memory_gb: float | None = Field(default=None, gt=0.0)
    """Gigabytes of frames that are kept while an evaluation lasts, in a file without a name beside
    the results; null: half of the free space there. The others are computed for every batch."""
    max_left_out: float = Field(default=MAX_LEFT_OUT, ge=0.0, le=1.0)
    """Largest share of a split that is left out because it could not be used when the corpus was
    prepared, or by a task, such as recordings that are too short; 1 never refuses. Protocol
    ``s3prl`` leaves nothing out that was prepared."""
    floors: tuple[str, ...] = ("mfcc", RANDOM)
    """Rows for comparison: ``mfcc``, and ``random`` for an untrained encoder of the same shape."""
    precision: Precision = "auto"
    """Precision of the encoder's forward pass."""
    language_model: str | None = None
    """Word n-gram model, ``.arpa`` or ``.arpa.gz``: a second word error rate of ASR."""
    beam_search: BeamSearchConfig = BeamSearchConfig()
    """The search with it."""

    @property
    def left_out_limit(self) -> float:
        """Return the largest share of a split that tasks leave out, none under ``s3prl``."""
        return 0.0 if self.protocol == "s3prl" else self.max_left_out


def evaluation_config(
    given: Mapping[str, Any],
    overrides: Texts = (),
    changes: Mapping[str, Any] | None = None,
) -> EvaluationConfig:
    """Return the configuration of an evaluation without a recipe.

    Args:
        given: Fields; those that are None keep their defaults, tasks that of ``available``.
        overrides: Further fields as text, ``beam_search.weight=1.5``.
        changes: Further fields by key.

    Raises:
        ConfigError: A field does not exist, or has a value that is not allowed.
    """
    content: dict[str, Any] = {"tasks": "available"}
    content |= {name: value for name, value in given.items() if value is not None}
    content = apply_changes(
        apply_overrides(content, overrides, EvaluationConfig), (changes or {}).items()
    )
    if "floors" in content:
        raise ConfigError(
            "floors are rows that a run adds; an evaluation has the encoders that it is given",
            hint="give mfcc as an encoder",
        )
    return build(EvaluationConfig, {**content, "floors": ()}, "evaluate")


class ProbeConfig(Config):
    """How a probe is trained."""

    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """The grid; the best on dev is taken."""
    extend: int = 2
    """How often a best value at the edge of the grid may extend it by a factor of about 3."""
    hidden: int | None = None
    """Size of the projection before the last layers (SUPERB: 256); null leaves it out."""
    units: tuple[int, ...] = ()
    """Sizes of further layers: LSTMs of ASR, SF and SD, pooled size of ASV."""
    batch: int = 64
    """Utterances in a batch; s3prl's gradient accumulation is part of it."""
    epochs: int = 60
    """Most passes over the training split."""
    steps: int | None = None
    """Most updates; null: as many as the epochs have."""
    halve_at: tuple[int, ...] = (4, 8)
    """Epochs after which the worse half of the grid on dev is given up (successive halving)."""
    patience: int = 8
    """Evaluations without improvement on dev after which a probe has converged."""
    evaluate_every: int = 1
    """Epochs between evaluations on dev."""
    evaluate_steps: int | None = None
    """Updates between evaluations on dev; null: go by epochs."""
    clip: float = 1.0
    """Largest gradient norm."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW)."""
    frames: int | None = None
    """Training utterances are cut to a random window of so many frames; null takes them whole."""
    crop_seconds: float | None = None
    """Training audio is cut to a recorded random crop of this length before it is encoded."""
    crops: int = 1
    """Recorded crops of every utterance that is longer; epochs take them in turn."""
    crop_dev: bool = False
    """Whether dev and test audio is cut to one recorded crop as well."""
    spec_augment: bool = False
    """Whether features are warped and masked in training (SpecAugment, SUPERB ASR and SF)."""
