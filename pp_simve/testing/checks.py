"""What the checks of all suites share: how they fail and skip, seeds, gradients, state, and a short fit."""

from __future__ import annotations

import io
import math
import unittest
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, TypeVar

import pyro
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from pp_simve.inference import Guide, fit
from pp_simve.models import SimVE

NUMBERS = (
    "Where a value is not finite or out of range, look for a scale that can reach zero, and for log, sqrt or a "
    "division at zero; softplus(...) + 1e-4 keeps a scale away from zero"
)

Made = TypeVar("Made", bound=nn.Module)


def check(condition: bool, message: str) -> None:
    """Raises AssertionError with ``message`` unless ``condition`` holds.

    A function and no ``assert``: it works under ``python -O`` too, and pytest leaves it as it is.
    """
    if not condition:
        raise AssertionError(message)


def close(actual: Tensor, expected: Tensor, message: str, rtol: float | None = None, atol: float | None = None) -> None:
    """Checks that two tensors agree: values within the tolerances, shape and dtype exactly.

    Tolerances are those of `torch.testing.assert_close`, by dtype where neither is given; one given alone makes the
    other zero. The failure begins with ``message`` and ends with the largest differences.
    """
    if (rtol is None) != (atol is None):
        rtol, atol = rtol or 0.0, atol or 0.0
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, msg=lambda found: f"{message}\n{found}")


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Runs a block under a seed of its own; the CPU's random state is afterwards what it was before."""
    with torch.random.fork_rng(devices=[]):
        # Of the CPU alone: torch.manual_seed would leave CUDA's changed, and takes a millisecond.
        torch.default_generator.manual_seed(seed)
        yield


def skip(reason: str) -> NoReturn:
    """Ends a check that does not apply; unittest and pytest both report it as skipped."""
    raise unittest.SkipTest(reason)


@contextmanager
def must_run(what: str, expected: str) -> Iterator[None]:
    """Turns any error within into a failed check that says what ran, and what was expected of it."""
    try:
        yield
    except (AssertionError, unittest.SkipTest):
        raise
    except Exception as error:
        raise AssertionError(f"{what} ends in {type(error).__name__}: {error}\nExpected {expected}") from error


def check_gradients(module: nn.Module, total: Tensor, message: str, without: Sequence[str] = ()) -> None:
    """Checks that every parameter of a module gets a finite gradient from ``total``, and not only zeros.

    Args:
        module: whose parameters; gradients they had are dropped.
        total: a scalar, taken backwards as a fit would.
        message: which gradient was expected, for the failure.
        without: names of parameters that need none, or what their names end with.
    """
    named = _trained(module, without)
    if not named:
        return
    advice = (
        f"; {message}. Look for .detach(), torch.no_grad(), .item(), .sample() in place of .rsample(), or a result "
        "that is not used; set requires_grad_(False) on what is to stay, or remove it"
    )
    check(total.requires_grad, f"no gradient reaches any parameter of {type(module).__name__}{advice}")
    module.zero_grad()
    total.backward()
    for name, parameter in named.items():
        gradient = parameter.grad
        check(
            gradient is not None and bool((gradient != 0).any()),
            f"no gradient reaches parameter {name}, so a fit would leave it as it was made{advice}",
        )
        check(
            bool(torch.isfinite(torch.as_tensor(gradient)).all()),
            f"the gradient of parameter {name} is not finite: {gradient}. {NUMBERS}",
        )


def _trained(module: nn.Module, without: Sequence[str]) -> dict[str, nn.Parameter]:
    """Parameters that are to be trained, by name."""
    named = module.named_parameters()
    return {name: value for name, value in named if value.requires_grad and not name.endswith(tuple(without))}


def check_finite_differences(functions: Callable[[], dict[str, Tensor]], inputs: Sequence[Tensor]) -> None:
    """Checks gradients against finite differences, in a random direction.

    Args:
        functions: called without arguments, gives tensors by name, functions of the inputs as they are.
        inputs: leaves in float64 that require a gradient.
    """
    inputs = [value for value in inputs if value.requires_grad and value.numel()]
    if not inputs:
        return

    def outputs(names: Sequence[str]) -> tuple[Tensor, ...]:
        # Outputs without any gradient would be left out of the comparison.
        anchor = torch.stack([value.sum() for value in inputs]).sum() * 0
        found = functions()
        return tuple(found[name] + anchor for name in names)

    def agree(*names: str) -> bool:
        found: bool = gradcheck(lambda *_: outputs(names), inputs, fast_mode=True, raise_exception=False)
        return found

    names = [name for name, value in functions().items() if value.numel()]
    if not agree(*names):
        wrong = next((name for name in names if not agree(name)), "the sum of all")
        raise AssertionError(
            f"the gradient of {wrong} with respect to parameters and latents is not the derivative found by finite "
            "differences; look for a detach(), a no_grad() or a .item() on the way"
        )


def check_no_plain_tensors(module: nn.Module) -> None:
    """Checks that all tensors a module was built with are parameters or buffers."""
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            check(
                not isinstance(value, Tensor),
                f"{f'{path}.{name}'.lstrip('.')} is a plain tensor: it keeps its device and dtype when the module moves"
                f" and is not saved with it. Register it instead: self.register_buffer({name!r}, ...)",
            )


def check_moves(numbers: Callable[[torch.device], dict[str, Tensor]]) -> None:
    """Checks that a part that moved to another device makes all its numbers there.

    That device is CUDA where there is one. Otherwise it is torch's "meta" device, which knows of tensors their shape
    and place alone; parts that look at values cannot be checked on it, which skips the check.

    Args:
        numbers: moves the part to a device; returns what it says there, by name.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "meta")
    advice = "make constants buffers, and new tensors like those at hand (torch.zeros_like(...), value.new_zeros(...))"
    try:
        with pyro.validation_enabled(False):
            found = numbers(device)
    except (RuntimeError, NotImplementedError) as error:
        if "expected device" in str(error) or "same device" in str(error):
            raise AssertionError(f"after moving to {device} some tensors stay behind ({error}); {advice}") from error
        if device.type == "meta":
            skip(f"it looks at values, so only a machine with CUDA can tell ({error})")
        raise
    for name, value in found.items():
        check(value.device.type == device.type, f"{name} is on {value.device} after moving to {device}; {advice}")


def perturb(module: nn.Module) -> None:
    """Moves every parameter a little, at random, as a fit would."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def check_saved_and_loaded(
    make: Callable[[int], Made], train: Callable[[Made], None], same: Callable[[Made, Made], None]
) -> None:
    """What a trained module's state says is all that it knows: another one that loads it does the same.

    Args:
        make: the module under a seed.
        train: takes a few steps with it, so that whatever is gathered on the way is there.
        same: called with both; raises where they differ.
    """
    original, other = make(1), make(2)
    train(original)
    file = io.BytesIO()
    torch.save(original.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    original.eval()
    other.eval()
    same(original, other)


def check_five_steps(
    parts: nn.Module,
    model: SimVE,
    guide: Guide,
    image_shape: tuple[int, int, int],
    objective: nn.Module | None = None,
    without: Sequence[str] = (),
) -> None:
    """Checks that five steps of a fit to noise have finite terms, and leave parameters finite and none where it was.

    Args:
        parts: whose parameters are checked.
        model, guide, objective: what is fitted, see `fit`.
        image_shape: ``(channel, height, width)``.
        without: names of parameters that need not move, or what their names end with.
    """
    noise = torch.Generator().manual_seed(7)
    images = torch.randint(0, 256, (24, *image_shape), dtype=torch.uint8, generator=noise)
    before = {name: value.detach().clone() for name, value in parts.named_parameters()}
    with must_run("a fit of five steps", f"it to pass. {NUMBERS}"):
        run = fit(
            model, guide, images, objective=objective, batch_size=8, steps=5, lr=0.01, device="cpu", precision="32"
        )
    where = f"after five steps of a fit with {type(guide).__name__}"
    finite = all(math.isfinite(value) for row in run.history for value in row.values())
    check(finite, f"a term is not finite {where}: {run.history}. {NUMBERS}")
    trained = _trained(parts, without)
    for name, parameter in parts.named_parameters():
        check(
            bool(torch.isfinite(parameter).all()),
            f"parameter {name} is no longer finite {where}. Expected finite values throughout. {NUMBERS}",
        )
        check(
            name not in trained or not torch.equal(parameter, before[name]),
            f"parameter {name} is the same {where}. Expected every parameter to be trained: it must be registered "
            "with the module (nn.Parameter, nn.ModuleList) and have a part in the loss. Look for .detach(), or remove "
            "the parameter",
        )
