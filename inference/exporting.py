"""Export: a guide's posterior means as a plain module from images to features, and an encoder's plain weights."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from pp_simve.inference.encoders import ResNet18Encoder
from pp_simve.inference.guides.base import Guide
from pp_simve.inference.tools import frozen


class FeatureModule(nn.Module):
    """Images → posterior means given one view of each, one tensor for each name.

    Args:
        guide: of views of one modality.
        names: of ``backbone``, ``z``, ``content`` and ``style``.
    """

    def __init__(self, guide: Guide, names: Sequence[str]) -> None:
        super().__init__()
        self.guide = guide
        self.names = tuple(names)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features ``(image, feature)`` of images in [0, 1], ``(image, channel, height, width)``."""
        found = self.guide.posterior(images[None]).squeeze_view().as_dict()
        return tuple(found[name] for name in self.names)


def exported(module: FeatureModule, images: Tensor) -> ExportedProgram:
    """The module as a graph of tensor operations, for any number of images of these images' shape."""
    # Checks of distributions' arguments read values, and so cannot be part of a graph.
    with frozen(module), pyro.validation_enabled(False):
        return torch.export.export(module, (images,), dynamic_shapes=({0: Dim("image")},), strict=False)


def plain_network(encoder: nn.Module) -> nn.Module:
    """The network inside an encoder that only wraps it: its state_dict then has the names of its own library."""
    if isinstance(encoder, ResNet18Encoder):
        return encoder.network  # torchvision's
    return encoder[0] if type(encoder) is nn.Sequential and len(encoder) == 1 else encoder
