"""How an objective is optimised: steps, learning rate, limits of a batch, precision."""

from __future__ import annotations

from pydantic import Field

from speechft.config import Config
from speechft.devices import Precision
from speechft.finetuning.schedules import Schedule


class Optimization(Config):
    """How an objective is optimised, whatever it is."""

    steps: int = Field(ge=1)
    """Updates."""
    learning_rate: float = Field(ge=0.0)
    """Peak learning rate."""
    schedule: Schedule = Schedule()
    """Learning rate over the steps."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decoupled weight decay (AdamW); 0 is plain Adam, as in the official code."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the two moments of Adam, per update."""
    epsilon: float = Field(default=1e-8, gt=0.0)
    """Added to the root of the second moment."""
    clip: float = Field(default=1.0, gt=0.0)
    """Largest norm of the gradient over all trainable parameters."""
    batch_seconds: float = Field(default=80.0, gt=0.0)
    """Limit of a batch in seconds of audio."""
    batch_utterances: int = Field(default=16, ge=1)
    """Limit of a batch in utterances."""
    accumulation: int = Field(default=1, ge=1)
    """Batches per update."""
    precision: Precision = "auto"
    """fp32, bf16, fp16, or auto: bf16 where the hardware has it."""
    compile: bool = False
    """Compile the forward pass with torch.compile."""
    workers: int = Field(default=0, ge=0)
    """Processes that read ahead."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Updates between checkpoints."""
    keep: int = Field(default=2, ge=1)
    """Checkpoints kept beside the best one."""
    trackers: tuple[str, ...] = ()
    """Where curves go beside the progress bar: tensorboard, wandb, mlflow and others by the names
    that Accelerate gives them."""
