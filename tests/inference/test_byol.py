"""Views that predict one another: against loops from the papers, what is held fixed, and the copy that follows."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Sequence
from typing import ClassVar

import pyro
import pytest
import torch
from torch import Tensor, nn

from pp_simve.inference import AmortizedGuide, DeltaGuide, Guide, ProgramError, fit
from pp_simve.inference.objectives.byol import BYOL
from pp_simve.models import (
    Bernoulli,
    EmpiricalPrior,
    FlatPrior,
    GaussianPrior,
    InfoNCE,
    MixturePrior,
    Prior,
    SimVE,
    network_precision,
)
from pp_simve.testing.objective import read_backs

from .programs import IMAGES, LATENT, PIXELS, SHAPE, SmoothEncoder, WithoutPixels, draw_views, small_images

DOUBLE = torch.float64
HIDDEN = (7, 4)


def make_objective(
    hidden: Sequence[int] = HIDDEN,
    momentum: float | None = None,
    dtype: torch.dtype = DOUBLE,
    projection: Sequence[int] = (),
) -> BYOL:
    prior = FlatPrior(LATENT)
    guide = DeltaGuide(SmoothEncoder(), prior, projection=projection)
    return BYOL(SimVE(prior), guide, hidden=hidden, momentum=momentum).to(dtype)


def guide_of(objective: BYOL) -> DeltaGuide:
    assert isinstance(objective.guide, DeltaGuide)
    return objective.guide


def target_of(objective: BYOL) -> DeltaGuide:
    assert isinstance(objective.target, DeltaGuide)
    return objective.target


def embeddings(guide: DeltaGuide, views: Tensor) -> Tensor:
    """z by hand, without a projection: shape ``(view, image, latent)``."""
    z: Tensor = guide.encoder_head.head(guide.encoder_head.encoder(views.flatten(0, 1))).unflatten(0, views.shape[:2])
    return z


def predictions(predictor: nn.Module, z: Tensor, training: bool) -> Tensor:
    """The predictor written out, batch norm over all views of the batch."""
    parts = list(predictor.children())
    rows = z.flatten(0, 1)
    for linear, norm in zip(parts[:-1:3], parts[1:-1:3], strict=True):
        assert isinstance(linear, nn.Linear)
        assert isinstance(norm, nn.BatchNorm1d)
        rows = torch.stack([linear.weight @ row for row in rows])
        mean, variance = norm.running_mean, norm.running_var
        if training:
            mean = torch.stack(list(rows)).sum(0) / len(rows)
            variance = torch.stack([(row - mean) ** 2 for row in rows]).sum(0) / len(rows)
        assert mean is not None
        assert variance is not None
        rows = norm.weight * (rows - mean) / (variance + 1e-5).sqrt() + norm.bias
        rows = torch.where(rows > 0, rows, 0.0)
    last = parts[-1]
    assert isinstance(last, nn.Linear)
    return torch.stack([last.weight @ row + last.bias for row in rows]).view(z.shape)


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


def gradient(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    return torch.cat([found.flatten() for found in torch.autograd.grad(loss, parameters, retain_graph=True)])


def trained(objective: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in objective.parameters() if parameter.requires_grad]


def assert_same(ours: Tensor, theirs: Tensor, parameters: Sequence[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient(ours, parameters), gradient(theirs, parameters), rtol=1e-10, atol=1e-10)


# The loss.


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [None, 0.9])
@pytest.mark.parametrize("hidden", [(), (7,), (7, 4)])
@pytest.mark.parametrize("views", [2, 3])
def test_it_is_the_sum_over_ordered_pairs_of_cosines_with_fixed_targets(
    views: int, hidden: tuple[int, ...], momentum: float | None, training: bool
) -> None:
    objective, batch = make_objective(hidden, momentum).train(training), draw_views(views)
    for value in objective.predictor.buffers():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5)
    if momentum is not None:
        with torch.no_grad():
            for parameter in target_of(objective).parameters():
                parameter.add_(torch.randn_like(parameter))
    terms = objective(batch)  # in evaluation the running statistics stay, in training they have no part in it
    guide = guide_of(objective)
    z = embeddings(guide, batch)
    targets = embeddings(guide if momentum is None else target_of(objective), batch)
    expected = loss_by_loops(predictions(objective.predictor, z, training), targets.detach())

    parameters = [*guide.parameters(), *objective.predictor.parameters()]
    assert {id(parameter) for parameter in parameters} == {id(parameter) for parameter in trained(objective)}
    assert_same(terms["loss"], expected, parameters)
    assert set(terms) == {"loss", "agreement"}
    assert not terms["agreement"].requires_grad
    torch.testing.assert_close(terms["agreement"], -expected.detach(), rtol=1e-10, atol=1e-10)


def test_for_two_views_it_is_twice_simsiams_loss_and_byols_less_four_halved() -> None:
    objective, (first, second) = make_objective().eval(), draw_views(2)
    guide, network = guide_of(objective), objective.predictor
    z = [embeddings(guide, view.unsqueeze(0)).squeeze(0) for view in (first, second)]
    p = [predictions(network, rows.unsqueeze(0), training=False).squeeze(0) for rows in z]

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


def test_the_targets_carry_no_gradient() -> None:
    """Where they did, the gradient would be another; the value would not."""
    objective, batch = make_objective().eval(), draw_views(3)
    z = embeddings(guide_of(objective), batch)
    predicted = predictions(objective.predictor, z, training=False)
    ours, encoder = objective(batch)["loss"], list(guide_of(objective).parameters())
    stopped, followed = loss_by_loops(predicted, z.detach()), loss_by_loops(predicted, z)
    torch.testing.assert_close(ours, followed, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient(ours, encoder), gradient(stopped, encoder), rtol=1e-10, atol=1e-10)
    assert float((gradient(ours, encoder) - gradient(followed, encoder)).norm()) > 0.1 * float(
        gradient(stopped, encoder).norm()
    )


def test_agreement_is_complete_where_all_views_are_equal_and_predicted_as_they_are() -> None:
    objective = make_objective(hidden=())
    predictor = objective.predictor[0]
    assert isinstance(predictor, nn.Linear)
    with torch.no_grad():
        predictor.weight.copy_(3 * torch.eye(LATENT))
        predictor.bias.zero_()
    views = draw_views(1).expand(4, *draw_views(1).shape[1:])
    torch.testing.assert_close(objective(views)["agreement"], torch.tensor(12.0, dtype=DOUBLE))


def test_embeddings_that_collapsed_to_zero_leave_loss_and_gradient_finite() -> None:
    objective = make_objective(dtype=torch.float32)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.zero_()
    loss = objective(draw_views(2, torch.float32))["loss"]
    assert loss == 0
    assert torch.isfinite(gradient(loss, trained(objective))).all()


# The copy that follows.


def states(guide: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in guide.parameters()]


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.5, 0.99])
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
    for place, found in enumerate(target_of(objective).parameters()):
        expected = momentum ** (steps - 1) * seen[0][place]
        for k in range(2, steps + 1):
            expected = expected + (1 - momentum) * momentum ** (steps - k) * seen[k - 1][place]
        torch.testing.assert_close(found.detach(), expected, rtol=1e-12, atol=1e-12)
        assert found.grad is None
    moved = [float((last - first).norm()) for first, last in zip(seen[0], seen[-1], strict=True)]
    # Batch norm in the predictor takes the mean of z off, so that the head's bias stays: the last of the parameters.
    assert min(moved[:-1]) > 1e-3
    assert moved[-1] < 1e-12


def test_the_first_move_changes_no_bit() -> None:
    objective = make_objective(momentum=0.99, dtype=torch.float32)
    before = states(objective.guide)
    objective(draw_views(2, torch.float32))
    assert all(map(torch.equal, before, states(target_of(objective))))


def test_the_target_moves_in_training_only() -> None:
    objective = make_objective(momentum=0.5)
    with torch.no_grad():
        for parameter in objective.guide.parameters():
            parameter.add_(1.0)
    before = states(target_of(objective))
    objective.eval()
    objective(draw_views(2))
    assert all(map(torch.equal, before, states(target_of(objective))))
    objective.train()
    objective(draw_views(2))
    for was, parameter in zip(before, target_of(objective).parameters(), strict=True):
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
    assert all(map(torch.equal, states(target_of(with_copy)), states(with_copy.guide)))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        gradient(ours, trained(with_copy)), gradient(theirs, trained(without)), rtol=1e-12, atol=1e-12
    )


def test_batch_norm_of_the_target_runs_by_itself() -> None:
    """Its statistics are those of its own forward passes, and follow nothing."""
    objective = make_objective(momentum=0.5, projection=(6,))
    views = draw_views(2)
    with torch.no_grad():
        for parameter in objective.guide.parameters():
            parameter.add_(torch.randn_like(parameter))
    objective(views)
    encoder_head = target_of(objective).encoder_head
    hidden = encoder_head.projection[0](encoder_head.encoder(views.flatten(0, 1))).detach()
    norms = [guide.encoder_head.projection[1] for guide in (target_of(objective), guide_of(objective))]
    torch.testing.assert_close(norms[0].running_mean, 0.1 * hidden.mean(0), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(norms[0].running_var, 0.9 + 0.1 * hidden.var(0), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(norms[0].running_mean, norms[1].running_mean)
    objective.eval()
    before = copy.deepcopy(objective.state_dict())
    objective(views)
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())


def test_the_target_is_not_trained_but_saved() -> None:
    objective = make_objective(momentum=0.9)
    target = {id(parameter) for parameter in target_of(objective).parameters()}
    assert target
    assert not target & {id(parameter) for parameter in trained(objective)}
    assert not target & {id(parameter) for parameter in objective.guide.parameters()}
    named = {f"target.{name}" for name, _ in objective.guide.named_parameters()}
    assert named <= set(objective.state_dict())
    assert not any(name.startswith("target") for name in make_objective().state_dict())


def run_steps(objective: BYOL, steps: int, seed: int) -> list[Tensor]:
    """Losses of a few gradient steps on views drawn under a seed."""
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        views = torch.rand(2, IMAGES, *SHAPE, dtype=DOUBLE, generator=generator)
        loss = objective(views)["loss"]
        for parameter, slope in zip(trained(objective), torch.autograd.grad(loss, trained(objective)), strict=True):
            parameter.data.add_(slope, alpha=-0.1)
        losses.append(loss.detach())
    return losses


@pytest.mark.parametrize("momentum", [None, 0.9])
@pytest.mark.parametrize("how", ["state dict", "deepcopy", "pickle"])
def test_a_copy_goes_on_as_the_original_does(how: str, momentum: float | None) -> None:
    original = make_objective(momentum=momentum, projection=(6,))
    run_steps(original, 3, seed=1)
    if how == "state dict":
        file = io.BytesIO()
        torch.save(original.state_dict(), file)
        file.seek(0)
        other = make_objective(momentum=momentum, projection=(6,))
        other.load_state_dict(torch.load(file, weights_only=True))
    else:
        other = copy.deepcopy(original) if how == "deepcopy" else pickle.loads(pickle.dumps(original))
    expected = run_steps(original, 3, seed=2)
    # Not to the bit: sums of a few numbers are vectorised by where in memory they lie.
    torch.testing.assert_close(run_steps(other, 3, seed=2), expected, rtol=1e-12, atol=1e-12)
    states_after = [list(objective.state_dict().values()) for objective in (other, original)]
    torch.testing.assert_close(*states_after, rtol=1e-12, atol=1e-12)


# In a fit.


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_a_training_step_reads_nothing_back(momentum: float | None) -> None:
    objective = make_objective(momentum=momentum, dtype=torch.float32, projection=(6,))
    optimizer = torch.optim.Adam(trained(objective), fused=True)

    def step() -> None:
        objective(draw_views(2, torch.float32))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    with pyro.validation_enabled(False):
        step()
        before = states(objective.guide if objective.target is None else objective.target)
        with read_backs() as found:
            step()
            step()
    after = states(objective.guide if objective.target is None else objective.target)
    assert found == []
    assert not any(map(torch.equal, before, after))


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_the_predictor_runs_in_the_precision_of_networks_and_terms_in_full(momentum: float | None) -> None:
    objective, views = make_objective(momentum=momentum, dtype=torch.float32), draw_views(2, torch.float32)
    full = objective(views)["loss"]
    dtypes: list[torch.dtype] = []
    watched = objective.predictor[-1].register_forward_hook(lambda _, __, out: dtypes.append(out.dtype))
    with network_precision(torch.bfloat16):
        terms = objective(views)
    watched.remove()
    assert dtypes == [torch.bfloat16]
    assert terms["loss"].dtype == terms["agreement"].dtype == torch.float32
    assert torch.isfinite(gradient(terms["loss"], trained(objective))).all()
    assert terms["loss"] != full
    torch.testing.assert_close(terms["loss"], full, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("momentum", [None, 0.5])
def test_a_short_fit_lowers_the_loss(momentum: float | None) -> None:
    torch.manual_seed(0)
    objective = make_objective(hidden=(16,), momentum=momentum, dtype=torch.float32)
    guide = guide_of(objective)
    start = states(target_of(objective)) if objective.target is not None else []
    run = fit(
        objective.model,
        guide,
        small_images(),
        objective=objective,
        batch_size=20,
        steps=20,
        lr=1e-2,
        device="cpu",
        precision="32",
    )
    losses = [row["loss"] for row in run.history]
    assert len(losses) == 20
    assert sum(losses[-5:]) < sum(losses[:5]) - 1
    assert [row["agreement"] for row in run.history] == [-loss for loss in losses]
    if objective.target is not None:
        assert not any(map(torch.equal, start, states(objective.target)))


@pytest.mark.parametrize(
    "prior",
    [
        GaussianPrior(LATENT, 1.5, 0.4, learn_content=True, learn_style=True),
        MixturePrior(LATENT, 3),
        EmpiricalPrior(LATENT, memory=4),
        EmpiricalPrior(LATENT, memory=None),
    ],
    ids=lambda prior: type(prior).__name__,
)
def test_a_copy_of_the_guide_under_other_priors_is_a_guide(prior: Prior) -> None:
    """With Pyro's checks on; a guide that draws z is copied as well."""
    objective = BYOL(SimVE(prior), AmortizedGuide(SmoothEncoder(), prior), momentum=0.9)
    with pyro.validation_enabled(True):
        for _ in range(2):
            objective(draw_views(2, torch.float32))["loss"].backward()
    copy.deepcopy(objective.state_dict())


# Errors.


@pytest.mark.parametrize("momentum", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
def test_a_momentum_out_of_range_is_refused(momentum: float) -> None:
    message = rf"momentum must be in \[0, 1\), or None for targets from the guide itself without a copy, got {momentum}"
    with pytest.raises(ValueError, match=message):
        make_objective(momentum=momentum)


def test_a_layer_without_units_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hidden is a list of the predictor's widths, each at least 1, got \[8, 0\]"):
        make_objective(hidden=(8, 0))


@pytest.mark.parametrize("what", ["pixels", "groups"])
def test_a_model_that_observes_something_is_refused(what: str) -> None:
    prior = FlatPrior(LATENT)
    decoder = nn.Sequential(nn.Linear(LATENT, PIXELS), nn.Unflatten(-1, SHAPE))
    model = SimVE(prior, Bernoulli(decoder)) if what == "pixels" else SimVE(prior, group=InfoNCE())
    with pytest.raises(ValueError, match="it needs a model that observes nothing"):
        BYOL(model, DeltaGuide(SmoothEncoder(), prior))


@pytest.mark.parametrize("momentum", [None, 0.5])
def test_one_view_of_each_image_is_refused_and_moves_nothing(momentum: float | None) -> None:
    objective = make_objective(momentum=momentum)
    with torch.no_grad():
        guide_of(objective).encoder_head.head.weight.add_(1.0)
    before = states(objective)
    with pytest.raises(ProgramError, match="agreement is between views of an image, so it needs 2 views or more"):
        objective(draw_views(1))
    assert all(map(torch.equal, before, states(objective)))


# The suites that users run on theirs.


class TestBootstrap(WithoutPixels):
    exact_gradient: ClassVar[bool] = False  # the targets are stopped
    # Batch norm in the predictor takes the mean of z off.
    without_gradient: ClassVar[Sequence[str]] = ("head.bias", *WithoutPixels.without_gradient)

    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return BYOL(SimVE(model.prior), guide)


class TestBootstrapWithMomentum(TestBootstrap):
    # The targets are of another network, but the predictor has kinks, and finite differences step over one.

    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return BYOL(SimVE(model.prior), guide, momentum=0.9)


class TestBootstrapOfALinearPredictor(TestBootstrap):
    exact_gradient: ClassVar[bool] = True  # the targets are of another network, which does not move in evaluation
    without_gradient: ClassVar[Sequence[str]] = TestBootstrap.without_gradient[1:]

    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return BYOL(SimVE(model.prior), guide, hidden=(), momentum=0.0)
