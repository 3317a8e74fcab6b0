"""The balanced weight of the group's term: the two gradients at the backbone kept in a ratio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from pp_simve.inference.guides.heads import Backbone
from pp_simve.inference.tracing import ProgramError
from pp_simve.models.distributed import summed
from pp_simve.models.schedules import Annealed, Schedule

EVERY = 16  # steps between measurements, after as many in a row at the start
DECAY = 0.8  # of the moving averages, by measurement


class Balanced(nn.Module):
    """Balanced weight α of the group's term: keeps the ELBO's gradient at the backbone at ``ratio`` of the group's.

    α_t = EMA‖∂(−ELBO)/∂h‖ / (ratio · EMA‖∂(−log p(group))/∂h‖), with h the features of the batch.

    Nats of a group (at most the logarithm of the number of candidates) and nats of an image's pixels have different
    units; the sizes of their gradients where the two tasks meet have not, so one ratio serves grey and colour images.
    Towards infinity the fit is that of `SimVE`; 0 gives the backbone the group's gradient alone, with a decoder beside
    it that learns from features which it does not move (α is then that of ratio 1).

    The objective divides its loss by α: the group's terms keep the weight 1 and the others have 1/α. As the fit
    proceeds the ELBO's gradient falls by orders, and α with it; an encoder whose gradients shrank so would be slowed
    down by Adam's memory of the earlier, larger ones.

    The norms are measured at each of the first 16 steps and at every 16th from then on, over all processes. They stay
    on the device. In evaluation mode, and without gradients, α is the last one.

    Args:
        ratio: size of the ELBO's gradient in units of the group's, or its schedule (``linear(start=0.03, end=0.3)``:
            content first, pixels later).

    Raises:
        ValueError: a negative ratio.
        ProgramError: when called where there is nothing to balance: no pixels, no group, or a frozen backbone.

    Examples:
        >>> from pp_simve import AmortizedGuide, Bernoulli, ELBO, GaussianPrior, MLPDecoder, MLPEncoder, NTXent, SimVE
        >>> prior = GaussianPrior(8)
        >>> model = SimVE(prior, Bernoulli(MLPDecoder(8, (1, 16, 16))), NTXent())
        >>> bridge = ELBO(model, AmortizedGuide(MLPEncoder((1, 16, 16)), prior), alpha=Balanced(ratio=0.1))
        >>> [*bridge(torch.rand(2, 3, 1, 16, 16))]
        ['loss', 'content', 'style', 'reconstruction', 'group', 'entropy', 'alpha', 'cosine']
    """

    def __init__(self, ratio: float | Schedule = 0.1) -> None:
        super().__init__()
        self.ratio = Annealed(ratio)
        if min(self.ratio.ends) < 0:
            raise ValueError(f"ratio must not be negative, got {min(self.ratio.ends)}")
        self.calls = 0
        self.register_buffer("norms", torch.zeros(2))
        self.register_buffer("cosine", torch.zeros(()))

    norms: Tensor
    """Moving averages of the norms of the ELBO's and the group's gradient; in the ratio of both their bias cancels."""
    cosine: Tensor
    """Of the angle between the two gradients, as last measured."""

    def forward(self) -> Tensor:
        """1/α, the weight of all but the group's terms: a scalar on the device, 0 before the first measurement."""
        of_bound, of_group = self.norms
        return of_group * (self.ratio() or 1.0) / of_bound.clamp(min=torch.finfo(self.norms.dtype).tiny)

    def due(self) -> bool:
        """Counts a step; whether its gradients are to be measured."""
        if not (self.training and torch.is_grad_enabled()):
            return False
        self.calls += 1
        return self._averaging() or self.ratio() == 0

    def _averaging(self) -> bool:
        """Whether the step that was counted last moves the averages."""
        return self.calls <= EVERY or self.calls % EVERY == 1

    def measure(self, bound: Tensor | None, group: Tensor | None, features: Sequence[Tensor]) -> Tensor | None:
        """Measures the gradients of a step that is `due`.

        Args:
            bound: the ELBO without the group's term, a scalar.
            group: the group's log probability, a scalar.
            features: those of the batch, by encoder.

        Returns:
            At ratio 0, what to add to the bound: a scalar of value 0 whose gradient at the features is minus the
            bound's. None otherwise.
        """
        if bound is None or group is None:
            missing = "pixels" if bound is None else "group"
            raise ProgramError(
                f"balanced weighs the group's term against the pixels', and this model observes no {missing}; give "
                "alpha as a number, or the model a likelihood and a group"
            )
        if not features or not all(part.requires_grad for part in features):
            raise ProgramError(
                "balanced compares gradients at the backbone's features, and this guide has none that are fitted: its "
                "encoder is frozen or passes no `Backbone`; give alpha as a number"
            )
        of_bound, of_group = _gradients(bound, features), _gradients(group, features)
        if self._averaging():
            products = (of_bound, of_bound), (of_group, of_group), (of_bound, of_group)
            sums = summed(torch.stack([_product(*pair) for pair in products]))
            norms = sums[:2].sqrt()
            self.norms.lerp_(norms.to(self.norms.dtype), 1 - DECAY)
            self.cosine.copy_(sums[2] / norms.prod().clamp(min=torch.finfo(norms.dtype).tiny))
        if self.ratio() != 0:
            return None
        line = _product(features, of_bound)
        return line.detach() - line

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.calls)

    def set_extra_state(self, state: Tensor) -> None:
        self.calls = int(state)

    def extra_repr(self) -> str:
        return f"ratio={self.ratio.schedule or self.ratio.value}"


@contextmanager
def backbone_features(guide: nn.Module) -> Iterator[list[Tensor]]:
    """Context that lists the features that pass the backbones of a guide, ``(..., view, image, feature)`` each."""
    seen: list[Tensor] = []
    with ExitStack() as stack:
        for part in guide.modules():
            if isinstance(part, Backbone):
                handle = part.register_forward_hook(lambda _, inputs, features: seen.append(features))
                stack.callback(handle.remove)
        yield seen


def _gradients(value: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(value, features, retain_graph=True, allow_unused=True)
    return [
        torch.zeros_like(part) if gradient is None else gradient for part, gradient in zip(features, found, strict=True)
    ]


def _product(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()
