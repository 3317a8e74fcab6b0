"""The posterior of a fitted pair as an xarray data tree, in ArviZ's groups."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from torch import Tensor, nn

from pp_simve.evaluation.posterior import storage
from pp_simve.evaluation.posterior.batches import NUMBERS_AT_ONCE, ImageSource, image_sources, view_blocks
from pp_simve.inference import Guide, Run, draw
from pp_simve.inference.augmentations import AugmentationPolicy
from pp_simve.inference.data import Pixels
from pp_simve.inference.tools import evaluation_mode, random_state_kept, seeds
from pp_simve.models import PlainViews, SimVE, Views

Array = np.ndarray[Any, Any]
Values = Tensor | Array | Sequence[int]
Variables = dict[str, tuple[tuple[str, ...], Tensor | Array]]
"""Values by name, each with the names of its dimensions."""

LIBRARIES = ("torch", "pyro-ppl", "arviz", "xarray")
LONGEST_TEXT = 30_000
"""Characters of an attribute; HDF5 takes 64 KiB."""
PIXELS = ("view", "channel", "height", "width")
DRAWS = ("chain", "draw")


def posterior(
    program: Run | tuple[nn.Module, Guide],
    images: Pixels | Mapping[str, Pixels],
    *,
    views: int | None = None,
    draws: int = 500,
    policy: AugmentationPolicy | Mapping[str, AugmentationPolicy] | None = None,
    labels: Values | None = None,
    classes: Sequence[str] = (),
    index: Values | None = None,
    predictive_draws: int = 20,
    seed: int = 0,
    view_seed: int = 0,
    to: Path | str | None = None,
    configuration: Mapping[str, Any] | None = None,
    commit: str | None = None,
) -> xr.DataTree:
    """Posterior as a data tree: draws from q(content, style | views) of some images, in ArviZ's groups.

    Groups, their variables, and their dimensions beside ``chain`` and ``draw``:

    - ``posterior``: content (image, latent); style and z (image, view, latent).
    - ``posterior_predictive``: x (image, view, channel, height, width), of the first ``predictive_draws`` draws.
    - ``prior``, ``prior_predictive``: the same without ``image``, since all images have the same prior.
    - ``observed_data``: x (image, view, channel, height, width), no draws.
    - ``constant_data``: index and label (image), positions in the coordinate ``class`` of the classes' names;
      augmentation parameters by name (image, view); no draws.
    - ``sample_stats``: log_p = log p(x, content, style), log_q and log_weight = log_p − log_q (image), in nats.
    - ``log_likelihood``: x (image, view), in nats.

    Where content or style is not as wide as z, its last dimension is ``content_latent`` or ``style_latent``
    (`BlockPrior`). With several modalities, ``view`` runs over the views of all, and ``constant_data.modality`` names
    theirs; pixels are in variables ``x_MODALITY`` whose own dimensions end in ``_MODALITY`` as well.

    A group or variable without meaning is left out and an attribute of the tree gives the reason: ``no_prior``
    (improper, or made of the batch), ``no_log_q`` (a point guide has no density), ``no_log_p`` (no likelihood),
    ``no_content`` (the prior shares nothing between views). Other attributes: versions of libraries,
    ``configuration``, ``commit``, ``policy``, ``draws``, ``views``, ``seed`` and ``view_seed``.

    ArviZ 1.x takes the tree itself, ArviZ 0.23 takes ``for_arviz(tree)``; `summary` works with both.

    The draws of a fit are independent and form one chain; `stack_chains` makes several fits the chains of one tree. A
    density that is NaN stays NaN in its own image.

    Args:
        program: what `fit` returned, or a `SimVE` and its guide.
        images: uint8, or float in [0, 1], ``(image, channel, height, width)``; or views,
            ``(view, image, channel, height, width)``. By modality if there are several.
        views: of each image and modality; by default that of the fit, or for a pair with a policy 2 (1 per modality).
        draws: of the posterior of each image, and of the prior.
        policy: draws the views; by modality if images are. By default that of the fit; without one (a pair) the image
            itself is its only view.
        labels: a number for each image, such as the position of its class among ``classes``.
        classes: names.
        index: place of each image in the data, the coordinate of ``image``; by default 0, 1, ….
        predictive_draws: of pixels, which are large; at most ``draws`` are made, none for 0.
        seed: of all draws. Torch's own generators are left as they were.
        view_seed: of the views, whatever the program, the draws and ``seed``.
        to: a netCDF file, written some images at a time. It is complete or not there at all, and the returned tree
            reads from it: see `open_posterior`.
        configuration: of the fit, kept as JSON; by default model and guide as they print.
        commit: of the program's source.

    Raises:
        ValueError: draws out of range; no images, or NaN among their pixels; views that the program does not take;
            several views without a policy; labels or an index of another shape.
        TypeError: the model is no `SimVE`.
        OSError: the file could not be written.

    Examples:
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
    sources = image_sources(images, policy, views)
    count = next(iter(sources.values())).pixels.shape[-4]
    sampler = _Sampler(model, guide, draws, min(draws, predictive_draws))
    constants = {"index": _one_per_image("index", range(count) if index is None else index, count)}
    if labels is not None:
        constants["label"] = _one_per_image("labels", labels, count)
    policies = ", ".join("as it is" if of.policy is None else repr(of.policy) for of in sources.values())
    printed = f"model: {model}\nguide: {guide}"[:LONGEST_TEXT]
    attributes = {
        "inference_library": "pp_simve",
        "inference_library_version": version("pp_simve"),
        "python": platform.python_version(),
        **{library: version(library) for library in LIBRARIES},
        "configuration": json.dumps(configuration, default=str) if configuration else printed,
        **({"commit": commit} if commit else {}),
        "policy": policies[:LONGEST_TEXT],
        "draws": draws,
        "views": sum(of.views for of in sources.values()),
        "seed": seed,
        "view_seed": view_seed,
        **sampler.reasons(),
    }
    parts = _parts(sampler, sources, view_seed, constants, list(classes), seed)
    if to is None:
        return storage.joined(parts, attributes)
    storage.write(Path(to), parts, attributes)
    return storage.open_posterior(to)


def device_of(model: nn.Module, guide: nn.Module) -> torch.device:
    """Where the pair is; the CPU if it has neither parameters nor buffers."""
    tensors = chain.from_iterable((part.parameters(), part.buffers()) for part in (guide, model))
    return next((tensor.device for tensor in chain.from_iterable(tensors)), torch.device("cpu"))


def _parts(
    sampler: _Sampler,
    sources: Mapping[str | None, ImageSource],
    view_seed: int,
    constants: Mapping[str, Array],
    classes: list[str],
    seed: int,
) -> Iterator[storage.Groups]:
    """Groups of some images after another; those of the prior come with the first."""
    of_blocks = seeds(seed)
    prior_seed = next(of_blocks)
    for start, block, parameters in view_blocks(sources, view_seed, device_of(sampler.model, sampler.guide)):
        if start == 0:
            sampler.check(block)
        size, images = sampler.images_at_once(block), Views.of(block).n_images
        of_parts = seeds(next(of_blocks))
        for first in range(0, images, size):
            here = slice(first, min(first + size, images))
            views = Views.of(block)[here].plain
            groups = sampler.of_images(views, next(of_parts), next(of_parts))
            if start == first == 0:
                groups |= sampler.of_prior(views, prior_seed)
            place = slice(start + here.start, start + here.stop)
            constant: Variables = {name: (("image",), values[place]) for name, values in constants.items()}
            for modality, of_modality in parameters.items():
                for name, values in of_modality.items():
                    constant |= _of_modalities(name, {modality: values[:, here].T}, "image", "view")
            if not isinstance(views, Tensor):
                names = [modality for modality, batch in views.items() for _ in batch]
                constant["modality"] = (("view",), np.array(names))
            index = constants["index"][place]
            found = {group: _dataset(variables, index) for group, variables in groups.items() if variables}
            named = {"class": classes} if classes else {}
            yield found | {"constant_data": _dataset(constant, index).assign_coords(named)}


@dataclass(frozen=True)
class _Sampler:
    """Draws the groups of some images: at least one draw of the latents, and at most as many of the pixels."""

    model: SimVE
    guide: Guide
    draws: int
    pixel_draws: int

    def reasons(self) -> dict[str, str]:
        """Why a group or variable is left out, by the attribute that says so."""
        prior, found = self.model.prior, {}
        if prior.depends_on_batch:
            found["no_prior"] = "content is one of the images' own: draws from the prior would be draws from the data"
        elif not prior.proper:
            found["no_prior"] = "the prior is improper: nothing can be drawn from it"
        if not prior.depends_on_batch and not prior.content().event_shape[0]:
            found["no_content"] = "the prior shares nothing between views"
        if self.model.likelihood is None:
            found["no_log_p"] = "pixels are not modelled: no joint density, no importance weights, nothing predicted"
        if not self.guide.has_density:
            found["no_log_q"] = "draws of the guide are points without a density: importance weights have no meaning"
        return found

    def images_at_once(self, views: PlainViews) -> int:
        """Number of images that fit into memory with their draws: a power of 2."""
        images = Views.of(views).n_images
        pixels = sum(batch[:, 0].numel() for batch in Views.of(views).tensors())
        numbers = max(self.draws * Views.of(views).n_views * self.model.prior.latent_dim, self.pixel_draws * pixels)
        return 1 << min(max(1, NUMBERS_AT_ONCE // numbers), images).bit_length() - 1

    @torch.no_grad()
    def check(self, views: PlainViews) -> None:
        """Runs the pair on an image with Pyro's checks on: a grey one, since some images may give NaN.

        Raises:
            ValueError: views of a shape or modality that the program does not take, or programs that do not fit.
        """
        one = {modality: batch[:, :1] for modality, batch in Views.of(views).items()}
        if self.guide.amortized:  # others take the images of their parameters only
            one = {modality: torch.full_like(batch, 0.5) for modality, batch in one.items()}
        try:
            for modality, batch in one.items() if self.model.likelihood is not None else ():
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

    @torch.no_grad()
    def of_images(self, views: PlainViews, draw_seed: int, pixel_seed: int) -> dict[str, Variables]:
        """All groups but ``constant_data`` and those of the prior."""
        # Unchecked: NaN for some image must show in its own log weight, not as an error about all images.
        with pyro.validation_enabled(False):
            drawn = draw(self.model, self.guide, views, self.draws, seed=draw_seed)
            predicted = self.pixels(drawn.z[: self.pixel_draws], views, pixel_seed)
        batches, likelihood, stats = dict(Views.of(views).items()), {}, {}
        if drawn.log_likelihood is not None:
            by_view = drawn.log_likelihood.split([len(batch) for batch in batches.values()], 1)
            likelihood = dict(zip(batches, (one.transpose(1, 2)[None] for one in by_view), strict=True))
            stats["log_p"] = drawn.log_p
        if drawn.log_q is not None:
            stats["log_q"] = drawn.log_q
        if len(stats) == 2:
            stats["log_weight"] = drawn.log_weight
        predicted = {modality: pixels.movedim(2, 1)[None] for modality, pixels in predicted.items()}
        observed = {modality: batch.transpose(0, 1) for modality, batch in batches.items()}
        return {
            "posterior": self.latents(drawn.content, drawn.style.transpose(1, 2), drawn.z.transpose(1, 2), "image"),
            "posterior_predictive": _of_modalities("x", predicted, *DRAWS, "image", *PIXELS),
            "observed_data": _of_modalities("x", observed, "image", *PIXELS),
            "sample_stats": {name: ((*DRAWS, "image"), values[None]) for name, values in stats.items()},
            "log_likelihood": _of_modalities("x", likelihood, *DRAWS, "image", "view"),
        }

    @torch.no_grad()
    def of_prior(self, views: PlainViews, seed: int) -> dict[str, Variables]:
        """Groups of the prior, with as many views of each modality; none where nothing can be drawn from it."""
        if "no_prior" in self.reasons():
            return {}
        prior, count = self.model.prior, Views.of(views).n_views
        with evaluation_mode(self.model), random_state_kept(Views.of(views).device), pyro.validation_enabled(False):
            torch.manual_seed(seed)
            content = prior.content().sample(torch.Size((1, self.draws)))
            style = prior.style(content).expand(torch.Size((count, self.draws))).sample()
            z = prior.compose(content, style)
            predicted = self.pixels(z[:, : self.pixel_draws], views, seed + 1)
        predicted = {modality: pixels.transpose(0, 1)[None] for modality, pixels in predicted.items()}
        return {
            "prior": self.latents(content.squeeze(0), style.transpose(0, 1), z.transpose(0, 1)),
            "prior_predictive": _of_modalities("x", predicted, *DRAWS, *PIXELS),
        }

    def latents(self, content: Tensor, style: Tensor, z: Tensor, *images: str) -> Variables:
        """Latents of one chain; ``images`` is the dimension between draws and views, if any."""
        found = {"content": (content, images), "style": (style, (*images, "view")), "z": (z, (*images, "view"))}
        if "no_content" in self.reasons():
            del found["content"]
        width = z.shape[-1]
        return {
            name: ((*DRAWS, *dims, "latent" if values.shape[-1] == width else f"{name}_latent"), values[None])
            for name, (values, dims) in found.items()
        }

    def pixels(self, z: Tensor, views: PlainViews, seed: int) -> dict[str | None, Tensor]:
        """Pixels drawn given z, ``(..., view, image, latent)``, by modality; empty if pixels are not modelled."""
        if self.model.likelihood is None or not self.pixel_draws:
            return {}
        found: dict[str | None, Tensor] = {}
        with evaluation_mode(self.model), random_state_kept(z.device):
            torch.manual_seed(seed)
            for modality, part in Views.of(views).split(z):
                # NaN where z is: a Bernoulli of probability NaN cannot be sampled.
                finite = part.isfinite().all(-1, keepdim=True)
                pixels: Tensor = self.model.likelihood_of(modality)(part.where(finite, 0.0)).sample()
                found[modality] = pixels.where(finite[..., None, None], torch.nan)
        return found


def _dataset(variables: Variables, index: Array) -> xr.Dataset:
    """Variables with coordinates: the images' places in the data, and counts of the other dimensions but pixels'."""
    arrays = {
        name: (dims, values.numpy(force=True) if isinstance(values, Tensor) else values)
        for name, (dims, values) in variables.items()
    }
    sizes = xr.Dataset(arrays).sizes
    counted = [str(dim) for dim in sizes if str(dim).startswith(("chain", "draw", "view"))]
    counted += [str(dim) for dim in sizes if str(dim).endswith("latent")]
    coordinates = {dim: np.arange(sizes[dim]) for dim in counted}
    return xr.Dataset(arrays, coordinates | ({"image": index} if "image" in sizes else {}))


def _one_per_image(name: str, values: Values | range, images: int) -> Array:
    found = values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if found.shape != (images,) or found.dtype.kind not in "iufb":
        raise ValueError(
            f"{name} must be one number an image, shape ({images},), got {found.dtype} of shape {found.shape}"
        )
    return found.astype(np.int64) if found.dtype.kind == "b" else found


def _of_modalities(name: str, values: Mapping[str | None, Tensor], *dims: str) -> Variables:
    """A variable of each modality, whose name and whose dimensions of views and pixels end in the modality's."""

    def of(name: str, modality: str | None) -> str:
        return name if modality is None else f"{name}_{modality}"

    return {
        of(name, modality): (tuple(of(dim, modality) if dim in PIXELS else dim for dim in dims), tensor)
        for modality, tensor in values.items()
    }
