"""SpecAugment on features: time warp, then masks over channels, then masks over time.

Source: Park et al. 2019 (arXiv 1904.08779) as s3prl 0.4 applies it to an encoder's output.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechft.data.config import SpecAugmentConfig

_ADAPTIVE_MASKS = 20


class SpecAugment(nn.Module):
    """Warps and masks a batch of features; what is drawn comes from torch's global generator.

    Unlike in s3prl, masks over time lie within the utterance, not within the padded batch, and
    the place of a mask does not depend on the widest mask of the batch.

    Shapes: B batch, T frames, D channels.
    """

    def __init__(self, config: SpecAugmentConfig | None = None) -> None:
        super().__init__()
        self.config = config or SpecAugmentConfig()

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return an augmented copy of (B, T, D) features with (B,) valid frames."""
        config = self.config
        if config.time_warp:
            features = self._warped(features, lengths)
        frames, dim = features.shape[1:]
        channels = torch.full_like(lengths, dim)
        widths = _widths(channels, config.channel_masks, config.channel_width)
        hidden = _draw(channels, dim, *widths)
        features = features.masked_fill(hidden[:, None, :], 0.0)
        hidden = _draw(lengths, frames, *self._time_widths(lengths))
        return features.masked_fill(hidden[:, :, None], 0.0)

    def _time_widths(self, lengths: Tensor) -> tuple[Tensor, int]:
        config = self.config
        if not config.adaptive:
            return _widths(lengths, config.time_masks, config.time_width)
        share = (config.adaptive * lengths).long()
        high = share.clamp(max=config.time_width[1]).clamp(min=1)
        drawn = torch.rand(len(lengths), _ADAPTIVE_MASKS, device=lengths.device)
        widths = (drawn * high[:, None]).long()
        numbers = torch.arange(_ADAPTIVE_MASKS, device=lengths.device)
        return widths.masked_fill(numbers >= share[:, None], 0), _ADAPTIVE_MASKS

    def _warped(self, features: Tensor, lengths: Tensor) -> Tensor:
        window, rows = self.config.time_warp, []
        for row, length in zip(features, lengths.tolist(), strict=True):
            if length - window <= window:
                rows.append(row)
                continue
            centre = int(torch.randint(window, length - window, (1,)))
            warped = int(torch.randint(centre - window, centre + window, (1,))) + 1
            rows.append(torch.cat([warp_time(row[:length], centre, warped), row[length:]]))
        return torch.stack(rows)


def warp_time(features: Tensor, centre: int, warped: int) -> Tensor:
    """Stretch the frames before ``centre`` to ``warped`` frames and the rest to what is left.

    Args:
        features: (T, D).
        centre: First frame of the second part.
        warped: Where it goes, from 1 to T - 1.

    Returns:
        (T, D), by bicubic interpolation.
    """
    image = features.float()[None, None]
    dim, frames = image.shape[3], image.shape[2]
    parts = [
        F.interpolate(part, (size, dim), mode="bicubic", align_corners=False)
        for part, size in (
            (image[:, :, :centre], warped),
            (image[:, :, centre:], frames - warped),
        )
    ]
    return torch.cat(parts, dim=2)[0, 0].to(features.dtype)


def _widths(sizes: Tensor, number: int, limits: tuple[int, int]) -> tuple[Tensor, int]:
    """Draw (B, number) widths from [low, high)."""
    low, high = limits
    shape = (len(sizes), number)
    return torch.randint(low, max(high, low + 1), shape, device=sizes.device), number


def _draw(sizes: Tensor, longest: int, widths: Tensor, number: int) -> Tensor:
    """Place masks of (B, number) widths on axes of (B,) sizes: (B, longest) bool."""
    room = (sizes[:, None] - widths).clamp(min=1)
    starts = (torch.rand(len(sizes), number, device=sizes.device) * room).long()[..., None]
    places = torch.arange(longest, device=sizes.device)
    return ((places >= starts) & (places < starts + widths[..., None])).any(1)
