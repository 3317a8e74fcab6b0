"""The conformance suite of guides."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from pp_simve.inference import ELBO, Guide, Representation
from pp_simve.inference.objectives.importance import log_weights_and_terms
from pp_simve.inference.tracing import site_infer
from pp_simve.models import Gaussian, GaussianPrior, Prior, SimVE, network_precision
from pp_simve.testing.checks import (
    DOUBLE,
    EXACT,
    FEATURES,
    IMAGES,
    LATENT,
    NUMBERS,
    PARTICLES,
    SHAPE,
    VIEWS,
    Pair,
    Suite,
    TinyEncoder,
    check,
    close,
    must_run,
    program,
    seeded,
    skip,
    tiny_model,
    tiny_views,
)

PROGRAM = (
    "content of batch (..., 1, image) and style of batch (..., view, image), both vectors, reparametrized: end their "
    "distributions with .to_event(1), keep the view's dimension of content (keepdim=True), and open plates by name: "
    f"pyro.plate('image', images, dim=-1), pyro.plate('view', views, dim=-2). {NUMBERS}"
)
Sites = dict[str, Any]


class GuideSuite(Suite[Pair]):
    """Checks of a guide of your own: subclass it, define how to make one, and let pytest collect the subclass.

        class TestMyGuide(GuideSuite):
            def make(self, encoder: nn.Module, prior: Prior) -> Guide:
                return MyGuide(encoder, prior)

    Attributes:
        has_density: whether q has a density over what the model draws. False for guides with points in place of
            distributions, whose importance weights and draws mean nothing.
        mean_is_exact: whether `posterior` gives means exactly (they are linear in what is drawn), so that they must be
            those of many draws and compose.
        independent_images: whether an image's posterior is free of the images beside it. False under priors made of the
            batch itself.
        without_gradient: names of parameters of model and guide that need none, or what their names end with.
    """

    has_density: ClassVar[bool] = True
    mean_is_exact: ClassVar[bool] = True
    independent_images: ClassVar[bool] = True

    @abstractmethod
    def make(self, encoder: nn.Module, prior: Prior) -> Guide:
        """The guide, from the current random state; the encoder has an attribute ``features``."""

    def make_prior(self, latent_dim: int) -> Prior:
        """The prior it is to work with. A wide one, under which importance weights vary little, checks more."""
        return GaussianPrior(latent_dim, content_variance=1.0, style_variance=0.5)

    # The program

    def test_sites_are_those_of_the_model(self) -> None:
        """One content an image, one style a view, each a vector, and nothing else that the model does not sample."""
        pair = self._part()
        prior = pair.model.prior
        for views in (1, VIEWS):
            with must_run(f"the guide on {views} view(s)", PROGRAM), pyro.validation_enabled(True):
                sites = _sites(pair.guide, tiny_views(views))
            names = {name for name, site in sites.items() if not site_infer(site, "is_auxiliary")}
            check(
                names == {"content", "style"},
                f"the guide samples {', '.join(sorted(names)) or 'nothing'}. Expected content and style; mark others "
                "by infer={'is_auxiliary': True}",
            )
            style = prior.style(sites["content"]["value"])
            for name, event, plates in (
                ("content", prior.content().event_shape, {"image": -1}),
                ("style", style.event_shape, {"image": -1, "view": -2}),
            ):
                found = {frame.name: frame.dim for frame in sites[name]["cond_indep_stack"]}
                check(
                    found == plates,
                    f"the site {name!r} is in plates {found}. Expected {plates}: content belongs to an image, outside "
                    "the plate `view`, style to each of its views",
                )
                shape = sites[name]["fn"].event_shape
                check(shape == event, f"the site {name!r} has event {shape}. Expected {event}, by .to_event(1)")
            value = _elbo(pair, tiny_views(views)).detach()
            check(bool(value.isfinite()), f"the ELBO is {float(value)}. Expected it to be finite; see q's scales")

    def test_particles_widen_every_site_on_the_left(self) -> None:
        """A plate of particles around the program (as ELBO and IWAE use) adds a leading dimension, drawn anew."""
        pair = self._part()
        with seeded(), must_run("the guide in a plate of particles", PROGRAM), pyro.validation_enabled(True):
            sites = _sites(pair.guide, tiny_views(VIEWS), PARTICLES)
        for name, places in {"content": (PARTICLES, 1, IMAGES), "style": (PARTICLES, VIEWS, IMAGES)}.items():
            shape = tuple(sites[name]["value"].shape[:-1])
            check(
                shape == places,
                f"under {PARTICLES} particles the site {name!r} has shape {shape} before its event. Expected {places}. "
                "Count dimensions from the right: views are -3 in (..., view, image, latent)",
            )
        if self.has_density:
            check(
                bool((_latents(pair.model.prior, sites)["z"].std(0) > 1e-8).any(-1).all()),
                "some images have the same draw in all particles. Expected draws by pyro.sample, whose batch the plate "
                "widens, and not from noise of your own; set has_density = False if q is a point",
            )

    def test_importance_weights_average_to_the_evidence(self) -> None:
        """E_q[p(views, latents) / q(latents | views)] = p(views), whatever q is, provided it is normalized.

        In a linear model with two latent dimensions, after a short fit, because an untrained q is too narrow. p(views)
        is the mean likelihood of draws from the prior.
        """
        if not self.has_density:
            skip("has_density is False: a point has no importance weights")
        if not self.independent_images:
            skip("independent_images is False: p(views) of one image is not defined without the others")
        with seeded():
            pair, views = self._fitted_to_linear_model()
            with torch.no_grad():
                log_weights, _ = log_weights_and_terms(pair.model, pair.guide, views, samples=5_000)
                log_evidence, error_of_evidence = _log_mean(_log_likelihoods(pair.model, views, draws=20_000))
        log_estimate, error = _log_mean(log_weights - log_evidence)
        estimate, allowed = log_estimate.exp(), (error.square() + error_of_evidence.square()).sqrt()
        found = ", ".join(f"{value:.3g} ± {by:.2g}" for value, by in zip(estimate, allowed, strict=True))
        check(
            bool(((estimate - 1).abs() < 6 * allowed).all()),
            f"importance weights p(views, latents) / q(latents | views) average to {found} times the evidence of three "
            "images. Expected 1: the guide's densities are not those of its draws, or not normalized. Look for a scale "
            "used in sampling but not in log_prob, poutine.scale or mask, a lost Jacobian of a transformation, an "
            "auxiliary site that is not in the trace",
        )
        check(
            bool((allowed < 0.2).all()),
            f"importance weights vary too much for the check: {found} times the evidence after a short fit. Expected "
            "errors below 0.2: either the guide does not train, or its family is far from the posterior. Then override "
            "make_prior with one of larger style variance",
        )

    def test_the_order_of_views_does_not_matter(self) -> None:
        """Views are exchangeable: another order gives the same content, and the rest in that order."""
        guide = self._part().guide
        views, order = tiny_views(VIEWS), torch.tensor([2, 0, 1])
        found, again = _posterior(guide, views).as_dict(), _posterior(guide, views[order]).as_dict()
        remedy = "depends on the order of views. Expected views to be combined by sums or means over the dimension -3"
        for name, value in again.items():
            expected = found[name] if name == "content" else found[name][order]
            close(value, expected, f"posterior(views).{name} {remedy}", *EXACT)
        if self.has_density and self.independent_images:
            first, second = _densities_reordered(guide, views, "view", order)
            close(second, first, f"q's density {remedy}", *EXACT)

    def test_images_do_not_depend_on_their_neighbours(self) -> None:
        """In evaluation mode a batch is a loop over its images."""
        if not self.independent_images:
            skip("independent_images is False")
        guide, views = self._part().guide, tiny_views(VIEWS)
        remedy = (
            "Look for statistics over the batch: a mean or softmax over the dimension -2 of (view, image, latent), "
            "batch normalization left in training mode"
        )
        whole = _posterior(guide, views).as_dict()
        for image in (0, IMAGES - 1):
            for name, value in _posterior(guide, views[:, image : image + 1]).as_dict().items():
                message = f"posterior(views).{name} of an image alone is not that in a batch. {remedy}"
                close(value, whole[name][..., image : image + 1, :], message, *EXACT)
        if self.has_density:
            first, second = _densities_reordered(guide, views, "image", torch.tensor([3, 1]))
            close(second, first, f"q's density of an image depends on the others. {remedy}", *EXACT)

    # Representations

    def test_embedding_is_the_posterior_of_one_view(self) -> None:
        """`embed` and `embed_batches` give what `posterior` does for a single view of each image."""
        guide, views = self._part().guide, tiny_views(1)
        expected = _posterior(guide, views).squeeze_view().as_dict()
        with seeded():
            embedded = guide.embed(views[0])
        guide.train()
        with seeded():
            batched = guide.embed_batches(views[0], batch_size=2 if self.independent_images else IMAGES)
        remedy = "Expected that of posterior(images[None]); leave embed and embed_batches to the base class"
        for call, found in {"embed(images)": embedded, "embed_batches(images)": batched}.items():
            for name, value in found.as_dict().items():
                close(value, expected[name], f"{call}.{name} is another. {remedy}", *EXACT)
        left = guide.training and not batched.z.requires_grad
        check(left, f"embed_batches left evaluation mode on, or a gradient. {remedy}")

    def test_content_is_inferred_from_all_views(self) -> None:
        """Any one view replaced gives another content."""
        guide, views = self._part().guide, tiny_views(VIEWS)
        before = _posterior(guide, views).content
        if not before.numel():
            skip("under this prior views share nothing")
        for view in range(VIEWS):
            changed = views.clone()
            changed[view, 0] = 1 - changed[view, 0]
            moved = (_posterior(guide, changed).content - before).abs().amax(-1)
            check(
                float(moved[0]) > 1e-9,
                f"content does not change when view {view} of {VIEWS} is replaced. Expected the posterior given all",
            )

    def test_content_and_style_of_a_representation_compose_z(self) -> None:
        """z = compose(content, style) holds for means too where compose is linear."""
        if not self.mean_is_exact:
            skip("mean_is_exact is False")
        pair = self._part()
        for views in (1, VIEWS):
            found = _posterior(pair.guide, tiny_views(views))
            message = (
                "posterior(views).z is not prior.compose(content, style). Take style by prior.decompose(content, z)"
            )
            close(pair.model.prior.compose(found.content, found.style), found.z, message, *EXACT)

    def test_posterior_means_are_the_means_of_draws(self) -> None:
        """`posterior` is of the same q that the program draws from."""
        if not self.mean_is_exact:
            skip("mean_is_exact is False")
        pair, views = self._part(), tiny_views(VIEWS)
        with seeded(), torch.no_grad():
            drawn = _latents(pair.model.prior, _sites(pair.guide, views, 4_000))
        found = _posterior(pair.guide, views).as_dict()
        for name in ("z", "content", "style"):
            if not found[name].numel():  # content, under a prior that shares nothing
                continue
            values = drawn[name].squeeze(-3) if name == "content" else drawn[name]
            off, error = (values.mean(0) - found[name]).abs(), values.std(0) / len(values) ** 0.5
            check(
                bool((off <= 5 * error + 1e-9).all()),
                f"posterior(views).{name} is off the mean of {len(values)} draws of forward(views) by more than 5 "
                "standard errors; if it is an approximation by intent, set mean_is_exact = False",
            )

    # Networks

    def test_an_encoder_of_unknown_width_is_refused_by_name(self) -> None:
        """Its width is read from ``features``, unless the guide finds it out."""
        with seeded():
            encoder = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SHAPE), FEATURES))
            try:
                guide = self.make(encoder, self.make_prior(LATENT))
            except Exception as error:
                check(
                    isinstance(error, ValueError | AttributeError) and "features" in str(error),
                    f"an encoder without the attribute `features` ends in {type(error).__name__}: {error}. Expected a "
                    "ValueError that names `features`; read it as an integer before it is used",
                )
            else:
                guide.double().eval().posterior(tiny_views(1))

    def test_networks_run_in_low_precision_and_latents_do_not(self) -> None:
        """Under ``network_precision(bfloat16)``, as in a fit on hardware that has it."""
        ran_in: set[torch.dtype] = set()
        with seeded():
            encoder, prior = TinyEncoder(), self.make_prior(LATENT)
            encoder.register_forward_hook(lambda module, inputs, output: ran_in.add(output.dtype))
            pair = Pair(tiny_model(prior), self.make(encoder, prior)).eval()
        with network_precision(torch.bfloat16):
            found = self._outputs(pair, tiny_views(dtype=torch.float32))
        check(
            ran_in == {torch.bfloat16},
            f"under network_precision(bfloat16) the encoder ran in {ran_in}. Expected bfloat16: call it by "
            "apply_network(encoder, views, event_dim=3), which gives its output in the views' dtype",
        )
        for name, value in found.items():
            check(value.dtype == torch.float32, f"{name} is {value.dtype} in low precision. Expected float32")

    # What the checks run on

    def _new(self) -> Pair:
        prior = self.make_prior(LATENT)
        guide = self.make(TinyEncoder(), prior)
        return Pair(tiny_model(prior), guide)

    def _inputs(self, part: Pair, dtype: torch.dtype = DOUBLE) -> tuple[Tensor, ...]:
        return (tiny_views(dtype=dtype),)

    def _outputs(self, part: Pair, *inputs: Tensor) -> dict[str, Tensor]:
        with seeded():
            sites = _sites(part.guide, inputs[0])
        found = {f"site {name!r}": site["value"] for name, site in sites.items()}
        with seeded():
            means = part.guide.posterior(inputs[0]).as_dict()
        return found | {f"posterior(views).{name}": value for name, value in means.items()}

    def _loss(self, part: Pair) -> Tensor:
        return _elbo(part, tiny_views())

    def _fits(self) -> list[tuple[Pair, SimVE, Guide, None]]:
        pair = self._part(dtype=torch.float32)
        return [(pair, pair.model, pair.guide, None)]

    def _fitted_to_linear_model(self, steps: int = 100, lr: float = 0.03) -> tuple[Pair, Tensor]:
        """x = W z + b + ε on 2x2 images, W's columns orthogonal, ε ~ N(0, 1): wide posteriors; and two views to fit."""
        prior = self.make_prior(2)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, FEATURES))
        encoder.features = FEATURES  # type: ignore[assignment]
        guide = self.make(encoder, prior)
        decoder = nn.Linear(prior.latent_dim, 4).requires_grad_(False)
        decoder.weight.copy_(torch.linalg.qr(decoder.weight).Q)
        model = SimVE(prior, Gaussian(nn.Sequential(decoder, nn.Unflatten(-1, (1, 2, 2))), variance=1.0))
        pair = Pair(model, guide).double().train()
        views = torch.randn(1, 3, 1, 2, 2, dtype=DOUBLE) + 0.7 * torch.randn(2, 3, 1, 2, 2, dtype=DOUBLE)
        objective = ELBO(model, guide, particles=8)
        optimizer = torch.optim.Adam([value for value in guide.parameters() if value.requires_grad], lr=lr)
        with must_run("a short fit in a linear model", f"it to pass: {PROGRAM}"), pyro.validation_enabled(False):
            for step in range(steps):
                optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
                optimizer.zero_grad()
                objective(views)["loss"].backward()
                optimizer.step()
        return pair.eval(), views


def _sites(guide: nn.Module, views: Tensor, particles: int | None = None) -> Sites:
    """What the guide's program draws, by name, without the plates' own sites."""
    trace = prune_subsample_sites(poutine.trace(program(guide, particles)).get_trace(views))
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}


def _latents(prior: Prior, sites: Sites) -> dict[str, Tensor]:
    content, style = sites["content"]["value"], sites["style"]["value"]
    return {"z": prior.compose(content, style), "content": content, "style": style}


def _posterior(guide: Guide, views: Tensor) -> Representation:
    """Under a seed, for guides that estimate it by draws."""
    with seeded(), torch.no_grad():
        return guide.posterior(views)


def _elbo(pair: Pair, views: Tensor) -> Tensor:
    expected = f"the model's sites: {PROGRAM}"
    with must_run("the ELBO of model and guide", expected), pyro.validation_enabled(True), seeded():
        loss: Tensor = ELBO(pair.model, pair.guide)(views)["loss"]
    return loss


def _densities_reordered(guide: Guide, views: Tensor, plate: str, order: Tensor) -> tuple[Tensor, Tensor]:
    """log q by image of one draw, and of that draw and its views with a plate's entries in another order (or some)."""
    reordered = views.index_select({"view": 0, "image": 1}[plate], order)
    with seeded(), torch.no_grad(), pyro.validation_enabled(False):
        drawn = _sites(guide, views)
        values = {name: site["value"] for name, site in drawn.items()}
        for name, site in drawn.items():
            for frame in site["cond_indep_stack"]:
                if frame.name == plate:
                    values[name] = values[name].index_select(frame.dim - site["fn"].event_dim, order)
        conditioned = poutine.condition(program(guide), data=values)
        trace = prune_subsample_sites(poutine.trace(conditioned).get_trace(reordered))
        again = {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}
        first, second = _by_image(drawn), _by_image(again)
    return first[order] if plate == "image" else first, second


def _by_image(sites: Sites) -> Tensor:
    """log q of all sites, shape ``(image,)``."""
    found = [site["fn"].log_prob(site["value"]) for site in sites.values()]
    return torch.stack([log_prob.sum(-2) if log_prob.ndim > 1 else log_prob for log_prob in found]).sum(0)


def _log_likelihoods(model: SimVE, views: Tensor, draws: int) -> Tensor:
    """log p(views | latents) of draws from the prior, shape ``(draw, image)``."""
    prior, likelihood = model.prior, model.likelihood
    assert likelihood is not None
    try:
        content = prior.content().sample(torch.Size([draws, 1, 1]))
    except NotImplementedError:
        skip("content cannot be drawn from this prior (it is improper), so there is no evidence to compare with")
    style = prior.style(content).expand(torch.Size([draws, len(views), 1])).sample()
    log_likelihood: Tensor = likelihood(prior.compose(content, style)).log_prob(views).sum(-2)
    return log_likelihood


def _log_mean(logs: Tensor) -> tuple[Tensor, Tensor]:
    """log of the mean over the first dimension, and the mean's relative standard error."""
    log_mean = logs.logsumexp(0) - math.log(len(logs))
    return log_mean, (logs - log_mean).exp().std(0) / len(logs) ** 0.5
