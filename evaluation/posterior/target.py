"""log p(views, content, style) of images as a function of one real vector each, for samplers that want that."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.distributions import TorchDistribution
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn
from torch.distributions import biject_to

from pp_simve.inference.tracing import GROUP, PLATES, densities
from pp_simve.models import EmpiricalPrior, ExactPrior, SimVE
from pp_simve.models.modalities import PlainViews as Views
from pp_simve.models.modalities import view_and_image_counts


class Target:
    """The joint density of images' views and latents, by the model's own program, over unconstrained coordinates.

    The coordinates of an image are content and then the style of each view; what is constrained is mapped to the reals
    (biject_to), and the density is that of the coordinates. Where content is discrete it is summed out, and the
    coordinates are z of each view: log p(views, content, style) − log p(content | z) is the same for every content.

    Args:
        model: the program, frozen.
        views: ``(view, image, channel, height, width)``, or so by modality.

    Attributes:
        size: coordinates of an image.
        collapsed: whether content is summed out.

    Raises:
        ValueError: content is discrete and the prior does not know it given z, or it depends on the images beside it.
    """

    def __init__(self, model: SimVE, views: Views) -> None:
        self.views, self.prior = views, model.prior
        # Without PyroModule's parameter statements, which would file every parameter in Pyro's global store.
        self._program: Any = partial(nn.Module.__call__, model)
        self._count, self._images = view_and_image_counts(views)
        if isinstance(model.prior, EmpiricalPrior) and model.prior.memory is None:
            raise ValueError(
                "under an EmpiricalPrior of the batch an image's posterior depends on the images beside it, and has no "
                "density of its own to sample; give the prior a memory"
            )
        of_content = model.prior.content()
        self.collapsed = is_discrete(of_content)
        if self.collapsed:
            if not isinstance(model.prior, ExactPrior):
                raise ValueError(
                    f"content of {type(model.prior).__name__} is discrete ({type(of_content).__name__}), which NUTS "
                    "cannot move; derive the prior from ExactPrior, so that content can be summed out given z"
                )
            self.size = self._count * model.prior.latent_dim
            return
        like = views if isinstance(views, Tensor) else next(iter(views.values()))
        self._to_content = biject_to(of_content.support)
        self._contents = int(torch.Size(self._to_content.inverse_shape(of_content.event_shape)).numel())
        of_style = model.prior.style(self._to_content(like.new_zeros(self._contents)))
        self._to_style = biject_to(of_style.support)
        self._styles = int(torch.Size(self._to_style.inverse_shape(of_style.event_shape)).numel())
        self.size = self._contents + self._count * self._styles

    def log_density(self, coordinates: Tensor) -> Tensor:
        """Of coordinates ``(image, size)`` or ``(point, image, size)``: nats, without the last dimension."""
        content, style, beside = self._around_mode(coordinates) if self.collapsed else self._mapped(coordinates)
        return self._joint(content, style) + beside

    @torch.no_grad()
    def latents(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """Content ``(point, image, content)`` and style ``(point, view, image, style)`` of ``(point, image, size)``.

        Discrete content is drawn given z.
        """
        if self.collapsed:
            z = self._z(coordinates)
            content = self._exact().content_posterior(z).sample()
            style = self.prior.decompose(content, z)
        else:
            content, style, _ = self._mapped(coordinates)
        return content.squeeze(1), style

    @torch.no_grad()
    def coordinates(self, content: Tensor, style: Tensor) -> Tensor:
        """The inverse of `latents`: shape ``(point, image, size)``."""
        if self.collapsed:
            return self.prior.compose(content.unsqueeze(1), style).movedim(1, 2).flatten(2)
        free = self._to_style.inv(style).movedim(1, 2).flatten(2)
        return torch.cat([self._to_content.inv(content), free], -1)

    def _mapped(self, coordinates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Content ``(..., 1, image, content)``, style ``(..., view, image, style)``, the log volume of the map."""
        free_content = coordinates[..., : self._contents].unsqueeze(-3)
        free_style = self._by_view(coordinates[..., self._contents :], self._styles)
        content, style = self._to_content(free_content), self._to_style(free_style)
        of_content = self._to_content.log_abs_det_jacobian(free_content, content)
        of_style = self._to_style.log_abs_det_jacobian(free_style, style)
        return content, style, of_content.sum(-2) + of_style.sum(-2)

    def _around_mode(self, coordinates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The most probable content given z, what style then is, and −log p(content | z)."""
        z = self._z(coordinates)
        conditional = self._exact().content_posterior(z)
        content: Tensor = conditional.mode
        return content, self.prior.decompose(content, z), -conditional.log_prob(content).sum(-2)

    def _joint(self, content: Tensor, style: Tensor) -> Tensor:
        points, program = style.shape[:-3], self._program
        if points:
            program = pyro.plate("particles", points[0], dim=-PLATES - 1)(program)
        else:
            content = content.squeeze(-3)
        held = poutine.condition(program, data={"content": content, "style": style})
        total = style.new_zeros(*points, self._images)
        for density in densities(prune_subsample_sites(poutine.trace(held).get_trace(self.views)), Trace()):
            if density.term != GROUP:  # where an image stood in its batch is no part of it
                log_prob = density.log_prob.sum(-2) if density.log_prob.ndim > 1 else density.log_prob
                # Pyro's improper density is a zero on the CPU, wherever the others are.
                total = total + log_prob.to(total.device)
        return total

    def _z(self, coordinates: Tensor) -> Tensor:
        return self._by_view(coordinates, self.prior.latent_dim)

    def _by_view(self, values: Tensor, width: int) -> Tensor:
        """``(..., view, image, width)`` from ``(..., image, view · width)``."""
        return values.reshape(*values.shape[:-1], self._count, width).movedim(-2, -3)

    def _exact(self) -> ExactPrior:
        assert isinstance(self.prior, ExactPrior)
        return self.prior


def is_discrete(content: TorchDistribution) -> bool:
    """Whether it has points of positive probability, among which gradients cannot move."""
    support = content.support
    return bool(content.has_enumerate_support or (support is not None and support.is_discrete))
