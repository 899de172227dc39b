"""Losses of sequence recognition and of several slots, as functions of logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def ctc_losses(
    logits: Tensor, lengths: Tensor, targets: Sequence[Tensor], *, blank: int = 0
) -> Tensor:
    """Return CTC losses divided by target lengths, (B,); what cannot be aligned counts as 0.

    Their mean is that of `torch.nn.CTCLoss` with ``zero_infinity`` and s3prl 0.4: utterances that
    count as 0 stay in the denominator.

    Args:
        logits: (B, T, C), before the softmax.
        lengths: (B,) valid frames.
        targets: B tensors of (U,) symbols.
        blank: The CTC blank.
    """
    sizes = torch.tensor([len(target) for target in targets], device=logits.device)
    losses = F.ctc_loss(
        logits.float().log_softmax(-1).transpose(0, 1),
        torch.cat(list(targets)),
        lengths,
        sizes,
        blank=blank,
        reduction="none",
        zero_infinity=True,
    )
    return losses / sizes.clamp(min=1)


def slot_losses(logits: Tensor, targets: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the sum over slots of their cross entropies, (B,) (SUPERB IC).

    Args:
        logits: (B, C), the classes of all slots side by side.
        targets: (B, slots) class within each slot.
        sizes: Classes of each slot; they add up to C.
    """
    parts = torch.split(logits.float(), list(sizes), dim=-1)
    losses = [
        F.cross_entropy(part, targets[:, number], reduction="none")
        for number, part in enumerate(parts)
    ]
    return torch.stack(losses).sum(0)


def padded_to(targets: Sequence[Tensor], frames: int, value: float) -> Tensor:
    """Stack targets by frame, (T', ...), as one (B, T, ...) for T frames of logits.

    Args:
        targets: B tensors of no more frames than there are logits.
        frames: T, the padding of waveforms included.
        value: In frames without a target.
    """
    padded = pad_sequence(list(targets), batch_first=True, padding_value=value)
    rest = (0, 0) * (padded.dim() - 2)
    return F.pad(padded, (*rest, 0, frames - padded.shape[1]), value=value)
