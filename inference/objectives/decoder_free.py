"""The decoder-free ELBO: the likelihood of pixels replaced by the one that the encoder implies."""

from __future__ import annotations

from torch import Tensor, nn

from pp_simve.inference.objectives.base import Objective
from pp_simve.inference.objectives.elbo import checked_weight
from pp_simve.inference.objectives.embeddings import check_observes_nothing, latents_of_views
from pp_simve.inference.objectives.entropies import EntropyEstimate, KernelEntropy
from pp_simve.models import ExactPrior, SimVE, ViewsLike
from pp_simve.models.distributed import gathered
from pp_simve.models.schedules import Annealed, Schedule


class DecoderFreeELBO(Objective):
    """Decoder-free ELBO: log p(z_1..J) + weight · Ĥ(z), the ELBO with p(x | z) := q(z | x) p_data(x) / q_agg(z).

    Equal to it up to a constant. The prior attracts the views of an image, the entropy repels the images of the batch:
    contrastive and non-contrastive methods differ in its estimate. Terms, nats per image: ``agreement``, ``entropy``
    and ``loss``. In training mode the batch is that of all processes: each estimates the entropy from all z, and the
    agreement from its share.

    Args:
        model: a prior and nothing observed, ``SimVE(prior)``; an `ExactPrior`.
        guide: draws z, without noise in discriminative methods (`DeltaGuide`).
        entropy: the estimate; `VICRegEntropy` under a flat prior is VICReg, `KernelEntropy` InfoNCE.
        weight: of the entropy, or its schedule.
    """

    def __init__(
        self,
        model: SimVE,
        guide: nn.Module,
        *,
        entropy: EntropyEstimate | None = None,
        weight: float | Schedule = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(model.prior, ExactPrior):
            raise ValueError(f"agreement is log p(z_1..J), which {type(model.prior).__name__} does not have")
        check_observes_nothing(model)
        if entropy is not None and not isinstance(entropy, EntropyEstimate):
            raise ValueError(f"entropy must be an EntropyEstimate (kernel, logdet, vicreg), got {entropy!r}")
        self.model = model
        self.guide = guide
        self.entropy = KernelEntropy() if entropy is None else entropy
        self.weight: Annealed = checked_weight("weight", weight)

    def forward(self, views: ViewsLike) -> dict[str, Tensor]:
        z = latents_of_views(self.model, self.guide, views)
        prior = self.model.prior
        assert isinstance(prior, ExactPrior)
        # As in the group likelihood: evaluation mode is for one process alone.
        everyone, first = gathered(z, dim=1) if self.training else (z, 0)
        agreement, entropy = prior.log_marginal(z).mean(), self.entropy.of_share(z, everyone, first)
        return {
            "loss": -agreement - self.weight() * entropy,
            "agreement": agreement.detach(),
            "entropy": entropy.detach(),
        }
