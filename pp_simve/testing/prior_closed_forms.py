"""Checks of priors with closed forms, a class for each interface that promises some; other priors skip them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch.distributions import Independent, Normal

from pp_simve.models import ConjugatePrior, ExactPrior, QuadraticPrior
from pp_simve.testing.checks import check, close, seeded, skip
from pp_simve.testing.latents import expected_marginal, log_joint, log_joint_of_potentials, log_of_potentials
from pp_simve.testing.prior_base import EXACT, LIMIT, PriorChecks


class ExactChecks(PriorChecks):
    """Content given z, and its marginal (`ExactPrior`)."""

    def test_marginal_equals_quadrature(self) -> None:
        """log_marginal(z) is log ∫ p(content) Π_j p(z_j | content) d content, for 1, 2 and 3 views."""
        for prior, values, _, grid in self._grids(ExactPrior, views=(1, 2, 3)):
            joint = log_joint(prior, grid.points[:, None, None], values.z).squeeze(-1)
            expected = grid.log_integral(joint).reshape(1)
            message = f"log_marginal(z) is not log ∫ p(content) Π_j p(z_j | content) of {len(values.z)} view(s)"
            close(prior.log_marginal(values.z), expected, message, grid.accuracy, grid.accuracy)

    def test_content_posterior_equals_quadrature(self) -> None:
        """Its density and mean are those of p(content) Π_j p(z_j | content), normalised, for 1, 2 and 3 views."""
        for prior, values, posterior, grid in self._grids(ExactPrior, views=(1, 2, 3)):
            joint = log_joint(prior, grid.points[:, None, None], values.z).squeeze(-1)
            expected = joint - grid.log_integral(joint)
            found = grid.log_density(posterior)
            seen = expected > expected.max() - 20
            message = f"content_posterior(z) is not p(content) Π_j p(z_j | content), normalised ({len(values.z)} views)"
            close(found[seen], expected[seen], message, grid.accuracy, grid.accuracy)
            mean = ((expected + grid.log_weights).exp()[:, None] * grid.points).sum(0)
            message = "content_posterior(z).mean is not the mean of its density"
            close(posterior.mean.reshape(-1), mean, message, grid.accuracy, grid.accuracy)

    def test_posterior_is_joint_over_marginal(self) -> None:
        """log p(content) + Σ_j log p(z_j | content) − log p(content | z) = log p(z) whatever the content."""
        for latent_dim in self.latents:
            prior = self._exact(latent_dim, ExactPrior)
            values = self._values(prior)
            posterior, expected = prior.content_posterior(values.z), prior.log_marginal(values.z)
            with seeded(6):
                drawn = posterior.sample()
            for origin, content in {"content_posterior(z)": drawn, "content()": values.content}.items():
                joint = log_joint(prior, content, values.z)
                ratio = joint - posterior.log_prob(content).squeeze(-2)
                message = (
                    "log p(content) + Σ_j log p(z_j | content) − log content_posterior(z) is not log_marginal(z) for "
                    f"contents drawn from {origin}; one of the two is wrong (the checks by quadrature tell which)"
                )
                close(ratio, expected, message, EXACT, EXACT)


class ConjugateChecks(PriorChecks):
    """Content and style given potentials N(z_j; z, 1/precision) (`ConjugatePrior`)."""

    def test_style_posterior_is_style_times_potential(self) -> None:
        """A diagonal Gaussian, proportional to p(style | content) N(z(content, style); z, 1/precision)."""
        for latent_dim in self.latents:
            prior = self._exact(latent_dim, ConjugatePrior)
            values = self._values(prior)
            posterior = prior.style_posterior(values.content, values.z, values.precision)
            check(
                isinstance(posterior, Independent) and isinstance(posterior.base_dist, Normal),
                f"style_posterior is a {type(posterior).__name__}, expected a diagonal Gaussian: Normal().to_event(1)",
            )
            constant = log_of_potentials(prior, values, posterior.mean)
            message = (
                "style_posterior(content, z, precision) is not proportional to p(style | content) times "
                "N(compose(content, style); z, 1/precision)"
            )
            with seeded(6):
                for style in (values.style, posterior.sample(), torch.randn_like(values.style)):
                    close(log_of_potentials(prior, values, style), constant, message, EXACT, EXACT)

    def test_marginal_of_potentials_equals_quadrature(self) -> None:
        """log_marginal(z, precision), content integrated out on a grid; relies on a right style_posterior."""
        for prior, values, posterior, grid in self._grids(ConjugatePrior, views=(1, 2, 3), potentials=True):
            content = grid.points[:, None, None]
            joint = log_joint_of_potentials(prior, replace(values, content=content)).squeeze(-1)
            evidence = grid.log_integral(joint)
            views = f"of {len(values.z)} view(s)"
            message = f"log_marginal(z, precision) {views} is not log ∫ p(z_1..J) Π_j N(z_j; z, 1/precision)"
            close(
                prior.log_marginal(values.z, values.precision),
                evidence.reshape(1),
                message,
                grid.accuracy,
                grid.accuracy,
            )
            found = grid.log_density(posterior)
            seen = joint > joint.max() - 20
            message = f"content_posterior(z, precision) {views} is not the normalised p(content) times what views say"
            close(found[seen], (joint - evidence)[seen], message, grid.accuracy, grid.accuracy)

    def test_posterior_of_potentials_is_joint_over_marginal(self) -> None:
        """As `test_posterior_is_joint_over_marginal`, with a precision."""
        for latent_dim in self.latents:
            prior = self._exact(latent_dim, ConjugatePrior)
            values = self._values(prior)
            posterior = prior.content_posterior(values.z, values.precision)
            with seeded(6):
                drawn = posterior.sample()
            for content in (drawn, values.content):
                joint = log_joint_of_potentials(prior, replace(values, content=content))
                message = (
                    "log p(content, style) + log potentials − log content_posterior(z, precision) "
                    "− log style_posterior is not log_marginal(z, precision)"
                )
                ratio = joint - posterior.log_prob(content).squeeze(-2)
                close(ratio, prior.log_marginal(values.z, values.precision), message, EXACT, EXACT)

    def test_certain_potentials_are_known_z(self) -> None:
        """With a very large precision the answers are those of z itself."""
        prior = self._exact(self.latents[-1], ConjugatePrior)
        values = self._values(prior)
        certain = torch.full_like(values.z, 1e10)
        message = "with precision 1e10 {} is not what it is without a precision"
        of_marginal = prior.log_marginal(values.z, certain), prior.log_marginal(values.z)
        close(*of_marginal, message.format("log_marginal"), LIMIT, LIMIT)
        of_mean = prior.content_posterior(values.z, certain).mean, prior.content_posterior(values.z).mean
        close(*of_mean, message.format("content_posterior(...).mean"), LIMIT, LIMIT)


class QuadraticChecks(PriorChecks):
    """The expected log marginal under Gaussian z (`QuadraticPrior`)."""

    def test_expected_marginal_equals_quadrature(self) -> None:
        """E[log p(z_1, z_2)] for Gaussian z by Gauss-Hermite, and log p(z_1, z_2) itself without variance."""
        checked = False
        for latent_dim in self.latents:
            prior = self._exact(latent_dim, QuadraticPrior)
            if latent_dim > 3:
                continue
            values = self._values(prior, views=2, images=1)
            variance = values.precision.reciprocal()
            expected = expected_marginal(prior, values.z, variance)
            if expected is None:
                skip("expected_log_marginal raises TypeError: it has no closed form for these options")
            checked = True
            found, weights = np.polynomial.hermite_e.hermegauss(5)
            nodes = torch.cartesian_prod(*[torch.as_tensor(found)] * (2 * latent_dim)).reshape(-1, 2, 1, latent_dim)
            products = torch.cartesian_prod(*[torch.as_tensor(weights) / math.sqrt(2 * math.pi)] * (2 * latent_dim))
            points = prior.log_marginal(values.z + variance.sqrt() * nodes).squeeze(-1)
            mean = (products.reshape(len(points), -1).prod(-1) * points).sum().reshape(1)
            message = "expected_log_marginal(z, variance), summed over axes, is not the mean of log_marginal"
            close(expected.sum(-1), mean, message, EXACT, EXACT)
            certain = prior.expected_log_marginal(values.z, torch.zeros_like(variance)).sum(-1)
            message = "expected_log_marginal(z, 0), summed over axes, is not log_marginal(z)"
            close(certain, prior.log_marginal(values.z), message, EXACT, EXACT)
        if not checked:
            skip("every latent in `latents` is above 3")
