"""What all posterior checks have in common: batches, seeds, modalities, and invalid input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from pp_simve.evaluation.posterior import (
    STATISTICS,
    batches,
    calibrate,
    check_axes,
    check_predictions,
    check_weights,
    leave_one_view_out,
    match_prototypes,
    predictive,
    prototype_use,
    rank_uniformity,
    weighted_moments,
)
from pp_simve.evaluation.posterior.arviz_versions import FEWEST_DRAWS
from pp_simve.evaluation.posterior.ranks import rank_among
from pp_simve.inference import AmortizedGuide, DeltaGuide, PointGuide
from pp_simve.models import EmpiricalPrior, FlatPrior, Gaussian, SimVE, Views

from ..inference.linear_gaussian import LATENT, PotentialEncoder, make_model
from .planted_guides import planted, program_of_modalities

Result = Callable[..., Any]
RESULTS: dict[str, tuple[int, Result]] = {
    "weights": (30, lambda *pair, seed: check_weights(*pair, draws=30, seed=seed).elbo),
    "calibration": (20, lambda *pair, seed: calibrate(*pair, simulations=50, draws=20, seed=seed).ranks["z"].ranks),
    "predictions": (
        1700,
        lambda *pair, seed: torch.cat(
            [of.p_values for of in check_predictions(*pair, draws=1700, seed=seed).statistics.values()]
        ),
    ),
    "left out": (20, lambda *pair, seed: leave_one_view_out(*pair, draws=20, seed=seed).score),
    "axes": (10, lambda *pair, seed: check_axes(*pair, draws=10, seed=seed).latents["z"].contraction),
}
"""Draws of each image, and numbers of the check."""


@pytest.mark.parametrize("modalities", [False, True])
@pytest.mark.parametrize("check", RESULTS)
def test_batches_seeds_and_modalities(check: str, modalities: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images a batch, the same seed the same numbers, and torch's generator as it was."""
    if modalities:
        model, guide, views = program_of_modalities()
    else:
        model, guide, views, *_ = planted(factor=0.9, images=5)
    count, images = Views.of(views).n_views, Views.of(views).n_images
    state = torch.get_rng_state()
    draws, result = RESULTS[check]
    monkeypatch.setattr(batches, "NUMBERS_AT_ONCE", 2 * draws * count * model.prior.latent_dim)
    monkeypatch.setattr(predictive, "PIXELS_AT_ONCE", 100 * sum(batch.numel() for batch in Views.of(views).tensors()))
    first, again, other = (result(model, guide, views, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.isfinite().all()
    assert torch.equal(state, torch.get_rng_state())
    shapes = {
        "weights": (images,),
        "calibration": (50, model.prior.latent_dim),
        "left out": (count, images),
        "axes": (model.prior.latent_dim,),
        "predictions": (count * len(STATISTICS), images),
    }
    assert first.shape == shapes[check]


def test_names_of_several_modalities() -> None:
    model, guide, views = program_of_modalities()
    found = check_predictions(model, guide, views, draws=2000, seed=1)
    assert list(found.statistics)[:4] == [f"picture {name}" for name in STATISTICS]
    assert found.statistics["picture mean"].observed.shape == (2, 5)
    assert found.statistics["attributes mean"].p_values.shape == (1, 5)
    assert {check.level for check in found.statistics.values()} == {0.01 / 8}
    pit = leave_one_view_out(model, guide, views, draws=20, seed=1).pit
    assert pit["picture mean"].names == ("picture mean of view 0", "picture mean of view 1")
    assert pit["attributes ink"].names == ("attributes ink of view 0",)
    assert {name: of.ranks.shape for name, of in pit.items()} == {
        f"{modality} {name}": (5, count)
        for modality, count in (("picture", 2), ("attributes", 1))
        for name in STATISTICS
    }
    assert {of.curves for of in pit.values()} == {12}  # all share the level


def test_points_have_predictions_and_axes_but_no_weights_ranks_or_scores() -> None:
    model, exact, views, _, linear = planted()
    for make in (PointGuide, DeltaGuide):
        guide = make(PotentialEncoder(linear), exact.prior).double()
        with pytest.raises(ValueError, match="no meaning; predictive checks still have"):
            check_weights(model, guide, views, seed=1)
        with pytest.raises(ValueError, match="ranks have no meaning"):
            calibrate(model, guide, views, seed=1)
        found = leave_one_view_out(model, guide, views, draws=20, seed=1)
        assert found.score is found.error is found.mean_score is None
        assert found.pit["mean"].ranks.shape == (4, 3)
        assert set(check_predictions(model, guide, views, seed=1).statistics) == set(STATISTICS)
    certain = check_axes(model, guide, views, seed=1).latents["z"]
    assert certain.contraction.tolist() == pytest.approx([1.0] * LATENT)
    assert not certain.empty


CALLS: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (check_weights, {"draws": 1}, rf"weighted estimates have no meaning for fewer than {FEWEST_DRAWS} draws, got 1"),
    (check_weights, {"views": torch.zeros(3, 4, 1, 2, 4).byte()}, "views must be float .* got uint8"),
    (check_weights, {"views": torch.zeros(3, 0, 1, 2, 4)}, "of one image at least"),
    (check_weights, {"pixels": False}, "no likelihood"),
    (calibrate, {"draws": 0}, "2 simulations at least, got 0 and 500"),
    (calibrate, {"pixels": False}, "no likelihood"),
    (calibrate, {"quantities": {"z": lambda draws: draws.z}}, "rename z"),
    (calibrate, {"quantities": {"all": lambda draws: draws.content}}, "must be one number a draw and image"),
    (check_predictions, {"statistics": {}}, "at least one"),
    (check_predictions, {"draws": 100}, "take at least 800 draws"),
    (check_predictions, {"pixels": False}, "without a likelihood"),
    (check_predictions, {"statistics": {"all": lambda images: images}}, "must give one number an image"),
    (check_predictions, {"statistics": {"broken": lambda images: images[..., 0, 0, 0] * torch.nan}}, "'broken' is NaN"),
    (leave_one_view_out, {"views": torch.zeros(1, 4, 1, 2, 4)}, "at least 2, got 1"),
    (leave_one_view_out, {"draws": 1}, "2 draws and a statistic"),
    (leave_one_view_out, {"pixels": False}, "no likelihood"),
    (check_axes, {"draws": 1}, "no meaning for fewer than 2 draws"),
    (prototype_use, {}, "not one of K prototypes"),
    (calibrate, {"prior": FlatPrior(LATENT)}, "FlatPrior is improper"),
    (calibrate, {"prior": EmpiricalPrior(LATENT, memory=None)}, "EmpiricalPrior is made of the images at hand"),
]


@pytest.mark.parametrize(("check", "settings", "message"), CALLS)
def test_checks_without_meaning_are_refused(check: Callable[..., Any], settings: dict[str, Any], message: str) -> None:
    settings, (model, guide, views, _, linear) = dict(settings), planted()
    prior, views = guide.prior, settings.pop("views", views)
    if other := settings.pop("prior", None):
        model, guide = make_model(other.double(), linear), AmortizedGuide(PotentialEncoder(linear), other)
    model = model if settings.pop("pixels", True) else SimVE(prior)
    with pytest.raises(ValueError, match=message):
        check(model, guide, views, seed=1, **settings)


HALF, ZEROS = torch.full((3, 2), 0.5), torch.zeros(5, 3, 2)
ARRAYS: list[tuple[Callable[..., Any], tuple[Any, ...], str]] = [
    (weighted_moments, (ZEROS, torch.zeros(5, 2)), "same draws"),
    (weighted_moments, (ZEROS, torch.zeros(5, 3)), "sum to 1"),
    (match_prototypes, (HALF, torch.full((3, 4), 0.25)), "as many prototypes"),
    (match_prototypes, (HALF, HALF * 2), "responsibilities must be probabilities"),
    (rank_among, (torch.tensor([torch.nan]), torch.zeros(3, 1), torch.Generator()), "NaN has no rank"),
    (rank_uniformity, (torch.zeros(0, 1, dtype=torch.long), 3, ["none"]), "must have shape"),
    (rank_uniformity, (torch.tensor([[4]]), 3, ["large"]), "integers from 0"),
    (rank_uniformity, (torch.tensor([[0.5]]), 3, ["between"]), "integers from 0"),
    (partial(rank_uniformity, level=0.0), (torch.tensor([[1]]), 3, ["one"]), "probability"),
]


@pytest.mark.parametrize(("function", "arguments", "message"), ARRAYS)
def test_arrays_without_meaning_are_refused(
    function: Callable[..., Any], arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        function(*arguments)


def test_a_broken_decoder_is_found_by_predictions() -> None:
    _, guide, views, *_ = planted()
    broken = nn.Sequential(nn.Linear(3, 8), nn.Unflatten(-1, (1, 2, 4))).double()
    nn.init.constant_(broken[0].weight, torch.nan)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"NaN|nan"):
        check_predictions(SimVE(guide.prior, Gaussian(broken)), guide, views, seed=1)
