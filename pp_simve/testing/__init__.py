"""Conformance suites for parts of one's own: subclass, give a factory, inherit the checks. Nothing a fit needs."""

from pp_simve.testing.guide import GuideSuite
from pp_simve.testing.likelihood import LikelihoodSuite
from pp_simve.testing.objective import ObjectiveSuite
from pp_simve.testing.prior import PriorSuite

__all__ = ["GuideSuite", "LikelihoodSuite", "ObjectiveSuite", "PriorSuite"]
