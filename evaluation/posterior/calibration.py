"""Simulation-based calibration: where the truth is known, is it one draw more among the guide's?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pp_simve.evaluation.posterior.batches import images_at_once, seeds
from pp_simve.evaluation.posterior.ranks import Uniformity, rank_among, rank_uniformity
from pp_simve.evaluation.posterior.simulation import simulate
from pp_simve.inference import Draws, Guide, draw
from pp_simve.models import SimVE
from pp_simve.models.modalities import PlainViews as Views

Quantity = Callable[[Draws], Tensor]
"""A scalar of latents and views, from draws to shape ``(draw, image)``; it may use any of `Draws`' but ``log_q``."""

COORDINATES = ("content", "style", "z")


def log_likelihood(draws: Draws) -> Tensor:
    """log p(views | z) of all views of an image, which depends on the views as no coordinate does."""
    assert draws.log_likelihood is not None
    return draws.log_likelihood.sum(1)


QUANTITIES: Mapping[str, Quantity] = {"log likelihood": log_likelihood}


@dataclass(frozen=True)
class Calibration:
    """Ranks of the truth among draws of the guide, for views simulated from the fitted model.

    If the guide were the posterior, all ranks were uniform: Talts, Betancourt, Simpson, Vehtari and Gelman, "Validating
    Bayesian inference algorithms with simulation-based calibration" (2018, arXiv 1804.06788).

    It judges the guide on views that the model makes, not on real ones: where the model is wrong, real views may lie
    where nothing here was asked. Coordinates cannot see a guide that ignores the views and returns the prior, whose
    ranks are uniform too; a quantity that depends on the views can (Modrák, Moon, Kim, Bürkner, Huurre, Faltejsková,
    Gelman and Vehtari, "Simulation-based calibration checking for Bayesian computation: the choice of test quantities
    shapes sensitivity", 2023, Bayesian Analysis), which is why ``log likelihood`` is among them. Nor can coordinates
    see wrong dependence between one another.

    Attributes:
        ranks: by ``content``, ``style`` and ``z`` (a column an axis) and ``quantities`` (a column each). Style and z
            are those of one view of each simulation, the views taking turns, so that rows are independent. All columns
            share the level of false alarms, so that any alarm at all has at most its probability.
        pooled: the same over the axes of each, which take turns: one curve that shows a fault all axes have.
        level: probability of any false alarm in ``ranks``, and in ``pooled``.
        notes: what of the simulated views is unlike the views that were given, by name.
    """

    ranks: Mapping[str, Uniformity]
    pooled: Mapping[str, Uniformity]
    level: float
    notes: Mapping[str, str]

    @property
    def alarm(self) -> bool:
        """Whether the ranks of any axis or quantity leave their band."""
        return any(uniformity.alarm for uniformity in self.ranks.values())

    @property
    def failing(self) -> tuple[str, ...]:
        """What leaves its band."""
        return tuple(name for uniformity in self.ranks.values() for name in uniformity.failing)


@torch.no_grad()
def calibrate(
    model: SimVE,
    guide: Guide,
    views: Views,
    *,
    simulations: int = 500,
    draws: int = 99,
    seed: int,
    quantities: Mapping[str, Quantity] = QUANTITIES,
    level: float = 0.01,
) -> Calibration:
    """Simulates latents and views, draws from the guide given the views, and ranks the former among the latter.

    Args:
        views: real ones: as many views of each modality, as large, are simulated; else they only serve for ``notes``.
        simulations: images simulated; faults of the size 1 / √simulations are seen.
        draws: of the guide, of each image; the resolution of ranks.
        seed: decides everything; torch's own generators are left as they were.
        quantities: scalars to rank, apart from the coordinates.
        level: probability of a false alarm.

    Raises:
        ValueError: the guide has no density or is of certain images, pixels are not modelled, the prior is improper or
            of the images at hand, fewer than 1 draw or 2 simulations, or NaN.
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
    for place, truth, drawn, generator in _simulations(model, guide, views, simulations, draws, seed):
        for name, of_truth, of_guide in _compared(truth, drawn, place, quantities):
            ranks.setdefault(name, []).append(rank_among(of_truth, of_guide, generator))
    joined = {name: torch.cat(parts) for name, parts in ranks.items()}
    curves = sum(part.shape[1] for part in joined.values())
    tested = {
        name: rank_uniformity(part, draws, _names(name, part.shape[1], name in quantities), level=level, curves=curves)
        for name, part in joined.items()
    }
    several = {name: part for name, part in joined.items() if part.shape[1] > 1}
    pooled = {
        name: rank_uniformity(_in_turn(part), draws, [f"{name}, axes in turn"], level=level, curves=len(several))
        for name, part in several.items()
    }
    simulated, _ = simulate(model, views, min(simulations, 16), seed=seed)
    return Calibration(tested, pooled, level, _unlike(views, simulated))


def _simulations(
    model: SimVE, guide: Guide, views: Views, simulations: int, draws: int, seed: int
) -> Iterator[tuple[int, Draws, Draws, torch.Generator]]:
    """Place of the first of some simulations, their truth, the guide's draws, and a generator for ties."""
    size = images_at_once(views, model.prior.latent_dim, draws)
    of_batch = seeds(seed)
    generator = torch.Generator().manual_seed(next(of_batch))
    for start in range(0, simulations, size):
        simulated, truth = simulate(model, views, min(size, simulations - start), seed=next(of_batch))
        yield start, truth, draw(model, guide, simulated, draws, seed=next(of_batch)), generator


def _compared(
    truth: Draws, drawn: Draws, place: int, quantities: Mapping[str, Quantity]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What is ranked, by name: of the truth ``(image, column)``, of the draws ``(draw, image, column)``."""
    _, views, images, _ = drawn.z.shape
    here = torch.arange(images, device=drawn.z.device)
    view = (here + place) % views  # each simulation speaks of one of its views
    for name in COORDINATES:
        of_truth, of_guide = getattr(truth, name), getattr(drawn, name)
        if of_guide.shape[-1] == 0:
            continue
        if name != "content":
            of_truth, of_guide = of_truth[:, view, here], of_guide[:, view, here]
        yield name, of_truth[0], of_guide
    for name, quantity in quantities.items():
        of_truth, of_guide = quantity(truth), quantity(drawn)
        if of_truth.shape != (1, images) or of_guide.shape != (len(drawn.z), images):
            raise ValueError(
                f"the quantity {name!r} must be one number a draw and image, shape {(len(drawn.z), images)}, got "
                f"{tuple(of_guide.shape)}"
            )
        yield name, of_truth[0, :, None], of_guide[..., None]


def _names(name: str, columns: int, alone: bool) -> list[str]:
    return [name] if alone else [f"{name} {axis}" for axis in range(columns)]


def _in_turn(ranks: Tensor) -> Tensor:
    """One of the columns in each row, the next in the next: shape ``(row, 1)``."""
    row = torch.arange(len(ranks))
    return ranks[row, row % ranks.shape[1], None]


def _unlike(views: Views, simulated: Views) -> dict[str, str]:
    given = {"views": views} if isinstance(views, Tensor) else views
    made = {"views": simulated} if isinstance(simulated, Tensor) else simulated
    notes = {}
    for name, real in given.items():
        if _is_binary(made[name]) and not _is_binary(real):
            notes[name] = (
                "simulated views are black and white, as a Bernoulli draws them, where the guide was fitted to grey "
                "ones: an alarm may speak of this difference and not of the guide's posteriors of real views"
            )
        elif not _in_range(made[name]) and _in_range(real):
            notes[name] = "simulated views leave [0, 1], as a density over all numbers draws them; real ones do not"
    return notes


def _is_binary(images: Tensor) -> bool:
    return bool(((images == 0) | (images == 1)).all())


def _in_range(images: Tensor) -> bool:
    return bool(((images >= 0) & (images <= 1)).all())
