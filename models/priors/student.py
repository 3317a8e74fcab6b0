"""The Student-t prior: heavy-tailed style, most views close to their content and a few far from it."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pp_simve.models.priors.base import Prior
from pp_simve.models.variance import check_variance


class StudentTPrior(Prior):
    """Student-t prior: content ~ N(0, content_variance), style ~ Student's t of that variance, z = content + style.

    Content given z has no closed form, so this prior needs a guide that does not use it (`StructuredGuide`, which then
    learns Gaussian messages).

    Args:
        latent_dim: dimensions of content, style and z.
        content_variance: of every axis.
        style_variance: of every axis.
        degrees: of freedom, above 2 (below, there is no variance); many make style Gaussian.
    """

    def __init__(
        self, latent_dim: int, content_variance: float = 1.0, style_variance: float = 0.15, degrees: float = 4.0
    ) -> None:
        super().__init__(latent_dim)
        for name, value in {"content_variance": content_variance, "style_variance": style_variance}.items():
            check_variance(name, value)
        if not degrees > 2:
            raise ValueError(f"degrees must be above 2, got {degrees}")
        self.degrees = degrees
        self.register_buffer("content_scale", torch.full((latent_dim,), float(content_variance)).sqrt())
        spread = style_variance * (degrees - 2) / degrees
        self.register_buffer("style_scale", torch.full((latent_dim,), float(spread)).sqrt())

    content_scale: Tensor
    style_scale: Tensor

    def content(self) -> dist.Independent:
        return dist.Normal(torch.zeros_like(self.content_scale), self.content_scale).to_event(1)

    def style(self, content: Tensor) -> dist.Independent:
        return dist.StudentT(self.degrees, torch.zeros_like(content), self.style_scale).to_event(1)

    def compose(self, content: Tensor, style: Tensor) -> Tensor:
        return content + style

    def decompose(self, content: Tensor, z: Tensor) -> Tensor:
        return z - content
