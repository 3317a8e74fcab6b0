"""Contrastive and non-contrastive losses as limits of the program, against plain references from their papers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pp_simve.inference import (
    ELBO,
    AmortizedGuide,
    DecoderFreeELBO,
    DeltaGuide,
    KernelEntropy,
    Linear,
    VICRegEntropy,
)
from pp_simve.inference.guides.recognition import sample_sites
from pp_simve.models import (
    Bernoulli,
    BlockPrior,
    EmpiricalPrior,
    FlatPrior,
    GaussianPrior,
    GroupLikelihood,
    MixturePrior,
    NTXent,
    Prior,
    SimVE,
)

from .programs import (
    DOUBLE,
    GROUPS,
    IMAGES,
    LATENT,
    PIXELS,
    SHAPE,
    SmoothEncoder,
    assert_rate,
    assert_same,
    assert_trace_elbo,
    draw_views,
    embeddings,
)

TEMPERATURE = 0.3


def gradients(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """All of them as one vector; every parameter must have one."""
    return torch.cat([found.flatten() for found in torch.autograd.grad(loss, parameters, retain_graph=True)])


class Contrastive(nn.Module):
    """A program without pixels, a guide that is a point, and the loss of the group alone."""

    def __init__(self, group: GroupLikelihood, prior: Prior | None = None) -> None:
        super().__init__()
        prior = FlatPrior(LATENT) if prior is None else prior
        self.guide = DeltaGuide(SmoothEncoder(), prior)
        self.objective = ELBO(SimVE(prior, group=group), self.guide, beta=0)
        self.double()

    def forward(self, views: Tensor) -> Tensor:
        loss: Tensor = self.objective(views)["loss"]
        return loss

    def embeddings(self, views: Tensor) -> Tensor:
        """The encoder's z: shape ``(view, image, latent)``."""
        return embeddings(self.guide, views)


def parameters_of(guide: DeltaGuide) -> list[Tensor]:
    return [*guide.encoder_head.encoder.parameters(), *guide.encoder_head.head.parameters()]


def assert_equal_with_gradients(ours: Tensor, theirs: Tensor, guide: DeltaGuide) -> None:
    assert ours.dtype == DOUBLE
    assert_same(ours, theirs, parameters_of(guide))
    assert gradients(ours, parameters_of(guide)).abs().max() > 1e-4


# The papers' formulas.


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Chen et al. 2020, equation 1: the mean over all 2B views of −log exp(s_ij/τ) / Σ_{k≠i} exp(s_ik/τ).

    Args:
        z: shape ``(2, image, latent)``.
    """
    images = z.shape[1]
    rows = torch.cat([z[0], z[1]])
    cosines = functional.cosine_similarity(rows.unsqueeze(1), rows.unsqueeze(0), dim=-1)
    losses = []
    for i in range(2 * images):
        positive = (i + images) % (2 * images)
        others = [k for k in range(2 * images) if k != i]
        assert len(others) == 2 * images - 1
        losses.append(-cosines[i, positive] / temperature + (cosines[i, others] / temperature).logsumexp(0))
    return torch.stack(losses).mean()


def info_nce(z: Tensor, temperature: float) -> Tensor:
    """Van den Oord et al. 2018, equation 4, with cosines, in both directions: cross entropies of the B×B matrix, added.

    Args:
        z: shape ``(2, image, latent)``.
    """
    first, second = functional.normalize(z[0], dim=-1), functional.normalize(z[1], dim=-1)
    logits = first @ second.mT / temperature
    right = torch.arange(len(logits))
    return functional.cross_entropy(logits, right) + functional.cross_entropy(logits.mT, right)


def vicreg(z: Tensor, invariance: float, variance: float, covariance: float, averaged: bool) -> Tensor:
    """Bardes et al. 2022, algorithm 1; ``averaged``: the released code's variance term, of both views the mean.

    Args:
        z: shape ``(2, image, latent)``.
    """
    first, second = z
    images, axes = first.shape
    std_first, std_second = torch.sqrt(first.var(0) + 1e-4), torch.sqrt(second.var(0) + 1e-4)
    std_loss = torch.mean(functional.relu(1 - std_first)) + torch.mean(functional.relu(1 - std_second))
    if averaged:
        std_loss = std_loss / 2
    cov_loss = torch.zeros((), dtype=z.dtype)
    for view in z:
        centred = view - view.mean(0)
        cov = centred.mT @ centred / (images - 1)
        cov_loss = cov_loss + cov[~torch.eye(axes, dtype=torch.bool)].square().sum() / axes
    return invariance * functional.mse_loss(first, second) + variance * std_loss + covariance * cov_loss


def pairwise(group: str, z: Tensor, temperature: float) -> Tensor:
    """Losses of every ordered pair of an image's views, the remaining ones left out, by loops: mean over images."""
    u = functional.normalize(z, dim=-1)
    views, images = z.shape[:2]
    total = torch.zeros((), dtype=z.dtype)
    for b in range(images):
        for j in range(views):
            for positive in set(range(views)) - {j}:
                among = [positive] if group == "images" else range(views)
                negatives = [u[k, c] for k in among for c in range(images) if c != b]
                candidates = torch.stack([u[positive, b], *negatives])
                total = total - (candidates @ u[j, b] / temperature).log_softmax(0)[0]
    return total / images


PRIORS: dict[str, Callable[[], Prior]] = {
    "flat": lambda: FlatPrior(LATENT),
    "gaussian": lambda: GaussianPrior(LATENT),
    "block": lambda: BlockPrior(LATENT, 2),
    "mixture": lambda: MixturePrior(LATENT, 4, learn_prototypes=False),
    "empirical": lambda: EmpiricalPrior(LATENT, memory=None),
}


@pytest.mark.parametrize("temperature", [0.05, 2.0])
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("group", GROUPS)
def test_without_pixels_and_noise_the_bound_is_the_papers_loss(group: str, prior: str, temperature: float) -> None:
    """Whatever the prior. A sum over an image's two views, so twice NT-Xent, which is a mean over views."""
    contrastive, views = Contrastive(GROUPS[group](temperature), PRIORS[prior]()), draw_views(2)
    z = contrastive.embeddings(views)
    theirs = 2 * nt_xent(z, temperature) if group == "views" else info_nce(z, temperature)
    assert_equal_with_gradients(contrastive(views), theirs, contrastive.guide)


# VICReg.


class Implied(nn.Module):
    """A point's bound with an estimate of the entropy of z under the flat prior."""

    def __init__(self, style_variance: float, entropy: nn.Module, guide: type[DeltaGuide] = DeltaGuide) -> None:
        super().__init__()
        prior = FlatPrior(LATENT, style_variance)
        self.guide = guide(SmoothEncoder(), prior)
        self.objective = DecoderFreeELBO(SimVE(prior), self.guide, entropy=entropy)  # type: ignore[arg-type]
        self.double()
        prior.style_variance.fixed.fill_(style_variance)  # not rounded to float32

    def forward(self, views: Tensor) -> Tensor:
        loss: Tensor = self.objective(views)["loss"]
        return loss


@pytest.mark.parametrize("averaged", [False, True], ids=["variance terms added", "variance terms averaged"])
@pytest.mark.parametrize("spread", [0.3, 3.0, 12.0])
def test_the_implied_bound_is_vicreg_up_to_the_flat_priors_constant(spread: float, averaged: bool) -> None:
    """λ = 25 is a flat prior of variance d/(4·25); μ = 25 where views' variance terms are added, else half of it.

    −log p(z, z') = λ/d |z − z'|² + d/2 log 4πΣ. Spreads put the axes' standard deviations below 1, across it and above.
    """
    style_variance = LATENT / (4 * 25)
    implied = Implied(style_variance, VICRegEntropy(25 / (1 + averaged), 1))
    views = draw_views(2)
    with torch.no_grad():
        implied.guide.encoder_head.head.weight.mul_(spread)
    z = implied.guide.posterior(views).z
    constant = LATENT / 2 * math.log(4 * math.pi * style_variance)
    theirs = vicreg(z, 25, 25, 1, averaged) + constant
    assert_equal_with_gradients(implied(views), theirs, implied.guide)


# One bound in two forms: an observation of the group, or an estimate of the entropy of z.


class SphereGuide(DeltaGuide):
    """A delta guide whose z has unit norm."""

    def forward(self, views: Tensor) -> None:
        z = self.encoder_head(self.encoder_head.features(views))
        sample_sites(self.prior, dist.Delta(functional.normalize(z, dim=-1), event_dim=1))


@pytest.mark.parametrize("chunk", [5, 2048])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_the_observed_group_is_the_implied_bound_with_kernels(temperature: float, chunk: int) -> None:
    """Flat prior of variance T/4, kernels of variance T, unit norm, two views:

    log p(z, z') = (2 z·z' − 2)/T − d/2 log 2π(T/4) − d/2 log 2
    Ĥ(z)        = Σ_j log(2B−1) + d/2 log 2πT + 1/T − mean of log Σ_k exp(z_j·z_k/T)
    so their sum is log p(group | z) + 2 log(2B−1) + d/2 log 4πT.
    """
    implied = Implied(temperature / 4, KernelEntropy(temperature, unit_norm=False, chunk=chunk), SphereGuide)
    contrastive = Contrastive(NTXent(temperature))
    contrastive.guide.load_state_dict(implied.guide.state_dict(), strict=False)
    views = draw_views(2)
    constant = 2 * math.log(2 * IMAGES - 1) + LATENT / 2 * math.log(4 * math.pi * temperature)
    ours, theirs = implied(views), contrastive(views) - constant
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        gradients(ours, parameters_of(implied.guide)),
        gradients(theirs, parameters_of(contrastive.guide)),
        rtol=1e-10,
        atol=1e-10,
    )


# Limits: a guide without noise.

SCALES = [1.0, 1e-1, 1e-2, 1e-3]


def noisy(contrastive: Contrastive, scale: float, particles: int = 1) -> tuple[ELBO, list[Tensor], AmortizedGuide]:
    """An amortized guide of the delta guide's weights, its loss, and the parameters that both have."""
    prior = contrastive.guide.prior
    guide = AmortizedGuide(SmoothEncoder(), prior, scale=scale).double()
    head, given = guide.recognition.encoder_head, contrastive.guide.encoder_head
    head.encoder.load_state_dict(given.encoder.state_dict())
    with torch.no_grad():
        head.head.weight[:LATENT] = given.head.weight
        head.head.bias[:LATENT] = given.head.bias
        head.head.weight[LATENT:] = 0  # drawn anew for each guide otherwise
    group = contrastive.objective.model.group
    objective = ELBO(SimVE(prior, group=group), guide, beta=0, particles=particles).double()  # type: ignore[arg-type]
    return objective, [*head.encoder.parameters(), *head.head.parameters()], guide


def shared(vector: Sequence[Tensor]) -> Tensor:
    """Gradients of an amortized guide without those of the heads' scales, which a delta guide does not have."""
    *encoder, weight, bias = vector
    return torch.cat([part.flatten() for part in [*encoder, weight[:LATENT], bias[:LATENT]]])


def distances(contrastive: Contrastive, views: Tensor, scale: float, particles: int) -> tuple[Tensor, Tensor]:
    """Of the loss and its gradient from those of the delta guide."""
    objective, parameters, _ = noisy(contrastive, scale, particles)
    limit = contrastive(views)
    pyro.set_rng_seed(5)
    loss = objective(views)["loss"]
    found = shared(torch.autograd.grad(loss, parameters))
    return loss - limit, found - gradients(limit, parameters_of(contrastive.guide))


@pytest.mark.parametrize(("particles", "rate"), [(1, 1), (2, 2)], ids=["a draw", "the expectation"])
@pytest.mark.parametrize("group", GROUPS)
def test_a_narrow_guide_tends_to_the_contrastive_loss_in_value_and_gradient(
    group: str, particles: int, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draw like its scale. Particles of opposite noise cancel odd orders: the expectation like the scale's square."""

    def opposite(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        noise = torch.randn(shape[-3:], dtype=dtype, device=device)
        return torch.stack([noise, -noise]) if len(shape) == 4 else noise  # a delta guide's content has no particles

    monkeypatch.setattr(torch.distributions.normal, "_standard_normal", opposite)
    contrastive, views = Contrastive(GROUPS[group](TEMPERATURE)), draw_views(2)
    found = [distances(contrastive, views, scale, particles) for scale in SCALES]
    for errors in zip(*found, strict=True):
        assert_rate(SCALES, errors, rate)
    assert found[-1][0].abs() < found[0][0].abs() * 2e-3


# The bridge.


class Bridge(nn.Module):
    """Pixels and groups both observed; the guide has noise."""

    def __init__(self, alpha: float, *, observed: bool = True, scale: float = 1.0, width: int | None = None) -> None:
        super().__init__()
        prior = GaussianPrior(LATENT)
        decoder = nn.Sequential(nn.Linear(LATENT, 7), nn.Tanh(), nn.Linear(7, PIXELS), nn.Unflatten(-1, SHAPE))
        group = NTXent(TEMPERATURE, width=width) if observed else None
        self.guide = AmortizedGuide(SmoothEncoder(), prior, scale=scale)
        self.objective = ELBO(SimVE(prior, Bernoulli(decoder), group), self.guide, alpha=alpha)
        self.double()

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        pyro.set_rng_seed(5)
        terms: dict[str, Tensor] = self.objective(views)
        return terms


def same(alpha: float, like: Bridge, **options: Any) -> Bridge:
    """Another bridge of the same parameters."""
    other = Bridge(alpha, **options)
    other.load_state_dict(like.state_dict())
    return other


def all_gradients(bridge: Bridge, views: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(bridge(views)["loss"], list(bridge.objective.parameters())))


@pytest.mark.parametrize("views", [2, 3])
def test_at_zero_the_bridge_is_simve_bit_for_bit(views: int) -> None:
    bridge, images = Bridge(0.0), draw_views(views)
    simve = same(1.0, bridge, observed=False)
    ours, theirs = bridge(images), simve(images)
    assert ours.keys() - theirs.keys() == {"group"}
    for name, term in theirs.items():
        assert torch.equal(ours[name], term), name
    for our, their in zip(all_gradients(bridge, images), all_gradients(simve, images), strict=True):
        assert torch.equal(our, their)


def test_alpha_weighs_the_group_alone() -> None:
    bridge, views = Bridge(0.0), draw_views(3)
    terms = same(2.5, bridge)(views)
    others = sum(terms[name] for name in ("reconstruction", "content", "style", "entropy"))
    torch.testing.assert_close(terms["loss"].detach(), -others - 2.5 * terms["group"], rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        z = bridge.guide.recognition(views)
        pyro.set_rng_seed(5)
        drawn = z.rsample()
    torch.testing.assert_close(-terms["group"], pairwise("views", drawn, TEMPERATURE), rtol=1e-10, atol=1e-10)


def test_the_gradient_over_alpha_tends_to_the_groups_like_one_over_alpha() -> None:
    """∇L(α)/α − ∇(−log p(group | z)) = ∇(−ELBO)/α, to the digit."""
    start, views = Bridge(1.0), draw_views(2)
    of_simve, of_both = all_gradients(same(0.0, start), views), all_gradients(start, views)
    for alpha in (1e1, 1e4):
        for g, both, simve in zip(all_gradients(same(alpha, start), views), of_both, of_simve, strict=True):
            torch.testing.assert_close((g / alpha - (both - simve)) * alpha, simve, rtol=1e-7, atol=1e-8)


def test_a_narrower_block_leaves_the_other_axes_to_pixels() -> None:
    bridge, views = Bridge(1e6, width=2), draw_views(2)
    simve = same(0.0, bridge, width=2)
    ours, theirs = (
        torch.autograd.grad(made(views)["loss"], made.guide.recognition.encoder_head.head.weight)[0]
        for made in (bridge, simve)
    )
    style, style_scale = LATENT - 1, 2 * LATENT - 1
    for row in (style, style_scale):
        assert torch.equal(ours[row], theirs[row])
    assert (ours[:2].abs() > 1e3 * theirs[:2].abs()).any()


ALPHAS = [1e1, 1e2, 1e3, 1e4]


def test_a_narrow_guide_and_a_large_alpha_together_lead_from_simve_to_infonce() -> None:
    """With scale = 1/α both errors fall like 1/α: the gradient by the encoder is in the end that of NT-Xent."""
    contrastive, views = Contrastive(NTXent(TEMPERATURE)), draw_views(2)
    limit = gradients(2 * nt_xent(contrastive.embeddings(views), TEMPERATURE), parameters_of(contrastive.guide))
    errors = []
    for alpha in ALPHAS:
        _, _, guide = noisy(contrastive, 1 / alpha)
        pyro.set_rng_seed(0)
        bridge = Bridge(alpha, scale=1 / alpha)
        bridge.guide.load_state_dict(guide.state_dict(), strict=False)
        head = bridge.guide.recognition.encoder_head
        found = torch.autograd.grad(bridge(views)["loss"], [*head.encoder.parameters(), *head.head.parameters()])
        errors.append(shared(found) / alpha - limit)
    assert_rate(ALPHAS, errors, -1)
    assert errors[-1].abs().max() < 2e-2 * limit.abs().max()


def test_alpha_may_follow_a_schedule() -> None:
    bridge = Bridge(1.0)
    objective = ELBO(bridge.objective.model, bridge.guide, alpha=Linear(0, 20))  # type: ignore[arg-type]
    objective.alpha.move(5, 10)
    assert objective.alpha() == 10
    with pytest.raises(ValueError, match="alpha must not be negative, got -2"):
        ELBO(objective.model, bridge.guide, alpha=Linear(-2, 1))


# A plain Pyro program still.


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("pixels", [True, False], ids=["with pixels", "without"])
def test_trace_elbo_is_the_same_bit_for_bit(pixels: bool, group: str, particles: int) -> None:
    images = draw_views(3)
    with pyro.settings.context(module_local_params=True), pyro.validation_enabled(True):
        decoder = nn.Sequential(nn.Linear(LATENT, PIXELS), nn.Unflatten(-1, SHAPE))
        prior = GaussianPrior(LATENT)
        model = SimVE(prior, Bernoulli(decoder) if pixels else None, GROUPS[group](TEMPERATURE)).double()
        guide = (AmortizedGuide if pixels else DeltaGuide)(SmoothEncoder(), prior).double()
        assert_trace_elbo(model, guide, images, particles)
