"""Class from several views: whether content inferred from more views of an image predicts its class better."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pp_simve.evaluation.features import checked_classes
from pp_simve.evaluation.probes import LinearProbe
from pp_simve.inference.augmentations import AugmentationPolicy, draw_views
from pp_simve.inference.guides.base import Guide
from pp_simve.inference.tools import evaluation_mode

COUNTS = (1, 2, 4, 8)
"""Views per image tried by default."""

_VIEWS_IN_MEMORY = 1024

ImagesAndClasses = tuple[Tensor, Tensor]
"""Images, uint8 ``(image, channel, height, width)``, and their classes ``(image,)``."""


def several_view_scores(
    guide: Guide,
    policy: AugmentationPolicy,
    train: ImagesAndClasses,
    validation: ImagesAndClasses,
    test: ImagesAndClasses,
    *,
    seed: int,
    counts: Sequence[int] = COUNTS,
) -> dict[str, float]:
    """Test accuracy of `LinearProbe` on content inferred from K fresh views of each image.

    One probe per K, fitted on train and selected on validation, whose contents are inferred from as many views. The
    views of a smaller K are among those of a larger one.

    Args:
        guide: on the device of the images.
        policy: draws the views.
        train, validation, test: images and classes.
        seed: of the views, one stream per split. Torch's global generators are neither used nor changed.
        counts: values of K.

    Returns:
        Accuracies by the decimal of K.

    Raises:
        ValueError: counts below 1, contents that are not finite, or a single train class.
    """
    if not counts or min(counts) < 1:
        raise ValueError(f"counts must be one or more numbers >= 1, got {counts}")
    checked_classes(train[1])
    seeds = torch.randint(2**62, (3,), generator=torch.Generator().manual_seed(seed)).tolist()
    contents, labels = [], []
    for (images, of_split), split_seed in zip((train, validation, test), seeds, strict=True):
        generator = torch.Generator(images.device).manual_seed(split_seed)
        contents.append(contents_of_views(guide, policy, images, counts, generator))
        labels.append(of_split)
    return {
        str(count): LinearProbe()
        .fit(contents[0][count], labels[0], contents[1][count], labels[1])
        .score(contents[2][count], labels[2])
        for count in counts
    }


@torch.no_grad()
def contents_of_views(
    guide: Guide, policy: AugmentationPolicy, images: Tensor, counts: Sequence[int], generator: torch.Generator
) -> dict[int, Tensor]:
    """Posterior mean of content given the first K of the views drawn of each image, ``(image, content)``, by K.

    Under a prior that shares nothing between views, the mean of the views' z.
    """
    parts: dict[int, list[Tensor]] = {count: [] for count in counts}
    with evaluation_mode(guide):
        for chunk in torch.split(images, max(1, _VIEWS_IN_MEMORY // max(counts))):
            views, _ = draw_views(policy, chunk, max(counts), generator=generator)
            for count, found in parts.items():
                posterior = guide.posterior(views[:count])
                found.append(posterior.content if posterior.content.shape[-1] else posterior.z.mean(0))
    return {count: torch.cat(found) for count, found in parts.items()}
