"""What fine-tuning and pre-training may be configured to do; light: recipes need no torch.

Every strategy of fine-tuning shares one set of keys.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from speechft.config import Config
from speechft.data.config import SpecAugmentConfig
from speechft.data.labels import MAX_LEFT_OUT
from speechft.finetuning.optimization import Optimization
from speechft.finetuning.phases import EncoderMode, Phase, stable_phases

Strategy = Literal[
    "stable",
    "plain",
    "plain-cnn",
    "l2sp",
    "lora",
    "dora",
    "early-checkpoint",
    "early-decayed",
    "distill",
]

Select = Literal["best", "official", "last", "ema"]
BY_DEV: tuple[Select, ...] = ("best", "official")
"""Choices that need a dev split."""

PRETRAINING = "hubert"
"""Key of the task that needs no labels: masked prediction of clusters."""

ADAPTER_FOLDER = "adapter"
"""Where a fine-tuning keeps what ``lora`` and ``dora`` learnt, beside ``encoder``."""


class L2spConfig(Config):
    """Weight-space regularisation (Li et al. 2018, arXiv 1802.01483)."""

    weight: float = Field(default=0.01, ge=0.0)
    """Weight of half the squared distance to the pre-trained weights (ours; the Speech-FT paper
    does not give its coefficient)."""
    head_weight: float = Field(default=0.0, ge=0.0)
    """Weight of half the squared norm of the head (beta of the paper)."""


class AdapterConfig(Config):
    """Low-rank adapters, through PEFT (ours; the Speech-FT paper does not give its settings)."""

    rank: int = Field(default=16, ge=1)
    """Rank of the update of a matrix."""
    alpha: float = 32.0
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout of the adapters' inputs."""
    targets: tuple[str, ...] = ()
    """Names of the linear layers that are adapted; none means all of the transformer's."""


class EarlyConfig(Config):
    """Stopping early (the Speech-FT paper: the checkpoint at 20 % of the steps)."""

    share: float = Field(default=0.2, gt=0.0, le=1.0)
    """Share of the updates."""


class DistillConfig(Config):
    """Feature distillation to the pre-trained encoder."""

    weight: float = Field(default=1.0, ge=0.0)
    """Weight of the relative squared distance of the hidden states (ours)."""
    layers: tuple[int, ...] = ()
    """Hidden states that are kept near, 0 being the input of the first layer; none means all."""


class RecurrentConfig(Config):
    """A BiLSTM head, for tasks that work on frames."""

    layers: int = Field(default=3, ge=1)
    """Number of BiLSTM layers (official TED-LIUM recipe: 3)."""
    size: int = Field(default=256, ge=1)
    """Units in each direction (official TED-LIUM recipe: 256)."""
    dropout: float = Field(default=0.2, ge=0.0, lt=1.0)
    """Dropout after each layer (official TED-LIUM recipe: 0.2)."""


class Targets(Config):
    """Where the cluster targets come from."""

    source: str = "mfcc-cmvn"
    """``mfcc``, ``mfcc-cmvn``, or an encoder whose layer is clustered."""
    layer: int = Field(default=0, ge=0)
    """Hidden state of that encoder, 0 being the input of its first layer."""
    clusters: int = Field(default=100, ge=2, le=32_767)
    """k of k-means."""
    fit_frames: int = Field(default=200_000, ge=2)
    """Frames that k-means is fitted on."""
    passes: int = Field(default=0, ge=0)
    """Passes of Lloyd's algorithm over those frames that follow the mini-batches of k-means; all
    processes share in them. HuBERT has none."""


class Masking(Config):
    """Which frames are hidden from the transformer."""

    probability: float = Field(default=0.075, gt=0.0, le=1.0)
    """Probability of a frame to start a masked span."""
    span: int = Field(default=7, ge=1)
    """Frames of a span; HuBERT masks 10, our utterances are short."""
    unmasked_weight: float = Field(default=0.3, ge=0.0)
    """Weight of the loss over frames that are not masked."""


class FinetuningConfig(Optimization):
    """Fine-tuning on one task, or on several at once."""

    task: str = "sid"
    """Key of the task; ``hubert`` is continued pre-training, which needs no labels."""
    tasks: dict[str, float] = Field(default_factory=dict)
    """Several tasks at once with their weights; takes the place of ``task``."""
    mixing: Literal["weighted", "alternating"] = "weighted"
    """``weighted``: every update sees a batch of each task, losses are weighted; ``alternating``:
    every update is of one task, drawn in proportion to its weight."""
    strategy: Strategy = "stable"
    """``stable``: head only at first, downsampler frozen; ``plain``: the same without the head-only
    updates, as the released code would do it (its experts give the CNN no gradient; the authors'
    runner is unpublished); ``plain-cnn`` (ours): everything from step 0, the downsampler too;
    ``l2sp``, ``lora``, ``dora``, ``distill``: stable, with the encoder tied to where it came from;
    ``early-checkpoint``: the stable run's state at a share of its steps; ``early-decayed``: a
    stable run of so many steps."""
    encoder_learning_rate: float | None = Field(default=None, ge=0.0)
    """Peak learning rate of the encoder, adapters included; null for that of the head."""
    layer_decay: float = Field(default=1.0, gt=0.0, le=1.0)
    """Factor from the learning rate of one transformer layer to that of the layer below (ELECTRA,
    arXiv 2003.10555); what lies below the first layer has one factor more than that layer."""
    head_only: float = Field(default=0.1, ge=0.0)
    """Share of the updates in which only the head learns; ``plain`` and ``plain-cnn`` have none."""
    head_only_mode: EncoderMode = "train"
    """Encoder in that time: ``train`` has dropout on, as the official code; ``eval`` has not, so
    that its hidden states are computed once and reused."""
    select: Select = "best"
    """The state that is exported: ``best`` on dev among those after the head-only updates;
    ``official``: best on dev of all, as the released code, whose choice may lie in the head-only
    updates, so that nothing is merged; ``last``; or ``ema``, the moving average of the weights
    since the encoder learns."""
    ema_decay: float = Field(default=0.999, ge=0.0, lt=1.0)
    """Decay of the moving average, per update."""
    hidden: int | None = 256
    """Size of the head's projection; null leaves it out."""
    recurrent: RecurrentConfig | None = None
    """A BiLSTM head instead of the task's own."""
    vocabulary: Literal["corpus", "wav2vec2"] = "corpus"
    """Symbols of a character task: those of the training split, or the 32 of wav2vec 2.0."""
    specaugment: SpecAugmentConfig | None = None
    """Masks on the encoder's output; null for none."""
    dropout: dict[str, float] = Field(default_factory=dict)
    """Dropout rates by Hugging Face name; those left out are 0."""
    evaluate_every: int = Field(default=0, ge=0)
    """Updates between evaluations on dev; 0 evaluates at the end only."""
    max_duration: float | None = Field(default=None, gt=0.0)
    """Longer utterances are cropped at random, in seconds; sequence tasks see them whole."""
    max_left_out: float = Field(default=MAX_LEFT_OUT, ge=0.0, le=1.0)
    """Largest share of a split that is left out because it could not be used when the corpus was
    prepared, or by a task, such as transcripts that are too long for CTC; 1 never refuses."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Where curves go beside the progress bar: tensorboard, wandb, mlflow and others by the names
    that Accelerate gives them."""
    l2sp: L2spConfig = L2spConfig()
    """Settings of the strategy ``l2sp``."""
    adapter: AdapterConfig = AdapterConfig()
    """Settings of the strategies ``lora`` and ``dora``."""
    early: EarlyConfig = EarlyConfig()
    """Settings of the strategies ``early-checkpoint`` and ``early-decayed``."""
    distill: DistillConfig = DistillConfig()
    """Settings of the strategy ``distill``."""
    targets: Targets = Targets()
    """What continued pre-training predicts."""
    masking: Masking = Masking()
    """What continued pre-training hides."""

    @model_validator(mode="after")
    def _consistent(self) -> FinetuningConfig:
        if any(weight <= 0 for weight in self.tasks.values()):
            raise ValueError("finetuning.tasks: every weight must be above 0")
        if PRETRAINING in self.tasks:
            raise ValueError(f"finetuning.tasks cannot hold {PRETRAINING!r}; give it as task")
        return self

    def with_effect(self) -> dict[str, Any]:
        """Return the settings that decide the result; they are what a fine-tuning is resumed by.

        A stopped fine-tuning goes on after a change of any other setting.
        """
        without = {"workers", "trackers", "checkpoint_every", "keep", "max_left_out"}
        if self.encoder_learning_rate in (None, self.learning_rate):
            without.add("encoder_learning_rate")  # finished before there was the key, or without it
        if self.layer_decay == 1.0:
            without.add("layer_decay")
        known = _as_before(self.as_dict())
        content = {key: value for key, value in known.items() if key not in without}
        if self.strategy == "plain":
            content["trainable"] = self.phases()[-1].trainable  # the CNN too, in older versions
        return content

    def task_weights(self) -> dict[str, float]:
        """Return the tasks with their weights, one for a single task."""
        return dict(self.tasks) or {self.task: 1.0}

    def resolved(self) -> FinetuningConfig:
        """Return the configuration with the steps that the schedule is made for.

        ``early-decayed`` is a whole stable run, decay of the learning rate included, of a share of
        the steps.
        """
        if self.strategy != "early-decayed":
            return self
        return self.model_copy(update={"steps": max(1, int(self.early.share * self.steps))})

    def has_adapters(self) -> bool:
        """Return whether adapters are trained in the place of the layers."""
        return self.strategy in ("lora", "dora")

    def stop_after(self) -> int:
        """Return after how many updates training ends.

        ``early-checkpoint`` follows the schedule of all steps and ends at a share of them.
        """
        if self.strategy == "early-checkpoint":
            return max(1, int(self.early.share * self.steps))
        return self.steps

    def phases(self) -> list[Phase]:
        """Return the stretches of updates with what is trainable in each."""
        if self.strategy == "plain-cnn":
            return [Phase(self.steps, "everything")]
        return stable_phases(
            self.steps,
            0.0 if self.strategy == "plain" else self.head_only,
            trainable="head and adapters" if self.has_adapters() else "head and layers",
            head_only_mode=self.head_only_mode,
        )


class PretrainingConfig(Config):
    """A round of pre-training."""

    title: str = "pre-training"
    """One line that says what it does."""
    corpus: str = "synthetic-pretrain"
    """Embedded corpus or folder of a prepared one."""
    split: str | tuple[str, ...] = "train"
    """Split of the corpus to train on, or several."""
    utterances: int | None = None
    """Train on the first so many utterances only; None takes all."""
    start_from: str | None = None
    """Encoder to go on from; None draws fresh weights."""
    architecture: dict[str, Any] = Field(default_factory=dict)
    """Fields of the Hugging Face HubertConfig, for fresh weights."""
    targets: Targets = Targets()
    """What is predicted."""
    masking: Masking = Masking()
    """What is hidden."""
    head_dim: int = Field(default=96, ge=1)
    """Dimension in which frames and clusters are compared."""
    downsampler_gradient: float = Field(default=1.0, ge=0.0)
    """Factor of the gradient that reaches the downsampler."""
    feature_penalty: float = Field(default=0.0, ge=0.0)
    """Weight of the mean square of the downsampler's output in the loss."""
    distort: bool = True
    """Put the input (never the targets' signal) into random rooms and noise."""
    mix: float = 0.2
    """Probability that another utterance talks into the input, for at most half of its length."""
    max_duration: float = 4.0
    """Longer utterances are cropped at random, in seconds."""
    dropout: dict[str, float] = Field(default_factory=dict)
    """Dropout rates by Hugging Face name; those left out are 0."""
    optimization: Optimization = Optimization(
        steps=10_000, learning_rate=1e-3, weight_decay=0.01, clip=5.0, checkpoint_every=200
    )
    """Steps, learning rate, batches."""
    seed: int = 1
    """Seed of weights, order, crops, rooms, noise and masks."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the splits to train on."""
        return (self.split,) if isinstance(self.split, str) else self.split

    def with_effect(self) -> dict[str, Any]:
        """Return the settings that a pre-training is resumed by."""
        return _as_before(self.as_dict())


_LATER: tuple[tuple[tuple[str, ...], Any], ...] = (
    (("betas",), [0.9, 0.999]),
    (("epsilon",), 1e-8),
    (("optimization", "betas"), [0.9, 0.999]),
    (("optimization", "epsilon"), 1e-8),
    (("targets", "passes"), 0),
    (("head_dim",), 96),
    (("downsampler_gradient",), 1.0),
    (("feature_penalty",), 0.0),
)
"""Keys that came later, with the values that everything before them was trained with."""


def _as_before(content: dict[str, Any]) -> dict[str, Any]:
    """Return settings without the keys that came later, where these change nothing.

    What was begun or finished before there were such keys is known by the rest.
    """
    for (*sections, name), usual in _LATER:
        section = content
        for key in sections:
            section = section.get(key, {})
        if name in section and section[name] == usual:
            del section[name]
    return content
