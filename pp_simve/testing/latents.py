"""What the suite of priors asks of them: latents of a small batch, and all that a prior says of these."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor

from pp_simve.models import ConjugatePrior, ExactPrior, Prior, QuadraticPrior


@dataclass(frozen=True)
class Values:
    """Latents of a batch, and potentials N(z_j; z, 1/precision).

    Attributes:
        content: shape ``(..., 1, image, content)``.
        style: shape ``(..., view, image, style)``.
        z: shape ``(..., view, image, latent)``; composed of them.
        precision: shape of z.
    """

    content: Tensor
    style: Tensor
    z: Tensor
    precision: Tensor

    def image(self, index: int) -> Values:
        """One of the images, as a batch."""
        return Values(*(value[..., index : index + 1, :] for value in self._all()))

    def particle(self, index: int) -> Values:
        """One of the particles, without their dimension."""
        return Values(*(value[index] for value in self._all()))

    def permuted(self, order: list[int]) -> Values:
        """The views in another order."""
        return Values(self.content, *(value[..., order, :, :] for value in self._all()[1:]))

    def to(self, where: Any) -> Values:
        """As `torch.Tensor.to`."""
        return Values(*(value.to(where) for value in self._all()))

    def _all(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]


@dataclass(frozen=True)
class Answer:
    """One thing a prior says of `Values`, with how its shape ends: ``(..., image, *event)``, views before the images.

    Attributes:
        value: the tensor.
        event: shape of what stands after the images.
        views: how many stand before the images: VIEWS, 1 (a kept dimension) or 0 (none).
    """

    value: Tensor
    event: tuple[int, ...]
    views: int

    @property
    def event_dim(self) -> int:
        """Dimensions after the images."""
        return len(self.event)


def answers_of(prior: Prior, values: Values) -> dict[str, Answer]:
    """All that a prior can say of these values."""
    content, style, z, precision = values.content, values.style, values.z, values.precision
    plates, views, axes = z.shape[:-1], z.shape[-3], (prior.latent_dim,)
    of_content = prior.content().expand(content.shape[:-1])
    of_style = prior.style(content).expand(plates)
    answers = {
        "compose(content, style)": Answer(prior.compose(content, style), axes, views),
        "decompose(content, z)": Answer(prior.decompose(content, z), tuple(of_style.event_shape), views),
        "content().log_prob": Answer(of_content.log_prob(content), (), 1),
        "style(content).log_prob": Answer(of_style.log_prob(style), (), views),
    }
    for call, posterior in posteriors_of(prior, values).items():
        answers[f"{call}.mean"] = Answer(posterior.mean, tuple(of_content.event_shape), 1)
        answers[f"{call}.log_prob"] = Answer(posterior.log_prob(content), (), 1)
    if isinstance(prior, ExactPrior):
        answers["log_marginal(z)"] = Answer(prior.log_marginal(z), (), 0)
    if isinstance(prior, ConjugatePrior):
        call = "style_posterior(content, z, precision)"
        posterior = prior.style_posterior(content, z, precision)
        answers["log_marginal(z, precision)"] = Answer(prior.log_marginal(z, precision), (), 0)
        answers[f"{call}.mean"] = Answer(posterior.mean, tuple(of_style.event_shape), views)
        answers[f"{call}.log_prob"] = Answer(posterior.log_prob(style), (), views)
    expected = expected_marginal(prior, z, precision.reciprocal())
    if expected is not None:
        answers["expected_log_marginal(z, variance)"] = Answer(expected, axes, 0)
    return answers


def posteriors_of(prior: Prior, values: Values) -> dict[str, TorchDistribution]:
    """Those of content that the prior promises, by how they are asked for."""
    posteriors = {}
    if isinstance(prior, ExactPrior):
        posteriors["content_posterior(z)"] = prior.content_posterior(values.z)
    if isinstance(prior, ConjugatePrior):
        posteriors["content_posterior(z, precision)"] = prior.content_posterior(values.z, values.precision)
    return posteriors


def expected_marginal(prior: Prior, z: Tensor, variance: Tensor) -> Tensor | None:
    """The expected marginal, None where there is none."""
    if not isinstance(prior, QuadraticPrior):
        return None
    try:
        return prior.expected_log_marginal(z, variance)
    except TypeError:  # how a prior made of others says that one of them has none
        return None


def atoms(prior: Prior) -> Tensor:
    """What discrete content can be, shape ``(K, content)``."""
    content = prior.content()
    points: Tensor = content.enumerate_support(expand=False)
    return points.reshape(-1, *content.event_shape)


def atom_of(prior: Prior, content: Tensor) -> Tensor | None:
    """Which of the atoms each content is, None where content is continuous."""
    if not prior.content().has_enumerate_support:
        return None
    return (content.unsqueeze(-2) == atoms(prior)).all(-1).to(torch.uint8).argmax(-1)


def log_joint(prior: Prior, content: Tensor, z: Tensor) -> Tensor:
    """log p(content) + Σ_j log p(z_j | content), shape ``(..., image)``."""
    style = prior.decompose(content, z)
    plates = torch.broadcast_shapes(content.shape[:-1], z.shape[:-1])
    of_style = prior.style(content).expand(plates).log_prob(style)
    of_content = prior.content().expand(content.shape[:-1]).log_prob(content)
    return of_content.squeeze(-2) + of_style.sum(-2)


def log_of_potentials(prior: ConjugatePrior, values: Values, style: Tensor) -> Tensor:
    """log ∫ p(style | content) N(compose(content, style); z, 1/precision) d style of each view, as p/posterior."""
    content, scale = values.content, values.precision.rsqrt()
    plates = torch.broadcast_shapes(content.shape[:-1], values.z.shape[:-1])
    of_style = prior.style(content).expand(plates).log_prob(style)
    of_potential = Normal(values.z, scale).to_event(1).log_prob(prior.compose(content, style))
    posterior = prior.style_posterior(content, values.z, values.precision)
    return of_style + of_potential - posterior.log_prob(style)


def log_joint_of_potentials(prior: ConjugatePrior, values: Values) -> Tensor:
    """log p(content) + Σ_j log of the above, shape ``(..., image)``."""
    content = values.content
    style = prior.style_posterior(content, values.z, values.precision).mean
    of_content = prior.content().expand(content.shape[:-1]).log_prob(content)
    return of_content.squeeze(-2) + log_of_potentials(prior, values, style).sum(-2)
