"""Independent fits of the same images and views as the chains of one data tree."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import xarray as xr

_SHARED = ("observed_data", "constant_data")


def stack_chains(trees: Sequence[xr.DataTree]) -> xr.DataTree:
    """Posteriors of independent fits as the chains of one tree, in memory, so that R-hat measures their agreement.

    R-hat has a meaning for quantities that are comparable between fits: log likelihoods, log_p, predicted pixels. Axes
    of content and style are so only if the prior distinguishes directions; under an isotropic prior a latent space is
    determined up to rotation, and R-hat of its axes is far from 1 for fits that agree on every image.

    Args:
        trees: of `posterior`, of the same images and views (the same ``view_seed`` and policy, or views drawn before),
            with as many draws each and different ``seed``, so that draws are independent. ``chain`` counts fits.

    Returns:
        Attributes are those the trees share, and ``seed`` a list.

    Raises:
        ValueError: fewer than two trees, equal seeds, or trees that differ in what they must share.

    Example:
        >>> both = stack_chains([posterior(run, images, seed=seed) for seed, run in enumerate(runs)])  # doctest: +SKIP
        >>> summary(both, group="log_likelihood")["r_hat"].max()  # doctest: +SKIP
    """
    if len(trees) < 2:
        raise ValueError(f"chains need at least two trees to stack, got {len(trees)}")
    first, *others = trees
    for number, other in enumerate(others, start=2):
        _check(first, other, number)
    seeds = [seed for tree in trees for seed in np.atleast_1d(tree.attrs["seed"]).tolist()]
    if len(set(seeds)) < len(seeds):
        raise ValueError(
            f"draws of the same seed share their noise, so that fits agree more than they should (seeds {seeds}); "
            "give each fit another posterior(..., seed=)"
        )
    groups = {}
    for name, group in first.children.items():
        if name in _SHARED:
            groups[name] = group.to_dataset()
            continue
        datasets = [tree[name].to_dataset() for tree in trees]
        stacked = xr.concat(datasets, "chain", data_vars="all", coords="minimal", compat="override", join="override")
        groups[name] = stacked.assign_coords(chain=range(stacked.sizes["chain"]))
    stack = xr.DataTree.from_dict(groups).load()
    shared = {
        key: value for key, value in first.attrs.items() if all(_equal(value, tree.attrs.get(key)) for tree in others)
    }
    stack.attrs = {**shared, "seed": seeds}
    return stack


def _check(first: xr.DataTree, other: xr.DataTree, number: int) -> None:
    """Raises ValueError unless the tree of that number can be stacked on the first."""
    for name in _SHARED:
        ours, theirs = (tree[name].to_dataset().variables for tree in (first, other))
        for variable in {**ours, **theirs}:
            if not _equal(ours.get(variable), theirs.get(variable)):
                raise ValueError(
                    f"tree {number} is not of the images and views of the first: {name}.{variable} differs; chains are "
                    "fits of the same data, drawn with the same images, policy, views and view_seed"
                )
    shapes, others = _shapes(first), _shapes(other)
    for name in shapes | others:
        if shapes.get(name) != others.get(name):
            raise ValueError(
                f"{name} has sizes {others.get(name)} in tree {number}, {shapes.get(name)} in the first; "
                "chains need programs of the same parts, and as many draws each"
            )


def _shapes(tree: xr.DataTree) -> dict[str, dict[Hashable, int]]:
    """Sizes of all variables of chains, except the number of chains."""
    return {
        f"{name}.{variable}": {dim: size for dim, size in values.sizes.items() if dim != "chain"}
        for name, group in tree.children.items()
        if name not in _SHARED
        for variable, values in group.data_vars.items()
    }


def _equal(ours: Any, theirs: Any) -> bool:
    return np.array_equal(np.asarray(ours), np.asarray(theirs))
