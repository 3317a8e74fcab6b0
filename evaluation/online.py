"""A linear probe trained beside a fit, on what the guide says of each batch: a curve of accuracy at hardly any cost."""

from __future__ import annotations

import torch
from torch import Tensor

from pp_simve.evaluation.records import REPRESENTATIONS
from pp_simve.inference.guides.base import Guide
from pp_simve.inference.tools import evaluation_mode
from pp_simve.models.modalities import PlainViews as Views

_SMALLEST_VARIANCE = 1e-8
"""Added to variances, so that a feature that never varies stays 0."""


class OnlineProbe:
    """Watches a fit and says how well a linear classifier tells the classes, as the term ``probe_accuracy``.

    Pass it to ``fit(..., observer=OnlineProbe(guide, labels))``. After each step the batch's first view is embedded by
    the guide in evaluation mode and without gradients, standardised by running statistics, and

    1. classified: these predictions, of a view the classifier has not yet been trained on, are counted;
    2. learned from: one step of Adam (Kingma and Ba 2015) on the mean cross-entropy of softmax(W x + b).

    It is a curve to watch: the classifier chases features that move, and learns from views that change. What a finished
    fit is judged by is `LinearProbe`. Parameters, buffers and random streams of the fit stay as they are bit for bit,
    and nothing is read back from the device after the first step. A resumed fit starts a new probe, whose accuracy
    begins at chance; with several processes, each has its own, and their mean is reported.

    Args:
        guide: the fitted guide.
        labels: integer class of each image to fit, shape ``(image,)``.
        representation: ``backbone``, ``z``, ``content`` or ``style``.
        lr: Adam's learning rate.
        window: steps that accuracy and statistics remember: means of all steps up to so many, and from there on
            exponential, ``mean += (new − mean) / window``.

    Attributes:
        classes: labels present, ascending, shape ``(class,)``.
        weight, bias: the classifier of standardised features, ``(class, feature)`` and ``(class,)``; from the first
            step on.

    Raises:
        ValueError: labels that are no integers of shape ``(image,)`` or hold a single class; an unknown representation;
            lr or window not positive.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self, guide: Guide, labels: Tensor, representation: str = "backbone", lr: float = 1e-2, window: int = 50
    ) -> None:
        if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
            raise ValueError(f"labels must be integers of shape (image,), got {labels.dtype} {tuple(labels.shape)}")
        if representation not in REPRESENTATIONS:
            raise ValueError(f"unknown representation {representation!r}; known are {', '.join(REPRESENTATIONS)}")
        if not (lr > 0 and window > 0):
            raise ValueError(f"lr and window must be positive, got {lr} and {window}")
        self.guide = guide
        self.representation = representation
        self.lr = lr
        self.window = window
        self.classes, self._places = torch.unique(labels, return_inverse=True)
        if len(self.classes) < 2:
            raise ValueError(f"labels hold {len(self.classes)} class; a probe needs at least two")
        self._steps = 0

    @property
    def known_images(self) -> int:
        """How many images have a label."""
        return len(self._places)

    @torch.no_grad()
    def __call__(self, views: Views, index: Tensor) -> dict[str, Tensor]:
        """Classifies and learns from a batch.

        Args:
            views: of which the first is taken; of the first modality, where they are of several.
            index: the images' places among the labels, shape ``(image,)``.
        """
        features = self._features(views)
        if not self._steps:
            self._start(features)
        self._steps += 1
        share = 1 / min(self._steps, self.window)
        places = self._places[index]
        x = self._standardised(features, share)
        logits = torch.addmm(self.bias, x, self.weight.T)
        self._accuracy.lerp_((logits.argmax(1) == places).to(x.dtype).mean(), share)
        # Softmax regression's gradient is written out: it needs no tape.
        residual = (logits.softmax(1) - (places[:, None] == self._every).to(x.dtype)) / len(x)
        self.weight.grad, self.bias.grad = residual.T @ x, residual.sum(0)
        self._adam.step()
        return {"probe_accuracy": self._accuracy}

    def _features(self, views: Views) -> Tensor:
        first = (
            views[0]
            if isinstance(views, Tensor)
            else {modality: batch[0] for modality, batch in list(views.items())[:1]}
        )
        with evaluation_mode(self.guide):
            return self.guide.embed(first).as_dict()[self.representation]

    def _start(self, features: Tensor) -> None:
        width = features.shape[1]
        if not width:
            raise ValueError(f"{self.representation} has no width under this prior; probe another representation")
        self._places = self._places.to(features.device)
        self._every = torch.arange(len(self.classes), device=features.device)
        self.weight, self.bias = features.new_zeros(len(self.classes), width), features.new_zeros(len(self.classes))
        self._mean, self._variance = features.new_zeros(width), features.new_zeros(width)
        self._accuracy = features.new_zeros(())
        self._adam = torch.optim.Adam([self.weight, self.bias], lr=self.lr, fused=True)

    def _standardised(self, features: Tensor, share: float) -> Tensor:
        """The features by their running mean and variance, this batch being that share of them."""
        mean, variance = features.mean(0), features.var(0, correction=0)
        apart = mean - self._mean
        # A mixture's variance is the mean of variances and the variance of means.
        self._variance.lerp_(variance, share).add_(apart.square(), alpha=share * (1 - share))
        self._mean.add_(apart, alpha=share)
        return (features - self._mean) * (self._variance + _SMALLEST_VARIANCE).rsqrt()
