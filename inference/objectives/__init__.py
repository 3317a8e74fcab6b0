"""Objectives: modules called with views that return named terms, `loss` among them, without reading from the device."""

from pp_simve.inference.objectives.analytic import AnalyticELBO
from pp_simve.inference.objectives.augmented_vae import ConsistencyELBO, DenoisingELBO
from pp_simve.inference.objectives.balance import Balanced
from pp_simve.inference.objectives.barlow_twins import BarlowTwins
from pp_simve.inference.objectives.base import Objective
from pp_simve.inference.objectives.byol import BYOL
from pp_simve.inference.objectives.decoder_free import DecoderFreeELBO
from pp_simve.inference.objectives.elbo import ELBO
from pp_simve.inference.objectives.entropies import EntropyEstimate, GaussianEntropy, KernelEntropy, VICRegEntropy
from pp_simve.inference.objectives.importance import IWAE
from pp_simve.inference.objectives.moco import MoCo
from pp_simve.inference.objectives.prototypes import InstanceDiscrimination, SwAV
from pp_simve.inference.tracing import ProgramError

__all__ = [
    "BYOL",
    "ELBO",
    "IWAE",
    "AnalyticELBO",
    "Balanced",
    "BarlowTwins",
    "ConsistencyELBO",
    "DecoderFreeELBO",
    "DenoisingELBO",
    "EntropyEstimate",
    "GaussianEntropy",
    "InstanceDiscrimination",
    "KernelEntropy",
    "MoCo",
    "Objective",
    "ProgramError",
    "SwAV",
    "VICRegEntropy",
]
