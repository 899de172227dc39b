"""What hidden states know of phones or words: projection-weighted CCA with one-hot labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from speechft.analysis.intervals import Estimate, Floats, Groups, jackknife

KEPT_VARIANCE = 0.99
"""Share of the features' variance that is kept, in principal components."""
RIDGE = 1e-3
"""Added to both covariances, times their mean eigenvalue."""
LEAST_OF_A_LABEL = 5
"""Segments of a label in the fitted half; rarer ones are left out."""


def label_cca(
    x: npt.NDArray[np.floating],
    labels: Sequence[str],
    fitted: npt.NDArray[np.bool_],
    groups: Groups,
) -> Estimate:
    r"""Return the projection-weighted canonical correlation of segments with their labels.

    Canonical directions are fitted on one half of the utterances, correlations :math:`\rho_i` are
    measured on the other, and averaged with weights :math:`\alpha_i = \sum_j |\langle h_i,
    x_j\rangle|` of the fitted half (h canonical variates, x features): a direction counts as much
    as it says of the features. 1 where the labels can be read off linearly, about 0 where features
    know nothing of them; without the second half, noise of many dimensions would be far above 0.

    Source: Morcos et al., NeurIPS 2018 (arXiv 1806.05759); with phones and words of speech
    encoders: Pasad et al., ASRU 2021 (arXiv 2107.04734).

    Args:
        x: (n, D) mean hidden state of each segment.
        labels: (n) phone or word of each.
        fitted: (n,) whether a segment belongs to the half that is fitted on.
        groups: (n,) number of the speaker of each, for the interval.
    """
    names = sorted(set(labels))
    numbers = {name: number for number, name in enumerate(names)}
    which = np.array([numbers[label] for label in labels], np.int64)
    often = np.bincount(which[fitted], minlength=len(names)) >= LEAST_OF_A_LABEL
    known = often[which]
    fit, test = fitted & known, ~fitted & known
    if often.sum() < 2 or test.sum() < 4:
        return Estimate(None)
    one_hot = np.eye(len(names))[:, often][which]
    values = np.asarray(x, np.float64)
    found = _directions(values[fit], one_hot[fit])
    if found is None:
        return Estimate(None)
    first, second, weights = found
    u, v = values[test] @ first, one_hot[test] @ second

    def measured(kept: npt.NDArray[np.bool_]) -> float:
        if kept.sum() < 4:
            return float("nan")
        a, b = u[kept] - u[kept].mean(0), v[kept] - v[kept].mean(0)
        norms = np.sqrt(np.square(a).sum(0) * np.square(b).sum(0))
        rho = np.divide((a * b).sum(0), norms, out=np.zeros(len(norms)), where=norms > 0)
        return float(weights @ rho)

    return jackknife(measured, groups[test])


def _directions(x: Floats, y: Floats) -> tuple[Floats, Floats, Floats] | None:
    """Return (D, k) and (C, k) canonical directions and their (k,) weights, which sum to 1."""
    x, y = x - x.mean(0), y - y.mean(0)
    into, whitened = _whitener(x, KEPT_VARIANCE)
    from_labels, labels = _whitener(y, 1.0)
    if not into.size or not from_labels.size:
        return None
    left, _, right = np.linalg.svd(whitened.T @ labels, full_matrices=False)
    variates = whitened @ left
    variates /= np.linalg.norm(variates, axis=0).clip(1e-12)
    weights = np.abs(variates.T @ x).sum(1)
    return into @ left, from_labels @ right.T, weights / weights.sum()


def _whitener(x: Floats, kept: float) -> tuple[Floats, Floats]:
    """Return the (D, r) map to components of variance about 1 and the (n, r) components."""
    energies, axes = np.linalg.eigh(x.T @ x / len(x))
    energies, axes = energies[::-1].clip(0), axes[:, ::-1]
    if energies[0] <= 1e-12:
        return np.empty((x.shape[1], 0)), np.empty((len(x), 0))
    shares = np.cumsum(energies) / energies.sum()
    rank = min(
        int(np.searchsorted(shares, kept - 1e-9)) + 1, int((energies > 1e-10 * energies[0]).sum())
    )
    scale = 1 / np.sqrt(energies[:rank] + RIDGE * energies.mean())
    into: Floats = axes[:, :rank] * scale
    return into, x @ into
