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
from pp_simve.run.config import FitConfig
from pp_simve.run.parts import make_part

T = TypeVar("T")


def modalities_of(config: FitConfig) -> Modalities | None:
    """The settings' modalities; None where all views are images of one modality.

    Raises:
        ConfigError: an unknown name.
    """
    return make_part("modalities", config.modalities, MODALITIES, Modalities) if config.modalities else None


def unwrapped(parts: Mapping[str | None, T]) -> T | dict[str, T]:
    """Parts by modality, or the part itself where there is but the one modality without a name."""
    return parts[None] if None in parts else {str(modality): part for modality, part in parts.items()}


def is_vector(image_shape: ImageShape) -> bool:
    """Whether images of this shape are vectors: of a single pixel."""
    return image_shape[1:] == (1, 1)


@dataclass(frozen=True)
class Viewing:
    """Views of the data as settings say; without modalities the only modality is called None.

    Attributes:
        modalities: which make several modalities of an image.
        policies: what draws views of each modality; vectors are taken as they are.
        views: of each modality.
    """

    modalities: Modalities | None
    policies: dict[str | None, AugmentationPolicy]
    views: int

    @classmethod
    def of(cls, config: FitConfig, shape: DataShape) -> Viewing:
        """For settings whose choices are made.

        Raises:
            ConfigError: an unknown name, or a part that does not fit.
        """
        assert config.policy is not None
        assert config.views is not None
        modalities = modalities_of(config)
        shapes: dict[str | None, ImageShape] = {None: shape.image}
        if modalities is not None:
            shapes = dict(modalities.shapes(shape).items())
        policies = {
            modality: Compose([], of_modality)
            if is_vector(of_modality)
            else make_part("policy", config.policy, POLICIES, AugmentationPolicy, of_modality)
            for modality, of_modality in shapes.items()
        }
        return cls(modalities, policies, config.views)

    def images(self, split: Split) -> dict[str | None, Tensor]:
        """A split's images by modality, uint8 ``(image, channel, height, width)``."""
        return {None: split.images} if self.modalities is None else dict(self.modalities.images(split).items())

    def source(self, split: Split) -> Source:
        """What draws views of a split as the fit does."""
        parts = {
            modality: Images(images, self.policies[modality], self.views)
            for modality, images in self.images(split).items()
        }
        alone_or_by_modality = unwrapped(parts)
        return (
            alone_or_by_modality if isinstance(alone_or_by_modality, Images) else MultimodalImages(alone_or_by_modality)
        )
