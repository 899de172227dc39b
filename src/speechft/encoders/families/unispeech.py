"""UniSpeech (Wang et al. 2021, arXiv 2101.07597); exact mode only."""

from __future__ import annotations

from typing import ClassVar

from speechft.encoders.families.convolutional import ConvolutionalFamily


class UniSpeech(ConvolutionalFamily):
    """As wav2vec 2.0, for inference."""

    name: ClassVar[str] = "unispeech"
    architecture: ClassVar[str] = "UniSpeechModel"


FAMILY = UniSpeech()
