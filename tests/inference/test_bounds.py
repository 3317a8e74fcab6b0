"""Objectives beside the plain ELBO, each against a plain reference written here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import pyro
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as Coin
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from pp_simve.inference import (
    ELBO,
    IWAE,
    AmortizedGuide,
    AnalyticELBO,
    ConsistencyELBO,
    DeltaGuide,
    DenoisingELBO,
    FlowGuide,
    Guide,
    Linear,
    Objective,
    PointGuide,
    ProgramError,
    StructuredGuide,
    fit,
)
from pp_simve.inference.augmentations import AugmentationPolicy
from pp_simve.inference.plan import FitError
from pp_simve.inference.tracing import run_pair
from pp_simve.models import (
    BlockPrior,
    EmpiricalPrior,
    ExactPrior,
    GaussianPrior,
    MixturePrior,
    Prior,
    SimVE,
    StandardPrior,
)

from .programs import DOUBLE, IMAGES, LATENT, SHAPE, Pair, SmoothEncoder, draw_views, make_pair, small_images

VIEWS = 3


def structured(prior: str) -> Pair:
    """As `make_pair`, with a structured guide."""
    pair = make_pair(prior)
    return Pair(pair.model, StructuredGuide(SmoothEncoder(), pair.prior).double(), pair.prior)


def with_prior(prior: Prior, make_guide: Callable[..., Guide] = AmortizedGuide) -> Pair:
    """A pair over a prior of the test's own."""
    model = SimVE(prior, make_pair().model.likelihood).double()
    return Pair(model, make_guide(SmoothEncoder(), prior).double(), prior)


def gradients(loss: Tensor, pair: Pair) -> dict[str, Tensor]:
    parameters = dict(pair.both().named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
    return {name: slope for name, slope in zip(parameters, found, strict=True) if slope is not None}


def assert_same_gradients(first: Tensor, second: Tensor, pair: Pair) -> None:
    ours, theirs = gradients(first, pair), gradients(second, pair)
    assert ours.keys() >= theirs.keys()
    for name, slope in ours.items():
        expected = theirs.get(name, torch.zeros_like(slope))
        torch.testing.assert_close(slope, expected, rtol=1e-9, atol=1e-11, msg=f"{name}: {{}}".format)


# Importance weighting.


@pytest.mark.parametrize("prior", ["gaussian learned", "standard"])
@pytest.mark.parametrize("make", [make_pair, structured], ids=["amortized", "structured"])
def test_one_sample_gives_the_elbo(make: Any, prior: str) -> None:
    pair, views = make(prior), draw_views(VIEWS)
    pyro.set_rng_seed(3)
    elbo = ELBO(pair.model, pair.guide)(views)
    pyro.set_rng_seed(3)
    weighted = IWAE(pair.model, pair.guide, samples=1)(views)
    assert weighted.keys() == elbo.keys() | {"gain"}
    for name, value in elbo.items():
        torch.testing.assert_close(weighted[name], value, rtol=0, atol=1e-12)
    assert abs(float(weighted["gain"])) < 1e-12
    assert_same_gradients(weighted["loss"], elbo["loss"], pair)


def dense_prior(prior: GaussianPrior, z: Tensor) -> Tensor:
    """log p(z_1..J) of one image, ``(view, latent)``, by a covariance over the views of each axis."""
    total = torch.zeros((), dtype=DOUBLE)
    views = len(z)
    for axis in range(LATENT):
        covariance = prior.style_variance()[axis] * torch.eye(views, dtype=DOUBLE) + prior.content_variance()[axis]
        total = total + MultivariateNormal(torch.zeros(views, dtype=DOUBLE), covariance).log_prob(z[:, axis])
    return total


def plain_iwae(pair: Pair, views: Tensor, noise: Tensor) -> Tensor:
    """The bound, image by image and sample by sample; noise of shape ``(sample, view, image, latent)``."""
    assert isinstance(pair.prior, GaussianPrior)
    assert isinstance(pair.guide, AmortizedGuide)
    q = pair.guide.recognition(views).base_dist
    bounds = []
    for image in range(IMAGES):
        log_weights = []
        for sample in range(len(noise)):
            z = q.loc[:, image] + q.scale[:, image] * noise[sample, :, image]
            logits = pair.model.likelihood.get_submodule("decoder")(z)
            seen = Coin(logits=logits, validate_args=False).log_prob(views[:, image]).sum()
            entropy = -Normal(q.loc[:, image], q.scale[:, image]).log_prob(z).sum()
            log_weights.append(seen + dense_prior(pair.prior, z) + entropy)
        bounds.append(torch.stack(log_weights).logsumexp(0) - math.log(len(noise)))
    return torch.stack(bounds).mean()


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_value_and_gradient_of_the_importance_weighted_bound_are_those_of_a_plain_loop(samples: int) -> None:
    pair, views = make_pair("gaussian learned"), draw_views(VIEWS)
    assert isinstance(pair.guide, AmortizedGuide)
    with torch.no_grad():  # wide, so that weights differ
        pair.guide.recognition.encoder_head.head.bias[LATENT:] = 0.5
    pyro.set_rng_seed(3)
    terms = IWAE(pair.model, pair.guide, samples=samples)(views)
    pyro.set_rng_seed(3)
    _, guide_trace = run_pair(pair.model, pair.guide, views, particles=samples)
    site: Any = guide_trace.nodes["z"]
    noise = ((site["value"] - site["fn"].mean) / site["fn"].stddev).detach()
    reference = plain_iwae(pair, views, noise.reshape(samples, VIEWS, IMAGES, LATENT))
    torch.testing.assert_close(-terms["loss"], reference, rtol=1e-12, atol=1e-12)
    assert_same_gradients(-terms["loss"], reference, pair)
    if samples == 7:
        assert float(terms["gain"]) > 0.1


@pytest.mark.parametrize("prior", ["gaussian per axis", "flat learned", "standard"])
def test_terms_and_gain_add_up_to_the_bound_and_the_gain_is_not_negative(prior: str) -> None:
    pair, views = make_pair(prior), draw_views(VIEWS)
    for samples in (2, 16):
        terms = IWAE(pair.model, pair.guide, samples=samples)(views)
        assert set(terms) == {"loss", "reconstruction", "content", "style", "entropy", "gain"}
        parts = sum(value for name, value in terms.items() if name != "loss")
        torch.testing.assert_close(-terms["loss"].detach(), parts, rtol=1e-12, atol=1e-12)
        assert float(terms["gain"]) > 0


# The divergence in closed form.


def dense_divergence(pair: Pair, views: Tensor, content: list[float], style: list[float]) -> Tensor:
    """KL(q(z_1..J) ‖ p(z_1..J)) of each axis, mean over images, between dense Gaussians over the views."""
    assert isinstance(pair.guide, AmortizedGuide)
    q = pair.guide.recognition(views).base_dist
    by_axis = []
    for axis, (shared, own) in enumerate(zip(content, style, strict=True)):
        covariance = own * torch.eye(len(views), dtype=DOUBLE) + shared
        prior = MultivariateNormal(torch.zeros(len(views), dtype=DOUBLE), covariance)
        of_images = [
            kl_divergence(MultivariateNormal(q.loc[:, image, axis], q.scale[:, image, axis].square().diag()), prior)
            for image in range(IMAGES)
        ]
        by_axis.append(torch.stack(of_images).mean())
    return torch.stack(by_axis)


EXACT_CASES: dict[str, tuple[Any, list[float], list[float]]] = {
    "gaussian": (lambda: GaussianPrior(LATENT, [0.5, 1.0, 2.0], [0.125, 0.5, 2.0]), [0.5, 1, 2], [0.125, 0.5, 2]),
    "standard": (lambda: StandardPrior(LATENT), [0, 0, 0], [1, 1, 1]),
    "block": (
        lambda: BlockPrior(LATENT, GaussianPrior(2, [0.5, 1.0], [0.125, 0.5]), variance=4.0),
        [0.5, 1, 0],
        [0.125, 0.5, 4],
    ),
}


@pytest.mark.parametrize("views", [1, 2, 5])
@pytest.mark.parametrize("case", EXACT_CASES)
def test_the_divergence_of_the_amortized_guide_is_that_of_dense_gaussians(case: str, views: int) -> None:
    make, content, style = EXACT_CASES[case]
    pair, images = with_prior(make()), draw_views(views)
    expected = dense_divergence(pair, images, content, style).sum()
    found = AnalyticELBO(pair.model, pair.guide)(images)
    torch.testing.assert_close(found["divergence"], expected.detach(), rtol=1e-11, atol=1e-11)
    pyro.set_rng_seed(3)
    total = AnalyticELBO(pair.model, pair.guide)(images)["loss"]
    pyro.set_rng_seed(3)
    alone = AnalyticELBO(pair.model, pair.guide, beta=0.0)(images)["loss"]
    assert_same_gradients(total - alone, expected, pair)


@pytest.mark.parametrize("views", [1, 2, 5])
def test_under_flat_content_the_divergence_is_that_of_the_improper_density(views: int) -> None:
    """−entropy − E[log p], E[Σ_j (z_j − z̄)²] = Σ_j (μ_j − μ̄)² + (1 − 1/J) Σ_j variance_j."""
    pair, images = make_pair("flat"), draw_views(views)
    assert isinstance(pair.guide, AmortizedGuide)
    q = pair.guide.recognition(images).base_dist
    style = pair.prior.get_submodule("style_variance")()
    spread = (q.loc - q.loc.mean(0)).square().sum(0) + (1 - 1 / views) * q.scale.square().sum(0)
    constant = (views - 1) / 2 * torch.log(2 * math.pi * style) + math.log(views) / 2
    expected = (spread / (2 * style) + constant - q.entropy().sum(0)).sum(-1).mean()
    found = AnalyticELBO(pair.model, pair.guide)(images)["divergence"]
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prior", ["gaussian per axis", "standard", "flat"])
def test_the_divergence_of_the_structured_guide_is_that_of_its_sites_given_the_drawn_content(prior: str) -> None:
    pair, views = structured(prior), draw_views(VIEWS)
    guide = pair.guide
    assert isinstance(guide, StructuredGuide)
    pyro.set_rng_seed(3)
    found = AnalyticELBO(pair.model, guide)(views)
    pyro.set_rng_seed(3)
    model_trace, guide_trace = run_pair(pair.model, guide, views)
    drawn, scored = (dict(trace.nodes) for trace in (guide_trace, model_trace))
    content: Any = drawn["content"]["fn"]
    shared: Any = scored["content"]["fn"]
    of_content = -content.base_dist.entropy() if prior == "flat" else kl_divergence(content.base_dist, shared.base_dist)
    variance = torch.ones((), dtype=DOUBLE)
    if prior != "standard":
        variance = pair.prior.get_submodule("style_variance")()
    style: Any = drawn["style"]["fn"]
    of_style = kl_divergence(style.base_dist, Normal(torch.zeros((), dtype=DOUBLE), variance.sqrt()))
    divergence = (of_content.sum() + of_style.sum()) / IMAGES
    pixels: Any = scored["x"]["fn"]
    seen = pixels.log_prob(views).sum() / IMAGES
    torch.testing.assert_close(found["divergence"], divergence.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found["reconstruction"], seen.detach(), rtol=1e-12, atol=1e-12)
    assert_same_gradients(found["loss"], divergence - seen, pair)


@pytest.mark.parametrize(
    ("make", "prior"), [(make_pair, "flat"), (structured, "gaussian per axis")], ids=["amortized", "structured"]
)
def test_the_analytic_bound_is_the_mean_of_the_sampled_one(make: Any, prior: str) -> None:
    pair, views = make(prior), draw_views(VIEWS)
    with torch.no_grad():
        analytic = torch.stack([AnalyticELBO(pair.model, pair.guide)(views)["loss"] for _ in range(80)])
        sampled = torch.stack([ELBO(pair.model, pair.guide, particles=200)(views)["loss"] for _ in range(20)])
    error = (sampled.var() / len(sampled) + analytic.var() / len(analytic)).sqrt()
    assert abs(float(sampled.mean() - analytic.mean())) < 4 * float(error)
    assert float(error) < 0.08
    assert float(analytic.std()) < float(sampled.std()) * 200**0.5


@pytest.mark.parametrize("free_bits", [0.0, 0.3, 1.0, 100.0])
@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_free_bits_pay_for_each_axis_what_exceeds_them(free_bits: float, beta: float) -> None:
    make, content, style = EXACT_CASES["gaussian"]
    pair, views = with_prior(make()), draw_views(VIEWS)
    by_axis = dense_divergence(pair, views, content, style).detach()
    terms = AnalyticELBO(pair.model, pair.guide, beta=beta, free_bits=free_bits)(views)
    paid = sum(max(free_bits, float(divergence)) for divergence in by_axis)
    assert float(terms["loss"].detach() + terms["reconstruction"]) == pytest.approx(beta * paid, rel=1e-11)
    torch.testing.assert_close(terms["divergence"], by_axis.sum(), rtol=1e-11, atol=1e-11)


def test_an_axis_below_its_free_bits_has_no_gradient_and_the_others_have_theirs() -> None:
    make, content, style = EXACT_CASES["gaussian"]
    pair, views = with_prior(make()), draw_views(VIEWS)
    assert isinstance(pair.guide, AmortizedGuide)
    by_axis = dense_divergence(pair, views, content, style)
    ordered = by_axis.detach().sort()
    floor = float(ordered.values[:2].mean())  # above one axis, below two
    pyro.set_rng_seed(3)
    free = AnalyticELBO(pair.model, pair.guide, free_bits=floor)(views)["loss"]
    pyro.set_rng_seed(3)
    alone = AnalyticELBO(pair.model, pair.guide, beta=0.0)(views)["loss"]
    expected = by_axis[ordered.indices[1:]].sum()
    assert_same_gradients(free - alone, expected, pair)
    slope = gradients(free - alone, pair)["1.recognition.encoder_head.head.bias"].unflatten(0, (2, LATENT))
    below = int(ordered.indices[0])
    assert not slope[:, below].any()
    assert bool((slope[:, [axis for axis in range(LATENT) if axis != below]] != 0).all())


NO_CLOSED_FORM: dict[str, tuple[Callable[[], Prior], Callable[..., Guide]]] = {
    "flow": (lambda: GaussianPrior(LATENT), FlowGuide),
    "point": (lambda: GaussianPrior(LATENT), PointGuide),
    "delta": (lambda: GaussianPrior(LATENT), DeltaGuide),
    "mixture": (lambda: MixturePrior(LATENT), AmortizedGuide),
    "mixture, structured": (lambda: MixturePrior(LATENT), StructuredGuide),
    "empirical": (lambda: EmpiricalPrior(LATENT, 8), AmortizedGuide),
    "block of mixture": (lambda: BlockPrior(LATENT, MixturePrior(2)), AmortizedGuide),
}


@pytest.mark.parametrize("name", NO_CLOSED_FORM)
def test_the_analytic_bound_refuses_what_has_no_closed_form(name: str) -> None:
    make_prior, make_guide = NO_CLOSED_FORM[name]
    pair = with_prior(make_prior(), make_guide)
    designed = r"no closed form.*StructuredGuide.*ELBO samples it for any pair"
    message = designed if name in ("flow", "mixture") else r"no closed form|not reparametrised"
    for validated in (False, True):
        with pyro.validation_enabled(validated), pytest.raises(ProgramError, match=message):
            AnalyticELBO(pair.model, pair.guide)(draw_views(VIEWS))


# Weights that change over a fit.


@pytest.mark.parametrize("make", [ELBO, AnalyticELBO, ConsistencyELBO, DenoisingELBO], ids=lambda make: make.__name__)
def test_a_schedule_weighs_the_divergence_of_each_step_of_a_fit(make: Any) -> None:
    pair, schedule, steps = make_pair("gaussian learned", dtype=torch.float32), Linear(0.1, 2.0, until=0.5), 10
    objective = make(pair.model, pair.guide, beta=schedule)
    run = fit(pair.model, pair.guide, small_images(), objective=objective, steps=steps, batch_size=16, device="cpu")
    weights = []
    for row in run.history:
        beta = schedule(int(row["step"]) - 1, steps)
        weights.append(beta)
        divergence = row["divergence"] if make is AnalyticELBO else -(row["content"] + row["style"] + row["entropy"])
        extra = 0.1 * -row["consistency"] if make is ConsistencyELBO else 0.0
        expected = beta * divergence - row["reconstruction"] + extra
        assert row["loss"] == pytest.approx(expected, rel=1e-5, abs=1e-4), row["step"]
    assert len(weights) == steps
    assert weights[0] == schedule.start
    assert len(set(weights)) > 3


# An image beside its views.


@pytest.mark.parametrize(
    ("prior", "guide", "weight"), [("standard", "amortized", 0.1), ("gaussian learned", "point", 2.0)]
)
def test_consistency_is_the_elbo_and_a_divergence_from_image_to_views(prior: str, guide: str, weight: float) -> None:
    pair, views = make_pair(prior, guide), draw_views(VIEWS)
    pyro.set_rng_seed(3)
    found = ConsistencyELBO(pair.model, pair.guide, weight=weight, beta=0.5)(views)
    pyro.set_rng_seed(3)
    elbo = ELBO(pair.model, pair.guide, beta=0.5)(views)
    assert isinstance(pair.guide, AmortizedGuide | PointGuide)
    q = pair.guide.recognition(views).base_dist
    variance, of_image = q.scale.square(), q.scale[0].square()
    ratio = variance[1:] / of_image
    divergence = 0.5 * (ratio - 1 - ratio.log() + (q.loc[1:] - q.loc[0]).square() / of_image)
    expected = divergence.sum() / IMAGES
    assert found.keys() == elbo.keys() | {"consistency"}
    torch.testing.assert_close(found["consistency"], -expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found["loss"], elbo["loss"] + weight * expected, rtol=1e-12, atol=1e-12)
    for name in elbo.keys() - {"loss"}:
        assert torch.equal(found[name], elbo[name]), name
    assert_same_gradients(found["loss"], elbo["loss"] + weight * expected, pair)


@pytest.mark.parametrize("make", [StructuredGuide, DeltaGuide, FlowGuide], ids=lambda make: make.__name__)
def test_consistency_refuses_guides_without_gaussian_z(make: Callable[..., Guide]) -> None:
    pair = make_pair("gaussian isotropic")
    guide = make(SmoothEncoder(), pair.prior).double()
    with pytest.raises(ProgramError, match="use AmortizedGuide or PointGuide"):
        ConsistencyELBO(pair.model, guide)(draw_views(VIEWS))


@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("prior", ["standard", "gaussian learned"])
def test_denoising_is_the_elbo_of_the_image_given_its_views(prior: str, beta: float) -> None:
    pair, views = make_pair(prior), draw_views(VIEWS)
    original, seen = views[0], views[1:]
    pyro.set_rng_seed(3)
    found = DenoisingELBO(pair.model, pair.guide, beta=beta)(views)
    pyro.set_rng_seed(3)
    _, guide_trace = run_pair(pair.model, pair.guide, seen)
    z: Any = guide_trace.nodes["z"]["value"]
    assert z.shape == (VIEWS - 1, IMAGES, LATENT)
    logits = pair.model.likelihood.get_submodule("decoder")(z.flatten(0, 1)).unflatten(0, (VIEWS - 1, IMAGES))
    pixels = sum(Coin(logits=logits[view], validate_args=False).log_prob(original).sum() for view in range(VIEWS - 1))
    assert isinstance(pair.guide, AmortizedGuide)
    assert isinstance(pair.prior, ExactPrior)
    density = pair.guide.recognition(seen).log_prob(z).sum() - pair.prior.log_marginal(z).sum()
    expected = (beta * density - pixels) / IMAGES
    torch.testing.assert_close(found["loss"], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found["reconstruction"], torch.as_tensor(pixels).detach() / IMAGES)
    assert_same_gradients(found["loss"], expected, pair)


@pytest.mark.parametrize("make", [ConsistencyELBO, DenoisingELBO], ids=lambda make: make.__name__)
def test_an_image_without_views_is_refused(make: Any) -> None:
    pair = make_pair("standard", dtype=torch.float32)
    objective = make(pair.model, pair.guide)
    assert objective.original_first
    with pytest.raises(ProgramError, match="needs the original image and at least one view"):
        objective(draw_views(1, torch.float32))
    with pytest.raises(FitError, match="views must be at least 2, got 1: the objective takes the original image"):
        fit(pair.model, pair.guide, small_images(), objective=objective, views=1, steps=1, batch_size=8, device="cpu")


class Paint(AugmentationPolicy):
    """Every view one grey value, drawn anew: nothing of the image is left in it."""

    names = ("grey",)

    def sample(self, count: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        return {"grey": torch.rand(count, generator=generator)}

    def apply(self, images: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        return parameters["grey"].view(-1, 1, 1, 1).expand_as(images)


class Recorder(Objective):
    """Passes views on to another objective and keeps them."""

    original_first: ClassVar[bool] = True

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen: list[Tensor] = []

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        self.seen.append(views.detach().clone())
        terms: dict[str, Tensor] = self.inner(views)
        return terms


def is_one_grey(views: Tensor) -> Tensor:
    pixels = views.flatten(-3)
    return (pixels == pixels[..., :1]).all(-1)


def test_a_fit_shows_the_image_itself_first_where_the_objective_asks_for_it() -> None:
    pair, images, views = make_pair("standard", dtype=torch.float32), small_images(32), 4
    arguments: dict[str, Any] = {"views": views, "batch_size": 16, "epochs": 1, "policy": Paint(), "device": "cpu"}
    recorder = Recorder(DenoisingELBO(pair.model, pair.guide))
    fit(pair.model, pair.guide, images, objective=recorder, **arguments)
    shown = torch.cat([batch[0] for batch in recorder.seen])
    expected = images.float() / 255
    # One epoch shows every image once, in an order of its own.
    places = (shown.flatten(1)[:, None] == expected.flatten(1)).all(-1)
    assert places.sum(0).tolist() == places.sum(1).tolist() == [1] * 32
    assert not is_one_grey(shown).any()
    for batch in recorder.seen:
        assert batch.shape == (views, 16, *SHAPE)
        assert is_one_grey(batch[1:]).all()
