"""Simulation-based calibration: rank statistics of the true latents among the guide's draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pp_simve.evaluation.posterior.batches import images_at_once, one_view_each
from pp_simve.evaluation.posterior.ranks import Uniformity, rank_among, rank_uniformity
from pp_simve.inference import Draws, Guide, draw
from pp_simve.inference.sampling import simulate
from pp_simve.inference.tools import seeds
from pp_simve.models import PlainViews, SimVE, Views

Quantity = Callable[[Draws], Tensor]
"""A test quantity: from `Draws` without ``log_q`` to one number per draw and image, shape ``(draw, image)``."""

COORDINATES = ("content", "style", "z")


def log_likelihood(draws: Draws) -> Tensor:
    """log p(views | z) of all views of an image: a test quantity that depends on the views."""
    assert draws.log_likelihood is not None
    return draws.log_likelihood.sum(1)


QUANTITIES: Mapping[str, Quantity] = {"log likelihood": log_likelihood}


@dataclass(frozen=True)
class Calibration:
    """Ranks of the true latents among draws of the guide, for views simulated from the fitted model.

    With the posterior as guide all ranks are uniform. So are those of coordinates for a guide that returns the prior;
    test quantities that depend on the views detect it, hence the default ``log likelihood``.

    Talts, Betancourt, Simpson, Vehtari, Gelman, "Validating Bayesian inference algorithms with simulation-based
    calibration" (2018, arXiv 1804.06788); Modrák et al., "Simulation-based calibration checking for Bayesian
    computation: the choice of test quantities shapes sensitivity" (2023, arXiv 2211.02383).

    Attributes:
        ranks: by ``content``, ``style`` and ``z`` (a column per axis) and ``quantities`` (a column each). Style and z
            are those of one view of each simulation, views in turn, so that rows are independent.
        pooled: the same with the axes of a latent in turn: one curve per latent for a fault that all axes share.
        level: probability of any false alarm in ``ranks``, and in ``pooled``.
        notes: how the simulated views differ from the given ones, by modality.
    """

    ranks: Mapping[str, Uniformity]
    pooled: Mapping[str, Uniformity]
    level: float
    notes: Mapping[str, str]

    @property
    def alarm(self) -> bool:
        return bool(self.failing)

    @property
    def failing(self) -> tuple[str, ...]:
        """Axes and quantities whose ranks leave their band."""
        return tuple(name for uniformity in self.ranks.values() for name in uniformity.failing)


@torch.no_grad()
def calibrate(
    model: SimVE,
    guide: Guide,
    views: PlainViews,
    *,
    simulations: int = 500,
    draws: int = 99,
    seed: int,
    quantities: Mapping[str, Quantity] = QUANTITIES,
    level: float = 0.01,
) -> Calibration:
    """Simulates latents and views, draws from the guide given the views, and ranks the former among the latter.

    Args:
        views: real ones, which give the shapes, modalities and number of views to simulate, and ``notes``.
        simulations: images simulated; faults of size 1 / √simulations are detected.
        draws: of the guide, of each image; the resolution of ranks.
        seed: of simulations and draws; torch's own generators are left as they were.
        quantities: test quantities beside the coordinates.

    Raises:
        ValueError: the guide has no density or has per-image parameters, pixels are not modelled, the prior is improper
            or depends on the batch, fewer than 1 draw or 2 simulations, or NaN.
    """
    if not guide.has_density:
        raise ValueError(
            f"draws of {type(guide).__name__} are points: their ranks have no meaning, so there is no calibration; "
            "use a guide with a density (AmortizedGuide, StructuredGuide, FlowGuide)"
        )
    if taken := [name for name in quantities if name in COORDINATES]:
        raise ValueError(f"quantities must not be called as coordinates are: rename {', '.join(taken)}")
    if not guide.amortized:
        raise ValueError(
            f"a {type(guide).__name__} has parameters for certain images, and calibration simulates others; calibrate "
            "the guide it started from"
        )
    if draws < 1 or simulations < 2:
        raise ValueError(f"calibration needs draws and 2 simulations at least, got {draws} and {simulations}")
    ranks: dict[str, list[Tensor]] = {}
    size = images_at_once(views, model.prior.latent_dim, draws)
    of_batch = seeds(seed)
    of_ties = torch.Generator().manual_seed(next(of_batch))
    for start in range(0, simulations, size):
        simulated, truth = simulate(model, views, min(size, simulations - start), seed=next(of_batch))
        drawn = draw(model, guide, simulated, draws, seed=next(of_batch))
        for name, of_truth, of_guide in _compared(truth, drawn, start, quantities):
            ranks.setdefault(name, []).append(rank_among(of_truth, of_guide, of_ties))
    joined = {name: torch.cat(parts) for name, parts in ranks.items()}
    widths = {name: part.shape[1] for name, part in joined.items()}
    curves, several = sum(widths.values()), sum(width > 1 for width in widths.values())
    tested, pooled, row = {}, {}, torch.arange(simulations)
    for name, part in joined.items():
        width = widths[name]
        columns = [name] if name in quantities else [f"{name} {axis}" for axis in range(width)]
        tested[name] = rank_uniformity(part, draws, columns, level=level, curves=curves)
        if width > 1:
            in_turn = part[row, row % width, None]
            pooled[name] = rank_uniformity(in_turn, draws, [f"{name}, axes in turn"], level=level, curves=several)
    simulated, _ = simulate(model, views, min(simulations, 16), seed=seed)
    return Calibration(tested, pooled, level, _unlike(views, simulated))


def is_binary(pixels: Tensor) -> bool:
    return bool(((pixels == 0) | (pixels == 1)).all())


def _compared(
    truth: Draws, drawn: Draws, place: int, quantities: Mapping[str, Quantity]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, true values ``(image, column)`` and draws ``(draw, image, column)`` of all that is ranked."""
    for name in COORDINATES:
        of_truth, of_guide = getattr(truth, name), getattr(drawn, name)
        if name != "content":
            of_truth, of_guide = one_view_each(of_truth, place), one_view_each(of_guide, place)
        if of_guide.shape[-1]:
            yield name, of_truth[0], of_guide
    draws, _, images, _ = drawn.z.shape
    for name, quantity in quantities.items():
        of_truth, of_guide = quantity(truth), quantity(drawn)
        if of_truth.shape != (1, images) or of_guide.shape != (draws, images):
            raise ValueError(
                f"the quantity {name!r} must be one number a draw and image, shape {(draws, images)}, got "
                f"{tuple(of_guide.shape)}"
            )
        yield name, of_truth[0, :, None], of_guide[..., None]


def _unlike(views: PlainViews, simulated: PlainViews) -> dict[str, str]:
    """How simulated views differ from given ones, by modality."""
    notes = {}
    for modality, made in Views.of(simulated).items():
        given, name = Views.of(views).tensor(modality), modality or "views"
        made_inside, given_inside = (bool(((x >= 0) & (x <= 1)).all()) for x in (made, given))
        if is_binary(made) and not is_binary(given):
            notes[name] = (
                "simulated views are black and white, as a Bernoulli draws them, where the guide was fitted to grey "
                "ones: an alarm may be due to this difference and not to the guide's posteriors of real views"
            )
        elif given_inside and not made_inside:
            notes[name] = "simulated views leave [0, 1], as a density over all numbers draws them; real ones do not"
    return notes
