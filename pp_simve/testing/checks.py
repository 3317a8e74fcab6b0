"""What the conformance suites share: checks that hold for every part, assertions, tiny programs, and quadrature."""

from __future__ import annotations

import io
import math
import unittest
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import pyro
import torch
from pyro import poutine
from pyro.distributions import constraints
from torch import Tensor, nn

from pp_simve.inference import Guide, fit
from pp_simve.inference.tracing import SHARED
from pp_simve.models import Gaussian, Prior, SimVE

# All different, so that no dimension passes for another.
VIEWS, LATENT, IMAGES, FEATURES, PARTICLES = 3, 4, 5, 6, 7
SHAPE = (1, 3, 5)
DOUBLE = torch.float64
DRAWS = 4000
NUMBERS = "Look for a scale that reaches zero (softplus(...) + 1e-4 does not), and log, sqrt or a division at zero"

Part = TypeVar("Part", bound=nn.Module)


def check(condition: bool | Tensor, message: str) -> None:
    """Raises AssertionError with ``message`` unless ``condition`` holds; unlike ``assert``, under ``python -O`` too."""
    if not condition:
        raise AssertionError(message)


def shapes(distribution: Any) -> str:
    """In words."""
    return f"batch {tuple(distribution.batch_shape)} and event {tuple(distribution.event_shape)}"


def check_dtype(name: str, value: Tensor, dtype: torch.dtype) -> None:
    """Checks that a result has the dtype of the part that computed it."""
    check(
        value.dtype == dtype,
        f"{name} is {value.dtype} in a part of {dtype}. Expected the dtype of parameters and inputs: leave out "
        ".float(), give new tensors the dtype of another, and make constants buffers (self.register_buffer)",
    )


def close(actual: Tensor, expected: Tensor, message: str, tolerance: float = 1e-8) -> None:
    """Checks that tensors agree: values within a relative and absolute tolerance, shape and dtype exactly."""
    torch.testing.assert_close(
        actual, expected, rtol=tolerance, atol=tolerance, msg=lambda found: f"{message}\n{found}"
    )


@contextmanager
def must_run(what: str, expected: str) -> Iterator[None]:
    """Turns any error within into a failed check that names what ran and what was expected of it."""
    try:
        yield
    except (AssertionError, unittest.SkipTest):
        raise
    except Exception as error:
        raise AssertionError(f"{what} ends in {type(error).__name__}: {error}\nExpected {expected}") from error


@contextmanager
def must_sample_nothing(what: str) -> Iterator[None]:
    """Checks that what runs within returns a distribution, and has no sites of its own."""
    with poutine.trace() as traced:
        yield
    sites = ", ".join(name for name, site in traced.trace.nodes.items() if site["type"] in ("sample", "param"))
    check(not sites, f"{what} has the site {sites}. Expected a distribution and nothing sampled: {SHARED}")


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Runs a block under a seed; the CPU's random state is afterwards what it was before."""
    with torch.random.fork_rng(devices=[]):
        # The CPU's generator alone: torch.manual_seed would leave CUDA's changed, and takes a millisecond.
        torch.default_generator.manual_seed(seed)
        yield


class Suite(ABC, Generic[Part]):
    """Checks that hold for every part: a short fit, dtype, device, state and seeds.

    The suite of a part's type defines how to build the part, its inputs, and what it computes from them.
    """

    without_gradient: ClassVar[Sequence[str]] = ()

    @abstractmethod
    def _new(self) -> Part:
        """The part, in float32, from the current random state."""

    @abstractmethod
    def _inputs(self, part: Part, dtype: torch.dtype = DOUBLE) -> tuple[Tensor, ...]:
        """A small batch of what the part is called with."""

    @abstractmethod
    def _outputs(self, part: Part, *inputs: Tensor) -> dict[str, Tensor]:
        """Everything the part computes by name, draws under a seed."""

    @abstractmethod
    def _fits(self, part: Part) -> Sequence[tuple[SimVE, Guide, nn.Module | None]]:
        """Fits in which the part's parameters must move: model, guide and objective (None: the default)."""

    def _part(self, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Part:
        """The part in evaluation mode, built under a seed."""
        with seeded(seed):
            return self._new().to(dtype).eval()

    def _trained(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """Parameters that require a gradient, by name, without those whose names end with `without_gradient`."""
        ends, named = tuple(self.without_gradient), module.named_parameters()
        return {name: value for name, value in named if value.requires_grad and not name.endswith(ends)}

    def test_five_steps_of_a_fit(self) -> None:
        """To noise, from bytes, in float32: terms stay finite, parameters too, and every parameter moves."""
        images = torch.randint(0, 256, (24, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))
        part = self._part(dtype=torch.float32)
        fits = self._fits(part)
        if not fits:
            raise unittest.SkipTest("no guide of the package takes it")
        for model, guide, objective in fits:
            before = {name: value.detach().clone() for name, value in part.named_parameters()}
            with must_run("a fit of five steps", f"it to pass. {NUMBERS}"):
                run = fit(
                    *(model, guide, images), objective=objective,
                    batch_size=8, steps=5, lr=0.01, device="cpu", precision="32",
                )  # fmt: skip
            where = f"after five steps of a fit with {type(guide).__name__}"
            finite = all(math.isfinite(value) for row in run.history for value in row.values())
            check(finite, f"a term is not finite {where}: {run.history}. {NUMBERS}")
            for name, value in part.named_parameters():
                check(value.isfinite().all(), f"parameter {name} is no longer finite {where}. {NUMBERS}")
            for name, value in self._trained(part).items():
                check(
                    not torch.equal(value, before[name]),
                    f"parameter {name} is the same {where}: no gradient reaches it. Look for .detach(), .item(), or "
                    ".sample() in place of .rsample(); remove it if unused, or name it in `without_gradient`",
                )

    def test_keeps_dtype(self) -> None:
        """float32 as made, float64 after .double(): all that is computed and drawn, and none of it NaN."""
        with seeded():
            made = self._new()
        for path, module in made.named_modules():
            for name, value in vars(module).items():
                plain = f"{path}.{name}".lstrip(".")
                message = f"{plain} is a plain tensor, neither saved nor moved. Use self.register_buffer({name!r}, ...)"
                check(not isinstance(value, Tensor), message)
        for dtype in (torch.float32, DOUBLE):
            part = self._part(dtype=dtype)
            for name, value in self._outputs(part, *self._inputs(part, dtype)).items():
                check_dtype(name, value, dtype)
                check(not value.isnan().any(), f"{name} is not a number in {dtype}. {NUMBERS}")

    def test_moves_to_another_device(self) -> None:
        """All that is computed and drawn is where the part is.

        That device is CUDA where there is one. Otherwise it is torch's "meta" device, whose tensors have a shape and
        a device but no values; parts that look at values cannot be checked on it, which skips the check.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "meta")
        advice = "make constants buffers, and new tensors like existing ones (torch.zeros_like(x), x.new_zeros(...))"
        part = self._part(dtype=torch.float32)
        inputs = [value.to(device) for value in self._inputs(part, torch.float32)]
        try:
            with pyro.validation_enabled(False), seeded():
                found = self._outputs(part.to(device), *inputs)
        except (RuntimeError, NotImplementedError) as error:
            if "expected device" in str(error) or "same device" in str(error):
                raise AssertionError(f"on {device} some tensors stay behind ({error}); {advice}") from error
            if device.type == "meta":
                raise unittest.SkipTest(f"it looks at values, so the check needs CUDA ({error})") from error
            raise
        for name, value in found.items():
            check(value.device.type == device.type, f"{name} is on {value.device} after moving to {device}; {advice}")

    def test_state_dict_holds_everything(self) -> None:
        """A second part that loads the state of a trained one computes and draws the same, bit for bit."""
        first, second = self._part(seed=1), self._part(seed=2)
        inputs = self._inputs(first)
        first.train()
        with seeded(), torch.no_grad():
            self._outputs(first, *inputs)  # gathers what a part gathers in training
            for parameter in first.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        first.eval()
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        with must_run("loading the state of one part into another", "parameters and buffers of the same names"):
            second.load_state_dict(torch.load(file, weights_only=True))
        remedy = "what is drawn, learned or remembered must be a parameter or a buffer (register_buffer)"
        self._check_equal(first, second, inputs, f"after state_dict was loaded into a second part: {remedy}")

    def test_same_seed_same_numbers(self) -> None:
        """Building and drawing depend on torch's seed alone, and densities and means on nothing random."""
        first, second = self._part(), self._part()
        inputs = self._inputs(first)
        remedy = "take all noise from torch's global generator (no numpy, no random), and none in densities and means"
        self._check_equal(first, first, inputs, f"when computed twice: {remedy}")
        self._check_equal(first, second, inputs, f"in a second part made under the same seed: {remedy}")

    def _check_equal(self, first: Part, second: Part, inputs: tuple[Tensor, ...], when: str) -> None:
        expected = self._outputs(first, *inputs)
        for name, value in self._outputs(second, *inputs).items():
            check(torch.equal(value, expected[name]), f"{name} differs {when}")


def check_finite_differences(functions: Callable[[], dict[str, Tensor]], inputs: Iterable[Tensor]) -> None:
    """Checks gradients of named tensors against central differences, along one random direction through all inputs.

    Args:
        functions: called without arguments, gives tensors by name, functions of the inputs as they are.
        inputs: leaves in float64; those that require no gradient are left out.
    """
    leaves = [value for value in inputs if value.requires_grad]
    with seeded():
        direction = [torch.randn_like(value) for value in leaves]

    def sums(move: float = 0.0) -> dict[str, Tensor]:
        with torch.no_grad():
            for value, along in zip(leaves, direction, strict=True):
                value.add_(along, alpha=move)
        with seeded(9):
            return {name: (value * torch.rand_like(value)).sum() for name, value in functions().items()}

    slopes = {}
    for name, total in sums().items():
        total = total + sum(0 * value.sum() for value in leaves)  # so that there is a gradient, if only of zeros
        gradients = torch.autograd.grad(total, leaves, retain_graph=True)
        slopes[name] = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    step = 1e-5
    above, below = sums(step), sums(-2 * step)
    for name, found in slopes.items():
        message = (
            f"the gradient of {name} is not its derivative by finite differences. Look for .detach() on a part of it"
        )
        close(torch.as_tensor(found), (above[name] - below[name]).detach() / (2 * step), message, 1e-5)


class TinyEncoder(nn.Sequential):
    """Tanh features of the pixels: differentiable everywhere, for finite differences."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(math.prod(SHAPE), FEATURES), nn.Tanh())
        self.features = FEATURES


class TinyDecoder(nn.Sequential):
    """One hidden tanh layer."""

    def __init__(self, latent_dim: int, image_shape: tuple[int, int, int] = SHAPE) -> None:
        pixels = math.prod(image_shape)
        super().__init__(nn.Linear(latent_dim, 7), nn.Tanh(), nn.Linear(7, pixels), nn.Unflatten(-1, image_shape))


class Pair(nn.Module):
    """Model and guide over one prior, as one module."""

    def __init__(self, model: SimVE, guide: Guide) -> None:
        super().__init__()
        self.model, self.guide = model, guide


def tiny_model(prior: Prior) -> SimVE:
    """The program with a smooth decoder, from the current random state."""
    return SimVE(prior, Gaussian(TinyDecoder(prior.latent_dim), variance=0.125))


def tiny_views(views: int = 2, dtype: torch.dtype = DOUBLE) -> Tensor:
    """Grey noise, shape ``(view, image, channel, height, width)``, the same at every call."""
    with seeded(7):
        return torch.rand(views, IMAGES, *SHAPE, dtype=DOUBLE).to(dtype)


class Grid(NamedTuple):
    """Nodes of a quadrature rule for a distribution (or the support, where it is discrete)."""

    points: Tensor  # (point, width)
    log_weights: Tensor  # log of the volume that each stands for, (point,)
    accuracy: float  # relative error to expect of integrals of densities with kinks


def grid_for(distribution: Any) -> Grid | None:
    """A grid for integrals of functions that live where a distribution does; None beyond one dimension.

    The support itself where that is finite; equal angles on the unit circle (`constraints.sphere` of two dimensions).
    Otherwise the trapezoidal rule on the unconstrained axis of the support (`torch.distributions.biject_to`), whose
    steps widen geometrically away from the draws, so that heavy tails are included and a wrong scale of the
    distribution does no harm.

    Args:
        distribution: with a single element in its batch.
    """
    if distribution.has_enumerate_support:
        points = distribution.enumerate_support(expand=False).detach()
        points = points.reshape(-1, *distribution.event_shape).unique(dim=0)
        return Grid(points, points.new_zeros(len(points)), 1e-6)
    if distribution.event_shape == (2,) and isinstance(distribution.support, type(constraints.sphere)):
        angles = torch.linspace(0, 2 * math.pi, 2001, dtype=DOUBLE)[:-1]
        points = torch.stack([angles.cos(), angles.sin()], -1)
        return Grid(points, angles[1].log().expand(len(points)), 1e-6)
    transform = bijection(distribution)
    if distribution.event_shape.numel() != 1 or transform is None:
        return None
    draws = draws_of(distribution, seed=3)
    low, middle, high = transform.inv(draws).quantile(draws.new_tensor([0.05, 0.5, 0.95]))
    scale = ((high - low) / 3.29).clamp(min=1e-6)
    reach = 16.0 if is_unbounded(distribution) else 3.5
    t = torch.linspace(-reach, reach, 2001, dtype=draws.dtype)[:, None]
    nodes = middle + scale * t.sinh()
    points = transform(nodes)
    log_weights = (scale * t.cosh() * (t[1] - t[0])).log() + transform.log_abs_det_jacobian(nodes, points)
    return Grid(points, log_weights.squeeze(-1), 1e-4)


def draws_of(distribution: Any, seed: int) -> Tensor:
    """Shape ``(DRAWS, width)``, of a distribution with a single element in its batch."""
    with seeded(seed):
        drawn: Tensor = distribution.sample((DRAWS,))
    return drawn.detach().reshape(DRAWS, -1)


def bijection(distribution: Any) -> Any:
    """From the whole line to the support of each axis of a distribution; None where torch has none."""
    try:
        support = distribution.support
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        return torch.distributions.biject_to(support)
    except NotImplementedError:
        return None


def is_unbounded(distribution: Any) -> bool:
    """Whether the support of every axis is the whole line."""
    transform = bijection(distribution)
    return transform is not None and not getattr(transform, "parts", [transform])


def check_density(distribution: Any, name: str) -> bool:
    """Checks that a density integrates to one and that draws follow it; False where no grid serves.

    The largest distance between the two distribution functions, of each coordinate, is compared with 0.06; chance
    alone stays below 0.035 in all but one of 10,000 cases.
    """
    grid = grid_for(distribution)
    if grid is None:
        return False
    places = grid.points.reshape(-1, *(1,) * len(distribution.batch_shape), *distribution.event_shape)
    masses = (distribution.log_prob(places).detach().reshape(-1) + grid.log_weights).exp()
    total = float(masses.sum())
    message = f"the density of {name} integrates to {total:.4g}, expected 1: its log_prob lacks a constant"
    check(abs(total - 1) < grid.accuracy, message)
    if distribution.has_enumerate_support and grid.points.shape[1] > 1:  # points have no order
        return True
    for along, drawn in zip(grid.points.T, draws_of(distribution, seed=4).T, strict=True):
        axis = along.sort()
        below = torch.searchsorted(drawn.sort().values, axis.values, right=True)
        distance = float((below / DRAWS - masses[axis.indices].cumsum(0)).abs().max())
        message = f"draws of {name} do not follow its log_prob: distribution functions {distance:.2f} apart"
        check(distance < 0.06, message)
    return True
