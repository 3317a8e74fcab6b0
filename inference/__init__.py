"""q: views, encoders, guides, objectives and the loop. No data sets, no command lines."""

from pp_simve.inference.checkpoint import CheckpointError, CheckpointFile
from pp_simve.inference.device import DeviceError
from pp_simve.inference.draws import Draws, draw
from pp_simve.inference.encoders import MLPEncoder, ResidualEncoder, ResNet18Encoder
from pp_simve.inference.guides import (
    AmortizedGuide,
    DeltaGuide,
    FlowGuide,
    Guide,
    PointGuide,
    Representation,
    StructuredGuide,
)
from pp_simve.inference.loop import Observer
from pp_simve.inference.metrics import NonFiniteError
from pp_simve.inference.objectives import (
    ELBO,
    IWAE,
    AnalyticELBO,
    Bootstrap,
    ConsistencyELBO,
    CrossCorrelation,
    DenoisingELBO,
    EntropyEstimate,
    GaussianEntropy,
    ImpliedELBO,
    InstanceDiscrimination,
    KernelEntropy,
    Objective,
    ProgramError,
    SwappedPrediction,
    VICRegEntropy,
)
from pp_simve.inference.schedules import Cyclic, Geometric, Linear, Schedule, WarmupCosine
from pp_simve.inference.svi import Progress, Run, fit

__all__ = [
    "ELBO",
    "IWAE",
    "AmortizedGuide",
    "AnalyticELBO",
    "Bootstrap",
    "CheckpointError",
    "CheckpointFile",
    "ConsistencyELBO",
    "CrossCorrelation",
    "Cyclic",
    "DeltaGuide",
    "DenoisingELBO",
    "DeviceError",
    "Draws",
    "EntropyEstimate",
    "FlowGuide",
    "GaussianEntropy",
    "Geometric",
    "Guide",
    "ImpliedELBO",
    "InstanceDiscrimination",
    "KernelEntropy",
    "Linear",
    "MLPEncoder",
    "NonFiniteError",
    "Objective",
    "Observer",
    "PointGuide",
    "ProgramError",
    "Progress",
    "Representation",
    "ResNet18Encoder",
    "ResidualEncoder",
    "Run",
    "Schedule",
    "StructuredGuide",
    "SwappedPrediction",
    "VICRegEntropy",
    "WarmupCosine",
    "draw",
    "fit",
]
