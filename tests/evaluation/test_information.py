"""Information: closed forms, brute force over pairs, and samples from the prior whose information is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal

from pp_simve.evaluation import information
from pp_simve.evaluation.information import (
    CanonicalCritic,
    GaussianCritic,
    alignment,
    effective_rank,
    gaussian_information,
    infonce_bound,
    mutual_information,
    uniformity,
)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def two_views(rows: int, content: Tensor, style: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Latents of two views of each image from the additive Gaussian prior, shape ``(row, latent)`` each."""
    shared, *own = normal(3, rows, len(content), seed=seed)
    return shared * content.sqrt() + own[0] * style.sqrt(), shared * content.sqrt() + own[1] * style.sqrt()


def variances(latent_dim: int, information: float) -> tuple[Tensor, Tensor]:
    """Content and style variances, unlike in every axis, with so much mutual information in all."""
    rho = math.sqrt(1 - math.exp(-2 * information / latent_dim))
    total = torch.linspace(0.5, 3.0, latent_dim, dtype=torch.float64)
    return rho * total, (1 - rho) * total


def plain_rank(features: Tensor) -> float:
    singular = np.linalg.svd(features.double().numpy(), compute_uv=False)
    p = singular / singular.sum() + 1e-7
    return float(np.exp(-(p * np.log(p)).sum()))


@pytest.mark.parametrize(("rows", "width"), [(50, 7), (7, 50), (20, 20), (1, 5), (5, 1)])
def test_the_effective_rank_is_the_paper_s_formula(rows: int, width: int) -> None:
    features = normal(rows, width, seed=1) * torch.logspace(0, -6, width, dtype=torch.float64) + 0.3
    assert effective_rank(features) == pytest.approx(plain_rank(features), rel=1e-10)
    assert effective_rank(features.float()) == pytest.approx(plain_rank(features.float()), rel=1e-10)


@pytest.mark.parametrize("value", [0.3, -2e4, 1e-30, 0.0])
def test_rows_that_are_all_the_same_have_rank_one(value: float) -> None:
    # A Gram matrix would be wrong by about 1e-5 here: its zeros come out as 1e-8.
    features = torch.full((500, 64), value)
    one, zero = 1 + 1e-7, 1e-7
    expected = math.exp(-one * math.log(one) - 63 * zero * math.log(zero))
    assert effective_rank(features) == pytest.approx(expected, rel=1e-10 if value else 2e-4)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 12), st.integers(-290, 290))
def test_the_effective_rank_knows_no_units_order_or_rotation(seed: int, rows: int, width: int, power: int) -> None:
    features = normal(rows, width, seed=seed)
    rank = effective_rank(features)
    assert 1 - 1e-6 < rank < min(rows, width) * (1 + 1e-5)
    rotation = torch.linalg.qr(normal(width, width, seed=seed + 1)).Q
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    assert effective_rank((features @ rotation)[order] * 10.0**power) == pytest.approx(rank, rel=1e-9)


def test_alignment_and_uniformity_are_their_definitions() -> None:
    first, second = normal(12, 3, seed=4), normal(12, 3, seed=5)
    first[0] = first[1]
    x, y = (z / z.norm(dim=1, keepdim=True) for z in (first, second))
    assert alignment(first, second) == pytest.approx(sum(float((x[i] - y[i]) @ (x[i] - y[i])) for i in range(12)) / 12)
    for t in (0.5, 2.0):
        kernel = [math.exp(-t * float((x[i] - x[j]) @ (x[i] - x[j]))) for i in range(12) for j in range(i)]
        assert len(kernel) == 66
        assert uniformity(first, t) == pytest.approx(math.log(sum(kernel) / 66), abs=1e-10)
    assert uniformity(first) == uniformity(first, t=2.0)


def test_known_positions_on_the_sphere() -> None:
    axes = torch.eye(5)
    assert alignment(axes, 7 * axes) == pytest.approx(0.0, abs=1e-12)
    assert alignment(axes, -axes) == pytest.approx(4.0)
    assert alignment(axes, axes.roll(1, dims=0)) == pytest.approx(2.0)
    assert uniformity(torch.ones(9, 5)) == pytest.approx(0.0, abs=1e-12)
    assert uniformity(axes) == pytest.approx(-4.0)
    assert uniformity(torch.tensor([[1.0, 0.0], [-3.0, 0.0]])) == pytest.approx(-8.0)
    # exp(−4000) is 0 in every floating point format.
    assert uniformity(torch.tensor([[1.0, 0.0], [-3.0, 0.0]]), t=1000.0) == pytest.approx(-4000.0)


@pytest.mark.parametrize("latent_dim", [2, 8, 40])
def test_many_rows_spread_evenly_have_the_uniformity_of_the_sphere(latent_dim: int) -> None:
    # The mean of exp(2 t cos) over directions is 0F1(; d/2; t²).
    expected = math.log(scipy.special.hyp0f1(latent_dim / 2, 4.0)) - 4.0
    assert uniformity(normal(3000, latent_dim, seed=6)) == pytest.approx(expected, abs=0.01)


def plain_bound(scores: Tensor) -> float:
    k = len(scores)
    rows = scores.double().tolist()
    return sum(row[i] - math.log(sum(math.exp(s) for s in row) / k) for i, row in enumerate(rows)) / k


@pytest.mark.parametrize("k", [1, 2, 9])
def test_the_infonce_bound_is_its_definition(k: int) -> None:
    scores = 3 * normal(k, k, seed=7)
    found = infonce_bound(scores)
    assert found == {"bound": pytest.approx(plain_bound(scores), abs=1e-12), "ceiling": pytest.approx(math.log(k))}


def test_scores_of_any_size_do_not_overflow_and_the_ceiling_holds() -> None:
    assert infonce_bound(1e4 * torch.eye(6)) == {"bound": math.log(6), "ceiling": math.log(6)}
    assert infonce_bound(-1e4 * torch.eye(6))["bound"] == pytest.approx(-1e4 + math.log(6) - math.log(5))
    assert infonce_bound(torch.full((6, 6), 1e5))["bound"] == pytest.approx(0.0, abs=1e-9)


def plain_pmi(z: Tensor, other: Tensor, content: Tensor, style: Tensor) -> Tensor:
    total = (content + style).diag()
    joint = torch.cat([torch.cat([total, content.diag()], 1), torch.cat([content.diag(), total], 1)])
    zero = torch.zeros(len(content), dtype=torch.float64)
    alone = MultivariateNormal(zero, total)
    both = MultivariateNormal(torch.cat([zero, zero]), joint)
    return both.log_prob(torch.cat([z, other])) - alone.log_prob(z) - alone.log_prob(other)


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_the_gaussian_critic_is_the_log_ratio_of_joint_and_marginals(latent_dim: int) -> None:
    content = torch.linspace(0.1, 2.0, latent_dim, dtype=torch.float64)
    style = torch.linspace(1.5, 0.15, latent_dim, dtype=torch.float64)
    content[1:2] = 0  # an axis without content adds nothing
    first, second = 2 * normal(6, latent_dim, seed=8), 2 * normal(4, latent_dim, seed=9)
    scores = GaussianCritic(content, style)(first, second)
    assert scores.shape == (6, 4)
    for i in range(6):
        for j in range(4):
            expected = plain_pmi(first[i], second[j], content, style)
            assert float(scores[i, j]) == pytest.approx(float(expected), abs=1e-10)


@pytest.mark.parametrize("latent_dim", [1, 4])
def test_the_gaussian_information_is_that_of_the_joint_covariance(latent_dim: int) -> None:
    content = torch.linspace(0.1, 2.0, latent_dim, dtype=torch.float64)
    style = torch.linspace(1.5, 0.15, latent_dim, dtype=torch.float64)
    total = (content + style).diag()
    joint = torch.cat([torch.cat([total, content.diag()], 1), torch.cat([content.diag(), total], 1)])
    expected = float(total.logdet() - joint.logdet() / 2)
    assert gaussian_information(content, style) == pytest.approx(expected, abs=1e-12)
    rho = content / (content + style)
    assert gaussian_information(content, style) == pytest.approx(float(-0.5 * (1 - rho**2).log().sum()), abs=1e-12)


@pytest.mark.parametrize("ratio", [1e-9, 1e-4, 1.0, 1e9, 1e18])
def test_the_gaussian_information_keeps_its_digits_at_both_ends(ratio: float) -> None:
    # −½ log(1 − ρ²) = log(1 + r) − ½ log(1 + 2 r), whose first terms are r²/2 − r³.
    expected = (
        ratio**2 / 2 - ratio**3 + 7 / 4 * ratio**4 if ratio < 0.01 else math.log1p(ratio) - math.log1p(2 * ratio) / 2
    )
    found = gaussian_information(torch.tensor([ratio], dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    assert found == pytest.approx(expected, rel=1e-10, abs=0)


def estimates(
    latent_dim: int, information: float, k: int, batches: int, factor: float = 1.0
) -> tuple[float, float, float]:
    """Mean and standard error over batches of the bound with k pairs, and the ceiling."""
    content, style = variances(latent_dim, information)
    critic = GaussianCritic(content * factor, style)
    found = [mutual_information(*two_views(k, content, style, seed), critic) for seed in range(batches)]
    bounds = torch.tensor([one["bound"] for one in found], dtype=torch.float64)
    return float(bounds.mean()), float(bounds.std()) / math.sqrt(batches), found[0]["ceiling"]


@pytest.mark.parametrize(("latent_dim", "nats", "k"), [(1, 0.5, 128), (2, 1.0, 512), (16, 1.5, 512)])
def test_on_samples_from_the_prior_the_bound_is_below_and_close_to_the_information(
    latent_dim: int, nats: float, k: int
) -> None:
    content, style = variances(latent_dim, nats)
    assert gaussian_information(content, style) == pytest.approx(nats)
    bound, error, ceiling = estimates(latent_dim, nats, k, batches=40)
    assert error < 0.03
    assert bound < nats + 4 * error
    # With exp(pmi) of mean exp(2 I) over pairs, the bound lacks no more than (exp(2 I) − 1) / (2 K) to first order.
    assert bound > nats - (math.exp(2 * nats) - 1) / (2 * k) - 4 * error
    assert bound < ceiling


def test_where_the_information_is_above_the_ceiling_the_bound_is_close_below_the_ceiling() -> None:
    content, style = variances(16, 30.0)
    bound, _, ceiling = estimates(16, 30.0, k=32, batches=10)
    assert gaussian_information(content, style) == pytest.approx(30.0)
    assert ceiling - 0.05 < bound <= ceiling == math.log(32)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    content, style = variances(3, 1.0)
    first, second = two_views(50, content, style, seed=12)
    critic = GaussianCritic(content, style)

    def everything() -> list[float]:
        found = mutual_information(first, second, critic)
        return [found["bound"], found["ceiling"], uniformity(first), effective_rank(first)]

    whole = everything()
    assert whole[0] == pytest.approx(plain_bound(critic(first, second)), abs=1e-10)
    for block in (1, 7 * 50, 49 * 50):
        monkeypatch.setattr(information, "_BLOCK", block)
        assert everything() == pytest.approx(whole, abs=1e-10)


def mixed(views: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The same information behind a linear map, an offset, a constant and a repeated feature."""
    latent_dim = views[0].shape[1]
    mix = normal(latent_dim, latent_dim, seed=20) @ torch.logspace(-3, 3, latent_dim, dtype=torch.float64).diag()
    first, second = (view @ mix + 10.0 for view in views)
    constant = torch.full((len(first), 1), 0.3, dtype=torch.float64)
    return torch.cat([first, constant, first[:, :1]], dim=1), torch.cat([second, constant, second[:, :1]], dim=1)


def test_canonical_axes_are_the_generalised_eigenvectors_of_both_covariances() -> None:
    content, style = variances(4, 2.0)
    mix = normal(4, 4, seed=21)
    first, second = (view @ mix + 3.0 for view in two_views(300, content, style, seed=22))
    critic = CanonicalCritic.fit(first, second)
    mean = torch.cat([first, second]).mean(dim=0)
    a, b = (first - mean).numpy(), (second - mean).numpy()
    own, between = (a.T @ a + b.T @ b) / 600, (a.T @ b + b.T @ a) / 600
    expected = scipy.linalg.eigh(between, own, eigvals_only=True)
    torch.testing.assert_close(critic.correlation, torch.tensor(expected), rtol=0, atol=1e-10)
    axes = critic.axes.numpy()
    np.testing.assert_allclose(axes.T @ own @ axes, np.eye(4), atol=1e-10)
    np.testing.assert_allclose(axes.T @ between @ axes, np.diag(expected), atol=1e-10)


def test_the_canonical_critic_finds_information_behind_a_linear_map() -> None:
    content, style = variances(5, 1.5)
    train, test = two_views(4000, content, style, seed=23), two_views(2000, content, style, seed=24)
    best = mutual_information(*test, GaussianCritic(content, style))["bound"]
    found = mutual_information(*mixed(test), CanonicalCritic.fit(*mixed(train)))
    assert found["bound"] == pytest.approx(best, abs=0.02)
    assert best == pytest.approx(1.5, abs=0.1)
    assert len(CanonicalCritic.fit(*mixed(train)).correlation) == 5


def test_views_that_share_nothing_have_no_bound_above_zero() -> None:
    train, test = normal(2, 3000, 6, seed=27), normal(2, 1000, 6, seed=28)
    bound = mutual_information(*test, CanonicalCritic.fit(*train))["bound"]
    assert -0.1 < bound < 0.01


def test_too_few_train_rows_loosen_the_bound_and_never_lift_it() -> None:
    content, style = variances(20, 2.0)
    test = two_views(1000, content, style, seed=29)
    few = mutual_information(*test, CanonicalCritic.fit(*two_views(25, content, style, seed=30)))["bound"]
    many = mutual_information(*test, CanonicalCritic.fit(*two_views(5000, content, style, seed=31)))["bound"]
    assert few < many < 2.05


GOOD, OTHER, SHORT = normal(5, 2, seed=36), normal(5, 2, seed=37), normal(4, 2, seed=38)
BAD, ZERO = GOOD.index_fill(0, torch.tensor(2), math.nan), GOOD.index_fill(0, torch.tensor(3), 0)
ONE = torch.ones(2)
CRITIC = GaussianCritic(ONE, ONE)


def test_equal_views_reach_the_ceiling() -> None:
    x = normal(64, 3, seed=32)
    found = mutual_information(x, x, CanonicalCritic.fit(x, x))
    assert found["ceiling"] - 0.01 < found["bound"] <= found["ceiling"]


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (r"given features are NaN or infinite in 1 of 5 rows \(rows 2\)", lambda: effective_rank(BAD)),
        (r"second features are NaN or infinite in 1 of 5 rows", lambda: CanonicalCritic.fit(GOOD, BAD)),
        (r"second features must have shape \(5, 2\) .* got \(4, 2\)", lambda: alignment(GOOD, SHORT)),
        (r"scores must have shape .* got \(5, 2\)", lambda: infonce_bound(GOOD)),
        (
            r"scores must have shape \(5, 5\) .* got \(5,\)",
            lambda: mutual_information(GOOD, OTHER, lambda a, b: a[:, 0]),
        ),
        ("scores are NaN or infinite", lambda: mutual_information(GOOD, GOOD, lambda a, b: a @ b.T / 0)),
        (r"latent features must have shape \(row, 2\) .* got \(5, 3\)", lambda: CRITIC(normal(5, 3, seed=40), GOOD)),
        (r"features are 0 in 1 of 5 rows, .* row 3\)", lambda: alignment(ZERO, GOOD)),
        ("at least two rows, and t positive and finite", lambda: uniformity(GOOD[:1])),
        ("at least two rows, and t positive and finite", lambda: uniformity(GOOD, math.inf)),
        ("the same in all rows and both views", lambda: CanonicalCritic.fit(GOOD * 0, GOOD * 0)),
        ("content variances must be >= 0, style variances > 0", lambda: gaussian_information(ONE, 0 * ONE)),
        (r"style variances must have shape \(2,\) .* got \(3,\)", lambda: gaussian_information(ONE, torch.ones(3))),
    ],
)
def test_refuses(message: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=message):
        call()
