"""Recurrent heads for every frame: stacked LSTMs as SUPERB's ASR, SF and SD use them.

Shapes: B batch, T frames, D dim, H hidden, C classes, K speakers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

Thinning = Literal["drop", "concat"]


class RecurrentLayer(nn.Module):
    """LSTM, then layer norm, dropout, thinning out of frames, and a tanh projection if wanted.

    Source: s3prl 0.4 ``RNNLayer`` (``downstream/asr/model.py``).

    Args:
        dim: D.
        hidden: Units in each direction.
        bidirectional: Read in both directions.
        dropout: Probability.
        layer_norm: Normalise the output of the LSTM.
        projection: Add a linear layer of the same size with tanh at the end.
        keep_every: Keep one of this many frames.
        thinning: ``drop`` takes the first of them, ``concat`` joins them.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        bidirectional: bool = True,
        dropout: float = 0.0,
        layer_norm: bool = False,
        projection: bool = False,
        keep_every: int = 1,
        thinning: Thinning = "concat",
    ) -> None:
        super().__init__()
        size = hidden * (2 if bidirectional else 1)
        self.lstm = nn.LSTM(dim, hidden, batch_first=True, bidirectional=bidirectional)
        self.norm = nn.LayerNorm(size) if layer_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.keep_every, self.thinning = keep_every, thinning
        joined = size * keep_every if thinning == "concat" else size
        self.projection = nn.Linear(joined, joined) if projection else None
        self.dim_out = joined

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, T, D) and (B,) to (B, T', H') and (B,); frames past a length do not count."""
        output = read_in_time(self.lstm, features[:, : int(lengths.max())], lengths)
        output = self.dropout(self.norm(output))
        output, lengths = thin_out(output, lengths, self.keep_every, self.thinning)
        if self.projection is not None:
            output = torch.tanh(self.projection(output))
        return output, lengths


class RecurrentHead(nn.Module):
    """Projection, stacked LSTMs and a linear layer for every frame (SUPERB ASR and SF).

    Source: s3prl 0.4 ``RNNs``; SUPERB: projection 1024, two bidirectional layers of 1024,
    dropout 0.2, nothing else. The official Speech-FT for TED-LIUM: 256, three layers of 256.

    Args:
        dim: D.
        classes: C.
        projection: Size of the linear projection of the features; None leaves it out.
        hidden: Units in each direction, by layer.
        bidirectional: Read in both directions.
        dropout: Probability after each layer; one for all, or by layer.
        layer_norm: By layer; a single value holds for all.
        layer_projection: Tanh projection at the end, by layer; a single value holds for all.
        keep_every: Frames of which one is kept, by layer; a single value holds for all.
        input_keep_every: The same for the projected features (s3prl: ``total_rate`` over the
            frame rate of the encoder, 1 for -1).
        thinning: How frames are thinned out.
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        *,
        projection: int | None = 1024,
        hidden: Sequence[int] = (1024, 1024),
        bidirectional: bool = True,
        dropout: float | Sequence[float] = 0.2,
        layer_norm: bool | Sequence[bool] = False,
        layer_projection: bool | Sequence[bool] = False,
        keep_every: int | Sequence[int] = 1,
        input_keep_every: int = 1,
        thinning: Thinning = "concat",
    ) -> None:
        super().__init__()
        count = len(hidden)
        self.projector = nn.Identity() if projection is None else nn.Linear(dim, projection)
        size = dim if projection is None else projection
        self.input_keep_every, self.thinning = input_keep_every, thinning
        if thinning == "concat":
            size *= input_keep_every
        self.layers = nn.ModuleList()
        for units, drop, norm, project, keep in zip(
            hidden,
            _by_layer(dropout, count),
            _by_layer(layer_norm, count),
            _by_layer(layer_projection, count),
            _by_layer(keep_every, count),
            strict=True,
        ):
            layer = RecurrentLayer(
                size,
                units,
                bidirectional=bidirectional,
                dropout=float(drop),
                layer_norm=bool(norm),
                projection=bool(project),
                keep_every=int(keep),
                thinning=thinning,
            )
            self.layers.append(layer)
            size = layer.dim_out
        self.linear = nn.Linear(size, classes)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Map (B, T, D) with (B,) lengths to (B, T', C)."""
        return self.with_lengths(features, lengths)[0]

    def with_lengths(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, T, D) and (B,) to logits (B, T', C) and their lengths (B,)."""
        hidden = self.projector(features)
        hidden, lengths = thin_out(hidden, lengths, self.input_keep_every, self.thinning)
        for layer in self.layers:
            hidden, lengths = layer(hidden, lengths)
        return self.linear(hidden), lengths


class DiarizationHead(nn.Module):
    """Stacked one-way LSTMs over padded features, then one logit a speaker (SUPERB SD).

    Source: s3prl 0.4 ``downstream/diarization/model.py``; SUPERB: one layer of 512 units.

    Args:
        dim: D.
        speakers: K.
        hidden: H.
        layers: Number of LSTM layers.
    """

    def __init__(self, dim: int, speakers: int = 2, hidden: int = 512, layers: int = 1) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, hidden, num_layers=layers, batch_first=True)
        self.linear = nn.Linear(hidden, speakers)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, K) logits; lengths are not needed, the LSTM looks back only."""
        logits: Tensor = self.linear(self.lstm(features)[0])
        return logits


def read_in_time(lstm: nn.LSTM, features: Tensor, lengths: Tensor) -> Tensor:
    """Run one layer of a batch-first LSTM over (B, T, D); frames past a length give 0.

    Equal to the LSTM of a packed sequence. On a processor the packed one is slow: torch computes
    it gate by gate, and padded sequences with oneDNN. So there each direction reads padded rows,
    the backward one its own frames in reverse.

    Args:
        lstm: One layer, in one or two directions.
        features: (B, T, D).
        lengths: (B,), the longest is T.
    """
    if features.device.type != "cpu":
        packed = pack_padded_sequence(
            features, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        output: Tensor = pad_packed_sequence(lstm(packed)[0], batch_first=True)[0]
        return output
    places = torch.arange(features.shape[1])
    valid = (places < lengths[:, None])[..., None]
    outputs = [_one_way(lstm, features, "")]
    if lstm.bidirectional:
        mirror = torch.where(valid[..., 0], lengths[:, None] - 1 - places, places)[..., None]
        reverse = _one_way(lstm, features.take_along_dim(mirror, 1), "_reverse")
        outputs.append(reverse.take_along_dim(mirror, 1))
    return torch.cat(outputs, dim=-1) * valid


def _one_way(lstm: nn.LSTM, features: Tensor, direction: str) -> Tensor:
    """Read (B, T, D) from the front with the weights of one direction."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    weights = [getattr(lstm, name + direction) for name in names]
    state = features.new_zeros(1, len(features), lstm.hidden_size)
    output: Tensor = torch.lstm(
        features, (state, state), weights, True, 1, 0.0, lstm.training, False, True
    )[0]
    return output


def thin_out(
    features: Tensor, lengths: Tensor, keep_every: int, thinning: Thinning = "concat"
) -> tuple[Tensor, Tensor]:
    """Keep one of ``keep_every`` frames of (B, T, D), or join them: (B, T', D') and (B,).

    Lengths are rounded down; ``concat`` drops the frames left over at the end.
    """
    if keep_every == 1:
        return features, lengths
    lengths = torch.div(lengths, keep_every, rounding_mode="floor")
    if thinning == "drop":
        return features[:, ::keep_every].contiguous(), lengths
    batch, frames, dim = features.shape
    whole = frames - frames % keep_every
    return features[:, :whole].reshape(batch, whole // keep_every, dim * keep_every), lengths


def _by_layer(value: object, count: int) -> Sequence[float]:
    if isinstance(value, (list, tuple)):
        return value
    return [value] * count  # type: ignore[list-item]
