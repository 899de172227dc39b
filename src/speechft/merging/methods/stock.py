"""Model Stock: how far to go from the base, out of the angle between tuned models."""

from __future__ import annotations


def model_stock_ratio(mean_cosine: float, models: int) -> float:
    r"""Return the weight of the mean of the tuned models; the base has the rest.

    .. math:: t = \frac{N c}{1 + (N - 1) c}, \qquad
              \hat\theta = t \, \bar\theta + (1 - t) \, \theta_0

    Jang et al., "Model Stock: All we need is just a few fine-tuned models", ECCV 2024; c is the
    mean cosine between task vectors, tensor by tensor (mergekit's reading). Negative cosines are
    taken as zero: the models share no direction and the base is kept.

    Args:
        mean_cosine: Mean cosine over all pairs of task vectors of one tensor.
        models: Number of tuned models, at least 2.
    """
    cosine = min(max(mean_cosine, 0.0), 1.0)
    return models * cosine / (1.0 + (models - 1) * cosine)
