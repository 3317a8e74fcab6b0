"""Guides of several modalities: one modality alone, retrieval between two, zero-shot classification across them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import permutations

import torch
from torch import Tensor

from pp_simve.evaluation.probes.base import (
    Array,
    accuracy,
    checked,
    checked_features,
    checked_grid,
    checked_labels,
    unit_rows,
)
from pp_simve.evaluation.records import Record
from pp_simve.evaluation.subject import LabelledImages, labels_of
from pp_simve.evaluation.tasks.classes import Labelled, content_of
from pp_simve.inference.guides.base import Guide, Representation
from pp_simve.inference.tools import evaluation_mode, unit_range
from pp_simve.models import PlainViews

_BLOCK = 2**23
"""Entries of a block of similarities: 64 MiB in float64."""


class SingleModality(Guide):
    """A guide of several modalities restricted to ``modality``, the others missing."""

    def __init__(self, guide: Guide, modality: str) -> None:
        super().__init__()
        self.guide = guide
        self.modality = modality

    def forward(self, views: PlainViews) -> None:
        assert isinstance(views, Tensor)
        self.guide({self.modality: views})

    def posterior(self, views: PlainViews) -> Representation:
        assert isinstance(views, Tensor)
        found = self.guide.posterior({self.modality: views})
        backbone = found.backbone if isinstance(found.backbone, Tensor) else found.backbone[self.modality]
        return Representation(backbone=backbone, z=found.z, content=found.content, style=found.style)


@torch.no_grad()
def content_of_modalities(guide: Guide, images: Mapping[str, Tensor], batch_size: int = 512) -> Tensor:
    """Posterior mean of content given a view of each modality there is, shape ``(image, content)``.

    Under a prior that shares nothing between views, the mean of the views' z. Images are by modality, uint8 ``(image,
    channel, height, width)``, of the same things, on the device of the guide.
    """
    parts = []
    with evaluation_mode(guide):
        for chunk in zip(*(torch.split(batch, batch_size) for batch in images.values()), strict=True):
            views = {modality: unit_range(batch)[None] for modality, batch in zip(images, chunk, strict=True)}
            parts.append(content_of(guide.posterior(views)))
    return torch.cat(parts)


@dataclass(frozen=True)
class ModalitySubject:
    """A guide of several modalities, their train, validation and test splits, and the records found so far."""

    guide: Guide
    splits: Mapping[str, Sequence[LabelledImages]]
    found: list[Record] = field(default_factory=list, compare=False)
    names = ("content",)
    modality = ""

    @cached_property
    def directions(self) -> list[tuple[str, list[Tensor], list[Tensor]]]:
        """Ordered pairs of modalities: ``"upper to lower"``, and the contents from each alone, of every split."""
        contents = {
            name: [content_of_modalities(self.guide, {name: split.images}) for split in splits]
            for name, splits in self.splits.items()
        }
        return [(f"{one} to {other}", contents[one], contents[other]) for one, other in permutations(contents, 2)]

    @property
    def labels(self) -> list[Tensor]:
        """Classes of the splits; raises `NotApplicableError` where there are none."""
        return labels_of(next(iter(self.splits.values())))

    def labelled(self, name: str) -> list[Labelled]:
        """Content inferred from all modalities at once, and the classes, of every split."""
        whole = [{name: splits[place].images for name, splits in self.splits.items()} for place in range(3)]
        return [(content_of_modalities(self.guide, images), y) for images, y in zip(whole, self.labels, strict=True)]


def retrieval_scores(queries: Array, gallery: Array, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Cross-modal retrieval: recall at k and median rank of the right gallery row, by cosine similarity.

    Row i of both modalities, ``(row, feature)``, is the same thing. Ties with the right row are broken at random, and
    scores are expectations over the orders: constant embeddings score exactly chance, and identical descriptions share
    their ranks. Similarities are computed in float64 and tied if they differ by at most its `rounding` errors. A row of
    zeros has similarity 0 to all.

    Returns:
        For each k (limited to the number of rows N), ``"recall@k"``: fraction of the queries whose right row is among
        the k most similar; and ``"chance@k"``: the score of constant embeddings, min(k, N) / N. ``"median_rank"``:
        median over queries of the expected rank of the right row, from 1 to N; (N + 1) / 2 by chance.

    Raises:
        ValueError: features that are not finite, shapes that do not agree, or ``ks`` that are empty or below 1.
    """
    checked_grid("ks", ks, least=1)
    queries = checked_features(queries, "query")
    gallery = checked(gallery, "gallery features", *queries.shape, dtype="floating point")
    tolerance = rounding(gallery.shape[1])
    ahead, tied, start = [], [], 0
    for similarity in cosine_blocks(unit_rows(queries.double()), unit_rows(gallery.double())):
        lead = similarity - similarity.diagonal(offset=start).unsqueeze(1)
        ahead.append((lead > tolerance).sum(dim=1))
        tied.append((lead.abs() <= tolerance).sum(dim=1))
        start += len(similarity)
    # The right row is one of the tied, uniform over the ranks ahead + 1, ..., ahead + tied.
    before, places = torch.cat(ahead).double(), torch.cat(tied).double()
    scores: dict[str, float] = {}
    for k in ks:
        scores[f"recall@{k}"] = ((k - before) / places).clamp(0, 1).mean().item()
        scores[f"chance@{k}"] = min(k, len(gallery)) / len(gallery)
    scores["median_rank"] = (before + (places + 1) / 2).quantile(0.5).item()
    return scores


def zero_shot_scores(queries: Array, labels: Array, prompts: Array, prompt_labels: Array) -> dict[str, float]:
    """Accuracy of `zero_shot_predictions` against the classes ``(query,)``, each of which must have a prompt.

    Returns:
        ``"accuracy"``, and ``"chance"``, that of always guessing the most frequent class of the queries.
        ``"balanced_accuracy"``: mean recall over the classes present among the queries, and ``"chance_balanced"``, that
        of always guessing one of them: 1 / their number.

    Raises:
        ValueError: as `zero_shot_predictions`, or for query labels that no prompt has.
    """
    queries = checked_features(queries, "query")
    labels = checked_labels(labels, queries, "query")
    predicted = zero_shot_predictions(queries, prompts, prompt_labels)
    classes, index, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    if undescribed := classes[~torch.isin(classes, torch.as_tensor(prompt_labels).to(classes))].tolist():
        raise ValueError(f"no prompt describes the query labels {undescribed}: give each class at least one prompt")
    hits = counts.new_zeros(len(classes)).index_add(0, index, (predicted == labels).long())
    return {
        "accuracy": accuracy(predicted, labels),
        "chance": counts.max().item() / len(labels),
        "balanced_accuracy": (hits.double() / counts).mean().item(),
        "chance_balanced": 1 / len(classes),
    }


def zero_shot_predictions(queries: Array, prompts: Array, prompt_labels: Array) -> Tensor:
    """Class of each query: the one of largest cosine to the mean of the unit-normalized prompts of the class.

    Prompts describe the classes in the other modality (prompt ensembling in the space of embeddings: Radford et al.
    2021, arXiv 2103.00020, §3.1.4). Among classes equally similar, up to the rounding of float64, the smallest label
    wins. Zeros, be they a query or prompts that cancel, are at cosine 0. Queries and prompts are float features
    ``(query, feature)`` and ``(prompt, feature)``; labels ``(prompt,)`` and predictions ``(query,)`` are integers.

    Raises:
        ValueError: features that are not finite, or shapes that do not agree.
    """
    queries = checked_features(queries, "query")
    prompts = checked_features(prompts, "prompt", width=queries.shape[1])
    prompt_labels = checked_labels(prompt_labels, prompts, "prompt")
    classes, index, counts = torch.unique(prompt_labels, return_inverse=True, return_counts=True)
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


def cosine_blocks(queries: Tensor, gallery: Tensor) -> Iterator[Tensor]:
    """Cosines of a few queries to all gallery rows, shape ``(some queries, gallery row)``; both are unit rows."""
    for chunk in torch.split(queries, max(1, _BLOCK // len(gallery))):
        yield chunk @ gallery.T


def rounding(terms: int) -> float:
    """Bound on the difference of two computed float64 cosines that are equal, of vectors with ``terms`` entries.

    With u = eps / 2, a product of unit vectors is off by at most terms · u in whatever order it is summed, and the
    norm of each by (terms / 2 + 3) · u: (2 terms + 6) · u a cosine, twice that between two (Higham 2002, §3.1).
    Cosines of float32 features that do differ are, as a rule, much further apart than this.
    """
    return (2 * terms + 6) * torch.finfo(torch.float64).eps
