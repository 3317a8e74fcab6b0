"""Guides: Pyro programs over content and style, behind the interface in `base`."""

from pp_simve.inference.guides.amortized import AmortizedGuide
from pp_simve.inference.guides.base import Guide, Representation
from pp_simve.inference.guides.point import PointGuide
from pp_simve.inference.guides.recognition import Recognition

__all__ = ["AmortizedGuide", "Guide", "PointGuide", "Recognition", "Representation"]
