"""Checks of priors: distributions fit the plates of views, images and particles, in the program and in batches."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_site_shape
from torch import nn

from pp_simve.models import Bernoulli, Prior, SimVE
from pp_simve.testing.checks import check, close, seeded
from pp_simve.testing.latents import answers_of, posteriors_of
from pp_simve.testing.prior_base import EXACT, IMAGES, PARTICLES, VIEWS, PriorChecks, check_style, shapes


class PlateChecks(PriorChecks):
    """Shapes, the program, and batches as good as a loop."""

    def test_shapes(self) -> None:
        """Batches are plates, the last dimension is the only event."""
        for latent_dim in self.latents:
            prior = self._made(latent_dim)
            check(
                prior.latent_dim == latent_dim,
                f"make({latent_dim}) gave a prior whose attribute latent is {prior.latent_dim}, expected {latent_dim}; "
                "pass it on: super().__init__(latent)",
            )
            for leading in ((), (PARTICLES,)):
                self._check_shapes(prior, leading)

    def _check_shapes(self, prior: Prior, leading: tuple[int, ...]) -> None:
        width = prior.content().event_shape
        content = self._contents(prior, (*leading, 1, IMAGES), torch.float64)
        check_style(prior, content)
        if not leading:
            check_style(prior, content.squeeze(0))  # as in the model, where content has no dimension of views
        values = self._values(prior, leading)
        for call, posterior in posteriors_of(prior, values).items():
            check(
                posterior.batch_shape == (*leading, 1, IMAGES) and posterior.event_shape == width,
                f"{call} has {shapes(posterior)}, expected batch {(*leading, 1, IMAGES)} and event {tuple(width)}; "
                "sum over views with keepdim=True, over dimension -3, and end with .to_event(1)",
            )
        for name, answer in answers_of(prior, values).items():
            views = (answer.views,) if answer.views else ()
            full = (*leading, *views, IMAGES, *answer.event)
            check(
                answer.value.shape == full,
                f"{name} has shape {tuple(answer.value.shape)}, expected {full}; views are dimension -3 of z, images "
                "-2, and what stands before them are particles",
            )

    def test_runs_in_the_program(self) -> None:
        """`SimVE` runs with it under Pyro's validation, with and without particles."""
        for latent_dim in self.latents:
            prior = self._made(latent_dim, torch.float32)
            model = SimVE(prior, Bernoulli(nn.Sequential(nn.Linear(latent_dim, 4), nn.Unflatten(-1, (1, 2, 2)))))
            views = torch.full((VIEWS, IMAGES, 1, 2, 2), 0.5)
            for leading in ((), (PARTICLES,)):
                # Without PyroModule's own call, which would leave parameters in Pyro's global store.
                program: Any = partial(nn.Module.__call__, model)
                if leading:
                    program = pyro.plate("particles", PARTICLES, dim=-3)(program)
                if not self.proper:
                    plates = (*leading, 1, IMAGES) if leading else (IMAGES,)
                    program = poutine.condition(program, {"content": self._contents(prior, plates, torch.float32)})
                try:
                    with pyro.validation_enabled(True), seeded():
                        trace = prune_subsample_sites(poutine.trace(program).get_trace(views))
                        trace.compute_log_prob()
                        for site in trace.nodes.values():
                            if site["type"] == "sample":
                                check_site_shape(site, 2 + len(leading))
                except (ValueError, RuntimeError) as error:
                    raise AssertionError(
                        f"the program does not run with this prior: {error}. Expected distributions with one event "
                        "dimension whose batch the plates can hold; set proper = False where content is improper"
                    ) from error
                z: Any = trace.nodes["z"]["value"]
                expected = (*leading, VIEWS, IMAGES, latent_dim)
                check(z.shape == expected, f"z has shape {tuple(z.shape)} in the program, expected {expected}")

    def test_batch_equals_loop(self) -> None:
        """What it says of an image does not depend on the images beside it."""
        prior = self._made(self.latents[-1])
        values = self._values(prior)
        if self.independent_images:
            prior.remember(values.z)
        together = answers_of(prior, values)
        alone = []
        for index in range(IMAGES):
            one = values.image(index)
            if self.independent_images:
                prior.remember(one.z)
            alone.append(answers_of(prior, one))
        for name, answer in together.items():
            expected = torch.cat([answers[name].value for answers in alone], -1 - answer.event_dim)
            message = (
                f"{name} of a batch of images is not what it is image by image; look for a sum or mean over images "
                "(dimension -2 of z), or set independent_images = False where images are meant to depend on each other"
            )
            close(answer.value, expected, message, EXACT, EXACT)

    def test_particles_equal_loop(self) -> None:
        """Leading dimensions are as good as a loop over them."""
        prior = self._made(self.latents[-1])
        values = self._values(prior, (PARTICLES,))
        alone = [answers_of(prior, values.particle(index)) for index in range(PARTICLES)]
        for name, answer in answers_of(prior, values).items():
            expected = torch.stack([answers[name].value for answers in alone])
            message = f"{name} of particles is not what it is for each; count dimensions from the right (views are -3)"
            close(answer.value, expected, message, EXACT, EXACT)

    def test_order_of_views_does_not_matter(self) -> None:
        """Content and the marginal stay as they are, the views' own answers move along."""
        prior = self._made(self.latents[-1])
        values = self._values(prior)
        order = [2, 0, 1]
        permuted = answers_of(prior, values.permuted(order))
        for name, answer in answers_of(prior, values).items():
            expected = answer.value
            if answer.views == VIEWS:
                expected = expected.index_select(-2 - answer.event_dim, torch.tensor(order))
            message = f"{name} depends on the order of views, which the model leaves open; treat all views alike"
            close(permuted[name].value, expected, message, EXACT, EXACT)
