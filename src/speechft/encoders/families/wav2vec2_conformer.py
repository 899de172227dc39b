"""wav2vec 2.0 with conformer layers (fairseq's wav2vec2-conformer); exact mode only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from speechft.encoders.families.convolutional import ConvolutionalFamily

if TYPE_CHECKING:
    from torch import nn


class Wav2Vec2Conformer(ConvolutionalFamily):
    """Layers with a convolution over time."""

    name: ClassVar[str] = "wav2vec2-conformer"
    architecture: ClassVar[str] = "Wav2Vec2ConformerModel"

    def leaks(self, model: Any) -> Sequence[nn.Module]:
        """Return the convolution of each layer."""
        return [layer.conv_module.depthwise_conv for layer in model.encoder.layers]


FAMILY = Wav2Vec2Conformer()
