"""An alpha without labels of other tasks: the rule to the letter, and curves of a real head."""

from __future__ import annotations

import functools
import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import speechft
from speechft.cli.options import explained
from speechft.data.manifest import Corpus
from speechft.encoders.load import load_encoder
from speechft.errors import ConfigError
from speechft.storage.files import read_json
from speechft.sweeping import api, suggestion
from speechft.sweeping.suggestion import GRID, Measurement, read_off
from speechft.sweeping.tuning import find_tuning, kept_head


def curve(gains: Any, similarities: Any) -> list[Measurement]:
    return [
        Measurement(alpha, 3.0 - 2.0 * gain, 4.0 - 2.0 * gain, tuple(layers))
        for alpha, gain, layers in zip(GRID, gains, similarities, strict=True)
    ]


def test_the_alpha_is_where_gain_exceeds_drift_most() -> None:
    alphas = np.array(GRID)
    assert (len(GRID), GRID[1], GRID[-1]) == (21, 0.05, 1.0)
    gains = 1 - (1 - alphas) ** 3
    still = np.ones(21)
    moved = np.stack([still, 1 - 0.2 * alphas**2, 1 - 0.02 * alphas], 1)
    found = read_off(curve(gains, moved), "sid")
    assert found.gains == pytest.approx(gains)
    drifts = (alphas**2 + alphas) / 2
    assert found.drifts == pytest.approx(drifts), "the layer that did not move is left out"
    assert found.alpha == GRID[int((gains - drifts).argmax())] == 0.45
    assert found.kept_gains == pytest.approx(gains)


@pytest.mark.parametrize(
    ("gains", "why"),
    [
        (-np.array(GRID), "does not fall from the base to the tuned encoder"),
        (np.zeros(21), "does not fall from the base to the tuned encoder"),
        (np.array(GRID) + 0.2 * (np.arange(21) == 10), "does not rise with alpha throughout"),
    ],
)
def test_a_curve_that_says_nothing_gives_the_paper_s_alpha(gains: Any, why: str) -> None:
    moved = (1 - 0.1 * np.array(GRID))[:, None]
    found = read_off(curve(gains, moved), "sid")
    assert found.alpha == 0.25
    assert why in found.reason


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base: Path, tones: Corpus) -> Path:
    """Folder of a short fine-tuning on speakers."""
    out = tmp_path_factory.mktemp("run")
    speechft.finetune(
        "demo",
        out=out,
        corpus=tones.folder,
        encoder=str(base),
        finetuning__task="sid",
        finetuning__strategy="plain",
        finetuning__hidden=None,
        finetuning__steps=12,
        finetuning__evaluate_every=6,
        finetuning__learning_rate=3e-3,
        finetuning__batch_utterances=8,
    )
    return out


def test_curves_of_a_real_head(
    run: Path,
    base: Path,
    tones: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(suggestion, "UPDATES", 8)
    monkeypatch.setattr(suggestion, "GRID", (0.0, 0.5, 1.0))
    read: list[str] = []
    original = Corpus._read
    monkeypatch.setattr(Corpus, "_read", lambda c, n: (read.append(n), original(c, n))[1])

    def suggest(out: Path) -> Any:
        return speechft.sweep(base, run / "encoder", out=out, suggest=True, precision="fp32")

    found = suggest(tmp_path / "whole")
    assert set(read) == {"train", "dev"}, "test stays closed"
    assert f"corpus: {tones.told}" in capfd.readouterr().err, "what it was tuned on"
    text = read_json(tmp_path / "whole" / "suggestion.json")
    assert text == found.suggestion.as_dict()
    assert (text["status"], text["task"], text["alphas"]) == ("not yet judged", "sid", [0, 0.5, 1])
    assert text["cka"][0] == pytest.approx([1.0] * 3)
    assert text["cka"][0][-1] > text["cka"][1][-1] > text["cka"][2][-1]
    assert f"--alpha {found.suggestion.alpha:g}" in found.command
    assert text["loss"] != text["loss_of_kept_head"]

    # the head as it was, at alpha 1, by hand: the merge there is the tuned encoder to rounding
    head, encoder = kept_head([run / "encoder"]), load_encoder(run / "encoder")
    built = head.build(encoder.dim).eval()
    losses = []
    for cut in tones.split("dev"):
        samples = torch.from_numpy(cut.load_audio()).float()
        with torch.no_grad():
            output = encoder(samples, torch.tensor([samples.shape[1]]))
            logits = built(output.last_hidden_state, output.lengths)
        target = head.task.target(cut, head.vocabulary, 1)
        losses.append(float(torch.nn.functional.cross_entropy(logits, target.view(1))))
    assert text["loss_of_kept_head"][2] == pytest.approx(float(np.mean(losses)), rel=2e-3)

    original_at, done = suggestion._Job._at, []

    def killed(job: Any, encoder: Any, alpha: float, reference: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(alpha)
        return original_at(job, encoder, alpha, reference)

    with monkeypatch.context() as patch:
        patch.setattr(suggestion._Job, "_at", killed)
        with pytest.raises(KeyboardInterrupt):
            suggest(tmp_path / "killed")
    assert suggest(tmp_path / "killed").suggestion == found.suggestion


def test_a_copy_of_a_run_s_encoder_is_recognised(run: Path, tones: Corpus, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run" / "finetuning" / "stable")
    shutil.copytree(run / "encoder", tmp_path / "run" / "tuned")
    found = find_tuning(tmp_path / "run" / "tuned")
    assert found is not None
    assert (found.tasks, found.folder.name) == (("sid",), "stable")
    assert [one.place for one in found.corpora] == [str(tones.folder)]
    assert find_tuning(run / "encoder").tasks == ("sid",)  # type: ignore[union-attr]
    shutil.copytree(run / "encoder", tmp_path / "alone")
    assert find_tuning(tmp_path / "alone") is None


def test_without_a_kept_head_there_is_one_refusal(
    run: Path, base: Path, tuned: Path, tones: Corpus, tmp_path: Path
) -> None:
    headless = shutil.copytree(run, tmp_path / "headless")
    (headless / "head.safetensors").unlink()
    for given in (tuned, [run / "encoder", tuned], headless / "encoder"):
        with pytest.raises(ConfigError, match="needs the head that one encoder was tuned with"):
            speechft.sweep(base, given, out=tmp_path / "o", corpus=tones.folder, suggest=True)
    assert not (tmp_path / "o").exists()


def test_what_a_suggestion_has_no_use_for_is_refused(tmp_path: Path) -> None:
    """Whatever argument sweep gets is refused until it is among those that are taken."""
    others = {
        n: p.default
        for n, p in inspect.signature(speechft.sweep).parameters.items()
        if p.kind is p.KEYWORD_ONLY and n not in api._SUGGESTION
    }
    assert others.keys() == {
        *("alphas", "by", "tasks", "tuned_on", "keep_within", "extrapolate", "test"),
        *("protocol", "seeds", "limit", "overrides"),
    }
    sweep: Any = functools.partial(speechft.sweep, "b", "t", out=tmp_path / "o", suggest=True)
    for name, default in others.items():
        with pytest.raises(ConfigError, match=r"--suggest takes no --[a-z-]+: it looks at"):
            sweep(**{name: "7"})
        with pytest.raises(ConfigError, match="needs the head"):
            sweep(**{name: default})
    with pytest.raises(ConfigError, match="takes no --tasks, --protocol, cache:"):
        sweep(tasks="nonsense", protocol="nope", cache="features")
    told = explained(speechft.sweep)["suggest"].replace("weight norm", "weight_norm")
    own = {"base", "tuned", "out", "suggest", "overwrite"}
    assert set(re.findall(r"\w+", told)) >= {*api._SUGGESTION} - own, "help says what it takes"
