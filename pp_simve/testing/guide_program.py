"""Checks of guides: the sites they sample, and the density of what they draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pp_simve.inference.tracing import site_infer
from pp_simve.testing.checks import check, close, seeded, skip
from pp_simve.testing.guide_base import TIGHT, GuideChecks, posterior_of
from pp_simve.testing.programs import (
    IMAGES,
    VIEWS,
    density_of_reordered,
    relative_weights,
    sample_sites,
    tiny_views,
    traced,
)


class ProgramChecks(GuideChecks):
    """The program q, by its traces."""

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
        found, again = posterior_of(guide, views), posterior_of(guide, views[order])
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
        whole = posterior_of(guide, views)
        for image in range(IMAGES):
            alone = posterior_of(guide, views[:, image : image + 1])
            for name, value in alone.as_dict().items():
                expected = getattr(whole, name)[..., image : image + 1, :]
                close(value, expected, f"posterior(views).{name} of an image alone is not that in a batch. {remedy}")
        if self.has_density:
            densities = density_of_reordered(guide, views, "image", torch.tensor([3, 1]))
            close(densities[1], densities[0], f"q's density of an image depends on the others. {remedy}", *TIGHT)


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


def _listed(values: Tensor) -> str:
    return ", ".join(f"{value:.3g}" for value in values.tolist())
