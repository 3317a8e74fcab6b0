"""Priors: what content and style mean. One small class each, behind the interfaces in `base`."""

from pp_simve.models.priors.additive import AdditivePrior
from pp_simve.models.priors.atoms import Atoms
from pp_simve.models.priors.base import ConjugatePrior, ExactPrior, Prior, QuadraticPrior
from pp_simve.models.priors.block import BlockPrior
from pp_simve.models.priors.flat import FlatPrior
from pp_simve.models.priors.gaussian import GaussianPrior
from pp_simve.models.priors.mixture import EmpiricalPrior, MixturePrior
from pp_simve.models.priors.standard import StandardPrior
from pp_simve.models.priors.student import StudentTPrior

__all__ = [
    "AdditivePrior",
    "Atoms",
    "BlockPrior",
    "ConjugatePrior",
    "EmpiricalPrior",
    "ExactPrior",
    "FlatPrior",
    "GaussianPrior",
    "MixturePrior",
    "Prior",
    "QuadraticPrior",
    "StandardPrior",
    "StudentTPrior",
]
