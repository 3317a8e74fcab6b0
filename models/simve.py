"""The generative program: content an image, style a view, pixels from their composition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pp_simve.models.contrastive import GroupLikelihood
from pp_simve.models.likelihoods import Likelihood
from pp_simve.models.modalities import Views, modality_modules, split_by_modality, view_and_image_counts
from pp_simve.models.priors import Prior


class SimVE(PyroModule):
    """p(content) Π_j p(style_j | content) p(x_j | z_j), z_j = compose(content, style_j).

    The model of "A Probabilistic Model behind Self-Supervised Learning" (Bizeul, Schölkopf, Allen, TMLR 2024). It is a
    plain Pyro program with sites ``content``, ``style``, ``z`` (deterministic) and ``x`` (observed) in the plates
    ``image`` (dim -1) and ``view`` (dim -2).

    Which image a view came from may be observed as well, at a site ``group``: with the pixels that is the bridge to
    contrastive methods, without them it is their model.

    Views may be of several modalities, such as an image and its attributes, each with a likelihood of its own: they
    are then observed at a site ``x_KIND`` in a plate ``view_KIND`` each. A modality may be missing from a batch.

    Args:
        prior: over content and style.
        likelihood: of an image given z, or one for each modality; None where pixels are not modelled.
        group: of the image's place in the batch given z; None where it is not observed.
    """

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood | Mapping[str, Likelihood] | None = None,
        group: GroupLikelihood | None = None,
    ) -> None:
        super().__init__()
        self.prior = prior
        self.likelihood = modality_modules(likelihood) if isinstance(likelihood, Mapping) else likelihood
        self.group = group

    def forward(self, views: Views) -> None:
        """Observes views, ``(view, image, channel, height, width)`` (or one such tensor per modality), in [0, 1]."""
        prior = self.prior
        count, images = view_and_image_counts(views)
        with pyro.plate("image", images, dim=-1):
            content = pyro.sample("content", prior.content())
            with pyro.plate("view", count, dim=-2):
                style = pyro.sample("style", prior.style(content))
                z = pyro.deterministic("z", prior.compose(content, style), event_dim=1)
                if self.likelihood is not None and isinstance(views, Tensor):
                    pyro.sample("x", self.likelihood_of()(z), obs=views)
                if self.group is not None:
                    of_group, groups = self.group(z)
                    pyro.sample("group", of_group, obs=groups)
            if self.likelihood is not None and not isinstance(views, Tensor):
                for modality, of_modality in split_by_modality(z, views):
                    with pyro.plate(f"view_{modality}", of_modality.shape[-3], dim=-2):
                        pyro.sample(f"x_{modality}", self.likelihood_of(modality)(of_modality), obs=views[modality])

    def likelihood_of(self, modality: str | None = None) -> Likelihood:
        """The likelihood of views of a modality; without modalities, the only one.

        Raises:
            ValueError: pixels are not modelled, or not those of that modality.
        """
        if self.likelihood is None:
            raise ValueError("a SimVE without a likelihood has no images to generate or decode")
        by_modality: dict[str | None, Any] = {None: self.likelihood}
        if isinstance(self.likelihood, nn.ModuleDict):
            by_modality = dict(self.likelihood.items())
        if modality not in by_modality:
            known = (
                "its views are of one modality"
                if None in by_modality
                else f"it has those of {', '.join(map(str, by_modality))}"
            )
            wanted = "views without a modality" if modality is None else f"modality {modality}"
            raise ValueError(f"this SimVE has no likelihood of {wanted}; {known}")
        found: Likelihood = by_modality[modality]
        return found

    @torch.no_grad()
    def generate(self, images: int, views: int = 1, modality: str | None = None) -> Tensor:
        """Means of images drawn from the prior, shape ``(view, image, channel, height, width)``.

        Args:
            images: how many.
            views: of each image.
            modality: of the views, where the model has several.

        Raises:
            NotImplementedError: the prior on content is improper (`FlatPrior`).
            ValueError: pixels are not modelled.
        """
        likelihood = self.likelihood_of(modality)
        content = self.prior.content().sample((1, images))
        style = self.prior.style(content).expand((views, images)).sample()
        mean: Tensor = likelihood(self.prior.compose(content, style)).mean
        return mean
