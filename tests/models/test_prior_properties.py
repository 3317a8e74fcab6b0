"""Declared properties of priors that the conformance suite cannot check by draws."""

from __future__ import annotations

import pytest
import torch

from pp_simve.models import BlockPrior, EmpiricalPrior, FlatPrior, GaussianPrior, MixturePrior, Prior, StudentTPrior

OF_BATCH = [EmpiricalPrior(2, memory=None), BlockPrior(3, EmpiricalPrior(2, memory=None))]
OTHERS = [
    *(StudentTPrior(2), MixturePrior(2, 3), EmpiricalPrior(2, memory=5), FlatPrior(2)),
    *(BlockPrior(3, MixturePrior(2, 3)), BlockPrior(3, FlatPrior(2))),
]


@pytest.mark.parametrize("prior", [*OTHERS, *OF_BATCH])
def test_only_gaussians_have_axis_variances(prior: Prior) -> None:
    assert prior.axis_variances() is None
    assert prior.depends_on_batch == (prior in OF_BATCH)


def test_axis_variances_of_a_block_in_a_block() -> None:
    variances = BlockPrior(4, BlockPrior(3, GaussianPrior(2, [0.5, 2.0], 0.25)), variance=4.0).axis_variances()
    assert variances is not None
    assert [value.tolist() for value in variances] == [[0.5, 2.0, 0.0, 0.0], [0.25, 0.25, 1.0, 4.0]]


@pytest.mark.parametrize("prior", OF_BATCH)
def test_a_prior_of_the_batch_has_no_content_without_one(prior: Prior) -> None:
    with pytest.raises(RuntimeError, match="before a guide was called with a batch"):
        prior.content()
    prior.remember(torch.randn(2, 4, prior.latent_dim))
    assert prior.content().sample((3,)).shape == (3, 2)
