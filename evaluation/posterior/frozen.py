"""A fitted module as a constant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from pp_simve.inference.guides.base import evaluation_mode


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Modules in evaluation mode, whose parameters take no gradient; afterwards all is as it was."""
    wanted = {parameter: parameter.requires_grad for module in modules for parameter in module.parameters()}
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(evaluation_mode(module))
        for parameter in wanted:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter, gradient in wanted.items():
                parameter.requires_grad_(gradient)
