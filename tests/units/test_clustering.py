"""K-means against scikit-learn and float64; agreement with phones in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.cluster import KMeans

from speechft.errors import DataError
from speechft.units.clustering import agreement, assign, fit_centroids, without_repeats
from speechft.units.fit import draw_frames


def blobs(count: int, clusters: int, width: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middles = 3 * rng.normal(size=(clusters, width))
    frames = middles[rng.integers(clusters, size=count)] + rng.normal(size=(count, width))
    return frames.astype(np.float32)


def test_units_are_those_of_scikit_learn_and_of_brute_force() -> None:
    frames = blobs(2_000, 12)
    model = KMeans(12, n_init=1, random_state=0).fit(frames)
    centroids = model.cluster_centers_.astype(np.float32)
    units, distances = assign(frames, centroids)
    assert np.array_equal(units, model.predict(frames))
    wide = frames.astype(np.float64)[:, None] - centroids.astype(np.float64)
    squares = np.square(wide).sum(axis=-1)
    assert np.array_equal(units, squares.argmin(axis=1))
    assert np.allclose(distances, squares.min(axis=1), rtol=1e-12)


def test_of_equal_distances_the_first_counts() -> None:
    assert assign(np.zeros((1, 2)), np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]))[0] == [0]


def test_far_from_the_origin_nothing_is_lost() -> None:
    middles = 1e4 + np.array([[0.0], [0.01], [0.02]])
    frames = np.array([[1e4 + 0.0049], [1e4 + 0.0051], [1e4 + 0.0151]])
    assert assign(frames, middles)[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("clusters", [5, 40])
def test_centroids_are_about_as_good_as_those_of_all_frames_at_once(clusters: int) -> None:
    frames = blobs(6_000, 15)
    whole = KMeans(clusters, n_init=3, random_state=0).fit(frames).inertia_
    found = assign(frames, fit_centroids(frames, clusters, seed=1))[1].sum()
    assert found < 1.08 * whole
    again = fit_centroids(frames, clusters, seed=1)
    assert np.array_equal(again, fit_centroids(frames, clusters, seed=1))
    assert not np.array_equal(again, fit_centroids(frames, clusters, seed=2))


def test_fewer_frames_than_clusters() -> None:
    with pytest.raises(DataError, match="3 frames of speech cannot form 4 clusters"):
        fit_centroids(np.zeros((3, 2), np.float32), 4, 0)


def test_neighbours_that_are_equal_are_one() -> None:
    assert without_repeats([4, 4, 1, 4, 2, 2, 2]) == ([4, 1, 4, 2], [2, 1, 1, 3])
    assert without_repeats([]) == ([], [])


def test_agreement_in_closed_form() -> None:
    """Two phones, three clusters: p(y,z) = 1/2 (a,0); 1/4 (b,1); 1/8 (b,2); 1/8 (b,0)."""
    found = agreement([0, 0, 0, 0, 1, 1, 2, 0], list("aaaabbbb"))
    assert found is not None
    assert found.phone_purity == pytest.approx(7 / 8)
    assert found.cluster_purity == pytest.approx(3 / 4)
    # I = H(y) - H(y|z); only cluster 0, of 5/8, leaves anything open: 4/5 a, 1/5 b
    left = -5 / 8 * (4 / 5 * math.log(4 / 5) + 1 / 5 * math.log(1 / 5))
    assert found.pnmi == pytest.approx(1 - left / math.log(2))
    assert (found.frames, found.phones) == (8, 2)
    same = agreement([7, 7, 3], ["a", "a", "b"])
    assert same is not None
    assert (same.phone_purity, same.cluster_purity) == (1.0, 1.0)
    assert same.pnmi == pytest.approx(1.0)
    assert agreement([1, 2], ["a", "a"]) is None


def test_frames_are_drawn_evenly() -> None:
    counts = [1, 10, 0, 100, 889]
    hits = np.zeros(1_000)
    for seed in range(300):
        drawn = draw_frames(counts, 50, seed)
        assert sum(map(len, drawn)) == 50
        for rows, count in zip(drawn, counts, strict=True):
            assert len(set(rows.tolist())) == len(rows)
            assert np.array_equal(np.sort(rows), rows)
            assert not len(rows) or 0 <= rows[0] <= rows[-1] < count
        starts = np.cumsum([0, *counts[:-1]])
        for rows, start in zip(drawn, starts, strict=True):
            hits[start + rows] += 1
    # each frame is drawn 15 times on average; sums over blocks are within 5 deviations of binomial
    blocks = hits.reshape(10, 100).sum(axis=1)
    assert np.abs(blocks - 1_500).max() < 5 * math.sqrt(1_500)
    whole = draw_frames(counts, 1_000, 0)
    assert [len(rows) for rows in whole] == counts
