"""Gathering over processes, with gradients (an image is compared with the whole batch), and sums over them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as processes
from torch import Tensor
from torch.autograd.function import once_differentiable


def gathered(values: Tensor, dim: int) -> tuple[Tensor, int]:
    """Concatenates the values of all processes along ``dim`` by rank; also returns where those of this process start.

    Every process must call it, with values of the same shape and dtype; without a process group, or alone in it, the
    values are returned as they are.

    The gradient is that of all processes' losses: where they average the gradients of their parameters, and each loss
    is the mean over its process's images, the result is the gradient of the mean over the joint batch. Nothing is read
    back from the device.
    """
    if _alone():
        return values, 0
    of_all: Tensor = _Gather.apply(values, dim)
    return of_all, processes.get_rank() * values.shape[dim]


def summed(values: Tensor) -> Tensor:
    """The sum over all processes, without gradient; every process must call it."""
    if not _alone():
        values = values.detach().clone()
        processes.all_reduce(values)
    return values


def is_first() -> bool:
    """Whether this is the first process, or the only one."""
    return _alone() or processes.get_rank() == 0


def _alone() -> bool:
    return not (processes.is_available() and processes.is_initialized()) or processes.get_world_size() == 1


class _Gather(torch.autograd.Function):
    """Concatenates over processes; the backward pass sums over them.

    The joint loss is the mean over W processes of L_r, and the values z_r of a process are in all of them:
    dL/dθ = 1/W Σ_r (Σ_s dL_s/dz_r) dz_r/dθ. The inner sum is taken here. The outer mean is that of the parameters'
    gradients (DistributedDataParallel), so a mean here would divide by W twice; without the sum, z_r as a
    candidate of other processes would have no gradient.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, dim: int) -> Tensor:
        ctx.dim, ctx.size = dim, values.shape[dim]
        shares = [values.new_empty(values.shape) for _ in range(processes.get_world_size())]
        processes.all_gather(shares, values.contiguous())
        return torch.cat(shares, dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # A copy: the sum is in place, and the gradient may be shared with another operation.
        total = gradient.clone(memory_format=torch.contiguous_format)
        processes.all_reduce(total)
        return total.narrow(ctx.dim, processes.get_rank() * ctx.size, ctx.size), None
