"""How the images of a data set become views: of one kind or of several, and by which policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from pp_simve.config import FitConfig
from pp_simve.data import DataShape, ImageShape, Split
from pp_simve.data.modalities import MODALITIES, Modalities
from pp_simve.inference.sources import Images, Kinds, Source
from pp_simve.inference.views import VIEW_POLICIES, Compose, ViewPolicy
from pp_simve.parts import make_part

T = TypeVar("T")


def modalities_of(config: FitConfig) -> Modalities | None:
    """The settings' modalities; None where all views are images of one kind.

    Raises:
        ConfigError: an unknown name.
    """
    return make_part("modalities", config.modalities, MODALITIES, Modalities) if config.modalities else None


def unwrapped(parts: Mapping[str | None, T]) -> T | dict[str, T]:
    """Parts by kind, or the part itself where there is but the one kind without a name."""
    return parts[None] if None in parts else {str(kind): part for kind, part in parts.items()}


def is_vector(image_shape: ImageShape) -> bool:
    """Whether images of this shape are vectors: of a single pixel."""
    return image_shape[1:] == (1, 1)


@dataclass(frozen=True)
class Viewing:
    """Views of the data as settings say; without modalities the only kind is called None.

    Attributes:
        modalities: which make several kinds of view of an image.
        policies: what draws views of each kind; vectors are taken as they are.
        views: of each kind.
    """

    modalities: Modalities | None
    policies: dict[str | None, ViewPolicy]
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
            kind: Compose([], of_kind)
            if is_vector(of_kind)
            else make_part("policy", config.policy, VIEW_POLICIES, ViewPolicy, of_kind)
            for kind, of_kind in shapes.items()
        }
        return cls(modalities, policies, config.views)

    def images(self, split: Split) -> dict[str | None, Tensor]:
        """A split's images by kind, uint8 ``(image, channel, height, width)``."""
        return {None: split.images} if self.modalities is None else dict(self.modalities.kinds(split).items())

    def source(self, split: Split) -> Source:
        """What draws views of a split as the fit does."""
        parts = {kind: Images(images, self.policies[kind], self.views) for kind, images in self.images(split).items()}
        alone_or_by_kind = unwrapped(parts)
        return alone_or_by_kind if isinstance(alone_or_by_kind, Images) else Kinds(alone_or_by_kind)
