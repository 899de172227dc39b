"""UniSpeech-SAT (Chen et al. 2022, arXiv 2110.05752); exact mode only."""

from __future__ import annotations

from typing import ClassVar

from speechft.encoders.families.convolutional import ConvolutionalFamily


class UniSpeechSat(ConvolutionalFamily):
    """As wav2vec 2.0, for inference."""

    name: ClassVar[str] = "unispeech-sat"
    architecture: ClassVar[str] = "UniSpeechSatModel"


FAMILY = UniSpeechSat()
