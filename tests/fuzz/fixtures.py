"""What cases start from: tiny encoders, audio of every format, a corpus, archives in miniature."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from corpora import miniature
from helpers import tiny_encoder, tone_corpus
from speechft.data.shar import export_shards

ARCHIVES = {
    "tedlium3": ".stm",
    "timit": ".PHN",
    "librispeech": ".trans.txt",
    "snips": ".txt",
    "quesst14": ".rttm",
    "libri2mix": "",
    "iemocap": ".txt",
    "fluent-speech-commands": ".csv",
    "voxceleb1": ".txt",
    "aishell3": ".txt",
}
"""Archives whose label files are changed, and how those files end."""


_LABELS: dict[str, Any] = {
    "libri2mix": lambda *_: {"turns": '[["a", 0.0, 0.4], ["b", 0.2, 0.6]]'},
    "snips": lambda *_: {"slots": "O B-thing", "intent": "Go"},
    "fluent-speech-commands": lambda *_: {
        "action": "go",
        "object": "on",
        "location": "none",
        "intent": "go/on/none",
    },
}


def build(folder: Path) -> None:
    """Write all fixtures below a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_encoder().save(folder / "base")
    tiny_encoder(seed=1).save(folder / "tuned")
    encoder = tiny_encoder()
    torch.save(encoder.model.state_dict(), folder / "weights.bin")
    rng = np.random.default_rng(0)
    for suffix, form, subtype in (
        *((".wav", "WAV", s) for s in ("PCM_16", "FLOAT", "ULAW", "PCM_24")),
        (".flac", "FLAC", "PCM_16"),
        (".ogg", "OGG", "VORBIS"),
        (".opus", "OGG", "OPUS"),
        (".mp3", "MP3", "MPEG_LAYER_III"),
        (".aiff", "AIFF", "PCM_16"),
        (".au", "AU", "PCM_16"),
        (".caf", "CAF", "PCM_16"),
        (".w64", "W64", "PCM_16"),
        (".sph", "NIST", "PCM_16"),
        *((".wav", "WAV", s) for s in ("IMA_ADPCM", "MS_ADPCM", "GSM610", "G721_32", "ALAW")),
        *((".wav", f, "PCM_16") for f in ("RF64", "WAVEX", "VOC", "IRCAM", "MAT5", "PAF", "SVX")),
        *((".caf", "CAF", "ALAC_16"), (".aiff", "AIFF", "DWVW_16"), (".w64", "W64", "IMA_ADPCM")),
    ):
        place = folder / "audio" / f"{form}-{subtype}{suffix}"
        place.parent.mkdir(exist_ok=True)
        sound = 0.1 * rng.standard_normal((2_000, 1))
        with place.open("wb") as file:
            buffer = io.BytesIO()
            soundfile.write(buffer, sound, 16_000, format=form, subtype=subtype)
            file.write(buffer.getvalue())
    shutil.copy(folder / "audio" / "WAV-PCM_16.wav", folder / "a.wav")
    (folder / "tones").mkdir()
    tone_corpus(folder / "tones", speakers=2, per_speaker=1)
    (folder / "sharded").mkdir()
    export_shards(tone_corpus(folder / "sharded", speakers=1, per_speaker=2), folder / "shards")
    for name in ARCHIVES:
        many = {"iemocap": 10, "voxceleb1": 4}.get(name, 1)
        miniature(
            folder / "archives" / name,
            name,
            speakers=many,
            per_speaker=1,
            shared=many > 1,
            labels=_LABELS.get(name),
        )
    (folder / "cache").mkdir()
    _build_probe(folder)


def _build_probe(folder: Path) -> None:
    """Write the folder of a probe of the tiny encoder, untrained."""
    from types import SimpleNamespace

    from speechft.data.labels import Vocabulary
    from speechft.evaluation.candidates import typed_candidates
    from speechft.evaluation.config import EvaluationConfig, ProbeConfig
    from speechft.evaluation.grid import Probe
    from speechft.evaluation.pipelines import save_pipeline
    from speechft.tasks import find_task

    task = find_task("sid").variant("mini")
    vocabulary, config = Vocabulary(("a", "b")), ProbeConfig()
    torch.manual_seed(0)
    head = task.probe_head(24, vocabulary, hidden=config.hidden, units=tuple(config.units))
    result = SimpleNamespace(
        weights=Probe(3, head).state_dict(),
        vocabulary=vocabulary,
        layer_weights=[1 / 3] * 3,
        dim=24,
        learning_rate=0.1,
        setting=None,
    )
    [candidate] = typed_candidates([str(folder / "base")])
    save_pipeline(
        folder / "probe",
        result,  # type: ignore[arg-type]
        task,
        config,
        protocol="mini",
        candidate=candidate,
        digest=candidate.digest(),
        evaluation=EvaluationConfig(),
    )


@cache
def read(path: Path) -> bytes:
    """Return a fixture's bytes."""
    return path.read_bytes()


@cache
def below(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder of fixtures by their path."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def torch_file(data: bytes) -> bytes:
    """Return a zip as ``torch.save`` writes it, around a pickle of one's own."""
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/byteorder", "little")
        file.writestr("archive/data/0", bytes(64))
        file.writestr("archive/version", "3\n")
    return buffer.getvalue()


def legacy_file(data: bytes) -> bytes:
    """Return what ``torch.save`` wrote before there were zips, around a pickle of one's own."""
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    return b"".join(pickle.dumps(part, 2) for part in parts) + data + pickle.dumps([], 2)


def as_json(value: object) -> bytes:
    """Return JSON in which surrogates stay."""
    return json.dumps(value, default=str).encode("utf-8", "surrogatepass")
