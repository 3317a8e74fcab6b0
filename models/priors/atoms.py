"""Discrete distribution over K points."""

from __future__ import annotations

from functools import reduce
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor


class Atoms(TorchDistribution):
    """Discrete distribution over K points: the content of a mixture, whose style is the noise around it.

    Draws have no gradient with respect to the probabilities; the support can be enumerated.

    Args:
        points: shape ``(K, dimension)``.
        logits: unnormalised log probabilities, shape ``(..., K)``.
    """

    arg_constraints: ClassVar = {
        "points": constraints.independent(constraints.real, 2),
        "logits": constraints.real_vector,
    }
    has_enumerate_support = True

    def __init__(self, points: Tensor, logits: Tensor, validate_args: bool | None = None) -> None:
        self.points = points
        self.logits = logits.log_softmax(-1)
        super().__init__(logits.shape[:-1], points.shape[-1:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Vectors; those that are none of the points have density zero."""
        return constraints.real_vector

    @property
    def probabilities(self) -> Tensor:
        """Shape ``(..., K)``."""
        return self.logits.exp()

    @property
    def mean(self) -> Tensor:
        """Shape ``(..., dimension)``."""
        return self.probabilities @ self.points

    @property
    def mode(self) -> Tensor:
        """The most probable point, shape ``(..., dimension)``."""
        return self.points[self.logits.argmax(-1)]

    @property
    def variance(self) -> Tensor:
        """Of each dimension, shape ``(..., dimension)``."""
        centred = self.points - self.mean.unsqueeze(-2)
        return (self.probabilities.unsqueeze(-1) * centred.square()).sum(-2)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """One of the points, with a gradient with respect to the points only."""
        places = torch.distributions.Categorical(logits=self.logits.detach(), validate_args=False)
        return self.points[places.sample(torch.Size(sample_shape))]

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of the point equal to ``value``, −∞ without one; equal points add up."""
        # Axis by axis: compared at once they would need a tensor of (..., K, dimension).
        axes = zip(value.unbind(-1), self.points.unbind(-1), strict=True)
        match = reduce(Tensor.logical_and_, (place.unsqueeze(-1) == points for place, points in axes))
        return torch.where(match, self.logits, -torch.inf).logsumexp(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Every point, shape ``(K, *batch, dimension)``, or ``(K, 1, ..., dimension)`` where not expanded."""
        values = self.points.reshape(-1, *(1,) * len(self.batch_shape), self.points.shape[-1])
        return values.expand(-1, *self.batch_shape, -1) if expand else values

    def expand(self, batch_shape: Any, _instance: Any = None) -> Atoms:
        """The same distribution with a larger batch shape."""
        return Atoms(self.points, self.logits.expand(*batch_shape, -1), validate_args=False)
