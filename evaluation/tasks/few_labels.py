"""Few labels: how well the class is predicted from a frozen representation when only some rows are labelled."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from pp_simve.evaluation.probes.base import checked_classes, checked_features, checked_grid, checked_labels
from pp_simve.evaluation.probes.logistic import PENALTIES, LinearProbe
from pp_simve.evaluation.tasks.classes import Labelled


def few_label_scores(
    train: Labelled,
    validation: Labelled,
    test: Labelled,
    counts: Sequence[int] = (1, 10, 100),
    draws: int = 5,
    seed: int = 0,
    penalties: Sequence[float] = PENALTIES,
) -> dict[str, dict[str, float | None]]:
    """Test accuracy of `LinearProbe` fitted on few labelled rows per class, over random draws of them.

    A draw takes ``count`` random rows of each class of train, and as many of each class of validation, on which alone
    the penalty is selected: a score of ``count`` costs 2·count labels per class. All other rows are unused, and the
    features are standardized by the drawn rows alone.

    The draws depend on ``seed`` and the labels only, so all representations of the same images get the same rows.
    Within a draw, the rows of a smaller count are among those of a larger one, whatever counts are given. A class with
    fewer rows than ``count`` gives all of them.

    Args:
        train, validation, test: features of shape ``(row, feature)`` and integer labels of shape ``(row,)``.
        counts: labels per class.
        draws: repetitions.
        seed: of the draws. Torch's global generators are neither used nor changed.
        penalties: `LinearProbe`'s. The weakest take longest, and few rows seldom select them.

    Returns:
        By the decimal of each count: ``"mean"`` and ``"sd"`` of the accuracy over draws (the sample standard deviation;
        None for a single draw), and ``"short_classes"``, the number of train classes with fewer rows than the count.
        Where all classes are short, every draw has the same train rows.

    Raises:
        ValueError: as `LinearProbe`, or counts or draws below 1.
    """
    checked_grid("counts", counts, least=1)
    checked_grid("draws", [draws], least=1)
    (train_x, train_y), (validation_x, validation_y) = (
        (x, checked_labels(labels, x, split))
        for split, (features, labels) in (("train", train), ("validation", validation))
        for x in [checked_features(features, split)]
    )
    checked_classes(train_y)
    sizes = torch.unique(train_y, return_counts=True)[1]

    generator = torch.Generator().manual_seed(seed)
    accuracies: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(draws):
        train_rank, validation_rank = (_rank_in_class(y, generator) for y in (train_y, validation_y))
        for count, found in accuracies.items():
            fitted, chosen = train_rank < count, validation_rank < count
            rows = train_x[fitted], train_y[fitted], validation_x[chosen], validation_y[chosen]
            found.append(LinearProbe(penalties).fit(*rows).score(*test))
    return {
        str(count): {
            "mean": statistics.fmean(found),
            "sd": statistics.stdev(found) if draws > 1 else None,
            "short_classes": float((sizes < count).sum()),
        }
        for count, found in accuracies.items()
    }


def _rank_in_class(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Place of each row among the rows of its class in a random order, from 0, shape ``(row,)``."""
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    order = order[torch.argsort(labels[order], stable=True)]
    sizes = torch.unique_consecutive(labels[order], return_counts=True)[1]
    starts = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    return torch.empty_like(order).index_put((order,), torch.arange(len(order), device=order.device) - starts)
