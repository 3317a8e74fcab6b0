"""Views: batched augmentations on the images' device that return each image's parameters, labels of the style tasks.

Pixels in, pixels out: no data sets, no command lines, no networks.
"""

from pp_simve.inference.views.base import Compose, ImageShape, Parameters, ViewPolicy, draw_views
from pp_simve.inference.views.colour import ColourJitter, Grey
from pp_simve.inference.views.geometric import Affine, Flip, ResizedCrop
from pp_simve.inference.views.policies import VIEW_POLICIES, view_policy

__all__ = [
    "VIEW_POLICIES",
    "Affine",
    "ColourJitter",
    "Compose",
    "Flip",
    "Grey",
    "ImageShape",
    "Parameters",
    "ResizedCrop",
    "ViewPolicy",
    "draw_views",
    "view_policy",
]
