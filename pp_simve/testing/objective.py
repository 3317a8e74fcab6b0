"""The conformance suite of objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
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
    check,
    check_five_steps,
    check_gradients,
    check_saved_and_loaded,
    close,
    must_run,
    seeded,
    skip,
)
from pp_simve.testing.programs import DOUBLE, GRADIENT, LATENT, SHAPE, Pair, TinyEncoder, tiny_model, tiny_views

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


class ObjectiveSuite(ABC):
    """Checks that an objective is an objective: subclass it, say how to make yours, and run pytest.

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
    without_gradient: ClassVar[Sequence[str]] = ()
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

    # What it returns.

    def test_terms_are_named_scalars(self) -> None:
        """``loss`` among them, all finite, for any number of views."""
        objective = self._made().objective
        for views in range(self._fewest_views(objective), 4):
            terms = _terms(objective, tiny_views(views))
            for name, value in terms.items():
                check(
                    isinstance(value, Tensor) and value.ndim == 0,
                    f"for {views} views the term {name!r} is {_what(value)}. Expected a tensor without dimensions: sum "
                    "over views, take the mean over images, and leave it on its device",
                )
                check(
                    bool(torch.isfinite(value.detach())),
                    f"for {views} views the term {name!r} is {float(value.detach())}. Expected a finite number; look "
                    "for log, sqrt or a division at zero",
                )

    def test_only_the_loss_carries_a_gradient(self) -> None:
        """Terms beside it are for the metrics, and would keep their graph alive."""
        terms = _terms(self._made().objective, tiny_views(2))
        attached = [name for name, value in terms.items() if name != "loss" and value.requires_grad]
        check(
            not attached,
            f"the terms {', '.join(attached)} carry a gradient. Expected only 'loss' to: return term.detach(), else "
            "the graphs of all steps between two reads of the metrics are kept in memory",
        )
        _backward(terms)

    def test_the_loss_is_a_mean_over_images(self) -> None:
        """A batch's loss is the mean of its images', up to the noise of draws, which is averaged out by copies."""
        if not self.additive:
            skip("additive is False")
        objective, images = self._made().objective, _unlike_images()
        whole, error = _mean_loss(objective, images)
        alone = [_mean_loss(objective, images[:, image : image + 1]) for image in range(images.shape[1])]
        mean = torch.stack([loss for loss, _ in alone]).mean()
        error_of_mean = torch.stack([error for _, error in alone]).square().sum().sqrt() / len(alone)
        allowed = 6 * (error.square() + error_of_mean.square()).sqrt() + 1e-9 * mean.abs()
        check(
            bool((whole - mean).abs() <= allowed),
            f"the loss of a batch is {float(whole):.5g} nats, the mean of the losses of its images alone "
            f"{float(mean):.5g} (± {float(allowed):.2g}). Expected them to be equal: sum over views and axes, divide "
            "by the number of images (views.shape[1]), and let no image depend on another. Where it compares images by "
            "intent, set additive = False",
        )

    def test_the_order_of_images_does_not_matter(self) -> None:
        """A batch is a set; up to the noise of draws."""
        objective, images = self._made().objective, _unlike_images()
        if getattr(objective, "indexed", False):
            skip("the objective knows its images by their index")
        first, error = _mean_loss(objective, images)
        second, error_again = _mean_loss(objective, images.flip(1))
        allowed = 6 * (error.square() + error_again.square()).sqrt() + 1e-9 * first.abs()
        check(
            bool((first - second).abs() <= allowed),
            f"the loss of a batch is {float(first):.5g} nats, in reverse order {float(second):.5g} "
            f"(± {float(allowed):.2g}). Expected them to be equal: give no image a weight or a part by its index",
        )

    # Training.

    def test_every_parameter_gets_a_gradient(self) -> None:
        """Those of model and guide, which must be the objective's own: a fit trains what ``parameters()`` says."""
        pair = self._made()
        known = {id(parameter) for parameter in pair.objective.parameters()}
        for name, parameter in pair.parts.named_parameters():
            check(
                id(parameter) in known or name.endswith(tuple(self.without_gradient)),
                f"parameter {name} is not among objective.parameters(), so a fit does not train it. Expected all of "
                "model and guide: keep both as attributes of the objective (self.model = model), in no list or dict",
            )
        pair.objective.train()
        loss = _loss(_terms(pair.objective, tiny_views(2)))
        check_gradients(pair.parts, loss, GRADIENT, self.without_gradient)

    def test_gradients_agree_with_finite_differences(self) -> None:
        """Along one direction through all parameters, under one seed, in float64."""
        if not self.exact_gradient:
            skip("exact_gradient is False")
        objective, views = self._made().objective, tiny_views(2)
        parameters = _trained(objective)

        _backward(_terms(objective, views))
        with seeded(), torch.no_grad():
            direction = [torch.randn_like(parameter) for parameter in parameters]
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            slope = torch.stack([(g * d).sum() for g, d in zip(gradients, direction, strict=True)]).sum()
            step, values = 1e-5, []
            for move in (step, -2 * step):
                for parameter, along in zip(parameters, direction, strict=True):
                    parameter.add_(along, alpha=move)
                values.append(_terms(objective, views)["loss"])
        difference = (values[0] - values[1]) / (2 * step)
        message = (
            "the gradient of the loss is not its slope by finite differences. Expected the derivative at fixed noise: "
            "look for .detach() on a part of the loss, or draws without rsample; where a part is stopped by intent, "
            "set exact_gradient = False"
        )
        close(slope, difference, message, rtol=1e-5, atol=1e-5)

    def test_five_steps_of_fit(self) -> None:
        """From bytes, in float32: terms stay finite, and every parameter moves."""
        pair = self._made(dtype=torch.float32)
        check_five_steps(pair.parts, pair.model, pair.guide, SHAPE, pair.objective, self.without_gradient)

    def test_a_step_reads_nothing_back(self) -> None:
        """Neither forward nor backward makes the host wait for the device."""
        objective, views = self._made(dtype=torch.float32).objective, tiny_views(2, torch.float32)
        objective.train()
        with pyro.validation_enabled(False):
            _backward(_terms(objective, views))  # once unwatched: what is read on first use is read once
            with seeded(), read_backs() as found:
                _called(objective, views)["loss"].backward()
        check(
            not found,
            f"a step reads back from the device: {', '.join(found)}. Expected no reads, each of which makes a GPU "
            "wait: no .item(), float(), bool() or `if` on a tensor, no .cpu(), no indexing by a mask (use torch.where)",
        )

    def test_the_same_seed_gives_the_same_terms(self) -> None:
        """All noise comes from torch's generator."""
        objective = self._made().objective
        found = [_terms(objective, tiny_views(2)) for _ in range(2)]
        for name, value in found[0].items():
            again = found[1][name]
            check(
                torch.equal(value, again),
                f"under one seed the term {name!r} is {value.tolist()} and then {again.tolist()}. Expected the same: "
                "take all noise from torch, and let no call change what the next one does in evaluation mode",
            )

    # Housekeeping.

    def test_what_is_saved_is_all_there_is(self) -> None:
        """An objective made otherwise that loads the state gives the same terms, bit for bit."""
        views = tiny_views(2)

        def make(seed: int) -> nn.Module:
            return self._made(seed).objective

        def train(objective: nn.Module) -> None:
            objective.train()
            optimizer = torch.optim.Adam(_trained(objective), lr=1e-2)
            for _ in range(2):
                optimizer.zero_grad()
                _backward(_terms(objective, views))
                optimizer.step()

        def same(original: nn.Module, other: nn.Module) -> None:
            found, loaded = _terms(original, views), _terms(other, views)
            for name, value in found.items():
                check(
                    torch.equal(value, loaded[name]),
                    f"the term {name!r} of a second objective differs after loading the state of the first. Expected "
                    "the same bits, or a resumed fit goes another way: what it knows must be parameters or buffers "
                    "(register_buffer), and no plain attributes",
                )

        check_saved_and_loaded(make, train, same)

    def test_float32_stays_and_float64_is_kept(self) -> None:
        """The dtype of parameters and views is that of every term."""
        for dtype in (torch.float32, torch.float64):
            self._check_all("dtype", dtype, self._made(dtype=dtype).objective, tiny_views(2, dtype))

    def test_it_moves_to_the_gpu(self) -> None:
        """``objective.to("cuda")`` is all it takes."""
        if not torch.cuda.is_available():
            skip("there is no GPU")
        views = tiny_views(2).to("cuda")
        self._check_all("device", views.device, self._made().objective.to("cuda"), views)

    # What the checks run on.

    def _made(self, seed: int = 0, dtype: torch.dtype = DOUBLE) -> _Made:
        with seeded(seed):
            prior = self.make_prior(LATENT)
            guide = self.make_guide(TinyEncoder(), prior)
            model = tiny_model(prior)
            objective = self.make(model, guide)
        nn.ModuleList([model, guide, objective]).to(dtype).eval()
        return _Made(model, guide, objective)

    def _fewest_views(self, objective: nn.Module) -> int:
        return max(self.least_views, 2 if getattr(objective, "original_first", False) else 1)

    def _check_all(self, attribute: str, expected: object, objective: nn.Module, views: Tensor) -> None:
        terms = _terms(objective, views)
        for name, value in terms.items():
            check(
                getattr(value, attribute) == expected,
                f"the term {name!r} has {attribute} {getattr(value, attribute)}. Expected {expected}, that of views "
                "and parameters. Make new tensors like others (x.new_zeros), keep constants as buffers, and leave out "
                ".float() and .cpu()",
            )
        _backward(terms)


class _Made:
    """An objective and the pair it is of."""

    def __init__(self, model: SimVE, guide: Guide, objective: nn.Module) -> None:
        self.model, self.guide, self.objective = model, guide, objective
        self.parts = Pair(model, guide)


def _called(objective: nn.Module, views: Tensor) -> dict[str, Tensor]:
    """As the loop calls it: an indexed objective is told which images these are."""
    index = (torch.arange(views.shape[1], device=views.device),) if getattr(objective, "indexed", False) else ()
    terms: dict[str, Tensor] = objective(views, *index)
    return terms


def _terms(objective: nn.Module, views: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """What the objective returns under a seed: a dictionary with a loss."""
    expected = "it to run for any number of views and images (two views or more with original_first = True)"
    with seeded(seed), must_run(f"the objective on views of shape {tuple(views.shape)}", expected):
        terms = _called(objective, views)
    check(
        isinstance(terms, dict) and all(isinstance(name, str) for name in terms) and "loss" in terms,
        f"for {len(views)} views the objective returned {_what(terms)}. Expected a dictionary of named terms, 'loss' "
        "among them",
    )
    return terms


def _trained(objective: nn.Module) -> list[nn.Parameter]:
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    check(
        bool(parameters),
        "the objective has no parameters to train. Expected those of model and guide: keep both as attributes",
    )
    return parameters


def _backward(terms: dict[str, Tensor]) -> None:
    _loss(terms).backward()


def _loss(terms: dict[str, Tensor]) -> Tensor:
    loss = terms["loss"]
    check(
        isinstance(loss, Tensor) and loss.requires_grad,
        "the loss carries no gradient. Expected one; look for .detach(), .item() or torch.no_grad()",
    )
    return loss


def _unlike_images() -> Tensor:
    """Two views each of a dark, a grey and a bright image, whose losses are far apart: ``(2, 3, 1, 4, 4)``."""
    with seeded(7):
        noise = torch.rand(2, 3, *SHAPE, dtype=DOUBLE)
    return torch.tensor([0.0, 0.4, 0.9], dtype=DOUBLE).view(3, 1, 1, 1) + 0.1 * noise


@torch.no_grad()
def _mean_loss(objective: nn.Module, images: Tensor, copies: int = 64, repeats: int = 16) -> tuple[Tensor, Tensor]:
    """The loss of a batch with each image many times, in a row: mean over several seeds, and its standard error."""
    views = images.repeat_interleave(copies, 1)
    with pyro.validation_enabled(False):
        losses = torch.stack([_terms(objective, views, seed)["loss"] for seed in range(repeats)])
    return losses.mean(), losses.std() / repeats**0.5


def _what(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a dictionary of {', '.join(map(repr, value)) or 'nothing'}"
    return f"a {type(value).__name__}"
