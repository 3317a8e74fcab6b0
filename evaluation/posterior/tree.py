"""The posterior of a fitted pair as an xarray data tree, in ArviZ's groups."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from torch import Tensor, nn

from pp_simve.evaluation.posterior import storage
from pp_simve.evaluation.posterior.batches import NUMBERS_AT_ONCE, ViewSource, seeds
from pp_simve.inference import Draws, Guide, Run, draw
from pp_simve.inference.augmentations import AugmentationPolicy
from pp_simve.inference.data import Pixels
from pp_simve.inference.tools import evaluation_mode, random_state_kept
from pp_simve.models import Likelihood, PlainViews, SimVE, Views

Values = Tensor | np.ndarray[Any, Any] | Sequence[int]
Variables = dict[str, tuple[tuple[str, ...], np.ndarray[Any, Any]]]
"""Arrays by name, each with the names of its dimensions."""

LIBRARIES = ("torch", "pyro-ppl", "arviz", "xarray")
LONGEST_TEXT = 30_000
"""Characters of an attribute; HDF5 takes 64 KiB."""

_SAMPLE = ("chain", "draw")


def posterior(
    program: Run | tuple[nn.Module, Guide],
    images: Pixels | Mapping[str, Pixels],
    *,
    views: int | None = None,
    draws: int = 500,
    policy: AugmentationPolicy | Mapping[str, AugmentationPolicy] | None = None,
    labels: Values | None = None,
    index: Values | None = None,
    predictive_draws: int = 20,
    seed: int = 0,
    view_seed: int = 0,
    to: Path | str | None = None,
    configuration: Mapping[str, Any] | None = None,
    commit: str | None = None,
) -> xr.DataTree:
    """Draws from q(content, style | views) of some images, with everything that ArviZ needs of a model.

    Groups, their variables, and their dimensions beside ``chain`` and ``draw``:

    - ``posterior``: content (image, latent); style and z (image, view, latent).
    - ``posterior_predictive``: x (image, view, channel, height, width), of the first ``predictive_draws`` draws.
    - ``prior``, ``prior_predictive``: the same without ``image``, since all images have the same prior.
    - ``observed_data``: x (image, view, channel, height, width), no draws.
    - ``constant_data``: index and label (image); augmentation parameters by name (image, view); no draws.
    - ``sample_stats``: log_p = log p(x, content, style), log_q and log_weight = log_p − log_q (image), in nats.
    - ``log_likelihood``: x (image, view), in nats.

    Where content or style is not as wide as z, its last dimension is ``content_latent`` or ``style_latent``
    (`BlockPrior`). With several modalities, ``view`` runs over the views of all, and ``constant_data.modality`` names
    theirs; pixels are in variables ``x_MODALITY`` whose own dimensions end in ``_MODALITY`` as well.

    A group or variable without meaning is left out and an attribute of the tree gives the reason: ``no_prior``
    (improper, or made of the batch), ``no_log_q`` (a point guide has no density), ``no_log_p`` (no likelihood),
    ``no_content`` (the prior shares nothing between views). Other attributes: versions of libraries,
    ``configuration``, ``commit``, ``policy``, ``draws``, ``views``, ``seed`` and ``view_seed``.

    The draws of a fit are independent and form one chain, for which R-hat and effective sample size have no meaning;
    `stack_chains` makes several fits the chains of one tree. A density that is NaN stays NaN in its own image.

    Args:
        program: what `fit` returned, or a `SimVE` and its guide.
        images: uint8, or float in [0, 1], ``(image, channel, height, width)``; or views,
            ``(view, image, channel, height, width)``. By modality if there are several.
        views: number of views of each image and modality; by default that of the fit, or for a pair with a policy 2 (1
            per modality).
        draws: of the posterior of each image, and of the prior.
        policy: draws the views; by modality if images are. By default that of the fit; without one (a pair) the image
            itself is its only view.
        labels: a number for each image, such as its class.
        index: place of each image in the data, the coordinate of ``image``; by default 0, 1, ….
        predictive_draws: of pixels, which are large; at most ``draws`` are made, none for 0.
        seed: of all draws. The same images and arguments give the same tree, in memory and in a file. Torch's own
            generators are left as they were.
        view_seed: of the views, whatever the program, the draws and ``seed``.
        to: a netCDF file, written some images at a time so that memory does not grow with their number. It is complete
            or not there at all, and the returned tree reads from it: see `open_posterior`.
        configuration: of the fit, kept as JSON; by default model and guide as they print.
        commit: of the program's source.

    Raises:
        ValueError: draws out of range; no images, or NaN among their pixels; views that the program does not take;
            several views without a policy; labels or an index of another shape.
        TypeError: the model is no `SimVE`.
        OSError: the file could not be written.

    Example:
        >>> tree = posterior(run, images[:64], draws=500, to="posterior.nc")  # doctest: +SKIP
        >>> tree["posterior"]["content"].mean(("chain", "draw"))  # doctest: +SKIP
    """
    model, guide = (program.model, program.guide) if isinstance(program, Run) else program
    if not isinstance(model, SimVE):
        raise TypeError(
            f"the model must be a SimVE, with a prior and a likelihood to draw from, got {type(model).__name__}"
        )
    if draws < 1 or predictive_draws < 0:
        raise ValueError(f"draws must be at least 1 and predictive_draws 0 or more, got {draws} and {predictive_draws}")
    given = images.values() if isinstance(images, Mapping) else [images]
    if isinstance(program, Run) and not any(pixels.ndim == 5 for pixels in given):
        policy, views = policy or program.policy, views or program.views
    source = ViewSource.of(images, policy, views, seed=view_seed)
    sampler = _Sampler(model, guide, draws, min(draws, predictive_draws))
    constants = {"index": _one_per_image("index", range(len(source)) if index is None else index, len(source))}
    if labels is not None:
        constants["label"] = _one_per_image("labels", labels, len(source))
    printed = f"model: {model}\nguide: {guide}"[:LONGEST_TEXT]
    policies = ", ".join("as it is" if one is None else repr(one) for one in source.policies.values())
    attributes = {
        "inference_library": "pp_simve",
        "inference_library_version": version("pp_simve"),
        "python": platform.python_version(),
        **{library: version(library) for library in LIBRARIES},
        "configuration": json.dumps(configuration, default=str) if configuration else printed,
        **({"commit": commit} if commit else {}),
        "policy": policies[:LONGEST_TEXT],
        "draws": draws,
        "views": sum(source.views.values()),
        "seed": seed,
        "view_seed": view_seed,
        **sampler.reasons(),
    }
    parts = _parts(sampler, source, constants, seed)
    if to is None:
        return storage.joined(parts, attributes)
    storage.write(Path(to), parts, attributes)
    return storage.open_posterior(to)


def _parts(
    sampler: _Sampler, source: ViewSource, constants: Mapping[str, np.ndarray[Any, Any]], seed: int
) -> Iterator[storage.Groups]:
    """Groups of some images after another; those of the prior come with the first."""
    of_blocks = seeds(seed)
    prior_seed = next(of_blocks)
    for block in source.blocks(sampler.device):
        if block.start == 0:
            sampler.check(block.views)
        size, images = sampler.images_at_once(block.views), Views.of(block.views).n_images
        of_parts = seeds(next(of_blocks))
        for first in range(0, images, size):
            views = Views.of(block.views)[slice(first, first + size)].plain
            groups = sampler.of_images(views, *islice(of_parts, 2))
            if block.start == first == 0:
                groups |= sampler.of_prior(views, prior_seed)
            place = slice(block.start + first, min(block.start + first + size, len(source)))
            groups["constant_data"] = {name: (("image",), values[place]) for name, values in constants.items()} | {
                _name(name, modality): (("image", _name("view", modality)), _numpy(values[:, first : first + size].T))
                for modality, parameters in block.parameters.items()
                for name, values in parameters.items()
            }
            if not isinstance(views, Tensor):
                names = [modality for modality, batch in views.items() for _ in batch]
                groups["constant_data"]["modality"] = (("view",), np.array(names))
            yield {group: _dataset(variables, constants["index"][place]) for group, variables in groups.items()}


@dataclass(frozen=True)
class _Sampler:
    """Draws the groups of some images.

    Attributes:
        draws: of the latents, at least 1.
        pixel_draws: of the pixels, at most ``draws``; 0 for none.
    """

    model: SimVE
    guide: Guide
    draws: int
    pixel_draws: int

    def reasons(self) -> dict[str, str]:
        """Why a group or variable is left out, by the attribute that says so."""
        found = {}
        if self.model.prior.depends_on_batch:
            found["no_prior"] = "content is one of the images' own: draws from the prior would be draws from the data"
        elif not self.model.prior.proper:
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

    def images_at_once(self, views: PlainViews) -> int:
        """Number of images that fit into memory with their draws: a power of 2."""
        count, images = Views.of(views).n_views, Views.of(views).n_images
        pixels = sum(batch[:, 0].numel() for batch in Views.of(views).tensors())
        numbers = max(self.draws * count * self.model.prior.latent_dim, self.pixel_draws * pixels)
        return 1 << min(max(1, NUMBERS_AT_ONCE // numbers), images).bit_length() - 1

    @torch.no_grad()
    def check(self, views: PlainViews) -> None:
        """Runs the pair on views of these shapes with Pyro's checks on: grey ones, since some images may give NaN.

        A guide of per-image parameters is run on the first image.

        Raises:
            ValueError: views of a shape or modality that the program does not take, or programs that do not fit.
        """
        one = {modality: batch[:, :1] for modality, batch in Views.of(views).items()}
        if self.guide.amortized:
            one = {modality: torch.full_like(batch, 0.5) for modality, batch in one.items()}
        try:
            if self.model.likelihood is not None:
                for modality, batch in one.items():
                    z = batch.new_zeros(1, 1, self.model.prior.latent_dim)
                    with evaluation_mode(self.model):
                        expected = self.model.likelihood_of(modality)(z).event_shape
                    if expected != batch.shape[2:]:
                        raise ValueError(f"the model's images are of shape {tuple(expected)}")
            with pyro.validation_enabled(True):
                draw(self.model, self.guide, Views.by_modality(one).plain, 1, seed=0)
        except (ValueError, RuntimeError) as error:
            shapes = ", ".join(str(tuple(batch.shape[2:])) for batch in one.values())
            raise ValueError(f"views of shape {shapes} do not go through model and guide: {error}") from error

    def of_images(self, views: PlainViews, draw_seed: int, pixel_seed: int) -> dict[str, Variables]:
        """All groups but ``constant_data`` and those of the prior."""
        # Unchecked: NaN for some image must show in its own log weight, not as an error about all images.
        with pyro.validation_enabled(False):
            drawn = draw(self.model, self.guide, views, self.draws, seed=draw_seed)
            predicted = self._pixels(drawn.z[: self.pixel_draws], views, pixel_seed)
        found = {
            "posterior": self._latents(drawn.content, drawn.style.transpose(1, 2), drawn.z.transpose(1, 2), ("image",)),
            "posterior_predictive": {
                name: ((*_SAMPLE, "image", *dims), _numpy(pixels.movedim(2, 1)[None]))
                for name, (dims, pixels) in predicted.items()
            },
            "observed_data": {
                _name("x", modality): (("image", *_pixel_dims(modality)), _numpy(batch.transpose(0, 1)))
                for modality, batch in Views.of(views).items()
            },
            "sample_stats": _densities(drawn),
            "log_likelihood": _by_view(drawn, views),
        }
        return {group: variables for group, variables in found.items() if variables}

    @torch.no_grad()
    def of_prior(self, views: PlainViews, seed: int) -> dict[str, Variables]:
        """Groups of the prior, with as many views of each modality; none where nothing can be drawn from it."""
        if "no_prior" in self.reasons():
            return {}
        prior, count = self.model.prior, Views.of(views).n_views
        with evaluation_mode(self.model), random_state_kept(self.device), pyro.validation_enabled(False):
            torch.manual_seed(seed)
            content = prior.content().sample(torch.Size((1, self.draws)))
            style = prior.style(content).expand(torch.Size((count, self.draws))).sample()
            z = prior.compose(content, style)
            predicted = self._pixels(z[:, : self.pixel_draws], views, seed + 1)
        found = {"prior": self._latents(content.squeeze(0), style.transpose(0, 1), z.transpose(0, 1), ())}
        if predicted:
            found["prior_predictive"] = {
                name: ((*_SAMPLE, *dims), _numpy(batch.transpose(0, 1)[None]))
                for name, (dims, batch) in predicted.items()
            }
        return found

    @property
    def _shares_content(self) -> bool:
        prior = self.model.prior
        return prior.depends_on_batch or bool(prior.content().event_shape[0])  # without a batch there is no content

    def _latents(self, content: Tensor, style: Tensor, z: Tensor, images: tuple[str, ...]) -> Variables:
        """Latents of one chain; ``images`` is the dimension between draws and views, if any."""

        def variable(name: str, values: Tensor, *dims: str) -> tuple[tuple[str, ...], np.ndarray[Any, Any]]:
            last = "latent" if values.shape[-1] == z.shape[-1] else f"{name}_latent"
            return (*_SAMPLE, *images, *dims, last), _numpy(values[None])

        found = {"style": variable("style", style, "view"), "z": variable("z", z, "view")}
        return {"content": variable("content", content), **found} if self._shares_content else found

    @torch.no_grad()
    def _pixels(self, z: Tensor, views: PlainViews, seed: int) -> dict[str, tuple[tuple[str, ...], Tensor]]:
        """Pixels drawn given z, ``(..., view, image, latent)``, by modality; empty if pixels are not modelled."""
        if self.model.likelihood is None or not self.pixel_draws:
            return {}
        parts = dict(Views.of(views).split(z))
        with evaluation_mode(self.model), random_state_kept(z.device):
            torch.manual_seed(seed)
            return {
                _name("x", modality): (_pixel_dims(modality), _sample(self.model.likelihood_of(modality), part))
                for modality, part in parts.items()
            }


def _sample(likelihood: Likelihood, z: Tensor) -> Tensor:
    """Pixels, NaN where z is: a Bernoulli of probability NaN cannot be sampled."""
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
    return {name: ((*_SAMPLE, "image"), _numpy(values[None])) for name, values in found.items()}


def _by_view(drawn: Draws, views: PlainViews) -> Variables:
    if drawn.log_likelihood is None:
        return {}
    batches = dict(Views.of(views).items())
    parts = drawn.log_likelihood.split([len(batch) for batch in batches.values()], 1)
    return {
        _name("x", modality): ((*_SAMPLE, "image", _name("view", modality)), _numpy(values.transpose(1, 2)[None]))
        for modality, values in zip(batches, parts, strict=True)
    }


def _dataset(variables: Variables, index: np.ndarray[Any, Any]) -> xr.Dataset:
    """Variables with coordinates: the images' places in the data, and counts of the other dimensions but pixels'."""
    sizes = {dim: size for dims, values in variables.values() for dim, size in zip(dims, values.shape, strict=True)}
    counted = [dim for dim in sizes if dim.startswith(("chain", "draw", "view")) or dim.endswith("latent")]
    coordinates = {dim: np.arange(sizes[dim]) for dim in counted}
    return xr.Dataset(variables, coordinates | ({"image": index} if "image" in sizes else {}))


def _one_per_image(name: str, values: Values | range, images: int) -> np.ndarray[Any, Any]:
    found = values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if found.shape != (images,) or found.dtype.kind not in "iufb":
        raise ValueError(
            f"{name} must be one number an image, shape ({images},), got {found.dtype} of shape {found.shape}"
        )
    return found.astype(np.int64) if found.dtype.kind == "b" else found


def _name(name: str, modality: str | None) -> str:
    """Name of a variable or dimension of one modality."""
    return name if modality is None else f"{name}_{modality}"


def _pixel_dims(modality: str | None) -> tuple[str, ...]:
    return tuple(_name(name, modality) for name in ("view", "channel", "height", "width"))


def _numpy(values: Tensor) -> np.ndarray[Any, Any]:
    return values.detach().cpu().numpy()
