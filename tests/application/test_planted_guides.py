"""The suites of guides and objectives find planted mistakes, and none in the same parts without them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pp_simve.inference import ELBO, Guide, Objective, Representation
from pp_simve.models import AdditivePrior, Prior, SimVE, apply_network
from pp_simve.testing import GuideSuite, LikelihoodSuite, ObjectiveSuite, PriorSuite

from .planted import Mistake, assert_caught, each, failures, suite_for
from .test_planted_parts import LIKELIHOODS, PRIORS

Terms = dict[str, Tensor]


class Right(Guide):
    """q(z_j | x_j) a Gaussian, content exact, style what remains."""

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

    def scale(self, features: Tensor) -> Tensor:
        return softplus(self.raw_scale(features) - 2) + 1e-4

    def latent(self, features: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.mean(features), self.scale(features)).to_event(1)

    def draw(self, latent: dist.TorchDistribution) -> Tensor:
        z: Tensor = pyro.sample("z", latent, infer={"is_auxiliary": True})
        return z

    def content(self, z: Tensor) -> dist.TorchDistribution:
        return self.prior.content_posterior(z)

    def forward(self, views: Tensor) -> None:
        view_plate = pyro.plate("view", views.shape[0], dim=-2)
        latent = self.latent(self.features(views))
        with pyro.plate("image", views.shape[1], dim=-1):
            with view_plate:
                z = self.draw(latent)
            content = pyro.sample("content", self.content(z))
            with view_plate:
                pyro.sample("style", dist.Delta(self.prior.decompose(content, z), event_dim=1))

    def posterior(self, views: Tensor) -> Representation:
        features = self.features(views)
        z = self.mean(features)
        content = self.content(z).mean
        return Representation(features, z, content.squeeze(0), self.prior.decompose(content, z))


class Narrower(dist.Normal):
    """Draws from half of the scale of its density."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        drawn: Tensor = super().rsample(sample_shape)
        return self.loc + 0.5 * (drawn - self.loc)


class Sampled(dist.Normal):
    has_rsample = False


class UnusedLayer(Right):
    def __init__(self, encoder: nn.Module, prior: Prior) -> None:
        super().__init__(encoder, prior)
        self.unused = nn.Linear(2, 2)


class PlainTensor(Right):
    def __init__(self, encoder: nn.Module, prior: Prior) -> None:
        super().__init__(encoder, prior)
        self.shift = torch.randn(prior.latent_dim)

    def mean(self, features: Tensor) -> Tensor:
        return super().mean(features) + self.shift.to(features.dtype)


class PlainStatistic(Right):
    gathered: Tensor | float = 0.0

    def mean(self, features: Tensor) -> Tensor:
        if self.training:
            self.gathered = 0.9 * self.gathered + 0.1 * features.detach().mean()
        return super().mean(features) - self.gathered


class WidthUnchecked(Right):
    def __init__(self, encoder: nn.Module, prior: Prior) -> None:
        if not hasattr(encoder, "features"):
            encoder.features = None  # type: ignore[assignment]
        super().__init__(encoder, prior)


class ExplodingScale(Right):
    """Fine until it is trained."""

    def __init__(self, encoder: nn.Module, prior: Prior) -> None:
        super().__init__(encoder, prior)
        self.register_buffer("start", self.raw_scale.bias.detach() + 1e-5)

    def scale(self, features: Tensor) -> Tensor:
        return (20_000 * (self.raw_scale.bias - self.start)).cosh().expand_as(self.mean(features))


def z_not_auxiliary(self: Right, views: Tensor) -> None:
    with poutine.uncondition(), poutine.infer_config(config_fn=lambda site: {"is_auxiliary": False}):
        Right.forward(self, views)


def content_of_a_view(self: Right, views: Tensor) -> None:
    latent = self.latent(self.features(views))
    with pyro.plate("image", views.shape[1], dim=-1), pyro.plate("view", views.shape[0], dim=-2):
        z = self.draw(latent)
        content = pyro.sample("content", self.content(z))
        pyro.sample("style", dist.Delta(self.prior.decompose(content, z), event_dim=1))


def content_counted_from_the_left(self: Right, z: Tensor) -> dist.TorchDistribution:
    variance = self.prior.style_variance()
    return dist.Normal(z.mean(0, keepdim=True), (variance / len(z)).sqrt()).to_event(1)


def narrower(self: Right, features: Tensor) -> dist.TorchDistribution:
    return dist.Independent(Narrower(self.mean(features), self.scale(features)), 1)


def scaled(self: Right, views: Tensor) -> None:
    with poutine.scale(scale=0.5):
        Right.forward(self, views)


def noise_outside_any_site(self: Right, latent: dist.TorchDistribution) -> Tensor:
    # Drawn outside the plates' handlers too: one draw for all particles.
    return latent.rsample()


def numpy_noise(self: Right, features: Tensor) -> Tensor:
    mean = Right.mean(self, features)
    return mean + 0.01 * torch.as_tensor(np.random.standard_normal(mean.shape), dtype=mean.dtype)  # noqa: NPY002


def not_reparametrized(self: Right, features: Tensor) -> dist.TorchDistribution:
    return dist.Independent(Sampled(self.mean(features), self.scale(features)), 1)


def shifted_by_a_pyro_parameter(self: Right, features: Tensor) -> Tensor:
    return Right.mean(self, features) + pyro.param("shift", torch.zeros((), dtype=features.dtype))


def without_regard_to_precision(self: Right, views: Tensor) -> Tensor:
    features: Tensor = self.encoder(views.flatten(0, 1)).unflatten(0, views.shape[:2])
    return features


def weighted_by_position(self: Right, features: Tensor) -> Tensor:
    position = torch.arange(features.shape[-3], dtype=features.dtype).view(-1, 1, 1)
    return Right.mean(self, features) * (1 + position)


def centered(self: Right, features: Tensor) -> Tensor:
    mean = Right.mean(self, features)
    return mean - mean.mean(-2, keepdim=True)


def in_float32(self: Right, views: Tensor) -> Representation:
    right = Right.posterior(self, views)
    return Representation(right.backbone, right.z.float(), right.content.float(), right.style.float())


def shrunk(self: Right, views: Tensor) -> Representation:
    right = Right.posterior(self, views)
    return Representation(right.backbone, 0.5 * right.z, 0.5 * right.content, 0.5 * right.style)


def without_the_priors_pull(self: Right, views: Tensor) -> Representation:
    right = Right.posterior(self, views)
    content = right.z.mean(0)
    return Representation(right.backbone, right.z, content, right.z - content)


def style_is_z(self: Right, views: Tensor) -> Representation:
    right = Right.posterior(self, views)
    return Representation(right.backbone, right.z, right.content, right.z)


def another_embedding(self: Right, images: Tensor) -> Representation:
    right = Guide.embed(self, images)
    return Representation(right.backbone, right.z, right.z, torch.zeros_like(right.z))


def evaluation_left_on(self: Right, images: Tensor, batch_size: int = 512) -> Representation:
    found = Guide.embed_batches(self, images, batch_size)
    self.eval()
    return found


GUIDES = [
    Mistake(
        "content without to_event",
        {"content": lambda self, z: Right.content(self, z).base_dist},
        "test_sites_are_those_of_the_model: .to_event(1)",
    ),
    Mistake(
        "z not marked auxiliary",
        {"forward": z_not_auxiliary},
        "test_sites_are_those_of_the_model: the guide samples content, style, z",
    ),
    Mistake(
        "content drawn once a view",
        {"forward": content_of_a_view},
        "test_sites_are_those_of_the_model: content belongs to an image",
    ),
    Mistake(
        "a scale that reaches zero",
        {"scale": lambda self, features: self.raw_scale(features).relu()},
        "test_sites_are_those_of_the_model: scale",
    ),
    Mistake(
        "dimensions counted from the left",
        {"content": content_counted_from_the_left},
        "test_particles_widen_every_site_on_the_left: Count dimensions from the right",
    ),
    Mistake(
        "draws narrower than their density",
        {"latent": narrower},
        "test_importance_weights_average_to_the_evidence: not normalized",
    ),
    Mistake(
        "poutine.scale on q", {"forward": scaled}, "test_importance_weights_average_to_the_evidence: poutine.scale"
    ),
    Mistake(
        "a transformation without its Jacobian",
        {"draw": lambda self, latent: Right.draw(self, latent).sinh()},
        "test_importance_weights_average_to_the_evidence: a lost Jacobian",
    ),
    Mistake(
        "noise outside any site",
        {"draw": noise_outside_any_site},
        "test_importance_weights_average_to_the_evidence: an auxiliary site",
        "test_particles_widen_every_site_on_the_left: not from noise of your own",
    ),
    Mistake("NumPy's randomness", {"mean": numpy_noise}, "test_same_seed_same_numbers: no numpy"),
    Mistake(
        "encoder's output detached",
        {"features": lambda self, views: Right.features(self, views).detach()},
        "test_every_parameter_gets_a_gradient: parameter guide.encoder.1.weight",
        "test_five_steps_of_a_fit: parameter guide.encoder.1.weight is the same",
    ),
    Mistake(
        "draws that are not reparametrized",
        {"latent": not_reparametrized},
        "test_every_parameter_gets_a_gradient: 'z' is not reparametrised",
    ),
    Mistake("a layer of no use", UnusedLayer, "test_every_parameter_gets_a_gradient: parameter guide.unused.weight"),
    Mistake(
        "pyro.param in the global store",
        {"mean": shifted_by_a_pyro_parameter},
        "test_every_parameter_gets_a_gradient: global store",
    ),
    Mistake(".float()", {"posterior": in_float32}, "test_keeps_dtype: leave out .float()"),
    Mistake(
        "encoder called without apply_network",
        {"features": without_regard_to_precision},
        "test_networks_run_in_low_precision_and_latents_do_not: apply_network",
    ),
    Mistake(
        "content from the first view alone",
        {"content": lambda self, z: Right.content(self, z[..., :1, :, :])},
        "test_the_order_of_views_does_not_matter: posterior(views).content depends on the order",
        "test_content_is_inferred_from_all_views: when view 1 of 3 is replaced",
    ),
    Mistake(
        "views weighted by position",
        {"mean": weighted_by_position},
        "test_the_order_of_views_does_not_matter: posterior(views).z depends on the order",
    ),
    Mistake(
        "the batch's mean subtracted",
        {"mean": centered},
        "test_images_do_not_depend_on_their_neighbours: posterior(views).z of an image alone",
    ),
    Mistake(
        "scales averaged over the batch",
        {"scale": lambda self, features: Right.scale(self, features).mean(-2, keepdim=True)},
        "test_images_do_not_depend_on_their_neighbours: q's density of an image",
    ),
    Mistake(
        "a plain tensor as attribute",
        PlainTensor,
        "test_state_dict_holds_everything: register_buffer",
        "test_keeps_dtype: guide.shift is a plain tensor",
    ),
    Mistake(
        "a running statistic left out of the state", PlainStatistic, "test_state_dict_holds_everything: register_buffer"
    ),
    Mistake(
        "posterior means that are not the draws'",
        {"posterior": shrunk},
        "test_posterior_means_are_the_means_of_draws: posterior(views).z is off",
    ),
    Mistake(
        "the mean of a function taken for the function of the mean",
        {"posterior": without_the_priors_pull},
        "test_posterior_means_are_the_means_of_draws: posterior(views).content is off",
    ),
    Mistake(
        "style set to z",
        {"posterior": style_is_z},
        "test_content_and_style_of_a_representation_compose_z: prior.decompose",
    ),
    Mistake(
        "embed that answers something else",
        {"embed": another_embedding},
        "test_embedding_is_the_posterior_of_one_view: embed(images).content is another",
    ),
    Mistake(
        "evaluation mode left on",
        {"embed_batches": evaluation_left_on},
        "test_embedding_is_the_posterior_of_one_view: left evaluation mode on",
    ),
    Mistake(
        "an encoder's width taken for granted",
        WidthUnchecked,
        "test_an_encoder_of_unknown_width_is_refused_by_name: names `features`",
    ),
    Mistake(
        "a scale that explodes in training",
        ExplodingScale,
        "test_five_steps_of_a_fit: a fit of five steps ends in NonFiniteError",
    ),
]


class RightObjective(Objective):
    """The ELBO."""

    def __init__(self, model: SimVE, guide: Guide) -> None:
        super().__init__()
        self.elbo = ELBO(model, guide)

    def forward(self, views: Tensor) -> Terms:
        return right(self, views)


def right(self: Any, views: Tensor) -> Terms:
    terms: Terms = self.elbo(views)
    return terms


class Hidden(RightObjective):
    """Keeps the pair where `parameters()` does not find it."""

    def __init__(self, model: SimVE, guide: Guide) -> None:
        super().__init__(model, guide)
        self.bound = (self.elbo,)
        del self.elbo

    def forward(self, views: Tensor) -> Terms:
        terms: Terms = self.bound[0](views)
        return terms


class PlainBaseline(RightObjective):
    """What is gathered in training is not saved."""

    baseline: Tensor | float = 0.0

    def forward(self, views: Tensor) -> Terms:
        terms = right(self, views)
        if self.training:
            self.baseline = 0.9 * self.baseline + 0.1 * terms["loss"].detach()
        return terms | {"gain": terms["loss"].detach() - self.baseline}


def reads_back(self: RightObjective, views: Tensor) -> Terms:
    terms = right(self, views)
    return terms | {"reconstruction": torch.tensor(terms["reconstruction"].item(), dtype=views.dtype)}


def without_guide(self: Any, views: Tensor) -> Terms:
    z = self.elbo.guide.posterior(views).z.detach()
    return {"loss": -self.elbo.model.likelihood(z).log_prob(views).sum() / views.shape[1]}


def by_index(self: RightObjective, views: Tensor) -> Terms:
    first = right(self, views[:, : (views.shape[1] + 1) // 2])["loss"]
    return {"loss": 0.5 * first + 0.5 * right(self, views)["loss"]}


def contrasted(self: Any, views: Tensor) -> Terms:
    z = self.elbo.guide.posterior(views).z
    return {"loss": right(self, views)["loss"] - 100 * (z.mean((0, 2)) * views.mean((0, 2, 3, 4))).std()}


def part_stopped(self: RightObjective, views: Tensor) -> Terms:
    loss = right(self, views)["loss"]
    return {"loss": loss + 0.1 * loss.detach() ** 2}


def numpy_weight(self: RightObjective, views: Tensor) -> Terms:
    return {"loss": right(self, views)["loss"] * float(1 + 0.01 * np.random.standard_normal())}  # noqa: NPY002


def infinite_for_one_view(self: RightObjective, views: Tensor) -> Terms:
    return right(self, views) | {"spread": views.var(0, correction=0).mean() * len(views) / (len(views) - 1.0)}


OBJECTIVES = [
    Mistake(".item()", {"forward": reads_back}, "test_a_step_reads_nothing_back: _local_scalar_dense"),
    Mistake(
        "indexing by a mask",
        {"forward": lambda self, views: right(self, views) | {"bright": views[views > 0.5].mean()}},
        "test_a_step_reads_nothing_back: by a mask",
    ),
    Mistake(
        "no gradient to the guide",
        {"forward": without_guide},
        "test_every_parameter_gets_a_gradient: parameter guide.",
        "test_five_steps_of_a_fit: parameter guide.",
        "test_gradients_equal_finite_differences: .detach()",
    ),
    Mistake(
        "a sum over images",
        {"forward": lambda self, x: {name: value * x.shape[1] for name, value in right(self, x).items()}},
        "test_the_loss_is_a_mean_over_images: views.shape[1]",
    ),
    Mistake(
        "images compared, undeclared", {"forward": contrasted}, "test_the_loss_is_a_mean_over_images: additive = False"
    ),
    Mistake(
        "images weighted by position", {"forward": by_index}, "test_the_order_of_images_does_not_matter: by its index"
    ),
    Mistake(
        "terms with a gradient",
        {"forward": lambda self, views: (terms := right(self, views)) | {"doubled": 2 * terms["loss"]}},
        "test_only_the_loss_carries_a_gradient: the terms doubled",
    ),
    Mistake(
        "a loss without one",
        {"forward": lambda self, views: {name: value.detach() for name, value in right(self, views).items()}},
        "test_only_the_loss_carries_a_gradient: the loss carries no gradient",
    ),
    Mistake(
        "a part of the gradient stopped",
        {"forward": part_stopped},
        "test_gradients_equal_finite_differences: exact_gradient",
    ),
    Mistake(
        "a term for each image",
        {"forward": lambda self, views: right(self, views) | {"grey": views.mean((0, 2, 3, 4))}},
        "test_terms_are_named_scalars: 'grey' is a tensor of shape (5,)",
    ),
    Mistake(
        "no `loss` among the terms",
        {"forward": lambda self, views: {"elbo": -right(self, views)["loss"]}},
        "test_terms_are_named_scalars: a dictionary of 'elbo'",
    ),
    Mistake("infinite for one view", {"forward": infinite_for_one_view}, "test_terms_are_named_scalars: for 1 views"),
    Mistake(
        "model and guide in a tuple, unseen by the optimizer",
        Hidden,
        "test_parameters_are_the_objectives: not among objective.parameters()",
    ),
    Mistake("a baseline left out of the state", PlainBaseline, "test_state_dict_holds_everything: 'gain'"),
    Mistake("NumPy's randomness", {"forward": numpy_weight}, "test_same_seed_same_numbers: no numpy"),
    Mistake(
        ".float()",
        {"forward": lambda self, views: {name: value.float() for name, value in right(self, views).items()}},
        "test_keeps_dtype: leave out .float()",
    ),
]


def test_the_right_guide_passes() -> None:
    assert failures(suite_for(GuideSuite, Right)) == {}


def test_right_objectives_pass() -> None:
    assert failures(suite_for(ObjectiveSuite, RightObjective)) == {}
    # What is a mean over views too is still a mean over images.
    mean_over_views = {"forward": lambda self, x: {name: value / len(x) for name, value in right(self, x).items()}}
    assert failures(suite_for(ObjectiveSuite, Mistake("none", mean_over_views).planted(RightObjective))) == {}
    # Images may be compared where `additive` declares it.
    comparing = Mistake("none", {"forward": contrasted}).planted(RightObjective)
    assert failures(suite_for(ObjectiveSuite, comparing, additive=False)) == {}


@each(GUIDES)
def test_mistake_in_a_guide_is_found(mistake: Mistake, check: str, words: str) -> None:
    assert_caught(suite_for(GuideSuite, mistake.planted(Right)), check, words)


@each(OBJECTIVES)
def test_mistake_in_an_objective_is_found(mistake: Mistake, check: str, words: str) -> None:
    assert_caught(suite_for(ObjectiveSuite, mistake.planted(RightObjective)), check, words)


def test_every_check_finds_a_mistake() -> None:
    """No check is superfluous."""
    suites = (PriorSuite, LikelihoodSuite, GuideSuite, ObjectiveSuite)
    checks = {name for suite in suites for name in dir(suite) if name.startswith("test_")}
    planted = [*PRIORS, *LIKELIHOODS, *GUIDES, *OBJECTIVES]
    assert checks == {check.partition(": ")[0] for mistake in planted for check in mistake.caught_by}
    assert len(planted) == 99
