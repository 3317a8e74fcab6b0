"""The generative program SimVE: one content per image, one style per view, pixels given their composition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pp_simve.models.contrastive import GroupLikelihood
from pp_simve.models.likelihoods import Likelihood
from pp_simve.models.priors import Prior
from pp_simve.models.pyro_program import PyroProgram
from pp_simve.models.views import Views, ViewsLike, modality_modules


class SimVE(PyroProgram):
    """SimVE, the generative program: p(content) Π_j p(style_j | content) p(x_j | z_j), z_j = compose(content, style_j).

    The model of "A Probabilistic Model behind Self-Supervised Learning" (Bizeul, Schölkopf, Allen, TMLR 2024). It is a
    plain Pyro program with sites ``content``, ``style``, ``z`` (deterministic) and ``x`` (observed) in the plates
    ``image`` (dim -1) and ``view`` (dim -2).

    The group, which image of the batch a view came from, may be observed as well, at a site ``group``: together with
    the pixels it is the bridge to contrastive methods, without them it is their model.

    Views may be of several modalities, such as an image and its attributes, each with its own likelihood, observed at a
    site ``x_<modality>`` in a plate ``view_<modality>``. A modality may be missing from a batch.

    Args:
        prior: over content and style.
        likelihood: of an image given z, or one per modality; None where pixels are not modeled.
        group: likelihood of the group given z; None where it is not observed.

    Examples:
        >>> import torch
        >>> from pp_simve import Bernoulli, GaussianPrior, MLPDecoder
        >>> model = SimVE(GaussianPrior(8), Bernoulli(MLPDecoder(8, (1, 16, 16))))
        >>> model.generate(images=3, views=2).shape  # (view, image, channel, height, width)
        torch.Size([2, 3, 1, 16, 16])
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
        if group is not None:
            group.connect(prior.latent_dim)

    def forward(self, views: ViewsLike) -> None:
        """Observes views, ``(view, image, channel, height, width)`` (or one such tensor per modality), in [0, 1]."""
        views = Views.of(views)
        prior = self.prior
        view_plate = pyro.plate("view", views.n_views, dim=-2)
        with pyro.plate("image", views.n_images, dim=-1):
            content = pyro.sample("content", prior.content())
            with view_plate:
                style = pyro.sample("style", prior.style(content))
                z = pyro.deterministic("z", prior.compose(content, style), event_dim=1)
            if self.likelihood is not None:
                for (modality, of_modality), observed in zip(views.split(z), views.tensors(), strict=True):
                    name = "" if modality is None else f"_{modality}"
                    with view_plate if modality is None else pyro.plate(f"view{name}", len(observed), dim=-2):
                        pyro.sample(f"x{name}", self.likelihood_of(modality)(of_modality), obs=observed)
            if self.group is not None:
                with view_plate:
                    of_group, groups = self.group(z)
                    pyro.sample("group", of_group, obs=groups)

    def likelihood_of(self, modality: str | None = None) -> Likelihood:
        """The likelihood of views of a modality; without modalities, the only one.

        Raises:
            ValueError: pixels are not modeled, or not those of that modality.
        """
        if self.likelihood is None:
            raise ValueError("a SimVE without a likelihood has no images to generate or decode")
        several = self.likelihood if isinstance(self.likelihood, nn.ModuleDict) else None
        found: Any = self.likelihood if several is None and modality is None else None
        if several is not None and modality is not None and modality in several:
            found = several[modality]
        if found is not None:
            likelihood: Likelihood = found
            return likelihood
        known = "its views are of one modality" if several is None else f"it has those of {', '.join(several)}"
        wanted = "views without a modality" if modality is None else f"modality {modality}"
        raise ValueError(f"this SimVE has no likelihood of {wanted}; {known}")

    @torch.no_grad()
    def generate(self, images: int, views: int = 1, modality: str | None = None) -> Tensor:
        """Means of images drawn from the prior, shape ``(view, image, channel, height, width)``.

        Args:
            images: number of images.
            views: of each image.
            modality: of the views, where the model has several.

        Raises:
            NotImplementedError: the prior on content is improper (`FlatPrior`).
            ValueError: pixels are not modeled.
        """
        likelihood = self.likelihood_of(modality)
        content = self.prior.content().sample((1, images))
        style = self.prior.style(content).expand((views, images)).sample()
        mean: Tensor = likelihood(self.prior.compose(content, style)).mean
        return mean
