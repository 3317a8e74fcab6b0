"""p: content and style priors, likelihoods, decoders and the SimVE program. Nothing of inference lives here."""

from pp_simve.models.contrastive import GroupLikelihood, InfoNCE, NTXent
from pp_simve.models.decoders import MLPDecoder, ResidualDecoder
from pp_simve.models.likelihoods import Bernoulli, Gaussian, Likelihood
from pp_simve.models.networks import apply_network, network_precision
from pp_simve.models.priors import (
    AdditivePrior,
    Atoms,
    BlockPrior,
    ConjugatePrior,
    EmpiricalPrior,
    ExactPrior,
    FlatPrior,
    GaussianPrior,
    MixturePrior,
    Prior,
    QuadraticPrior,
    StandardPrior,
    StudentTPrior,
)
from pp_simve.models.simve import SimVE
from pp_simve.models.views import PlainViews, Views, ViewsLike

__all__ = [
    "AdditivePrior",
    "Atoms",
    "Bernoulli",
    "BlockPrior",
    "ConjugatePrior",
    "EmpiricalPrior",
    "ExactPrior",
    "FlatPrior",
    "Gaussian",
    "GaussianPrior",
    "GroupLikelihood",
    "InfoNCE",
    "Likelihood",
    "MLPDecoder",
    "MixturePrior",
    "NTXent",
    "PlainViews",
    "Prior",
    "QuadraticPrior",
    "ResidualDecoder",
    "SimVE",
    "StandardPrior",
    "StudentTPrior",
    "Views",
    "ViewsLike",
    "apply_network",
    "network_precision",
]
