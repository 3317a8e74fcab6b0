"""Posterior trees in ArviZ: the functions of both lines take what `for_arviz` returns."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr

from pp_simve.evaluation import for_arviz, posterior, stack_chains
from pp_simve.evaluation.posterior.arviz_versions import arviz, takes_trees
from pp_simve.inference import AmortizedGuide, MLPEncoder
from pp_simve.models import Gaussian, GaussianPrior, MLPDecoder, SimVE

SHAPE, LATENT, IMAGES = (1, 4, 4), 3, 4
SOME: dict[str, Any] = {"var_names": ["content"], "coords": {"image": [0, 2], "latent": [0, 1]}}

Call = tuple[str, dict[str, Any]]
BOTH: list[Call] = [("plot_trace", SOME), ("plot_forest", SOME), ("plot_pair", {**SOME, "coords": {"image": [0]}})]
OLD: list[Call] = [
    ("plot_posterior", SOME),
    ("plot_ppc", {"num_pp_samples": 5}),
    ("plot_ppc", {"num_pp_samples": 5, "group": "prior"}),
    ("plot_dist_comparison", SOME),
]
NEW: list[Call] = [
    ("plot_dist", SOME),
    ("plot_trace_dist", SOME),
    ("plot_ppc_dist", {"num_samples": 5}),
    ("plot_ppc_dist", {"num_samples": 5, "group": "prior_predictive"}),
    ("plot_prior_posterior", SOME),
]


@pytest.fixture(scope="module", params=["memory", "file", "chains"])
def tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[xr.DataTree]:
    torch.manual_seed(0)
    prior = GaussianPrior(LATENT)
    model = SimVE(prior, Gaussian(MLPDecoder(LATENT, SHAPE, hidden=(4,))))
    pair, images = (model, AmortizedGuide(MLPEncoder(SHAPE, hidden=(4,)), prior)), torch.rand(IMAGES, *SHAPE)
    path: Path = tmp_path_factory.mktemp("trees") / "posterior.nc"
    first = posterior(pair, images, draws=40, to=path if request.param == "file" else None)
    if request.param == "chains":
        yield stack_chains([first, posterior(pair, images, draws=40, seed=1)])
    else:
        yield first
    first.close()


@pytest.fixture(autouse=True)
def drawn_nowhere() -> Iterator[None]:
    with matplotlib.rc_context(), warnings.catch_warnings():
        plt.switch_backend("agg")
        # ArviZ 0.23 calls Matplotlib 3.11 in a way that 3.13 will refuse.
        warnings.filterwarnings("ignore", "Passing a dict or None as alias_mapping", DeprecationWarning)
        yield
    plt.close("all")


@pytest.mark.parametrize(("name", "settings"), [*BOTH, *(NEW if takes_trees() else OLD)])
def test_plots_take_it(tree: xr.DataTree, name: str, settings: dict[str, Any]) -> None:
    plot: Callable[..., Any] = getattr(arviz(), name)
    assert plot(for_arviz(tree), **settings) is not None
    assert any(axes.has_data() for number in plt.get_fignums() for axes in plt.figure(number).axes)


def test_groups_are_where_arviz_looks_for_them(tree: xr.DataTree) -> None:
    given = for_arviz(tree)
    for group in tree.children:
        assert set(given[group].data_vars) == set(tree[group].data_vars)
    both = arviz().extract(given, group="posterior", var_names=["z"])
    samples = tree["posterior"].sizes["chain"] * 40
    assert np.asarray(both).size == samples * IMAGES * LATENT
    content = given["prior"]["content"]
    assert ("image" in content.dims) is not takes_trees()  # 0.23 is given the prior of each image
    assert bool((content == tree["prior"]["content"]).all())
