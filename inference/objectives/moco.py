"""MoCo: the group among keys of a slower copy of the guide, and a queue of earlier keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pp_simve.inference.objectives.base import Objective
from pp_simve.inference.objectives.embeddings import follow, latents_of_views, momentum_copy
from pp_simve.inference.tracing import ProgramError
from pp_simve.models import GroupLikelihood, SimVE, ViewsLike
from pp_simve.models.distributed import gathered
from pp_simve.models.queue import enqueued


class MoCo(Objective):
    """MoCo: Σ_j log p(group | z_j), whose candidates are keys of the batch and a queue of the keys before it.

    Keys are the embeddings of a copy of the guide (and of the group likelihood's projection head) that follows them
    slowly, so that those of earlier batches are still comparable; they have no gradient. The number of negatives is
    then no matter of the batch size. With a queue of 0 and keys of the guide itself, it is the model's group
    likelihood with the gradient of candidates left out.

    The loss sums both directions of two views, as that of MoCo v3 (Chen, Xie and He 2021, arXiv 2104.02057), which it
    is, up to its predictor, with `InfoNCE` and a queue of 0. MoCo (He et al. 2020, arXiv 1911.05722, eq. 1) has one
    direction, and negatives of the queue alone: here the keys of the batch's other images count as well. Its batch norm
    shuffles images over devices, which this does not. Terms, nats per image: ``group``, summed over an image's views,
    and ``loss``.

    Args:
        model: a prior and a group likelihood, ``SimVE(prior, group=InfoNCE(0.1))``.
        guide: draws z; without noise in the paper, `DeltaGuide`.
        queue: keys that are kept, one of each view (65,536 in the paper, of 1.3 million images). With as many as an
            epoch has views, the earlier keys of an image are among its negatives. It starts with random ones.
        momentum: before each training step a parameter of the copy becomes momentum · copy's +
            (1 − momentum) · guide's; 0.999 in the paper.

    Raises:
        ValueError: a model that observes pixels, or no group; a queue that is negative or not whole; a momentum
            outside [0, 1).
        ProgramError: when called with one view of each image, or trained on one image without a queue.

    Examples:
        >>> from pp_simve import DeltaGuide, FlatPrior, InfoNCE, MLPEncoder, SimVE
        >>> prior = FlatPrior(8)
        >>> model = SimVE(prior, group=InfoNCE(0.1))
        >>> objective = MoCo(model, DeltaGuide(MLPEncoder((1, 16, 16)), prior), queue=64)
        >>> [*objective(torch.rand(2, 3, 1, 16, 16))]
        ['loss', 'group']
    """

    queue: Tensor
    start: Tensor

    def __init__(self, model: SimVE, guide: nn.Module, *, queue: int = 1024, momentum: float = 0.99) -> None:
        super().__init__()
        if model.group is None or model.likelihood is not None:
            raise ValueError(
                "MoCo needs a model of groups without pixels: SimVE(prior, group=InfoNCE()), as in the method moco"
            )
        if type(queue) is not int or queue < 0:
            raise ValueError(f"queue must be a whole number of keys, or 0 for none, got {queue!r}")
        self.model = model
        self.guide = guide
        self.momentum = momentum
        self.target = momentum_copy(nn.ModuleList([guide, model.group]), momentum)
        width = (model.group.width or model.prior.latent_dim, *model.group.projection)[-1]
        self.register_buffer("queue", torch.randn(queue, width))
        self.register_buffer("start", torch.zeros((), dtype=torch.long))

    def forward(self, views: ViewsLike) -> dict[str, Tensor]:
        own = self.model.group
        assert own is not None
        embedded = own.embed(latents_of_views(self.model, self.guide, views))
        keys, first = self._keys(views, own)
        if self.training and keys.shape[1] < 2 and not len(self.queue):
            raise ProgramError(
                "MoCo without a queue needs batches of 2 images or more, as there are no other keys to compare with; "
                "got 1 (--batch-size)"
            )
        of_group, groups = own.among(embedded, keys, first, self.queue)
        group = of_group.log_prob(groups).sum() / embedded.shape[1]
        if self.training and len(self.queue):
            # Images in their order, and all processes the same.
            self.queue, self.start = enqueued(self.queue, self.start, keys.transpose(0, 1).flatten(0, 1))
        return {"loss": -group, "group": group.detach()}

    @torch.no_grad()
    def _keys(self, views: ViewsLike, own: GroupLikelihood) -> tuple[Tensor, int]:
        """Keys of the images of all processes, ``(view, image, width)``, and where those of this process start."""
        if self.training:
            follow(self.target, nn.ModuleList([self.guide, own]), self.momentum)
        guide, group = self.target
        assert isinstance(group, GroupLikelihood)
        keys = group.embed(latents_of_views(self.model, guide, views))
        return gathered(keys, 1) if self.training else (keys, 0)
