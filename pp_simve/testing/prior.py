"""The conformance suite of priors."""

from __future__ import annotations

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
from torch import Tensor
from torch.distributions import Independent, Normal

from pp_simve.inference import AmortizedGuide, Guide, StructuredGuide
from pp_simve.models import ConjugatePrior, ExactPrior, Prior, QuadraticPrior, SimVE
from pp_simve.testing.checks import (
    DOUBLE,
    EXACT,
    IMAGES,
    PARTICLES,
    VIEWS,
    Grid,
    Suite,
    TinyEncoder,
    check,
    check_draws,
    check_finite_differences,
    check_normalized,
    close,
    grid_for,
    is_unbounded,
    must_run,
    program,
    seeded,
    skip,
    tiny_model,
    tiny_views,
)

ROUNDING = (1e-7, 1e-7)
TOO_WIDE = "content and style have more than two dimensions for every latent dimension in `latents`"


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
    """Checks of a prior of your own: subclass it, define how to make one, and let pytest collect the subclass.

        class TestMyPrior(PriorSuite):
            def make(self, latent_dim: int) -> MyPrior:
                return MyPrior(latent_dim)

    Numbers are compared in float64, on small batches, with quadrature, finite differences or the definition. Checks of
    what a prior's interface does not promise (`ExactPrior`, `ConjugatePrior`, `QuadraticPrior`) are skipped.

    Attributes:
        proper: whether content has a density that integrates to one; False where it is improper (`FlatPrior`).
        independent_images: whether an image's content does not depend on the images beside it; False where the
            candidates are those of the batch (`EmpiricalPrior` without a memory).
        latents: dimensions of z to try. Integrals are checked where content (or style) has at most two.
    """

    proper: ClassVar[bool] = True
    independent_images: ClassVar[bool] = True
    latents: ClassVar[tuple[int, ...]] = (1, 2)

    @abstractmethod
    def make(self, latent_dim: int) -> Prior:
        """A new prior of that many latent dimensions; where it starts at random, from the current random state."""

    # Shapes and batches

    def test_latent_below_one_is_refused(self) -> None:
        """With a ValueError, when the prior is made."""
        for latent_dim in (0, -1):
            try:
                self.make(latent_dim)
                outcome = "gave a prior without axes"
            except ValueError:
                continue
            except Exception as error:
                outcome = f"raised {type(error).__name__} ({error})"
            raise AssertionError(
                f"make({latent_dim}) {outcome}, expected a ValueError; call super().__init__(latent_dim) first"
            )

    def test_shapes(self) -> None:
        """Batches are plates, the last dimension is the only event."""
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

    def test_runs_in_the_program(self) -> None:
        """`SimVE` runs with it under Pyro's validation, with and without particles."""
        if not self.proper:
            skip("content cannot be drawn from an improper prior")
        for prior in self._priors():
            for particles in (None, PARTICLES):
                expected = "distributions with one event dimension whose batch the plates can hold"
                with must_run("the program with this prior", expected), pyro.validation_enabled(True), seeded():
                    trace = poutine.trace(program(tiny_model(prior).double(), particles)).get_trace(tiny_views(VIEWS))
                    trace.compute_log_prob()
                shape = (*(() if particles is None else (particles,)), VIEWS, IMAGES, prior.latent_dim)
                z: Any = trace.nodes["z"]["value"]
                check(z.shape == shape, f"z has shape {tuple(z.shape)} in the program, expected {shape}")

    def test_batch_equals_loop(self) -> None:
        """What it computes for an image does not depend on the images beside it."""
        prior = self._part()
        values = self._values(prior)
        found = []
        for image in (slice(None), *(slice(image, image + 1) for image in range(IMAGES))):
            batch = Values(*(value[..., image, :] for value in values))
            if self.independent_images:
                prior.remember(batch.z)
            found.append(self._answers(prior, batch))
        for name, answer in found[0].items():
            expected = torch.cat([answers[name].value for answers in found[1:]], -1 - len(answer.event))
            message = (
                f"{name} of a batch is not what it is image by image; look for a sum or mean over images (dimension -2 "
                "of z), or set independent_images = False where images are meant to depend on each other"
            )
            close(answer.value, expected, message, *EXACT)

    def test_particles_equal_loop(self) -> None:
        """Leading dimensions are as good as a loop over them."""
        prior = self._part()
        values = self._values(prior, (PARTICLES,))
        alone = [self._answers(prior, Values(*(value[index] for value in values))) for index in range(PARTICLES)]
        for name, answer in self._answers(prior, values).items():
            expected = torch.stack([answers[name].value for answers in alone])
            message = f"{name} of particles is not what it is for each; count dimensions from the right (views are -3)"
            close(answer.value, expected, message, *EXACT)

    def test_order_of_views_does_not_matter(self) -> None:
        """Content and the marginal stay as they are, what is computed by view moves along."""
        prior = self._part()
        values, order = self._values(prior), torch.tensor([2, 0, 1])
        permuted = self._answers(prior, Values(values.content, *(value[..., order, :, :] for value in values[1:])))
        for name, (value, views, event) in self._answers(prior, values).items():
            expected = value.index_select(-2 - len(event), order) if views == (VIEWS,) else value
            message = f"{name} depends on the order of views. Expected views to be exchangeable"
            close(permuted[name].value, expected, message, *EXACT)

    # z from content and style

    def test_decompose_inverts_compose(self) -> None:
        """Each undoes the other."""
        for prior in self._priors():
            content, style, _, _ = self._values(prior, (PARTICLES,))
            message = "decompose(content, compose(content, style)) is not style; write one as the inverse of the other"
            close(prior.decompose(content, prior.compose(content, style)), style, message, *ROUNDING)
            with seeded(5):
                z = torch.randn_like(prior.compose(content, style))
            message = "compose(content, decompose(content, z)) is not z; write one as the inverse of the other"
            close(prior.compose(content, prior.decompose(content, z)), z, message, *ROUNDING)

    def test_compose_keeps_volume(self) -> None:
        """|det ∂z/∂style| = 1: guides take the density of z for that of style."""
        for prior in self._priors():
            content, style, _, _ = self._values(prior, views=1, images=1)
            jacobian: Any = torch.autograd.functional.jacobian(partial(prior.compose, content), style)
            matrix = jacobian.reshape(prior.latent_dim, style.shape[-1])
            rows, columns = matrix.shape
            check(rows == columns, f"style has {columns} dimensions and z {rows}, expected as many")
            factor = float(matrix.det().abs())
            advice = "scale style in its own density instead of in compose"
            check(abs(factor - 1) < 1e-7, f"compose changes volume by the factor {factor:.4g}, expected 1: {advice}")

    # Densities

    def test_densities_integrate_to_one(self) -> None:
        """Of content, and of style given two contents: by quadrature, or by the sum over the support."""
        checked = False
        for prior in self._priors():
            within = f"with latent_dim = {prior.latent_dim}"
            if self.proper:
                checked |= check_normalized(prior.content(), f"content() {within}")
            for content in self._contents(prior, (2, 1, 1)):
                checked |= check_normalized(_check_style(prior, content).expand((1, 1)), f"style(content) {within}")
        if not checked:
            skip(TOO_WIDE)

    def test_draws_follow_the_densities(self) -> None:
        """Of content, style and content's posteriors, by their distribution functions."""
        checked = False
        for prior in self._priors():
            values = self._values(prior, images=1)
            if self.proper:
                checked |= check_draws(prior.content(), "content()")
            checked |= check_draws(prior.style(values.content[..., :1, :, :]).expand((1, 1)), "style(content)")
            for call, posterior in _posteriors(prior, values).items():
                checked |= check_draws(posterior, call)
        if not checked:
            skip(TOO_WIDE)

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

    # Closed forms

    def test_marginal_and_posterior_equal_quadrature(self) -> None:
        """log p(z) = log ∫ p(content) Π_j p(z_j | content) d content on a grid; the posterior is its integrand.

        With potentials, p(z_j | content) is replaced by ∫ p(z_j | content) N(z_j; z, 1/precision) dz_j.
        """
        for prior, values, given, grid in self._grids():
            call, views = ("(z, precision)" if given else "(z)"), f"of {len(values.z)} view(s)"
            integrand = "p(content) Π_j p(z_j, or its potential | content)"
            joint = _log_joint(prior, grid.points[:, None, None], values.z, *given).squeeze(-1)
            evidence, posterior = grid.log_integral(joint), prior.content_posterior(values.z, *given)
            message = f"log_marginal{call} {views} is not log ∫ {integrand}"
            close(prior.log_marginal(values.z, *given), evidence.reshape(1), message, grid.accuracy, grid.accuracy)
            expected = joint - evidence
            seen = expected > expected.max() - 20
            message = f"content_posterior{call} {views} is not {integrand}, normalized"
            close(grid.log_density(posterior)[seen], expected[seen], message, grid.accuracy, grid.accuracy)
            mean = ((expected + grid.log_weights).exp()[:, None] * grid.points).sum(0)
            message = f"content_posterior{call}.mean {views} is not the mean of its density"
            close(posterior.mean.reshape(-1), mean, message, grid.accuracy, grid.accuracy)

    def test_posterior_is_joint_over_marginal(self) -> None:
        """Bayes' rule, in any dimension: log p(content, z) − log p(content | z) = log p(z) for any content."""
        for prior in self._priors(ExactPrior):
            values = self._values(prior)
            for given in _given(prior, values):
                posterior, expected = prior.content_posterior(values.z, *given), prior.log_marginal(values.z, *given)
                with seeded(6):
                    contents = (values.content, posterior.sample())
                for content in contents:
                    joint = _log_joint(prior, content, values.z, *given)
                    message = (
                        "log_marginal is not log p(content) + Σ_j log p(z_j | content) − log content_posterior, given "
                        f"{'z and a precision' if given else 'z'}"
                    )
                    close(joint - posterior.log_prob(content).squeeze(-2), expected, message, *ROUNDING)

    def test_style_posterior_is_style_times_potential(self) -> None:
        """A diagonal Gaussian, proportional to p(style | content) N(z(content, style); z, 1/precision)."""
        for prior in self._priors(ConjugatePrior):
            content, style, z, precision = self._values(prior)
            posterior = prior.style_posterior(content, z, precision)
            check(
                isinstance(posterior, Independent) and isinstance(posterior.base_dist, Normal),
                f"style_posterior is a {type(posterior).__name__}, expected a diagonal Gaussian: Normal().to_event(1)",
            )
            with seeded(6):
                styles = (posterior.mean, style, posterior.sample(), torch.randn_like(style))
            ratios = [_log_of_potentials(prior, content, style, z, precision) for style in styles]
            message = "style_posterior is not proportional to p(style | content) N(compose(...); z, 1/precision)"
            for ratio in ratios[1:]:
                close(ratio, ratios[0], message, *ROUNDING)

    def test_certain_potentials_are_known_z(self) -> None:
        """With a very large precision all is what it is for z itself."""
        prior = next(self._priors(ConjugatePrior))
        z = self._values(prior).z
        message = "with precision 1e10 {} is not what it is without a precision"
        for name, call in {
            "log_marginal": prior.log_marginal,
            "content_posterior(...).mean": lambda *given: prior.content_posterior(*given).mean,
        }.items():
            close(call(z, torch.full_like(z, 1e10)), call(z), message.format(name), 1e-4, 1e-4)

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
                    skip("expected_log_marginal raises TypeError: it has no closed form for these options")
                mean = (products * prior.log_marginal(z + variance.sqrt() * nodes).squeeze(-1)).sum().reshape(1)
                message = "expected_log_marginal(z, variance), summed over axes, is not the mean of log_marginal"
                close(expected.sum(-1), mean, message, *ROUNDING)

    # What the checks run on

    def _new(self) -> Prior:
        return self.make(self.latents[-1])

    def _part(self, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Any:
        return self._made(self.latents[-1], seed, dtype)

    def _made(self, latent_dim: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Any:
        """A prior in evaluation mode that was shown a batch, as guides do."""
        with seeded(seed):
            prior = self.make(latent_dim).to(dtype).train()
            prior.remember(torch.randn(2, IMAGES + 2, latent_dim, dtype=dtype))
        found, content = prior.latent_dim, prior.content()
        check(found == latent_dim, f"make({latent_dim}) gave a prior with latent_dim = {found}: super().__init__")
        check(
            content.batch_shape == () and len(content.event_shape) == 1,
            f"content() has {_shapes(content)}, expected batch () and one event dimension; is a .to_event(1) missing, "
            "or are there plates in it?",
        )
        return prior.eval()

    def _priors(self, kind: type[Any] = Prior) -> Iterator[Any]:
        """One of each size in `latents`; skips the check where they are of another interface."""
        for latent_dim in self.latents:
            prior = self._made(latent_dim)
            if not isinstance(prior, kind):
                skip(f"{type(prior).__name__} is no {kind.__name__}")
            yield prior

    def _contents(self, prior: Prior, plates: tuple[int, ...], dtype: torch.dtype = DOUBLE) -> Tensor:
        content = prior.content()
        with seeded(1):
            if not self.proper:
                return torch.randn(*plates, *content.event_shape, dtype=dtype)
            with must_run("a draw of content()", "one; set proper = False if its density is improper"):
                drawn: Tensor = content.expand(plates).sample()
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
        of_content = prior.content().expand(content.shape[:-1])
        of_style = prior.style(content).expand(z.shape[:-1])
        answers = {
            "compose(content, style)": Answer(prior.compose(content, style), views, axes),
            "decompose(content, z)": Answer(prior.decompose(content, z), views, of_style.event_shape),
            "style(content).log_prob": Answer(of_style.log_prob(style), views, ()),
        }
        if self.proper:  # Pyro's improper density is a plain zero, on the CPU, in the default dtype
            answers["content().log_prob"] = Answer(of_content.log_prob(content), (1,), ())
        for call, posterior in _posteriors(prior, values).items():
            answers[f"{call}.mean"] = Answer(posterior.mean, (1,), of_content.event_shape)
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
        if self.proper:
            of["content()"] = part.content().expand((IMAGES,))
        if isinstance(part, ConjugatePrior):
            of["style_posterior(content, z, precision)"] = part.style_posterior(*values[:1], *values[2:])
        with seeded(8):
            drawn = {f"{call}.sample()": distribution.sample() for call, distribution in of.items()}
        return drawn | {name: answer.value for name, answer in self._answers(part, values).items()}

    def _loss(self, part: Any) -> Tensor:
        """−log p(content, z) − log p(z)."""
        values = self._values(part)
        total = -_log_joint(part, values.content, values.z).sum()
        if isinstance(part, ExactPrior):
            total = total - part.log_marginal(values.z).sum()
        return total

    def _fits(self) -> list[tuple[Prior, SimVE, Guide, None]]:
        """With the guides that take such a prior."""
        fits: list[tuple[Prior, SimVE, Guide, None]] = []
        for kind in (AmortizedGuide, StructuredGuide):
            prior = self._part(dtype=torch.float32)
            content = prior.content()
            free = not content.has_enumerate_support and is_unbounded(content)
            if isinstance(prior, ExactPrior) if kind is AmortizedGuide else free:
                with seeded(), suppress(ValueError):  # of StructuredGuide, where content is not as wide as z
                    fits.append((prior, tiny_model(prior), kind(TinyEncoder(), prior), None))
        return fits

    def _grids(self) -> Iterator[tuple[Any, Values, tuple[Tensor, ...], Grid]]:
        """A prior, latents of one image, the precision if given, and a grid for content, wherever there is one."""
        found = False
        for prior in self._priors(ExactPrior):
            for views in (1, 3):
                values = self._values(prior, views=views, images=1)
                for given in _given(prior, values):
                    grid = grid_for(prior.content_posterior(values.z, *given))
                    if grid is not None:
                        found = True
                        yield prior, values, given, grid
        if not found:
            skip(TOO_WIDE)


def _shapes(distribution: TorchDistribution) -> str:
    return f"batch {tuple(distribution.batch_shape)} and event {tuple(distribution.event_shape)}"


def _check_style(prior: Prior, content: Tensor) -> TorchDistribution:
    """Style given content, an event of one dimension, in plates that hold content's."""
    plates, call = content.shape[:-1], f"style(content of shape {tuple(content.shape)})"
    expected = f"batch {tuple(plates)} and one event dimension; is a .to_event(1) missing?"
    with must_run(call, expected):
        style = prior.style(content)
        held = torch.broadcast_shapes(style.batch_shape, plates) == plates
    check(held and len(style.event_shape) == 1, f"{call} has {_shapes(style)}, expected {expected}")
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
    if not isinstance(prior, QuadraticPrior):
        return None
    try:
        return prior.expected_log_marginal(z, variance)
    except TypeError:  # of a prior made of others one of which has no closed form
        return None


def _atoms(prior: Prior) -> Tensor | None:
    """The support of discrete content, shape ``(K, content)``; None where content is continuous."""
    content = prior.content()
    if not content.has_enumerate_support:
        return None
    points: Tensor = content.enumerate_support(expand=False)
    return points.reshape(-1, *content.event_shape)


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
