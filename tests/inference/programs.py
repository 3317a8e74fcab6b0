"""Small model and guide pairs, smooth and in float64 where asked, that the tests of inference share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from lightning_fabric import Fabric
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn

from pp_simve.inference import ELBO, AmortizedGuide, DeltaGuide, Guide, PointGuide, WarmupCosine
from pp_simve.inference.augmentations import AugmentationPolicy, augmentation_policy
from pp_simve.inference.data import Images, Source
from pp_simve.inference.loop import VALIDATED_STEPS, Loop
from pp_simve.inference.optimizers import Adam
from pp_simve.inference.plan import Plan
from pp_simve.models import (
    Bernoulli,
    FlatPrior,
    Gaussian,
    GaussianPrior,
    GroupLikelihood,
    InfoNCE,
    NTXent,
    Prior,
    SimVE,
    StandardPrior,
    ViewsLike,
)
from pp_simve.testing.objective import ObjectiveSuite, read_backs

LATENT, IMAGES, SHAPE = 3, 6, (1, 4, 4)
PIXELS, FEATURES = 16, 5
DOUBLE = torch.float64
GROUPS: dict[str, type[GroupLikelihood]] = {"views": NTXent, "images": InfoNCE}

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


class Unreparametrised(dist.Normal):
    has_rsample = False


class FaultyGuide(PyroModule):
    """The mean-field guide of the sites, with one fault planted."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, FEATURES)).double()

    def forward(self, views: Tensor) -> None:
        count, images = views.shape[:2]
        loc = self.encoder(views.flatten(0, 1).double()).to(views.dtype).view(count, images, FEATURES)[..., :LATENT]
        if self.fault == "param":
            loc = loc + pyro.param("shift", torch.zeros((), dtype=loc.dtype))
        if self.fault == "shared latent":
            loc = loc + pyro.sample("shift", dist.Normal(torch.zeros((), dtype=loc.dtype), 1.0))
        normal = (Unreparametrised if self.fault == "not reparametrised" else dist.Normal)(loc, 1.0)
        with pyro.plate("image", images, dim=-1):
            pyro.sample("content", dist.Normal(loc.mean(0, keepdim=True), 1.0).to_event(1))
            if self.fault == "extra site":
                pyro.sample("surplus", dist.Normal(loc.mean(0, keepdim=True), 1.0).to_event(1))
            if self.fault == "plate":
                pyro.sample("style", normal.to_event(1))
            elif self.fault != "no style":
                with pyro.plate("view", count, dim=-2):
                    pyro.sample("style", normal.to_event(2) if self.fault == "event" else normal.to_event(1))


class Dim(AugmentationPolicy):
    """A user's policy: nothing but names, sample and apply."""

    names = ("dimming",)

    def sample(self, count: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        return {"dimming": torch.rand(count, generator=generator, device=generator.device)}

    def apply(self, images: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        return images * (1 - parameters["dimming"]).view(-1, 1, 1, 1)


class Still(AugmentationPolicy):
    """Changes nothing and draws nothing."""

    names = ()

    def sample(self, count: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        return {}

    def apply(self, images: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        return images


def embeddings(guide: Any, views: Tensor) -> Tensor:
    """z of a delta guide without projection, by its layers: shape ``(view, image, latent)``."""
    head = guide.encoder_head
    return head.head(head.encoder(views.flatten(0, 1))).unflatten(0, views.shape[:2])


def on_sphere(vectors: Tensor) -> Tensor:
    return vectors / vectors.square().sum(-1, keepdim=True).sqrt()


def gradients(loss: Tensor, parameters: Iterable[Tensor]) -> list[Tensor]:
    """Every parameter must have one."""
    return list(torch.autograd.grad(loss, list(parameters), retain_graph=True))


def assert_same(
    ours: Tensor, theirs: Tensor, parameters: Iterable[Tensor], tolerance: float = 1e-10, moves: float = 0.0
) -> None:
    """The same value and gradient; each gradient has an element of at least ``moves``."""
    parameters = list(parameters)
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    for our, their in zip(gradients(ours, parameters), gradients(theirs, parameters), strict=True):
        assert our.abs().max() >= moves
        torch.testing.assert_close(our, their, rtol=tolerance, atol=tolerance)


def assert_trace_elbo(model: nn.Module, guide: nn.Module, views: ViewsLike, particles: int = 1) -> None:
    """The ELBO's value and gradients are those of Pyro's own, bit for bit."""
    parameters, found = list(nn.ModuleList([model, guide]).parameters()), []
    ours = ELBO(model, guide, particles=particles, scale=1)
    theirs = Trace_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=2)
    for loss_of in (lambda: ours(views)["loss"], lambda: theirs.differentiable_loss(model, guide, views)):
        pyro.set_rng_seed(3)
        loss = loss_of()
        found.append([loss, *torch.autograd.grad(loss, parameters, allow_unused=True)])
    assert found[0][0].dtype == DOUBLE
    for our, their in zip(*found, strict=True):
        assert (our is None) == (their is None)
        assert our is None or torch.equal(our, their)


def assert_rate(steps: Sequence[float], errors: Sequence[Tensor], rate: float, tolerance: float = 0.1) -> None:
    """The largest element of the error falls like a power of the step, from each step to the next."""
    logs = torch.tensor([float(error.detach().abs().max()) for error in errors], dtype=DOUBLE).log()
    found = logs.diff() / torch.tensor([math.log(step) for step in steps], dtype=DOUBLE).diff()
    torch.testing.assert_close(found, torch.full_like(found, rate), rtol=0, atol=tolerance)


def stop_after(steps: int) -> Callable[[], bool]:
    """A ``should_stop`` that answers True once, after so many steps."""
    calls = iter(range(1, 1000))
    return lambda: next(calls) == steps


def make_loop(objective: nn.Module, images: Tensor | Source, policy: str = "affine") -> Loop:
    """A loop of batches of 8 images, two views each, metrics never fetched."""
    plan = Plan(batch_size=8, total_steps=100, optimizer=Adam(1e-3), schedule=WarmupCosine(), seed=0, fetch_every=100)
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    if isinstance(images, Tensor):
        channels, height, width = images.shape[1:]
        images = Images(images, augmentation_policy(policy, (channels, height, width)), 2)
    return Loop(fabric, objective, images, plan)


def assert_no_reads(loop: Loop, may_stay: Sequence[Tensor] = ()) -> None:
    """Over an epoch and the turn to the next, the optimizer's steps included; every parameter moves."""
    for _ in range(VALIDATED_STEPS):
        loop.step()
    before = [parameter.detach().clone() for parameter in loop.parameters]
    with read_backs() as found:
        for _ in range(loop.steps_per_epoch + 1):
            loop.step()
    assert found == []
    for was, parameter in zip(before, loop.parameters, strict=True):
        assert any(parameter is stays for stays in may_stay) or not torch.equal(was, parameter)
    assert len(loop.fetch()) == loop.steps


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
