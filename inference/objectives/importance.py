"""The importance-weighted bound."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pp_simve.inference.objectives.base import Objective
from pp_simve.inference.tracing import densities, run_pair
from pp_simve.models import Views, ViewsLike


class IWAE(Objective):
    """Importance-weighted bound E[log 1/K Σ_k p(views, content_k, style_k) / q(content_k, style_k | views)].

    The ELBO at K = 1, increasing with K to the evidence (Burda, Grosse and Salakhutdinov 2016). The views of an
    image have a joint weight, because they share its content.

    The terms are those of `ELBO`, averaged over samples, and ``gain``, the bound minus their sum; they add up to −loss.

    Args:
        model: the generative program.
        guide: the variational program over its latent sites; one with a density (neither a point nor a delta).
        samples: K.
    """

    def __init__(self, model: nn.Module, guide: nn.Module, *, samples: int = 8) -> None:
        super().__init__()
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        if not getattr(guide, "has_density", True):
            raise ValueError(
                f"importance weights need a guide with a density, and draws of {type(guide).__name__} are points; "
                "use AmortizedGuide, StructuredGuide or FlowGuide, or the ELBO"
            )
        self.model = model
        self.guide = guide
        self.samples = samples

    def forward(self, views: ViewsLike) -> dict[str, Tensor]:
        log_weights, terms = log_weights_and_terms(self.model, self.guide, views, self.samples)
        bound = log_mean_weight(log_weights).mean()
        return {"loss": -bound, **terms, "gain": bound.detach() - log_weights.detach().mean()}


def log_mean_weight(log_weight: Tensor) -> Tensor:
    """Log of the mean importance weight, log 1/K Σ_k exp(log_weight_k), over the first dimension of length K.

    An estimate of the log evidence, below it in expectation, which rises to it with K (Burda, Grosse and Salakhutdinov
    2016, arXiv 1509.00519, equation 8).
    """
    return log_weight.logsumexp(0) - math.log(len(log_weight))


def log_weights_and_terms(
    model: nn.Module, guide: nn.Module, views: ViewsLike, samples: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """log p(views, latents) − log q(latents | views) of each sample and image, and its named parts.

    Returns:
        Shape ``(sample, image)``, with gradient, and detached means per image by name.
    """
    views = Views.of(views)
    images, device = views.n_images, views.device
    terms: dict[str, Tensor] = {}
    parts: list[Tensor] = []
    for density in densities(*run_pair(model, guide, views, particles=samples)):
        # (sample, view or 1, image), or fewer dimensions where a site is equal for all: summed over views, per image.
        log_prob = density.log_prob
        by_image = log_prob.sum(-2) if log_prob.ndim > 1 else log_prob
        # Pyro's improper density is a zero on the CPU, whatever the device.
        part = density.sign * by_image.to(device).expand(samples, images)
        parts.append(part)
        mean = part.detach().mean()
        terms[density.term] = terms[density.term] + mean if density.term in terms else mean
    return torch.stack(parts).sum(0), terms
