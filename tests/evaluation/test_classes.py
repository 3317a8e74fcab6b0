"""Content scores: accuracy of the linear and the nearest-neighbor probe on test."""

from __future__ import annotations

import torch
from torch import Tensor

from pp_simve.evaluation import KNNProbe, LinearProbe, content_scores


def splits() -> list[Tensor]:
    return [torch.randn(n, 5, generator=torch.Generator().manual_seed(i)) for i, n in enumerate((1000, 400, 600))]


def test_content_is_the_accuracy_of_both_probes_on_test() -> None:
    train, validation, test = ((x, (x[:, 0] + 0.5 * x[:, 1] > 0).long()) for x in splits())
    scores = content_scores(train, validation, test)
    assert list(scores) == ["linear", "knn"]
    assert scores["linear"] == LinearProbe().fit(*train, *validation).score(*test) > 0.97
    assert scores["knn"] == KNNProbe().fit(*train, *validation).score(*test) > 0.85
