"""Few labels: how well the class is read from a frozen representation when only some rows are labelled."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from pp_simve.evaluation.content import Labelled
from pp_simve.evaluation.features import checked_classes, checked_features, checked_labels, checked_rows
from pp_simve.evaluation.linear import PENALTIES, LinearProbe

COUNTS = (1, 10, 100)
"""Labels a class tried by default."""


def few_label_scores(
    train: Labelled,
    validation: Labelled,
    test: Labelled,
    counts: Sequence[int] = COUNTS,
    draws: int = 5,
    seed: int = 0,
    penalties: Sequence[float] = PENALTIES,
) -> dict[str, dict[str, float | None]]:
    """Accuracy on test, as a fraction, of `LinearProbe` fitted on few labelled rows a class, over random draws of them.

    A draw takes ``count`` rows of each class of train at random, and as many of each class of validation, on which
    alone the penalty is chosen: chosen on all of validation, it would have seen many more labels than the fit. So the
    score of ``count`` costs 2·count labels a class. The rows that are not drawn are not used in any way, and the
    features are standardised by the drawn ones alone.

    What is drawn is decided by ``seed`` and the labels alone: every representation of the same images is given the same
    rows. Within a draw the rows of a smaller count are among those of a larger one, whatever counts are asked for. A
    class with fewer rows than ``count`` gives all it has.

    Args:
        train, validation, test: features of shape ``(row, feature)`` and integer labels of shape ``(row,)``.
        counts: labels a class.
        draws: how often.
        seed: decides the draws. Torch's own generators are neither used nor moved.
        penalties: `LinearProbe`'s. The weakest take the longest by far, and few rows seldom choose them.

    Returns:
        For each count, by its decimal: ``"mean"`` and ``"sd"`` of the accuracy over draws (the sample standard
        deviation; None for a single draw), and ``"short_classes"``, the number of train classes that have fewer rows
        than the count. Where all classes are short, every draw has the same train rows.

    Raises:
        ValueError: for features that are not finite, shapes that do not agree, a single train class, or counts or draws
            below 1.
    """
    if not counts or min(counts) < 1:
        raise ValueError(f"counts must be one or more numbers >= 1, got {counts}")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    train_x, train_y, validation_x, validation_y = checked_rows(*train, *validation)
    test_x = checked_features(test[0], "test", width=train_x.shape[1])
    test_y = checked_labels(test[1], test_x, "test")
    sizes = torch.unique(train_y, return_counts=True)[1]
    checked_classes(train_y)

    generator = torch.Generator().manual_seed(seed)
    accuracies: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(draws):
        train_rank = _rank_in_class(train_y, generator)
        validation_rank = _rank_in_class(validation_y, generator)
        for count, found in accuracies.items():
            fitted, chosen = train_rank < count, validation_rank < count
            probe = LinearProbe(penalties).fit(
                train_x[fitted], train_y[fitted], validation_x[chosen], validation_y[chosen]
            )
            found.append(probe.score(test_x, test_y))
    return {
        str(count): {**_mean_and_sd(found), "short_classes": float((sizes < count).sum())}
        for count, found in accuracies.items()
    }


def _rank_in_class(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Which row of its class each row is in a random order, from 0, shape ``(row,)``."""
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    order = order[torch.argsort(labels[order], stable=True)]
    _, sizes = torch.unique_consecutive(labels[order], return_counts=True)
    starts = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - starts
    return rank


def _mean_and_sd(values: list[float]) -> dict[str, float | None]:
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}
