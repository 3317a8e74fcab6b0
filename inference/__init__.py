"""q: sources of views, encoders, guides, objectives and the training loop. No data sets, no command lines."""

from pp_simve.inference.augmentations import FromTransforms
from pp_simve.inference.checkpoint import CheckpointError, CheckpointFile
from pp_simve.inference.device import DeviceError
from pp_simve.inference.encoders import MLPEncoder, ResidualEncoder, ResNet18Encoder, timm_encoder
from pp_simve.inference.guides import (
    AmortizedGuide,
    DeltaGuide,
    FlowGuide,
    Guide,
    PointGuide,
    Representation,
    StructuredGuide,
    ZFirstGuide,
)
from pp_simve.inference.loop import Observer
from pp_simve.inference.mapped import MappedImages
from pp_simve.inference.metrics import NonFiniteError
from pp_simve.inference.objectives import (
    BYOL,
    ELBO,
    IWAE,
    AnalyticELBO,
    Balanced,
    BarlowTwins,
    ConsistencyELBO,
    DecoderFreeELBO,
    DenoisingELBO,
    EntropyEstimate,
    GaussianEntropy,
    InstanceDiscrimination,
    KernelEntropy,
    MoCo,
    Objective,
    ProgramError,
    SwAV,
    VICRegEntropy,
)
from pp_simve.inference.plan import FitError
from pp_simve.inference.progress import Progress, Run
from pp_simve.inference.sampling import Draws, draw
from pp_simve.inference.svi import fit
from pp_simve.models.schedules import Cyclic, Geometric, Linear, Schedule, WarmupCosine

__all__ = [
    "BYOL",
    "ELBO",
    "IWAE",
    "AmortizedGuide",
    "AnalyticELBO",
    "Balanced",
    "BarlowTwins",
    "CheckpointError",
    "CheckpointFile",
    "ConsistencyELBO",
    "Cyclic",
    "DecoderFreeELBO",
    "DeltaGuide",
    "DenoisingELBO",
    "DeviceError",
    "Draws",
    "EntropyEstimate",
    "FitError",
    "FlowGuide",
    "FromTransforms",
    "GaussianEntropy",
    "Geometric",
    "Guide",
    "InstanceDiscrimination",
    "KernelEntropy",
    "Linear",
    "MLPEncoder",
    "MappedImages",
    "MoCo",
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
    "SwAV",
    "VICRegEntropy",
    "WarmupCosine",
    "ZFirstGuide",
    "draw",
    "fit",
    "timm_encoder",
]
