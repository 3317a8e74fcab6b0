"""Cross-modal retrieval: rank of the matching row of one modality for queries of another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pp_simve.evaluation.probes.base import checked, checked_features, checked_grid, unit_rows

_BLOCK = 2**23
"""Entries of a block of similarities, (queries × gallery rows): 64 MiB in float64, however many rows there are."""


def retrieval_scores(queries: Tensor, gallery: Tensor, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Recall at k and median rank of the right gallery row, by cosine similarity; row i of both is the same thing.

    Ties with the right row are broken at random, and scores are expectations over the orders: constant embeddings score
    exactly chance, and identical descriptions share their ranks. A row of zeros has similarity 0 to all.

    Similarities are computed in float64 and tied if they differ by at most its rounding errors (`rounding`): duplicates
    need not get bitwise equal columns of a matrix product, and different rows may be at equal angles from the query.

    Args:
        queries, gallery: float features of the two modalities, shape ``(row, feature)`` both, on one device.
        ks: numbers of gallery rows retrieved, each at least 1, limited to the number of rows N.

    Returns:
        For each k, ``"recall@k"``: fraction of the queries whose right row is among the k most similar; and
        ``"chance@k"``: the score of constant embeddings, min(k, N) / N. ``"median_rank"``: median over the
        queries of the expected rank of the right row, from 1, the best, to N; (N + 1) / 2 by chance.

    Raises:
        ValueError: for features that are not finite, shapes that do not agree, or ``ks`` that are empty or below 1.
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


def cosine_blocks(queries: Tensor, gallery: Tensor) -> Iterator[Tensor]:
    """Cosines of a few queries to all gallery rows, shape ``(some queries, gallery row)``; both are unit rows."""
    for chunk in torch.split(queries, max(1, _BLOCK // len(gallery))):
        yield chunk @ gallery.T


def rounding(terms: int) -> float:
    """Bound on the difference of two computed float64 cosines that are equal, of vectors with ``terms`` entries.

    With u = eps / 2, a product of unit vectors is off by at most terms · u in whatever order it is summed, and the
    norm of each by (terms / 2 + 3) · u: (2 terms + 6) · u a cosine, twice that between two (Higham 2002, §3.1).
    Cosines of float32 features that do differ are, as a rule, much further apart than this, 10⁻¹³ for 200 features.
    """
    return (2 * terms + 6) * torch.finfo(torch.float64).eps
