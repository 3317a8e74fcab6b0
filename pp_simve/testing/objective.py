"""The conformance suite of objectives, and the count of what a step reads back from the device."""

from __future__ import annotations

import math
import unittest
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from typing import Any, ClassVar
from unittest import mock

import pyro
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pp_simve.inference import AmortizedGuide, Guide
from pp_simve.models import GaussianPrior, Prior, SimVE
from pp_simve.testing.checks import (
    DOUBLE,
    LATENT,
    NUMBERS,
    SHAPE,
    Pair,
    Suite,
    TinyEncoder,
    check,
    check_finite_differences,
    must_run,
    seeded,
    tiny_model,
    tiny_views,
)

READS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique2", "_unique2"}


class _Counter(TorchDispatchMode):
    """Names every operation that would make an accelerator wait for its result."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        moved = name == "_to_copy" and kwargs.get("device") not in (None, args[0].device)
        masked = name in ("index", "index_put", "index_put_") and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in READS or moved or masked:
            self.found.append(name)
        return func(*args, **kwargs)


@contextmanager
def read_backs() -> Iterator[list[str]]:
    """What is read back from the device within the context, by the operations' names; counted on a CPU as well."""
    counter = _Counter()
    # Those read a tensor on the CPU without an operation that is dispatched.
    undispatched = {name: getattr(Tensor, name) for name in ("tolist", "numpy", "cpu", "__array__")}

    def counted(name: str, *args: Any, **kwargs: Any) -> Any:
        counter.found.append(name)
        return undispatched[name](*args, **kwargs)

    patches: dict[str, Any] = {
        name: partialmethod(lambda self, name, *a, **k: counted(name, self, *a, **k), name) for name in undispatched
    }
    with mock.patch.multiple(Tensor, **patches), counter:
        yield counter.found


class Bound(Pair):
    """An objective and the pair it is of."""

    def __init__(self, model: SimVE, guide: Guide, objective: nn.Module) -> None:
        super().__init__(model, guide)
        self.objective = objective


class ObjectiveSuite(Suite[Bound]):
    """Conformance suite of objectives: subclass it, define how to make one, and let pytest collect the subclass.

        class TestMyObjective(ObjectiveSuite):
            def make(self, model: SimVE, guide: Guide) -> nn.Module:
                return MyObjective(model, guide)

    Attributes:
        additive: whether the loss is the mean of a term for each image. False for objectives that compare images with
            one another, or that are not linear in the mean over the batch.
        exact_gradient: whether the gradient is that of the loss at fixed noise. False for objectives that stop part of
            it on purpose.
        without_gradient: names of parameters of model and guide that need none, or what their names end with.
        least_views: how many views of an image it needs, 2 where it compares them.
    """

    additive: ClassVar[bool] = True
    exact_gradient: ClassVar[bool] = True
    least_views: ClassVar[int] = 1

    @abstractmethod
    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        """The objective of that pair."""

    def make_prior(self, latent_dim: int) -> Prior:
        """The prior of the pair."""
        return GaussianPrior(latent_dim)

    def make_guide(self, encoder: nn.Module, prior: Prior) -> Guide:
        """The guide of the pair."""
        return AmortizedGuide(encoder, prior)

    def test_terms_are_named_scalars(self) -> None:
        """``loss`` among them, all finite, for any number of views."""
        objective = self._part().objective
        for views in range(max(self.least_views, 2 if getattr(objective, "original_first", False) else 1), 4):
            expected = "it to run for any number of views and images (two views or more with original_first = True)"
            with must_run(f"the objective on {views} view(s)", expected):
                terms = _terms(objective, tiny_views(views))
            named = isinstance(terms, dict) and "loss" in terms
            check(named, f"for {views} views the objective returned {terms}, expected a dictionary with 'loss' in it")
            for name, value in terms.items():
                scalar = isinstance(value, Tensor) and value.ndim == 0
                check(scalar, f"for {views} views the term {name!r} is {value}, expected a tensor without dimensions")
                number = float(value.detach())
                check(math.isfinite(number), f"for {views} views the term {name!r} is {number}. {NUMBERS}")

    def test_only_the_loss_carries_a_gradient(self) -> None:
        """Terms beside it are for the metrics, and would keep their graph alive."""
        terms = _terms(self._part().objective, tiny_views())
        attached = [name for name, value in terms.items() if name != "loss" and value.requires_grad]
        check(not attached, f"the terms {', '.join(attached)} carry a gradient, expected term.detach()")
        check(terms["loss"].requires_grad, "the loss carries no gradient. Look for .detach() or torch.no_grad()")

    def test_the_loss_is_a_mean_over_images(self) -> None:
        """Of any order, and the mean of the losses of its images, up to the noise of draws, averaged out by copies."""
        images = _unlike_images()
        whole = self._mean_loss(images)
        if not getattr(self._part().objective, "indexed", False):
            message = "in reverse order; give no image a weight or a part by its index"
            _check_near(whole, self._mean_loss(images.flip(1)), message)
        if self.additive:
            alone = torch.tensor([self._mean_loss(image) for image in images.split(1, 1)], dtype=DOUBLE)
            mean = float(alone[:, 0].mean()), float(alone[:, 1].norm()) / len(alone)
            message = "as mean of its images' own; divide by views.shape[1], or set additive = False if by intent"
            _check_near(whole, mean, message)

    def test_parameters_are_the_objectives(self) -> None:
        """A fit trains what ``parameters()`` of the objective gives."""
        part = self._part()
        known = {id(parameter) for parameter in part.objective.parameters()}
        for name, parameter in self._trained(Pair(part.model, part.guide)).items():
            message = f"parameter {name} is not among objective.parameters(). Keep model and guide as attributes"
            check(id(parameter) in known, message)

    def test_gradients_equal_finite_differences(self) -> None:
        """Of the loss, under one seed; set exact_gradient = False where a part of it is stopped by intent."""
        if not self.exact_gradient:
            raise unittest.SkipTest("exact_gradient is False")
        objective = self._part().objective
        check_finite_differences(
            lambda: {"the loss (see exact_gradient)": _terms(objective, tiny_views())["loss"]}, objective.parameters()
        )

    def test_a_step_reads_nothing_back(self) -> None:
        """Neither forward nor backward makes the host wait for the device."""
        objective, views = self._part(dtype=torch.float32).objective.train(), tiny_views(dtype=torch.float32)
        with pyro.validation_enabled(False):
            _terms(objective, views)["loss"].backward()  # once unwatched: what is read on first use is read once
            with seeded(), read_backs() as found:
                _called(objective, views)["loss"].backward()
        check(
            not found,
            f"a step reads back from the device: {', '.join(found)}. Expected no .item(), float(), bool() or `if` on a "
            "tensor, no .cpu(), no indexing by a mask (use torch.where): a GPU waits for each",
        )

    # What the checks run on

    def _new(self) -> Bound:
        prior = self.make_prior(LATENT)
        guide = self.make_guide(TinyEncoder(), prior)
        model = tiny_model(prior)
        return Bound(model, guide, self.make(model, guide))

    def _inputs(self, part: Bound, dtype: torch.dtype = DOUBLE) -> tuple[Tensor, ...]:
        return (tiny_views(dtype=dtype),)

    def _outputs(self, part: Bound, *inputs: Tensor) -> dict[str, Tensor]:
        return {f"the term {name!r}": value for name, value in _terms(part.objective, inputs[0]).items()}

    def _fits(self, part: Bound) -> list[tuple[SimVE, Guide, nn.Module]]:
        return [(part.model, part.guide, part.objective)]

    @torch.no_grad()
    def _mean_loss(self, images: Tensor, copies: int = 64, repeats: int = 12) -> tuple[float, float]:
        """The loss of a batch with each image many times, in a row: mean over seeds, and its standard error."""
        objective, views = self._part().objective, images.repeat_interleave(copies, 1)
        with pyro.validation_enabled(False):
            losses = torch.stack([_terms(objective, views, seed)["loss"] for seed in range(repeats)])
        return float(losses.mean()), float(losses.std()) / repeats**0.5


def _called(objective: nn.Module, views: Tensor) -> dict[str, Tensor]:
    """As the loop calls it: an indexed objective is given the images' indices."""
    index = (torch.arange(views.shape[1], device=views.device),) if getattr(objective, "indexed", False) else ()
    terms: dict[str, Tensor] = objective(views, *index)
    return terms


def _terms(objective: nn.Module, views: Tensor, seed: int = 0) -> dict[str, Tensor]:
    with seeded(seed):
        return _called(objective, views)


def _check_near(loss: tuple[float, float], other: tuple[float, float], message: str) -> None:
    """Of two losses with their standard errors."""
    allowed = 6 * math.hypot(loss[1], other[1]) + 1e-9 * abs(loss[0])
    found = f"the loss of a batch is {loss[0]:.5g} nats, but {other[0]:.5g} (± {allowed:.2g}) {message}"
    check(abs(loss[0] - other[0]) <= allowed, found)


def _unlike_images() -> Tensor:
    """Two views each of a dark, a grey and a bright image, whose losses are far apart: ``(2, 3, *SHAPE)``."""
    with seeded(7):
        noise = torch.rand(2, 3, *SHAPE, dtype=DOUBLE)
    return torch.tensor([0.0, 0.4, 0.9], dtype=DOUBLE).view(3, 1, 1, 1) + 0.1 * noise
