"""How the images of a data set become views: of one modality or of several, and by which policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from pp_simve.data import DataShape, ImageShape, Split
from pp_simve.data.modalities import MODALITIES, Modalities
from pp_simve.inference.augmentations import POLICIES, AugmentationPolicy, Compose
from pp_simve.inference.data import Images, ImagesOfFile, MultimodalImages, training_source
from pp_simve.run.config import Settings
from pp_simve.run.named_parts import make_part

S = TypeVar("S")
T = TypeVar("T")


def by_modality(function: Callable[[S], T], parts: S | Mapping[str, S]) -> T | dict[str, T]:
    """A function applied to the part of each modality, or to the only part of data without modalities."""
    if isinstance(parts, Mapping):
        return {modality: function(part) for modality, part in parts.items()}
    return function(parts)


def is_vector(image_shape: ImageShape) -> bool:
    """Whether images of this shape are vectors: of a single pixel."""
    return image_shape[1:] == (1, 1)


def shapes_of(settings: Settings, shape: DataShape) -> ImageShape | dict[str, ImageShape]:
    """The shape of the images, or of those of each modality.

    Raises:
        ConfigError: an unknown name.
        DataError: the data do not have these modalities.
    """
    modalities = _modalities(settings)
    return shape.image if modalities is None else modalities.shapes(shape)


@dataclass(frozen=True)
class Viewing:
    """Views of the data as settings describe them.

    Attributes:
        modalities: make images of several modalities of each image; None for images as they are.
        policy: draws the views, one for each modality where there are several; vectors are taken as they are.
        views: of each modality.
    """

    modalities: Modalities | None
    policy: AugmentationPolicy | dict[str, AugmentationPolicy]
    views: int

    @classmethod
    def of(cls, settings: Settings, shape: DataShape) -> Viewing:
        """Of the settings.

        Raises:
            ConfigError: an unknown name, or a part that does not fit.
        """

        def policy(of_one: ImageShape) -> AugmentationPolicy:
            if is_vector(of_one):
                return Compose([], of_one)
            return make_part("policy", settings.policy, POLICIES, AugmentationPolicy, of_one)

        return cls(_modalities(settings), by_modality(policy, shapes_of(settings, shape)), settings.views)

    @property
    def names(self) -> list[str]:
        """Names of the modalities; none where there is only one."""
        return list(self.policy) if isinstance(self.policy, dict) else []

    def images(self, split: Split) -> Tensor | dict[str, Tensor]:
        """A split's images, uint8 ``(image, channel, height, width)``, of each modality where there are several."""
        return split.images if self.modalities is None else self.modalities.images(split)

    def source(self, split: Split) -> Images | MultimodalImages:
        """The source of a split's views, drawn as in the fit."""
        source = training_source(self.images(split), self.policy, self.views)
        assert not isinstance(source, ImagesOfFile)  # as the images are tensors
        return source


def _modalities(settings: Settings) -> Modalities | None:
    return make_part("modalities", settings.modalities, MODALITIES, Modalities) if settings.modalities else None
