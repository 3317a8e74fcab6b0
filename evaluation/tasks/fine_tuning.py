"""Fine-tuning: how well the class is predicted once the encoder is trained on labels, too."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pp_simve.evaluation.probes import LinearProbe, accuracy
from pp_simve.evaluation.probes.base import Standardizer, checked_grid
from pp_simve.evaluation.tasks.classes import Labelled
from pp_simve.inference.guides.base import Guide
from pp_simve.inference.tools import evaluation_mode, random_state_kept, unit_range


class Classifier(nn.Module):
    """The guide's encoder, trained in place, with a linear head that starts as the linear probe of the backbone."""

    def __init__(self, guide: Guide, train: Labelled, validation: Labelled) -> None:
        super().__init__()
        features, chosen = (guide.embed_batches(images).as_dict()["backbone"] for images, _ in (train, validation))
        probe = LinearProbe().fit(features, train[1], chosen, validation[1])
        self.guide = guide.requires_grad_(True)
        self.standardize = Standardizer.of(features)
        self.weight, self.bias = nn.Parameter(probe.weight), nn.Parameter(probe.bias)
        self.classes = probe.classes

    def forward(self, images: Tensor) -> Tensor:
        """Logits of uint8 images, shape ``(image, class)``."""
        features = self.guide.embed(unit_range(images)).backbone
        assert isinstance(features, Tensor)
        return nn.functional.linear(self.standardize(features), self.weight, self.bias)

    @torch.no_grad()
    def score(self, images: Tensor, labels: Tensor, batch_size: int = 512) -> float:
        """Accuracy in evaluation mode."""
        with evaluation_mode(self):
            found = torch.cat([self(chunk).argmax(1) for chunk in torch.split(images, batch_size)])
        return accuracy(self.classes[found], labels)


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
    """Test accuracy of a copy of the encoder that is trained with a linear head on clean train images.

    The head starts as the linear probe of the backbone, because a random head would first distort the features (Kumar,
    Raghunathan, Jones, Ma and Liang 2022, arXiv 2202.10054). Adam, all weights of the encoder, constant learning rate
    ``lr``, at most ``epochs`` over train. The epoch with the best validation accuracy is selected, the earliest of
    equals; epoch 0 is the probe. Test is scored once, at that epoch. ``seed`` is of the batches; torch's global
    generators are not changed.

    Returns:
        ``"accuracy"`` on test, ``"validation"`` accuracy, the selected ``"epoch"`` and the number of ``"epochs"``.

    Raises:
        ValueError: epochs below 1, or a single train class.
    """
    checked_grid("epochs", [epochs], least=1)
    images, labels = train
    classifier = Classifier(copy.deepcopy(guide), train, validation)
    targets = torch.searchsorted(classifier.classes, labels)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    best, best_epoch, best_state = classifier.score(*validation), 0, copy.deepcopy(classifier.state_dict())
    with random_state_kept(images.device), torch.enable_grad():
        torch.manual_seed(seed)
        for epoch in range(1, epochs + 1):
            classifier.train()
            order = torch.randperm(len(images), generator=generator).to(images.device)
            for batch in torch.split(order, batch_size):
                if len(batch) == 1:
                    continue  # batch norm has no variance of one image
                optimizer.zero_grad()
                cross_entropy(classifier(images[batch]), targets[batch]).backward()
                optimizer.step()
            score = classifier.score(*validation)
            if score > best:
                best, best_epoch, best_state = score, epoch, copy.deepcopy(classifier.state_dict())
    classifier.load_state_dict(best_state)
    return {
        "accuracy": classifier.score(*test),
        "validation": best,
        "epoch": float(best_epoch),
        "epochs": float(epochs),
    }
