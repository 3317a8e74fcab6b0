"""Whether Markov chains agree, and what their draws are worth."""

from __future__ import annotations

from typing import Any

import numpy as np

from pp_simve.evaluation.posterior.arviz_versions import arviz

Array = np.ndarray[Any, Any]


def worst_axis(draws: Array) -> tuple[Array, Array]:
    """R-hat and effective number of draws of each image, of the axis that is worst.

    Axes that never move (content under a prior that has one point of it) have neither and are left out.

    Args:
        draws: shape ``(chain, draw, image, axis)``, at least 4 draws a chain.

    Returns:
        The largest rank-normalised split R-hat and the smallest bulk ESS, shape ``(image,)`` each; R-hat is ∞ where
        every chain stands still in a place of its own, NaN where no axis moves.

    References:
        Vehtari, Gelman, Simpson, Carpenter, Bürkner, "Rank-Normalization, Folding, and Localization: An Improved R-hat"
        (Bayesian Analysis 2021, arXiv 1903.08008).
    """
    rhat, ess = (np.full(draws.shape[2:], np.nan) for _ in range(2))
    moving = np.ptp(draws, axis=(0, 1)) > 0
    still = moving & (np.ptp(draws, axis=1) == 0).all(0)
    for place in zip(*np.nonzero(moving & ~still), strict=True):
        of_axis = draws[:, :, place[0], place[1]].astype(np.float64)
        rhat[place], ess[place] = float(arviz().rhat(of_axis)), float(arviz().ess(of_axis))
    rhat[still], ess[still] = np.inf, len(draws)
    none = ~moving.any(1)
    worst = np.where(moving, rhat, -np.inf).max(1, initial=-np.inf)
    fewest = np.where(moving, ess, np.inf).min(1, initial=np.inf)
    return np.where(none, np.nan, worst), np.where(none, np.nan, fewest)
