"""Beam search with a language model against the enumeration of all word sequences."""

from __future__ import annotations

import gzip
import itertools
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from speechft.errors import DataError, PackageError
from speechft.tasks.word_search import LanguageModel, WordSearch, model_words

pytest.importorskip("flashlight.lib.text.decoder.kenlm", reason="needs the extra lm")

SYMBOLS = ("<blank>", "<unk>", "A", "B", "|")
UNIGRAMS = {"a": (-0.5, -0.2), "b": (-0.7, -0.1), "ab": (-0.9, -0.3), "<s>": (-99.0, -0.3)}
UNIGRAMS |= {"</s>": (-0.6, 0.0), "<unk>": (-1.0, 0.0)}
BIGRAMS = {("<s>", "a"): -0.2, ("a", "b"): -0.4, ("b", "</s>"): -0.3, ("ab", "a"): -0.35}


def arpa() -> str:
    ones = "".join(f"{p}\t{word}\t{back}\n" for word, (p, back) in UNIGRAMS.items())
    twos = "".join(f"{p}\t{' '.join(pair)}\n" for pair, p in BIGRAMS.items())
    counts = f"ngram 1={len(UNIGRAMS)}\nngram 2={len(BIGRAMS)}\n"
    return f"\\data\\\n{counts}\n\\1-grams:\n{ones}\n\\2-grams:\n{twos}\n\\end\\\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "words.arpa.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(arpa())
    return path


def log10_of(words: tuple[str, ...]) -> float:
    """Return the log10 probability of a sentence by Katz back-off."""
    sentence = ("<s>", *words, "</s>")
    return sum(
        BIGRAMS[pair] if pair in BIGRAMS else UNIGRAMS[pair[0]][1] + UNIGRAMS[pair[1]][0]
        for pair in itertools.pairwise(sentence)
    )


def all_paths(frames: int) -> tuple[Tensor, list[tuple[str, ...]]]:
    """Return every path of symbols that spells words of the model, and these words."""
    paths, sentences = [], []
    for path in itertools.product((0, 2, 3, 4), repeat=frames):
        spelled = "".join(SYMBOLS[number] for number, _ in itertools.groupby(path) if number)
        words = tuple(spelled.lower().replace("|", " ").split())
        if set(words) <= UNIGRAMS.keys():
            paths.append(path)
            sentences.append(words)
    return torch.tensor(paths), sentences


@pytest.mark.parametrize(("weight", "word_score"), [(2.0, -1.0), (0.5, 0.3), (0.0, 0.0)])
def test_a_wide_beam_finds_the_best_of_all_sentences(
    model: Path, weight: float, word_score: float
) -> None:
    settings = LanguageModel(model, weight, word_score, beam=500, beam_threshold=1e3)
    search = WordSearch(settings, SYMBOLS)
    paths, sentences = all_paths(6)
    prior = torch.tensor(
        [weight * log10_of(words) + word_score * len(words) for words in sentences]
    )
    generator = torch.Generator().manual_seed(3)
    found = set()
    for _ in range(60):
        logits = 2.0 * torch.randn(6, len(SYMBOLS), generator=generator)
        scores = logits.log_softmax(-1)[torch.arange(6), paths].sum(1) + prior
        expected = [word.upper() for word in sentences[int(scores.argmax())]]
        assert search(logits) == expected
        found.add(tuple(expected))
    assert len(found) > 5


def test_the_model_decides_between_equal_sounds(model: Path) -> None:
    logits = torch.full((4, 5), -6.0)
    for frame, symbol in enumerate((2, 4, 3, 0)):
        logits[frame, symbol] = 6.0
    logits[2, 2] = logits[2, 3]
    assert WordSearch(LanguageModel(model), SYMBOLS)(logits) == ["A", "B"]


def test_a_corpus_of_single_words_has_no_boundary(model: Path) -> None:
    logits = torch.tensor([[-6.0, -6.0, 6.0, -6.0], [-6.0, -6.0, -6.0, 6.0]])
    assert WordSearch(LanguageModel(model, weight=0.1), SYMBOLS[:4])(logits) == ["AB"]


def test_words_are_read_up_to_the_pairs(model: Path) -> None:
    assert list(model_words(model)) == ["a", "b", "ab"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("hello\n", "first line is not"),
        ("\\data\\\nngram 1=3\n\\1-grams:\n-1 a\n", "has no end"),
        ("\\data\\\n\n\\1-grams:\n-1 a b c d\n\\end\\\n", "line 4: expected"),
        (arpa().replace("-0.4\ta b", "what"), "cannot be read by KenLM"),
        ("\\data\\\nngram 1=1\n\n\\1-grams:\n-1\tx\n\n\\end\\\n", "can be spelled"),
    ],
)
def test_files_that_are_no_model_are_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "bad.arpa"
    path.write_text(content)
    with pytest.raises(DataError, match=said):
        WordSearch(LanguageModel(path), SYMBOLS)


def test_binary_and_missing_files_are_refused(tmp_path: Path, model: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read|not in the ARPA format"):
        WordSearch(LanguageModel(tmp_path / "none.arpa"), SYMBOLS)
    cut = tmp_path / "cut.arpa.gz"
    cut.write_bytes(model.read_bytes()[:40])
    with pytest.raises(DataError, match=r"cannot be read|not in the ARPA format"):
        WordSearch(LanguageModel(cut), SYMBOLS)
    binary = tmp_path / "model.bin"
    binary.write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match=r"cannot be read|not in the ARPA format"):
        WordSearch(LanguageModel(binary), SYMBOLS)


def test_the_missing_extra_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flashlight.lib.text.decoder.kenlm", None)
    with pytest.raises(PackageError) as caught:
        WordSearch(LanguageModel(model), SYMBOLS)
    assert "speechft[lm]" in str(caught.value.hint)
