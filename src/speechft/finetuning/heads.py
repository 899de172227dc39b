"""The tuning head of the TED-LIUM recipe, and its symbols."""

from __future__ import annotations

from torch import Tensor, nn

WAV2VEC2_CHARACTERS = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
"""Symbols of facebook/wav2vec2-base-960h, 32; the first is the CTC blank."""


class RecurrentHead(nn.Module):
    """Linear projection, bidirectional LSTMs with dropout after each, linear layer, per frame.

    Source: the official Speech-FT release, ``downstream/asr_ted`` (s3prl's ``RNNs`` without layer
    norm, projection and subsampling).

    Shapes: B batch, T frames, D dim, C classes.

    Args:
        dim: D.
        classes: C.
        hidden: Size of the projection; None leaves it out.
        layers: Number of BiLSTM layers.
        size: Units in each direction.
        dropout: After each BiLSTM layer.
    """

    def __init__(
        self, dim: int, classes: int, hidden: int | None, *, layers: int, size: int, dropout: float
    ) -> None:
        super().__init__()
        inputs = dim if hidden is None else hidden
        self.projector = nn.Identity() if hidden is None else nn.Linear(dim, hidden)
        self.recurrent = nn.ModuleList(
            nn.LSTM(inputs if n == 0 else 2 * size, size, batch_first=True, bidirectional=True)
            for n in range(layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(2 * size, classes)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Map (B, T, D) with (B,) valid frames to (B, T, C); padding does not leak backwards."""
        frames, states = features.shape[1], self.projector(features)
        for layer in self.recurrent:
            packed = nn.utils.rnn.pack_padded_sequence(
                states, lengths.cpu(), batch_first=True, enforce_sorted=False
            )
            states, _ = nn.utils.rnn.pad_packed_sequence(
                layer(packed)[0], batch_first=True, total_length=frames
            )
            states = self.dropout(states)
        logits: Tensor = self.linear(states)
        return logits
