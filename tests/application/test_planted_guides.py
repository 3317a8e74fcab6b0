"""Mistakes planted in guides and objectives of one's own: the suites name each, and let the right ones pass."""

from __future__ import annotations

import unittest
from typing import Any, ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pp_simve.inference import ELBO, Guide, Objective, Representation
from pp_simve.models import AdditivePrior, Prior, SimVE, apply_network
from pp_simve.testing.guide import GuideSuite
from pp_simve.testing.objective import ObjectiveSuite

Suite = GuideSuite | ObjectiveSuite


def failures(suite: Suite, *checks: str) -> dict[str, Exception]:
    """Those checks of a suite that fail (of all, if none is named), by name, each run as pytest would."""
    failed: dict[str, Exception] = {}
    for name in checks or [name for name in dir(suite) if name.startswith("test_")]:
        try:
            getattr(suite, name)()
        except unittest.SkipTest:
            pass
        except Exception as error:
            failed[name] = error
    pyro.clear_param_store()
    return failed


def assert_caught(failed: dict[str, Exception], check: str, words: str) -> None:
    """The check failed, by what it says itself and not by an accident on the way."""
    assert check in failed
    assert isinstance(failed[check], AssertionError), repr(failed[check])
    assert words in str(failed[check])


class Right(Guide):
    """q(z_j | x_j) a Gaussian, content exact, style what remains. Each mistake below replaces one piece of it."""

    def __init__(self, encoder: nn.Module, prior: Prior) -> None:
        super().__init__()
        assert isinstance(prior, AdditivePrior)
        self.prior, self.encoder = prior, encoder
        width: Any = encoder.features
        self.loc, self.raw_scale = nn.Linear(width, prior.latent_dim), nn.Linear(width, prior.latent_dim)

    def features(self, views: Tensor) -> Tensor:
        return apply_network(self.encoder, views, event_dim=3)

    def mean(self, features: Tensor) -> Tensor:
        mean: Tensor = self.loc(features)
        return mean

    def latent(self, features: Tensor) -> dist.TorchDistribution:
        scale = softplus(self.raw_scale(features) - 2) + 1e-4
        return dist.Normal(self.mean(features), scale).to_event(1)

    def content(self, z: Tensor) -> dist.TorchDistribution:
        return self.prior.content_posterior(z)

    def forward(self, views: Tensor) -> None:
        view_plate = pyro.plate("view", views.shape[0], dim=-2)
        latent_dim = self.latent(self.features(views))
        with pyro.plate("image", views.shape[1], dim=-1):
            with view_plate:
                z = pyro.sample("z", latent_dim, infer={"is_auxiliary": True})
            content = pyro.sample("content", self.content(z))
            with view_plate:
                pyro.sample("style", dist.Delta(self.prior.decompose(content, z), event_dim=1))

    def posterior(self, views: Tensor) -> Representation:
        features = self.features(views)
        z = self.mean(features)
        content = self.content(z).mean
        return Representation(features, z, content.squeeze(0), self.prior.decompose(content, z))


class ForgottenEvent(Right):
    def content(self, z: Tensor) -> dist.TorchDistribution:
        return self.prior.content_posterior(z).base_dist


class ForgottenName(Right):
    def forward(self, views: Tensor) -> None:
        with poutine.uncondition(), poutine.infer_config(config_fn=lambda site: {"is_auxiliary": False}):
            super().forward(views)


class ContentOfAView(Right):
    """Content is drawn once a view."""

    def forward(self, views: Tensor) -> None:
        latent_dim = self.latent(self.features(views))
        with pyro.plate("image", views.shape[1], dim=-1), pyro.plate("view", views.shape[0], dim=-2):
            z = pyro.sample("z", latent_dim, infer={"is_auxiliary": True})
            content = pyro.sample("content", self.content(z))
            pyro.sample("style", dist.Delta(self.prior.decompose(content, z), event_dim=1))


class OwnParticles(Right):
    """Dimensions are counted from the left."""

    def content(self, z: Tensor) -> dist.TorchDistribution:
        variance = self.prior.style_variance()
        return dist.Normal(z.mean(0, keepdim=True), (variance / len(z)).sqrt()).to_event(1)


class Narrower(dist.Normal):
    """Draws from half of the scale that its density says."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        drawn: Tensor = super().rsample(sample_shape)
        return self.loc + 0.5 * (drawn - self.loc)


class WrongDensity(Right):
    def latent(self, features: Tensor) -> dist.TorchDistribution:
        right = super().latent(features).base_dist
        return dist.Independent(Narrower(right.loc, right.scale), 1)


class ScaledDensity(Right):
    def forward(self, views: Tensor) -> None:
        with poutine.scale(scale=0.5):
            super().forward(views)


class LostJacobian(Right):
    """z is a transformation of what has the density."""

    def forward(self, views: Tensor) -> None:
        view_plate = pyro.plate("view", views.shape[0], dim=-2)
        latent_dim = self.latent(self.features(views))
        with pyro.plate("image", views.shape[1], dim=-1):
            with view_plate:
                z = pyro.sample("z", latent_dim, infer={"is_auxiliary": True}).sinh()
            content = pyro.sample("content", self.content(z))
            with view_plate:
                pyro.sample("style", dist.Delta(self.prior.decompose(content, z), event_dim=1))


class OwnNoise(Right):
    """Noise beside the program: drawn without a site, so that q has no density."""

    def forward(self, views: Tensor) -> None:
        view_plate = pyro.plate("view", views.shape[0], dim=-2)
        z = self.latent(self.features(views)).rsample()
        with pyro.plate("image", views.shape[1], dim=-1):
            content = pyro.sample("content", self.content(z))
            with view_plate:
                pyro.sample("style", dist.Delta(self.prior.decompose(content, z), event_dim=1))


class NumpyNoise(Right):
    def latent(self, features: Tensor) -> dist.TorchDistribution:
        latent_dim = super().latent(features).base_dist
        noise = torch.as_tensor(np.random.standard_normal(latent_dim.loc.shape), dtype=latent_dim.loc.dtype)  # noqa: NPY002
        return dist.Normal(latent_dim.loc + 0.01 * noise, latent_dim.scale).to_event(1)


class DetachedEncoder(Right):
    def features(self, views: Tensor) -> Tensor:
        return super().features(views).detach()


class Sampled(dist.Normal):
    has_rsample = False


class NotReparametrised(Right):
    def latent(self, features: Tensor) -> dist.TorchDistribution:
        right = super().latent(features).base_dist
        return dist.Independent(Sampled(right.loc, right.scale), 1)


class UnusedLayer(Right):
    def __init__(self, encoder: nn.Module, prior: Prior) -> None:
        super().__init__(encoder, prior)
        self.unused = nn.Linear(2, 2)


class PyroParameter(Right):
    """A parameter in Pyro's global store, where no optimizer of a fit looks."""

    def mean(self, features: Tensor) -> Tensor:
        return super().mean(features) + pyro.param("shift", torch.zeros((), dtype=features.dtype))


class CastToFloat(Right):
    def features(self, views: Tensor) -> Tensor:
        return super().features(views).float().to(self.loc.weight.dtype)

    def posterior(self, views: Tensor) -> Representation:
        right = super().posterior(views)
        return Representation(right.backbone, right.z.float(), right.content.float(), right.style.float())


class CalledDirectly(Right):
    """The encoder is run without regard to the precision of networks."""

    def features(self, views: Tensor) -> Tensor:
        features: Tensor = self.encoder(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        return features


class FirstView(Right):
    def content(self, z: Tensor) -> dist.TorchDistribution:
        return self.prior.content_posterior(z[..., :1, :, :])


class MarkedView(Right):
    def mean(self, features: Tensor) -> Tensor:
        views = features.shape[-3]
        return super().mean(features) * (1 + torch.arange(views, dtype=features.dtype).view(-1, 1, 1))


class BatchMean(Right):
    def mean(self, features: Tensor) -> Tensor:
        mean = super().mean(features)
        return mean - mean.mean(-2, keepdim=True)


class BatchScale(Right):
    """Only what is drawn depends on the batch, not the means."""

    def latent(self, features: Tensor) -> dist.TorchDistribution:
        right = super().latent(features).base_dist
        return dist.Normal(right.loc, right.scale.mean(-2, keepdim=True)).to_event(1)


class PlainTensor(Right):
    """Drawn when the guide is made, and neither a parameter nor a buffer."""

    def __init__(self, encoder: nn.Module, prior: Prior) -> None:
        super().__init__(encoder, prior)
        self.shift = torch.randn(prior.latent_dim)

    def mean(self, features: Tensor) -> Tensor:
        return super().mean(features) + self.shift.to(features.dtype)


class PlainStatistic(Right):
    """Gathered in training, and forgotten when saved."""

    gathered: Tensor | float = 0.0

    def mean(self, features: Tensor) -> Tensor:
        if self.training:
            self.gathered = 0.9 * self.gathered + 0.1 * features.detach().mean()
        return super().mean(features) - self.gathered


class ShrunkPosterior(Right):
    def posterior(self, views: Tensor) -> Representation:
        right = super().posterior(views)
        return Representation(right.backbone, 0.5 * right.z, 0.5 * right.content, 0.5 * right.style)


class PluggedInPosterior(Right):
    """Content as the mean of z, without the prior's pull."""

    def posterior(self, views: Tensor) -> Representation:
        right = super().posterior(views)
        content = right.z.mean(0)
        return Representation(right.backbone, right.z, content, right.z - content)


class StyleIsZ(Right):
    def posterior(self, views: Tensor) -> Representation:
        right = super().posterior(views)
        return Representation(right.backbone, right.z, right.content, right.z)


class OtherEmbedding(Right):
    def embed(self, images: Tensor) -> Representation:
        right = super().embed(images)
        return Representation(right.backbone, right.z, right.z, torch.zeros_like(right.z))


class EvaluationLeftOn(Right):
    def embed_batches(self, images: Tensor, batch_size: int = 512) -> Representation:
        found = super().embed_batches(images, batch_size)
        self.eval()
        return found


class WidthUnchecked(Right):
    def __init__(self, encoder: nn.Module, prior: Prior) -> None:
        if not hasattr(encoder, "features"):
            encoder.features = None  # type: ignore[assignment]
        super().__init__(encoder, prior)


class VanishingScale(Right):
    def latent(self, features: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.mean(features), self.raw_scale(features).relu()).to_event(1)


class ExplodingScale(Right):
    """Fine until it is trained."""

    def latent(self, features: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.mean(features), (20_000 * (self.raw_scale.bias - self.start)).cosh()).to_event(1)

    def __init__(self, encoder: nn.Module, prior: Prior) -> None:
        super().__init__(encoder, prior)
        self.register_buffer("start", self.raw_scale.bias.detach() + 1e-5)


GUIDES: list[tuple[type[Guide], str, str]] = [
    (ForgottenEvent, "test_sites_are_those_of_the_model", ".to_event(1)"),
    (ForgottenName, "test_sites_are_those_of_the_model", "the guide samples content, style, z"),
    (ContentOfAView, "test_sites_are_those_of_the_model", "content belongs to an image"),
    (OwnParticles, "test_particles_widen_every_site_on_the_left", "Count dimensions from the right"),
    (WrongDensity, "test_importance_weights_average_to_the_evidence", "not normalised"),
    (ScaledDensity, "test_importance_weights_average_to_the_evidence", "poutine.scale"),
    (LostJacobian, "test_importance_weights_average_to_the_evidence", "a lost Jacobian"),
    (OwnNoise, "test_importance_weights_average_to_the_evidence", "an auxiliary site"),
    (OwnNoise, "test_particles_widen_every_site_on_the_left", "not from noise of your own"),
    (NumpyNoise, "test_the_same_seed_gives_the_same_draws", "no numpy"),
    (DetachedEncoder, "test_every_parameter_gets_a_gradient", "parameter encoder.1.weight"),
    (DetachedEncoder, "test_five_steps_of_fit", "parameter guide.encoder.1.weight is the same"),
    (NotReparametrised, "test_every_parameter_gets_a_gradient", "'z' is not reparametrised"),
    (UnusedLayer, "test_every_parameter_gets_a_gradient", "parameter unused.weight"),
    (PyroParameter, "test_every_parameter_gets_a_gradient", "global store"),
    (CastToFloat, "test_float32_stays_and_float64_is_kept", "leave out .float()"),
    (CalledDirectly, "test_networks_run_in_low_precision_and_latents_do_not", "apply_network"),
    (FirstView, "test_the_order_of_views_does_not_matter", "posterior(views).content depends on the order"),
    (FirstView, "test_content_is_inferred_from_all_views", "when view 1 of 3 is replaced"),
    (MarkedView, "test_the_order_of_views_does_not_matter", "posterior(views).z depends on the order"),
    (BatchMean, "test_images_do_not_depend_on_their_neighbours", "posterior(views).z of an image alone"),
    (BatchScale, "test_images_do_not_depend_on_their_neighbours", "q's density of an image"),
    (PlainTensor, "test_what_is_saved_is_all_there_is", "register_buffer"),
    (PlainStatistic, "test_what_is_saved_is_all_there_is", "register_buffer"),
    (ShrunkPosterior, "test_posterior_means_are_the_means_of_draws", "posterior(views).content is off"),
    (PluggedInPosterior, "test_posterior_means_are_the_means_of_draws", "posterior(views).content is off"),
    (StyleIsZ, "test_content_and_style_of_a_representation_compose_z", "prior.decompose"),
    (OtherEmbedding, "test_embedding_is_the_posterior_of_one_view", "embed(images).content is another"),
    (EvaluationLeftOn, "test_embedding_is_the_posterior_of_one_view", "left evaluation mode on"),
    (WidthUnchecked, "test_an_encoder_of_unknown_width_is_refused_by_name", "names `features`"),
    (VanishingScale, "test_sites_are_those_of_the_model", "scale"),
    (ExplodingScale, "test_five_steps_of_fit", "a fit of five steps ends in NonFiniteError"),
]


class GuidesOf(GuideSuite):
    """The suite for a class."""

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind

    def make(self, encoder: nn.Module, prior: Prior) -> Guide:
        made: Guide = self.kind(encoder, prior)
        return made


def test_the_right_guide_passes() -> None:
    assert failures(GuidesOf(Right)) == {}


@pytest.mark.parametrize(("guide", "check", "words"), GUIDES, ids=[f"{row[0].__name__}-{row[1]}" for row in GUIDES])
def test_a_mistake_in_a_guide_is_named(guide: type[Guide], check: str, words: str) -> None:
    assert_caught(failures(GuidesOf(guide), check), check, words)


class RightObjective(Objective):
    """The ELBO. Each mistake below replaces one piece of it."""

    def __init__(self, model: SimVE, guide: Guide) -> None:
        super().__init__()
        self.elbo = ELBO(model, guide)

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self.elbo(views)
        return terms


class ReadsBack(RightObjective):
    def forward(self, views: Tensor) -> dict[str, Tensor]:
        terms = super().forward(views)
        return terms | {"reconstruction": torch.tensor(terms["reconstruction"].item(), dtype=views.dtype)}


class Masks(RightObjective):
    def forward(self, views: Tensor) -> dict[str, Tensor]:
        terms = super().forward(views)
        return terms | {"bright": views[views > 0.5].mean()}


class WithoutGuide(RightObjective):
    """z is taken from the guide, but no gradient goes back."""

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        guide: Any = self.elbo.guide
        model: Any = self.elbo.model
        z = guide.posterior(views).z.detach()
        return {"loss": -model.likelihood(z).log_prob(views).sum() / views.shape[1]}


class SumOverImages(RightObjective):
    def forward(self, views: Tensor) -> dict[str, Tensor]:
        return {name: value * views.shape[1] for name, value in super().forward(views).items()}


class MeanOverViews(RightObjective):
    """Right: what is a mean over views too is still a mean over images."""

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        return {name: value / len(views) for name, value in super().forward(views).items()}


class ByIndex(RightObjective):
    def forward(self, views: Tensor) -> dict[str, Tensor]:
        first = super().forward(views[:, : (views.shape[1] + 1) // 2])["loss"]
        return {"loss": 0.5 * first + 0.5 * super().forward(views)["loss"]}


class Contrasted(RightObjective):
    """Images are compared, which is no mistake where `additive` says so."""

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        guide: Any = self.elbo.guide
        z = guide.posterior(views).z
        return {"loss": super().forward(views)["loss"] - 100 * (z.mean((0, 2)) * views.mean((0, 2, 3, 4))).std()}


class AttachedTerms(RightObjective):
    def forward(self, views: Tensor) -> dict[str, Tensor]:
        terms = super().forward(views)
        return terms | {"doubled": 2 * terms["loss"]}


class DetachedLoss(RightObjective):
    def forward(self, views: Tensor) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in super().forward(views).items()}


class StoppedPart(RightObjective):
    def forward(self, views: Tensor) -> dict[str, Tensor]:
        terms = super().forward(views)
        return terms | {"loss": terms["loss"] + 0.1 * terms["loss"].detach() ** 2}


class OneAnImage(RightObjective):
    def forward(self, views: Tensor) -> dict[str, Tensor]:
        return super().forward(views) | {"grey": views.mean((0, 2, 3, 4))}


class Nameless(RightObjective):
    def forward(self, views: Tensor) -> dict[str, Tensor]:
        terms = super().forward(views)
        return {"elbo": -terms["loss"]}


class NotOfOneView(RightObjective):
    def forward(self, views: Tensor) -> dict[str, Tensor]:
        return super().forward(views) | {"spread": views.var(0, correction=0).mean() * len(views) / (len(views) - 1.0)}


class Hidden(RightObjective):
    """Keeps the pair where `parameters()` does not see it."""

    def __init__(self, model: SimVE, guide: Guide) -> None:
        super().__init__(model, guide)
        self.bound = (self.elbo,)
        del self.elbo

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self.bound[0](views)
        return terms


class PlainBaseline(RightObjective):
    """What is gathered in training is not saved."""

    baseline: Tensor | float = 0.0

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        terms = super().forward(views)
        if self.training:
            self.baseline = 0.9 * self.baseline + 0.1 * terms["loss"].detach()
        return terms | {"gain": terms["loss"].detach() - self.baseline}


class NumpyWeight(RightObjective):
    def forward(self, views: Tensor) -> dict[str, Tensor]:
        terms = super().forward(views)
        return terms | {"loss": terms["loss"] * float(1 + 0.01 * np.random.standard_normal())}  # noqa: NPY002


class CastLoss(RightObjective):
    def forward(self, views: Tensor) -> dict[str, Tensor]:
        return {name: value.float() for name, value in super().forward(views).items()}


OBJECTIVES: list[tuple[type[Objective], str, str]] = [
    (ReadsBack, "test_a_step_reads_nothing_back", "_local_scalar_dense"),
    (Masks, "test_a_step_reads_nothing_back", "by a mask"),
    (WithoutGuide, "test_every_parameter_gets_a_gradient", "parameter guide."),
    (WithoutGuide, "test_five_steps_of_fit", "parameter guide."),
    (WithoutGuide, "test_gradients_agree_with_finite_differences", ".detach()"),
    (SumOverImages, "test_the_loss_is_a_mean_over_images", "views.shape[1]"),
    (Contrasted, "test_the_loss_is_a_mean_over_images", "additive = False"),
    (ByIndex, "test_the_order_of_images_does_not_matter", "by its index"),
    (AttachedTerms, "test_only_the_loss_carries_a_gradient", "the terms doubled"),
    (DetachedLoss, "test_only_the_loss_carries_a_gradient", "the loss carries no gradient"),
    (StoppedPart, "test_gradients_agree_with_finite_differences", "exact_gradient"),
    (OneAnImage, "test_terms_are_named_scalars", "'grey' is a tensor of shape (5,)"),
    (Nameless, "test_terms_are_named_scalars", "a dictionary of 'elbo'"),
    (NotOfOneView, "test_terms_are_named_scalars", "for 1 views"),
    (Hidden, "test_every_parameter_gets_a_gradient", "not among objective.parameters()"),
    (PlainBaseline, "test_what_is_saved_is_all_there_is", "'gain'"),
    (NumpyWeight, "test_the_same_seed_gives_the_same_terms", "noise from torch"),
    (CastLoss, "test_float32_stays_and_float64_is_kept", "leave out .float()"),
]


class ObjectivesOf(ObjectiveSuite):
    """The suite for a class."""

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind

    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        made: nn.Module = self.kind(model, guide)
        return made


@pytest.mark.parametrize("objective", [RightObjective, MeanOverViews])
def test_the_right_objective_passes(objective: type[Objective]) -> None:
    assert failures(ObjectivesOf(objective)) == {}


def test_objectives_that_compare_images_pass_where_they_say_so() -> None:
    class Comparing(ObjectivesOf):
        additive: ClassVar[bool] = False

    assert failures(Comparing(Contrasted)) == {}


@pytest.mark.parametrize(
    ("objective", "check", "words"), OBJECTIVES, ids=[f"{row[0].__name__}-{row[1]}" for row in OBJECTIVES]
)
def test_a_mistake_in_an_objective_is_named(objective: type[Objective], check: str, words: str) -> None:
    assert_caught(failures(ObjectivesOf(objective), check), check, words)
