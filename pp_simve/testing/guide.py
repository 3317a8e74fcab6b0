"""The conformance suite of guides."""

from __future__ import annotations

import torch
from torch import nn

from pp_simve.testing.checks import check, check_five_steps, check_gradients, seeded
from pp_simve.testing.guide_base import posterior_of
from pp_simve.testing.guide_program import ProgramChecks
from pp_simve.testing.guide_representation import RepresentationChecks
from pp_simve.testing.guide_state import StateChecks
from pp_simve.testing.programs import FEATURES, GRADIENT, LATENT, PIXELS, SHAPE, Pair, sample_sites, tiny_views, traced


# pytest begins with the checks of the last base: sites, on which the others rely.
class GuideSuite(StateChecks, RepresentationChecks, ProgramChecks):
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
            posterior_of(guide.double().eval(), tiny_views(1))
