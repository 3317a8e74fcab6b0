"""The evidence lower bound, in named terms and without device read-back."""

from __future__ import annotations

from functools import reduce

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from pp_simve.inference.objectives.base import Objective
from pp_simve.inference.schedules import Annealed, Schedule
from pp_simve.inference.tracing import GROUP, checked_pair, densities, run_pair
from pp_simve.models import Views, ViewsLike


class ELBO(Objective):
    """ELBO E_q[log p(views, content, style) − log q(content, style | views)], by reparametrised samples.

    Value and gradient equal those of ``pyro.infer.Trace_ELBO`` bit for bit (with ``scale=1``), but nothing is read back
    from the device: no ``.item()``, and no checks unless Pyro's validation is on.

    The terms are per image, in nats, and named

    - ``reconstruction``: log p(x | z), summed over views
    - ``content``: log p(content) − log q(content)
    - ``style``: log p(style | content) − log q(style), summed over views
    - ``entropy``: −log q of the guide's auxiliary sites (z in most guides)
    - ``group``: log p(group | z), summed over views, where the model observes it
    - ``loss``: −(reconstruction + beta · (content + style + entropy) + alpha · group), the only one with a gradient.

    With a group likelihood this is the bridge: alpha = 0 is SimVE; without pixels, with beta = 0 and a `DeltaGuide` it
    is the contrastive loss itself.

    Args:
        model: the generative program.
        guide: the variational program over its latent sites.
        beta: weight of the latents' terms (β-VAE; Higgins et al. 2017), or its schedule (warm-up).
        alpha: weight of the group's term, or its schedule.
        particles: samples of the guide, averaged.
        scale: factor of the sum over images; None is 1 / images in the batch, the mean.
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        *,
        beta: float | Schedule = 1.0,
        alpha: float | Schedule = 1.0,
        particles: int = 1,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.guide = guide
        self.beta = checked_weight("beta", beta)
        self.alpha = checked_weight("alpha", alpha)
        if particles < 1:
            raise ValueError(f"particles must be at least 1, got {particles}")
        self.particles = particles
        self.scale = scale

    def forward(self, views: ViewsLike, targets: ViewsLike | None = None) -> dict[str, Tensor]:
        """Terms, each a scalar.

        Args:
            views: the guide's input, shape ``(view, image, channel, height, width)``, or one such tensor per modality.
            targets: what the model observes; default: the views.
        """
        views = Views.of(views)
        if targets is not None:
            targets = Views.of(targets).select(views.modalities)  # z is in the order of the views
        traces = run_pair(self.model, self.guide, views, targets, self.particles)
        return self._terms(*traces, images=views.n_images)

    def terms(self, model_trace: Trace, guide_trace: Trace, images: int) -> dict[str, Tensor]:
        """The terms from a pair of traces of the programs on a batch of ``images`` images."""
        return self._terms(*checked_pair(model_trace, guide_trace, self.particles), images=images)

    def _terms(self, model_trace: Trace, guide_trace: Trace, images: int) -> dict[str, Tensor]:
        scale = 1 / images if self.scale is None else self.scale
        beta, alpha = self.beta(), self.alpha()
        terms: dict[str, Tensor] = {}
        weighted: list[Tensor] = []
        for density in densities(model_trace, guide_trace):
            value = density.total if density.sign > 0 else -density.total
            detached = value.detach()
            terms[density.term] = terms[density.term] + detached if density.term in terms else detached
            weight = {"reconstruction": 1.0, GROUP: alpha}.get(density.term, beta)
            weighted.append(value if weight == 1 else weight * value)
        # Summed site by site in the programs' order, as Trace_ELBO does: floating point addition is not associative.
        loss = -reduce(torch.add, weighted)
        if scale != 1 or self.particles > 1:
            loss = loss * scale / self.particles
            terms = {name: value * scale / self.particles for name, value in terms.items()}
        return {"loss": loss, **terms}


def checked_weight(name: str, weight: float | Schedule) -> Annealed:
    """A weight of terms, as a part that the loop sets.

    Raises:
        ValueError: it is negative.
    """
    annealed = Annealed(weight)
    if min(annealed.ends) < 0:
        raise ValueError(f"{name} must not be negative, got {min(annealed.ends)}")
    return annealed
