"""data2vec for audio (Baevski et al. 2022, arXiv 2202.03555); exact mode only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from speechft.encoders.families.convolutional import ConvolutionalFamily

if TYPE_CHECKING:
    from torch import nn


class Data2VecAudio(ConvolutionalFamily):
    """A stack of position convolutions."""

    name: ClassVar[str] = "data2vec-audio"
    architecture: ClassVar[str] = "Data2VecAudioModel"
    defaults: ClassVar[Mapping[str, Any]] = {
        name: value
        for name, value in ConvolutionalFamily.defaults.items()
        if name != "feat_extract_norm"  # there are layer norms always
    }

    def leaks(self, model: Any) -> Sequence[nn.Module]:
        """Return the position convolutions."""
        return [layer.conv for layer in model.encoder.pos_conv_embed.layers]


FAMILY = Data2VecAudio()
