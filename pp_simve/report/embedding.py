"""Latents of views of test images, which the map of a report shows, and the file that keeps them."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from pp_simve.data import ImageData
from pp_simve.errors import ConfigError
from pp_simve.evaluation.multimodal import SingleModality
from pp_simve.evaluation.subject import EVALUATION_SEED
from pp_simve.inference.data import Images, image_shape
from pp_simve.inference.sealing import BLANK, SEAL, read_sealed, sealed
from pp_simve.inference.tools import write_whole
from pp_simve.run.methods import Program
from pp_simve.run.viewing import Viewing, is_vector

SIDE = 32
"""Pixels on the longer side of a picture in the file: 1,000 thumbnails of photographs are about a megabyte."""
NEIGHBORS = 15
"""Nearest rows that UMAP keeps together: its default."""


@dataclass(frozen=True)
class Embedding:
    """Latents of views of test images, a row a view.

    Attributes:
        z: shape ``(row, latent)``.
        pictures: what was embedded, uint8 ``(row, channel, height, width)``, 1 or 3 channels.
        labels: int64 ``(row,)``, indices of `classes`; None where the data have none.
        classes: names of the classes.
        modalities: the modality of each row, where there are several.
        parameters: of the views by name, each ``(row,)``; NaN for a row whose modality has no such parameter.
        placed: coordinates beside those of the principal axes, by the name of the method, each ``(row, 2)``; NaN for a
            row that has none.

    Raises:
        ValueError: they differ in their number of rows, or have other shapes.
    """

    z: Tensor
    pictures: Tensor
    labels: Tensor | None = None
    classes: Sequence[str] = ()
    modalities: Sequence[str] = ()
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    placed: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = {name: len(values) for name, values in self._tensors().items()}
        rows |= {"modalities": len(self.modalities)} if self.modalities else {}
        if wrong := {name: count for name, count in rows.items() if count != len(self.z)}:
            raise ValueError(f"an embedding of {len(self.z)} rows needs as many of everything, got {wrong}")
        columns = dict.fromkeys(self._tensors(), 0)
        columns |= {"z": 1, "pictures": 3} | {f"placed/{name}": 1 for name in self.placed}
        fits = all(values.ndim == 1 + columns[name] for name, values in self._tensors().items())
        fits = fits and self.pictures.shape[1] in (1, 3) and self.pictures.dtype == torch.uint8
        if not fits or any(points.shape[1] != 2 for points in self.placed.values()):
            shapes = {name: list(values.shape) for name, values in self._tensors().items()}
            raise ValueError(f"an embedding holds z (row, latent), uint8 pictures and numbers by row, got {shapes}")

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"z": self.z, "pictures": self.pictures}
        tensors |= {} if self.labels is None else {"labels": self.labels}
        tensors |= {f"parameters/{name}": values for name, values in self.parameters.items()}
        return tensors | {f"placed/{name}": points for name, points in self.placed.items()}

    def at(self, chosen: Tensor) -> Embedding:
        """The rows of a mask, bool ``(row,)``."""
        return Embedding(
            z=self.z[chosen],
            pictures=self.pictures[chosen],
            labels=None if self.labels is None else self.labels[chosen],
            classes=self.classes,
            modalities=[name for name, kept in zip(self.modalities, chosen.tolist(), strict=False) if kept],
            parameters={name: values[chosen] for name, values in self.parameters.items()},
            placed={name: points[chosen] for name, points in self.placed.items()},
        )

    def write(self, path: Path) -> None:
        """Writes the file that `read` reads.

        Raises:
            OSError: the file cannot be written.
        """
        names = {
            "classes": json.dumps(list(self.classes)),
            "modalities": json.dumps(list(self.modalities)),
            SEAL: BLANK,
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors().items()}
        write_whole(path, sealed(safetensors.torch.save(tensors, names | {SEAL: BLANK})))

    @classmethod
    def read(cls, path: Path) -> Embedding:
        """The inverse of `write`.

        Raises:
            ConfigError: the file is damaged, or of another kind.
            OSError: it cannot be read.
        """
        try:
            data = read_sealed(path)
            tensors = safetensors.torch.load(data)
            # The header, whose size comes first: safe_open takes no path that is not UTF-8, and load gives no names.
            names = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
            groups: dict[str, dict[str, Tensor]] = {"parameters": {}, "placed": {}}
            for name in [name for name in tensors if "/" in name]:
                group, _, rest = name.partition("/")
                groups[group][rest] = tensors.pop(name)
            classes = [str(name) for name in json.loads(names["classes"])]
            # Runs of earlier versions call the modalities kinds.
            modalities = [str(name) for name in json.loads(names.get("modalities") or names["kinds"])]
            z, pictures, labels = tensors["z"], tensors["pictures"], tensors.get("labels")
            return cls(z, pictures, labels, classes, modalities, groups["parameters"], groups["placed"])
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path} is no map of a report ({error}); delete it, and the page has none") from error


@torch.no_grad()
def embed_test(program: Program, viewing: Viewing, data: ImageData, count: int = 1000) -> Embedding:
    """Posterior means of z of one view of each of the first test images, of each modality.

    With umap-learn installed (``pip install "pp_simve[maps]"``) also placed by UMAP, which takes some seconds.

    Args:
        program: fitted.
        viewing: how views are drawn.
        data: its test images are in random order.
        count: views at most, over all modalities.
    """
    device = next(program.objective.parameters()).device
    shown = min(len(data.test), max(1, count // max(1, len(viewing.names))))
    source = viewing.source(data.test)
    parts = {"": source} if isinstance(source, Images) else source.modalities
    z, pictures, parameters = [], [], []
    for modality, part in parts.items():
        generator = torch.Generator(device).manual_seed(EVALUATION_SEED)
        one_view = replace(part, n_views=1).to(device)
        views, drawn = one_view.draw_with_parameters(torch.arange(shown, device=device), generator)
        guide = SingleModality(program.guide, modality) if modality else program.guide
        z.append(guide.embed_batches(views[0]).z.float().cpu())
        # A vector is no picture: the image that it belongs to is shown.
        vector = is_vector(image_shape(part.images))
        pictures.append(data.test.images[:shown] if vector else (255 * views[0]).round().byte().cpu())
        parameters.append({name: values[0].cpu() for name, values in drawn.items()})
    absent = torch.full((shown,), torch.nan)
    names = dict.fromkeys(name for drawn in parameters for name in drawn)
    labels = data.test.labels
    placed = umap_points(torch.cat(z))
    return Embedding(
        z=torch.cat(z),
        pictures=thumbnails(pictures),
        labels=None if labels is None else labels[:shown].cpu().repeat(len(parts)),
        classes=data.classes,
        modalities=[modality for modality in viewing.names for _ in range(shown)],
        parameters={name: torch.cat([drawn.get(name, absent) for drawn in parameters]) for name in names},
        placed={} if placed is None else {"UMAP": placed},
    )


def thumbnails(pictures: Sequence[Tensor], side: int = SIDE) -> Tensor:
    """Pictures of several sizes in one tensor: means over areas where they are larger, a black frame where smaller.

    Args:
        pictures: uint8, each ``(picture, channel, height, width)``, 1 or 3 channels.
        side: pixels of the longer side at most.
    """
    small = []
    for part in pictures:
        scale = min(1.0, side / max(part.shape[2:]))
        size = [max(1, round(scale * length)) for length in part.shape[2:]]
        small.append(functional.interpolate(part.float(), size, mode="area").round().byte())
    channels, height, width = (max(part.shape[axis] for part in small) for axis in (1, 2, 3))
    padded = [functional.pad(part, (0, width - part.shape[3], 0, height - part.shape[2])) for part in small]
    return torch.cat([part.expand(-1, channels, -1, -1) for part in padded])


def principal_axes(z: Tensor) -> tuple[Tensor, list[float]]:
    """The first two principal components, float64 ``(row, 2)``, and their shares of the variance.

    Of one latent the second axis is zero. The sign of an axis makes its largest weight positive.
    """
    centered = z.detach().cpu().double()
    centered = centered - centered.mean(0)
    centered = functional.pad(centered, (0, max(0, 2 - z.shape[1])))
    variances, axes = torch.linalg.eigh(centered.mT @ centered)
    axes, variances = axes[:, [-1, -2]], variances.clamp_min(0)
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    total = float(variances.sum()) or 1.0
    return centered @ axes, [float(value) / total for value in variances[[-1, -2]]]


def umap_points(z: Tensor, seed: int = EVALUATION_SEED) -> Tensor | None:
    """UMAP coordinates (McInnes, Healy & Melville 2018, arXiv 1802.03426), float32 ``(row, 2)``.

    Rows that are not finite are NaN. None where umap-learn is not installed, or where there are too few different rows
    for neighborhoods.

    Args:
        z: shape ``(row, latent)``.
        seed: of the layout.
    """
    rows = z.detach().cpu().float()
    finite = torch.isfinite(rows).all(1)
    if len(torch.unique(rows[finite], dim=0)) <= NEIGHBORS:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what its optional parts would need
        try:
            method = getattr(importlib.import_module("umap"), "UMAP", None)  # None: a folder of that name
        except ImportError:
            method = None
    if method is None:
        return None
    # With a seed UMAP runs one job only, or warns. Principal axes to start from cannot fail, as a spectrum may.
    layout = method(n_neighbors=NEIGHBORS, init="pca", random_state=seed, n_jobs=1)
    points = torch.full((len(rows), 2), torch.nan)
    points[finite] = torch.as_tensor(layout.fit_transform(rows[finite].numpy())).float()
    return points
