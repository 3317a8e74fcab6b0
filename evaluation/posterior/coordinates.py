"""Coordinates in which a posterior is nearly a standard normal distribution, so that a sampler can take large steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pp_simve.evaluation.posterior.target import Target

LEAST_CURVATURE = 1e-3
"""Of the largest, so that directions in which the density is flat stay finite."""


@dataclass(frozen=True)
class Whitening:
    """coordinates = centre + map · u of each image. The density of u is that of the coordinates up to a constant.

    Attributes:
        centre: shape ``(image, size)``.
        map: shape ``(image, size, size)``.
    """

    centre: Tensor
    map: Tensor

    def __call__(self, u: Tensor) -> Tensor:
        """Coordinates of u, shape ``(..., image, size)``."""
        return self.centre + (self.map @ u.unsqueeze(-1)).squeeze(-1)

    def of(self, images: list[int]) -> Whitening:
        """Of these images, which may be repeated."""
        return Whitening(self.centre[images], self.map[images])

    @classmethod
    def none(cls, images: int, size: int, like: Tensor) -> Whitening:
        """The coordinates themselves."""
        identity = torch.eye(size, dtype=like.dtype, device=like.device)
        return cls(like.new_zeros(images, size), identity.expand(images, size, size))

    @classmethod
    def around(cls, target: Target, points: Tensor, evaluated: int) -> Whitening:
        """From points that lie about where the posteriors do, shape ``(point, image, size)``.

        The covariance is the inverse of −∇² log p, averaged over the first ``evaluated`` points: that of the Gaussian
        closest to the posterior, if the points were draws of it (Opper and Archambeau 2009). Unlike the covariance of
        the points it knows how the decoder ties axes together. Directions in which the density is convex count by the
        size of their curvature (SoftAbs, Betancourt 2013).
        """
        curvature = -_hessian(target, points[:evaluated]).mean(0).double()
        values, vectors = torch.linalg.eigh((curvature + curvature.mT) / 2)
        size = values.abs()
        scale = size.clamp_min(LEAST_CURVATURE * size.amax(-1, keepdim=True)).rsqrt()
        return cls(points.mean(0), (vectors * scale.unsqueeze(-2)).to(points.dtype))


def _hessian(target: Target, points: Tensor) -> Tensor:
    """∇² log p at each point, shape ``(point, image, size, size)``."""
    points = points.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(target.log_density(points).sum(), points, create_graph=True)
    rows = [torch.autograd.grad(row.sum(), points, retain_graph=True)[0] for row in gradient.unbind(-1)]
    return torch.stack(rows, -2)
