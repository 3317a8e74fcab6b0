"""The program: its sites, plates and draws."""

from __future__ import annotations

from collections.abc import Callable

import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor, nn

from pp_simve.models import Bernoulli, FlatPrior, Gaussian, GaussianPrior, Likelihood, MLPDecoder, Prior, SimVE
from pp_simve.models import StandardPrior as Standard

LATENT, IMAGES, SHAPE = 3, 4, (1, 4, 4)
PROPER: dict[str, Callable[[], Prior]] = {
    "gaussian": lambda: GaussianPrior(LATENT, [0.5, 1.0, 3.0], 0.2),
    "standard": lambda: Standard(LATENT),
}


pytestmark = pytest.mark.usefixtures("local_parameters")


def make(prior: Prior, likelihood: Callable[[nn.Module], Likelihood] = Bernoulli) -> SimVE:
    return SimVE(prior, likelihood(MLPDecoder(prior.latent_dim, SHAPE, hidden=(8,))))


def run(model: SimVE, views: Tensor) -> poutine.Trace:
    return poutine.trace(model).get_trace(views)


@pytest.mark.parametrize("views", [1, 2, 5])
@pytest.mark.parametrize("name", PROPER)
def test_content_is_one_an_image_and_style_one_a_view(name: str, views: int) -> None:
    prior = PROPER[name]()
    images = torch.rand(views, IMAGES, *SHAPE)
    nodes = run(make(prior), images).nodes
    width = prior.content().event_shape[0]
    assert nodes["content"]["value"].shape == (IMAGES, width)
    assert nodes["style"]["value"].shape == (views, IMAGES, LATENT)
    assert nodes["z"]["value"].shape == (views, IMAGES, LATENT)
    assert nodes["x"]["fn"].batch_shape == (views, IMAGES)
    assert nodes["x"]["is_observed"]
    assert torch.equal(nodes["x"]["value"], images)
    plates = {frame.name: (frame.dim, frame.size) for frame in nodes["x"]["cond_indep_stack"]}
    assert plates == {"image": (-1, IMAGES), "view": (-2, views)}
    assert [frame.name for frame in nodes["content"]["cond_indep_stack"]] == ["image"]


def test_draws_of_z_have_the_covariance_of_the_prior() -> None:
    prior = GaussianPrior(2, [0.5, 2.0], [0.3, 0.1])
    model = SimVE(prior, Gaussian(nn.Unflatten(-1, (1, 1, 2))))
    count = 50_000
    z = run(model, torch.zeros(2, count, 1, 1, 2)).nodes["z"]["value"]
    for axis in range(2):
        content, style = (float(part()[axis]) for part in (prior.content_variance, prior.style_variance))
        expected = torch.tensor([[content + style, content], [content, content + style]])
        torch.testing.assert_close(torch.cov(z[..., axis]), expected, rtol=0.04, atol=0.02)


@pytest.mark.parametrize("name", PROPER)
def test_generated_images_are_means_of_the_likelihood(name: str) -> None:
    model = make(PROPER[name]())
    images = model.generate(6, views=3)
    assert images.shape == (3, 6, *SHAPE)
    assert not images.requires_grad
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    assert model.generate(6).shape == (1, 6, *SHAPE)


def test_generated_views_of_an_image_agree_where_there_is_no_style() -> None:
    images = make(GaussianPrior(LATENT, style_variance=1e-8)).generate(5, views=4)
    torch.testing.assert_close(images, images[:1].expand_as(images), rtol=0, atol=1e-4)
    assert float(images[0].std(0).max()) > 1e-3


def test_nothing_can_be_generated_from_a_flat_prior() -> None:
    with pytest.raises(NotImplementedError, match="ImproperUniform does not support sampling"):
        make(FlatPrior(LATENT)).generate(3)
