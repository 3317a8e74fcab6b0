"""What is diagnosed: a fitted pair, views of some images, and draws of the guide for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import Tensor

from pp_simve.evaluation.posterior import Uniformity, WeightCheck, weigh
from pp_simve.evaluation.posterior.check import FIGURES, Check
from pp_simve.inference import Guide
from pp_simve.models import Atoms, SimVE
from pp_simve.models.modalities import PlainViews as Views


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        check: its entry in diagnostics.json.
        figures: by what follows the check's name in the file's; empty for a figure of that name alone.
    """

    check: Check
    figures: Mapping[str, Figure]

    def named_figures(self) -> dict[str, Figure]:
        """The figures by file name, without ending."""
        return {
            f"{FIGURES}{self.check['name']}{f'-{suffix}' if suffix else ''}": figure
            for suffix, figure in self.figures.items()
        }


@dataclass(frozen=True)
class Subject:
    """What all checks ask.

    Attributes:
        model, guide: fitted, on the device of the views.
        views: ``(view, image, channel, height, width)`` in [0, 1], or such a tensor a kind.
        pictures: the images they are of, float in [0, 1], shape ``(image, channel, height, width)``, on the CPU.
        log_weight: log p − log q of the draws of posterior.nc, ``(draw, image)``; None where it has no meaning.
        draws: of the guide, of each image.
        simulations: images simulated for calibration.
        seed: of everything drawn.
    """

    model: SimVE
    guide: Guide
    views: Views
    pictures: Tensor
    log_weight: Tensor | None
    draws: int
    simulations: int
    seed: int

    @cached_property
    def weights(self) -> WeightCheck:
        """The importance weights of the draws of posterior.nc.

        Raises:
            ValueError: they have no meaning here.
        """
        if self.log_weight is None:
            why = (
                "pixels are not modelled, so there is no posterior to weigh draws by"
                if self.model.likelihood is None
                else f"draws of {type(self.guide).__name__} are points without a density"
            )
            raise ValueError(f"{why}: importance weights have no meaning")
        return weigh(self.log_weight)


def views_of(tree: xr.DataTree) -> Views:
    """The views of a posterior's tree as programs take them, on the CPU."""
    found: dict[str, Tensor] = {}
    for name, pixels in tree["observed_data"].data_vars.items():
        kind = str(name).removeprefix("x").removeprefix("_")
        found[kind] = torch.from_numpy(np.array(pixels.transpose(..., *pixels.dims[-3:]))).transpose(0, 1)
    return found.get("", found)


def log_weight_of(tree: xr.DataTree) -> Tensor | None:
    """Log weights of its only chain, ``(draw, image)``; None where they were left out."""
    stats = tree["sample_stats"].data_vars if "sample_stats" in tree.children else {}
    if "log_weight" not in stats:
        return None
    return torch.from_numpy(np.array(stats["log_weight"].isel(chain=0).transpose("draw", "image")))


def is_mixture(model: SimVE) -> bool:
    """Whether content is one of some points."""
    try:
        return isinstance(model.prior.content(), Atoms)
    except RuntimeError:  # made of the images at hand, before there were any
        return True


def uniformity_rows(groups: Mapping[str, Uniformity]) -> list[list[str | float | int | None]]:
    """A row a group of ranks: its name, its columns, how many of them leave the band, and the worst with its p."""
    rows: list[list[str | float | int | None]] = []
    for name, of in groups.items():
        worst = int(of.p_values.argmin())
        rows.append([name, len(of.names), len(of.failing), of.names[worst], float(of.p_values[worst])])
    return rows


def finite(value: float) -> float | None:
    """The number, or None, as in JSON, where it is none."""
    return value if np.isfinite(value) else None
