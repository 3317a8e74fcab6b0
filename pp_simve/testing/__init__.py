"""Conformance suites of user-defined parts: subclass, give a factory, inherit the checks. Fits do not need them."""

from pp_simve.testing.guide import GuideSuite
from pp_simve.testing.likelihood import LikelihoodSuite
from pp_simve.testing.objective import ObjectiveSuite
from pp_simve.testing.prior import PriorSuite

__all__ = ["GuideSuite", "LikelihoodSuite", "ObjectiveSuite", "PriorSuite"]
