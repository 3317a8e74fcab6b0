"""What the suite of guides is made of: a guide and a model over one prior, their ELBO, and posteriors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import pyro
import torch
from torch import Tensor, nn

from pp_simve.inference import ELBO, Guide, Representation
from pp_simve.models import GaussianPrior, Prior, SimVE
from pp_simve.testing.checks import check, must_run, seeded
from pp_simve.testing.programs import DOUBLE, LATENT, PROGRAM, TinyEncoder, tiny_model

TIGHT = (1e-8, 1e-8)


class GuideChecks(ABC):
    """What each part of `GuideSuite` builds on; the attributes are described there."""

    has_density: ClassVar[bool] = True
    mean_is_exact: ClassVar[bool] = True
    independent_images: ClassVar[bool] = True
    without_gradient: ClassVar[Sequence[str]] = ()

    @abstractmethod
    def make(self, encoder: nn.Module, prior: Prior) -> Guide:
        """The guide, from the current random state; the encoder has an attribute ``features``."""

    def make_prior(self, latent_dim: int) -> Prior:
        """The prior it is to work with. A wide one, under which importance weights vary little, checks more."""
        return GaussianPrior(latent_dim, content_variance=1.0, style_variance=0.5)

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


def posterior_of(guide: Guide, views: Tensor) -> Representation:
    """Under a seed, for guides that estimate it by draws."""
    with seeded(), torch.no_grad():
        return guide.posterior(views)
