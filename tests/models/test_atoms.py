"""A distribution over K given points: against plain loops, and in Pyro's plates and enumeration."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor
from torch.autograd import gradcheck

from pp_simve.models import Atoms

POINTS = torch.tensor([[0.0, 1.0], [2.0, -1.0], [0.5, 0.5], [0.0, 1.5]], dtype=torch.float64)
COUNT, WIDTH = POINTS.shape


def draw_logits(*batch: int) -> Tensor:
    return torch.randn(*batch, COUNT, dtype=torch.float64)


@pytest.mark.parametrize("batch", [(), (5,), (1, 5), (7, 1, 5)])
def test_shapes_are_those_of_the_logits_and_the_points(batch: tuple[int, ...]) -> None:
    atoms = Atoms(POINTS, draw_logits(*batch))
    assert atoms.batch_shape == batch
    assert atoms.event_shape == (WIDTH,)
    assert atoms.mean.shape == atoms.mode.shape == atoms.variance.shape == (*batch, WIDTH)
    assert atoms.sample().shape == (*batch, WIDTH)
    assert atoms.sample((2, 3)).shape == atoms(torch.Size([2, 3])).shape == (2, 3, *batch, WIDTH)
    assert atoms.log_prob(atoms.sample((2, 3))).shape == (2, 3, *batch)
    assert atoms.probabilities.shape == (*batch, COUNT)


def test_a_point_has_its_probability_and_anything_else_none() -> None:
    logits = draw_logits(5)
    atoms = Atoms(POINTS, logits)
    for number in range(COUNT):
        found = atoms.log_prob(POINTS[number].expand(5, -1))
        torch.testing.assert_close(found, logits.log_softmax(-1)[:, number])
    # The last shares one coordinate with two of the points, but is none.
    for value in ([3.0, 3.0], [0.0, 1.0 + 1e-12], [0.0, -1.0], [0.0, 0.5]):
        assert bool((atoms.log_prob(torch.tensor(value, dtype=torch.float64)) == -math.inf).all())


def test_probabilities_of_equal_points_add_up() -> None:
    points = torch.stack([POINTS[0], POINTS[1], POINTS[0]])
    atoms = Atoms(points, torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log())
    assert float(atoms.log_prob(POINTS[0]).exp()) == pytest.approx(0.5)
    assert float(atoms.log_prob(POINTS[1]).exp()) == pytest.approx(0.5)


def test_moments_and_mode_are_those_of_the_table() -> None:
    logits = draw_logits(5)
    atoms, probabilities = Atoms(POINTS, logits), logits.softmax(-1)
    for row in range(5):
        table = [(float(probabilities[row, number]), POINTS[number].tolist()) for number in range(COUNT)]
        for axis in range(WIDTH):
            mean = sum(probability * point[axis] for probability, point in table)
            variance = sum(probability * (point[axis] - mean) ** 2 for probability, point in table)
            assert float(atoms.mean[row, axis]) == pytest.approx(mean)
            assert float(atoms.variance[row, axis]) == pytest.approx(variance)
        assert atoms.mode[row].tolist() == max(table)[1]


def test_draws_are_points_as_often_as_they_are_probable() -> None:
    logits, count = draw_logits(2), 40_000
    draws = Atoms(POINTS, logits).sample((count,))
    which = (draws.unsqueeze(-2) == POINTS).all(-1)
    assert bool((which.sum(-1) == 1).all())
    frequencies, probabilities = which.double().mean(0), logits.softmax(-1)
    error = (probabilities * (1 - probabilities) / count).sqrt()
    assert bool(((frequencies - probabilities).abs() < 4.5 * error).all())


def test_draws_carry_the_gradient_of_the_points_and_none_of_the_probabilities() -> None:
    points, logits = POINTS.clone().requires_grad_(), draw_logits(6).requires_grad_()
    atoms = Atoms(points, logits)
    assert not atoms.has_rsample
    draw = atoms.sample()
    of_points, of_logits = torch.autograd.grad(draw.sum(), (points, logits), allow_unused=True)
    drawn = (draw.detach().unsqueeze(-2) == POINTS).all(-1).sum(0)
    assert torch.equal(of_points, drawn.double().unsqueeze(-1).expand(-1, WIDTH))
    assert of_logits is None


def test_gradients_of_the_density_and_the_moments_are_right() -> None:
    logits, points = draw_logits(3).requires_grad_(), POINTS.clone().requires_grad_()
    values = POINTS[[0, 3, 1]]
    assert gradcheck(lambda logits: Atoms(POINTS, logits).log_prob(values), (logits,))
    assert gradcheck(lambda points, logits: Atoms(points, logits).mean, (points, logits))
    assert gradcheck(lambda points, logits: Atoms(points, logits).variance, (points, logits))


@pytest.mark.parametrize("batch", [(), (5,), (1, 5)])
def test_its_support_is_every_point(batch: tuple[int, ...]) -> None:
    atoms = Atoms(POINTS, draw_logits(*batch))
    assert atoms.has_enumerate_support
    wide, narrow = atoms.enumerate_support(), atoms.enumerate_support(expand=False)
    assert wide.shape == (COUNT, *batch, WIDTH)
    assert narrow.shape == (COUNT, *(1,) * len(batch), WIDTH)
    assert torch.equal(narrow.expand_as(wide), wide)
    assert torch.equal(narrow.reshape(COUNT, WIDTH), POINTS)
    total = atoms.log_prob(wide).logsumexp(0)
    torch.testing.assert_close(total, torch.zeros(batch, dtype=torch.float64))


@pytest.mark.parametrize("points", [POINTS[0], POINTS[None, :, 0]], ids=["one dimension", "values"])
def test_points_and_logits_that_do_not_fit_are_refused(points: Tensor) -> None:
    with pytest.raises((ValueError, IndexError, RuntimeError)):
        Atoms(points, draw_logits(5), validate_args=True).log_prob(POINTS[0])


def test_pyro_enumerates_it_to_the_sum_over_points() -> None:
    """log Σ_k p_k N(x; point_k, I), the points enumerated in the model."""
    logits, x = draw_logits(5).requires_grad_(), torch.randn(3, 5, WIDTH, dtype=torch.float64)

    def model() -> None:
        with pyro.plate("image", 5, dim=-1):
            content = pyro.sample("content", Atoms(POINTS, logits))
            with pyro.plate("view", 3, dim=-2):
                pyro.sample("x", dist.Normal(content, 1.0).to_event(1), obs=x)

    loss = TraceEnum_ELBO(max_plate_nesting=2).differentiable_loss(config_enumerate(model), lambda: None)
    expected = torch.zeros((), dtype=torch.float64)
    for image in range(5):
        joint = [
            logits.log_softmax(-1)[image, number]
            - 0.5 * ((x[:, image] - POINTS[number]).square() + math.log(2 * math.pi)).sum()
            for number in range(COUNT)
        ]
        expected = expected + torch.stack(joint).logsumexp(0)
    torch.testing.assert_close(-loss, expected, rtol=1e-12, atol=1e-12)
