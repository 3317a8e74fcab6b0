"""Semi-amortized inference: variational parameters of each image, optimized from the guide's output."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import islice

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pp_simve.inference.guides import AmortizedGuide, Guide, Representation, StructuredGuide
from pp_simve.inference.guides.base import Features
from pp_simve.inference.guides.recognition import sample_sites
from pp_simve.inference.guides.structured import sample_from_potentials
from pp_simve.inference.mcmc import is_discrete
from pp_simve.inference.objectives import ELBO
from pp_simve.inference.sampling import draw
from pp_simve.inference.tools import frozen, random_state_kept, seeds
from pp_simve.models import ConjugatePrior, ExactPrior, PlainViews, Prior, SimVE, Views, ViewsLike
from pp_simve.models.views import map_modalities

START_DRAWS = 1000
"""Of a guide whose z is not Gaussian, for the moments of z."""

Images = slice | list[int]
"""Which images of the batch."""

ALL = slice(None)


class Family(nn.Module, ABC):
    """Variational family with parameters for each image: ``loc`` + ``scale`` · shift and ``scale`` · exp(log_factor).

    The parameters start at 0 and are in units of the start, so that one learning rate suits all axes.

    Args:
        loc, scale: the start, shape ``(view, image, latent)``.
        unit: of shift; default: ``scale``.
    """

    def __init__(self, loc: Tensor, scale: Tensor, unit: Tensor | None = None) -> None:
        super().__init__()
        for name, start in (("start_loc", loc), ("start_scale", scale), ("unit", scale if unit is None else unit)):
            self.register_buffer(name, start.detach().clone())
        self.shift = nn.Parameter(torch.zeros_like(self.start_loc))
        self.log_factor = nn.Parameter(torch.zeros_like(self.start_loc))

    start_loc: Tensor
    start_scale: Tensor
    unit: Tensor

    def loc(self, images: Images = ALL) -> Tensor:
        """Of some images, shape ``(view, image, latent)``."""
        return (self.start_loc + self.unit * self.shift)[:, images]

    def scale(self, images: Images = ALL) -> Tensor:
        """Of some images, shape ``(view, image, latent)``."""
        return (self.start_scale * self.log_factor.exp())[:, images]

    @abstractmethod
    def sample(self, images: Images) -> None:
        """Samples the program's sites for some images."""

    @abstractmethod
    def means(self, images: Images) -> tuple[Tensor, Tensor, Tensor]:
        """Of some images: z ``(view, image, latent)``, content ``(1, image, content)``, style as z."""


class GaussianLatents(Family):
    """q(z_j) = N(loc, scale²) for each view, content ~ p(content | z_1..J) exactly, as in `AmortizedGuide`."""

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
    """A Gaussian potential of each view; content and style follow by messages, as in `StructuredGuide`.

    ``scale`` is that of the potential; ``loc`` and the unit of its shift are those of the potential times N(0, 1), the
    parametrization of that guide: the location of a potential without information is arbitrary.

    Args:
        prior: the model's.
        messages: the prior whose messages are passed.
        loc, precision: of the potentials at the start, shape ``(view, image, latent)``.
    """

    def __init__(self, prior: Prior, messages: ConjugatePrior, loc: Tensor, precision: Tensor) -> None:
        super().__init__(loc * precision / (1 + precision), precision.rsqrt(), (1 + precision).rsqrt())
        self.prior, self.messages = prior, messages

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
    """Per-image (semi-amortized) variational parameters of one batch, made by `refine`.

    Images are identified by the pixels of their views. Semi-amortized inference (Kim, Wiseman, Miller, Sontag and Rush
    2018, arXiv 1802.02550) without its last step: the encoder is not trained through the refinement.

    Args:
        views: the batch. Only images of it have a posterior.
        backbone: features of the views, for `posterior`.
        family: the parameters.

    Attributes:
        elbo_before, elbo_after: of the original guide and of this one, by other draws than those of optimization and
            selection; nats, shape ``(image,)``. The first is NaN where that guide has no density.
        elbo_error: Monte-Carlo standard error of their difference, ``(image,)``.
        moved: bool ``(image,)``; false where the end was no better than the start, which was restored.
    """

    amortized = False

    elbo_before: Tensor
    elbo_after: Tensor
    elbo_error: Tensor
    moved: Tensor

    def __init__(self, views: PlainViews, backbone: Features, family: Family) -> None:
        super().__init__()
        self.views, self.backbone, self.family = views, backbone, family
        self._known = _keys(views)

    def forward(self, views: PlainViews) -> None:
        """As `Guide.forward`.

        Raises:
            ValueError: images that are not of the batch.
        """
        self.family.sample(self._places(views))

    def posterior(self, views: PlainViews) -> Representation:
        images = self._places(views)
        z, content, style = self.family.means(images)
        backbone = map_modalities(lambda features: features[:, images], self.backbone)
        return Representation(backbone=backbone, z=z, content=content.squeeze(0), style=style)

    def _places(self, views: PlainViews) -> Images:
        """Indices of the images in the batch; of an image that is there twice, the last."""
        if views is self.views or (keys := _keys(views)) == self._known:
            return ALL
        known = {key: place for place, key in enumerate(self._known)}
        found = [known[key] for key in keys if key in known]
        if len(found) < len(keys):
            raise ValueError(
                "a RefinedGuide has parameters for the images it was refined on, identified by the pixels of their "
                f"views, and for no others; {len(keys) - len(found)} of {len(keys)} images are unknown. Refine the "
                "guide on these views, or use the original guide"
            )
        return found


def refine(
    model: SimVE,
    guide: Guide,
    views: PlainViews,
    *,
    steps: int = 200,
    lr: float = 0.1,
    draws: int = 16,
    judged: int = 500,
    seed: int = 0,
) -> RefinedGuide:
    """Maximizes the ELBO of each image over per-image parameters, starting from the guide.

    The gain is the amortization gap; what remains is the gap of the family (Cremer, Li and Duvenaud 2018, arXiv
    1801.03558). So the family is that of the guide:

    - `StructuredGuide`: the potential of each view, starting at the encoder's;
    - `AmortizedGuide`: the Gaussian of each view's z, starting at the encoder's;
    - any other, if the model's prior is an `ExactPrior`: such Gaussians with the mean and variance of the guide's draws
      of z. For a `FlowGuide`, whose draws are not Gaussian, the start is worse than the guide.

    Images are optimized independently, side by side, by Adam with a cosine schedule to 0. Images whose ELBO is no
    higher at the end than at the start (with the same draws) return to the start. Model and guide are not changed.

    Args:
        model: with a likelihood of pixels.
        views: ``(view, image, channel, height, width)`` in [0, 1], or one such tensor per modality; all in one pass,
            so a batch of some tens of large images.
        steps: of Adam; 0 gives the start.
        lr: in standard deviations of the start.
        draws: of each image in each step.
        judged: draws for the choice between start and end, and as many for each reported ELBO.
        seed: of all draws; torch's global generators are left as they were.

    Raises:
        ValueError: numbers out of range; no likelihood of pixels; a guide whose z has no spread, or a guide of another
            family under a prior without ``content_posterior``.
    """
    for name, number, least in (("steps", steps, 0), ("draws", draws, 1), ("judged", judged, 2)):
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be positive and finite, got {lr}")
    model.likelihood_of(Views.of(views).modalities[0])  # raises if there is none
    numbers = list(islice(seeds(seed), 5))

    def log_weights(of: Guide, seed: int) -> Tensor:
        return draw(model, of, views, judged, seed=seed).log_weight

    with frozen(model, guide), pyro.validation_enabled(False), random_state_kept(Views.of(views).device):
        with torch.no_grad():
            refined = RefinedGuide(views, guide.posterior(views).backbone, _family(model, guide, views, numbers[0]))
        at_start = log_weights(refined, numbers[1])
        torch.manual_seed(numbers[2])
        own = [refined.family.shift, refined.family.log_factor]
        objective = ELBO(model, refined, alpha=0.0, particles=draws, scale=1.0)
        optimizer = torch.optim.Adam(own, lr=lr)
        with torch.enable_grad():
            for step in range(steps):
                optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
                optimizer.zero_grad()
                objective(refined.views)["loss"].backward()
                optimizer.step()
        optimizer.zero_grad()
        refined.moved = (log_weights(refined, numbers[1]) - at_start).mean(0) > 0  # false for NaN
        for parameter in own:
            parameter.data[:, ~refined.moved] = 0  # back to the start
        after = log_weights(refined, numbers[3])
        before = log_weights(guide, numbers[4]) if guide.has_density else torch.full_like(after, torch.nan)
    refined.elbo_before, refined.elbo_after = before.mean(0), after.mean(0)
    refined.elbo_error = ((before.var(0) + after.var(0)) / judged).sqrt()
    return refined


def _family(model: SimVE, guide: Guide, views: PlainViews, seed: int) -> Family:
    if isinstance(guide, StructuredGuide):
        if is_discrete(guide.messages.content()):
            raise ValueError(
                "a StructuredGuide draws content first, and discrete content passes no gradient to its potentials; "
                "take a guide that draws z first, such as AmortizedGuide"
            )
        potentials = guide.potentials(guide.recognition.features(views))
        guide.messages.remember(potentials[0])
        return GaussianPotentials(guide.prior, guide.messages, *potentials)
    if not isinstance(model.prior, ExactPrior):
        raise ValueError(
            f"refine keeps the family of a StructuredGuide; for {type(guide).__name__} it needs content given z, "
            f"which {type(model.prior).__name__} does not have: derive the prior from ExactPrior"
        )
    if isinstance(guide, AmortizedGuide):
        q = guide.recognition(views)
        return GaussianLatents(model.prior, q.mean, q.stddev)
    z = draw(model, guide, views, START_DRAWS, seed=seed).z
    scale = z.std(0)
    if not (scale > 0).all():
        raise ValueError(
            f"draws of z of {type(guide).__name__} do not vary, so there is no Gaussian to start from; "
            "refine a guide with a density"
        )
    return GaussianLatents(model.prior, z.mean(0), scale)


def _keys(views: ViewsLike) -> list[bytes]:
    """The pixels of all views of each image, with their modalities, shapes and type."""
    keys = [b""] * Views.of(views).n_images
    for name, batch in Views.of(views).items():
        head = f"{name} {batch.dtype} {batch.shape[:1]} {batch.shape[2:]}".encode()
        arrays = batch.transpose(0, 1).contiguous().numpy(force=True)
        keys = [key + head + array.tobytes() for key, array in zip(keys, arrays, strict=True)]
    return keys
