"""Independent fits of the same images and views as the chains of one data tree."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import xarray as xr

_SHARED = {"observed_data", "constant_data"}


def stack_chains(trees: Sequence[xr.DataTree]) -> xr.DataTree:
    """Posteriors of independent fits as the chains of one tree, in memory, so that R-hat measures their agreement.

    R-hat has a meaning for quantities that are comparable between fits: log likelihoods, log_p, predicted pixels. Axes
    of content and style are so only if the prior distinguishes directions.

    Args:
        trees: of `posterior`, of the same images and views (the same ``view_seed`` and policy, or views drawn before),
            with as many draws each and different ``seed``, so that draws are independent. ``chain`` counts fits.

    Returns:
        Attributes are those the trees share, and ``seed`` a list.

    Raises:
        ValueError: fewer than two trees, equal seeds, or trees that differ in what they must share.

    Examples:
        >>> both = stack_chains([posterior(run, images, seed=seed) for seed, run in enumerate(runs)])  # doctest: +SKIP
        >>> summary(both, group="log_likelihood")["r_hat"].max()  # doctest: +SKIP
    """
    if len(trees) < 2:
        raise ValueError(f"chains need at least two trees to stack, got {len(trees)}")
    first = trees[0]
    for number, other in enumerate(trees[1:], start=2):
        for name in _SHARED:
            if not first[name].to_dataset().equals(other[name].to_dataset()):
                raise ValueError(
                    f"tree {number} is not of the images and views of the first: its {name} differs; chains are fits "
                    "of the same data, drawn with the same images, policy, views and view_seed"
                )
        of_first, of_other = _sizes(first), _sizes(other)
        if unlike := [name for name in {**of_first, **of_other} if of_first.get(name) != of_other.get(name)]:
            raise ValueError(
                f"{unlike[0]} has sizes {of_other.get(unlike[0])} in tree {number}, {of_first.get(unlike[0])} in the "
                "first; chains need programs of the same parts, and as many draws each"
            )
    seeds = [seed for tree in trees for seed in np.atleast_1d(tree.attrs["seed"]).tolist()]
    if len(set(seeds)) < len(seeds):
        raise ValueError(
            f"draws of the same seed share their noise, so that fits agree more than they should (seeds {seeds}); "
            "give each fit another posterior(..., seed=)"
        )
    groups = {name: first[name].to_dataset() for name in first.children}
    for name in groups.keys() - _SHARED:
        datasets = [tree[name].to_dataset() for tree in trees]
        stacked = xr.concat(datasets, "chain", data_vars="all", coords="minimal", compat="override", join="override")
        groups[name] = stacked.assign_coords(chain=range(stacked.sizes["chain"]))
    stack = xr.DataTree.from_dict(groups).load()
    for key, value in first.attrs.items():
        if all(key in tree.attrs and np.array_equal(tree.attrs[key], value) for tree in trees):
            stack.attrs[key] = value
    stack.attrs["seed"] = seeds
    return stack


def _sizes(tree: xr.DataTree) -> dict[str, dict[Hashable, int]]:
    """Sizes of all variables of chains, except the number of chains."""
    return {
        f"{name}.{variable}": {dim: size for dim, size in values.sizes.items() if dim != "chain"}
        for name, group in tree.children.items()
        if name not in _SHARED
        for variable, values in group.data_vars.items()
    }
