"""Content from several views: whether more views of an image say more of its class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pp_simve.evaluation.features import checked_classes
from pp_simve.evaluation.linear import LinearProbe
from pp_simve.inference.augmentations import AugmentationPolicy, draw_views
from pp_simve.inference.guides.base import Guide
from pp_simve.inference.tools import evaluation_mode

COUNTS = (1, 2, 4, 8)
"""Views of an image tried by default."""

_VIEWS_IN_MEMORY = 1024

Labelled = tuple[Tensor, Tensor]
"""Images, uint8 ``(image, channel, height, width)``, and their classes ``(image,)``."""


def several_view_scores(
    guide: Guide,
    policy: AugmentationPolicy,
    train: Labelled,
    validation: Labelled,
    test: Labelled,
    *,
    seed: int,
    counts: Sequence[int] = COUNTS,
) -> dict[str, float]:
    """Accuracy on test, as a fraction, of a linear probe of content inferred from K fresh views of each image.

    One probe each K, fitted on train and chosen on validation, whose contents are inferred from as many views. The
    views of a smaller K are among those of a larger one.

    Args:
        guide: on the device of the images.
        policy: what draws the views.
        train, validation, test: images and classes.
        seed: decides the views, a stream a split. Torch's own generators are neither used nor moved.
        counts: K.

    Returns:
        By the decimal of K.

    Raises:
        ValueError: counts below 1, contents that are not finite, or a single train class.
    """
    if not counts or min(counts) < 1:
        raise ValueError(f"counts must be one or more numbers >= 1, got {counts}")
    checked_classes(train[1])
    seeds = torch.randint(2**62, (3,), generator=torch.Generator().manual_seed(seed)).tolist()
    contents = [
        contents_of_views(guide, policy, images, counts, torch.Generator(images.device).manual_seed(of_split))
        for (images, _), of_split in zip((train, validation, test), seeds, strict=True)
    ]
    labels = train[1], validation[1], test[1]
    found = {}
    for count in counts:
        fitted, chosen, judged = ((part[count], of_part) for part, of_part in zip(contents, labels, strict=True))
        found[str(count)] = LinearProbe().fit(*fitted, *chosen).score(*judged)
    return found


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
