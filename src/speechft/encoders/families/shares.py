"""How fairseq's HuBERT and WavLM mask a padded batch, which s3prl's mode repeats."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def share_of_batch(lengths: Tensor, frames: int) -> Tensor:
    """Return how many frames attention sees, (B,).

    A frame counts unless all samples of its share of the batch are padding.

    Args:
        lengths: (B,) samples.
        frames: Of the padded batch.
    """
    import torch

    share = int(lengths.max()) // frames
    return torch.clamp(torch.div(lengths + share - 1, share, rounding_mode="floor"), max=frames)
