"""An analysis that several processes share: batches and measures once, rows those of one."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from processes import Child
from speechft.analysis.analyze import analysis_rows
from speechft.analysis.settings import read_settings
from speechft.data.manifest import Corpus
from speechft.encoders.load import load_encoder
from speechft.parallel.claims import FOLDER

_VERB = """
import sys, time
from pathlib import Path
from speechft.analysis import parts
from speechft.analysis.analyze import analysis_rows
from speechft.analysis.settings import read_settings

read_states = parts.read_states
def slow(*given, **named):
    time.sleep(0.3)
    return read_states(*given, **named)
parts.read_states = slow
base, tuned, corpus, out = sys.argv[1:]
Path(out).mkdir(exist_ok=True)
analysis_rows(base, [tuned], corpus, Path(out), read_settings())
"""


@pytest.fixture
def tuned(tiny_hubert: Path, tmp_path: Path) -> Path:
    """Return an encoder a little away from the base."""
    encoder = load_encoder(tiny_hubert)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    encoder.save(tmp_path / "tuned")
    return tmp_path / "tuned"


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.integration
def test_two_processes_analyse_what_one_does(
    tiny_hubert: Path, tuned: Path, tones: Corpus, tmp_path: Path, killed: bool
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    settings = read_settings()
    analysis_rows(str(tiny_hubert), [str(tuned)], str(tones.folder), one, settings)
    given = [str(path) for path in (tiny_hubert, tuned, tones.folder, two)]
    first, second = (Child(_VERB, given, tmp_path, name=f"part-{n}") for n in "ab")
    if killed:
        while first.running and not list(two.glob(f"{FOLDER}/analysis-*/pass-*")):
            time.sleep(0.01)
        if first.running:
            first.kill()
    else:
        code, _, error = first.wait()
        assert code == 0, error
    code, _, error = second.wait()
    assert code == 0, error
    assert (two / "analysis.jsonl").read_bytes() == (one / "analysis.jsonl").read_bytes()
    assert not (two / FOLDER).exists()
