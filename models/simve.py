"""The generative program: content an image, style a view, pixels from their composition."""

from __future__ import annotations

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pp_simve.models.group import GroupLikelihood
from pp_simve.models.likelihoods import Likelihood
from pp_simve.models.priors import Prior


class SimVE(PyroModule):
    """p(content) Π_j p(style_j | content) p(x_j | z_j), z_j = compose(content, style_j).

    The model of "A Probabilistic Model behind Self-Supervised Learning" (Bizeul, Schölkopf, Allen, TMLR 2024). It is a
    plain Pyro program with sites ``content``, ``style``, ``z`` (deterministic) and ``x`` (observed) in the plates
    ``image`` (dim -1) and ``view`` (dim -2).

    Which image a view came from may be observed as well, at a site ``group``: with the pixels that is the bridge to
    contrastive methods, without them it is their model.

    Args:
        prior: over content and style.
        likelihood: of an image given z; None where pixels are not modelled.
        group: of the image's place in the batch given z; None where it is not observed.
    """

    def __init__(
        self, prior: Prior, likelihood: Likelihood | None = None, group: GroupLikelihood | None = None
    ) -> None:
        super().__init__()
        self.prior = prior
        self.likelihood = likelihood
        self.group = group

    def forward(self, views: Tensor) -> None:
        """Observes ``views``, shape ``(view, image, channel, height, width)``, values in [0, 1]."""
        prior = self.prior
        with pyro.plate("image", views.shape[1], dim=-1):
            content = pyro.sample("content", prior.content())
            with pyro.plate("view", views.shape[0], dim=-2):
                style = pyro.sample("style", prior.style(content))
                z = pyro.deterministic("z", prior.compose(content, style), event_dim=1)
                if self.likelihood is not None:
                    pyro.sample("x", self.likelihood(z), obs=views)
                if self.group is not None:
                    of_group, groups = self.group(z)
                    pyro.sample("group", of_group, obs=groups)

    @torch.no_grad()
    def generate(self, images: int, views: int = 1) -> Tensor:
        """Means of images drawn from the prior, shape ``(view, image, channel, height, width)``.

        Raises:
            NotImplementedError: the prior on content is improper (`FlatPrior`).
            ValueError: pixels are not modelled.
        """
        if self.likelihood is None:
            raise ValueError("a SimVE without a likelihood has no images to generate")
        content = self.prior.content().sample((1, images))
        style = self.prior.style(content).expand((views, images)).sample()
        mean: Tensor = self.likelihood(self.prior.compose(content, style)).mean
        return mean
