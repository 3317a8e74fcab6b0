"""Zero-shot classification by prompts: descriptions of the classes in the other modality."""

from __future__ import annotations

import torch
from torch import Tensor

from pp_simve.evaluation.probes.base import accuracy, checked_features, checked_labels, unit_rows
from pp_simve.evaluation.retrieval import cosine_blocks, rounding


def zero_shot_scores(queries: Tensor, labels: Tensor, prompts: Tensor, prompt_labels: Tensor) -> dict[str, float]:
    """Accuracy of `zero_shot_predictions`.

    Args:
        queries: float features to classify, shape ``(query, feature)``.
        labels: integer classes of the queries, shape ``(query,)``; each must have a prompt.
        prompts: float features of descriptions of the classes in the other modality, shape ``(prompt, feature)``.
        prompt_labels: the class that each prompt describes, shape ``(prompt,)``; there may be classes without queries.

    Returns:
        ``"accuracy"``, and ``"chance"``, that of always guessing the most frequent class of the queries.
        ``"balanced_accuracy"``: mean recall over the classes present among the queries, and ``"chance_balanced"``, that
        of always guessing one of them: 1 / their number.

    Raises:
        ValueError: as `zero_shot_predictions`, or for query labels that no prompt has.
    """
    labels = checked_labels(labels, queries, "query")
    predicted = zero_shot_predictions(queries, prompts, prompt_labels)
    classes, index, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    if undescribed := classes[~torch.isin(classes, prompt_labels.to(classes))].tolist():
        raise ValueError(f"no prompt describes the query labels {undescribed}: give each class at least one prompt")
    hits = counts.new_zeros(len(classes)).index_add(0, index, (predicted == labels).long())
    return {
        "accuracy": accuracy(predicted, labels),
        "chance": counts.max().item() / len(labels),
        "balanced_accuracy": (hits.double() / counts).mean().item(),
        "chance_balanced": 1 / len(classes),
    }


def zero_shot_predictions(queries: Tensor, prompts: Tensor, prompt_labels: Tensor) -> Tensor:
    """The class of each query: the one of largest cosine to the mean of the unit-normalised prompts of the class.

    This is prompt ensembling in the space of embeddings (Radford et al. 2021, "Learning Transferable Visual Models
    From Natural Language Supervision", §3.1.4). Among classes equally similar, up to the rounding of float64, the
    smallest label wins. Zeros, be they a query or prompts that cancel, are at cosine 0.

    Args:
        queries: float features, shape ``(query, feature)``, on the device of ``prompts``.
        prompts: float features of the other modality, shape ``(prompt, feature)``.
        prompt_labels: integer classes, shape ``(prompt,)``.

    Returns:
        Labels, shape ``(query,)``, int64.

    Raises:
        ValueError: for features that are not finite or shapes that do not agree.
    """
    queries = checked_features(queries, "query")
    prompts = checked_features(prompts, "prompt", width=queries.shape[1])
    classes, index, counts = torch.unique(
        checked_labels(prompt_labels, prompts, "prompt"), return_inverse=True, return_counts=True
    )
    tolerance = rounding(prompts.shape[1] + len(prompts))
    means = prompts.new_zeros(len(classes), prompts.shape[1], dtype=torch.float64)
    means = means.index_add(0, index, unit_rows(prompts.double())) / counts.unsqueeze(1)
    # The remainder of prompts that cancel is rounding error without a direction.
    means = torch.where(means.norm(dim=1, keepdim=True) > tolerance, unit_rows(means), 0.0)
    best = [
        (cosine >= cosine.amax(dim=1, keepdim=True) - tolerance).int().argmax(dim=1)
        for cosine in cosine_blocks(unit_rows(queries.double()), means)
    ]
    return classes[torch.cat(best)]
