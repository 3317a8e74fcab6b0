"""Fine-tuning: how well the class is read once the encoder, too, may learn from labels."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pp_simve.evaluation.features import Standardiser, checked_classes
from pp_simve.evaluation.linear import LinearProbe, accuracy
from pp_simve.inference.guides.base import Guide
from pp_simve.inference.tools import evaluation_mode, random_state_kept, unit_range

Labelled = tuple[Tensor, Tensor]
"""Images, uint8 ``(image, channel, height, width)``, and their classes ``(image,)``."""


class Classifier(nn.Module):
    """An encoder and a linear head on its standardised features.

    Args:
        guide: whose encoder it is; a copy, which is trained.
        standardise: of the features before any training.
        head: from features to log odds of the classes.
    """

    def __init__(self, guide: Guide, standardise: Standardiser, head: nn.Linear) -> None:
        super().__init__()
        self.guide = guide
        self.standardise = standardise
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Log odds, shape ``(image, class)``, of uint8 images."""
        features = self.guide.embed(unit_range(images)).backbone
        assert isinstance(features, Tensor)
        logits: Tensor = self.head(self.standardise(features))
        return logits

    @torch.no_grad()
    def classes(self, images: Tensor, batch_size: int = 512) -> Tensor:
        """The likeliest class of each image, in evaluation mode, shape ``(image,)``."""
        with evaluation_mode(self):
            return torch.cat([self(chunk).argmax(1) for chunk in torch.split(images, batch_size)])


def fine_tuned_scores(
    guide: Guide,
    train: Labelled,
    validation: Labelled,
    test: Labelled,
    *,
    epochs: int,
    seed: int,
    lr: float = 5e-4,
    batch_size: int = 128,
) -> dict[str, float]:
    """Accuracy on test of a copy of the encoder that is trained on with a linear head, on clean images of train.

    The head starts as the linear probe of the backbone, so that it does not spoil features before it knows anything
    (Kumar, Raghunathan, Jones, Ma and Liang 2022, arXiv 2202.10054). Adam, all weights of the encoder, constant rate.
    The epoch with the best validation accuracy is kept, the earliest of equals; epoch 0 is the probe. Test is looked at
    once, for that epoch.

    Args:
        guide: on the device of the images; it is copied, and left as it is.
        train, validation, test: images and classes.
        epochs: over train at most.
        seed: of the batches; torch's own generators are left as they were.
        lr: learning rate.
        batch_size: images a step.

    Returns:
        ``"accuracy"`` on test, ``"validation"`` accuracy, ``"epoch"`` that was kept and ``"epochs"`` there were.

    Raises:
        ValueError: epochs below 1, or a single train class.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    images, labels = train
    known = checked_classes(labels)
    tuned = copy.deepcopy(guide)
    classifier = _start(tuned, train, validation)
    targets = torch.searchsorted(known, labels)
    optimiser = torch.optim.Adam(classifier.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    best = accuracy(known[classifier.classes(validation[0])], validation[1])
    kept, kept_epoch = copy.deepcopy(classifier.state_dict()), 0
    with random_state_kept(images.device), torch.enable_grad():
        torch.manual_seed(seed)
        for epoch in range(1, epochs + 1):
            classifier.train()
            order = torch.randperm(len(images), generator=generator).to(images.device)
            for batch in torch.split(order, batch_size):
                if len(batch) == 1:
                    continue  # of which batch norm makes nothing
                optimiser.zero_grad()
                cross_entropy(classifier(images[batch]), targets[batch]).backward()
                optimiser.step()
            score = accuracy(known[classifier.classes(validation[0])], validation[1])
            if score > best:
                best, kept, kept_epoch = score, copy.deepcopy(classifier.state_dict()), epoch
    classifier.load_state_dict(kept)
    return {
        "accuracy": accuracy(known[classifier.classes(test[0])], test[1]),
        "validation": best,
        "epoch": float(kept_epoch),
        "epochs": float(epochs),
    }


def _start(guide: Guide, train: Labelled, validation: Labelled) -> Classifier:
    """The linear probe of the backbone as a network."""
    features, validation_features = (
        guide.embed_batches(images).as_dict()["backbone"] for images, _ in (train, validation)
    )
    probe = LinearProbe().fit(features, train[1], validation_features, validation[1])
    # Without a start of its own, which would be drawn from torch's generator.
    head = nn.utils.skip_init(nn.Linear, features.shape[1], len(probe.classes), device=features.device)
    with torch.no_grad():
        head.weight.copy_(probe.weight)
        head.bias.copy_(probe.bias)
    for parameter in guide.parameters():
        parameter.requires_grad_(True)
    return Classifier(guide, Standardiser.of(features), head)
