"""A finished run taken up again: its settings, its fitted programs, and the images it was fitted to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from pp_simve.data import ImageData, load
from pp_simve.errors import ConfigError
from pp_simve.run.config import FitConfig
from pp_simve.run.folder import RunFolder
from pp_simve.run.methods import Program
from pp_simve.run.viewing import Viewing

Load = Callable[[str, Path, int | None, bool], ImageData]
"""Loads images by name, root, image size and whether bad ones are left out."""


def load_once() -> Load:
    """A loader that keeps the last data: runs that are taken up together are mostly of the same images."""

    @lru_cache(maxsize=1)
    def images(data: str, data_root: Path, image_size: int | None, skip_bad: bool) -> ImageData:
        return load(data, data_root, image_size=image_size, skip_bad=skip_bad)

    return images


@dataclass(frozen=True)
class Fitted:
    """A finished run in memory.

    Attributes:
        folder: where it lies.
        config: its settings, as they were chosen.
        program: fitted, in evaluation mode, on the device that was asked for.
        data: the images, with their splits.
        viewing: how views are drawn.
    """

    folder: RunFolder
    config: FitConfig
    program: Program
    data: ImageData
    viewing: Viewing

    @classmethod
    def read(
        cls,
        folder: RunFolder,
        device: torch.device,
        images: Load,
        data_root: Path | None = None,
        *,
        trust_parts: bool = False,
    ) -> Fitted:
        """Reads a run and loads its images.

        Args:
            folder: of the run.
            device: where to compute.
            images: loads the data.
            data_root: where they are, if elsewhere than for the fit.
            trust_parts: allows the import of parts of a user's own that the run's settings name.

        Raises:
            ConfigError: a run that is damaged or not finished, or other images than it was fitted to; parts that are
                not trusted.
            DataError: the images cannot be loaded.
        """
        config, fingerprint = folder.read_settings(trust_parts=trust_parts)
        program = folder.program(trust_parts=trust_parts)
        data = images(config.data, data_root or config.data_root, config.image_size, config.skip_bad)
        if data.fingerprint != fingerprint:
            raise ConfigError(
                f"the images of {data.name} are not those {folder.path} was fitted to ({data.fingerprint}, expected "
                f"{fingerprint}); give back the old ones, or fit again"
            )
        program.objective.to(device)
        return cls(folder, config, program, data, Viewing.of(config, data.shape))
