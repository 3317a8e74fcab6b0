"""Checks of priors: z composed of content and style, their densities, draws and gradients."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pp_simve.models import ExactPrior
from pp_simve.testing.checks import check, check_finite_differences, check_gradients, close, seeded, skip
from pp_simve.testing.latents import answers_of, atom_of, atoms, log_joint, posteriors_of
from pp_simve.testing.prior_base import EXACT, PARTICLES, PriorChecks, check_style
from pp_simve.testing.quadrature import check_draws, check_normalised


class DensityChecks(PriorChecks):
    """What every prior promises of content and style."""

    # z from content and style

    def test_decompose_inverts_compose(self) -> None:
        """Each undoes the other."""
        for latent_dim in self.latents:
            prior = self._made(latent_dim)
            values = self._values(prior, (PARTICLES,))
            again = prior.decompose(values.content, prior.compose(values.content, values.style))
            message = "decompose(content, compose(content, style)) is not style; write one as the inverse of the other"
            close(again, values.style, message, EXACT, EXACT)
            with seeded(5):
                z = torch.randn_like(values.z)
            composed = prior.compose(values.content, prior.decompose(values.content, z))
            message = "compose(content, decompose(content, z)) is not z; write one as the inverse of the other"
            close(composed, z, message, EXACT, EXACT)

    def test_compose_keeps_volume(self) -> None:
        """|det ∂z/∂style| = 1: guides take the density of z for that of style."""
        for latent_dim in self.latents:
            prior = self._made(latent_dim)
            values = self._values(prior, views=1, images=1)
            content, style = values.content, values.style
            jacobian: Any = torch.autograd.functional.jacobian(partial(prior.compose, content), style)
            matrix = jacobian.reshape(latent_dim, style.shape[-1])
            check(
                matrix.shape[0] == matrix.shape[1],
                f"style has {style.shape[-1]} dimensions and z {latent_dim}; expected as many, with unit Jacobian",
            )
            factor = float(matrix.det().abs())
            check(
                abs(factor - 1) < EXACT,
                f"compose changes volume by the factor {factor:.4g}, expected 1: log p(style | content) would no "
                "longer be log p(z | content). Scale style in its own density instead of in compose",
            )

    # Densities

    def test_content_density_integrates_to_one(self) -> None:
        """By quadrature, or by the sum over its support."""
        if not self.proper:
            skip("content is improper, as declared")
        checked = False
        for latent_dim in self.latents:
            content = self._made(latent_dim).content()
            checked |= check_normalised(content, f"content() with latent = {latent_dim}")
        if not checked:
            skip("content has more than two dimensions for every latent in `latents`")

    def test_style_density_integrates_to_one(self) -> None:
        """By quadrature, for two contents."""
        checked = False
        for latent_dim in self.latents:
            prior = self._made(latent_dim)
            for content in self._contents(prior, (2, 1, 1), torch.float64):
                check_style(prior, content)
                style = prior.style(content).expand((1, 1))
                checked |= check_normalised(style, f"style(content) with latent = {latent_dim}")
        if not checked:
            skip("style has more than two dimensions for every latent in `latents`")

    def test_draws_follow_the_densities(self) -> None:
        """Of content, style and their posteriors, by their distribution functions."""
        checked = False
        for latent_dim in self.latents:
            prior = self._made(latent_dim)
            values = self._values(prior, images=1)
            if self.proper:
                checked |= check_draws(prior.content(), "content()")
            checked |= check_draws(prior.style(values.content), "style(content)")
            for call, posterior in posteriors_of(prior, values).items():
                checked |= check_draws(posterior, call)
        if not checked:
            skip("content and style have more than two dimensions for every latent in `latents`")

    # Gradients

    def test_every_parameter_gets_a_gradient(self) -> None:
        """From log p(content) + Σ_j log p(z_j | content), and from log p(z_1..J)."""
        prior = self._made(self.latents[-1])
        if not any(parameter.requires_grad for parameter in prior.parameters()):
            skip("no parameters")
        values = self._values(prior)
        total = log_joint(prior, values.content, values.z).sum()
        if isinstance(prior, ExactPrior):
            total = total + prior.log_marginal(values.z).sum()
        check_gradients(prior, total, "expected one from log p(content, z) + log p(z)")

    def test_gradients_equal_finite_differences(self) -> None:
        """Of every density and mean, with respect to parameters, z and precision."""
        prior = self._made(self.latents[-1])
        values = self._values(prior)
        z, precision = values.z.clone().requires_grad_(), values.precision.clone().requires_grad_()
        index = atom_of(prior, values.content)

        def functions() -> dict[str, Tensor]:
            # Discrete content moves with the points it is one of.
            content = values.content if index is None else atoms(prior)[index]
            moved = replace(values, content=content, z=z, precision=precision)
            return {name: answer.value for name, answer in answers_of(prior, moved).items()}

        check_finite_differences(functions, (z, precision, *prior.parameters()))
