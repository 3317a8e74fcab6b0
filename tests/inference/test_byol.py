"""BYOL and SimSiam against loops from the papers: the loss, the stopped gradient and the moving average."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from pp_simve.inference import DeltaGuide, Guide
from pp_simve.inference.objectives.byol import BYOL
from pp_simve.models import (
    FlatPrior,
    SimVE,
)

from .programs import (
    DOUBLE,
    LATENT,
    SmoothEncoder,
    WithoutPixels,
    assert_same,
    draw_views,
    embeddings,
    gradients,
)

HIDDEN = (7, 4)


def make_objective(
    hidden: Sequence[int] = HIDDEN,
    momentum: float | None = None,
    dtype: torch.dtype = DOUBLE,
    projection: Sequence[int] = (),
) -> Any:
    prior = FlatPrior(LATENT)
    guide = DeltaGuide(SmoothEncoder(), prior, projection=projection)
    return BYOL(SimVE(prior), guide, hidden=hidden, momentum=momentum).to(dtype)


def trained(objective: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in objective.parameters() if parameter.requires_grad]


def states(guide: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in guide.parameters()]


def flat(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    return torch.cat([slope.flatten() for slope in gradients(loss, parameters)])


def predictions(predictor: nn.Module, z: Tensor) -> Tensor:
    """Norms are over all views of the batch."""
    rows: Tensor = predictor(z.flatten(0, 1))
    return rows.view(z.shape)


def cosine(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum() / (one.square().sum().sqrt() * other.square().sum().sqrt())


def loss_by_loops(predicted: Tensor, targets: Tensor) -> Tensor:
    """−Σ over ordered pairs of views of the cosine, mean over images."""
    views, images, _ = predicted.shape
    total = torch.zeros((), dtype=DOUBLE)
    for image in range(images):
        for j in range(views):
            for i in range(views):
                if i != j:
                    total = total - cosine(predicted[j, image], targets[i, image])
    return total / images


# The loss.


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("views", "hidden", "momentum"), [(2, (), 0.9), (3, (7,), None), (2, (7, 4), None), (3, (7, 4), 0.9)]
)
def test_it_is_the_sum_over_ordered_pairs_of_cosines_with_fixed_targets(
    views: int, hidden: tuple[int, ...], momentum: float | None, training: bool
) -> None:
    objective, batch = make_objective(hidden, momentum).train(training), draw_views(views)
    for value in objective.predictor.buffers():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5)
    if momentum is not None:
        with torch.no_grad():
            for parameter in objective.target.parameters():
                parameter.add_(torch.randn_like(parameter))
    terms = objective(batch)  # in evaluation the running statistics stay, in training they have no part in it
    guide = objective.guide
    z = embeddings(guide, batch)
    targets = embeddings(guide if momentum is None else objective.target, batch)
    expected = loss_by_loops(predictions(objective.predictor, z), targets.detach())

    parameters = [*guide.parameters(), *objective.predictor.parameters()]
    assert {id(parameter) for parameter in parameters} == {id(parameter) for parameter in trained(objective)}
    assert_same(terms["loss"], expected, parameters)
    assert set(terms) == {"loss", "agreement"}
    assert not terms["agreement"].requires_grad
    torch.testing.assert_close(terms["agreement"], -expected.detach(), rtol=1e-10, atol=1e-10)


def test_for_two_views_it_is_twice_simsiams_loss_and_byols_less_four_halved() -> None:
    objective, (first, second) = make_objective().eval(), draw_views(2)
    guide, network = objective.guide, objective.predictor
    z = [embeddings(guide, view.unsqueeze(0)).squeeze(0) for view in (first, second)]
    p = [predictions(network, rows.unsqueeze(0)).squeeze(0) for rows in z]

    def distance(predicted: Tensor, target: Tensor) -> Tensor:
        """D of SimSiam's algorithm 1."""
        target = target.detach()
        predicted = predicted / predicted.norm(dim=1, keepdim=True)
        target = target / target.norm(dim=1, keepdim=True)
        return -(predicted * target).sum(1).mean()

    def squared(predicted: Tensor, target: Tensor) -> Tensor:
        """BYOL's equation 2: the squared distance of unit vectors."""
        target = target.detach()
        difference = predicted / predicted.norm(dim=1, keepdim=True) - target / target.norm(dim=1, keepdim=True)
        return difference.square().sum(1).mean()

    loss = objective(torch.stack([first, second]))["loss"]
    parameters = trained(objective)
    assert_same(loss, 2 * (distance(p[0], z[1]) / 2 + distance(p[1], z[0]) / 2), parameters)
    assert_same(4 + 2 * loss, squared(p[0], z[1]) + squared(p[1], z[0]), parameters)


# The copy that follows.


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.99])
def test_after_n_steps_the_target_is_the_exponential_average_of_the_guide(momentum: float) -> None:
    """θ̂_n = m^(n−1) θ_1 + (1 − m) Σ_{k=2..n} m^(n−k) θ_k, with θ_k the guide's at step k."""
    objective = make_objective(momentum=momentum)
    optimizer = torch.optim.SGD(trained(objective), lr=1.0)
    seen: list[list[Tensor]] = []
    steps = 7
    for _ in range(steps):
        seen.append(states(objective.guide))
        optimizer.zero_grad()
        objective(draw_views(2))["loss"].backward()
        optimizer.step()
    for place, found in enumerate(objective.target.parameters()):
        expected = momentum ** (steps - 1) * seen[0][place]
        for k in range(2, steps + 1):
            expected = expected + (1 - momentum) * momentum ** (steps - k) * seen[k - 1][place]
        torch.testing.assert_close(found.detach(), expected, rtol=1e-12, atol=1e-12)
        assert found.grad is None
    moved = [float((last - first).norm()) for first, last in zip(seen[0], seen[-1], strict=True)]
    # Batch norm in the predictor takes the mean of z off, so that the head's bias stays: the last of the parameters.
    assert min(moved[:-1]) > 1e-3
    assert moved[-1] < 1e-12


def test_the_target_moves_in_training_only() -> None:
    objective = make_objective(momentum=0.5)
    with torch.no_grad():
        for parameter in objective.guide.parameters():
            parameter.add_(1.0)
    before = states(objective.target)
    objective.eval()
    objective(draw_views(2))
    assert all(map(torch.equal, before, states(objective.target)))
    objective.train()
    objective(draw_views(2))
    for was, parameter in zip(before, objective.target.parameters(), strict=True):
        torch.testing.assert_close(parameter.detach(), was + 0.5)


def test_without_momentum_to_keep_the_target_is_the_guide_as_it_is() -> None:
    """Momentum 0 is then the same loss and gradient as no copy."""
    with_copy = make_objective(momentum=0.0, projection=(6,))
    without = make_objective(projection=(6,))
    with torch.no_grad():
        for parameter in with_copy.guide.parameters():
            parameter.add_(torch.randn_like(parameter))
    without.guide.load_state_dict(with_copy.guide.state_dict())
    without.predictor.load_state_dict(with_copy.predictor.state_dict())
    views = draw_views(3)
    ours, theirs = with_copy(views)["loss"], without(views)["loss"]
    assert all(map(torch.equal, states(with_copy.target), states(with_copy.guide)))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(flat(ours, trained(with_copy)), flat(theirs, trained(without)), rtol=1e-12, atol=1e-12)


def test_batch_norm_of_the_target_runs_by_itself() -> None:
    """Its statistics are those of its own forward passes, and follow nothing."""
    objective = make_objective(momentum=0.5, projection=(6,))
    views = draw_views(2)
    with torch.no_grad():
        for parameter in objective.guide.parameters():
            parameter.add_(torch.randn_like(parameter))
    objective(views)
    encoder_head = objective.target.encoder_head
    hidden = encoder_head.projection[0](encoder_head.encoder(views.flatten(0, 1))).detach()
    norms = [guide.encoder_head.projection[1] for guide in (objective.target, objective.guide)]
    torch.testing.assert_close(norms[0].running_mean, 0.1 * hidden.mean(0), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(norms[0].running_var, 0.9 + 0.1 * hidden.var(0), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(norms[0].running_mean, norms[1].running_mean)
    objective.eval()
    before = copy.deepcopy(objective.state_dict())
    objective(views)
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())


# The suites that users run on theirs.


class TestSimSiam(WithoutPixels):
    exact_gradient: ClassVar[bool] = False  # the targets are stopped
    # Batch norm in the predictor takes the mean of z off.
    without_gradient: ClassVar[Sequence[str]] = ("head.bias", *WithoutPixels.without_gradient)

    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return BYOL(SimVE(model.prior), guide)


class TestBYOL(TestSimSiam):
    # The targets are of another network, but the predictor has kinks, and finite differences step over one.

    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return BYOL(SimVE(model.prior), guide, momentum=0.9)


class TestBYOLOfALinearPredictor(TestSimSiam):
    exact_gradient: ClassVar[bool] = True  # the targets are of another network, which does not move in evaluation
    without_gradient: ClassVar[Sequence[str]] = TestSimSiam.without_gradient[1:]

    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return BYOL(SimVE(model.prior), guide, hidden=(), momentum=0.0)
