"""The balanced weight: gradients at the backbone by closed forms, its limits, what it keeps and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor, nn

from pp_simve.inference import (
    ELBO,
    AmortizedGuide,
    Balanced,
    CheckpointFile,
    DeltaGuide,
    Linear,
    MLPEncoder,
    ProgramError,
    fit,
)
from pp_simve.inference.objectives.balance import DECAY, EVERY
from pp_simve.models import Bernoulli, BlockPrior, Gaussian, GaussianPrior, InfoNCE, NTXent, SimVE, StandardPrior

from .programs import (
    DOUBLE,
    FEATURES,
    LATENT,
    PIXELS,
    SHAPE,
    SmoothEncoder,
    assert_no_reads,
    assert_rate,
    draw_views,
    make_loop,
    small_images,
    stop_after,
)

VARIANCE, TEMPERATURE = 0.3, 0.7


class Toy(nn.Module):
    """z = A·h, pixels D·z of a fixed variance, z ~ N(0, I), groups by InfoNCE on z itself: all gradients are known."""

    def __init__(self, alpha: Any, **options: Any) -> None:
        super().__init__()
        pyro.set_rng_seed(1)
        prior = StandardPrior(LATENT)
        decoder = nn.Sequential(nn.Linear(LATENT, PIXELS), nn.Unflatten(-1, SHAPE))
        model = SimVE(prior, Gaussian(decoder, VARIANCE), InfoNCE(TEMPERATURE, unit_norm=False))
        self.guide = DeltaGuide(SmoothEncoder(), prior)
        self.objective = ELBO(model, self.guide, alpha=alpha, **options)
        self.double()

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self.objective(views)
        return terms

    @torch.no_grad()
    def by_hand(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of −ELBO and of −log p(group), sums over the batch, by the features: (view, image, feature)."""
        head, decoder = self.guide.encoder_head, self.objective.model.likelihood.decoder[0]
        h = head.encoder(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        z = head.head(h)
        error = decoder(z) - views.flatten(2)
        of_bound = (error @ decoder.weight / VARIANCE + z) @ head.head.weight
        of_z = torch.zeros_like(z)
        for view in (0, 1):
            anchors, candidates = z[view], z[1 - view]
            share = (-(anchors[:, None] - candidates).square().sum(-1) / (2 * TEMPERATURE)).softmax(-1)
            of_z[view] += (share @ candidates - candidates) / TEMPERATURE
            drawn = share.T @ anchors - share.sum(0)[:, None] * candidates
            of_z[1 - view] += (drawn - (anchors - candidates)) / TEMPERATURE
        return of_bound, of_z @ head.head.weight


def at_backbone(toy: Toy, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(toy.guide.encoder_head.encoder.parameters()), retain_graph=True))


def test_norms_weight_and_cosine_equal_the_closed_forms() -> None:
    toy, views = Toy(Balanced(0.4)), draw_views(2)
    of_bound, of_group = toy.by_hand(views)
    terms = toy(views)
    torch.testing.assert_close(toy.objective.alpha.norms, (1 - DECAY) * torch.stack([of_bound.norm(), of_group.norm()]))
    torch.testing.assert_close(terms["alpha"], of_bound.norm() / (0.4 * of_group.norm()))
    cosine = (of_bound * of_group).sum() / (of_bound.norm() * of_group.norm())
    torch.testing.assert_close(terms["cosine"], cosine)
    # The loss is that of a number: L(α) / α with this α.
    fixed, alpha = Toy(float(terms["alpha"])), terms["alpha"]
    torch.testing.assert_close(terms["loss"], fixed(views)["loss"] / alpha)
    assert not alpha.requires_grad
    for ours, theirs in zip(at_backbone(toy, terms["loss"]), at_backbone(fixed, fixed(views)["loss"]), strict=True):
        torch.testing.assert_close(ours, theirs / alpha)


def test_averages_move_at_the_first_steps_and_at_one_in_some_from_then_on() -> None:
    toy = Toy(Balanced(0.4))
    average = torch.zeros(2, dtype=DOUBLE)
    for step in range(3 * EVERY):
        views = draw_views(2)
        if step < EVERY or step % EVERY == 0:
            average = DECAY * average + (1 - DECAY) * torch.stack([part.norm() for part in toy.by_hand(views)])
        alpha = toy(views)["alpha"]
        torch.testing.assert_close(alpha, average[0] / (0.4 * average[1]), msg=str(step))


def test_in_evaluation_and_without_gradients_the_weight_is_the_last_one() -> None:
    toy = Toy(Balanced(0.4))
    last = toy(draw_views(2))["alpha"]
    with torch.no_grad():
        assert torch.equal(toy(draw_views(2))["alpha"], last)
    toy.eval()
    assert torch.equal(toy(draw_views(2))["alpha"], last)
    assert toy.objective.alpha.calls == 1


def test_a_large_ratio_leads_to_simve_like_one_over_the_ratio() -> None:
    ratios, views, errors = [1e1, 1e2, 1e3, 1e4], draw_views(2), []
    simve = Toy(0.0)
    expected = torch.cat([part.flatten() for part in at_backbone(simve, simve(views)["loss"])])
    for ratio in ratios:
        toy = Toy(Balanced(ratio))
        terms = toy(views)
        found = torch.cat([part.flatten() for part in at_backbone(toy, terms["loss"])])
        errors.append(terms["alpha"] * found - expected)
    assert_rate(ratios, errors, -1)


def test_at_ratio_zero_the_backbone_has_the_groups_gradient_alone_and_the_decoder_its_own() -> None:
    toy, views = Toy(Balanced(0.0)), draw_views(2)
    terms = toy(views)
    one, none = Toy(1.0), Toy(0.0)
    of_group = [
        a - b for a, b in zip(at_backbone(one, one(views)["loss"]), at_backbone(none, none(views)["loss"]), strict=True)
    ]
    for ours, theirs in zip(at_backbone(toy, terms["loss"]), of_group, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
    for mine, plain in zip(
        torch.autograd.grad(terms["loss"], list(toy.objective.model.likelihood.parameters())),
        torch.autograd.grad(none(views)["loss"], list(none.objective.model.likelihood.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(terms["alpha"] * mine, plain)


def test_the_ratio_may_follow_a_schedule() -> None:
    toy, views = Toy(Balanced(Linear(0.1, 0.5))), draw_views(2)
    start = toy.objective.alpha.ratio
    start.move(0, 10)
    first = toy(views)["alpha"]
    start.move(10, 10)
    torch.testing.assert_close(toy(views)["alpha"], first / 5)


def test_a_group_likelihood_of_the_backbone_is_one_more_term_with_the_same_weight() -> None:
    views = draw_views(2)
    toy = Toy(2.0, backbone=NTXent(0.5))
    with torch.no_grad():
        h = toy.guide.encoder_head.encoder(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        of_group, groups = NTXent(0.5)(h)
        expected = of_group.log_prob(groups).sum(0).mean()
    terms = toy(views)
    torch.testing.assert_close(terms["backbone_group"], expected)
    torch.testing.assert_close(terms["loss"].detach(), Toy(2.0)(views)["loss"].detach() - 2 * expected)


def colour_pair(alpha: Any = None, dtype: torch.dtype = torch.float32) -> ELBO:
    """Both heads, with batch norm, and noise."""
    pyro.set_rng_seed(0)
    prior = BlockPrior(4, content=2)
    decoder = nn.Sequential(nn.Linear(4, PIXELS), nn.Unflatten(-1, SHAPE))
    model = SimVE(prior, Bernoulli(decoder), NTXent(width=2, projection=[5]))
    guide = AmortizedGuide(SmoothEncoder(), prior)
    return ELBO(model, guide, alpha=alpha or Balanced(0.3), backbone=NTXent(projection=[6])).to(dtype)


def test_a_step_reads_nothing_back() -> None:
    objective = colour_pair()
    # A bias before cosines to all others hardly moves; all else does.
    assert_no_reads(make_loop(objective, small_images(40)))


@pytest.mark.parametrize("steps", [3, 17])
def test_a_fit_that_was_stopped_goes_on_bit_for_bit(tmp_path: Path, steps: int) -> None:
    def run(checkpoint: CheckpointFile | None = None, **options: Any) -> Any:
        objective = colour_pair()
        return fit(
            objective.model,
            objective.guide,
            small_images(40),
            objective=objective,
            steps=2 * EVERY + 5,
            batch_size=8,
            device="cpu",
            precision="32",
            checkpoint=checkpoint,
            **options,
        )

    whole, file = run(), CheckpointFile(tmp_path / "checkpoint.pt")
    run(file, should_stop=stop_after(steps))
    resumed = run(file)
    assert resumed.history == whole.history[steps:]
    assert {"alpha", "cosine"} <= resumed.history[-1].keys()
    for name, value in resumed.objective.state_dict().items():
        assert torch.equal(value, whole.objective.state_dict()[name]), name


def pair(likelihood: bool = True, group: bool = True) -> tuple[SimVE, DeltaGuide]:
    prior = GaussianPrior(LATENT)
    decoder = nn.Sequential(nn.Linear(LATENT, PIXELS), nn.Unflatten(-1, SHAPE))
    model = SimVE(prior, Bernoulli(decoder) if likelihood else None, NTXent() if group else None)
    return model, DeltaGuide(SmoothEncoder(), prior)


def test_where_there_is_nothing_to_balance_it_says_so() -> None:
    views = draw_views(2, torch.float32)
    with pytest.raises(ProgramError, match="observes no pixels; give alpha as a number"):
        ELBO(*pair(likelihood=False), alpha=Balanced())(views)
    with pytest.raises(ProgramError, match="observes no group"):
        ELBO(*pair(group=False), alpha=Balanced())(views)
    model, guide = pair()
    guide.encoder_head.encoder.requires_grad_(False)
    with pytest.raises(ProgramError, match="its encoder is frozen or passes no `Backbone`"):
        ELBO(model, guide, alpha=Balanced())(views)
    with pytest.raises(ValueError, match=r"ratio must not be negative, got -0\.1"):
        Balanced(-0.1)


def test_the_backbone_of_several_encoders_is_not_one() -> None:
    prior = GaussianPrior(LATENT)
    guide = AmortizedGuide({"a": MLPEncoder(SHAPE, [FEATURES]), "b": MLPEncoder(SHAPE, [FEATURES])}, prior)
    with pytest.raises(ValueError, match="AmortizedGuide has 2 encoders"):
        ELBO(SimVE(prior), guide, backbone=NTXent())
