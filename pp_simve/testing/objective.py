"""The conformance suite of objectives, and the count of what a step reads back from the device."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
    skip,
    tiny_model,
    tiny_views,
    trained,
)

READS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique2", "_unique2"}


class _Counter(TorchDispatchMode):
    """Names every operation that would make an accelerator wait for its result."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
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
    with ExitStack() as stack:
        # Those read a tensor on the CPU without an operation that is dispatched.
        for method in ("tolist", "numpy", "cpu", "__array__"):
            stack.enter_context(mock.patch.object(Tensor, method, _counted(method, counter.found)))
        stack.enter_context(counter)
        yield counter.found


def _counted(method: str, found: list[str]) -> Callable[..., Any]:
    real = getattr(Tensor, method)

    def counted(*args: Any, **kwargs: Any) -> Any:
        found.append(method)
        return real(*args, **kwargs)

    return counted


class Bound(Pair):
    """An objective and the pair it is of."""

    def __init__(self, model: SimVE, guide: Guide, objective: nn.Module) -> None:
        super().__init__(model, guide)
        self.objective = objective


class ObjectiveSuite(Suite[Bound]):
    """Checks of an objective of your own: subclass it, define how to make one, and let pytest collect the subclass.

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

    # What it returns

    def test_terms_are_named_scalars(self) -> None:
        """``loss`` among them, all finite, for any number of views."""
        objective = self._part().objective
        for views in range(max(self.least_views, 2 if getattr(objective, "original_first", False) else 1), 4):
            expected = "it to run for any number of views and images (two views or more with original_first = True)"
            with must_run(f"the objective on {views} view(s)", expected):
                terms = _terms(objective, tiny_views(views))
            check(
                isinstance(terms, dict) and all(isinstance(name, str) for name in terms) and "loss" in terms,
                f"for {views} views the objective returned {_what(terms)}. Expected a dictionary of named terms, "
                "'loss' among them",
            )
            for name, value in terms.items():
                check(
                    isinstance(value, Tensor) and value.ndim == 0,
                    f"for {views} views the term {name!r} is {_what(value)}. Expected a tensor without dimensions",
                )
                number = float(value.detach())
                check(math.isfinite(number), f"for {views} views the term {name!r} is {number}. {NUMBERS}")

    def test_only_the_loss_carries_a_gradient(self) -> None:
        """Terms beside it are for the metrics, and would keep their graph alive."""
        terms = _terms(self._part().objective, tiny_views())
        attached = [name for name, value in terms.items() if name != "loss" and value.requires_grad]
        check(
            not attached,
            f"the terms {', '.join(attached)} carry a gradient. Expected only 'loss' to: return term.detach(), else "
            "the graphs of many steps are kept in memory",
        )
        check(terms["loss"].requires_grad, "the loss carries no gradient. Look for .detach() or torch.no_grad()")

    def test_the_loss_is_a_mean_over_images(self) -> None:
        """A batch's loss is the mean of its images', up to the noise of draws, which is averaged out by copies."""
        if not self.additive:
            skip("additive is False")
        images = _unlike_images()
        whole, error = self._mean_loss(images)
        alone = torch.tensor([self._mean_loss(image) for image in images.split(1, 1)], dtype=DOUBLE)
        mean, error_of_mean = float(alone[:, 0].mean()), float(alone[:, 1].square().sum().sqrt()) / len(alone)
        allowed = 6 * (error**2 + error_of_mean**2) ** 0.5 + 1e-9 * abs(mean)
        check(
            abs(whole - mean) <= allowed,
            f"the loss of a batch is {whole:.5g} nats, the mean of the losses of its images alone {mean:.5g} "
            f"(± {allowed:.2g}). Expected them to be equal: divide by the number of images (views.shape[1]). Where it "
            "compares images by intent, set additive = False",
        )

    def test_the_order_of_images_does_not_matter(self) -> None:
        """A batch is a set; up to the noise of draws."""
        if getattr(self._part().objective, "indexed", False):
            skip("the objective is given the images' indices")
        images = _unlike_images()
        (first, error), (second, error_again) = self._mean_loss(images), self._mean_loss(images.flip(1))
        allowed = 6 * (error**2 + error_again**2) ** 0.5 + 1e-9 * abs(first)
        check(
            abs(first - second) <= allowed,
            f"the loss of a batch is {first:.5g} nats, in reverse order {second:.5g} (± {allowed:.2g}). Expected them "
            "to be equal: give no image a weight or a part by its index",
        )

    # Training

    def test_parameters_are_the_objectives(self) -> None:
        """A fit trains what ``parameters()`` of the objective gives."""
        part = self._part()
        known = {id(parameter) for parameter in part.objective.parameters()}
        for name, parameter in trained(Pair(part.model, part.guide), self.without_gradient).items():
            check(
                id(parameter) in known,
                f"parameter {name} is not among objective.parameters(), so a fit does not train it. Keep model and "
                "guide as attributes of the objective (self.model = model), in no list or dict",
            )

    def test_gradients_equal_finite_differences(self) -> None:
        """Of the loss, under one seed; set exact_gradient = False where a part of it is stopped by intent."""
        if not self.exact_gradient:
            skip("exact_gradient is False")
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

    def _loss(self, part: Bound) -> Tensor:
        return _terms(part.objective, tiny_views())["loss"]

    def _fits(self) -> list[tuple[Bound, SimVE, Guide, nn.Module]]:
        part = self._part(dtype=torch.float32)
        return [(part, part.model, part.guide, part.objective)]

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


def _unlike_images() -> Tensor:
    """Two views each of a dark, a grey and a bright image, whose losses are far apart: ``(2, 3, *SHAPE)``."""
    with seeded(7):
        noise = torch.rand(2, 3, *SHAPE, dtype=DOUBLE)
    return torch.tensor([0.0, 0.4, 0.9], dtype=DOUBLE).view(3, 1, 1, 1) + 0.1 * noise


def _what(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a dictionary of {', '.join(map(repr, value)) or 'nothing'}"
    return f"a {type(value).__name__}"
