"""Latents of views of test images, for the map of a report: what was embedded, where it lies, and its file."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pp_simve.errors import ConfigError
from pp_simve.inference.tools import write_whole
from pp_simve.reporting.pictures import thumbnails

NEIGHBOURS = 15
"""Nearest rows that UMAP keeps together: its default."""


@dataclass(frozen=True)
class Embedding:
    """Latents of views of test images, a row a view.

    Attributes:
        z: shape ``(row, latent)``.
        pictures: what was embedded, uint8 ``(row, channel, height, width)``, 1 or 3 channels.
        labels: int64 ``(row,)``, places in ``classes``; None where the data have none.
        classes: names of the classes.
        kinds: the row's kind of view, where there are several.
        parameters: of the views by name, each ``(row,)``; NaN for a row whose kind of view has no such parameter.
        placed: maps of z beside that of its principal axes, by their method's name, each ``(row, 2)``; NaN for a row
            that is not on it.

    Raises:
        ValueError: they differ in their number of rows.
    """

    z: Tensor
    pictures: Tensor
    labels: Tensor | None = None
    classes: Sequence[str] = ()
    kinds: Sequence[str] = ()
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    placed: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = {"pictures": len(self.pictures)}
        rows |= {name: len(values) for name, values in (*self.parameters.items(), *self.placed.items())}
        rows |= {} if self.labels is None else {"labels": len(self.labels)}
        rows |= {"kinds": len(self.kinds)} if self.kinds else {}
        if wrong := {name: count for name, count in rows.items() if count != len(self.z)}:
            raise ValueError(f"an embedding of {len(self.z)} rows needs as many of everything, got {wrong}")

    def write(self, path: Path) -> None:
        """Writes it for `read`, with pictures as small as the page shows them.

        Raises:
            OSError: the file cannot be written.
        """
        tensors = {"z": self.z, "pictures": thumbnails(self.pictures)}
        tensors |= {} if self.labels is None else {"labels": self.labels}
        tensors |= {f"parameters/{name}": values for name, values in self.parameters.items()}
        tensors |= {f"placed/{name}": points for name, points in self.placed.items()}
        words = {"classes": json.dumps(list(self.classes)), "kinds": json.dumps(list(self.kinds))}
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_whole(path, safetensors.torch.save(whole, words))

    @classmethod
    def read(cls, path: Path) -> Embedding:
        """What `write` left.

        Raises:
            ConfigError: it is no such file, or damaged.
            OSError: it cannot be read.
        """
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                words = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            of: dict[str, dict[str, Tensor]] = {"parameters": {}, "placed": {}}
            for name, tensor in tensors.items():
                group, _, rest = name.partition("/")
                if group in of:
                    of[group][rest] = tensor
            return cls(
                z=tensors["z"],
                pictures=tensors["pictures"],
                labels=tensors.get("labels"),
                classes=json.loads(words["classes"]),
                kinds=json.loads(words["kinds"]),
                parameters=of["parameters"],
                placed=of["placed"],
            )
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path} is no map of a report ({error}); delete it, and the page has none") from error


def principal_axes(z: Tensor) -> tuple[Tensor, list[float]]:
    """Rows at the two axes of most variance, float64 ``(row, 2)``, and the share of the variance each has.

    Of one latent the second axis is zero. An axis' sign is the one that makes its largest weight positive.
    """
    centred = z.detach().cpu().double()
    centred = centred - centred.mean(0)
    if z.shape[1] < 2:
        centred = torch.nn.functional.pad(centred, (0, 2 - z.shape[1]))
    variances, axes = torch.linalg.eigh(centred.mT @ centred)
    axes, variances = axes[:, [-1, -2]], variances.clamp_min(0)
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    total = float(variances.sum())
    return centred @ (axes * largest.sign()), [float(value) / total if total else 0.0 for value in variances[[-1, -2]]]


def umap_points(z: Tensor, seed: int = 0) -> Tensor | None:
    """Rows placed by UMAP (McInnes, Healy & Melville 2018, arXiv 1802.03426), float32 ``(row, 2)``.

    Rows that are not finite are NaN. None where umap-learn is not installed, or where there are not enough different
    rows for neighbourhoods.

    Args:
        z: shape ``(row, latent)``.
        seed: of its layout; the same rows give the same map.
    """
    rows = z.detach().cpu().float()
    finite = torch.isfinite(rows).all(1)
    if len(torch.unique(rows[finite], dim=0)) <= NEIGHBOURS or (method := _umap()) is None:
        return None
    # With a seed UMAP runs one job only, or warns. Principal axes to start from cannot fail, as a spectrum may.
    layout = method(n_neighbors=NEIGHBOURS, init="pca", random_state=seed, n_jobs=1)
    points = torch.full((len(rows), 2), torch.nan)
    points[finite] = torch.as_tensor(layout.fit_transform(rows[finite].numpy())).float()
    return points


def _umap() -> Any:
    """The class, whose library takes seconds to import; None where that is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what its optional parts would need
        try:
            # A folder of that name, or another package, has no such class.
            return getattr(importlib.import_module("umap"), "UMAP", None)
        except ImportError:
            return None
