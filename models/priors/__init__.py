"""Priors: what content and style mean. One small class each, behind the interface in `base`."""

from pp_simve.models.priors.base import Prior
from pp_simve.models.priors.flat import FlatPrior
from pp_simve.models.priors.gaussian import GaussianPrior
from pp_simve.models.priors.standard import StandardPrior

__all__ = ["FlatPrior", "GaussianPrior", "Prior", "StandardPrior"]
