"""The conformance suite of guides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyro
import torch
from torch import Tensor, nn

from pp_simve.inference import ELBO, Guide, Representation
from pp_simve.inference.objectives.tracing import site_infer
from pp_simve.models import GaussianPrior, Prior, SimVE, network_precision
from pp_simve.testing.checks import (
    check,
    check_five_steps,
    check_gradients,
    check_saved_and_loaded,
    close,
    must_run,
    seeded,
    skip,
)
from pp_simve.testing.programs import (
    DOUBLE,
    FEATURES,
    GRADIENT,
    IMAGES,
    LATENT,
    PIXELS,
    PROGRAM,
    SHAPE,
    VIEWS,
    Pair,
    TinyEncoder,
    density_of_reordered,
    relative_weights,
    sample_sites,
    tiny_model,
    tiny_views,
    traced,
)

TIGHT = (1e-8, 1e-8)


class GuideSuite(ABC):
    """Checks that a guide is a guide: subclass it, say how to make yours, and run pytest.

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
        without_gradient: names of parameters that need none, or what their names end with.
    """

    has_density: ClassVar[bool] = True
    mean_is_exact: ClassVar[bool] = True
    independent_images: ClassVar[bool] = True
    without_gradient: ClassVar[Sequence[str]] = ()

    @abstractmethod
    def make(self, encoder: nn.Module, prior: Prior) -> Guide:
        """The guide, from the current random state; the encoder has an attribute ``features``."""

    def make_prior(self, latent: int) -> Prior:
        """The prior it is to work with. A wide one, under which importance weights vary little, checks more."""
        return GaussianPrior(latent, content_variance=1.0, style_variance=0.5)

    # The program.

    def test_sites_are_those_of_the_model(self) -> None:
        """One content an image, one style a view, each a vector, and nothing else the model does not know."""
        model, guide = self._pair()
        for views in (1, VIEWS):
            sites = sample_sites(traced(guide, tiny_views(views)))
            names = {name for name, site in sites.items() if not site_infer(site, "is_auxiliary")}
            check(
                names == {"content", "style"},
                f"the guide samples {', '.join(sorted(names)) or 'nothing'}. Expected the sites 'content' and 'style'; "
                "mark what else it needs with infer={'is_auxiliary': True}",
            )
            content, style = model.prior.content(), model.prior.style(sites["content"]["value"])
            _check_site(sites["content"], "content", content.event_shape, {"image": -1})
            _check_site(sites["style"], "style", style.event_shape, {"image": -1, "view": -2})
            self._loss(model, guide, tiny_views(views))

    def test_particles_widen_every_site_on_the_left(self) -> None:
        """A plate of particles around the program (as ELBO and IWAE use) adds a leading dimension, drawn anew."""
        model, guide = self._pair()
        with seeded():
            sites = sample_sites(traced(guide, tiny_views(VIEWS), particles=7))
        for name, places in {"content": (7, 1, IMAGES), "style": (7, VIEWS, IMAGES)}.items():
            shape = tuple(sites[name]["value"].shape[:-1])
            check(
                shape == places,
                f"under 7 particles the site {name!r} has shape {shape} before its event. Expected {places}. Count "
                "dimensions from the right (dim=-3 is the view's in (..., view, image, latent)), never from the left",
            )
        if self.has_density:
            z = model.prior.compose(sites["content"]["value"], sites["style"]["value"])
            check(
                bool((z.std(0) > 1e-8).any(-1).all()),
                "under 7 particles some images have the same draw in each. Expected draws that differ. Sample by "
                "pyro.sample from distributions, whose batch shape the plates widen, and not from noise of your own",
            )

    def test_importance_weights_average_to_the_evidence(self) -> None:
        """E_q[p(views, latents) / q(latents | views)] = p(views), whatever q is, provided it is normalised.

        In a linear model, after a short fit, without which an untrained q would be too narrow to say anything.
        """
        if not self.has_density:
            skip("has_density is False: a point has no importance weights")
        if not self.independent_images:
            skip("independent_images is False: p(views) of one image is not defined without the others")
        with seeded():
            log_weights, error_of_evidence = relative_weights(self.make, self.make_prior(2))
        # In units of the evidence, where all should be 1.
        weights = log_weights.exp()
        estimate, error = weights.mean(0), weights.std(0) / len(weights) ** 0.5
        allowed = (error.square() + error_of_evidence.square()).sqrt()
        effective = weights.sum(0).square() / weights.square().sum(0)
        found = f"{_listed(estimate)} ± {_listed(allowed)} by image"
        check(
            bool(((estimate - 1).abs() < 6 * allowed).all()),
            f"importance weights p(views, latents) / q(latents | views) average to {found} times the evidence. "
            "Expected 1: the guide's densities are not those of its draws, or not normalised. Look for a scale used "
            "in sampling but not in log_prob, poutine.scale or mask, a lost Jacobian of a transformation, an auxiliary "
            f"site that is not in the trace. (Effective draws: {_listed(effective)} of {len(weights)}; if these are "
            "few, the fitted guide is far from the posterior, and a make_prior of larger style variance helps)",
        )
        check(
            bool((allowed < 0.2).all()),
            f"importance weights vary too much to say anything: {found} times the evidence after a short fit. Expected "
            "errors below 0.2. Either the guide does not train, or the posterior is far from what it can be: then "
            "override make_prior with one of larger style variance",
        )
        bound, error = log_weights.mean(0), log_weights.std(0) / len(log_weights) ** 0.5
        check(
            bool((bound < 5 * error + 5 * error_of_evidence + 1e-9).all()),
            f"the mean log weight lies above the evidence, by {_listed(bound)} nats by image. Expected a lower bound; "
            "see that q's log density covers every site that is drawn",
        )

    def test_the_order_of_views_does_not_matter(self) -> None:
        """Views are exchangeable: another order gives the same content, and the rest in that order."""
        _, guide = self._pair()
        views = tiny_views(VIEWS)
        order = torch.tensor([2, 0, 1])
        found, again = _posterior(guide, views), _posterior(guide, views[order])
        remedy = (
            "Expected views to be exchangeable: combine them by sums, means or products over the dimension -3, and "
            "do not single one out by its index"
        )
        expected = {name: value if name == "content" else value[order] for name, value in found.as_dict().items()}
        for name, value in again.as_dict().items():
            close(value, expected[name], f"posterior(views).{name} depends on the order of views. {remedy}", *TIGHT)
        if self.has_density and self.independent_images:
            densities = density_of_reordered(guide, views, "view", order)
            close(densities[1], densities[0], f"q's density depends on the order of views. {remedy}", *TIGHT)

    def test_images_do_not_depend_on_their_neighbours(self) -> None:
        """In evaluation mode a batch is a loop over its images."""
        if not self.independent_images:
            skip("independent_images is False")
        _, guide = self._pair()
        views = tiny_views(VIEWS)
        remedy = (
            "Expected each image's to depend on its own views only. Look for statistics over the batch: a mean or "
            "softmax over the dimension -2 of (view, image, latent), batch normalisation left in training mode"
        )
        whole = _posterior(guide, views)
        for image in range(IMAGES):
            alone = _posterior(guide, views[:, image : image + 1])
            for name, value in alone.as_dict().items():
                expected = getattr(whole, name)[..., image : image + 1, :]
                close(value, expected, f"posterior(views).{name} of an image alone is not that in a batch. {remedy}")
        if self.has_density:
            densities = density_of_reordered(guide, views, "image", torch.tensor([3, 1]))
            close(densities[1], densities[0], f"q's density of an image depends on the others. {remedy}", *TIGHT)

    # Representations.

    def test_embedding_is_the_posterior_of_one_view(self) -> None:
        """`embed` and `embed_batches` answer what `posterior` does for a single view of each image."""
        _, guide = self._pair()
        views = tiny_views(1)
        expected = _posterior(guide, views).squeeze_view().as_dict()
        widths = {name: (IMAGES, value.shape[-1]) for name, value in expected.items()}
        with seeded():
            embedded = guide.embed(views[0])
        size = 2 if self.independent_images else IMAGES
        guide.train()
        with seeded():
            batched = guide.embed_batches(views[0], batch_size=size)
        remedy = "Expected that of posterior(images[None]); leave embed and embed_batches to the base class"
        for how, found in {"embed(images)": embedded, "embed_batches(images)": batched}.items():
            for name, value in found.as_dict().items():
                check(
                    tuple(value.shape) == widths[name],
                    f"{how}.{name} has shape {tuple(value.shape)}, expected {widths[name]}: one row an image. {remedy}",
                )
                close(value, expected[name], f"{how}.{name} is another. {remedy}", *TIGHT)
        check(
            guide.training and not batched.z.requires_grad,
            "embed_batches left evaluation mode on, or a gradient. Expected the mode the guide was in, no gradient. "
            + remedy,
        )

    def test_content_is_inferred_from_all_views(self) -> None:
        """Any one view replaced gives another content."""
        _, guide = self._pair()
        views = tiny_views(VIEWS)
        before = _posterior(guide, views).content
        if not before.numel():
            skip("under this prior views share nothing")
        for view in range(VIEWS):
            changed = views.clone()
            changed[view, 0] = 1 - changed[view, 0]
            moved = (_posterior(guide, changed).content - before).abs().amax(-1)
            check(
                float(moved[0]) > 1e-9,
                f"content does not change when view {view} of {VIEWS} is replaced. Expected the posterior given all "
                "views of an image: combine what each says of content (sum over the dimension -3)",
            )

    def test_content_and_style_of_a_representation_compose_z(self) -> None:
        """z = compose(content, style) holds for means too where compose is linear."""
        if not self.mean_is_exact:
            skip("mean_is_exact is False")
        model, guide = self._pair()
        for views in (1, VIEWS):
            found = _posterior(guide, tiny_views(views))
            composed = model.prior.compose(found.content, found.style)
            message = (
                "posterior(views).z is not what the prior composes of its content and style. Expected "
                "z = prior.compose(content, style); take style as prior.decompose(content, z)"
            )
            close(composed, found.z, message, *TIGHT)

    def test_posterior_means_are_the_means_of_draws(self) -> None:
        """`posterior` speaks of the same q that the program draws from."""
        if not self.mean_is_exact:
            skip("mean_is_exact is False")
        model, guide = self._pair()
        views = tiny_views(VIEWS)
        with seeded(), torch.no_grad():
            sites = sample_sites(traced(guide, views, particles=4_000))
            content, style = sites["content"]["value"], sites["style"]["value"]
            drawn = {"content": content.squeeze(-3), "style": style, "z": model.prior.compose(content, style)}
        found = _posterior(guide, views).as_dict()
        for name, values in drawn.items():
            if not values.numel():  # content, under a prior that shares nothing
                continue
            error = values.std(0) / len(values) ** 0.5
            off = (values.mean(0) - found[name]).abs()
            check(
                bool((off <= 5 * error + 1e-9).all()),
                f"posterior(views).{name} is off the mean of {len(values)} draws of the program by up to "
                f"{float(off.max()):.2g}, more than 5 standard errors ({float(5 * error.max()):.2g} at most). Expected "
                "the mean of what forward(views) draws; if it is an approximation by intent, set mean_is_exact = False",
            )

    # Training.

    def test_every_parameter_gets_a_gradient(self) -> None:
        """Through the ELBO, by reparametrised draws."""
        model, guide = self._pair()
        guide.train()
        with seeded():
            loss = self._loss(model, guide, tiny_views(2))
            check_gradients(guide, loss, GRADIENT, self.without_gradient)

    def test_five_steps_of_fit(self) -> None:
        """From bytes, in float32: terms stay finite, and every parameter moves."""
        model, guide = self._pair(dtype=torch.float32)
        check_five_steps(Pair(model, guide), model, guide, SHAPE, without=self.without_gradient)

    def test_the_same_seed_gives_the_same_draws(self) -> None:
        """All noise comes from torch's generator."""
        model, guide = self._pair()
        views = tiny_views(2)
        draws = []
        for seed in (0, 0, 1):
            with seeded(seed):
                sites = sample_sites(traced(guide, views))
            draws.append(model.prior.compose(sites["content"]["value"], sites["style"]["value"]))
        check(
            torch.equal(draws[0], draws[1]),
            "two runs under one seed draw differently. Expected equal draws: take all noise from torch (no numpy, no "
            "random, no generator of your own), and let no call change what the next one does in evaluation mode",
        )
        if self.has_density:
            check(
                not torch.equal(draws[0], draws[2]),
                "two seeds give the same draws. Expected draws of q; set has_density = False if q is a point",
            )

    # Housekeeping.

    def test_what_is_saved_is_all_there_is(self) -> None:
        """A guide made otherwise that loads the state represents and draws the same, bit for bit."""
        views = tiny_views(2)

        def train(pair: Pair) -> None:
            pair.train()
            optimizer = torch.optim.Adam(pair.parameters(), lr=1e-2)
            for _ in range(2):
                optimizer.zero_grad()
                with seeded():
                    self._loss(pair.model, pair.guide, views).backward()
                optimizer.step()

        def same(original: Pair, other: Pair) -> None:
            remedy = (
                "after loading the state of the first. Expected the same bits: what a guide knows must be parameters "
                "or buffers (register_buffer), and no plain tensor attributes"
            )
            first, second = (_posterior(pair.guide, views).as_dict() for pair in (original, other))
            for name, value in first.items():
                check(torch.equal(value, second[name]), f"posterior(views).{name} of a second guide differs {remedy}")
            losses = []
            for pair in (original, other):
                with seeded():
                    losses.append(self._loss(pair.model, pair.guide, views))
            check(torch.equal(*losses), f"the ELBO of a second guide differs {remedy}")

        check_saved_and_loaded(lambda seed: Pair(*self._pair(seed)), train, same)

    def test_float32_stays_and_float64_is_kept(self) -> None:
        """The dtype of parameters and views is that of everything drawn and answered."""
        for dtype in (torch.float32, torch.float64):
            _, guide = self._pair(dtype=dtype)
            _check_all(guide, tiny_views(2, dtype), "dtype", dtype)

    def test_it_moves_to_the_gpu(self) -> None:
        """``guide.to("cuda")`` is all it takes."""
        if not torch.cuda.is_available():
            skip("there is no GPU")
        model, guide = self._pair()
        nn.ModuleList([model, guide]).to("cuda")
        views = tiny_views(2).to("cuda")
        _check_all(guide, views, "device", views.device)
        self._loss(model, guide, views).backward()

    def test_networks_run_in_low_precision_and_latents_do_not(self) -> None:
        """Under ``network_precision(bfloat16)``, as in a fit on hardware that has it."""
        with seeded():
            encoder, prior = TinyEncoder(), self.make_prior(LATENT)
            guide = self.make(encoder, prior).eval()
        seen: list[torch.dtype] = []
        encoder.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs.dtype))
        with network_precision(torch.bfloat16):
            _check_all(guide, tiny_views(2, torch.float32), "dtype", torch.float32)
        check(
            set(seen) == {torch.bfloat16},
            f"under network_precision(bfloat16) the encoder put out {seen or 'nothing'}. Expected bfloat16: call it "
            "by apply_network(encoder, views, event_dim=3), which runs it in the ambient precision and gives back the "
            "views' dtype",
        )

    def test_an_encoder_of_unknown_width_is_refused_by_name(self) -> None:
        """Its width is asked for, unless the guide finds it out."""
        with seeded():
            encoder = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, FEATURES))
            try:
                guide = self.make(encoder, self.make_prior(LATENT))
            except (ValueError, AttributeError) as error:
                check(
                    "features" in str(error),
                    f"an encoder without the attribute `features` is refused with: {error}. Expected a message that "
                    "names `features`",
                )
                return
            except Exception as error:
                raise AssertionError(
                    f"an encoder without the attribute `features` ends in {type(error).__name__}: {error}. Expected a "
                    "ValueError that names `features`; read it as an integer before it is used"
                ) from error
            _posterior(guide.double().eval(), tiny_views(1))

    # What the checks run on.

    def _pair(self, seed: int = 0, dtype: torch.dtype = DOUBLE) -> tuple[SimVE, Guide]:
        """A model and guide over one prior, in evaluation mode."""
        with seeded(seed):
            prior = self.make_prior(LATENT)
            guide = self.make(TinyEncoder(), prior)
            model = tiny_model(prior)
        nn.ModuleList([model, guide]).to(dtype).eval()
        return model, guide

    def _loss(self, model: nn.Module, guide: nn.Module, views: Tensor) -> Tensor:
        ran = f"the ELBO of model and guide on views of shape {tuple(views.shape)}"
        with must_run(ran, f"the model's sites, reparametrised: {PROGRAM}"), pyro.validation_enabled(True):
            loss: Tensor = ELBO(model, guide)(views)["loss"]
        value = loss.detach()
        check(bool(torch.isfinite(value)), f"the ELBO is {float(value)}. Expected it to be finite; see q's scales")
        return loss


def _check_site(site: Mapping[str, Any], name: str, event: torch.Size, plates: Mapping[str, int]) -> None:
    found = {frame.name: frame.dim for frame in site["cond_indep_stack"]}
    check(
        found == dict(plates),
        f"the site {name!r} is in plates {found}. Expected {dict(plates)}: content belongs to an image, outside the "
        "plate `view`, style to each of its views",
    )
    check(
        site["fn"].event_shape == event,
        f"the site {name!r} has event shape {tuple(site['fn'].event_shape)}. Expected {tuple(event)}, the prior's: one "
        "vector, by .to_event(1)",
    )


def _posterior(guide: Guide, views: Tensor) -> Representation:
    """Under a seed, for guides that estimate it by draws."""
    with seeded(), torch.no_grad():
        return guide.posterior(views)


def _check_all(guide: Guide, views: Tensor, attribute: str, expected: object) -> None:
    """Everything that is drawn and answered has that dtype or device."""
    with seeded():
        sites = sample_sites(traced(guide, views))
        answered = guide.posterior(views).as_dict()
    values: dict[str, Tensor] = {f"site {name!r}": site["value"] for name, site in sites.items()}
    values |= {f"posterior(views).{name}": value for name, value in answered.items()}
    for name, value in values.items():
        check(
            getattr(value, attribute) == expected,
            f"{name} has {attribute} {getattr(value, attribute)}. Expected {expected}, that of views and parameters. "
            "Make new tensors like others (torch.zeros_like, x.new_ones), keep constants as buffers, and leave out "
            ".float() and .cpu()",
        )
        check(bool(torch.isfinite(value).all()), f"{name} is not finite for views of {views.dtype}")


def _listed(values: Tensor) -> str:
    return ", ".join(f"{value:.3g}" for value in values.tolist())
