"""Checks of guides: what `posterior` and `embed` answer."""

from __future__ import annotations

import torch

from pp_simve.testing.checks import check, close, seeded, skip
from pp_simve.testing.guide_base import TIGHT, GuideChecks, posterior_of
from pp_simve.testing.programs import IMAGES, VIEWS, sample_sites, tiny_views, traced


class RepresentationChecks(GuideChecks):
    """Representations are those of the posterior that the program draws from."""

    def test_embedding_is_the_posterior_of_one_view(self) -> None:
        """`embed` and `embed_batches` answer what `posterior` does for a single view of each image."""
        _, guide = self._pair()
        views = tiny_views(1)
        expected = posterior_of(guide, views).squeeze_view().as_dict()
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
        before = posterior_of(guide, views).content
        if not before.numel():
            skip("under this prior views share nothing")
        for view in range(VIEWS):
            changed = views.clone()
            changed[view, 0] = 1 - changed[view, 0]
            moved = (posterior_of(guide, changed).content - before).abs().amax(-1)
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
            found = posterior_of(guide, tiny_views(views))
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
        found = posterior_of(guide, views).as_dict()
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
