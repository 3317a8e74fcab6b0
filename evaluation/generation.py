"""Images decoded by the fitted program: reconstructions, swaps, interpolations, traversals, samples from the prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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
    """Every pairing of the content of R images with the style of C others, decoded: ``(R, C, channel, height, width)``.

    Images are several views, ``(view, R or C, channel, height, width)``. Content is inferred from all of them, because
    one view does not separate it from style under an isotropic prior; the style is that of the first view.
    """
    content = guide.posterior(content_views).content[:, None]
    style = guide.posterior(style_views).style[None, 0]
    content, style = (part.expand(content.shape[0], style.shape[1], part.shape[-1]) for part in (content, style))
    return _decoded(model, model.prior.compose(content, style))


@torch.no_grad()
def interpolate(
    model: SimVE, guide: Guide, first_views: Tensor, second_views: Tensor, steps: int = 7
) -> dict[str, Tensor]:
    """Linear interpolations from the first view of one image to the first view of another, decoded.

    Args:
        first_views, second_views: several views of the images that the interpolations start from and end at, shape
            ``(view, pair, channel, height, width)``; content is inferred from all of them, as in `swap`.
        steps: equidistant points, both ends included.

    Returns:
        Shape ``(pair, step, channel, height, width)`` by what moves. ``"z"``: all of z. ``"content"``: content, while
        style stays that of the first image, so that the last point is their swap; absent under a prior that shares
        nothing between views.

    Raises:
        ValueError: different numbers of pairs, fewer than two steps, or pixels are not modelled.
    """
    if first_views.shape[1:] != second_views.shape[1:] or steps < 2:
        raise ValueError(
            f"first_views and second_views must hold as many images of one size, (view, pair, channel, height, width), "
            f"and steps be at least 2, got {tuple(first_views.shape)}, {tuple(second_views.shape)} and {steps} steps"
        )
    first, second = guide.posterior(first_views), guide.posterior(second_views)
    share = torch.linspace(0, 1, steps, dtype=first.z.dtype, device=first.z.device)[:, None]
    found = {"z": _decoded(model, torch.lerp(first.z[0][:, None], second.z[0][:, None], share))}
    if first.content.shape[-1]:
        content = torch.lerp(first.content[:, None], second.content[:, None], share)
        style = first.style[0][:, None].expand(-1, steps, -1)
        found["content"] = _decoded(model, model.prior.compose(content, style))
    return found


class Traversal(NamedTuple):
    """Images decoded while one axis of z moves and all others stay.

    Attributes:
        axes: which axes of z, those whose posterior means vary most over views, the most first, shape ``(axis,)``.
        values: what each is set to, shape ``(axis, step)``.
        pictures: shape ``(image, axis, step, channel, height, width)``.
    """

    axes: Tensor
    values: Tensor
    pictures: Tensor


@torch.no_grad()
def traverse(
    model: SimVE,
    guide: Guide,
    images: Tensor,
    views: Tensor,
    axes: int = 8,
    deviations: Sequence[float] = (-2, -1, 0, 1, 2),
) -> Traversal:
    """Latent traversals: moves each of the axes of z that vary most over views, from the z of each image.

    A direction of z is meaningful only as far as prior or guide tell directions apart; a rotation of z changes no
    isotropic prior.

    Args:
        images: views to start from, shape ``(image, channel, height, width)``, float in [0, 1] or uint8.
        views: two or more views that stand for the data, of the same shape but for their number.
        axes: how many at most.
        deviations: points an axis is set to, in standard deviations of the posterior means of ``views`` from their
            mean.

    Raises:
        ValueError: fewer than two views, no axes, or pixels are not modelled.
    """
    if len(views) < 2 or axes < 1:
        raise ValueError(f"traversals need at least 2 views and 1 axis, got {len(views)} views and {axes} axes")
    deviation, mean = torch.std_mean(guide.embed_batches(views).z, dim=0)
    chosen = deviation.argsort(descending=True)[:axes]
    values = mean[chosen, None] + deviation[chosen, None] * deviation.new_tensor(deviations)
    z = guide.embed_batches(images).z[:, None, None].repeat(1, len(chosen), len(deviations), 1)
    each = torch.arange(len(chosen), device=z.device)
    z[:, each, :, chosen] = values[:, None]
    return Traversal(chosen, values, _decoded(model, z))


@torch.no_grad()
def sample(model: SimVE, guide: Guide, views: Tensor, count: int) -> tuple[Tensor, str]:
    """Means of images drawn from the prior, ``(count, channel, height, width)``, and a title that says so.

    An improper prior on content cannot be drawn from; contents are then those of ``views``, styles the prior's.
    """
    if model.prior.proper:
        return model.generate(count)[0], "samples from the prior"
    content = guide.posterior(views).content
    content = content[torch.arange(count) % len(content)]
    style = model.prior.style(content).sample()
    return _decoded(model, model.prior.compose(content, style)), "contents of test images, styles from the prior"


def _decoded(model: SimVE, z: Tensor) -> Tensor:
    mean: Tensor = model.likelihood_of()(z).mean
    return mean
