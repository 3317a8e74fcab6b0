"""A guide of certain images only: what a guide says of each is a start, and every image has parameters of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pp_simve.inference.guides.base import Features, Guide, Representation
from pp_simve.inference.guides.recognition import sample_sites
from pp_simve.inference.guides.structured import sample_from_potentials
from pp_simve.models import ConjugatePrior, ExactPrior, PlainViews, Prior

Images = slice | list[int]
"""Which images of the batch."""

ALL = slice(None)


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

    def loc(self, images: Images = ALL) -> Tensor:
        """Of some images, shape ``(view, image, latent)``."""
        return (self.start_loc + self.start_scale * self.shift)[:, images]

    def scale(self, images: Images = ALL) -> Tensor:
        """Of some images, shape ``(view, image, latent)``."""
        return (self.start_scale * self.log_factor.exp())[:, images]

    @torch.no_grad()
    def return_to_start(self, images: Tensor) -> None:
        """Puts the images of a bool mask ``(image,)`` back to where they started."""
        for parameter in (self.shift, self.log_factor):
            parameter[:, images] = 0

    @abstractmethod
    def sample(self, images: Images) -> None:
        """Samples the sites of the program, for some images."""

    @abstractmethod
    def means(self, images: Images) -> tuple[Tensor, Tensor, Tensor]:
        """Of some images: z ``(view, image, latent)``, content ``(1, image, content)``, style as z."""


class GaussianLatents(Family):
    """q(z_j) = N(loc, scale²) for each view, content ~ p(content | z_1..J) exactly, as in `AmortizedGuide`.

    Args:
        prior: the model's.
        loc, scale: the start.
    """

    def __init__(self, prior: ExactPrior, loc: Tensor, scale: Tensor) -> None:
        super().__init__(loc, scale)
        self.prior = prior

    def sample(self, images: Images) -> None:
        sample_sites(self.prior, dist.Normal(self.loc(images), self.scale(images)).to_event(1))

    def means(self, images: Images) -> tuple[Tensor, Tensor, Tensor]:
        z = self.loc(images)
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

    def loc(self, images: Images = ALL) -> Tensor:
        return (self.start_loc + self.unit * self.shift)[:, images]

    def potentials(self, images: Images = ALL) -> tuple[Tensor, Tensor]:
        """Location and precision, shape ``(view, image, latent)`` each."""
        variance = self.scale(images).square()
        return self.loc(images) * (1 + variance), variance.reciprocal()

    def sample(self, images: Images) -> None:
        sample_from_potentials(self.messages, *self.potentials(images))

    def means(self, images: Images) -> tuple[Tensor, Tensor, Tensor]:
        loc, precision = self.potentials(images)
        content = self.messages.content_posterior(loc, precision).mean
        style = self.messages.style_posterior(content, loc, precision).mean
        return self.prior.compose(content, style), content, style


class RefinedGuide(Guide):
    """q with parameters for each image of one batch, made by `pp_simve.evaluation.posterior.refine`.

    Semi-amortized inference (Kim, Wiseman, Miller, Sontag and Rush 2018, arXiv 1802.02550) without its last step: the
    guide it started from learns nothing of it.

    Args:
        views: the batch; it answers for images of it, told by their views' pixels, and for no others.
        backbone: features of the views, for `posterior`.
        family: the parameters.

    Attributes:
        elbo_before, elbo_after: of the guide it started from and of itself, by other draws than it was fitted and
            chosen with; nats, shape ``(image,)``. The first is NaN where that guide has no density.
        elbo_error: Monte-Carlo standard error of their difference, ``(image,)``.
        moved: bool ``(image,)``; false where the start was no worse, and was kept.
    """

    amortized = False

    elbo_before: Tensor
    elbo_after: Tensor
    elbo_error: Tensor
    moved: Tensor

    def __init__(self, views: PlainViews, backbone: Features, family: Family) -> None:
        super().__init__()
        self.views, self.backbone, self.family = views, backbone, family

    def forward(self, views: PlainViews) -> None:
        """As `Guide.forward`.

        Raises:
            ValueError: other views than those it was refined on.
        """
        self.family.sample(self._places(views))

    def posterior(self, views: PlainViews) -> Representation:
        images = self._places(views)
        z, content, style = self.family.means(images)
        backbone = self.backbone
        some = (
            backbone[:, images]
            if isinstance(backbone, Tensor)
            else {modality: features[:, images] for modality, features in backbone.items()}
        )
        return Representation(backbone=some, z=z, content=content.squeeze(0), style=style)

    def _places(self, views: PlainViews) -> Images:
        """Where the images stand in the batch; an image that stands there twice is taken for the last of them."""
        if views is self.views or _same(views, self.views):
            return ALL
        known = {key: place for place, key in enumerate(_keys(self.views))}
        places = [known.get(key) for key in _keys(views)]
        found = [place for place in places if place is not None]
        if len(found) < len(places):
            raise ValueError(
                f"a RefinedGuide knows the images it was refined on, by their views ({_shapes(self.views)}), and no "
                f"others, got {_shapes(views)}, {len(places) - len(found)} of them unknown; refine the guide on these, "
                "or take the guide it started from"
            )
        return found


def _same(ours: PlainViews, theirs: PlainViews) -> bool:
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        return _equal(ours, theirs)
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return list(ours) == list(theirs) and all(_equal(ours[modality], theirs[modality]) for modality in ours)
    return False


def _keys(views: PlainViews) -> list[bytes]:
    """The pixels of all views of each image, with their modalities, shapes and type."""
    modalities = {"": views} if isinstance(views, Tensor) else dict(views)
    heads = [
        f"{modality} {batch.dtype} {batch.shape[:1]} {batch.shape[2:]}".encode()
        for modality, batch in modalities.items()
    ]
    arrays = [batch.detach().cpu().transpose(0, 1).contiguous().numpy() for batch in modalities.values()]
    return [
        b"".join(part for head, array in zip(heads, arrays, strict=True) for part in (head, array[image].tobytes()))
        for image in range(len(arrays[0]))
    ]


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    return ours.dtype == theirs.dtype and ours.device == theirs.device and torch.equal(ours, theirs)


def _shapes(views: PlainViews) -> str:
    if isinstance(views, Tensor):
        return f"shape {tuple(views.shape)}"
    return ", ".join(f"{modality} {tuple(batch.shape)}" for modality, batch in views.items())
