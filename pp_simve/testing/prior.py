"""The conformance suite of priors."""

from __future__ import annotations

import unittest
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from pp_simve.inference import AmortizedGuide, Guide, StructuredGuide
from pp_simve.models import ConjugatePrior, ExactPrior, Prior, QuadraticPrior, SimVE
from pp_simve.testing.checks import (
    DOUBLE,
    IMAGES,
    PARTICLES,
    VIEWS,
    Suite,
    TinyEncoder,
    check,
    check_density,
    check_dtype,
    check_finite_differences,
    close,
    grid_for,
    is_unbounded,
    must_run,
    must_sample_nothing,
    seeded,
    shapes,
    tiny_model,
    tiny_views,
)

ROUNDING = 1e-7


class Values(NamedTuple):
    """Latents of a batch, z composed of content and style, and precisions of potentials N(z_j; z, 1/precision)."""

    content: Tensor  # (..., 1, image, content)
    style: Tensor  # (..., view, image, style)
    z: Tensor  # (..., view, image, latent)
    precision: Tensor  # (..., view, image, latent)


class Answer(NamedTuple):
    """A result of a prior's method: shape ``(..., *views, image, *event)``, views being (view,), (1,) or ()."""

    value: Tensor
    views: tuple[int, ...]
    event: tuple[int, ...]


class PriorSuite(Suite[Any]):
    """Conformance suite of priors: subclass it, define how to make one, and let pytest collect the subclass.

        class TestMyPrior(PriorSuite):
            def make(self, latent_dim: int) -> MyPrior:
                return MyPrior(latent_dim)

    Numbers are compared in float64, on small batches, with quadrature, finite differences or the definition. Checks of
    what a prior's interface does not promise (`ExactPrior`, `ConjugatePrior`, `QuadraticPrior`) are skipped; content
    may be improper or depend on the batch where the prior's `proper` and `depends_on_batch` say so.

    Attributes:
        latents: dimensions of z to try. Integrals are checked where content (or style) has one.
    """

    latents: ClassVar[tuple[int, ...]] = (1, 2)

    @abstractmethod
    def make(self, latent_dim: int) -> Prior:
        """A new prior of that many latent dimensions; where it starts at random, from the current random state."""

    # Interface

    def test_latent_below_one_is_refused(self) -> None:
        """With a ValueError, when the prior is made."""
        for latent_dim in (0, -1):
            with suppress(ValueError):
                self.make(latent_dim)
                raise AssertionError(f"make({latent_dim}) gave a prior without axes, expected a ValueError")

    def test_properties_are_those_of_draws(self) -> None:
        """`proper` exactly where content can be drawn; `axis_variances`, where given, are second moments of z."""
        for prior in self._priors():
            try:
                prior.content().sample()
                drawn = "works"
            except NotImplementedError:
                drawn = "raises NotImplementedError"
            check(prior.proper == (drawn == "works"), f"proper is {prior.proper}, but content().sample() {drawn}")
            variances = prior.axis_variances()
            if variances is None:
                continue
            with seeded(3), torch.no_grad():
                content = prior.content().sample((1, 20_000))
                first, second = prior.compose(content, prior.style(content).expand((2, 20_000)).sample())
            found = ((first * second).mean(0), 0.5 * (first - second).square().mean(0))
            for name, value, expected in zip(("content", "style"), found, variances, strict=True):
                message = f"axis_variances() of {name} is {expected.tolist()}, of draws in axes of z {value.tolist()}"
                check(value.shape == expected.shape, message)
                check(((value - expected).abs() < 0.06 * (found[0].abs() + found[1])).all(), message)

    def test_shapes(self) -> None:
        """Batches are plates, the last dimension is the only event, and `SimVE` passes Pyro's validation."""
        for prior in self._priors():
            for leading in ((), (PARTICLES,)):
                values = self._values(prior, leading)
                if not leading:
                    _check_style(prior, values.content.squeeze(0))  # as in the model: content has no dimension of views
                for name, answer in self._answers(prior, values).items():
                    expected = (*leading, *answer.views, IMAGES, *answer.event)
                    shape = tuple(answer.value.shape)
                    advice = "views are dimension -3 of z, images -2; sum over views with keepdim=True"
                    check(shape == expected, f"{name} has shape {shape}, expected {expected}: {advice}")
            if prior.proper:
                needed = "distributions whose batch the plates can hold"
                with must_run("the program with this prior", needed), pyro.validation_enabled(True), seeded():
                    run = partial(nn.Module.__call__, tiny_model(prior).double())
                    poutine.trace(run).get_trace(tiny_views(VIEWS)).compute_log_prob()

    def test_batch_equals_loop(self) -> None:
        """What it computes for an image, or a particle, does not depend on those beside it."""
        prior = self._part()
        values = self._values(prior, (PARTICLES,))
        whole = self._answers(prior, values)
        alone = [self._answers(prior, Values(*(value[index] for value in values))) for index in range(PARTICLES)]
        for name, answer in whole.items():
            message = f"{name} of particles is not what it is for each; count dimensions from the right (views are -3)"
            close(answer.value, torch.stack([answers[name].value for answers in alone]), message)
        for image in () if prior.depends_on_batch else (0, IMAGES - 1):
            batch = Values(*(value[..., image : image + 1, :] for value in values))
            prior.remember(batch.z)
            for name, answer in self._answers(prior, batch).items():
                expected = whole[name].value.narrow(-1 - len(answer.event), image, 1)
                message = (
                    f"{name} of a batch is not what it is image by image; if on purpose, let depends_on_batch be True"
                )
                close(answer.value, expected, message)

    def test_order_of_views_does_not_matter(self) -> None:
        """Content and the marginal stay as they are, what is computed by view moves along."""
        prior = self._part()
        values, order = self._values(prior), torch.tensor([2, 0, 1])
        permuted = self._answers(prior, Values(values.content, *(value[..., order, :, :] for value in values[1:])))
        for name, (value, views, event) in self._answers(prior, values).items():
            expected = value.index_select(-2 - len(event), order) if views == (VIEWS,) else value
            close(permuted[name].value, expected, f"{name} depends on the order of views, expected them exchangeable")

    # z from content and style, and densities

    def test_compose_keeps_volume_and_decompose_inverts_it(self) -> None:
        """|det ∂z/∂style| = 1: guides take the density of z for that of style."""
        for prior in self._priors():
            content, style, z, _ = self._values(prior, (PARTICLES,))
            message = "decompose(content, compose(content, style)) is not style"
            close(prior.decompose(content, z), style, message, ROUNDING)
            z = z.flip(0)
            message = "compose(content, decompose(content, z)) is not z"
            close(prior.compose(content, prior.decompose(content, z)), z, message, ROUNDING)
            content, style, _, _ = self._values(prior, views=1, images=1)
            jacobian: Any = torch.autograd.functional.jacobian(partial(prior.compose, content), style)
            factor = float(jacobian.reshape(prior.latent_dim, prior.latent_dim).det().abs())
            advice = "scale style in its own density instead of in compose"
            check(abs(factor - 1) < 1e-7, f"compose changes volume by the factor {factor:.4g}, expected 1: {advice}")

    def test_densities_are_normalized_and_followed_by_draws(self) -> None:
        """Content, style given two contents, and content's posteriors: by quadrature, or the sum over the support."""
        checked = False
        for prior in self._priors():
            within = f"with latent_dim = {prior.latent_dim}"
            if prior.proper:
                checked |= check_density(prior.content(), f"content() {within}")
            for content in self._contents(prior, (2, 1, 1)):
                checked |= check_density(_check_style(prior, content).expand((1, 1)), f"style(content) {within}")
            for call, posterior in _posteriors(prior, self._values(prior, images=1)).items():
                checked |= check_density(posterior, f"{call} {within}")
        if not checked:
            raise unittest.SkipTest("content and style have more than one dimension for every size in `latents`")

    def test_gradients_equal_finite_differences(self) -> None:
        """Of every density and mean, with respect to parameters, z and precision."""
        prior = self._part()
        values = self._values(prior)
        z, precision = (value.clone().requires_grad_() for value in (values.z, values.precision))
        atoms = _atoms(prior)
        which = None if atoms is None else (values.content.unsqueeze(-2) == atoms).all(-1).to(torch.uint8).argmax(-1)

        def functions() -> dict[str, Tensor]:
            atoms = _atoms(prior)  # discrete content moves with its support
            content = values.content if atoms is None else atoms[which]
            answers = self._answers(prior, Values(content, values.style, z, precision))
            return {name: answer.value for name, answer in answers.items()}

        check_finite_differences(functions, (z, precision, *prior.parameters()))
        with seeded():
            total = torch.stack([(value * torch.rand_like(value)).sum() for value in functions().values()]).sum()
        for name, parameter in self._trained(prior).items():
            gradient: Any = torch.autograd.grad(total, parameter, retain_graph=True, allow_unused=True)[0]
            check(gradient is not None and (gradient != 0).any(), f"no density or mean depends on parameter {name}")

    # Closed forms

    def test_marginal_and_posterior_are_those_of_the_joint(self) -> None:
        """log p(z) = log p(content) + Σ_j log p(z_j | content) − log p(content | z) for any content (Bayes' rule).

        On a grid also log p(z) = log ∫ p(content) Π_j p(z_j | content) d content, and the posterior's mean. With
        potentials, p(z_j | content) is replaced by ∫ p(z_j | content) N(z_j; z, 1/precision) dz_j.
        """
        for prior in self._priors(ExactPrior):
            for views in (1, VIEWS):
                values = self._values(prior, views=views, images=1)
                for given in _given(prior, values):
                    call = f"({'z, precision' if given else 'z'}) of {views} view(s)"
                    marginal, posterior = (
                        prior.log_marginal(values.z, *given),
                        prior.content_posterior(values.z, *given),
                    )
                    with seeded(6):
                        contents = (values.content, posterior.sample())
                    for content in contents:
                        log_joint = _log_joint(prior, content, values.z, *given)
                        message = (
                            f"log_marginal{call} is not the log joint density less that of content_posterior{call}"
                        )
                        close(log_joint - posterior.log_prob(content).squeeze(-2), marginal, message, ROUNDING)
                    if (grid := grid_for(posterior)) is not None:
                        log_joint = _log_joint(prior, grid.points[:, None, None], values.z, *given).squeeze(-1)
                        log_masses = log_joint + grid.log_weights
                        message = f"log_marginal{call} is not log ∫ p(content) Π_j p(z_j | content) d content"
                        close(marginal, log_masses.logsumexp(0).reshape(1), message, grid.accuracy)
                        mean = (log_masses.softmax(0)[:, None] * grid.points).sum(0)
                        message = f"content_posterior{call}.mean is not the mean of its density"
                        close(posterior.mean.reshape(-1), mean, message, grid.accuracy)

    def test_style_posterior_is_style_times_potential(self) -> None:
        """A diagonal Gaussian, proportional to p(style | content) N(z(content, style); z, 1/precision)."""
        for prior in self._priors(ConjugatePrior):
            content, style, z, precision = self._values(prior)
            posterior = prior.style_posterior(content, z, precision)
            check(
                isinstance(posterior, Independent) and isinstance(posterior.base_dist, Normal),
                f"style_posterior is a {type(posterior).__name__}, expected a diagonal Gaussian: Normal().to_event(1)",
            )
            message = "style_posterior is not proportional to p(style | content) N(compose(...); z, 1/precision)"
            expected = _log_of_potentials(prior, content, posterior.mean, z, precision)
            close(_log_of_potentials(prior, content, style, z, precision), expected, message, ROUNDING)

    def test_expected_marginal_equals_quadrature(self) -> None:
        """E[log p(z_1, z_2)] for Gaussian z by Gauss-Hermite, and log p(z_1, z_2) itself without variance."""
        for prior in self._priors(QuadraticPrior):
            _, _, z, precision = self._values(prior, views=2, images=1)
            # Three nodes an axis are exact for polynomials up to the fifth degree.
            found, weights = (torch.as_tensor(values) for values in np.polynomial.hermite_e.hermegauss(3))
            nodes = torch.cartesian_prod(*[found] * z.numel()).reshape(-1, *z.shape)
            products = torch.cartesian_prod(*[weights / weights.sum()] * z.numel()).prod(-1)
            for variance in (precision.reciprocal(), torch.zeros_like(z)):
                expected = _expected_marginal(prior, z, variance)
                if expected is None:
                    raise unittest.SkipTest("expected_log_marginal raises TypeError: no closed form for these options")
                mean = (products * prior.log_marginal(z + variance.sqrt() * nodes).squeeze(-1)).sum().reshape(1)
                message = "expected_log_marginal(z, variance), summed over axes, is not the mean of log_marginal"
                close(expected.sum(-1), mean, message, ROUNDING)

    # What the checks run on

    def _new(self) -> Prior:
        return self.make(self.latents[-1])

    def _part(self, seed: int = 0, dtype: torch.dtype = DOUBLE, latent_dim: int | None = None) -> Any:
        """A prior in evaluation mode that was shown a batch, as guides do."""
        latent_dim = latent_dim or self.latents[-1]
        with seeded(seed):
            prior = self.make(latent_dim).to(dtype).train()
            prior.remember(torch.randn(2, IMAGES + 2, latent_dim, dtype=dtype))
        with must_sample_nothing("content()"):
            found, content = prior.latent_dim, prior.content()
        check(found == latent_dim, f"make({latent_dim}) gave a prior with latent_dim = {found}: super().__init__")
        check(
            content.batch_shape == () and len(content.event_shape) == 1,
            f"content() has {shapes(content)}, expected batch () and one event dimension, by .to_event(1)",
        )
        return prior.eval()

    def _priors(self, interface: type[Any] = Prior) -> Iterator[Any]:
        """One of each size in `latents`; skips the check where they are of another interface."""
        for latent_dim in self.latents:
            prior = self._part(latent_dim=latent_dim)
            if not isinstance(prior, interface):
                raise unittest.SkipTest(f"{type(prior).__name__} is no {interface.__name__}")
            yield prior

    def _contents(self, prior: Prior, plates: tuple[int, ...], dtype: torch.dtype = DOUBLE) -> Tensor:
        content = prior.content()
        with seeded(1):
            if not prior.proper:
                return torch.randn(*plates, *content.event_shape, dtype=dtype)
            drawn: Tensor = content.expand(plates).sample()
            check_dtype("content().sample()", drawn, dtype)  # else every check fails, by rounding or in a network
            return drawn.detach()

    def _values(
        self,
        prior: Any,
        leading: tuple[int, ...] = (),
        views: int = VIEWS,
        images: int = IMAGES,
        dtype: torch.dtype = DOUBLE,
    ) -> Values:
        content = self._contents(prior, (*leading, 1, images), dtype)
        with seeded(2):
            style = _check_style(prior, content).expand((*leading, views, images)).sample().detach()
            z = prior.compose(content, style).detach()
            return Values(content, style, z, torch.empty_like(z).uniform_(2.0, 20.0))

    def _answers(self, prior: Any, values: Values) -> dict[str, Answer]:
        """All that a prior computes of these values."""
        content, style, z, precision = values
        views, axes = (z.shape[-3],), (prior.latent_dim,)
        of_style = prior.style(content).expand(z.shape[:-1])
        answers = {
            "compose(content, style)": Answer(prior.compose(content, style), views, axes),
            "decompose(content, z)": Answer(prior.decompose(content, z), views, of_style.event_shape),
            "style(content).log_prob": Answer(of_style.log_prob(style), views, ()),
        }
        if prior.proper:  # Pyro's improper density is a plain zero, on the CPU, in the default dtype
            of_content = prior.content().expand(content.shape[:-1])
            answers["content().log_prob"] = Answer(of_content.log_prob(content), (1,), ())
        for call, posterior in _posteriors(prior, values).items():
            answers[f"{call}.mean"] = Answer(posterior.mean, (1,), content.shape[-1:])
            answers[f"{call}.log_prob"] = Answer(posterior.log_prob(content), (1,), ())
        if isinstance(prior, ExactPrior):
            answers["log_marginal(z)"] = Answer(prior.log_marginal(z), (), ())
        if isinstance(prior, ConjugatePrior):
            call, posterior = "style_posterior(content, z, precision)", prior.style_posterior(content, z, precision)
            answers["log_marginal(z, precision)"] = Answer(prior.log_marginal(z, precision), (), ())
            answers[f"{call}.mean"] = Answer(posterior.mean, views, of_style.event_shape)
            answers[f"{call}.log_prob"] = Answer(posterior.log_prob(style), views, ())
        expected = _expected_marginal(prior, z, precision.reciprocal())
        if expected is not None:
            answers["expected_log_marginal(z, variance)"] = Answer(expected, (), axes)
        return answers

    def _inputs(self, part: Any, dtype: torch.dtype = DOUBLE) -> Values:
        return self._values(part, dtype=dtype)

    def _outputs(self, part: Any, *inputs: Tensor) -> dict[str, Tensor]:
        values = Values(*inputs)
        part.remember(values.z)  # as guides do before anything else
        of = {"style(content)": part.style(values.content), **_posteriors(part, values)}
        if part.proper:
            of["content()"] = part.content().expand((IMAGES,))
        with seeded(8):
            drawn = {f"{call}.sample()": distribution.sample() for call, distribution in of.items()}
        return drawn | {name: answer.value for name, answer in self._answers(part, values).items()}

    def _fits(self, part: Any) -> list[tuple[SimVE, Guide, None]]:
        """With the guides that take such a prior."""
        fits: list[tuple[SimVE, Guide, None]] = []
        content = part.content()
        with seeded(), suppress(ValueError):  # of StructuredGuide, where content is not as wide as z
            if isinstance(part, ExactPrior):
                fits.append((tiny_model(part), AmortizedGuide(TinyEncoder(), part), None))
            if not content.has_enumerate_support and is_unbounded(content):
                fits.append((tiny_model(part), StructuredGuide(TinyEncoder(), part), None))
        return fits


def _check_style(prior: Prior, content: Tensor) -> TorchDistribution:
    """Style given content, an event of one dimension, in plates that hold content's."""
    plates, call = content.shape[:-1], f"style(content of shape {tuple(content.shape)})"
    expected = f"batch {tuple(plates)} and one event dimension, by .to_event(1)"
    with must_run(call, expected), must_sample_nothing(call):
        style = prior.style(content)
        held = torch.broadcast_shapes(style.batch_shape, plates) == plates
    check(held and len(style.event_shape) == 1, f"{call} has {shapes(style)}, expected {expected}")
    return style


def _given(prior: Prior, values: Values) -> list[tuple[Tensor, ...]]:
    """What may follow z in calls for content's posterior: nothing, or a precision."""
    return [(), (values.precision,)] if isinstance(prior, ConjugatePrior) else [()]


def _posteriors(prior: Any, values: Values) -> dict[str, TorchDistribution]:
    """Those of content that the prior promises, by call."""
    if not isinstance(prior, ExactPrior):
        return {}
    calls = ("content_posterior(z)", "content_posterior(z, precision)")
    given = _given(prior, values)
    return {call: prior.content_posterior(values.z, *more) for call, more in zip(calls, given, strict=False)}


def _expected_marginal(prior: Prior, z: Tensor, variance: Tensor) -> Tensor | None:
    """The expected marginal, None where there is none."""
    if isinstance(prior, QuadraticPrior):
        with suppress(TypeError):  # of a prior made of others one of which has no closed form
            return prior.expected_log_marginal(z, variance)
    return None


def _atoms(prior: Prior) -> Tensor | None:
    """The support of discrete content, shape ``(K, content)``; None where content is continuous."""
    content = prior.content()
    return content.enumerate_support(expand=False) if content.has_enumerate_support else None


def _log_style(prior: Prior, content: Tensor, style: Tensor, z: Tensor) -> Tensor:
    """log p(style | content) of each view."""
    plates = torch.broadcast_shapes(content.shape[:-1], z.shape[:-1])
    log_prob: Tensor = prior.style(content).expand(plates).log_prob(style)
    return log_prob


def _log_of_potentials(prior: Any, content: Tensor, style: Tensor, z: Tensor, precision: Tensor) -> Tensor:
    """log ∫ p(style | content) N(compose(content, style); z, 1/precision) d style of each view: any style will do."""
    potential = Normal(z, precision.rsqrt()).log_prob(prior.compose(content, style)).sum(-1)
    posterior = prior.style_posterior(content, z, precision).log_prob(style)
    return _log_style(prior, content, style, z) + potential - posterior


def _log_joint(prior: Any, content: Tensor, z: Tensor, precision: Tensor | None = None) -> Tensor:
    """log p(content) + Σ_j log p(z_j, or its potential | content), shape ``(..., image)``."""
    if precision is None:
        of_views = _log_style(prior, content, prior.decompose(content, z), z)
    else:
        style = prior.style_posterior(content, z, precision).mean
        of_views = _log_of_potentials(prior, content, style, z, precision)
    of_content: Tensor = prior.content().expand(content.shape[:-1]).log_prob(content)
    return of_content.squeeze(-2) + of_views.sum(-2)
