"""Content: how well the class of an image is read from a frozen representation."""

from __future__ import annotations

from torch import Tensor

from pp_simve.evaluation.linear import LinearProbe
from pp_simve.evaluation.neighbours import KNNProbe

Labelled = tuple[Tensor, Tensor]
"""Features of shape ``(row, feature)`` and class labels of shape ``(row,)``."""


def content_scores(train: Labelled, validation: Labelled, test: Labelled) -> dict[str, float]:
    """Accuracy on test, as a fraction, of probes fitted on train and chosen on validation.

    Returns:
        ``"linear"``: multinomial logistic regression, `LinearProbe`; ``"knn"``: nearest neighbours, `KNNProbe`.

    Raises:
        ValueError: for features that are not finite, shapes that do not agree, or a single train class.
    """
    return {
        "linear": LinearProbe().fit(*train, *validation).score(*test),
        "knn": KNNProbe().fit(*train, *validation).score(*test),
    }
