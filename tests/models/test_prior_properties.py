"""What priors state of themselves: `proper`, `depends_on_batch` and `axis_variances`, against samples."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pp_simve.models import (
    BlockPrior,
    EmpiricalPrior,
    FlatPrior,
    GaussianPrior,
    MixturePrior,
    Prior,
    StandardPrior,
    StudentTPrior,
)

CONTENT, STYLE = [0.5, 2.0], [0.25, 1.0]
GAUSSIAN: dict[str, Callable[[], Prior]] = {
    "gaussian": lambda: GaussianPrior(2, CONTENT, STYLE, learn_content=True),
    "standard": lambda: StandardPrior(2),
    "block": lambda: BlockPrior(3, GaussianPrior(2, CONTENT, STYLE), variance=4.0),
    "block in a block": lambda: BlockPrior(4, BlockPrior(3, GaussianPrior(2, CONTENT, STYLE)), variance=4.0),
}
OTHERS: dict[str, Callable[[], Prior]] = {
    "student": lambda: StudentTPrior(2),
    "mixture": lambda: MixturePrior(2, 3),
    "empirical": lambda: EmpiricalPrior(2, memory=5),
    "block of mixture": lambda: BlockPrior(3, MixturePrior(2, 3)),
}
IMPROPER: dict[str, Callable[[], Prior]] = {
    "flat": lambda: FlatPrior(2),
    "block of flat": lambda: BlockPrior(3, FlatPrior(2)),
}
OF_BATCH: dict[str, Callable[[], Prior]] = {
    "empirical of the batch": lambda: EmpiricalPrior(2, memory=None),
    "block of the batch": lambda: BlockPrior(3, EmpiricalPrior(2, memory=None)),
}


@pytest.mark.parametrize("name", GAUSSIAN)
def test_axis_variances_are_those_of_samples(name: str) -> None:
    prior = GAUSSIAN[name]()
    variances = prior.axis_variances()
    assert variances is not None
    content, style = variances
    drawn = prior.content().sample((1, 40_000))
    z = prior.compose(drawn, prior.style(drawn).expand((2, 40_000)).sample())
    assert content.shape == style.shape == (prior.latent_dim,)
    torch.testing.assert_close(z.var(1).mean(0), content + style, rtol=0.05, atol=0)
    torch.testing.assert_close((z[0] * z[1]).mean(0), content, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("name", [*OTHERS, *IMPROPER, *OF_BATCH])
def test_others_have_no_axis_variances(name: str) -> None:
    assert {**OTHERS, **IMPROPER, **OF_BATCH}[name]().axis_variances() is None


@pytest.mark.parametrize("name", [*GAUSSIAN, *OTHERS, *IMPROPER])
def test_proper_priors_are_those_that_can_be_sampled(name: str) -> None:
    prior = {**GAUSSIAN, **OTHERS, **IMPROPER}[name]()
    assert not prior.depends_on_batch
    assert prior.proper == (name not in IMPROPER)
    if prior.proper:
        assert prior.content().sample((2,)).isfinite().all()
    else:
        with pytest.raises(NotImplementedError):
            prior.content().sample((2,))


@pytest.mark.parametrize("name", OF_BATCH)
def test_a_prior_of_the_batch_has_no_content_without_one(name: str) -> None:
    prior = OF_BATCH[name]()
    assert prior.depends_on_batch
    with pytest.raises(RuntimeError, match="before a guide was called with a batch"):
        prior.content()
    prior.remember(torch.randn(2, 4, prior.latent_dim))
    assert prior.content().sample((3,)).shape == (3, 2)
