"""Several encoders in one pass: each as it is alone, the shared downsampler once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from helpers import speech_encoder, tiny_encoder
from speechft.data.manifest import Corpus, load_waveform
from speechft.encoders.mfcc import MfccEncoder
from speechft.errors import ConfigError
from speechft.features.extract import extract
from speechft.features.streaming import encoded
from speechft.features.together import encode_together

CPU = torch.device("cpu")


def test_each_is_as_it_is_alone(tones: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_encoder()
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in tuned.model.encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    other = speech_encoder("wavlm", seed=3)
    encoders: list[Any] = [base, tuned, other, MfccEncoder()]
    runs = {id(encoder): 0 for encoder in encoders}
    for encoder in encoders:
        original = encoder.downsample

        def counted(*given: Any, of: Any = encoder, run: Any = original) -> Any:
            runs[id(of)] += len(given[0])
            return run(*given)

        monkeypatch.setattr(encoder, "downsample", counted)
    cuts = list(tones.split("dev"))[:7]
    seen = []
    for group, outputs in encode_together(
        encoders, cuts, device=CPU, precision="fp32", batch_seconds=2.0
    ):
        seen += [cut.id for cut in group]
        for place, cut in enumerate(group):
            waveform = torch.from_numpy(load_waveform(cut))
            for encoder, output in zip(encoders, outputs, strict=True):
                with torch.inference_mode():
                    alone = encoder(waveform[None], torch.tensor([len(waveform)]))
                count = int(output.lengths[place])
                for layer, expected in zip(output.layers, alone.layers, strict=True):
                    torch.testing.assert_close(
                        layer[place, :count], expected[0], atol=2e-5, rtol=1e-4
                    )
    assert sorted(seen) == sorted(cut.id for cut in cuts)
    alone_runs = 7
    assert [runs[id(e)] - alone_runs for e in encoders] == [7, 0, 7, 7]


def test_every_pass_gives_free_memory_back(tones: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr("speechft.devices._trim", lambda: given.append(1))
    encoder, cuts = tiny_encoder(), list(tones.split("dev"))[:5]
    groups = [{cut.id: cut} for cut in cuts]
    told: Any = {"precision": "fp32", "device": CPU}
    passes: dict[str, Any] = {
        "together": encode_together([encoder], cuts, batch_seconds=0.0, **told),
        "streaming": encoded(encoder, groups, [0], {}, multiple=1, **told),
    }
    for name, run in passes.items():
        assert len(list(run)) == 5
        assert len(given) == 2, name
        given.clear()
    extract(encoder, cuts, batch_seconds=0.0, **told)
    assert len(given) == 2


def test_features_of_whole_batches_are_refused(tones: Corpus) -> None:
    encoder = speech_encoder("hubert", mode="s3prl")
    cuts = list(tones.split("dev"))[:2]
    with pytest.raises(ConfigError, match="mode exact"):
        next(encode_together([encoder], cuts, device=CPU))
