"""Content: how well the class of an image is predicted from a frozen representation."""

from __future__ import annotations

from torch import Tensor

from pp_simve.evaluation.probes import KNNProbe, LinearProbe

Labelled = tuple[Tensor, Tensor]
"""Features of shape ``(row, feature)`` and class labels of shape ``(row,)``."""


def content_scores(train: Labelled, validation: Labelled, test: Labelled) -> dict[str, float]:
    """Test accuracy of probes fitted on train and selected on validation.

    Returns:
        ``"linear"``: multinomial logistic regression, `LinearProbe`; ``"knn"``: nearest neighbors, `KNNProbe`; as
        fractions.

    Raises:
        ValueError: features that are not finite, shapes that do not agree, or a single train class.
    """
    return {
        "linear": LinearProbe().fit(*train, *validation).score(*test),
        "knn": KNNProbe().fit(*train, *validation).score(*test),
    }
