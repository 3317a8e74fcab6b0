"""The bound with the pixels' likelihood replaced by the one that the encoder itself implies."""

from __future__ import annotations

from torch import Tensor, nn

from pp_simve.inference.annealing import Annealed
from pp_simve.inference.objectives.base import Objective
from pp_simve.inference.objectives.elbo import checked_weight
from pp_simve.inference.objectives.entropies import EntropyEstimate, KernelEntropy
from pp_simve.inference.objectives.tracing import ProgramError, run_pair
from pp_simve.inference.schedules import Schedule
from pp_simve.models import ExactPrior, SimVE


class ImpliedELBO(Objective):
    """log p(z_1..J) + weight · Ĥ(z): with p(x | z) := q(z | x) p_data(x) / q_agg(z), the ELBO up to a constant.

    The prior pulls the views of an image together, the entropy keeps the batch apart: contrastive and non-contrastive
    methods differ in the estimate. Terms, nats per image: ``agreement``, ``entropy`` and ``loss``.

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
            raise ValueError(f"agreement is log p(z_1..J), which {type(model.prior).__name__} does not know")
        if model.likelihood is not None or model.group is not None:
            raise ValueError(
                "the entropy stands in for what the model observes, so it needs a model that observes nothing: "
                "SimVE(prior), as in the method vicreg"
            )
        if entropy is not None and not isinstance(entropy, EntropyEstimate):
            raise ValueError(f"entropy must be an EntropyEstimate (kernel, logdet, vicreg), got {entropy!r}")
        self.model = model
        self.guide = guide
        self.entropy = KernelEntropy() if entropy is None else entropy
        self.weight: Annealed = checked_weight("weight", weight)

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        model_trace, _ = run_pair(self.model, self.guide, views)
        z = model_trace.nodes["z"]["value"]
        assert isinstance(z, Tensor)
        if len(views) < 2:
            raise ProgramError("agreement is between views of an image, so it needs 2 views or more; got 1")
        if z.ndim != 3:
            raise ProgramError(f"the entropy is of z of shape (view, image, latent), got {tuple(z.shape)}")
        prior = self.model.prior
        assert isinstance(prior, ExactPrior)
        agreement, entropy = prior.log_marginal(z).mean(), self.entropy(z)
        return {
            "loss": -agreement - self.weight() * entropy,
            "agreement": agreement.detach(),
            "entropy": entropy.detach(),
        }
