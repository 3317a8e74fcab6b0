"""Online probe: a linear classifier trained alongside a fit on the guide's representation of each batch."""

from __future__ import annotations

import torch
from torch import Tensor

from pp_simve.evaluation.probes.base import checked, checked_classes, checked_grid
from pp_simve.evaluation.records import REPRESENTATIONS, without_width
from pp_simve.inference.guides.base import Guide
from pp_simve.inference.tools import evaluation_mode
from pp_simve.models import PlainViews


class OnlineProbe:
    """Running accuracy of a linear classifier during a fit, as the term ``probe_accuracy``.

    Pass it as ``fit(..., observer=OnlineProbe(guide, labels))``. After each step the batch's first view is embedded in
    evaluation mode without gradients, standardized by running statistics, classified, which gives the accuracy, and
    then trained on: one step of Adam (Kingma and Ba 2015) on the mean cross-entropy of softmax(W x + b).

    The curve monitors a fit; `LinearProbe` evaluates a finished one. Parameters, buffers and random streams of the fit
    are bit-identical with and without it, and nothing is read back from the device after the first step. A resumed fit
    starts a new probe; with several processes, each has its own, and their mean is reported.

    Args:
        labels: integer class of each image of the fit, shape ``(image,)``.
        representation: ``backbone``, ``z``, ``content`` or ``style``.
        lr: Adam's learning rate.
        window: steps in running means, which are exponential after so many: ``mean += (new − mean) / window``.

    Raises:
        ValueError: labels that are not integers ``(image,)`` of two classes; an unknown representation; lr or window
            not positive.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self, guide: Guide, labels: Tensor, representation: str = "backbone", lr: float = 1e-2, window: int = 50
    ) -> None:
        self.classes = checked_classes(checked(labels, "labels", "image", dtype="integers"))
        if representation not in REPRESENTATIONS:
            raise ValueError(f"unknown representation {representation!r}; known are {', '.join(REPRESENTATIONS)}")
        checked_grid("lr", [lr], strict=True)
        checked_grid("window", [window], least=1)
        self.guide, self.representation, self.lr, self.window = guide, representation, lr, window
        self.known_images = len(labels)
        self._positions = torch.searchsorted(self.classes, labels)
        self._steps = 0

    @torch.no_grad()
    def __call__(self, views: PlainViews, index: Tensor) -> dict[str, Tensor]:
        """Classifies and trains on the first view, of the first modality, of images at positions ``index``."""
        first = views[0] if isinstance(views, Tensor) else {name: views[name][0] for name in list(views)[:1]}
        with evaluation_mode(self.guide):
            features = self.guide.embed(first).as_dict()[self.representation]
        if not self._steps:
            self._start(features)
        self._steps += 1
        share = 1 / min(self._steps, self.window)
        apart = features.mean(0) - self._mean
        # Law of total variance: the mean of the variances plus the variance of the means.
        self._variance.lerp_(features.var(0, correction=0), share).add_(apart.square(), alpha=share * (1 - share))
        self._mean.add_(apart, alpha=share)
        x = (features - self._mean) * (self._variance + 1e-8).rsqrt()  # a constant feature stays 0
        y = self._positions[index]
        logits = torch.addmm(self.bias, x, self.weight.T)
        self._accuracy.lerp_((logits.argmax(1) == y).to(x.dtype).mean(), share)
        # The gradient of softmax regression in closed form.
        residual = (logits.softmax(1) - (y[:, None] == self._every).to(x.dtype)) / len(x)
        self.weight.grad, self.bias.grad = residual.T @ x, residual.sum(0)
        self._adam.step()
        return {"probe_accuracy": self._accuracy}

    def _start(self, features: Tensor) -> None:
        width, classes = features.shape[1], len(self.classes)
        if not width:
            raise ValueError(without_width(self.representation))
        self._positions = self._positions.to(features.device)
        self._every = torch.arange(classes, device=features.device)
        self.weight, self.bias = features.new_zeros(classes, width), features.new_zeros(classes)
        self._mean, self._variance = features.new_zeros(width), features.new_zeros(width)
        self._accuracy = features.new_zeros(())
        self._adam = torch.optim.Adam([self.weight, self.bias], lr=self.lr, fused=True)
