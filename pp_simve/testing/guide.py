"""The conformance suite of guides."""

from __future__ import annotations

import math
import unittest
from abc import abstractmethod
from functools import partial
from typing import Any, ClassVar

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from pp_simve.inference import ELBO, Guide
from pp_simve.inference.objectives.importance import log_weights_and_terms
from pp_simve.inference.tracing import site_infer
from pp_simve.models import Gaussian, GaussianPrior, Prior, SimVE, network_precision
from pp_simve.testing.checks import (
    DOUBLE,
    DRAWS,
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
    seeded,
    tiny_model,
    tiny_views,
)

PROGRAM = (
    "content of batch (..., 1, image), style of batch (..., view, image), both vectors by .to_event(1), in "
    f"pyro.plate('image', images, dim=-1) and pyro.plate('view', views, dim=-2). {NUMBERS}"
)
Sites = dict[str, Any]


class GuideSuite(Suite[Pair]):
    """Conformance suite of guides: subclass it, define how to make one, and let pytest collect the subclass.

        class TestMyGuide(GuideSuite):
            def make(self, encoder: nn.Module, prior: Prior) -> Guide:
                return MyGuide(encoder, prior)

    Draws and densities are not checked where the guide's `has_density` is False, nor that images are independent where
    the prior's `depends_on_batch` is True.

    Attributes:
        mean_is_exact: whether `posterior` gives means exactly (they are linear in what is drawn), so that they must be
            those of many draws.
        without_gradient: names of parameters of model and guide that need none, or what their names end with.
    """

    mean_is_exact: ClassVar[bool] = True

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
            for name, event, plates in (
                ("content", prior.content().event_shape, {"image": -1}),
                ("style", prior.style(sites["content"]["value"]).event_shape, {"image": -1, "view": -2}),
            ):
                found = {frame.name: frame.dim for frame in sites[name]["cond_indep_stack"]}
                check(found == plates, f"the site {name!r} is in plates {found}, expected {plates}")
                shape = sites[name]["fn"].event_shape
                check(shape == event, f"the site {name!r} has event {shape}, expected {event}, by .to_event(1)")
            with must_run("the ELBO of model and guide", PROGRAM), pyro.validation_enabled(True), seeded():
                value = ELBO(pair.model, pair.guide)(tiny_views(views))["loss"].detach()
            check(value.isfinite(), f"the ELBO is {float(value)}, expected it to be finite; see q's scales")

    def test_particles_widen_every_site_on_the_left(self) -> None:
        """A plate of particles around the program (as ELBO and IWAE use) adds a leading dimension, drawn anew."""
        pair = self._part()
        with must_run("the guide in a plate of particles", PROGRAM), pyro.validation_enabled(True):
            sites = _sites(pair.guide, tiny_views(VIEWS), PARTICLES)
        for name, places in {"content": (PARTICLES, 1, IMAGES), "style": (PARTICLES, VIEWS, IMAGES)}.items():
            shape = tuple(sites[name]["value"].shape[:-1])
            advice = "Count dimensions from the right: views are -3 in (..., view, image, latent)"
            check(shape == places, f"in {PARTICLES} particles {name!r} has batch {shape}, expected {places}. {advice}")
        differ = (_latents(pair.model.prior, sites)["z"].std(0) > 1e-8).any(-1).all()
        message = (
            "particles have equal draws: draw by pyro.sample, not from noise of your own, or set has_density = False"
        )
        check(differ or not pair.guide.has_density, message)

    def test_importance_weights_average_to_the_evidence(self) -> None:
        """E_q[p(views, latents) / q(latents | views)] = p(views), whatever q is, provided it is normalized.

        In a linear model with two latent dimensions, after a short fit, because an untrained q is too narrow. p(views)
        is the mean likelihood of draws from the prior.
        """
        with seeded():
            pair, views = self._linear_pair()
            prior, likelihood = pair.model.prior, pair.model.likelihood
            if not pair.guide.has_density or prior.depends_on_batch or not prior.proper or likelihood is None:
                raise unittest.SkipTest("q has no density, or single images under this prior have no evidence")
            _fit(pair, views)
            with torch.no_grad():
                log_weights, _ = log_weights_and_terms(pair.model, pair.guide, views, samples=5_000)
                content = prior.content().sample((20_000, 1, 1))
                style = prior.style(content).expand((20_000, len(views), 1)).sample()
                log_evidence, off = _log_mean(likelihood(prior.compose(content, style)).log_prob(views).sum(-2))
        log_estimate, error = _log_mean(log_weights - log_evidence)
        estimate, allowed = log_estimate.exp(), (error.square() + off.square()).sqrt()
        found = ", ".join(f"{value:.3g} ± {by:.2g}" for value, by in zip(estimate, allowed, strict=True))
        check(
            ((estimate - 1).abs() < 6 * allowed).all(),
            f"importance weights average to {found} times the evidence of three images, expected 1: the guide's "
            "densities are not those of its draws, or not normalized. Look for poutine.scale or mask, a lost Jacobian, "
            "a scale used in sampling but not in log_prob, an auxiliary site that is not in the trace",
        )
        check(
            (allowed < 0.2).all(),
            f"importance weights vary too much: {found} times the evidence after a short fit, expected errors below "
            "0.2. The guide does not train, or is far from the posterior: let make_prior give a larger style variance",
        )

    def test_the_order_of_views_does_not_matter(self) -> None:
        """Views are exchangeable: another order gives the same content, and the rest in that order."""
        pair, views, order = self._part(), tiny_views(VIEWS), torch.tensor([2, 0, 1])
        found, again = _posterior(pair.guide, views), _posterior(pair.guide, views[order])
        remedy = "depends on the order of views. Expected views to be combined by sums or means over the dimension -3"
        for name, value in again.items():
            close(value, found[name] if name == "content" else found[name][order], f"posterior(views).{name} {remedy}")
        if pair.guide.has_density and not pair.model.prior.depends_on_batch:
            close(*_densities_reordered(pair.guide, views, "view", order), f"q's density {remedy}")

    def test_images_do_not_depend_on_their_neighbours(self) -> None:
        """In evaluation mode a batch is a loop over its images."""
        pair, views = self._part(), tiny_views(VIEWS)
        if pair.model.prior.depends_on_batch:
            raise unittest.SkipTest("under this prior images depend on their batch")
        remedy = "Look for a mean or softmax over images (dimension -2), or batch normalization left in training mode"
        whole = _posterior(pair.guide, views)
        for image in (0, IMAGES - 1):
            for name, value in _posterior(pair.guide, views[:, image : image + 1]).items():
                message = f"posterior(views).{name} of an image alone is not that in a batch. {remedy}"
                close(value, whole[name][..., image : image + 1, :], message)
        if pair.guide.has_density:
            found = _densities_reordered(pair.guide, views, "image", torch.tensor([3, 1]))
            close(*found, f"q's density of an image depends on the others. {remedy}")

    # Representations

    def test_embedding_is_the_posterior_of_one_view(self) -> None:
        """`embed` and `embed_batches` give what `posterior` does for a single view of each image."""
        pair, views = self._part(), tiny_views(1)
        guide = pair.guide
        with seeded():
            expected = guide.posterior(views).squeeze_view().as_dict()
        with seeded():
            embedded = guide.embed(views[0])
        guide.train()
        with seeded():
            batched = guide.embed_batches(views[0], batch_size=IMAGES if pair.model.prior.depends_on_batch else 2)
        remedy = "Expected that of posterior(images[None]); leave embed and embed_batches to the base class"
        for call, found in {"embed(images)": embedded, "embed_batches(images)": batched}.items():
            for name, value in found.as_dict().items():
                close(value, expected[name], f"{call}.{name} is another. {remedy}")
        left = guide.training and not batched.z.requires_grad
        check(left, f"embed_batches left evaluation mode on, or a gradient. {remedy}")

    def test_content_is_inferred_from_all_views(self) -> None:
        """Any one view replaced gives another content."""
        guide, views = self._part().guide, tiny_views(VIEWS)
        before = _posterior(guide, views)["content"]
        for view in range(VIEWS if before.numel() else 0):  # none, under a prior whose views share nothing
            changed = views.clone()
            changed[view, 0] = 1 - changed[view, 0]
            moved = (_posterior(guide, changed)["content"] - before).abs().amax(-1)
            message = (
                f"content does not change when view {view} of {VIEWS} is replaced. Expected the posterior given all"
            )
            check(moved[0] > 1e-9, message)

    def test_posterior_means_are_the_means_of_draws(self) -> None:
        """`posterior` is of the same q that the program draws from."""
        if not self.mean_is_exact:
            raise unittest.SkipTest("mean_is_exact is False")
        pair, views = self._part(), tiny_views(VIEWS)
        with torch.no_grad():
            drawn = _latents(pair.model.prior, _sites(pair.guide, views, DRAWS))
        found = _posterior(pair.guide, views)
        for name, values in drawn.items():
            if not values.numel():  # content, under a prior whose views share nothing
                continue
            off, error = (values.mean(0) - found[name]).abs(), values.std(0) / DRAWS**0.5
            check(
                (off <= 5 * error + 1e-9).all(),
                f"posterior(views).{name} is off the mean of {DRAWS} draws of forward(views) by more than 5 standard "
                "errors; if it is an approximation by intent, set mean_is_exact = False",
            )

    # Networks

    def test_an_encoder_of_unknown_width_is_refused_by_name(self) -> None:
        """Its width is read from ``features``, unless the guide finds it out."""
        with seeded():
            encoder = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SHAPE), FEATURES))
            try:
                self.make(encoder, self.make_prior(LATENT)).double().eval().posterior(tiny_views(1))
            except Exception as error:
                check(
                    isinstance(error, ValueError | AttributeError) and "features" in str(error),
                    f"an encoder without the attribute `features` ends in {type(error).__name__}: {error}. Expected a "
                    "ValueError that names `features`; read it as an integer before it is used",
                )

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
        found = {f"site {name!r}": site["value"] for name, site in _sites(part.guide, inputs[0]).items()}
        return found | {f"posterior(views).{name}": value for name, value in _posterior(part.guide, inputs[0]).items()}

    def _fits(self, part: Pair) -> list[tuple[SimVE, Guide, None]]:
        return [(part.model, part.guide, None)]

    def _linear_pair(self) -> tuple[Pair, Tensor]:
        """x = W z + b + ε on 2x2 images, W's columns orthogonal, ε ~ N(0, 1): wide posteriors; and two views to fit."""
        prior = self.make_prior(2)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, FEATURES))
        encoder.features = FEATURES  # type: ignore[assignment]  # not a tensor
        guide = self.make(encoder, prior)
        decoder = nn.Linear(prior.latent_dim, 4).requires_grad_(False)
        decoder.weight.copy_(torch.linalg.qr(decoder.weight).Q)
        model = SimVE(prior, Gaussian(nn.Sequential(decoder, nn.Unflatten(-1, (1, 2, 2))), variance=1.0))
        views = torch.randn(1, 3, 1, 2, 2, dtype=DOUBLE) + 0.7 * torch.randn(2, 3, 1, 2, 2, dtype=DOUBLE)
        return Pair(model, guide).double(), views


def _fit(pair: Pair, views: Tensor, steps: int = 100, lr: float = 0.03) -> None:
    """The guide alone, to one batch."""
    pair.train()
    objective = ELBO(pair.model, pair.guide, particles=8)
    optimizer = torch.optim.Adam([value for value in pair.guide.parameters() if value.requires_grad], lr=lr)
    with must_run("a short fit in a linear model", f"it to pass: {PROGRAM}"), pyro.validation_enabled(False):
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
            optimizer.zero_grad()
            objective(views)["loss"].backward()
            optimizer.step()
    pair.eval()


def _sites(guide: nn.Module, views: Tensor, particles: int | None = None, data: Any = None) -> Sites:
    """What the guide's program draws under a seed, or given data, by name, without the plates' own sites."""
    plain = partial(nn.Module.__call__, guide)  # PyroModule's own call would leave parameters in Pyro's global store
    repeated = plain if particles is None else pyro.plate("particles", particles, dim=-3)(plain)
    conditioned = poutine.condition(repeated, data=data or {})
    with seeded():
        trace = prune_subsample_sites(poutine.trace(conditioned).get_trace(views))
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}


def _latents(prior: Prior, sites: Sites) -> dict[str, Tensor]:
    """z, content and style of each particle, shapes as in a `Representation`."""
    content, style = sites["content"]["value"], sites["style"]["value"]
    return {"z": prior.compose(content, style), "content": content.squeeze(-3), "style": style}


def _posterior(guide: Guide, views: Tensor) -> dict[str, Tensor]:
    """Under a seed, for guides that estimate it by draws."""
    with seeded(), torch.no_grad():
        return guide.posterior(views).as_dict()


@torch.no_grad()
def _densities_reordered(guide: Guide, views: Tensor, plate: str, order: Tensor) -> tuple[Tensor, Tensor]:
    """log q by image of one draw and its views with a plate's entries in another order (or some), and as they were."""
    with pyro.validation_enabled(False):
        drawn = _sites(guide, views)
        values = {name: site["value"] for name, site in drawn.items()}
        for name, site in drawn.items():
            for frame in site["cond_indep_stack"]:
                if frame.name == plate:
                    values[name] = values[name].index_select(frame.dim - site["fn"].event_dim, order)
        again = _sites(guide, views.index_select({"view": 0, "image": 1}[plate], order), data=values)
        first, second = _by_image(drawn), _by_image(again)
    return second, first[order] if plate == "image" else first


def _by_image(sites: Sites) -> Tensor:
    """log q of all sites, shape ``(image,)``."""
    found = [site["fn"].log_prob(site["value"]) for site in sites.values()]
    return torch.stack([log_prob.sum(-2) if log_prob.ndim > 1 else log_prob for log_prob in found]).sum(0)


def _log_mean(logs: Tensor) -> tuple[Tensor, Tensor]:
    """log of the mean over the first dimension, and the mean's relative standard error."""
    log_mean = logs.logsumexp(0) - math.log(len(logs))
    return log_mean, (logs - log_mean).exp().std(0) / len(logs) ** 0.5
