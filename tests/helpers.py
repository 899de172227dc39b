"""Tiny models and corpora made in code, shared by the tests."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import soundfile
import torch
from lhotse.cut import Cut
from transformers import AutoConfig, AutoModel, HubertConfig, HubertModel

from speechft.data.manifest import Corpus, open_corpus, write_corpus
from speechft.data.utterances import Utterance, to_cut
from speechft.encoders.base import Mode
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.encoders.timing import FrameTiming

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 8,
}
"""Fields of a HubertConfig with the standard 7-layer geometry."""

TIMING = FrameTiming(320, 400)
"""Frames of the standard 7-layer geometry."""


def tiny_encoder(seed: int = 0, **changes: Any) -> HuggingFaceEncoder:
    """Return a tiny HuBERT with fixed weights."""
    torch.manual_seed(seed)
    return HuggingFaceEncoder(HubertModel(HubertConfig(**{**TINY, **changes}))).eval()


def tone_corpus(folder: Path, speakers: int = 3, per_speaker: int = 6, seed: int = 0) -> Corpus:
    """Write a corpus of tones: each speaker has a pitch, each phone a formant.

    Splits train, dev and test carry text, speaker, aligned phones, style, label and intent.
    """
    rng = np.random.default_rng(seed)
    splits: dict[str, list[Utterance]] = {}
    for split in ("train", "dev", "test"):
        splits[split] = []
        for number in range(speakers * per_speaker):
            name = f"{split}-{number:03d}"
            waveform, phones = _tones(rng, number % speakers)
            soundfile.write(folder / f"{name}.wav", waveform, 16_000, subtype="PCM_16")
            vowels = "".join(phone for phone, _, _ in phones)
            splits[split].append(
                Utterance(
                    id=name,
                    path=f"{name}.wav",
                    samples=len(waveform),
                    text=vowels.lower(),
                    speaker=f"speaker-{number % speakers}",
                    phones=phones,
                    labels={
                        "style": "even" if number % 2 else "odd",
                        "label": phones[0][0],
                        "intent": f"{phones[0][0]}/{phones[-1][0]}",
                    },
                )
            )
    write_corpus(folder, "tones", f"seed {seed}", splits, {"licence": "none"})
    return open_corpus(folder)


def _tones(
    rng: np.random.Generator, speaker: int
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], list[tuple[str, float, float]]]:
    formants = {"A": 700.0, "E": 1500.0, "I": 2400.0}
    pieces, phones, start = [], [], 0.0
    for _ in range(int(rng.integers(3, 6))):
        phone = str(rng.choice(list(formants)))
        duration = float(rng.uniform(0.12, 0.22))
        time = np.arange(int(duration * 16_000)) / 16_000
        pitch = 110.0 * 1.5**speaker
        voice = np.sign(np.sin(2 * np.pi * pitch * time)) * 0.5 + 0.5
        pieces.append(voice * np.sin(2 * np.pi * formants[phone] * time) * 0.2)
        phones.append((phone, round(start, 4), round(start + duration, 4)))
        start += duration
    waveform = np.concatenate(pieces) + 0.005 * rng.standard_normal(sum(map(len, pieces)))
    return waveform.astype(np.float32), phones


FAMILIES = ("hubert", "wav2vec2", "wavlm")


def speech_encoder(
    family: str, *, large: bool = False, mode: Mode = "exact", seed: int = 0, **changes: Any
) -> HuggingFaceEncoder:
    """Return a tiny encoder of a family, shaped like its base or its large models.

    Large: layer norm after every convolution, pre-LN transformer, normalised waveforms.
    """
    fields: dict[str, Any] = {**TINY, "conv_dim": [16] * 7}
    if family == "wavlm":
        fields |= {"num_buckets": 16, "max_bucket_distance": 40}
    if large:
        fields |= {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    config = AutoConfig.for_model(family, **{**fields, **changes})
    torch.manual_seed(seed)
    model = AutoModel.from_config(config)
    with torch.no_grad():  # fresh norms and biases are ones and zeros, which would hide mistakes
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return HuggingFaceEncoder(model, normalize=large, mode=mode).eval()


def tiny_decoar2(seed: int = 0) -> HuggingFaceEncoder:
    """Return a tiny DeCoAR 2.0, which has filterbanks where others have a CNN."""
    from speechft.encoders.families.decoar2.model import Decoar2Config, Decoar2Model

    torch.manual_seed(seed)
    config = Decoar2Config(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=32,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    return HuggingFaceEncoder(Decoar2Model(config)).eval()


def noise(*lengths: int, seed: int = 0, offset: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a padded batch of noise, with garbage in the padding, and its lengths."""
    generator = torch.Generator().manual_seed(seed)
    waveforms = 0.3 * torch.randn(len(lengths), max(lengths), generator=generator) + offset
    return waveforms, torch.tensor(lengths)


def cut_of(name: str, samples: int = 16_000, **known: Any) -> Cut:
    """Return a cut with labels and no audio behind it."""
    return to_cut(Utterance(id=name, path=f"{name}.wav", samples=samples, **known))


def quicken_probes() -> None:
    """Train probes of protocol ``mini`` for two epochs: for tests of what is around them.

    Call it in a fixture that puts `PROTOCOLS` back, or in a child process.
    """
    from speechft.evaluation.protocols import PROTOCOLS

    brief = {"epochs": 2, "extend": 0, "halve_at": ()}
    mini = PROTOCOLS["mini"]
    PROTOCOLS["mini"] = {name: probe.model_copy(update=brief) for name, probe in mini.items()}


STUDIES = Path(__file__).parents[1] / "studies"


def study(name: str) -> ModuleType:
    """Return a file of ``studies/`` as a module; they import one another by name."""
    if str(STUDIES) not in sys.path:
        sys.path.append(str(STUDIES))
    return importlib.import_module(name)
