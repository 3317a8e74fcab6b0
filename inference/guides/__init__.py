"""Guides: Pyro programs over content and style, behind the interface in `base`."""

from pp_simve.inference.guides.amortized import AmortizedGuide, PointGuide
from pp_simve.inference.guides.base import Guide, Representation
from pp_simve.inference.guides.delta import DeltaGuide
from pp_simve.inference.guides.flow import FlowGuide
from pp_simve.inference.guides.recognition import Recognition, ZFirstGuide
from pp_simve.inference.guides.structured import StructuredGuide

__all__ = [
    "AmortizedGuide",
    "DeltaGuide",
    "FlowGuide",
    "Guide",
    "PointGuide",
    "Recognition",
    "Representation",
    "StructuredGuide",
    "ZFirstGuide",
]
