"""The conformance suite of priors."""

from __future__ import annotations

from typing import Any

import torch

from pp_simve.inference import AmortizedGuide, MLPEncoder, StructuredGuide
from pp_simve.models import Bernoulli, ConjugatePrior, ExactPrior, MLPDecoder, Prior, SimVE
from pp_simve.testing.checks import check_five_steps, seeded, skip
from pp_simve.testing.prior_base import IMAGES, VIEWS
from pp_simve.testing.prior_closed_forms import ConjugateChecks, ExactChecks, QuadraticChecks
from pp_simve.testing.prior_densities import DensityChecks
from pp_simve.testing.prior_plates import PlateChecks
from pp_simve.testing.prior_state import StateChecks
from pp_simve.testing.quadrature import bounds_of

IMAGE_SHAPE = (1, 4, 4)


# pytest begins with the checks of the last base: shapes, on which the others rely.
class PriorSuite(StateChecks, QuadraticChecks, ConjugateChecks, ExactChecks, DensityChecks, PlateChecks):
    """Checks of a prior of one's own: subclass it, say how to make one, and let pytest collect the subclass.

        class TestMyPrior(PriorSuite):
            def make(self, latent: int) -> MyPrior:
                return MyPrior(latent)

    Every check is in float64, on a few numbers, against quadrature, finite differences or the definition. Those that
    a prior's interface does not promise (`ExactPrior`, `ConjugatePrior`, `QuadraticPrior`) are skipped.

    Attributes:
        proper: whether content has a density that integrates to one; False where it is improper (`FlatPrior`).
        independent_images: whether an image's content does not depend on the images beside it; False where the
            candidates are those of the batch (`EmpiricalPrior` without a memory).
        latents: dimensions of z to try. Integrals are checked where content (or style) has at most two.
    """

    def test_five_steps_of_a_fit(self) -> None:
        """Its losses are finite, its parameters move, with the guides that take such a prior."""
        latent_dim = self.latents[-1]
        with seeded():
            kinds = self._guides(self.make(latent_dim))
        if not kinds:
            skip("no guide of the package takes it: it is no ExactPrior, and content is bounded or not as wide as z")
        for kind in kinds:
            with seeded():
                prior = self.make(latent_dim)
                model = SimVE(prior, Bernoulli(MLPDecoder(latent_dim, IMAGE_SHAPE, hidden=(8,))))
                guide = kind(MLPEncoder(IMAGE_SHAPE, hidden=(8,)), prior)
            check_five_steps(prior, model, guide, IMAGE_SHAPE)

    def _guides(self, prior: Prior) -> list[Any]:
        kinds: list[Any] = []
        if isinstance(prior, ExactPrior):
            kinds.append(AmortizedGuide)
        if isinstance(prior, ConjugatePrior):
            z = torch.zeros(VIEWS, IMAGES, prior.latent_dim)
            prior.remember(z)
            if prior.content_posterior(z, torch.ones_like(z)).has_rsample:
                kinds.append(StructuredGuide)
        elif not kinds:
            content = prior.content()
            if content.event_shape == (prior.latent_dim,) and bounds_of(content) == (None, None):
                kinds.append(StructuredGuide)
        return kinds

    def test_latent_below_one_is_refused(self) -> None:
        """With a ValueError, when the prior is made."""
        for latent_dim in (0, -1):
            try:
                self.make(latent_dim)
            except ValueError:
                continue
            except Exception as error:
                raise AssertionError(
                    f"make({latent_dim}) raised {type(error).__name__} ({error}), expected a ValueError; call "
                    "super().__init__(latent) first, which refuses it"
                ) from error
            raise AssertionError(
                f"make({latent_dim}) gave a prior without axes, expected a ValueError: super().__init__"
            )
