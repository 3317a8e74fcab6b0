"""The conformance suite of priors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_site_shape
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from pp_simve.inference import AmortizedGuide, MLPEncoder, StructuredGuide
from pp_simve.models import Bernoulli, ConjugatePrior, ExactPrior, MLPDecoder, Prior, QuadraticPrior, SimVE
from pp_simve.testing.checks import (
    check,
    check_finite_differences,
    check_five_steps,
    check_gradients,
    check_moves,
    check_no_plain_tensors,
    close,
    perturb,
    seeded,
    skip,
)
from pp_simve.testing.latents import (
    Values,
    answers_of,
    atom_of,
    atoms,
    expected_marginal,
    log_joint,
    log_joint_of_potentials,
    log_of_potentials,
    posteriors_of,
)
from pp_simve.testing.quadrature import Grid, bounds_of, check_draws, check_normalised, grid_for

# All different, so that no dimension passes for another.
PARTICLES, VIEWS, IMAGES = 5, 3, 4
IMAGE_SHAPE = (1, 4, 4)
# Tolerances in float64: of what differs by rounding only, and of a limit.
EXACT, LIMIT = 1e-7, 1e-4


class PriorSuite:
    """Checks of a prior of one's own: subclass it, say how to make one, and let pytest collect the subclass.

        class TestMyPrior(PriorSuite):
            def make(self, latent: int) -> MyPrior:
                return MyPrior(latent)

    Every check is in float64, on a few numbers, against quadrature, finite differences or the definition. Those that
    a prior's interface does not promise (`ExactPrior`, `ConjugatePrior`, `QuadraticPrior`) are skipped.

    Attributes:
        proper: whether content has a density that integrates to one; False where it is improper (`FlatPrior`).
        independent_images: whether an image's content does not depend on the images beside it; False where the
            candidates are those of the batch (`EmpiricalPrior` without a memory).
        latents: dimensions of z to try. Integrals are checked where content (or style) has at most two.
    """

    proper: ClassVar[bool] = True
    independent_images: ClassVar[bool] = True
    latents: ClassVar[tuple[int, ...]] = (1, 2)

    def make(self, latent: int) -> Prior:
        """A new prior of that many latent dimensions; where it starts at random, from the current random state."""
        raise NotImplementedError(f"{type(self).__name__} must define make(latent), which returns the prior to check")

    # Shapes

    def test_shapes(self) -> None:
        """Batches are plates, the last dimension is the only event."""
        for latent in self.latents:
            prior = self._made(latent)
            check(
                prior.latent == latent,
                f"make({latent}) gave a prior whose attribute latent is {prior.latent}, expected {latent}; "
                "pass it on: super().__init__(latent)",
            )
            for leading in ((), (PARTICLES,)):
                self._check_shapes(prior, leading)

    def _check_shapes(self, prior: Prior, leading: tuple[int, ...]) -> None:
        width = prior.content().event_shape
        content = self._contents(prior, (*leading, 1, IMAGES), torch.float64)
        _check_style(prior, content)
        if not leading:
            _check_style(prior, content.squeeze(0))  # as in the model, where content has no dimension of views
        values = self._values(prior, leading)
        for call, posterior in posteriors_of(prior, values).items():
            check(
                posterior.batch_shape == (*leading, 1, IMAGES) and posterior.event_shape == width,
                f"{call} has {_shapes(posterior)}, expected batch {(*leading, 1, IMAGES)} and event {tuple(width)}; "
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
        for latent in self.latents:
            prior = self._made(latent, torch.float32)
            model = SimVE(prior, Bernoulli(nn.Sequential(nn.Linear(latent, 4), nn.Unflatten(-1, (1, 2, 2)))))
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
                expected = (*leading, VIEWS, IMAGES, latent)
                check(z.shape == expected, f"z has shape {tuple(z.shape)} in the program, expected {expected}")

    # z from content and style

    def test_decompose_inverts_compose(self) -> None:
        """Each undoes the other."""
        for latent in self.latents:
            prior = self._made(latent)
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
        for latent in self.latents:
            prior = self._made(latent)
            values = self._values(prior, views=1, images=1)
            content, style = values.content, values.style
            jacobian: Any = torch.autograd.functional.jacobian(partial(prior.compose, content), style)
            matrix = jacobian.reshape(latent, style.shape[-1])
            check(
                matrix.shape[0] == matrix.shape[1],
                f"style has {style.shape[-1]} dimensions and z {latent}; expected as many, with unit Jacobian",
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
        for latent in self.latents:
            content = self._made(latent).content()
            checked |= check_normalised(content, f"content() with latent = {latent}")
        if not checked:
            skip("content has more than two dimensions for every latent in `latents`")

    def test_style_density_integrates_to_one(self) -> None:
        """By quadrature, for two contents."""
        checked = False
        for latent in self.latents:
            prior = self._made(latent)
            for content in self._contents(prior, (2, 1, 1), torch.float64):
                _check_style(prior, content)
                style = prior.style(content).expand((1, 1))
                checked |= check_normalised(style, f"style(content) with latent = {latent}")
        if not checked:
            skip("style has more than two dimensions for every latent in `latents`")

    def test_draws_follow_the_densities(self) -> None:
        """Of content, style and their posteriors, by their distribution functions."""
        checked = False
        for latent in self.latents:
            prior = self._made(latent)
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

    # Batches

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

    # Content given z

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
        for latent in self.latents:
            prior = self._exact(latent, ExactPrior)
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

    # Content and style given potentials

    def test_style_posterior_is_style_times_potential(self) -> None:
        """A diagonal Gaussian, proportional to p(style | content) N(z(content, style); z, 1/precision)."""
        for latent in self.latents:
            prior = self._exact(latent, ConjugatePrior)
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
        for latent in self.latents:
            prior = self._exact(latent, ConjugatePrior)
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

    def test_expected_marginal_equals_quadrature(self) -> None:
        """E[log p(z_1, z_2)] for Gaussian z by Gauss-Hermite, and log p(z_1, z_2) itself without variance."""
        checked = False
        for latent in self.latents:
            prior = self._exact(latent, QuadraticPrior)
            if latent > 3:
                continue
            values = self._values(prior, views=2, images=1)
            variance = values.precision.reciprocal()
            expected = expected_marginal(prior, values.z, variance)
            if expected is None:
                skip("expected_log_marginal raises TypeError: it has no closed form for these options")
            checked = True
            found, weights = np.polynomial.hermite_e.hermegauss(5)
            nodes = torch.cartesian_prod(*[torch.as_tensor(found)] * (2 * latent)).reshape(-1, 2, 1, latent)
            products = torch.cartesian_prod(*[torch.as_tensor(weights) / math.sqrt(2 * math.pi)] * (2 * latent))
            points = prior.log_marginal(values.z + variance.sqrt() * nodes).squeeze(-1)
            mean = (products.reshape(len(points), -1).prod(-1) * points).sum().reshape(1)
            message = "expected_log_marginal(z, variance), summed over axes, is not the mean of log_marginal"
            close(expected.sum(-1), mean, message, EXACT, EXACT)
            certain = prior.expected_log_marginal(values.z, torch.zeros_like(variance)).sum(-1)
            message = "expected_log_marginal(z, 0), summed over axes, is not log_marginal(z)"
            close(certain, prior.log_marginal(values.z), message, EXACT, EXACT)
        if not checked:
            skip("every latent in `latents` is above 3")

    # Moves, state, seeds

    def test_keeps_dtype(self) -> None:
        """float64 after .double(), float32 as made: draws and densities."""
        latent = self.latents[-1]
        with seeded():
            check_no_plain_tensors(self.make(latent))
        for dtype in (torch.float32, torch.float64):
            prior = self._made(latent, dtype)
            values = self._values(prior, dtype=dtype)
            for name, value in self._everything(prior, values).items():
                if name == "content().log_prob" and not self.proper:
                    continue  # Pyro's improper density is a plain zero, in the default dtype
                check(
                    value.dtype == dtype,
                    f"{name} is {value.dtype} in a prior of {dtype}; look for a tensor or cast of fixed dtype "
                    "(torch.tensor(...), .float()), and make constants buffers",
                )

    def test_moves_to_another_device(self) -> None:
        """Draws and densities are where the prior is."""

        def numbers(device: torch.device) -> dict[str, Tensor]:
            prior = self._made(self.latents[-1], torch.float32)
            values = self._values(prior, dtype=torch.float32).to(device)
            prior = prior.to(device)
            prior.remember(values.z)
            found = self._everything(prior, values)
            if not self.proper:
                del found["content().log_prob"]  # Pyro's improper density is a plain zero, on the CPU
            return found

        check_moves(numbers)

    def test_state_dict_holds_everything(self) -> None:
        """A second prior that loads it says the same, bit for bit."""
        latent = self.latents[-1]
        first, second = self._made(latent, seed=0), self._made(latent, seed=1)
        values = self._values(first)
        with seeded(2):
            perturb(first)
            first.train()
            first.remember(torch.randn_like(values.z))
            first.eval()
        try:
            second.load_state_dict(first.state_dict())
        except RuntimeError as error:
            raise AssertionError(f"the state_dict of one prior does not load into another: {error}") from error
        # Guides show the batch at hand to it before they ask, loaded or not.
        first.remember(values.z)
        second.remember(values.z)
        loaded = self._everything(second, values)
        for name, value in self._everything(first, values).items():
            check(
                torch.equal(value, loaded[name]),
                f"{name} differs after state_dict was loaded into a second prior, so a run could not be resumed; "
                "what is drawn at random, learned or remembered must be a parameter or a buffer",
            )

    def test_same_seed_same_numbers(self) -> None:
        """Building and drawing depend on torch's seed alone, and densities on nothing random."""
        latent = self.latents[-1]
        first, second = self._made(latent), self._made(latent)
        values = self._values(first)
        drawn, again = self._drawn(first, values), self._drawn(second, values)
        for name, value in drawn.items():
            check(
                torch.equal(value, again[name]),
                f"{name} differs between two priors made and drawn from under one seed; take all randomness from "
                "torch's global generator",
            )
        repeated = answers_of(first, values)
        for name, answer in answers_of(first, values).items():
            same = torch.equal(answer.value, repeated[name].value)
            check(same, f"{name} differs when asked twice; expected no noise in densities and means")

    # The whole

    def test_five_steps_of_a_fit(self) -> None:
        """Its losses are finite, its parameters move, with the guides that take such a prior."""
        latent = self.latents[-1]
        with seeded():
            kinds = self._guides(self.make(latent))
        if not kinds:
            skip("no guide of the package takes it: it is no ExactPrior, and content is bounded or not as wide as z")
        for kind in kinds:
            with seeded():
                prior = self.make(latent)
                model = SimVE(prior, Bernoulli(MLPDecoder(latent, IMAGE_SHAPE, hidden=(8,))))
                guide = kind(MLPEncoder(IMAGE_SHAPE, hidden=(8,)), prior)
            check_five_steps(prior, model, guide, IMAGE_SHAPE)

    def _guides(self, prior: Prior) -> list[Any]:
        kinds: list[Any] = []
        if isinstance(prior, ExactPrior):
            kinds.append(AmortizedGuide)
        if isinstance(prior, ConjugatePrior):
            z = torch.zeros(VIEWS, IMAGES, prior.latent)
            prior.remember(z)
            if prior.content_posterior(z, torch.ones_like(z)).has_rsample:
                kinds.append(StructuredGuide)
        elif not kinds:
            content = prior.content()
            if content.event_shape == (prior.latent,) and bounds_of(content) == (None, None):
                kinds.append(StructuredGuide)
        return kinds

    def test_latent_below_one_is_refused(self) -> None:
        """With a ValueError, when the prior is made."""
        for latent in (0, -1):
            try:
                self.make(latent)
            except ValueError:
                continue
            except Exception as error:
                raise AssertionError(
                    f"make({latent}) raised {type(error).__name__} ({error}), expected a ValueError; call "
                    "super().__init__(latent) first, which refuses it"
                ) from error
            raise AssertionError(f"make({latent}) gave a prior without axes, expected a ValueError: super().__init__")

    # What the checks are made of

    def _made(self, latent: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Prior:
        """A prior in evaluation mode that was shown a batch, as guides do."""
        with seeded(seed):
            prior = self.make(latent).to(dtype)
            prior.train()
            prior.remember(torch.randn(2, IMAGES + 2, latent, dtype=dtype))
        prior.eval()
        content = prior.content()
        check(
            content.batch_shape == () and len(content.event_shape) == 1,
            f"content() has {_shapes(content)}, expected batch () and one event dimension; is a .to_event(1) missing, "
            "or are there plates in it?",
        )
        return prior

    def _exact(self, latent: int, kind: type[Any]) -> Any:
        """As `_made`; skips priors of another kind."""
        prior = self._made(latent)
        if not isinstance(prior, kind):
            skip(f"{type(prior).__name__} is no {kind.__name__}")
        return prior

    def _contents(self, prior: Prior, plates: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        content = prior.content()
        with seeded(1):
            if self.proper:
                try:
                    return content.expand(plates).sample().detach()
                except NotImplementedError as error:
                    message = f"content() cannot be drawn ({error}); set proper = False if its density is improper"
                    raise AssertionError(message) from error
            return torch.randn(*plates, *content.event_shape, dtype=dtype)

    def _values(
        self,
        prior: Prior,
        leading: tuple[int, ...] = (),
        views: int = VIEWS,
        images: int = IMAGES,
        dtype: torch.dtype = torch.float64,
    ) -> Values:
        content = self._contents(prior, (*leading, 1, images), dtype)
        _check_style(prior, content)
        with seeded(2):
            style = prior.style(content).expand((*leading, views, images)).sample().detach()
            z = prior.compose(content, style).detach()
            precision = torch.empty_like(z).uniform_(2.0, 20.0)
        return Values(content, style, z, precision)

    def _drawn(self, prior: Prior, values: Values) -> dict[str, Tensor]:
        """Draws of every distribution under a seed."""
        drawn = {}
        with seeded(8):
            if self.proper:
                drawn["content().sample()"] = prior.content().sample((IMAGES,))
            drawn["style(content).sample()"] = prior.style(values.content).sample()
            for call, posterior in posteriors_of(prior, values).items():
                drawn[f"{call}.sample()"] = posterior.sample()
            if isinstance(prior, ConjugatePrior):
                posterior = prior.style_posterior(values.content, values.z, values.precision)
                drawn["style_posterior(content, z, precision).sample()"] = posterior.sample()
        return drawn

    def _everything(self, prior: Prior, values: Values) -> dict[str, Tensor]:
        """Draws and answers."""
        return self._drawn(prior, values) | {name: answer.value for name, answer in answers_of(prior, values).items()}

    def _grids(
        self, kind: type[Any], views: tuple[int, ...], potentials: bool = False
    ) -> Iterator[tuple[Any, Values, Any, Grid]]:
        """A prior, latents of one image, content's posterior and a grid for it, wherever there is one."""
        found = False
        for latent in self.latents:
            prior = self._exact(latent, kind)
            for count in views:
                values = self._values(prior, views=count, images=1)
                posterior = prior.content_posterior(values.z, *([values.precision] if potentials else []))
                grid = grid_for(posterior)
                if grid is not None:
                    found = True
                    yield prior, values, posterior, grid
        if not found:
            skip("content has more than two dimensions for every latent in `latents`")


def _shapes(distribution: Any) -> str:
    return f"batch {tuple(distribution.batch_shape)} and event {tuple(distribution.event_shape)}"


def _check_style(prior: Prior, content: Tensor) -> None:
    """Checks that style given content is an event of one dimension, in plates that hold content's."""
    plates = content.shape[:-1]
    style = prior.style(content)
    try:
        held = torch.broadcast_shapes(style.batch_shape, plates) == plates
    except RuntimeError:
        held = False
    check(
        held and len(style.event_shape) == 1,
        f"style(content of shape {tuple(content.shape)}) has {_shapes(style)}, expected batch {tuple(plates)} and one "
        "event dimension; is a .to_event(1) missing?",
    )
