"""The figures of a fitted run: terms of the loss and, where pixels are modelled, images decoded by the program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pp_simve.data import ImageData
from pp_simve.evaluation.generation import interpolate, reconstruct, sample, swap, traverse
from pp_simve.evaluation.matplotlib_figures import (
    columns_figure,
    interpolation_figure,
    loss_figure,
    reconstruction_figure,
    samples_figure,
    swap_figure,
    traversal_figure,
)
from pp_simve.evaluation.subject import EVALUATION_SEED
from pp_simve.inference.augmentations import AugmentationPolicy, draw_views
from pp_simve.inference.tools import random_state_kept, unit_range
from pp_simve.run.methods import Program
from pp_simve.run.viewing import Viewing

IMAGES = 8
VIEWS_OF_CONTENT = 16
PAIRS = 4
IMAGES_MOVED = 2
DEVIATIONS = (-2.0, -1.0, 0.0, 1.0, 2.0)
IMAGES_IN_RANGE = 1000
"""Images whose views give the range over which an axis of z moves."""


@torch.no_grad()
def run_figures(
    program: Program, viewing: Viewing, data: ImageData, history: Sequence[Mapping[str, float]]
) -> Iterator[tuple[str, Figure]]:
    """Names and figures of a run; `history` are the terms of its steps."""
    yield "loss", loss_figure(history)
    if program.model.likelihood is None:
        return  # nothing to decode
    device = next(program.objective.parameters()).device
    images = viewing.images(data.test)
    if isinstance(images, dict):
        yield from _of_modalities(program, {name: unit_range(of[:IMAGES].to(device)) for name, of in images.items()})
    elif isinstance(viewing.policy, AugmentationPolicy):
        yield from _of_images(program, viewing.policy, viewing.views, images[:IMAGES_IN_RANGE].to(device))


def _of_modalities(program: Program, images: Mapping[str, Tensor]) -> Iterator[tuple[str, Figure]]:
    """Each modality of pictures, decoded from every modality."""
    for name, shown in images.items():
        if shown.shape[2:] != (1, 1):  # a vector is no picture
            decoder = program.model.likelihood_of(name)
            z = {f"from {given}": program.guide.posterior({given: of[None]}).z[0] for given, of in images.items()}
            decoded = {title: _shown(decoder(of_z).mean) for title, of_z in z.items()}
            yield f"{name}-from-each-modality", columns_figure({name: _shown(shown), **decoded})


def _of_images(
    program: Program, policy: AugmentationPolicy, n_views: int, images: Tensor
) -> Iterator[tuple[str, Figure]]:
    """Reconstructions, swaps, samples from the prior, interpolations and traversals."""
    model, guide, device = program.model, program.guide, images.device
    shown = images[:IMAGES]
    originals = unit_range(shown)
    generator = torch.Generator(device).manual_seed(EVALUATION_SEED)

    def drawn(of: Tensor, count: int) -> Tensor:
        return draw_views(policy, of, count, generator=generator)[0]

    views = drawn(shown, max(n_views, 2))
    rebuilt = reconstruct(model, guide, views)
    yield "reconstructions", reconstruction_figure(_shown(originals), _shown(views), _shown(rebuilt))

    # Rows and columns are different images; the last half of them lends its style.
    content_views = drawn(shown, VIEWS_OF_CONTENT)
    style_views = drawn(images[: 2 * IMAGES][-IMAGES:], VIEWS_OF_CONTENT)
    swapped = swap(model, guide, content_views, style_views)
    yield "swaps", swap_figure(_shown(originals), _shown(style_views[0]), _shown(swapped))

    with random_state_kept(device):
        torch.manual_seed(EVALUATION_SEED)
        samples, title = sample(model, guide, content_views, 64)
    yield "samples", samples_figure(_shown(samples), title)

    # The images themselves, placed by their views, too: content needs several.
    whole = torch.cat([originals[None], content_views])
    pairs = min(PAIRS, len(shown))
    ways = interpolate(model, guide, whole[:, :pairs], whole[:, -pairs:])
    ends = _shown(originals[:pairs]), _shown(originals[-pairs:])
    yield "interpolation", interpolation_figure(*ends, {name: _shown(way) for name, way in ways.items()})

    if len(images) > 1:  # of a single one, no axis has a range
        moved = originals[:IMAGES_MOVED]
        found = traverse(model, guide, moved, drawn(images, 1)[0], deviations=DEVIATIONS)
        axes = found.axes.tolist()
        yield "traversals", traversal_figure(_shown(moved), _shown(found.pictures), axes, DEVIATIONS)


def _shown(images: Tensor) -> Tensor:
    return images.float().clamp(0, 1).cpu()
