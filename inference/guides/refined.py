"""A guide of certain images only: what a guide says of each is a start, and every image has parameters of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pp_simve.inference.guides.base import Features, Guide, Representation
from pp_simve.inference.guides.recognition import sample_sites
from pp_simve.models import ConjugatePrior, ExactPrior, Prior, Views


class Family(nn.Module, ABC):
    """q of each image: Gaussians around ``loc`` + ``scale`` · shift, of ``scale`` · exp(log_factor).

    The parameters start at 0 and are in units of the start, so that one step size suits all axes.

    Args:
        loc, scale: the start, shape ``(view, image, latent)``.
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("start_loc", loc.detach().clone())
        self.register_buffer("start_scale", scale.detach().clone())
        self.shift = nn.Parameter(torch.zeros_like(self.start_loc))
        self.log_factor = nn.Parameter(torch.zeros_like(self.start_loc))

    start_loc: Tensor
    start_scale: Tensor

    def loc(self) -> Tensor:
        """Shape ``(view, image, latent)``."""
        return self.start_loc + self.start_scale * self.shift

    def scale(self) -> Tensor:
        """Shape ``(view, image, latent)``."""
        return self.start_scale * self.log_factor.exp()

    @torch.no_grad()
    def return_to_start(self, images: Tensor) -> None:
        """Puts the images of a bool mask ``(image,)`` back to where they started."""
        for parameter in (self.shift, self.log_factor):
            parameter[:, images] = 0

    @abstractmethod
    def sample(self) -> None:
        """Samples the sites of the program."""

    @abstractmethod
    def means(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of z ``(view, image, latent)``, content ``(1, image, content)`` and style ``(view, image, style)``."""


class GaussianLatents(Family):
    """q(z_j) = N(loc, scale²) for each view, content ~ p(content | z_1..J) exactly, as in `AmortizedGuide`.

    Args:
        prior: the model's.
        loc, scale: the start.
    """

    def __init__(self, prior: ExactPrior, loc: Tensor, scale: Tensor) -> None:
        super().__init__(loc, scale)
        self.prior = prior

    def sample(self) -> None:
        sample_sites(self.prior, dist.Normal(self.loc(), self.scale()).to_event(1))

    def means(self) -> tuple[Tensor, Tensor, Tensor]:
        z = self.loc()
        content = self.prior.content_posterior(z).mean
        return z, content, self.prior.decompose(content, z)


class GaussianPotentials(Family):
    """Potentials of each view; content and style follow from them by messages, as in `StructuredGuide`.

    ``loc`` and ``scale`` are those of the potential times N(0, 1) and of the potential itself, which is how that guide
    is parametrised: where a potential says nothing its location would lie anywhere.

    Args:
        prior: the model's.
        messages: the prior whose messages are passed.
        loc, precision: of the potentials at the start.
    """

    def __init__(self, prior: Prior, messages: ConjugatePrior, loc: Tensor, precision: Tensor) -> None:
        super().__init__(loc * precision / (1 + precision), precision.rsqrt())
        self.prior, self.messages = prior, messages
        # Of the potential times N(0, 1): a step in units of a potential that says nothing would leave the world.
        self.register_buffer("unit", (1 + precision).rsqrt().detach().clone())

    unit: Tensor

    def loc(self) -> Tensor:
        return self.start_loc + self.unit * self.shift

    def potentials(self) -> tuple[Tensor, Tensor]:
        """Location and precision, shape ``(view, image, latent)`` each."""
        variance = self.scale().square()
        return self.loc() * (1 + variance), variance.reciprocal()

    def sample(self) -> None:
        loc, precision = self.potentials()
        view_plate = pyro.plate("view", loc.shape[-3], dim=-2)
        with pyro.plate("image", loc.shape[-2], dim=-1):
            content = pyro.sample("content", self.messages.content_posterior(loc, precision))
            with view_plate:
                pyro.sample("style", self.messages.style_posterior(content, loc, precision))

    def means(self) -> tuple[Tensor, Tensor, Tensor]:
        loc, precision = self.potentials()
        content = self.messages.content_posterior(loc, precision).mean
        style = self.messages.style_posterior(content, loc, precision).mean
        return self.prior.compose(content, style), content, style


class RefinedGuide(Guide):
    """q with parameters for each image of one batch, made by `pp_simve.evaluation.diagnostics.refine`.

    Semi-amortized inference (Kim, Wiseman, Miller, Sontag and Rush 2018, arXiv 1802.02550) without its last step: the
    guide it started from learns nothing of it.

    Args:
        views: the batch; it answers for no other.
        backbone: features of the views, for `posterior`.
        family: the parameters.

    Attributes:
        elbo_before, elbo_after: of the guide it started from and of itself, by other draws than it was fitted and
            chosen with; nats, shape ``(image,)``. The first is NaN where that guide has no density.
        elbo_error: Monte-Carlo standard error of their difference, ``(image,)``.
        moved: bool ``(image,)``; false where the start was no worse, and was kept.
    """

    elbo_before: Tensor
    elbo_after: Tensor
    elbo_error: Tensor
    moved: Tensor

    def __init__(self, views: Views, backbone: Features, family: Family) -> None:
        super().__init__()
        self.views, self.backbone, self.family = views, backbone, family

    def forward(self, views: Views) -> None:
        """As `Guide.forward`.

        Raises:
            ValueError: other views than those it was refined on.
        """
        self._check(views)
        self.family.sample()

    def posterior(self, views: Views) -> Representation:
        self._check(views)
        z, content, style = self.family.means()
        return Representation(backbone=self.backbone, z=z, content=content.squeeze(0), style=style)

    def _check(self, views: Views) -> None:
        if views is self.views:
            return
        if isinstance(views, Tensor) and isinstance(self.views, Tensor):
            same = _equal(views, self.views)
        elif isinstance(views, Mapping) and isinstance(self.views, Mapping):
            same = list(views) == list(self.views) and all(_equal(views[kind], self.views[kind]) for kind in views)
        else:
            same = False
        if not same:
            raise ValueError(
                f"a RefinedGuide knows the views it was refined on ({_shapes(self.views)}) and no others, got "
                f"{_shapes(views)}; refine the guide on these, or take the guide it started from"
            )


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    return ours.dtype == theirs.dtype and ours.device == theirs.device and torch.equal(ours, theirs)


def _shapes(views: Views) -> str:
    if isinstance(views, Tensor):
        return f"shape {tuple(views.shape)}"
    return ", ".join(f"{kind} {tuple(batch.shape)}" for kind, batch in views.items())
