"""Draw the packaged encoders without training, which rehearse recipes of other families.

python studies/random_encoders.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel

from speechft.encoders.families.decoar2.model import Decoar2Config, Decoar2Model
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.storage.files import write_text

ASSETS = Path(__file__).parents[1] / "src" / "speechft" / "assets"
SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
CNN: dict[str, Any] = {"conv_dim": [16, 16, 32, 32, 32, 32, 32]}
DETAILS: dict[str, dict[str, Any]] = {
    "wav2vec2": CNN,
    "wavlm": {**CNN, "num_buckets": 32, "max_bucket_distance": 80},
    "decoar2": {},
}
CARD = """---
license: apache-2.0
---

# random-{family}

An encoder of the family {family}, three layers of 48, **with random weights** (seed 0): nothing was
trained. It is there so that recipes of that family can be rehearsed without a download
(`speechft recipes`, names that end in `-miniature`); its figures say nothing.
Made by `python studies/random_encoders.py`.
"""


def write_random(family: str, folder: Path) -> None:
    """Write the encoder of a family."""
    torch.manual_seed(0)
    sizes = SIZES | DETAILS[family]
    if family == "decoar2":
        model: Any = Decoar2Model(Decoar2Config(**sizes))
    else:
        model = AutoModel.from_config(AutoConfig.for_model(family, **sizes))
    HuggingFaceEncoder(model).save(folder)
    write_text(folder / "README.md", CARD.format(family=family))


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else ASSETS
    for name in DETAILS:
        write_random(name, where / f"random-{name}")
