"""q: views, encoders, guides, objectives and the loop. No data sets, no command lines."""

from pp_simve.inference.checkpoint import CheckpointError, CheckpointFile
from pp_simve.inference.device import DeviceError
from pp_simve.inference.encoders import MLPEncoder, ResidualEncoder, ResNet18Encoder
from pp_simve.inference.guides import AmortizedGuide, Guide, PointGuide, Representation
from pp_simve.inference.metrics import NonFiniteError
from pp_simve.inference.objectives import ELBO, ProgramError
from pp_simve.inference.schedules import WarmupCosine
from pp_simve.inference.svi import Progress, Run, fit

__all__ = [
    "ELBO",
    "AmortizedGuide",
    "CheckpointError",
    "CheckpointFile",
    "DeviceError",
    "Guide",
    "MLPEncoder",
    "NonFiniteError",
    "PointGuide",
    "ProgramError",
    "Progress",
    "Representation",
    "ResNet18Encoder",
    "ResidualEncoder",
    "Run",
    "WarmupCosine",
    "fit",
]
