"""Layerwise linear feature connectivity: do features lie where the weights do, on one line?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from speechft.analysis.intervals import Estimate, Floats, Groups, mean_estimate

LEAST_BASELINE = 0.02
"""Distance between the ends below which there is no verdict: whatever lies between two encoders
that are almost the same is on the line between them."""


@dataclass(frozen=True)
class Products:
    """Inner products of an utterance's hidden states, all frames flattened: (U,) of each layer.

    ``u`` is the encoder at alpha, ``a`` and ``b`` are the ends.
    """

    uu: Floats
    ua: Floats
    ub: Floats
    aa: Floats
    ab: Floats
    bb: Floats


def connectivity(products: Products, alpha: float, groups: Groups) -> dict[str, Estimate]:
    r"""Return how far the features of the interpolated encoder are from interpolated features.

    With :math:`u = f_l((1-\alpha)\theta_a + \alpha\theta_b)` and
    :math:`v = (1-\alpha) f_l(\theta_a) + \alpha f_l(\theta_b)`, flattened over an utterance and
    averaged over utterances:

    * ``cosine`` :math:`\langle u, v\rangle / (\|u\| \|v\|)`, signed;
    * ``coefficient`` :math:`\langle u, v\rangle / \|v\|^2`, 1 where nothing shrinks;
    * ``baseline`` the cosine between the ends;
    * ``ratio`` (1 - cosine) / (1 - baseline), the distance in units of that between the ends; not
      defined where the latter is below `LEAST_BASELINE`.

    LLFC is Zhou et al., NeurIPS 2023 (arXiv 2307.08286); for encoders of different tasks the same
    is called cross-task linearity, CTL: Zhou et al., ICML 2024 (arXiv 2402.03660). The released
    code takes the absolute value of the cosine; ours is signed.

    Args:
        products: Of one layer.
        alpha: Where the encoder lies between the ends.
        groups: (U,) number of the speaker of each utterance.
    """
    p, one = products, 1 - alpha
    uv = one * p.ua + alpha * p.ub
    vv = one**2 * p.aa + 2 * alpha * one * p.ab + alpha**2 * p.bb
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = mean_estimate(uv / np.sqrt(p.uu * vv), groups)
        coefficient = mean_estimate(uv / vv, groups)
        baseline = mean_estimate(p.ab / np.sqrt(p.aa * p.bb), groups)
    return {
        "cosine": cosine,
        "coefficient": coefficient,
        "baseline": baseline,
        "ratio": _ratio(cosine, baseline),
    }


def _ratio(cosine: Estimate, baseline: Estimate) -> Estimate:
    if cosine.value is None or baseline.value is None or 1 - baseline.value < LEAST_BASELINE:
        return Estimate(None)
    left = {
        group: (1 - value) / (1 - baseline.without[group])
        for group, value in cosine.without.items()
        if group in baseline.without and baseline.without[group] < 1
    }
    return Estimate((1 - cosine.value) / (1 - baseline.value), left, cosine.n)
