"""Class from several views: whether content inferred from more views of an image predicts its class better."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pp_simve.evaluation.probes import LinearProbe
from pp_simve.evaluation.probes.base import checked_classes, checked_grid
from pp_simve.inference.augmentations import AugmentationPolicy, draw_views
from pp_simve.inference.guides.base import Guide
from pp_simve.inference.tools import evaluation_mode

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
    counts: Sequence[int] = (1, 2, 4, 8),
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
    checked_grid("counts", counts, least=1)
    checked_classes(train[1])
    seeds = torch.randint(2**62, (3,), generator=torch.Generator().manual_seed(seed)).tolist()
    splits = []
    for (images, labels), split_seed in zip((train, validation, test), seeds, strict=True):
        generator = torch.Generator(images.device).manual_seed(split_seed)
        splits.append((contents_of_views(guide, policy, images, counts, generator), labels))
    scores = {}
    for count in counts:
        of_train, of_validation, of_test = ((contents[count], labels) for contents, labels in splits)
        scores[str(count)] = LinearProbe().fit(*of_train, *of_validation).score(*of_test)
    return scores


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
