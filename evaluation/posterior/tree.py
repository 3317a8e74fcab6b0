"""The posterior of a fitted pair as a data tree, in ArviZ's groups."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor, nn

from pp_simve.evaluation.posterior import storage
from pp_simve.evaluation.posterior.batches import seeds
from pp_simve.evaluation.posterior.groups import Drawing, Variables, named
from pp_simve.evaluation.posterior.viewing import Viewing, modalities
from pp_simve.inference import Guide, Run
from pp_simve.inference.augmentations import AugmentationPolicy
from pp_simve.inference.data import Pixels
from pp_simve.models import SimVE
from pp_simve.models.modalities import some_images, view_and_image_counts

Values = Tensor | np.ndarray[Any, Any] | Sequence[int]

LIBRARIES = ("torch", "pyro-ppl", "arviz", "xarray")

LONGEST_TEXT = 30_000
"""Characters of an attribute; HDF5 takes 64 KiB."""


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
    """Draws from q(content, style | views), and all that ArviZ asks of a model, for some images.

    Groups, their variables, and dimensions beside ``chain`` and ``draw``:

    - ``posterior``: content (image, latent); style and z (image, view, latent).
    - ``posterior_predictive``: x (image, view, channel, height, width), of the first ``predictive_draws`` draws.
    - ``prior``, ``prior_predictive``: the same without ``image``: under the prior, an image is like any other.
    - ``observed_data``: x (image, view, channel, height, width), no draws.
    - ``constant_data``: index and label (image); parameters of the views by their names (image, view); no draws.
    - ``sample_stats``: log_p = log p(x, content, style), log_q and log_weight = log_p − log_q (image), in nats.
    - ``log_likelihood``: x (image, view), in nats.

    Where content or style is of another width than z, its last dimension is ``content_latent`` or ``style_latent``
    (`BlockPrior`). Where views are of several modalities, ``view`` counts those of all modalities, whose modalities
    are in ``constant_data.modality``; pixels are in variables ``x_KIND``, whose own dimensions end in ``_KIND``, too.

    What has no meaning is left out, and an attribute of the tree says why: ``no_prior`` (improper, or made of the
    images), ``no_log_q`` (a guide of points has no density), ``no_log_p`` (pixels are not modelled), ``no_content`` (a
    prior that shares nothing between views). Other attributes are the versions of libraries, ``configuration``,
    ``commit``, ``policy``, ``draws``, ``views``, ``seed`` and ``view_seed``.

    Draws of one fit are independent and one chain, of which R-hat and effective sample size would say nothing;
    `stack_chains` makes several fits chains. A density that is NaN stays, and shows as the image's log weight.

    Args:
        program: what `fit` returned, or a `SimVE` and its guide.
        images: uint8, or float in [0, 1], of shape ``(image, channel, height, width)``; or views drawn already, shape
            ``(view, image, channel, height, width)``. By modality where views are of several.
        views: of each image (and modality); by default as many as in the fit. For a pair with a policy 2, or 1 per
            modality.
        draws: from the posterior of each image, and from the prior.
        policy: draws the views; by modality where images are. By default that of the fit; without any (a pair), each
            image is taken as it is, as its own only view.
        labels: a number of each image, such as its class.
        index: place of each image in the data, the coordinate of ``image``; by default 0, 1, ….
        predictive_draws: of pixels, which are large; at most ``draws`` are made, none for 0.
        seed: decides all draws. The same images in the same order and the same arguments give the same tree, in memory
            and in a file. Torch's own generators are left as they were.
        view_seed: decides the views, whatever the program, the draws and ``seed``.
        to: a netCDF file to write, some images at a time, so that memory does not grow with their number. It is there
            whole or not at all, and the tree that is returned reads from it: see `open_posterior`.
        configuration: of the fit, kept as JSON; by default model and guide as they print.
        commit: of the program's source.

    Raises:
        ValueError: draws out of range; no images, or NaN among their pixels; views that do not go through the program;
            several views without a policy; labels or an index that are not one an image.
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
    if isinstance(program, Run) and not _drawn_already(images):
        policy, views = policy or program.policy, views or program.views
    viewing = Viewing.of(images, policy, views, seed=view_seed)
    drawing = Drawing(model, guide, draws, min(draws, predictive_draws))
    constants = {"index": _one_an_image("index", range(len(viewing)) if index is None else index, len(viewing))}
    if labels is not None:
        constants["label"] = _one_an_image("labels", labels, len(viewing))
    attributes = {
        **_versions(),
        "configuration": json.dumps(configuration, default=str) if configuration else _printed(model, guide),
        **({"commit": commit} if commit else {}),
        "policy": ", ".join("as it is" if one is None else repr(one) for one in viewing.policies.values())[
            :LONGEST_TEXT
        ],
        "draws": draws,
        "views": sum(viewing.views.values()),
        "seed": seed,
        "view_seed": view_seed,
        **drawing.reasons(),
    }
    parts = _parts(drawing, viewing, constants, seed)
    if to is None:
        return storage.joined(parts, attributes)
    storage.write(Path(to), parts, len(viewing), attributes)
    return storage.open_posterior(to)


def _parts(
    drawing: Drawing, viewing: Viewing, constants: Mapping[str, np.ndarray[Any, Any]], seed: int
) -> Iterator[storage.Groups]:
    """Groups of some images after another, those of the prior with the first."""
    of_blocks = seeds(seed)
    prior_seed = next(of_blocks)
    for block in viewing.blocks(drawing.device):
        if block.start == 0:
            drawing.check(block.views)
        size, (_, images) = drawing.images_at_once(block.views), view_and_image_counts(block.views)
        of_parts = seeds(next(of_blocks))
        for first in range(0, images, size):
            here = slice(first, first + size)
            views = some_images(block.views, here)
            groups = drawing.of_images(views, *islice(of_parts, 2))
            if block.start == first == 0:
                groups |= drawing.of_prior(views, prior_seed)
            there = slice(block.start + first, min(block.start + first + size, len(viewing)))
            own: Variables = {
                named(name, modality): (("image", named("view", modality)), values[:, here].T.cpu().numpy())
                for modality, parameters in block.parameters.items()
                for name, values in parameters.items()
            }
            if not isinstance(views, Tensor):
                own["modality"] = (
                    ("view",),
                    np.array([modality for modality, batch in modalities(views) for _ in batch]),
                )
            groups["constant_data"] = {name: (("image",), values[there]) for name, values in constants.items()} | own
            yield {group: _dataset(variables, constants["index"][there]) for group, variables in groups.items()}


def _dataset(variables: Variables, index: np.ndarray[Any, Any]) -> xr.Dataset:
    """Variables with coordinates: places in the data of images, counts of all else but pixels."""
    sizes = {dim: size for dims, values in variables.values() for dim, size in zip(dims, values.shape, strict=True)}
    counted = [dim for dim in sizes if dim.startswith(("chain", "draw", "view")) or dim.endswith("latent")]
    coordinates = {dim: np.arange(sizes[dim]) for dim in counted}
    return xr.Dataset(variables, coordinates | ({"image": index} if "image" in sizes else {}))


def _drawn_already(images: Pixels | Mapping[str, Pixels]) -> bool:
    return any(pixels.ndim == 5 for pixels in (images.values() if isinstance(images, Mapping) else [images]))


def _one_an_image(name: str, values: Values | range, images: int) -> np.ndarray[Any, Any]:
    found = values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if found.shape != (images,) or found.dtype.kind not in "iufb":
        raise ValueError(
            f"{name} must be one number an image, shape ({images},), got {found.dtype} of shape {found.shape}"
        )
    return found.astype(np.int64) if found.dtype.kind == "b" else found


def _printed(model: nn.Module, guide: nn.Module) -> str:
    return f"model: {model}\nguide: {guide}"[:LONGEST_TEXT]


def _versions() -> dict[str, str]:
    """Of the libraries, the first as ArviZ's attributes have it."""
    found = {
        "inference_library": "pp_simve",
        "inference_library_version": version("pp_simve"),
        "python": platform.python_version(),
    }
    return found | {library: version(library) for library in LIBRARIES}
