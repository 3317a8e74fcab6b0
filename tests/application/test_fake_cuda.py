"""Programs on a GPU that is not there: torch's fake tensors have a device and a shape, but no values.

An operation over two devices raises, and so does reading a value back. Backward passes need a device; they are not run.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from pp_simve.data.types import DataShape, Split
from pp_simve.inference.data import training_source
from pp_simve.inference.objectives.balance import EVERY, Balanced
from pp_simve.inference.tracing import densities, run_pair
from pp_simve.models import PlainViews, Views
from pp_simve.run.config import FitConfig
from pp_simve.run.methods import METHODS, Program, build
from pp_simve.run.viewing import Viewing

IMAGES = 16
CUDA = torch.device("cuda", 0)
GREY, RGB = (1, 28, 28), (3, 32, 32)


class CudaGenerator(torch.Generator):
    """Says that it is on the GPU; fake tensors draw nothing."""

    device = CUDA


@dataclass
class OnCuda:
    """A program, and its views of a batch."""

    program: Program
    views: PlainViews
    places: Tensor
    mode: FakeTensorMode

    def terms(self) -> dict[str, Tensor]:
        objective = self.program.objective
        arguments = (self.views, self.places) if objective.indexed else (self.views,)
        with self.mode, pyro.validation_enabled(False):  # as from the second step of a fit: the checks read values
            return dict(objective(*arguments))


def on_cuda(shape: tuple[int, int, int] = GREY, **settings: Any) -> OnCuda:
    small = {"latent_dim": 8, "encoder": "mlp(hidden=(16,))", "decoder": "mlp(hidden=(16,))"}
    if shape == RGB:
        small |= {"encoder": "residual(width=4)", "decoder": "residual(width=4)"}
    data = DataShape(shape, images=IMAGES)
    chosen = FitConfig(**{"data": "mnist" if shape == GREY else "cifar10"} | small | settings).resolve(data)
    program, viewing = build(chosen, data), Viewing.of(chosen, data)
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        _move(program.objective)
        images = viewing.images(Split(torch.empty(IMAGES, *shape, dtype=torch.uint8, device=CUDA), None, None))
        first = program.objective.original_first
        source = training_source(images, viewing.policy, chosen.views, original_first=first)
        places = torch.arange(IMAGES, device=CUDA)
        return OnCuda(program, source.draw(places, CudaGenerator()), places, mode)


def _move(module: nn.Module) -> None:
    """Parameters and buffers become fakes on the GPU; ``Module.to`` would ask the driver."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=CUDA)
            setattr(part, name, nn.Parameter(empty, parameter.requires_grad))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=CUDA))
        if isinstance(part, Balanced):
            part.calls = EVERY + 1  # between two measurements, which take gradients


def test_what_the_fakes_notice() -> None:
    with FakeTensorMode(allow_non_fake_inputs=False):
        there = torch.empty(2, device=CUDA)
        with pytest.raises(DataDependentOutputException):
            there.sum().item()
        with pytest.raises(RuntimeError, match="on the same device"):
            there + torch.empty(2)


@pytest.mark.parametrize("shape", [GREY, RGB], ids=["grey", "colour"])
@pytest.mark.parametrize("method", METHODS)
def test_methods_stay_on_the_device_and_read_nothing_back(method: str, shape: tuple[int, int, int]) -> None:
    modalities = {"modalities": "halves"} if method == "clip" else {}
    terms = on_cuda(shape, method=method, **modalities).terms()
    assert {name: value.device for name, value in terms.items()} == dict.fromkeys(terms, CUDA)


NO_DISCRETE, ALL = ("gaussian", "flat", "block", "standard"), ("amortized", "flow", "point", "delta")
PAIRS = [
    *itertools.product(NO_DISCRETE, (*ALL, "structured")),
    *itertools.product(("mixture", "empirical"), ALL),
    ("student", "structured"),
]
"""Without those that are refused: guides that draw a discrete content, or need a posterior that Student's t has not."""


@pytest.mark.parametrize(("prior", "guide"), PAIRS)
def test_priors_and_guides_stay_on_the_device(prior: str, guide: str) -> None:
    fit = on_cuda(prior=prior, guide=guide)
    assert fit.terms()["loss"].device == CUDA
    model, approximation = fit.program.model, fit.program.guide
    with fit.mode, torch.no_grad(), pyro.validation_enabled(False):
        means = approximation.posterior(fit.views)
        assert {means.z.device, means.content.device, means.style.device} == {CUDA}
        assert approximation.embed(torch.empty(IMAGES, *GREY, device=CUDA)).z.device == CUDA
        if prior != "flat":  # which cannot be drawn from
            assert model.generate(3, 2).device == CUDA
        for density in densities(*run_pair(model, approximation, Views.of(fit.views), particles=5)):
            # Pyro's improper density is a zero on the CPU, whatever the device.
            assert density.log_prob.device == CUDA or (prior, density.term) == ("flat", "content")


@pytest.mark.parametrize("policy", ["affine", "crop", "crop+colour", "paper"])
def test_augmentations_stay_on_the_device(policy: str) -> None:
    views = on_cuda(RGB, policy=policy).views
    assert isinstance(views, Tensor)
    assert (views.device, views.shape) == (CUDA, (2, IMAGES, *RGB))
