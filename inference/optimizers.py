"""Optimizers by name: factories from parameters to an optimizer (fused: torch's), without decay of norms and biases."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pp_simve.inference.tools import optional_module


class OptimizerFactory(ABC):
    """Optimizer factory: makes the optimizer of a fit from the parameters to be fitted.

    A subclass, built from the learning rate and its options, can be named on the command line
    (``package.module:Class``). In Python, any function of the list of parameters works.
    """

    @abstractmethod
    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer; the learning rate of each of its parameter groups is multiplied by the fit's schedule."""


class _Checked(OptimizerFactory):
    def __post_init__(self) -> None:
        self([nn.Parameter(torch.zeros(1))])  # torch refuses values out of range


@dataclass(frozen=True)
class Adam(_Checked):
    """Adam (Kingma and Ba 2015, arXiv 1412.6980)."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, self.lr, self.betas, self.eps, fused=True)


@dataclass(frozen=True)
class AdamW(_Checked):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), without decay of norms and biases."""

    lr: float
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(decay_groups(parameters, self.weight_decay), self.lr, self.betas, self.eps, fused=True)


@dataclass(frozen=True)
class SGD(_Checked):
    """Stochastic gradient descent with momentum, without decay of norms and biases."""

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        groups = decay_groups(parameters, self.weight_decay)
        return torch.optim.SGD(groups, self.lr, self.momentum, nesterov=self.nesterov, fused=True)


@dataclass(frozen=True)
class LARS(_Checked):
    """Momentum with a learning rate for each layer, in proportion to the norm of its weights over that of its gradient
    (You et al. 2017, arXiv 1708.03888); norms and biases have neither that nor decay. timm's, which it needs."""

    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    trust_coeff: float = 0.001

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        timm = optional_module("timm.optim", "timm", "LARS")
        weights, others = decay_groups(parameters, self.weight_decay)
        groups = [{**weights, "always_adapt": True}, others]
        optimizer: torch.optim.Optimizer = timm.Lars(groups, self.lr, self.momentum, trust_coeff=self.trust_coeff)
        return optimizer


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups with weight decay for matrices and kernels, and none for vectors and scalars: norms, biases."""
    parameters = list(parameters)
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
