"""The evidence lower bound, in named terms and without device read-back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import reduce

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from pp_simve.inference.guides.heads import Backbone
from pp_simve.inference.objectives.balance import Balanced, backbone_features
from pp_simve.inference.objectives.base import Objective
from pp_simve.inference.tracing import GROUP, RECONSTRUCTION, ProgramError, checked_pair, densities, run_pair
from pp_simve.models import GroupLikelihood, Views, ViewsLike
from pp_simve.models.schedules import Annealed, Schedule

BACKBONE_GROUP = "backbone_group"
GROUPS = (GROUP, BACKBONE_GROUP)


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
    - ``backbone_group``: log p(group | h), h the backbone's features, where ``backbone`` is given
    - ``loss``: −(reconstruction + beta · (content + style + entropy) + alpha · (group + backbone_group)), the only one
      with a gradient
    - ``alpha``, ``cosine``: of a `Balanced` weight, the weight, by which the loss is then divided, and the cosine
      between the two gradients that it balances.

    With a group likelihood this is the bridge: alpha = 0 is SimVE; without pixels, with beta = 0 and a `DeltaGuide` it
    is the contrastive loss itself. The group's term is an expectation over q, so it is of draws of z, not of its mean.

    Args:
        model: the generative program.
        guide: the variational program over its latent sites.
        beta: weight of the latents' terms (β-VAE; Higgins et al. 2017), or its schedule (warm-up).
        alpha: weight of the group's terms, its schedule, or `Balanced`.
        backbone: likelihood of the group given the backbone's features, beside the model's given z: a head of its own
            on the backbone, as contrastive methods have it, leaves z to the prior.
        particles: samples of the guide, averaged.
        scale: factor of the sum over images; None is 1 / images in the batch, the mean.

    Raises:
        ValueError: a weight or number out of range; ``backbone`` for a guide that has not exactly one encoder.

    Examples:
        >>> import torch
        >>> from pp_simve import AmortizedGuide, Bernoulli, GaussianPrior, MLPDecoder, MLPEncoder, SimVE
        >>> prior = GaussianPrior(8)
        >>> model = SimVE(prior, Bernoulli(MLPDecoder(8, (1, 16, 16))))
        >>> guide = AmortizedGuide(MLPEncoder((1, 16, 16)), prior)
        >>> terms = ELBO(model, guide, beta=0.5)(torch.rand(2, 3, 1, 16, 16))
        >>> [*terms]
        ['loss', 'content', 'style', 'reconstruction', 'entropy']
        >>> terms["loss"].backward()
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        *,
        beta: float | Schedule = 1.0,
        alpha: float | Schedule | Balanced = 1.0,
        backbone: GroupLikelihood | None = None,
        particles: int = 1,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.guide = guide
        self.beta = checked_weight("beta", beta)
        self.alpha = alpha if isinstance(alpha, Balanced) else checked_weight("alpha", alpha)
        self.backbone = backbone
        if backbone is not None:
            widths = [part.features for part in guide.modules() if isinstance(part, Backbone)]
            if len(widths) != 1:
                raise ValueError(
                    f"backbone is a group likelihood of one encoder's features, and {type(guide).__name__} has "
                    f"{len(widths)} encoders with a `Backbone`; leave it out"
                )
            backbone.connect(widths[0])
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
        at_backbone = self.backbone is not None or isinstance(self.alpha, Balanced)
        listed: AbstractContextManager[list[Tensor]] = backbone_features(self.guide) if at_backbone else nullcontext([])
        with listed as features:
            traces = run_pair(self.model, self.guide, views, targets, self.particles)
        return self._terms(*traces, images=views.n_images, features=features)

    def terms(self, model_trace: Trace, guide_trace: Trace, images: int) -> dict[str, Tensor]:
        """The terms from a pair of traces of the programs on a batch of ``images`` images."""
        return self._terms(*checked_pair(model_trace, guide_trace, self.particles), images=images)

    def _terms(
        self, model_trace: Trace, guide_trace: Trace, images: int, features: Sequence[Tensor] = ()
    ) -> dict[str, Tensor]:
        scale = 1 / images if self.scale is None else self.scale
        beta = self.beta()
        values = [
            (density.term, density.total if density.sign > 0 else -density.total)
            for density in densities(model_trace, guide_trace)
        ]
        if self.backbone is not None:
            if not features:
                raise ProgramError("backbone is given the features of a forward pass: call the objective with views")
            of_group, groups = self.backbone(features[0])
            # Particles share their features.
            values.append((BACKBONE_GROUP, self.particles * of_group.log_prob(groups).sum()))
        balanced = self.alpha if isinstance(self.alpha, Balanced) else None
        if balanced is not None and balanced.due():
            bound = [value if term == RECONSTRUCTION else beta * value for term, value in values if term not in GROUPS]
            of_groups = [value for term, value in values if term in GROUPS]
            pixels = any(term == RECONSTRUCTION for term, _ in values)
            cancelling = balanced.measure(
                reduce(torch.add, bound) if pixels else None,
                reduce(torch.add, of_groups) if of_groups else None,
                features,
            )
            if cancelling is not None:
                values.append((RECONSTRUCTION, cancelling))
        logged: dict[str, Tensor] = {}
        if balanced is None:
            weights, others = dict.fromkeys(GROUPS, self.alpha()) | {RECONSTRUCTION: 1.0}, beta
        else:  # all is divided by α
            inverse = balanced()
            weights, others = dict.fromkeys(GROUPS, 1.0) | {RECONSTRUCTION: inverse}, beta * inverse
            logged = {"alpha": 1 / inverse, "cosine": balanced.cosine.clone()}
        terms: dict[str, Tensor] = {}
        weighted: list[Tensor] = []
        for term, value in values:
            detached = value.detach()
            terms[term] = terms[term] + detached if term in terms else detached
            weight = weights.get(term, others)
            weighted.append(value if isinstance(weight, float) and weight == 1 else weight * value)
        # Summed site by site in the programs' order, as Trace_ELBO does: floating point addition is not associative.
        loss = -reduce(torch.add, weighted)
        if scale != 1 or self.particles > 1:
            loss = loss * scale / self.particles
            terms = {name: value * scale / self.particles for name, value in terms.items()}
        return {"loss": loss, **terms, **logged}


def checked_weight(name: str, weight: float | Schedule) -> Annealed:
    """A weight of terms, as a part that the loop sets.

    Raises:
        ValueError: it is negative.
    """
    annealed = Annealed(weight)
    if min(annealed.ends) < 0:
        raise ValueError(f"{name} must not be negative, got {min(annealed.ends)}")
    return annealed
