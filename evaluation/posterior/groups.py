"""What a fitted pair says of some images, and of none: variables in ArviZ's groups, their dimensions named."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor, nn

from pp_simve.evaluation.posterior.batches import NUMBERS_AT_ONCE
from pp_simve.evaluation.posterior.viewing import alone_or_by_modality, modalities
from pp_simve.inference import Draws, Guide, draw
from pp_simve.inference.tools import evaluation_mode, random_state_kept
from pp_simve.models import EmpiricalPrior, Likelihood, SimVE
from pp_simve.models.modalities import PlainViews as Views
from pp_simve.models.modalities import split_by_modality, view_and_image_counts

Variables = dict[str, tuple[tuple[str, ...], np.ndarray[Any, Any]]]
"""Values by name, each with the names of its dimensions."""

_SAMPLE = ("chain", "draw")


@dataclass(frozen=True)
class Drawing:
    """A pair, and how many draws of its latents and of its pixels are wanted.

    Attributes:
        draws: of the latents, at least 1.
        pixel_draws: of the pixels, at most ``draws``; 0 for none.
    """

    model: SimVE
    guide: Guide
    draws: int
    pixel_draws: int

    def reasons(self) -> dict[str, str]:
        """Why something is left out, by the name of the attribute that says so."""
        prior, found = self.model.prior, {}
        if isinstance(prior, EmpiricalPrior):
            found["no_prior"] = "content is one of the images' own: draws from the prior would be draws from the data"
        else:
            try:
                with random_state_kept(self.device):
                    prior.content().sample()
            except NotImplementedError:
                found["no_prior"] = "the prior is improper: nothing can be drawn from it"
        if not self._shares_content:
            found["no_content"] = "the prior shares nothing between views"
        if self.model.likelihood is None:
            found["no_log_p"] = "pixels are not modelled: no joint density, no importance weights, nothing predicted"
        if not self.guide.has_density:
            found["no_log_q"] = "draws of the guide are points without a density: importance weights have no meaning"
        return found

    @property
    def device(self) -> torch.device:
        """Where the program is."""
        both = nn.ModuleList([self.guide, self.model])
        tensors = chain(both.parameters(), both.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    def images_at_once(self, views: Views) -> int:
        """How many images fit into memory with their draws: a power of 2."""
        count, images = view_and_image_counts(views)
        pixels = sum(batch[:, 0].numel() for _, batch in modalities(views))
        numbers = max(self.draws * count * self.model.prior.latent_dim, self.pixel_draws * pixels)
        fit = max(1, NUMBERS_AT_ONCE // numbers)
        return 1 << min(fit, images).bit_length() - 1

    @torch.no_grad()
    def check(self, views: Views) -> None:
        """Runs the pair on views of these shapes, with Pyro's checks on; grey ones, because some images may give NaN.

        A guide of certain images is run on the first.

        Raises:
            ValueError: views of a shape or modality that the program is not of, or programs that do not fit together.
        """
        one = {modality: batch[:, :1] for modality, batch in modalities(views)}
        if self.guide.amortized:
            one = {modality: torch.full_like(batch, 0.5) for modality, batch in one.items()}
        shapes = ", ".join(str(tuple(batch.shape[2:])) for _, batch in modalities(views))
        try:
            if self.model.likelihood is not None:
                for modality, batch in one.items():
                    z = batch.new_zeros(1, 1, self.model.prior.latent_dim)
                    with evaluation_mode(self.model):
                        expected = self.model.likelihood_of(modality)(z).event_shape
                    if expected != batch.shape[2:]:
                        raise ValueError(f"the model's images are of shape {tuple(expected)}")
            with pyro.validation_enabled(True):
                draw(self.model, self.guide, alone_or_by_modality(one), 1, seed=0)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"views of shape {shapes} do not go through model and guide: {error}") from error

    def of_images(self, views: Views, draw_seed: int, pixel_seed: int) -> dict[str, Variables]:
        """All groups but those of the prior, without what says which images and views these are."""
        # Unchecked: NaN for some image must come out as its log weight, not as an error about all of them.
        with pyro.validation_enabled(False):
            drawn = draw(self.model, self.guide, views, self.draws, seed=draw_seed)
            predicted = self._pixels(drawn.z[: self.pixel_draws], views, pixel_seed)
        latents = self._latents(drawn.content, drawn.style.transpose(1, 2), drawn.z.transpose(1, 2), ("image",))
        found = {
            "posterior": latents,
            "posterior_predictive": {
                name: ((*_SAMPLE, "image", *dims), _chain(pixels.movedim(2, 1)))
                for name, (dims, pixels) in predicted.items()
            },
            "observed_data": {
                named("x", modality): (("image", *_dims(modality)), _numpy(batch.transpose(0, 1)))
                for modality, batch in modalities(views)
            },
            "sample_stats": _densities(drawn),
            "log_likelihood": _by_view(drawn, views),
        }
        return {group: variables for group, variables in found.items() if variables}

    @torch.no_grad()
    def of_prior(self, views: Views, seed: int) -> dict[str, Variables]:
        """Groups of the prior; none where nothing can be drawn from it.

        Args:
            views: how many of which modalities are to be drawn of an image.
        """
        if "no_prior" in self.reasons():
            return {}
        prior, (count, _) = self.model.prior, view_and_image_counts(views)
        with evaluation_mode(self.model), random_state_kept(self.device), pyro.validation_enabled(False):
            torch.manual_seed(seed)
            content = prior.content().sample(torch.Size((1, self.draws)))
            style = prior.style(content).expand(torch.Size((count, self.draws))).sample()
            z = prior.compose(content, style)
            predicted = self._pixels(z[:, : self.pixel_draws], views, seed + 1)
        latents = self._latents(content.squeeze(0), style.transpose(0, 1), z.transpose(0, 1), ())
        pixels = {name: ((*_SAMPLE, *dims), _chain(batch.transpose(0, 1))) for name, (dims, batch) in predicted.items()}
        return {"prior": latents} | ({"prior_predictive": pixels} if pixels else {})

    @property
    def _shares_content(self) -> bool:
        return bool(self.model.prior.content().event_shape[0])

    def _latents(self, content: Tensor, style: Tensor, z: Tensor, images: tuple[str, ...]) -> Variables:
        """Latents of one chain; ``images`` is the dimension between draws and views, where there is one."""
        width = z.shape[-1]

        def latent(name: str, values: Tensor) -> str:
            return "latent" if values.shape[-1] == width else f"{name}_latent"

        found: Variables = {
            "style": ((*_SAMPLE, *images, "view", latent("style", style)), _chain(style)),
            "z": ((*_SAMPLE, *images, "view", "latent"), _chain(z)),
        }
        if self._shares_content:
            found = {"content": ((*_SAMPLE, *images, latent("content", content)), _chain(content))} | found
        return found

    @torch.no_grad()
    def _pixels(self, z: Tensor, views: Views, seed: int) -> dict[str, tuple[tuple[str, ...], Tensor]]:
        """Pixel draws given z, ``(..., view, image, latent)``, of each modality; none if they are not modelled."""
        if self.model.likelihood is None or not self.pixel_draws:
            return {}
        of_modalities = [(None, z)] if isinstance(views, Tensor) else split_by_modality(z, views)
        with evaluation_mode(self.model), random_state_kept(z.device):
            torch.manual_seed(seed)
            return {
                named("x", modality): (_dims(modality), _sample(self.model.likelihood_of(modality), of_modality))
                for modality, of_modality in of_modalities
            }


def _sample(likelihood: Likelihood, z: Tensor) -> Tensor:
    """Draws of pixels, NaN where z is: coins whose probability is NaN cannot be drawn."""
    finite = z.isfinite().all(-1, keepdim=True)
    pixels: Tensor = likelihood(z.where(finite, 0.0)).sample()
    return pixels.where(finite[..., None, None], torch.nan)


def _densities(drawn: Draws) -> Variables:
    found = {}
    if drawn.log_likelihood is not None:
        found["log_p"] = drawn.log_p
    if drawn.log_q is not None:
        found["log_q"] = drawn.log_q
    if len(found) == 2:
        found["log_weight"] = drawn.log_weight
    return {name: ((*_SAMPLE, "image"), _chain(values)) for name, values in found.items()}


def _by_view(drawn: Draws, views: Views) -> Variables:
    if drawn.log_likelihood is None:
        return {}
    pairs = list(modalities(views))
    of_modalities = drawn.log_likelihood.split([len(batch) for _, batch in pairs], 1)
    return {
        named("x", modality): ((*_SAMPLE, "image", named("view", modality)), _chain(values.transpose(1, 2)))
        for (modality, _), values in zip(pairs, of_modalities, strict=True)
    }


def named(name: str, modality: str | None) -> str:
    """The name of a variable or dimension of a modality's own."""
    return name if modality is None else f"{name}_{modality}"


def _dims(modality: str | None) -> tuple[str, ...]:
    return tuple(named(name, modality) for name in ("view", "channel", "height", "width"))


def _chain(values: Tensor) -> np.ndarray[Any, Any]:
    return _numpy(values.unsqueeze(0))


def _numpy(values: Tensor) -> np.ndarray[Any, Any]:
    return values.detach().cpu().numpy()
