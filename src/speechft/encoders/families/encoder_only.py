"""Models of an encoder and a decoder, read without the decoder."""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def encoder_only(kind: Any, encoder: Any) -> Any:
    """Return a class with the parameter names of the whole model, but for the decoder's.

    A decoder may be half of a model, and nothing of it is read.

    Args:
        kind: The family's ``...PreTrainedModel`` of transformers.
        encoder: Its class of the encoder.
    """

    class Model(kind):  # type: ignore[misc]
        """The whole model without its decoder."""

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.encoder = encoder(config)
            self.post_init()

    Model.__name__ = kind.__name__.replace("PreTrainedModel", "Model")
    return Model
