"""The suites of guides and objectives find planted mistakes, and none in the same parts without them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.functional import softplus

from pp_simve.inference import ELBO, Guide, Objective, Representation
from pp_simve.models import AdditivePrior, Prior, SimVE, apply_network
from pp_simve.testing import GuideSuite, LikelihoodSuite, ObjectiveSuite, PriorSuite

from .planted import Mistake, assert_caught, built, each, failures, suite_for
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
        return self.loc(features)

    def scale(self, features: Tensor) -> Tensor:
        return softplus(self.raw_scale(features) - 2) + 1e-4

    def latent(self, features: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.mean(features), self.scale(features)).to_event(1)

    def draw(self, latent: dist.TorchDistribution) -> Tensor:
        return pyro.sample("z", latent, infer={"is_auxiliary": True})

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


def exploding(self: Any, features: Tensor) -> Tensor:
    """Fine until it is trained."""
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


def latent_of(normal_class: type[dist.Normal], self: Right, features: Tensor) -> dist.TorchDistribution:
    return dist.Independent(normal_class(self.mean(features), self.scale(features)), 1)


def numpy_noise(self: Right, features: Tensor) -> Tensor:
    return mean(self, features) + float(0.01 * np.random.standard_normal())  # noqa: NPY002 (the planted fault is noise outside of torch)


def shifted_by_a_pyro_parameter(self: Right, features: Tensor) -> Tensor:
    return mean(self, features) + pyro.param("shift", torch.zeros((), dtype=features.dtype))


def weighted_by_position(self: Right, features: Tensor) -> Tensor:
    return mean(self, features) * (1 + torch.arange(features.shape[-3]).view(-1, 1, 1))


def in_float32(self: Right, views: Tensor) -> Representation:
    right = posterior(self, views)
    return Representation(right.backbone, right.z.float(), right.content.float(), right.style.float())


def shrunk(self: Right, views: Tensor) -> Representation:
    right = posterior(self, views)
    return Representation(right.backbone, 0.5 * right.z, 0.5 * right.content, 0.5 * right.style)


def without_the_priors_pull(self: Right, views: Tensor) -> Representation:
    right = posterior(self, views)
    content = right.z.mean(0)
    return Representation(right.backbone, right.z, content, right.z - content)


def style_is_z(self: Right, views: Tensor) -> Representation:
    right = posterior(self, views)
    return Representation(right.backbone, right.z, right.content, right.z)


def another_embedding(self: Right, images: Tensor) -> Representation:
    right = Guide.embed(self, images)
    return Representation(right.backbone, right.z, right.z, torch.zeros_like(right.z))


def evaluation_left_on(self: Right, images: Tensor, batch_size: int = 512) -> Representation:
    found = Guide.embed_batches(self, images, batch_size)
    self.eval()
    return found


mean, posterior, scale, content = Right.mean, Right.posterior, Right.scale, Right.content
SITES = "test_sites_are_those_of_the_model"
EVIDENCE = "test_importance_weights_average_to_the_evidence: not normalized"
FIT = "test_five_steps_of_a_fit"
STATE = "test_state_dict_holds_everything"
MEANS = "test_posterior_means_are_the_means_of_draws: posterior(views)"
EMBEDDING = "test_embedding_is_the_posterior_of_one_view"
ORDER = "test_the_order_of_views_does_not_matter: posterior(views)"
IMAGES = "test_images_do_not_depend_on_their_neighbours"

GUIDES: list[Mistake] = [
    ("content without to_event", f"{SITES}: .to_event(1)", {"content": lambda self, z: content(self, z).base_dist}),
    ("z not marked auxiliary", f"{SITES}: the guide samples content, style, z", {"forward": z_not_auxiliary}),
    ("content drawn once a view", f"{SITES}: 'content' is in plates", {"forward": content_of_a_view}),
    ("a scale that reaches zero", f"{SITES}: scale", {"scale": lambda self, x: self.raw_scale(x).relu()}),
    (
        "dimensions counted from the left",
        "test_particles_widen_every_site_on_the_left: Count dimensions from the right",
        {"content": content_counted_from_the_left},
    ),
    ("draws narrower than their density", EVIDENCE, {"latent": lambda self, x: latent_of(Narrower, self, x)}),
    (
        "poutine.scale on q",
        EVIDENCE,
        {"forward": lambda self, views: poutine.scale(Right.forward, scale=0.5)(self, views)},
    ),
    (
        "a transformation without its Jacobian",
        EVIDENCE,
        {"draw": lambda self, latent: Right.draw(self, latent).sinh()},
    ),
    (
        "noise outside any site",  # outside the plates' handlers too: one draw for all particles
        "test_particles_widen_every_site_on_the_left: not from noise of your own",
        {"draw": lambda self, latent: latent.rsample()},
    ),
    ("NumPy's randomness", "test_same_seed_same_numbers: no numpy", {"mean": numpy_noise}),
    (
        "encoder's output detached",
        f"{FIT}: parameter guide.encoder.1.weight is the same",
        {"features": lambda self, views: Right.features(self, views).detach()},
    ),
    (
        "draws that are not reparametrized",
        f"{FIT}: 'z' is not reparametrised",
        {"latent": lambda self, x: latent_of(Sampled, self, x)},
    ),
    (
        "a layer of no use",
        f"{FIT}: parameter guide.unused.weight",
        built(Right, lambda self: setattr(self, "unused", nn.Linear(2, 2))),
    ),
    ("pyro.param in the global store", f"{FIT}: global store", {"mean": shifted_by_a_pyro_parameter}),
    (".float()", "test_keeps_dtype: leave out .float()", {"posterior": in_float32}),
    (
        "encoder called without apply_network",
        "test_networks_run_in_low_precision_and_latents_do_not: apply_network",
        {"features": lambda self, views: self.encoder(views.flatten(0, 1)).unflatten(0, views.shape[:2])},
    ),
    (
        "content from the first view alone",
        "test_content_is_inferred_from_all_views: when view 1 of 3 is replaced",
        {"content": lambda self, z: content(self, z[..., :1, :, :])},
    ),
    ("views weighted by position", f"{ORDER}.z depends on the order", {"mean": weighted_by_position}),
    (
        "the batch's mean subtracted",
        f"{IMAGES}: posterior(views).z of an image alone",
        {"mean": lambda self, x: mean(self, x) - mean(self, x).mean(-2, keepdim=True)},
    ),
    (
        "scales averaged over the batch",
        f"{IMAGES}: q's density of an image",
        {"scale": lambda self, x: scale(self, x).mean(-2, keepdim=True)},
    ),
    (
        "a plain tensor as attribute",
        "test_keeps_dtype: guide.shift is a plain tensor",
        built(Right, lambda self: setattr(self, "shift", torch.randn(()))),
    ),
    ("a running statistic left out of the state", f"{STATE}: register_buffer", PlainStatistic),
    ("posterior means that are not the draws'", f"{MEANS}.z is off", {"posterior": shrunk}),
    (
        "the mean of a function taken for the function of the mean",
        f"{MEANS}.content is off",
        {"posterior": without_the_priors_pull},
    ),
    ("style set to z", f"{MEANS}.style is off", {"posterior": style_is_z}),
    (
        "embed that answers something else",
        f"{EMBEDDING}: embed(images).content is another",
        {"embed": another_embedding},
    ),
    ("evaluation mode left on", f"{EMBEDDING}: left evaluation mode on", {"embed_batches": evaluation_left_on}),
    (
        "an encoder's width taken for granted",
        "test_an_encoder_of_unknown_width_is_refused_by_name: names `features`",
        WidthUnchecked,
    ),
    (
        "a scale that explodes in training",
        f"{FIT}: a fit of five steps ends in NonFiniteError",
        {"scale": exploding}
        | built(Right, lambda self: self.register_buffer("start", self.raw_scale.bias.detach() + 1e-5)),
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
    return self.elbo(views)


def hidden(self: Any) -> None:
    """Keeps the pair where `parameters()` does not find it."""
    pair = self.elbo
    del self.elbo
    object.__setattr__(self, "elbo", pair)


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
    return {"loss": right(self, views)["loss"] * float(1 + 0.01 * np.random.standard_normal())}  # noqa: NPY002 (the planted fault is noise outside of torch)


def infinite_for_one_view(self: RightObjective, views: Tensor) -> Terms:
    return right(self, views) | {"spread": views.var(0, correction=0).mean() * len(views) / (len(views) - 1.0)}


TERMS = "test_terms_are_named_scalars"
MEAN = "test_the_loss_is_a_mean_over_images"
GRADIENT = "test_only_the_loss_carries_a_gradient"

OBJECTIVES: list[Mistake] = [
    (".item()", "test_a_step_reads_nothing_back: _local_scalar_dense", {"forward": reads_back}),
    (
        "indexing by a mask",
        "test_a_step_reads_nothing_back: by a mask",
        {"forward": lambda self, views: right(self, views) | {"bright": views[views > 0.5].mean()}},
    ),
    ("no gradient to the guide", f"{FIT}: parameter guide.", {"forward": without_guide}),
    (
        "a sum over images",
        f"{MEAN}: divide by views.shape[1]",
        {"forward": lambda self, x: {name: value * x.shape[1] for name, value in right(self, x).items()}},
    ),
    ("images compared, undeclared", f"{MEAN}: additive = False", {"forward": contrasted}),
    ("images weighted by position", f"{MEAN}: by its index", {"forward": by_index}),
    (
        "terms with a gradient",
        f"{GRADIENT}: the terms doubled",
        {"forward": lambda self, views: (terms := right(self, views)) | {"doubled": 2 * terms["loss"]}},
    ),
    (
        "a loss without one",
        f"{GRADIENT}: the loss carries no gradient",
        {"forward": lambda self, views: {name: value.detach() for name, value in right(self, views).items()}},
    ),
    (
        "a part of the gradient stopped",
        "test_gradients_equal_finite_differences: exact_gradient",
        {"forward": part_stopped},
    ),
    (
        "a term for each image",
        f"{TERMS}: the term 'grey' is tensor(",
        {"forward": lambda self, views: right(self, views) | {"grey": views.mean((0, 2, 3, 4))}},
    ),
    (
        "no `loss` among the terms",
        f"{TERMS}: expected a dictionary with 'loss' in it",
        {"forward": lambda self, views: {"elbo": -right(self, views)["loss"]}},
    ),
    ("infinite for one view", f"{TERMS}: for 1 views", {"forward": infinite_for_one_view}),
    (
        "model and guide unseen by the optimizer",
        "test_parameters_are_the_objectives: not among objective.parameters()",
        built(RightObjective, hidden),
    ),
    ("a baseline left out of the state", f"{STATE}: 'gain'", PlainBaseline),
    ("NumPy's randomness", "test_same_seed_same_numbers: no numpy", {"forward": numpy_weight}),
    (
        ".float()",
        "test_keeps_dtype: leave out .float()",
        {"forward": lambda self, views: {name: value.float() for name, value in right(self, views).items()}},
    ),
]


def test_right_parts_pass() -> None:
    assert failures(suite_for(GuideSuite, Right)) == {}
    assert failures(suite_for(ObjectiveSuite, RightObjective)) == {}
    # What is a mean over views too is still a mean over images.
    mean_over_views = {"forward": lambda self, x: {name: value / len(x) for name, value in right(self, x).items()}}
    assert failures(suite_for(ObjectiveSuite, RightObjective, mean_over_views)) == {}
    # Images may be compared where `additive` declares it.
    comparing = suite_for(ObjectiveSuite, RightObjective, {"forward": contrasted})
    comparing.additive = False
    assert failures(comparing) == {}


@pytest.mark.parametrize(
    ("suite", "check"), each(GuideSuite, Right, GUIDES) + each(ObjectiveSuite, RightObjective, OBJECTIVES)
)
def test_mistake_is_found(suite: Any, check: str) -> None:
    assert_caught(suite, check)


def test_every_check_finds_a_mistake() -> None:
    """No check is superfluous."""
    suites = (PriorSuite, LikelihoodSuite, GuideSuite, ObjectiveSuite)
    checks = {name for suite in suites for name in dir(suite) if name.startswith("test_")}
    planted = [*PRIORS, *LIKELIHOODS, *GUIDES, *OBJECTIVES]
    assert checks == {check.partition(": ")[0] for _, check, _ in planted}
    assert len(planted) > 100, "docs/priors_and_guides.md"
