"""How the images of a data set become views: of one modality or of several, and by which policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from pp_simve.data import DataShape, ImageShape, Split
from pp_simve.data.modalities import MODALITIES, Modalities
from pp_simve.inference.augmentations import POLICIES, AugmentationPolicy, Compose
from pp_simve.inference.data import Images, MultimodalImages, Source
from pp_simve.run.config import Settings
from pp_simve.run.parts import make_part

T = TypeVar("T")


def unwrapped(parts: Mapping[str | None, T]) -> T | dict[str, T]:
    """Parts by modality, or the part itself where the only modality is None, the one without a name."""
    return parts[None] if None in parts else {str(modality): part for modality, part in parts.items()}


def is_vector(image_shape: ImageShape) -> bool:
    """Whether images of this shape are vectors: of a single pixel."""
    return image_shape[1:] == (1, 1)


def shapes_of(settings: Settings, shape: DataShape) -> dict[str | None, ImageShape]:
    """The shape of each modality's images; without modalities the only one is called None.

    Raises:
        ConfigError: an unknown name.
        DataError: the data do not have these modalities.
    """
    modalities = _modalities(settings)
    return {None: shape.image} if modalities is None else dict(modalities.shapes(shape).items())


@dataclass(frozen=True)
class Viewing:
    """Views of the data as settings describe them; without modalities the only one is called None.

    Attributes:
        modalities: make images of several modalities of each image.
        policies: draw the views of each modality; vectors are taken as they are.
        views: of each modality.
    """

    modalities: Modalities | None
    policies: dict[str | None, AugmentationPolicy]
    views: int

    @classmethod
    def of(cls, settings: Settings, shape: DataShape) -> Viewing:
        """Of the settings.

        Raises:
            ConfigError: an unknown name, or a part that does not fit.
        """
        policies = {
            modality: Compose([], of_one)
            if is_vector(of_one)
            else make_part("policy", settings.policy, POLICIES, AugmentationPolicy, of_one)
            for modality, of_one in shapes_of(settings, shape).items()
        }
        return cls(_modalities(settings), policies, settings.views)

    def images(self, split: Split) -> dict[str | None, Tensor]:
        """A split's images by modality, uint8 ``(image, channel, height, width)``."""
        return {None: split.images} if self.modalities is None else dict(self.modalities.images(split).items())

    def source(self, split: Split) -> Source:
        """The source of a split's views, drawn as in the fit."""
        parts = {
            modality: Images(images, self.policies[modality], self.views)
            for modality, images in self.images(split).items()
        }
        source = unwrapped(parts)
        return source if isinstance(source, Images) else MultimodalImages(source)


def _modalities(settings: Settings) -> Modalities | None:
    return make_part("modalities", settings.modalities, MODALITIES, Modalities) if settings.modalities else None
