"""What the fitted program draws: reconstructions, content-style swaps, samples from the prior."""

from __future__ import annotations

import torch
from torch import Tensor

from pp_simve.inference import Guide
from pp_simve.models import SimVE


@torch.no_grad()
def reconstruct(model: SimVE, guide: Guide, views: Tensor) -> Tensor:
    """Each view decoded from the mean of its z, shape as ``views``: ``(view, image, channel, height, width)``."""
    return _decoded(model, guide.posterior(views).z)


@torch.no_grad()
def swap(model: SimVE, guide: Guide, content_views: Tensor, style_views: Tensor) -> Tensor:
    """Decodes every pairing of the content of some images with the style of others.

    Args:
        content_views: several views of each of R images, shape ``(view, R, channel, height, width)``; content is
            inferred from all of them, because one view cannot tell it from style under an isotropic prior.
        style_views: several views of each of C images, shape ``(view, C, channel, height, width)``; the style decoded
            is that of the first view.

    Returns:
        Shape ``(R, C, channel, height, width)``.
    """
    content = guide.posterior(content_views).content.unsqueeze(1)
    style = guide.posterior(style_views).style[0].unsqueeze(0)
    content, style = (part.expand(content.shape[0], style.shape[1], part.shape[-1]) for part in (content, style))
    return _decoded(model, model.prior.compose(content, style))


@torch.no_grad()
def sample(model: SimVE, guide: Guide, views: Tensor, count: int) -> tuple[Tensor, str]:
    """Images drawn from the prior, and what they were drawn from.

    An improper prior on content cannot be drawn from; contents are then those of ``views``, styles the prior's.

    Returns:
        Means of images, shape ``(count, channel, height, width)``, and a title.
    """
    try:
        return model.generate(count)[0], "samples from the prior"
    except NotImplementedError:
        content = guide.posterior(views).content
        content = content[torch.arange(count) % len(content)]
        style = model.prior.style(content).sample()
        return _decoded(model, model.prior.compose(content, style)), "contents of test images, styles from the prior"


def _decoded(model: SimVE, z: Tensor) -> Tensor:
    """Mean images.

    Raises:
        ValueError: pixels are not modelled.
    """
    mean: Tensor = model.likelihood_of()(z).mean
    return mean
