"""Group likelihoods, contrastive losses as likelihoods: which image of the batch a view came from is observed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional

from pp_simve.models.distributed import gathered
from pp_simve.models.networks import apply_network, normed_layers
from pp_simve.models.schedules import Annealed, Schedule

LEAST_TEMPERATURE = 0.01  # of a learned one


class GroupLikelihood(nn.Module, ABC):
    """Group likelihood p(group | z) = softmax over candidates of log N(z; candidate, temperature).

    The embeddings of the batch are the candidates for content, as under an `EmpiricalPrior`; the positive one is a view
    of the same image. Each view is classified once for each other view of its image. In training mode the batch is that
    of all processes, which must then all call it; in evaluation mode it is that of this process.

    Args:
        temperature: the variance around a candidate, or its schedule; the temperature of contrastive losses where z has
            unit norm.
        unit_norm: puts z on the unit sphere first, so that candidates compare by cosine.
        width: number of the first axes of z that are compared (the content block); default all.
        learn_temperature: learns it, from the given start, above 1/100: CLIP (Radford et al. 2021) keeps it there,
            starting from 0.07.
        projection: widths of the hidden layers of a projection head, each with batch norm and ReLU, and a linear layer
            as wide as the last: candidates are compared in its output instead of z itself, as contrastive methods do
            (Chen et al. 2020), so that the density need not shape z. None by default. The head is built by `connect`.

    Raises:
        ValueError: a temperature, width or layer out of range, a schedule of a learned temperature.
    """

    log_excess: nn.Parameter | None
    """Logarithm of what a learned temperature is above `LEAST_TEMPERATURE`."""

    def __init__(
        self,
        temperature: float | Schedule = 0.5,
        *,
        unit_norm: bool = True,
        width: int | None = None,
        learn_temperature: bool = False,
        projection: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self._temperature = Annealed(temperature)
        least, start = min(self._temperature.ends), self._temperature.value
        if not (least > 0 and max(self._temperature.ends) < float("inf")):
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        if learn_temperature and callable(temperature):
            raise ValueError("a learned temperature starts from a number; give it, or a schedule and leave it fixed")
        if learn_temperature and start <= LEAST_TEMPERATURE:
            raise ValueError(
                f"a learned temperature stays above {LEAST_TEMPERATURE} and must start there, got {temperature}; "
                "start higher (CLIP: 0.07), or keep it fixed"
            )
        if width is not None and width < 1:
            raise ValueError(f"width must be at least 1 axis, got {width}")
        if any(units < 1 for units in projection):
            raise ValueError(f"projection is a list of layers' widths, each at least 1, got {list(projection)}")
        excess = torch.tensor(start - LEAST_TEMPERATURE).log() if learn_temperature else None
        self.log_excess = None if excess is None else nn.Parameter(excess)
        self.unit_norm = unit_norm
        self.width = width
        self.projection = tuple(projection)
        self.head: nn.Sequential | None = None

    def connect(self, width: int) -> None:
        """Builds the projection head for embeddings of a width; what owns the likelihood (`SimVE`, `ELBO`) calls it.

        Raises:
            ValueError: fewer axes than those compared, or a head that was built for another width.
        """
        inputs = self._compared(width)
        if self.head is not None:
            first = self.head[0]
            assert isinstance(first, nn.Linear)
            if first.in_features != inputs:
                raise ValueError(
                    f"the projection head of this {type(self).__name__} was built for {first.in_features} axes, not "
                    f"{inputs}; a group likelihood with a head belongs to one program"
                )
        elif self.projection:
            last = self.projection[-1]
            self.head = nn.Sequential(*normed_layers(inputs, self.projection), nn.Linear(last, last))

    @property
    def temperature(self) -> float | Tensor:
        """A number where it is fixed or scheduled, a scalar tensor with a gradient where it is learned."""
        # A floor that is added: a clamp would have no gradient below it.
        return self._temperature() if self.log_excess is None else LEAST_TEMPERATURE + self.log_excess.exp()

    def forward(self, z: Tensor) -> tuple[dist.Independent, Tensor]:
        """The distribution of the groups of all views, and the groups observed.

        Args:
            z: shape ``(..., view, image, latent)``; on all processes the same in training mode.

        Returns:
            Batch ``(..., view, image)``, event ``(view − 1,)``, and indices of that shape.

        Raises:
            ValueError: a single view, which has no other to be found among candidates; in training mode, a single
                image, because there are no other images to compare with; fewer axes than ``width``.
        """
        embedded = self.embed(z)
        # Evaluation runs on one process, which would wait for the others forever.
        candidates, first = gathered(embedded, dim=-2) if self.training else (embedded, 0)
        if self.training and candidates.shape[-2] < 2:
            raise ValueError(
                "the group likelihood compares views of different images, so it needs batches of 2 images or more; "
                "got 1 (--batch-size)"
            )
        return self.among(embedded, candidates, first)

    def embed(self, z: Tensor) -> Tensor:
        """z as it is compared: its first axes, through the projection head, on the sphere."""
        embedded = z[..., : self._compared(z.shape[-1])]
        if self.projection:
            if self.head is None:
                raise ValueError("the projection head is built by connect(width of z), which SimVE(group=...) calls")
            embedded = apply_network(self.head, embedded, event_dim=1)
        return functional.normalize(embedded, dim=-1) if self.unit_norm else embedded

    def among(
        self, embedded: Tensor, candidates: Tensor, first: int, negatives: Tensor | None = None
    ) -> tuple[dist.Independent, Tensor]:
        """What `forward` returns, for embeddings and candidates that `embed` has made.

        Args:
            embedded: of the images of this process, shape ``(..., view, image, width)``.
            candidates: of the images of all processes, shape ``(..., view, images of all processes, width)``.
            first: the place of the first image of this process among them.
            negatives: further candidates, of no image of the batch, shape ``(candidate, width)``.

        Raises:
            ValueError: a single view.
        """
        if embedded.shape[-3] < 2:
            raise ValueError("the group likelihood compares views of an image, so it needs 2 views or more; got 1")
        logits, groups = self._compare(embedded, candidates, first)
        if negatives is not None:
            further = self._log_densities(embedded, negatives).unsqueeze(-2)
            logits = torch.cat([logits, further.expand(*logits.shape[:-1], -1)], -1)
        return dist.Categorical(logits=logits).to_event(1), groups

    def _compared(self, axes: int) -> int:
        """The number of axes compared, of those of z; raises ValueError where z has fewer."""
        if self.width is not None and self.width > axes:
            raise ValueError(f"the group likelihood is of the first {self.width} axes of z, which has {axes}")
        return self.width or axes

    @abstractmethod
    def _compare(self, z: Tensor, candidates: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Logits ``(..., view, image, view − 1, candidate)`` and the positive candidates ``(view, image, view − 1)``.

        Args:
            z: of the images of this process, shape ``(..., view, image, latent)``.
            candidates: of all images, these included, shape ``(..., view, images of all processes, latent)``; with one
                process it is ``z`` itself.
            first: the place of the first image of z among them.
        """

    def _log_densities(self, z: Tensor, candidates: Tensor) -> Tensor:
        """log N(z; candidate, temperature) up to a constant of all candidates: ``(..., z, candidate)``."""
        # A matrix product: differences would need a tensor of (z, candidate, latent).
        return (z @ candidates.mT - 0.5 * candidates.square().sum(-1).unsqueeze(-2)) / self.temperature


class NTXent(GroupLikelihood):
    """NT-Xent (SimCLR, Chen et al. 2020): candidates are all other views of the batch, 2B − 1 with two views.

    With more than two, the further views of the image itself are left out.

    Examples:
        >>> z = torch.eye(3).expand(2, 3, 3)  # (view, image, latent): both views of an image are equal
        >>> group, positives = NTXent(temperature=0.1)(z)
        >>> bool((group.log_prob(positives) > -0.001).all())
        True
    """

    def _compare(self, z: Tensor, candidates: Tensor, first: int) -> tuple[Tensor, Tensor]:
        views, images = z.shape[-3:-1]
        among = candidates.shape[-2]
        flat = z.flatten(-3, -2)
        logits = self._log_densities(flat, flat if candidates is z else candidates.flatten(-3, -2))
        place = torch.arange(views * among, device=z.device).view(views, among)
        anchors = place[:, first : first + images]
        own = anchors.reshape(-1, 1) % among == place.flatten() % among
        logits_of, positives = [], []
        for offset in range(1, views):
            other = anchors.roll(-offset, 0)
            left_out = own & (place.flatten() != other.reshape(-1, 1))
            logits_of.append(logits.masked_fill(left_out, -torch.inf).unflatten(-2, (views, images)))
            positives.append(other)
        return torch.stack(logits_of, -2), torch.stack(positives, -1)


class InfoNCE(GroupLikelihood):
    """InfoNCE (van den Oord et al. 2018): candidates are one other view of each image, B of them, in all directions.

    With two views and a learned temperature it is CLIP's symmetric loss (Radford et al. 2021), whose views are of two
    modalities: the sum of both directions, where the paper takes their mean.
    """

    def _compare(self, z: Tensor, candidates: Tensor, first: int) -> tuple[Tensor, Tensor]:
        views, images = z.shape[-3:-1]
        logits_of = [self._log_densities(z, candidates.roll(-offset, -3)) for offset in range(1, views)]
        positives = torch.arange(first, first + images, device=z.device)
        return torch.stack(logits_of, -2), positives.view(1, images, 1).expand(views, images, views - 1)
