"""What every source hands over: all images in one tensor, each marked with the split its source gives it."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

# The values of `Collection.part`. UNDIVIDED images are split by us; validation images are drawn from TRAIN where the
# source gives none.
UNDIVIDED, TRAIN, VALIDATION, TEST = range(4)


@dataclass(frozen=True, eq=False)
class Collection:
    """Images of one source before they are divided into splits.

    images:      uint8 (image, channel, height, width)
    part:        int64 (image,), one of UNDIVIDED, TRAIN, VALIDATION, TEST
    labels:      int64 (image,) or None
    attributes:  bool (image, attribute) or None
    """

    images: Tensor
    part: Tensor
    labels: Tensor | None = None
    attributes: Tensor | None = None
    classes: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def resize(images: Tensor, size: int | tuple[int, int], *, chunk: int = 4096) -> Tensor:
    """Antialiased bilinear resize of (image, channel, height, width), uint8 or float in [0, 255], to uint8.

    It works in chunks, because the floats of a whole collection would take four times its memory.
    """
    target = (size, size) if isinstance(size, int) else size
    if images.dtype == torch.uint8 and tuple(images.shape[2:]) == target:
        return images
    resized = torch.empty(*images.shape[:2], *target, dtype=torch.uint8)
    for start in range(0, images.shape[0], chunk):
        part = images[start : start + chunk].float()
        part = interpolate(part, size=target, mode="bilinear", antialias=True, align_corners=False)
        resized[start : start + chunk] = part.round().clamp(0, 255).to(torch.uint8)
    return resized
