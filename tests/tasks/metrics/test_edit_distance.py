"""Error rates against jiwer and s3prl."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest

from oracle_data import oracle_json
from speechft.tasks.metrics import cer, edits, per, wer

TRICKY = [
    ("the cat sat", "the cat sat"),
    ("the cat sat", "cat the sat"),
    ("the", "the the the"),
    ("a x c", "a b c d"),
    ("it's", "it 's"),
    ("naïve café", "naive cafe"),
    ("a b c d e f g h", "x"),
    ("one", ""),
    ("hello world", "hello  world"),
    ("日本 語", "日 本語"),
    ("b a b a b a", "a b a b a b"),
]


def sentences(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    words = ["a", "b", "ab", "ba", "abc", "zz"]
    return [" ".join(rng.choice(words, rng.integers(1, 12))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_rates_are_those_of_jiwer_on_random_texts(seed: int) -> None:
    references, hypotheses = sentences(40, seed), sentences(40, seed + 100)
    assert wer(references, hypotheses) == pytest.approx(jiwer.wer(references, hypotheses))
    assert per(references, hypotheses) == pytest.approx(jiwer.wer(references, hypotheses))
    assert cer(references, hypotheses) == pytest.approx(jiwer.cer(references, hypotheses))


@pytest.mark.parametrize(("reference", "hypothesis"), TRICKY)
def test_word_rate_is_that_of_jiwer_on_tricky_texts(reference: str, hypothesis: str) -> None:
    assert wer([reference], [hypothesis]) == pytest.approx(jiwer.wer(reference, hypothesis))


def test_corpus_rate_weighs_by_length() -> None:
    references, hypotheses = (list(texts) for texts in zip(*TRICKY, strict=True))
    expected = jiwer.wer(references, hypotheses)
    assert wer(references, hypotheses) == pytest.approx(expected)
    alone = [wer([r], [h]) for r, h in TRICKY]
    assert expected != pytest.approx(sum(alone) / len(alone))


def test_rates_are_those_of_s3prl() -> None:
    oracle = oracle_json("superb/07_metrics/wer_cer_per.json")
    compared = 0
    for pair in oracle["pairs"]:
        reference, hypothesis = pair["ref"], pair["hyp"]
        if reference:
            assert cer([reference], [hypothesis]) == pytest.approx(pair["cer"]["value"])
            compared += 1
        # s3prl splits at single spaces: there an empty text is a word, and spaces add words
        if reference and hypothesis == " ".join(hypothesis.split()) != "":
            assert wer([reference], [hypothesis]) == pytest.approx(pair["wer"]["value"])
    for pair in oracle["per_pairs"]:
        if pair["ref"]:
            assert per([pair["ref"]], [pair["hyp"]]) == pytest.approx(pair["per"]["value"])
            compared += 1
    both = [*oracle["pairs"], *oracle["per_pairs"]]
    assert compared == sum(bool(pair["ref"]) for pair in both) > 0
    for pair in oracle["pairs"]:
        found = wer([pair["ref"]], [pair["hyp"]], separator=" ")
        assert found == pytest.approx(pair["wer"]["value"])
    both = [pair["ref"] for pair in oracle["pairs"]], [pair["hyp"] for pair in oracle["pairs"]]
    assert wer(*both, separator=" ") == pytest.approx(oracle["corpus"]["wer"])
    assert cer(*both) == pytest.approx(oracle["corpus"]["cer"])


def test_rates_are_those_of_s3prls_asr() -> None:
    oracle = oracle_json("superb/07_metrics/wer_cer_per.json")
    key = next(k for k in oracle if k not in ("pairs", "corpus", "per_pairs", "per_corpus"))
    assert oracle[key]
    for case in oracle[key]:
        spoken = [[" ".join(words) for words in case[k]] for k in ("target_words", "pred_words")]
        letters = [
            [text.replace(" ", "").replace("|", " ") for text in case[k]]
            for k in ("target_tokens", "pred_tokens")
        ]
        assert 100 * wer(*spoken, empty=1.0) == pytest.approx(case["wer"])
        assert 100 * cer(*letters, empty=1.0) == pytest.approx(case["uer"])


@pytest.mark.parametrize("seed", range(5))
def test_kinds_of_edits_add_up(seed: int) -> None:
    for reference, hypothesis in zip(sentences(20, seed), sentences(20, seed + 50), strict=True):
        first, second = reference.split(), hypothesis.split()
        counted = edits(first, second)
        assert counted.total == slow_distance(first, second)
        assert len(first) + counted.insertions - counted.deletions == len(second)
        assert counted.as_dict() == {
            "substitutions": counted.substitutions,
            "insertions": counted.insertions,
            "deletions": counted.deletions,
        }


def slow_distance(first: list[str], second: list[str]) -> int:
    row = list(range(len(second) + 1))
    for i, one in enumerate(first, start=1):
        previous, row[0] = row[0], i
        for j, two in enumerate(second, start=1):
            keep = previous + (one != two)
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, keep)
    return row[-1]


def test_phones_of_several_letters_are_units() -> None:
    assert per(["HH AH0 L OW1"], ["HH AH0 L OW1"]) == 0.0
    assert per(["K AE1 T"], ["K AE0 T"]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("rate", [wer, per, cer])
def test_rates_without_reference_are_not_defined(rate: object) -> None:
    assert callable(rate)
    with pytest.raises(ValueError, match="references are empty"):
        rate(["", ""], ["a", "b"])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        rate(["a"], ["a", "b"])
