"""Dynamic time warping of queries against dtw-python and s3prl; see oracle/superb/06_qbe."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from safetensors.numpy import load_file

from oracle_data import oracle, oracle_json
from speechft.tasks import detection
from speechft.tasks.metrics import mtwv, mtwv_and_threshold

QBE = "superb/06_qbe"
DECISION = 2.0
"""s3prl says YES to scores above this."""


@functools.cache
def features() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the queries and the documents of the oracle."""
    stored = load_file(oracle(f"{QBE}/inputs.safetensors"))
    numbers = {kind: sum(name.startswith(kind) for name in stored) for kind in ("query_", "doc_")}
    queries, documents = ([stored[f"{k}{n}"] for n in range(v)] for k, v in numbers.items())
    return queries, documents


def normalised() -> tuple[list[np.ndarray], list[np.ndarray]]:
    queries, documents = features()
    mean, std = detection.standardize([*queries, *documents])
    return [(q - mean) / std for q in queries], [(d - mean) / std for d in documents]


def test_standardisation_is_that_of_s3prl() -> None:
    expected = load_file(oracle(f"{QBE}/norm_stats.safetensors"))
    queries, documents = features()
    mean, std = detection.standardize([*queries, *documents])
    np.testing.assert_allclose(mean, expected["mean"], atol=1e-6)
    np.testing.assert_allclose(std, expected["std"], atol=1e-6)
    candidates = [(queries[0], documents[0]), (normalised()[0][0], normalised()[1][0])]
    gaps = [
        np.abs(detection.distance_matrix(*pair) - expected["dist_cosine_exp_minmax_q0_d0"]).max()
        for pair in candidates
    ]
    assert min(gaps) < 1e-5


@pytest.mark.parametrize("normalise", [True, False])
def test_every_pair_scores_as_in_s3prl(normalise: bool) -> None:
    records = oracle_json(f"{QBE}/outputs.json")["expert_log_records"]["results"]
    expected = records[f"feature_normalization={normalise}"]
    queries, documents = normalised() if normalise else features()
    names = [f"d{n}" for n in range(len(documents))]
    raw = {
        f"q{n}": dict(zip(names, detection.match_all(query, documents).tolist(), strict=True))
        for n, query in enumerate(queries)
    }
    found = detection.query_scores(raw, {f"q{n}": len(q) for n, q in enumerate(queries)})
    for query, by_document in expected.items():
        for document, record in by_document.items():
            score = found[query][document]
            assert score == pytest.approx(float(record["score"]), abs=6e-5)
            assert ("YES" if score > DECISION else "NO") == record["decision"]


def test_pairs_are_those_of_dtw_python() -> None:
    ours = {
        "dist_method": "cosine_exp",
        "minmax_norm": True,
        "step_pattern": "asymmetric",
        "subsequence": True,
    }
    queries, documents = features()
    recorded = oracle_json(f"{QBE}/outputs.json")["pairs"]
    pairs = [p for p in recorded if all(p[key] == value for key, value in ours.items())]
    assert pairs
    for pair in pairs:
        [found] = detection.match_all(queries[pair["query"]], [documents[pair["doc"]]])
        assert found == pytest.approx(pair["score"], abs=1e-5)


def test_side_by_side_is_one_by_one() -> None:
    queries, documents = features()
    for query in queries:
        alone = [float(detection.match_all(query, [document])[0]) for document in documents]
        np.testing.assert_allclose(detection.match_all(query, documents), alone, rtol=1e-12)


def test_the_cheapest_path_against_a_slow_search() -> None:
    """Every query frame once, the document by 0, 1 or 2 frames further, from anywhere."""
    rng = np.random.default_rng(0)
    query, document = rng.normal(size=(4, 3)), rng.normal(size=(6, 3))
    matrix = detection.distance_matrix(query, document)

    def cheapest(row: int, column: int) -> float:
        if row == 0:
            return float(matrix[0, column])
        before = [cheapest(row - 1, column - step) for step in range(3) if column >= step]
        return float(matrix[row, column]) + min(before)

    expected = -min(cheapest(3, column) for column in range(6)) / 4
    assert detection.match_all(query, [document])[0] == pytest.approx(expected)


def test_mtwv_against_a_slow_count() -> None:
    rng = np.random.default_rng(0)
    queries = [f"q{n % 5}" for n in range(200)]
    labels = (rng.random(200) < 0.2).astype(int)
    scores = np.round(rng.normal(labels * 1.5, 1.0), 1)
    beta = 1.0 * (1 - 0.0008) / (100 * 0.0008)

    def value(threshold: float) -> float:
        losses = []
        for query in sorted(set(queries)):
            mine = [n for n, q in enumerate(queries) if q == query]
            targets = [n for n in mine if labels[n]]
            others = [n for n in mine if not labels[n]]
            missed = sum(scores[n] < threshold for n in targets) / len(targets)
            false = sum(scores[n] >= threshold for n in others) / len(others)
            losses.append(missed + beta * false)
        return 1 - float(np.mean(losses))

    best = max([0.0, *(value(t) for t in set(scores))])
    assert mtwv(queries, labels, scores) == pytest.approx(best)
    threshold = mtwv_and_threshold(queries, labels, scores)[1]
    assert value(threshold) == pytest.approx(best)


def test_mtwv_ends() -> None:
    assert mtwv(["a"] * 4, [1, 0, 0, 1], [3.0, 1.0, 0.0, 2.0]) == 1.0
    assert mtwv_and_threshold(["a"] * 3, [1, 0, 0], [0.0, 1.0, 2.0]) == (0.0, float("inf"))
    with pytest.raises(ValueError, match="no query has both"):
        mtwv(["a", "b"], [1, 0], [0.0, 1.0])
