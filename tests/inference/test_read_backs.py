"""A training step reads nothing back from the device: counted, by a counter that is shown to count."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor, nn

from pp_simve.inference import ELBO, AmortizedGuide, ResidualEncoder
from pp_simve.inference.augmentations import POLICIES
from pp_simve.models import Gaussian, GaussianPrior, ResidualDecoder, SimVE, network_precision
from pp_simve.testing.objective import read_backs

from .programs import assert_no_reads, make_loop, make_pair, small_images

PLANTS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda value: value.item(),
    "float": float,
    "bool": bool,
    "if": lambda value: 1 if (value > 0) else 0,
    "equal": lambda value: torch.equal(value, value + 1),
    "nonzero": lambda value: value.view(1).nonzero(),
    "mask": lambda value: value.view(1)[value.view(1) > 0],
    "masked assignment": lambda value: value.repeat(2).__setitem__(value.repeat(2) > 0, torch.ones(2)),
    "isnan any": lambda value: bool(torch.isnan(value).any()),
    "tolist": lambda value: value.tolist(),
    "numpy": lambda value: value.numpy(),
    "array": lambda value: np.asarray(value),
    "cpu": lambda value: value.cpu(),
    "device": lambda value: value.to("meta"),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_the_counter_finds_a_planted_read(plant: str) -> None:
    value = torch.tensor(0.5)
    with read_backs() as found:
        value.square().add(1).sum()
        assert found == []
        PLANTS[plant](value)
    assert found


def test_the_counter_finds_a_read_planted_in_a_step() -> None:
    class ReadsBack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, views: Tensor) -> dict[str, Tensor]:
            loss = self.weight * views.mean()
            loss.detach().item()
            return {"loss": loss}

    loop = make_loop(ReadsBack(), small_images(16, (1, 8, 8)))
    loop.step()
    with read_backs() as found:
        loop.step()
    assert found == ["_local_scalar_dense"]


@pytest.mark.parametrize("policy", POLICIES)
def test_neither_do_convolutions_in_low_precision_under_any_view_policy(policy: str) -> None:
    shape = (3, 16, 16)
    prior = GaussianPrior(3)
    model = SimVE(prior, Gaussian(ResidualDecoder(3, shape, width=4), learned=True))
    guide = AmortizedGuide(ResidualEncoder(shape, width=4), prior)
    with network_precision(torch.bfloat16):
        assert_no_reads(make_loop(ELBO(model, guide), small_images(16, shape), policy))


def test_fetching_reads_once_whatever_the_number_of_rows() -> None:
    pair = make_pair(dtype=torch.float32)
    loop = make_loop(ELBO(pair.model, pair.guide), small_images(16))
    for _ in range(9):
        loop.step()
    with read_backs() as found:
        loop.fetch()
    assert found == ["tolist"]


def test_pyros_own_bound_does_read_back() -> None:
    """Why the objective is not Pyro's: its bound reads at least once a site, even without validation."""
    with pyro.settings.context(module_local_params=True):
        pair = make_pair(dtype=torch.float32)
        views = torch.rand(2, 6, 1, 4, 4)
        with pyro.validation_enabled(False), read_backs() as found:
            pyro.infer.Trace_ELBO().differentiable_loss(pair.model, pair.guide, views).backward()
    assert found.count("_local_scalar_dense") >= 4
