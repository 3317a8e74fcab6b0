"""Calls of networks by programs (leading dimensions flattened, autocast, results in full precision), and layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

_precision: ContextVar[torch.dtype | None] = ContextVar("network_precision", default=None)


@contextmanager
def network_precision(dtype: torch.dtype | None) -> Iterator[None]:
    """Context in which networks run under autocast to ``dtype``; None for none.

    Distributions keep full precision, because a log density summed over thousands of pixels has no significant digits
    left in bfloat16.
    """
    token = _precision.set(dtype)
    try:
        yield
    finally:
        _precision.reset(token)


def normed_layers(width: int, hidden: Sequence[int]) -> nn.Sequential:
    """Hidden layers with batch norm and ReLU after each: for projection heads and predictors.

    Args:
        width: of the inputs.
        hidden: widths of the layers.
    """
    layers: list[nn.Module] = []
    for units in hidden:
        # The norm has a bias.
        layers += [nn.Linear(width, units, bias=False), nn.BatchNorm1d(units), nn.ReLU()]
        width = units
    return nn.Sequential(*layers)


def apply_network(network: nn.Module, inputs: Tensor, event_dim: int) -> Tensor:
    """Applies a network with one batch dimension to inputs with any number of them.

    Args:
        network: maps ``(batch, *event)`` to ``(batch, *output)``.
        inputs: shape ``(*leading, *event)``.
        event_dim: number of event dimensions of the inputs (3 for images, 1 for latents).

    Returns:
        Shape ``(*leading, *output)``, of the inputs' dtype, whatever precision the network ran in.
    """
    leading = inputs.shape[: inputs.ndim - event_dim]
    flat = inputs.reshape(-1, *inputs.shape[inputs.ndim - event_dim :])
    dtype = _precision.get()
    if dtype is None:
        outputs = network(flat)
    else:
        with torch.autocast(inputs.device.type, dtype):
            outputs = network(flat)
    return outputs.to(inputs.dtype).reshape(*leading, *outputs.shape[1:])
