"""Content: how well the class is predicted from a frozen representation, from few labels, and from several views."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pp_simve.evaluation.probes import KNNProbe, LinearProbe
from pp_simve.evaluation.probes.base import checked_classes, checked_features, checked_grid, checked_labels
from pp_simve.evaluation.probes.logistic import PENALTIES
from pp_simve.inference.augmentations import AugmentationPolicy, draw_views
from pp_simve.inference.guides.base import Guide, Representation
from pp_simve.inference.tools import evaluation_mode, seeds

Labelled = tuple[Tensor, Tensor]
"""Features ``(row, feature)``, or images, uint8 ``(row, channel, height, width)``, and class labels ``(row,)``."""

_VIEWS_IN_MEMORY = 1024


def content_scores(train: Labelled, validation: Labelled, test: Labelled) -> dict[str, float]:
    """Test accuracy of `LinearProbe` (``"linear"``) and `KNNProbe` (``"knn"``), fractions; errors as of `Probe.fit`."""
    return {
        "linear": LinearProbe().fit(*train, *validation).score(*test),
        "knn": KNNProbe().fit(*train, *validation).score(*test),
    }


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
    features are standardized by the drawn rows alone. The draws depend on ``seed`` and the labels only, so all
    representations of the same images get the same rows; those of a smaller count are among those of a larger one. A
    class with fewer rows than ``count`` gives all of them.

    Args:
        counts: labels per class.
        draws: repetitions.
        penalties: `LinearProbe`'s. The weakest take longest, and few rows seldom select them.

    Returns:
        By the decimal of each count: ``"mean"`` and ``"sd"`` of the accuracy over draws (the sample standard deviation;
        None for a single draw), and ``"short_classes"``, the number of train classes with fewer rows than the count.

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


def several_view_scores(
    guide: Guide,
    policy: AugmentationPolicy,
    train: Labelled,
    validation: Labelled,
    test: Labelled,
    *,
    seed: int,
    counts: Sequence[int] = (1, 2, 4, 8),
) -> dict[str, float]:
    """Test accuracy, by the decimal of K, of `LinearProbe` on content inferred from K fresh views of each image.

    One probe per K, fitted on train and selected on validation, whose contents are inferred from as many views. The
    views of a smaller K are among those of a larger one. ``seed`` is of the views that ``policy`` draws, one stream per
    split. Under a prior that shares nothing between views, content is the mean of the views' z.

    Raises:
        ValueError: counts below 1, contents that are not finite, or a single train class.
    """
    checked_grid("counts", counts, least=1)
    checked_classes(train[1])
    splits = [
        (contents_of_views(guide, policy, images, counts, torch.Generator(images.device).manual_seed(of_split)), labels)
        for (images, labels), of_split in zip((train, validation, test), seeds(seed), strict=False)
    ]
    scores = {}
    for count in counts:
        of_train, of_validation, of_test = ((contents[count], labels) for contents, labels in splits)
        scores[str(count)] = LinearProbe().fit(*of_train, *of_validation).score(*of_test)
    return scores


@torch.no_grad()
def contents_of_views(
    guide: Guide, policy: AugmentationPolicy, images: Tensor, counts: Sequence[int], generator: torch.Generator
) -> dict[int, Tensor]:
    """`content_of` the posterior given the first K of the views drawn of each image, ``(image, content)``, by K."""
    parts: dict[int, list[Tensor]] = {count: [] for count in counts}
    with evaluation_mode(guide):
        for views, _ in drawn_views(policy, images, max(counts), generator):
            for count, found in parts.items():
                found.append(content_of(guide.posterior(views[:count])))
    return {count: torch.cat(found) for count, found in parts.items()}


def content_of(posterior: Representation) -> Tensor:
    """Posterior mean of content; under a prior that shares nothing between views, the mean of the views' z."""
    return posterior.content if posterior.content.shape[-1] else posterior.z.mean(0)


def drawn_views(
    policy: AugmentationPolicy, images: Tensor, count: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Views ``(view, image, …)`` and their parameters ``(view, image)``, of some images at a time."""
    for chunk in torch.split(images, max(1, _VIEWS_IN_MEMORY // count)):
        yield draw_views(policy, chunk, count, generator=generator)


def _rank_in_class(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Place of each row among the rows of its class in a random order, from 0, shape ``(row,)``."""
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    order = order[torch.argsort(labels[order], stable=True)]
    sizes = torch.unique_consecutive(labels[order], return_counts=True)[1]
    starts = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    return torch.empty_like(order).index_put((order,), torch.arange(len(order), device=order.device) - starts)
