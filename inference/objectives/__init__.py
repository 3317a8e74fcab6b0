"""Objectives: modules called with views that return named terms, `loss` among them, without reading from the device."""

from pp_simve.inference.objectives.analytic import AnalyticELBO
from pp_simve.inference.objectives.base import Objective
from pp_simve.inference.objectives.bootstrap import Bootstrap
from pp_simve.inference.objectives.correlation import CrossCorrelation
from pp_simve.inference.objectives.elbo import ELBO
from pp_simve.inference.objectives.entropies import EntropyEstimate, GaussianEntropy, KernelEntropy, VICRegEntropy
from pp_simve.inference.objectives.family import ConsistencyELBO, DenoisingELBO
from pp_simve.inference.objectives.implied import ImpliedELBO
from pp_simve.inference.objectives.importance import IWAE
from pp_simve.inference.objectives.prototypes import InstanceDiscrimination, SwappedPrediction
from pp_simve.inference.objectives.tracing import ProgramError

__all__ = [
    "ELBO",
    "IWAE",
    "AnalyticELBO",
    "Bootstrap",
    "ConsistencyELBO",
    "CrossCorrelation",
    "DenoisingELBO",
    "EntropyEstimate",
    "GaussianEntropy",
    "ImpliedELBO",
    "InstanceDiscrimination",
    "KernelEntropy",
    "Objective",
    "ProgramError",
    "SwappedPrediction",
    "VICRegEntropy",
]
