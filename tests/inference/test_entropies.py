"""Estimates of the entropy of z: against loops, closed forms and known entropies; what they keep in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pp_simve.inference import (
    DecoderFreeELBO,
    DeltaGuide,
    EntropyEstimate,
    GaussianEntropy,
    KernelEntropy,
    ProgramError,
    VICRegEntropy,
)
from pp_simve.models import FlatPrior, SimVE

from .programs import DOUBLE, LATENT, SmoothEncoder, assert_rate, assert_same, draw_views

VIEWS, IMAGES, AXES = 2, 7, 3


def gradient(value: Tensor, z: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(value, z, retain_graph=True)
    return found


def draw_z(views: int = VIEWS, images: int = IMAGES, axes: int = AXES) -> Tensor:
    return torch.randn(views, images, axes, dtype=DOUBLE, requires_grad=True)


# Kernels.


def kernel_by_loops(z: Tensor, temperature: float, unit_norm: bool, with_self: bool) -> Tensor:
    """Σ_j −log 1/K Σ_k N(z_j; z_k, T), mean over images, densities written in full."""
    views, images, axes = z.shape
    rows = [z[j, b] / z[j, b].norm() if unit_norm else z[j, b] for j in range(views) for b in range(images)]
    total = torch.zeros((), dtype=DOUBLE)
    for i, row in enumerate(rows):
        densities = [
            (2 * math.pi * temperature) ** (-axes / 2) * (-(row - kernel).square().sum() / (2 * temperature)).exp()
            for k, kernel in enumerate(rows)
            if with_self or k != i
        ]
        total = total - torch.stack(densities).mean().log()
    return total / images


@pytest.mark.parametrize("with_self", [False, True])
@pytest.mark.parametrize("unit_norm", [False, True])
@pytest.mark.parametrize("views", [1, 2, 3])
def test_the_kernel_entropy_equals_explicit_loops(views: int, unit_norm: bool, with_self: bool) -> None:
    z = draw_z(views)
    ours = KernelEntropy(0.3, unit_norm=unit_norm, with_self=with_self)(z)
    assert_same(ours, kernel_by_loops(z, 0.3, unit_norm, with_self), [z])


@pytest.mark.parametrize("with_self", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, 4, 7, 13, 14, 15, 100])
def test_chunks_change_nothing(chunk: int, with_self: bool) -> None:
    """14 views, so that some of the sizes divide them and some do not."""
    z = draw_z()
    ours = KernelEntropy(0.3, with_self=with_self, chunk=chunk)(z)
    assert_same(ours, kernel_by_loops(z, 0.3, unit_norm=True, with_self=with_self), [z])
    whole = KernelEntropy(0.3, with_self=with_self)(z)
    assert_same(ours, whole, [z], 1e-13)
    with torch.no_grad():
        torch.testing.assert_close(KernelEntropy(0.3, with_self=with_self, chunk=chunk)(z), whole.detach())


@pytest.mark.parametrize("entropy", [KernelEntropy(0.3), KernelEntropy(0.3, chunk=3, with_self=True), VICRegEntropy()])
def test_the_estimate_is_the_mean_of_the_parts_of_processes(entropy: EntropyEstimate) -> None:
    z = draw_z()
    parts = [entropy.of_share(z[:, first : first + 1], z, first) for first in range(z.shape[1])]
    assert_same(torch.stack(parts).mean(), entropy(z), [z])


def test_gradients_of_chunks_equal_finite_differences() -> None:
    entropy = KernelEntropy(0.3, chunk=4)
    assert torch.autograd.gradcheck(entropy, draw_z())


@pytest.mark.parametrize(("axes", "temperature"), [(1, 0.01), (1, 0.03), (2, 0.04)])
def test_kernels_estimate_the_entropy_of_a_gaussian(axes: int, temperature: float) -> None:
    """The cross entropy of N(0, I) from N(0, (1 + T) I), d/2 (log 2π(1 + T) + 1/(1 + T)), is ≥ d/2 (log 2π + 1)."""
    z = torch.randn(1, 2000, axes, dtype=DOUBLE)
    found = float(KernelEntropy(temperature, unit_norm=False)(z))
    entropy = axes / 2 * (math.log(2 * math.pi) + 1)
    wide = 1 + temperature
    expected = axes / 2 * (math.log(2 * math.pi * wide) + 1 / wide)
    assert expected > entropy
    # An error of one draw's −log density is sqrt(d/2), of a mean of 2000 at most 0.022; kernels add about as much.
    assert found == pytest.approx(expected, abs=0.08)
    assert found == pytest.approx(entropy, abs=0.08)


def test_a_kernel_on_itself_lowers_the_estimate_and_bounds_it() -> None:
    """With itself among K kernels no density is below N(z; z, T)/K: the estimate is at most log K + d/2 log 2πT."""
    z = torch.randn(1, 500, 1, dtype=DOUBLE)
    for temperature in (1e-4, 1e-2, 1.0):
        without = KernelEntropy(temperature, unit_norm=False)(z)
        with_self = KernelEntropy(temperature, unit_norm=False, with_self=True)(z)
        assert with_self < without
        assert with_self <= math.log(500) + 0.5 * math.log(2 * math.pi * temperature) + 1e-12


def test_far_apart_views_attain_the_bound_and_equal_ones_have_the_kernels_peak() -> None:
    far = (torch.arange(6, dtype=DOUBLE) * 100).view(1, 6, 1)
    peak = 0.5 * math.log(2 * math.pi * 0.3)
    entropy = KernelEntropy(0.3, unit_norm=False, with_self=True)
    torch.testing.assert_close(entropy(far), torch.tensor(math.log(6) + peak, dtype=DOUBLE))
    torch.testing.assert_close(entropy(torch.zeros_like(far)), torch.tensor(peak, dtype=DOUBLE))


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.elements = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor):
                self.elements = max(self.elements, made.untyped_storage().nbytes() // made.element_size())
        return out


def largest(entropy: EntropyEstimate, images: int) -> int:
    z = torch.randn(2, images, 8, requires_grad=True)
    with LargestTensor() as seen:
        entropy(z).backward()
    assert z.grad is not None
    return seen.elements


def kept(entropy: EntropyEstimate, images: int) -> int:
    """Elements that the forward pass keeps for the backward pass, each storage once."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    z = torch.randn(2, images, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = entropy(z)
    value.backward()
    return sum(storages.values())


@pytest.mark.parametrize("with_self", [False, True])
def test_memory_grows_with_the_chunk_times_the_batch(with_self: bool) -> None:
    for chunk, images in [(16, 128), (32, 128), (16, 256), (64, 256)]:
        views = 2 * images
        assert largest(KernelEntropy(0.5, chunk=chunk, with_self=with_self), images) == chunk * views
    # All at once, for comparison: what chunks avoid.
    assert largest(KernelEntropy(0.5, with_self=with_self), 128) == 256**2
    assert kept(KernelEntropy(0.5, with_self=with_self), 128) > 256**2
    # One process of four compares its own views alone.
    everyone = torch.randn(2, 128, 8)
    with LargestTensor() as seen:
        KernelEntropy(0.5, with_self=with_self).of_share(everyone[:, 32:64], everyone, 32)
    assert seen.elements == 64 * 256


@pytest.mark.parametrize("images", [128, 256, 512])
def test_chunks_keep_no_pairs_for_the_backward_pass(images: int) -> None:
    assert kept(KernelEntropy(0.5, chunk=16), images) <= 8 * 2 * images * 8


# The Gaussian.


def with_covariance(covariance: Tensor, rows: int = 50) -> Tensor:
    """Rows whose unbiased covariance is exactly that, mean anywhere: shape ``(1, row, axis)``."""
    noise = torch.randn(rows, len(covariance), dtype=DOUBLE)
    centred = noise - noise.mean(0)
    white = centred @ torch.linalg.inv(torch.linalg.cholesky(centred.mT @ centred / (rows - 1))).mT
    return (white @ torch.linalg.cholesky(covariance).mT + 3).unsqueeze(0)


def draw_covariance(axes: int = AXES) -> Tensor:
    factor = torch.randn(axes, axes, dtype=DOUBLE)
    return factor @ factor.mT + 0.1 * torch.eye(axes, dtype=DOUBLE)


@pytest.mark.parametrize("shrinkage", [0.0, 0.01, 0.3, 1.0])
def test_the_gaussian_entropy_is_the_closed_form(shrinkage: float) -> None:
    covariance = draw_covariance()
    mean_variance = covariance.diagonal().mean()
    shrunk = (1 - shrinkage) * covariance + shrinkage * mean_variance * torch.eye(AXES, dtype=DOUBLE)
    expected = torch.distributions.MultivariateNormal(torch.zeros(AXES, dtype=DOUBLE), shrunk).entropy()
    z = with_covariance(covariance)
    torch.testing.assert_close(GaussianEntropy(shrinkage)(z), expected, rtol=1e-10, atol=1e-10)
    # Views of one image are draws like any others: the same rows as two views count twice.
    torch.testing.assert_close(
        GaussianEntropy(shrinkage)(z.unflatten(1, (2, 25)).squeeze(0)), 2 * expected, rtol=1e-10, atol=1e-10
    )


def test_the_gradient_of_the_gaussian_entropy_is_the_inverse_covariance() -> None:
    """∂/∂z of ½ log det C is C⁻¹ (z − mean)/(n − 1)."""
    z = with_covariance(draw_covariance()).requires_grad_()
    centred = (z - z.mean(1)).detach().squeeze(0)
    inverse = torch.linalg.inv(centred.mT @ centred / 49)
    found = gradient(GaussianEntropy(0)(z), z).squeeze(0)
    torch.testing.assert_close(found, centred @ inverse / 49, rtol=1e-9, atol=1e-10)
    assert torch.autograd.gradcheck(GaussianEntropy(0.1), draw_z())


def test_the_gaussian_has_more_entropy_than_anything_else_of_its_covariance() -> None:
    uniform = torch.rand(1, 20_000, 2, dtype=DOUBLE)
    assert 0.3 < float(GaussianEntropy(0)(uniform)) < 2 * 0.5 * (math.log(2 * math.pi / 12) + 1) + 0.02


# VICReg's surrogate.


def vicreg_by_loops(z: Tensor, variance: float, covariance: float) -> Tensor:
    """−μ Σ_views v(Z) − ν Σ_views c(Z) (Bardes et al. 2022, equations 1 to 4), sums written out."""
    images, axes = z.shape[1:]
    total = torch.zeros((), dtype=DOUBLE)
    for view in z:
        mean = view.mean(0)
        for i in range(axes):
            own = (view[:, i] - mean[i]).square().sum() / (images - 1)
            total = total - variance * torch.clamp(1 - torch.sqrt(own + 1e-4), min=0) / axes
            for j in range(axes):
                if i != j:
                    off = ((view[:, i] - mean[i]) * (view[:, j] - mean[j])).sum() / (images - 1)
                    total = total - covariance * off.square() / axes
    return total


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("views", [1, 2, 3])
def test_vicreg_equals_its_equations(views: int, spread: float) -> None:
    z = draw_z(views, images=20)
    ours = VICRegEntropy(3.0, 0.7)(z * spread)
    assert_same(ours, vicreg_by_loops(z * spread, 3.0, 0.7), [z])


SMALL = [5e-2, 5e-3, 5e-4, 5e-5]


def draw_correlations(axes: int = AXES) -> Tensor:
    """A symmetric matrix with zeros on its diagonal."""
    drawn = torch.rand(axes, axes, dtype=DOUBLE) + 0.2
    return drawn.triu(1) + drawn.triu(1).mT


def test_the_covariance_penalty_is_the_log_determinant_up_to_third_order() -> None:
    """½ log det(I + ρA) = −ρ²/4 Σ_{i≠j} A_ij² + ρ³/6 tr A³ + O(ρ⁴): over three decades, value and derivative by ρ."""
    off_diagonal = draw_correlations()
    white = with_covariance(torch.eye(AXES, dtype=DOUBLE)) - 3
    constant = AXES / 2 * (math.log(2 * math.pi) + 1)
    surrogate = VICRegEntropy(variance=0, covariance=AXES / 4)  # the paper divides by the axes
    third = (off_diagonal @ off_diagonal @ off_diagonal).trace()
    values, slopes = [], []
    for size in SMALL:
        rho = torch.tensor(size, dtype=DOUBLE, requires_grad=True)
        z = white @ torch.linalg.cholesky(torch.eye(AXES, dtype=DOUBLE) + rho * off_diagonal).mT
        error = GaussianEntropy(0)(z) - constant - surrogate(z)
        values.append(error)
        slopes.append(gradient(error, rho))
    assert_rate(SMALL, values, 3)
    assert_rate(SMALL, slopes, 2)
    torch.testing.assert_close(values[2] / SMALL[2] ** 3, third / 6, rtol=1e-2, atol=0)
    torch.testing.assert_close(slopes[2] / SMALL[2] ** 2, third / 2, rtol=1e-2, atol=0)


def test_near_any_diagonal_the_penalty_is_that_of_correlations() -> None:
    """log det C = Σ log C_ii − ½ Σ_{i≠j} C_ij²/(C_ii C_jj) + ρ³/3 tr R³ + O(ρ⁴), R the correlations at ρ = 1."""
    correlations, variances = draw_correlations(), torch.tensor([0.25, 1.0, 9.0], dtype=DOUBLE)
    third = (correlations @ correlations @ correlations).trace()
    errors = []
    for rho in SMALL:
        outer = variances.sqrt().outer(variances.sqrt())
        covariance = variances.diag() + rho * correlations * outer
        log_det = 2 * GaussianEntropy(0)(with_covariance(covariance)) - AXES * (math.log(2 * math.pi) + 1)
        errors.append(log_det - variances.log().sum() + 0.5 * rho**2 * correlations.square().sum())
    assert_rate(SMALL, errors, 3)
    torch.testing.assert_close(errors[2] / SMALL[2] ** 3, third / 3, rtol=1e-2, atol=0)


def test_the_hinge_is_the_log_standard_deviation_up_to_second_order_below_one_and_nothing_above() -> None:
    """Σ log s_i = −Σ (1 − s_i) − ½ Σ (1 − s_i)² + O: the hinge of weight d, over three decades of 1 − s."""
    below = torch.tensor([0.3, 1.0, 0.7], dtype=DOUBLE)
    hinge = VICRegEntropy(variance=AXES, covariance=0)
    errors = []
    for size in SMALL:
        s = 1 - size * below
        z = with_covariance((s.square() - 1e-4).diag())  # the paper adds 1e-4 to variances
        errors.append(s.log().sum() - hinge(z))
    assert_rate(SMALL, errors, 2)
    torch.testing.assert_close(errors[-1] / SMALL[-1] ** 2, -below.square().sum() / 2, rtol=1e-3, atol=0)
    assert float(hinge(with_covariance(draw_covariance().diagonal().add(1).diag()))) == 0


# Extreme batches.

ESTIMATES: dict[str, Callable[[], EntropyEstimate]] = {
    "kernel": lambda: KernelEntropy(0.01),
    "kernel, chunked": lambda: KernelEntropy(0.01, chunk=5),
    "kernel, any norm": lambda: KernelEntropy(0.01, unit_norm=False),
    "logdet": lambda: GaussianEntropy(),
    "vicreg": lambda: VICRegEntropy(),
}


@pytest.mark.parametrize("estimate", ESTIMATES)
@pytest.mark.parametrize(
    "z",
    [
        torch.linspace(-2, 3, 2 * 8 * 4).sin().view(2, 8, 4),
        torch.linspace(-2, 3, 2 * 2 * 4).sin().view(2, 2, 4),
        torch.linspace(-2, 3, 2 * 8 * 4).sin().view(2, 8, 4)[:, [0, 0, 1, 1, 2, 3, 3, 3]],
        torch.ones(2, 8, 4),
        torch.full((2, 8, 4), 0.1),
        torch.zeros(2, 8, 4),
        torch.cat([torch.zeros(2, 4, 4), torch.ones(2, 4, 4)], 1),
        torch.linspace(-2, 3, 2 * 8 * 4).sin().view(2, 8, 4) * torch.tensor([1.0, 0, 0, 0]),
        torch.linspace(-2, 3, 2 * 8 * 4).sin().view(2, 8, 4) * 1e3,
        torch.linspace(-2, 3, 2 * 8 * 4).sin().view(2, 8, 4) * 1e-6,
    ],
    ids=["plain", "two images", "repeated", "constant", "constant 0.1", "zero", "half zero", "one axis", "far", "near"],
)
def test_extreme_batches_have_finite_numbers(estimate: str, z: Tensor) -> None:
    z = z.clone().requires_grad_()
    value = ESTIMATES[estimate]()(z)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient(value, z)).all()


# What is refused.


@pytest.mark.parametrize(
    ("entropy", "shape", "words"),
    [
        (KernelEntropy(), (1, 1, 3), "needs 2 views in the batch at least, or with_self=True; got 1"),
        (GaussianEntropy(), (1, 1, 3), "1 views in a batch has no determinant on 3 axes; .*2 views at least"),
        (GaussianEntropy(0), (2, 2, 4), "4 views in a batch has no determinant on 4 axes; .* or shrinkage > 0"),
        (VICRegEntropy(), (2, 1, 3), "need 2 images in it at least; got 1"),
    ],
)
def test_batches_too_small(entropy: EntropyEstimate, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ProgramError, match=words):
        entropy(torch.randn(shape))


def test_batches_just_large_enough() -> None:
    assert torch.isfinite(KernelEntropy(with_self=True)(torch.randn(1, 1, 3)))
    assert torch.isfinite(KernelEntropy()(torch.randn(2, 1, 3)))
    assert torch.isfinite(GaussianEntropy()(torch.randn(1, 2, 3)))
    assert torch.isfinite(GaussianEntropy(0)(torch.randn(5, 1, 4)))
    assert torch.isfinite(VICRegEntropy()(torch.randn(1, 2, 3)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: KernelEntropy(0), "temperature must be positive and finite, got 0"),
        (lambda: KernelEntropy(math.nan), "temperature must be positive and finite, got nan"),
        (lambda: KernelEntropy(chunk=0), "chunk must be at least 1 view, got 0"),
        (lambda: GaussianEntropy(-0.1), "shrinkage is a share"),
        (lambda: GaussianEntropy(1.1), "shrinkage is a share"),
        (lambda: VICRegEntropy(variance=-1), "variance must be finite and not negative, got -1"),
        (lambda: VICRegEntropy(covariance=math.inf), "covariance must be finite and not negative, got inf"),
    ],
)
def test_wrong_options(make: Callable[[], EntropyEstimate], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


# The objective they stand in.


def implied(**options: Any) -> tuple[DecoderFreeELBO, DeltaGuide]:
    prior = FlatPrior(LATENT)
    guide = DeltaGuide(SmoothEncoder(), prior)
    objective = DecoderFreeELBO(SimVE(prior), guide, **options).double()
    return objective, guide


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_the_implied_bound_is_agreement_and_weighted_entropy(weight: float) -> None:
    objective, guide = implied(entropy=GaussianEntropy(), weight=weight)
    views = draw_views(3)
    terms = objective(views)
    z = guide.posterior(views).z
    agreement = guide.prior.log_marginal(z).mean()
    entropy = GaussianEntropy()(z)
    torch.testing.assert_close(terms["agreement"], agreement.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(terms["entropy"], entropy.detach(), rtol=1e-10, atol=1e-10)
    parameters = list(guide.parameters())
    ours = torch.autograd.grad(terms["loss"], parameters)
    theirs = torch.autograd.grad(-agreement - weight * entropy, parameters)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    assert not terms["agreement"].requires_grad
    assert not terms["entropy"].requires_grad
