"""Mixture priors, content one of K points: given or learned (`MixturePrior`), or embeddings (`EmpiricalPrior`)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pp_simve.models.distributed import gathered
from pp_simve.models.priors.additive import AdditivePrior
from pp_simve.models.priors.atoms import Atoms
from pp_simve.models.priors.messages import log_normal, natural_parameters, to_content
from pp_simve.models.queue import enqueued
from pp_simve.models.variance import check_variance


class PrototypePrior(AdditivePrior):
    """Base of mixtures: content is one of K prototypes, style ~ N(0, style_variance), z = content + style."""

    @abstractmethod
    def prototypes(self) -> Tensor:
        """The values of content, shape ``(K, latent)``."""

    @abstractmethod
    def log_weights(self) -> Tensor:
        """Log probabilities of the prototypes, shape ``(K,)``."""

    def content(self) -> Atoms:
        return Atoms(self.prototypes(), self.log_weights())

    def content_posterior(self, z: Tensor, precision: Tensor | None = None) -> Atoms:
        weight = to_content(self.style_variance(), z, precision)
        return Atoms(self.prototypes(), self._log_joint(*natural_parameters(z, weight)))

    def responsibilities(self, z: Tensor) -> Tensor:
        """p(content is prototype k | z of all views), shape ``(..., image, K)``."""
        return self.content_posterior(z).probabilities.squeeze(-3)

    def log_marginal(self, z: Tensor, precision: Tensor | None = None) -> Tensor:
        """logsumexp_k [log π_k + Σ_j log N(z_j; m_k, Σ)], where z is observed."""
        weight = to_content(self.style_variance(), z, precision)
        around_zero = log_normal(z, 1 / weight).sum((-3, -1))
        return around_zero + self._log_joint(*natural_parameters(z, weight)).logsumexp(-1).squeeze(-2)

    def log_joint_by_view(self, z: Tensor) -> Tensor:
        """log π_k + log N(z_j; m_k, Σ) of every prototype, for each view alone: shape ``(..., view, image, K)``."""
        alone = z.unsqueeze(-3)
        weight = to_content(self.style_variance(), alone, None)
        around_zero = log_normal(alone, 1 / weight).sum(-1, keepdim=True)
        return (around_zero + self._log_joint(*natural_parameters(alone, weight))).squeeze(-3)

    def _log_joint(self, pulled: Tensor, total: Tensor) -> Tensor:
        """log π_k + Σ_j log N(z_j; m_k, 1/w_j) − Σ_j log N(z_j; 0, 1/w_j), shape ``(..., 1, image, K)``."""
        # Two matrix products instead of differences of shape (image, K, latent).
        points = self.prototypes()
        return self.log_weights() + pulled @ points.mT - 0.5 * total @ points.square().mT


class MixturePrior(PrototypePrior):
    """Mixture prior: content is one of K prototypes m_k with probability π_k (DeepCluster and SwAV are limits).

    Args:
        latent_dim: dimensions of content, style and z.
        prototypes: their number, drawn at random with variance ``content_variance``; or the points, ``(K, latent)``.
        weights: probabilities of the prototypes (default: equal).
        style_variance: one number, or one per axis.
        content_variance: of prototypes drawn at random. Small, because the z of an untrained guide are close together:
            with prototypes far apart all would belong to the nearest, and the others would not be trained.
        learn_prototypes: makes them parameters.
        unit_norm: puts them on the unit sphere, as in SwAV.
        learn_weights: makes their log probabilities parameters.
        learn_style: learns the style variance of each axis, from the given start.
    """

    def __init__(
        self,
        latent_dim: int,
        prototypes: int | Sequence[Sequence[float]] | Tensor = 10,
        weights: Sequence[float] | Tensor | None = None,
        style_variance: float | Sequence[float] | Tensor = 0.15,
        *,
        content_variance: float = 0.01,
        learn_prototypes: bool = True,
        unit_norm: bool = False,
        learn_weights: bool = False,
        learn_style: bool = False,
    ) -> None:
        super().__init__(latent_dim, style_variance, learn_style=learn_style)
        check_variance("content_variance", content_variance)
        if isinstance(prototypes, int):
            if prototypes < 1:
                raise ValueError(f"prototypes must be at least 1, got {prototypes}")
            points = torch.randn(prototypes, latent_dim) * content_variance**0.5
        else:
            points = torch.as_tensor(prototypes, dtype=torch.get_default_dtype()).clone()
            if points.ndim != 2 or points.shape[1] != latent_dim or not len(points):
                raise ValueError(
                    f"prototypes must be a number or points of shape (K, {latent_dim}), got shape {tuple(points.shape)}"
                )
            if not torch.isfinite(points).all():
                raise ValueError(f"prototypes must be finite, got {prototypes}")
        if unit_norm and not points.any(-1).all():
            raise ValueError(f"prototypes of unit norm must not be zero, got {prototypes}")
        probabilities = torch.ones(len(points)) if weights is None else torch.as_tensor(weights, dtype=points.dtype)
        if probabilities.shape != points.shape[:1] or not (torch.isfinite(probabilities) & (probabilities > 0)).all():
            raise ValueError(f"weights must be {len(points)} positive numbers, one per prototype, got {weights}")
        self.unit_norm = unit_norm
        self._keep("points", functional.normalize(points, dim=-1) if unit_norm else points, learn_prototypes)
        self._keep("logits", (probabilities / probabilities.sum()).log(), learn_weights)

    points: Tensor
    logits: Tensor

    def _keep(self, name: str, value: Tensor, learned: bool) -> None:
        if learned:
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    def prototypes(self) -> Tensor:
        return functional.normalize(self.points, dim=-1) if self.unit_norm else self.points

    def log_weights(self) -> Tensor:
        return self.logits.log_softmax(-1)


class EmpiricalPrior(PrototypePrior):
    """Empirical prior: a mixture of equal weights whose prototypes are embeddings of the data.

    The candidates are the mean z of the views of each image: those of the last ``memory`` images (a memory bank, first
    in first out, detached, kept in the state), or those of the batch at hand, with their gradients. With candidates of
    the batch, an image's content depends on the other images in it. Guides fill the memory (`remember`) in training
    mode; it starts with draws from N(0, I).

    Args:
        latent_dim: dimensions of content, style and z.
        memory: number of images; None for the candidates of the batch.
        style_variance: one number, or one per axis.
        learn_style: learns the style variance of each axis, from the given start.
    """

    def __init__(
        self,
        latent_dim: int,
        memory: int | None = 1024,
        style_variance: float | Sequence[float] | Tensor = 0.15,
        *,
        learn_style: bool = False,
    ) -> None:
        super().__init__(latent_dim, style_variance, learn_style=learn_style)
        if memory is not None and memory < 1:
            raise ValueError(f"memory must be at least 1 image, or None for the batch at hand, got {memory}")
        self.memory = memory
        self._batch: Tensor | None = None
        if memory is not None:
            self.register_buffer("bank", torch.randn(memory, latent_dim))
            self.register_buffer("next", torch.zeros((), dtype=torch.long))

    bank: Tensor
    next: Tensor

    @property
    def depends_on_batch(self) -> bool:
        return self.memory is None

    def remember(self, z: Tensor) -> None:
        contents = z.mean(-3).reshape(-1, self.latent_dim)
        if self.training:
            contents, _ = gathered(contents, 0)
        if self.memory is None:
            self._batch = contents
        elif self.training:
            self.bank, self.next = enqueued(self.bank, self.next, contents)

    def prototypes(self) -> Tensor:
        """The candidates, shape ``(K, latent)``.

        Raises:
            RuntimeError: candidates are those of the batch, and no guide was called with a batch yet.
        """
        if self.memory is not None:
            return self.bank
        if self._batch is None:
            raise RuntimeError(
                "an EmpiricalPrior with memory=None has no candidates before a guide was called with a batch; "
                "call remember(z), or give it a memory"
            )
        return self._batch

    def log_weights(self) -> Tensor:
        points = self.prototypes()
        return points.new_zeros(len(points)).log_softmax(-1)

    def __getstate__(self) -> dict[str, object]:
        # The batch's candidates are part of a graph, which can be neither copied nor saved.
        return {**self.__dict__, "_batch": None}
