"""A fitted program with what its fit was: it embeds images of any source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from pp_simve.data import DataShape, ImageData, ImageShape, Split
from pp_simve.data.load import SplitName, load_images
from pp_simve.errors import ConfigError, unknown_name
from pp_simve.evaluation.records import REPRESENTATIONS, without_width
from pp_simve.inference.augmentations import draw_views
from pp_simve.inference.embedding import view_features
from pp_simve.inference.guides.base import ImagesLike
from pp_simve.inference.images import ImagesError, as_images, check_modalities
from pp_simve.inference.tools import default_float, unit_range
from pp_simve.run.config import Settings, reading_options
from pp_simve.run.hub import push_run
from pp_simve.run.methods import Program
from pp_simve.run.trust import Notes, unsaid
from pp_simve.run.viewing import Viewing, shapes_of

Source = ImagesLike | str | Path | Sequence[str | Path]
"""Images: an array, tensor or data set, or by modality; the name of data or a path; or paths of image files."""


class _Images(NamedTuple):
    n_images: int
    batch: Callable[[int, int], Tensor | dict[str, Tensor]]
    """Images from one position up to another."""
    about: dict[str, NDArray[Any]]
    """Of names and paths, an entry for each image: its path, position in the source, label."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadedRun(Program):
    """A fitted program, in evaluation mode, and what it was fitted by.

    Attributes:
        path: of the run folder.
        settings: of the fit.
        fingerprint: of the images; empty for those given in Python.
        shape: of the images.
    """

    path: Path
    settings: Settings
    fingerprint: str
    shape: DataShape

    def embed(
        self,
        images: Source,
        what: str | Sequence[str] = "content",
        *,
        views: int = 1,
        draws: int = 0,
        split: SplitName = "all",
        batch_size: int = 512,
        seed: int = 0,
        progress: Callable[[int, int], None] = lambda done, count: None,
        notes: Notes = unsaid,
        **reading: Any,
    ) -> dict[str, NDArray[Any]]:
        """Features of images by name, a row an image, as `python -m pp_simve.embed` writes them.

        Memory holds the images as bytes, one batch as floats, and the features; of a ``Dataset`` one batch alone.

        Args:
            images: an array, tensor or ``Dataset``, as `Guide.embed_batches` takes them; the name of data, such as
                ``folder:PATH``; the path of a folder, an npz file or an image; or paths of images. Gray images are
                repeated over the channels of a run of color images.
            what: of ``content``, ``style``, ``z`` and ``backbone``, posterior means.
            views: 1 for the images as they are; else augmented views of each, as the fit drew them: content is
                inferred from all of them together, the others are means over the views.
            draws: of the guide, whose standard deviations are the entries ``content_sd``, ``style_sd`` and ``z_sd``.
            split: of data with a name or path, as a fit divides them.
            batch_size: views a forward pass.
            seed: of views and draws.
            progress: called with the images done and their number after each batch.
            notes: called with what a person should be told about how the images were read.
            reading: ``root`` and further options of `load_data` for names and paths, by default those of the fit.

        Returns:
            An entry float32 ``(image, feature)`` for each of ``what``. For names and paths also ``index``, the position
            in the source; ``path``, relative, where there are files; ``label``, the name of the class, where
            there are any.

        Raises:
            ConfigError: an argument that is not possible, or a representation that the program does not have.
            ImagesError: images that are no such, or of another shape than those of the fit.
            DataError: images that cannot be read.
        """
        names = self._checked([what] if isinstance(what, str) else what, views, draws, batch_size)
        source = self._source(images, split, reading)
        for note in source.notes:
            notes(note)
        if not source.n_images:
            raise ConfigError("there are no images to embed")
        device = next(self.objective.parameters()).device
        generator = torch.Generator(device).manual_seed(seed)
        size = max(1, batch_size // views)
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
        for start in range(0, source.n_images, size):
            stop = min(start + size, source.n_images)
            batch = self._viewed(source.batch(start, stop), views, device, generator)
            found = view_features(self.model, self.guide, batch, draws=draws, seed=seed + start)
            for name, of_name in parts.items():
                values = found[name]
                if values is None or not values.shape[-1]:
                    raise ConfigError(absent(name, values))
                of_name.append(values.float().cpu().numpy())
            progress(stop, source.n_images)
        return source.about | {name: np.concatenate(of_name) for name, of_name in parts.items()}

    def named_data(self, given: str | None = None) -> str:
        """The name of data that was given, by default of those of the fit.

        Raises:
            ConfigError: neither has a name.
        """
        if not (name := given or self.settings.data):
            raise ConfigError(
                f"{self.path} was fitted to images given in Python; say where they are (--data npz:FILE, folder:PATH)"
            )
        return name

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Uploads the run to the Hugging Face Hub; ``load_run("hub:OWNER/NAME")`` reads it. As `push_run`."""
        return push_run(self.path, repository, private=private, token=token)

    def first(self, images: Source, most: int, **reading: Any) -> Tensor:
        """The first images, at most so many, float in [0, 1] as encoders take them; arguments as of `embed`.

        Raises:
            ConfigError: there are none, or views are of several modalities.
        """
        source = self._source(images, "all", reading)
        if self._viewing.names:
            raise ConfigError(f"the run is of several modalities ({', '.join(self._viewing.names)}), expected one")
        if not source.n_images:
            raise ConfigError("there are no images")
        device = next(self.objective.parameters()).device
        views = self._viewed(source.batch(0, min(most, source.n_images)), 1, device, torch.Generator(device))
        assert isinstance(views, Tensor)
        return views[0]

    def _checked(self, what: Sequence[str], views: int, draws: int, batch_size: int) -> list[str]:
        """Names of the features, with those of their standard deviations."""
        check_names(what)
        for name, given in {"views": views, "batch_size": batch_size, "what": len(what)}.items():
            if given < 1:
                raise ConfigError(f"{name} must be at least 1, got {given}")
        if not draws:
            return list(dict.fromkeys(what))
        if draws < 2:
            raise ConfigError(f"a standard deviation needs at least 2 draws, got {draws}")
        if not self.guide.has_density:
            raise ConfigError(
                f"{type(self.guide).__name__} has no posterior standard deviations, because its draws are points; "
                "leave out draws"
            )
        uncertain = [f"{name}_sd" for name in what if name != "backbone"]
        return list(dict.fromkeys([*what, *uncertain]))

    @cached_property
    def _viewing(self) -> Viewing:
        return Viewing.of(self.settings, self.shape)

    def _source(self, images: Source, split: SplitName, reading: Mapping[str, Any]) -> _Images:
        attributes: Tensor | None = None
        about: dict[str, NDArray[Any]] = {}
        notes: tuple[str, ...] = ()
        if isinstance(images, Mapping):
            parts = {name: as_images(part, f"images of {name}") for name, part in images.items()}
            return _Images(
                check_modalities(parts), lambda a, b: {name: part[a:b] for name, part in parts.items()}, about
            )
        if isinstance(images, Dataset) and hasattr(images, "__len__") and not isinstance(images, TensorDataset):
            dataset = images
            return _Images(len(images), lambda a, b: self._parts(as_images(Subset(dataset, range(a, b)))), about)
        if _are_files(images):
            options = {"root": self.settings.data_root} | reading_options(self.settings) | dict(reading)
            read, rows = load_images(images, split=split, **options)
            about["index"] = rows.numpy()
            if read.files:
                about["path"] = np.array(read.files)[rows]
            if read.labels is not None:
                about["label"] = np.array([*read.classes, ""])[read.labels[rows]]  # -1, the last, is of no class
            pixels, attributes, notes = read.images, read.attributes, read.notes
        else:
            pixels = as_images(images)
            rows = torch.arange(len(pixels), device=pixels.device)

        def batch(start: int, stop: int) -> Tensor | dict[str, Tensor]:
            chosen = rows[start:stop]
            return self._parts(pixels[chosen], None if attributes is None else attributes[chosen])

        return _Images(len(rows), batch, about, notes)

    def _parts(self, images: Tensor, attributes: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Images by modality, where the run is of several."""
        modalities = self._viewing.modalities
        return images if modalities is None else modalities.images(Split(images, None, attributes))

    def _viewed(
        self, images: Tensor | dict[str, Tensor], views: int, device: torch.device, generator: torch.Generator
    ) -> Tensor | dict[str, Tensor]:
        shapes, policies = shapes_of(self.settings, self.shape), self._viewing.policy
        known = dict[str | None, ImageShape](shapes.items() if isinstance(shapes, dict) else [(None, shapes)])

        def viewed(part: Tensor, modality: str | None = None) -> Tensor:
            if modality not in known:
                expected = ", ".join(self._viewing.names) or "images as one tensor"
                raise ImagesError(f"there are images of {modality or 'no modality'}, expected {expected}")
            part = default_float(_fitting(part, known[modality]).to(device))
            if views == 1:
                return unit_range(part)[None]
            policy = policies[str(modality)] if isinstance(policies, dict) else policies
            return draw_views(policy, part, views, generator=generator)[0]

        if isinstance(images, Tensor):
            return viewed(images)
        return {modality: viewed(part, modality) for modality, part in images.items()}


def _are_files(images: object) -> TypeGuard[str | Path | Sequence[str | Path]]:
    first = images[0] if isinstance(images, list | tuple) and images else images
    return isinstance(first, str | Path)


def _fitting(images: Tensor, shape: ImageShape) -> Tensor:
    """Images of the shape of the fit's: gray ones are repeated over three channels.

    Raises:
        ImagesError: another shape.
    """
    given = tuple(images.shape[1:])
    if given == shape:
        return images
    if given[1:] != shape[1:]:
        size = f"{shape[1]}x{shape[2]}"
        mend = f"resize them (files: --image-size {size}, in Python image_size={size!r})"
    elif given[0] == 1:
        return images.expand(-1, shape[0], -1, -1)
    else:
        mend = "convert them to grayscale" if shape[0] == 1 else f"give them {shape[0]} channels"
    raise ImagesError(f"images are of shape {given} (channel, height, width), those of the fit of {shape}; {mend}")


def fitting(data: ImageData, shape: ImageShape) -> ImageData:
    """Data whose images are of the shape of the fit's, as `LoadedRun.embed` takes them."""
    parts = (data.train, data.validation, data.test)
    train, validation, test = (replace(split, images=_fitting(split.images, shape)) for split in parts)
    return replace(data, train=train, validation=validation, test=test)


def check_names(names: Iterable[str]) -> None:
    """Refuses a name that is none of `REPRESENTATIONS`.

    Raises:
        ConfigError: there is one.
    """
    if unknown := [name for name in names if name not in REPRESENTATIONS]:
        raise ConfigError(unknown_name("representation", unknown[0], REPRESENTATIONS))


def absent(name: str, values: Tensor | None) -> str:
    """The message for a representation that the program does not have."""
    if values is None:
        return "there is a backbone for each modality; embed the images of one, {modality: images}, or another part"
    return without_width(name.removesuffix("_sd"))
