"""One chain of Pyro's NUTS, which asks elsewhere for its gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from pyro.infer.mcmc import NUTS
from torch import Tensor

from pp_simve.evaluation.posterior.lockstep import Ask


@dataclass(frozen=True)
class Chain:
    """What a chain drew.

    Attributes:
        u: draws, shape ``(draw, size)``.
        diverging: bool, shape ``(draw,)``.
        leapfrogs: gradients each draw took, int64, shape ``(draw,)``.
        acceptance: mean acceptance probability of these draws, to three digits.
        step_size: after warm-up.
    """

    u: Tensor
    diverging: Tensor
    leapfrogs: Tensor
    acceptance: float
    step_size: float


@dataclass(frozen=True)
class ChainSettings:
    """How a chain is run.

    Attributes:
        draws, warmup: of each chain.
        target_accept: acceptance probability the step size is adapted to.
        max_tree_depth: of a trajectory.
        adapt_scales: whether warm-up learns the scale of each axis besides the step size.
    """

    draws: int
    warmup: int
    target_accept: float
    max_tree_depth: int
    adapt_scales: bool


def run_chain(ask: Ask, start: Tensor, settings: ChainSettings, step: Callable[[int], None]) -> Chain:
    """Draws by the No-U-Turn sampler (Hoffman and Gelman 2014) from the current random state.

    Args:
        ask: for −log density and its gradient.
        start: shape ``(size,)``.
        step: told how many draws there are, warm-up included, after each.

    Raises:
        ValueError: the density is not finite at the start.
    """
    calls = 0

    def potential(at: dict[str, Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        value, gradient = ask(at["u"])
        # Pyro differentiates what it is given: of this, it gets the gradient that came with the value.
        return value + (gradient * (at["u"] - at["u"].detach())).sum()

    if not torch.isfinite(ask(start)[0]):
        raise ValueError(
            "log p(views, content, style) is not finite where a chain is to start; see that parameters are finite and "
            "that the prior's density reaches that far"
        )
    kernel = NUTS(
        potential_fn=potential,
        adapt_mass_matrix=settings.adapt_scales,
        target_accept_prob=settings.target_accept,
        max_tree_depth=settings.max_tree_depth,
    )
    # By the kernel's own methods: pyro.infer.MCMC adds nothing to them for a chain that is not in its own process.
    kernel.initial_params = at = {"u": start}
    kernel.setup(settings.warmup)
    draws, leapfrogs = [], []
    for number in range(settings.warmup + settings.draws):
        before = calls
        at = kernel.sample(at)
        if number >= settings.warmup:
            draws.append(at["u"].detach().clone())
            leapfrogs.append(calls - before)
        step(number + 1)
    diverging = torch.zeros(settings.draws, dtype=torch.bool)
    diverging[kernel.diagnostics()["divergences"]] = True
    return Chain(
        torch.stack(draws),
        diverging,
        torch.tensor(leapfrogs),
        float(kernel.logging()["acc. prob"]),
        float(kernel.step_size),
    )
