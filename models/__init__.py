"""p: content and style priors, likelihoods, decoders and the SimVE program. Nothing of inference lives here."""

from pp_simve.models.decoders import MLPDecoder, ResidualDecoder
from pp_simve.models.likelihoods import Bernoulli, Gaussian, Likelihood
from pp_simve.models.networks import apply_network, network_precision
from pp_simve.models.priors import FlatPrior, GaussianPrior, Prior, StandardPrior
from pp_simve.models.simve import SimVE

__all__ = [
    "Bernoulli",
    "FlatPrior",
    "Gaussian",
    "GaussianPrior",
    "Likelihood",
    "MLPDecoder",
    "Prior",
    "ResidualDecoder",
    "SimVE",
    "StandardPrior",
    "apply_network",
    "network_precision",
]
