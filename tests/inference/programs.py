"""Small model and guide pairs, smooth and in float64 where asked, that the tests of inference share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pp_simve.inference import AmortizedGuide, DeltaGuide, Guide, PointGuide
from pp_simve.models import Bernoulli, FlatPrior, Gaussian, GaussianPrior, Prior, SimVE, StandardPrior
from pp_simve.testing.objective import ObjectiveSuite

LATENT, IMAGES, SHAPE = 3, 6, (1, 4, 4)
PIXELS, FEATURES = 16, 5

PRIORS: dict[str, Callable[[], Prior]] = {
    "gaussian isotropic": lambda: GaussianPrior(LATENT),
    "gaussian per axis": lambda: GaussianPrior(LATENT, [0.5, 1.0, 3.0], [0.05, 0.4, 2.0]),
    "gaussian learned": lambda: GaussianPrior(LATENT, 1.5, [0.05, 0.4, 2.0], learn_content=True, learn_style=True),
    "flat": lambda: FlatPrior(LATENT),
    "flat learned": lambda: FlatPrior(LATENT, [0.05, 0.4, 2.0], learn_style=True),
    "standard": lambda: StandardPrior(LATENT),
}
GUIDES: dict[str, Callable[[nn.Module, Prior], Guide]] = {"amortized": AmortizedGuide, "point": PointGuide}


class SmoothEncoder(nn.Sequential):
    """Tanh features of the pixels: differentiable everywhere, for finite differences."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(PIXELS, FEATURES), nn.Tanh())
        self.features = FEATURES


@dataclass
class Pair:
    """A model and guide over one prior."""

    model: SimVE
    guide: Guide
    prior: Prior

    def both(self) -> nn.ModuleList:
        """One module of all parameters."""
        return nn.ModuleList([self.model, self.guide])


def make_pair(
    prior: str = "gaussian isotropic",
    guide: str = "amortized",
    likelihood: str = "bernoulli",
    dtype: torch.dtype = torch.float64,
) -> Pair:
    """A pair on 4x4 images, from the current random state."""
    made = PRIORS[prior]()
    decoder = nn.Sequential(nn.Linear(LATENT, 7), nn.Tanh(), nn.Linear(7, PIXELS), nn.Unflatten(-1, SHAPE))
    observed = Bernoulli(decoder) if likelihood == "bernoulli" else Gaussian(decoder, 0.2, learned=True)
    pair = Pair(model=SimVE(made, observed), guide=GUIDES[guide](SmoothEncoder(), made), prior=made)
    pair.both().to(dtype)
    return pair


def draw_views(views: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Grey noise, shape ``(view, image, channel, height, width)``."""
    return torch.rand(views, IMAGES, *SHAPE, dtype=dtype)


def small_images(count: int = 40, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """uint8 noise to fit, the same at every call."""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)


class WithoutPixels(ObjectiveSuite):
    """The conformance suite of objectives of z alone: a flat prior, a guide without noise, the decoder left alone."""

    least_views: ClassVar[int] = 2
    without_gradient: ClassVar[Sequence[str]] = (
        "decoder.0.weight",
        "decoder.0.bias",
        "decoder.2.weight",
        "decoder.2.bias",
    )

    def make_prior(self, latent_dim: int) -> Prior:
        return FlatPrior(latent_dim)

    def make_guide(self, encoder: nn.Module, prior: Prior) -> Guide:
        return DeltaGuide(encoder, prior)
