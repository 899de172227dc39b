"""Words with times, from TIMIT's files to `cca_word`: against an eigenproblem of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from scipy.linalg import eigh

from corpora import prepared
from helpers import tiny_encoder
from speechft.analysis import cca
from speechft.analysis.abilities import _half
from speechft.analysis.analyze import analysis_rows
from speechft.analysis.settings import read_settings
from speechft.data.labels import aligned
from speechft.data.manifest import Corpus
from speechft.errors import DataError

WORDS = {"go": (300, 420), "in": (900, 1300), "up": (2000, 2700), "on": (3500, 5000)}
"""What each word sounds like: tones of its two phones, in Hz."""
LENGTH = 2_400
"""Samples of a phone."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Return TIMIT in miniature, as its archive has it: .WAV, .TXT, .PHN and .WRD."""
    root = tmp_path_factory.mktemp("timit")
    rng = np.random.default_rng(0)
    speakers = {"TRAIN": ["maaz0"], "TEST": ["mdab0", "faks0", "fdac1", "mgwt0", "mjar0"]}
    for part, names in speakers.items():
        for name in names:
            folder = root / part / "DR1" / name.upper()
            folder.mkdir(parents=True)
            for number in range(8):
                _sentence(folder / f"SX{number}", rng.choice(list(WORDS), 8), rng)
    return prepared("timit", root)


def _sentence(path: Path, words: npt.NDArray[np.str_], rng: np.random.Generator) -> None:
    times = np.arange(LENGTH) / 16_000
    sounds, phones, spoken = [np.zeros(LENGTH)], [(0, LENGTH, "h#")], []
    for word in words:
        start = LENGTH * len(sounds)
        for letter, tone in zip(word, WORDS[word], strict=True):
            now = LENGTH * len(sounds)
            phones.append((now, now + LENGTH, letter))
            sounds.append(0.2 * np.sin(2 * np.pi * tone * rng.uniform(0.9, 1.1) * times))
        spoken.append((start, start + 2 * LENGTH, word))
    audio = np.concatenate(sounds) + 0.02 * rng.standard_normal(LENGTH * len(sounds))
    soundfile.write(path.with_suffix(".WAV"), audio, 16_000, format="NIST")
    path.with_suffix(".TXT").write_text(f"0 {len(audio)} {' '.join(words)}\n")
    for suffix, lines in ((".PHN", phones), (".WRD", spoken)):
        path.with_suffix(suffix).write_text("".join(f"{a} {b} {c}\n" for a, b, c in lines))


def test_words_arrive_in_the_manifest_with_their_times(corpus: Corpus) -> None:
    assert corpus.statistics["dev"]["labels"]["words"] == 32
    cut = next(iter(corpus.split("dev")))
    words = aligned(cut, "word")
    assert [word for word, _, _ in words] == (cut.supervisions[0].text or "").split()
    assert [start for _, start, _ in words] == pytest.approx(0.15 + 0.3 * np.arange(8))
    assert [end for _, _, end in words] == pytest.approx(0.45 + 0.3 * np.arange(8))
    assert len(aligned(cut, "phone")) == 17


def test_cca_with_words_is_that_of_the_eigenproblem(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cca, "KEPT_VARIANCE", 1.0)  # all of it, as in the eigenproblem
    encoder = tiny_encoder()
    for name in ("base", "tuned"):
        encoder.save(tmp_path / name)
    (tmp_path / "out").mkdir()
    rows = analysis_rows(
        str(tmp_path / "base"),
        [str(tmp_path / "tuned")],
        str(corpus.folder),
        tmp_path / "out",
        read_settings("cca"),
    )
    found = {r.layer: r for r in rows if (r.measure, r.encoder) == ("cca_word", "base")}
    assert {row.question for row in found.values()} == {"words"}
    assert {row.details["labels"] for row in found.values()} == {4}
    pooled, labels, fitted = _pooled(encoder.eval(), corpus)
    for layer, row in found.items():
        expected = _correlation(pooled[:, layer], labels, fitted)
        assert row.value == pytest.approx(expected, abs=1e-4)
        assert expected > 0.3, "tones are heard"
    assert {r.measure for r in rows} == {"cca_word", "cca_phone"}


def _pooled(
    encoder: torch.nn.Module, corpus: Corpus
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.str_], npt.NDArray[np.bool_]]:
    """Return (n, layers, D) means over the frames in the middle of each word, words, and half."""
    means, labels, fitted = [], [], []
    for cut in corpus.split("dev"):
        audio = torch.from_numpy(cut.load_audio()).float()
        with torch.no_grad():
            states = encoder(audio, torch.tensor([audio.shape[1]])).hidden_states[:, 0].double()
        middles = 200 / 16_000 + 0.02 * np.arange(states.shape[1])  # 400 samples, every 320
        for word, start, end in aligned(cut, "word"):
            inside = (middles >= start - 1e-9) & (middles < end - 1e-9)
            means.append(states[:, inside].mean(1).numpy())
            labels.append(word)
            fitted.append(_half(cut.id, 0))
    return np.array(means), np.array(labels), np.array(fitted)


def _correlation(
    x: npt.NDArray[np.float64], labels: npt.NDArray[np.str_], fitted: npt.NDArray[np.bool_]
) -> float:
    y = (labels[:, None] == np.unique(labels)).astype(float)
    a, b = x[fitted] - x[fitted].mean(0), y[fitted] - y[fitted].mean(0)
    n = len(a)
    own, other = (
        m.T @ m / n + cca.RIDGE * np.trace(m.T @ m / n) / rank * np.eye(m.shape[1])
        for m, rank in ((a, a.shape[1]), (b, b.shape[1]))
    )
    to_labels = np.linalg.solve(other, b.T @ a / n)
    between = (a.T @ b / n) @ to_labels
    _, directions = eigh((between + between.T) / 2, own)
    directions = directions[:, ::-1][:, : y.shape[1] - 1]
    variates = a @ directions
    weights = np.abs(variates.T @ a).sum(1) / np.linalg.norm(variates, axis=0)
    u, v = x[~fitted] @ directions, y[~fitted] @ to_labels @ directions
    rho = [np.corrcoef(one, two)[0, 1] for one, two in zip(u.T, v.T, strict=True)]
    return float(weights @ rho / weights.sum())


def test_without_times_nothing_is_measured_and_it_is_said(tones: Corpus, tmp_path: Path) -> None:
    from dataclasses import replace

    from speechft.data.manifest import write_corpus
    from speechft.data.utterances import Utterance

    rng = np.random.default_rng(0)
    items = []
    for number in range(4):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * rng.standard_normal(16_000), 16_000)
        phones = [("a", 0.0, 0.0), ("b", 0.0, 0.0)]
        items.append(Utterance(f"u{number}", f"{number}.wav", 16_000, speaker="s", phones=phones))
    tiny_encoder().save(tmp_path / "base")
    (tmp_path / "out").mkdir()

    def measured(kept: list[Utterance], *names: str) -> None:
        write_corpus(tmp_path, "plain", "", {"train": [], "dev": kept, "test": []}, {})
        given = str(tmp_path / "base"), [str(tmp_path / "base")], str(tmp_path), tmp_path / "out"
        for name in names:
            with pytest.raises(DataError, match=f"{name} cannot be measured: .* with times"):
                analysis_rows(*given, read_settings(name))

    measured(items, "cca", "abx")
    words = [replace(one, phones=[], words=[("go", 0.1, 0.5)]) for one in items]
    measured(words, "abx")
