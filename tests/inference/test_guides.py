"""Guides: their sites and their representations."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor, nn

from pp_simve.inference import ELBO, AmortizedGuide, Balanced, Guide, Representation, ZFirstGuide
from pp_simve.inference.guides.recognition import SMALLEST_SCALE, START_SCALE
from pp_simve.models import Bernoulli, FlatPrior, GaussianPrior, NTXent, SimVE, StudentTPrior

from .programs import FEATURES, GUIDES, IMAGES, LATENT, PIXELS, SHAPE, SmoothEncoder, draw_views, make_pair

pytestmark = pytest.mark.usefixtures("local_parameters")


class NormEncoder(nn.Sequential):
    """Has batch normalisation and dropout, whose evaluation mode differs from training."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(PIXELS, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
        self.features = 8


def test_amortized_content_is_the_exact_conditional_of_the_drawn_z() -> None:
    pair = make_pair("gaussian per axis", "amortized")
    nodes = poutine.trace(pair.guide).get_trace(draw_views(3)).nodes
    exact = pair.prior.content_posterior(nodes["z"]["value"])
    value = nodes["content"]["value"]
    torch.testing.assert_close(nodes["content"]["fn"].log_prob(value), exact.log_prob(value), rtol=0, atol=0)


def test_point_content_is_the_mean_of_the_conditional_and_under_a_flat_prior_the_mean_of_the_views() -> None:
    pair = make_pair("gaussian per axis", "point")
    nodes = poutine.trace(pair.guide).get_trace(draw_views(3)).nodes
    assert torch.equal(nodes["content"]["value"], pair.prior.content_posterior(nodes["z"]["value"]).mean)
    nodes = poutine.trace(make_pair("flat", "point").guide).get_trace(draw_views(3)).nodes
    mean = nodes["z"]["value"].mean(0, keepdim=True)
    torch.testing.assert_close(nodes["content"]["value"], mean, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("guide", GUIDES)
def test_posterior_of_several_views_has_one_content_an_image_from_all_of_them(guide: str) -> None:
    pair = make_pair("gaussian per axis", guide)
    views = draw_views(5)
    found = pair.guide.posterior(views)
    assert isinstance(found, Representation)
    assert found.z.shape == found.style.shape == (5, IMAGES, LATENT)
    assert found.backbone.shape == (5, IMAGES, FEATURES)
    assert found.content.shape == (IMAGES, LATENT)
    prior = pair.prior
    variance = 1 / (1 / prior.content_variance() + 5 / prior.style_variance())
    torch.testing.assert_close(found.content, variance * (found.z / prior.style_variance()).sum(0))
    torch.testing.assert_close(found.style, found.z - found.content)


@pytest.mark.parametrize("training", [True, False])
def test_embedding_batches_runs_in_evaluation_mode_and_puts_the_old_mode_back(training: bool) -> None:
    guide = AmortizedGuide(NormEncoder(), FlatPrior(LATENT)).train(training)
    images = torch.rand(10, *SHAPE)
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    found = guide.embed_batches(images)
    assert guide.training is training
    assert all(module.training is training for module in guide.modules())
    assert all(torch.equal(before[name], value) for name, value in guide.state_dict().items())
    assert not found.z.requires_grad
    assert torch.equal(found.z, guide.eval().embed(images).z)


def test_embedding_batches_puts_the_old_mode_back_after_an_error() -> None:
    guide = AmortizedGuide(NormEncoder(), FlatPrior(LATENT))
    with pytest.raises(
        ValueError, match=r"cannot embed images of shape \(1, 5, 5\) \(.*cannot be multiplied.*\)\. Build"
    ):
        guide.embed_batches(torch.rand(4, 1, 5, 5))
    assert guide.training


def test_embedding_bytes_equals_embedding_floats_over_255() -> None:
    guide = AmortizedGuide(NormEncoder(), FlatPrior(LATENT))
    images = torch.randint(0, 256, (10, *SHAPE), dtype=torch.uint8)
    kept = images.clone()
    from_bytes = guide.embed_batches(images).as_dict()
    from_floats = guide.embed_batches(images.float() / 255).as_dict()
    assert all(torch.equal(from_bytes[name], value) for name, value in from_floats.items())
    assert torch.equal(images, kept)


def test_a_fresh_guide_starts_at_the_start_scale_where_the_features_are_zero() -> None:
    guide = AmortizedGuide(SmoothEncoder(), FlatPrior(LATENT))
    q = guide.recognition.latent(torch.zeros(1, FEATURES))
    torch.testing.assert_close(
        q.base_dist.scale, torch.full((1, LATENT), START_SCALE + SMALLEST_SCALE), rtol=1e-3, atol=0
    )


def test_scale_stays_positive_for_extreme_features() -> None:
    guide = AmortizedGuide(SmoothEncoder(), FlatPrior(LATENT))
    with torch.no_grad():
        guide.recognition.encoder_head.head.weight.fill_(1e3)
    q = guide.recognition.latent(torch.full((1, FEATURES), -1.0))
    assert q.base_dist.scale.min().item() > 0.99 * SMALLEST_SCALE


def test_a_guide_of_ones_own_needs_three_methods_and_says_which_is_missing() -> None:
    class Bare(Guide):
        pass

    for call in (lambda: Bare()(torch.zeros(1)), lambda: Bare().posterior(torch.zeros(1))):
        with pytest.raises(NotImplementedError, match="Bare must define"):
            call()

    class Constant(Guide):
        def forward(self, views: Tensor) -> None:
            with pyro.plate("image", views.shape[1], dim=-1):
                pyro.sample("content", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))

        def posterior(self, views: Tensor) -> Representation:
            mean = views.flatten(2).mean(-1, keepdim=True)
            return Representation(backbone=mean, z=mean, content=mean.mean(0), style=mean - mean.mean(0))

    found = Constant().embed_batches(torch.rand(7, *SHAPE), batch_size=3)
    assert found.content.shape == found.style.shape == (7, 1)


class LaplaceGuide(ZFirstGuide):
    """All that a guide of one's own has to define."""

    def __init__(self, encoder: nn.Module, prior: GaussianPrior, **options: int) -> None:
        super().__init__(encoder, prior, 2 * prior.latent_dim, **options)

    def latent(self, features: Tensor) -> dist.Independent:
        loc, log_scale = self.encoder_head(features).chunk(2, -1)
        return dist.Laplace(loc, log_scale.exp()).to_event(1)


def test_a_guide_of_ones_own_has_an_encoder_representations_and_a_backbone_for_objectives() -> None:
    prior, encoder = GaussianPrior(LATENT), SmoothEncoder()
    guide, views = LaplaceGuide(encoder, prior), draw_views(2, torch.float32)
    assert guide.encoder is encoder
    assert guide.posterior(views).backbone.shape == (2, IMAGES, FEATURES)
    decoder = nn.Sequential(nn.Linear(LATENT, PIXELS), nn.Unflatten(-1, SHAPE))
    model = SimVE(prior, Bernoulli(decoder), NTXent())
    terms = ELBO(model, guide, alpha=Balanced(), backbone=NTXent(projection=[5]))(views)
    assert terms["alpha"] > 0
    assert terms["loss"].isfinite()


def test_a_guide_of_ones_own_refuses_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match="LaplaceGuide infers content from z exactly, which StudentTPrior cannot"):
        LaplaceGuide(SmoothEncoder(), StudentTPrior(LATENT))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Flatten has no integer attribute `features`"):
        LaplaceGuide(nn.Flatten(), GaussianPrior(LATENT))
    LaplaceGuide(nn.Flatten(), GaussianPrior(LATENT), features=PIXELS)
    with pytest.raises(NotImplementedError, match=r"ZFirstGuide must define latent\(features\)"):
        ZFirstGuide(SmoothEncoder(), GaussianPrior(LATENT), outputs=3).posterior(draw_views(2, torch.float32))
