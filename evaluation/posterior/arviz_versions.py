"""All differences between ArviZ 0.23 (Python 3.11) and 1.x (Python 3.12 and later) in one place.

ArviZ is imported when it is first used, because that takes seconds.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from scipy.special import log_softmax

from pp_simve.evaluation.posterior.batches import which

if TYPE_CHECKING:
    import pandas as pd

FEWEST_DRAWS = 30
"""With fewer draws the tail has fewer than 6, to which 1.x fits nothing."""

EQUAL_WEIGHTS = 1e-3
"""Nats within which the largest log weights count as equal."""

WIDEST_TAIL = 700.0
"""Range of a tail in nats that float64 can hold."""

Array = np.ndarray[Any, Any]


@cache
def arviz() -> ModuleType:
    """ArviZ itself, imported without the notice that 0.23 gives of 1.x."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing a major refactor", category=FutureWarning)
        import arviz as module
    return module


def takes_trees() -> bool:
    """Whether this ArviZ is of the line that works on data trees themselves (1.x)."""
    return int(arviz().__version__.partition(".")[0]) >= 1


def for_arviz(tree: xr.DataTree) -> Any:
    """Input of the installed ArviZ's functions: the tree (1.x), or the same groups as InferenceData (0.23).

    0.23 compares prior and posterior only where their dimensions are the same, so there the prior is repeated for each
    image (as a view, which takes no memory).

    Examples:
        >>> arviz().plot_forest(for_arviz(tree), var_names=["content"])  # doctest: +SKIP
    """
    if takes_trees():
        return tree
    groups = {name: group.to_dataset() for name, group in tree.children.items()}
    if "prior" in groups and "image" not in groups["prior"].dims:
        repeated = groups["prior"].expand_dims(image=groups["posterior"]["image"])
        groups["prior"] = repeated.transpose("chain", "draw", "image", ...)
    return arviz().InferenceData(attrs=tree.attrs, **groups)


def psis(log_weights: Array) -> tuple[Array, Array]:
    """Pareto smoothed importance weights of each image, and the shape k̂ of the tail that was fitted to them.

    The tail is the largest min(S/5, 3√S) of S weights, rounded down. Where all of it is equal (to `EQUAL_WEIGHTS`), as
    with an exact guide, weights stay as they are and k̂ is −∞. Where it spans more than `WIDEST_TAIL`, or no Pareto
    distribution fits, k̂ is ∞. Below 0.7 the weights can be used.

    Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto Smoothed Importance Sampling" (JMLR 25, 2024, arXiv 1507.02646);
    Zhang, Stephens, "A New and Efficient Estimation Method for the Generalized Pareto Distribution" (2009).

    Args:
        log_weights: log p(views, latents) − log q(latents | views), shape ``(draw, image)``, up to a constant an image;
            independent draws. −∞ is a weight of nothing.

    Returns:
        Smoothed log weights, float64 ``(draw, image)``, whose exponentials sum to 1 over draws, and k̂, ``(image,)``.

    Raises:
        ValueError: another shape, fewer than `FEWEST_DRAWS` draws, or weights that are NaN, ∞ or all nothing.
    """
    log_weights = _checked(log_weights)
    draws = len(log_weights)
    tail = math.floor(min(draws / 5, 3 * math.sqrt(draws)))
    ordered = np.partition(log_weights, draws - tail - 1, axis=0)
    with np.errstate(invalid="ignore"):  # the span of −∞ to −∞ cannot be: some weight is something
        span = ordered[draws - tail :].max(0) - ordered[draws - tail - 1]
    smoothed: Array = log_softmax(log_weights, axis=0)
    shape = np.where(span <= EQUAL_WEIGHTS, -np.inf, np.inf)
    fitted = (span > EQUAL_WEIGHTS) & (span <= WIDEST_TAIL)
    if fitted.any():
        smoothed[:, fitted], found = _library_psis(log_weights[:, fitted], tail)
        shape[fitted] = np.where(np.isnan(found), np.inf, found)
    return smoothed, shape


def summary(
    tree: xr.DataTree, names: Sequence[str] | None = None, *, group: str = "posterior", probability: float = 0.9
) -> pd.DataFrame:
    """`az.summary` with the same columns in both lines, one row for each number of each image.

    Columns ``mean``, ``sd``, ``hdi_lower`` and ``hdi_upper`` (the shortest interval of that probability), and ``r_hat``
    where chains are independent fits (`stack_chains`): whether these agree. Of independent draws of one fit, R-hat and
    effective sample size would be meaningless, so they are left out.

    Args:
        tree: of `posterior`; ``tree.isel(image=slice(4))`` for some of its images.
        names: variables of the group, by default all that are not zero wide.

    Raises:
        ValueError: no such group or variable, or a probability that is not between 0 and 1.
    """
    if group not in tree.children:
        raise ValueError(f"no group {group!r}; this tree has {', '.join(tree.children)}")
    known = [str(name) for name, values in tree[group].data_vars.items() if values.size]
    if unknown := [name for name in names or [] if name not in known]:
        raise ValueError(f"no {', '.join(unknown)} in {group}; it has {', '.join(known)}")
    if not 0 < probability < 1:
        raise ValueError(f"probability must be between 0 and 1, got {probability}")
    chains = tree[group].sizes.get("chain", 1)
    interval = {"ci_prob": probability, "ci_kind": "hdi"} if takes_trees() else {"hdi_prob": probability}
    table = arviz().summary(
        for_arviz(tree),
        var_names=list(names or known),
        group=group,
        kind="stats" if chains == 1 else "all",
        round_to="none",
        **interval,
    )
    lower, upper = [column for column in table.columns if str(column).startswith("hdi")]
    table = table.rename(columns={lower: "hdi_lower", upper: "hdi_upper"})
    return table[["mean", "sd", "hdi_lower", "hdi_upper", *(["r_hat"] if chains > 1 else [])]]


def _library_psis(log_weights: Array, tail: int) -> tuple[Array, Array]:
    if takes_trees():
        # 1.x takes log likelihoods, for leave-one-out, and negates them to get weights.
        smoothed, shape = xr.DataArray(-log_weights, dims=["draw", "image"]).azstats.psislw(dim="draw")
        return smoothed.transpose("draw", "image").to_numpy(), shape.to_numpy()
    # 0.23 rounds the length of the tail up, 1.x down. `reff`, used for nothing else, gives the length that is wanted.
    draws = len(log_weights)
    smoothed, shape = arviz().psislw(log_weights.T, reff=9 * draws / (tail - 0.5) ** 2)
    return smoothed.T, shape


def _checked(log_weights: Array) -> Array:
    values = np.array(log_weights, dtype=np.float64)  # a copy: ArviZ 0.23 writes into what it is given
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"log weights must have shape (draw, image), with at least one image, got {values.shape}")
    if len(values) < FEWEST_DRAWS:
        raise ValueError(
            f"k̂, the gap of the bound, effective draws and weighted estimates have no meaning for fewer than "
            f"{FEWEST_DRAWS} draws, got {len(values)}; take more draws (some hundreds)"
        )
    if (bad := (np.isnan(values) | (values == np.inf)).any(0)).any():
        raise ValueError(
            f"log weights are NaN or ∞ in {which(bad)}: the model or the guide has no finite density there; "
            "leave these images out, or look at their log_p and log_q"
        )
    if (nothing := (values == -np.inf).all(0)).any():
        raise ValueError(f"every draw has log weight −∞ in {which(nothing)}: the model excludes all the guide draws")
    return values
