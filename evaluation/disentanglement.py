"""Disentanglement: how cleanly content and style share out the class and view information of z."""

from __future__ import annotations

from collections.abc import Mapping

LEAST = 0.02
"""Score of z below which there is nothing to share out."""

PARTS = ("z", "content", "style")


def disentanglement_scores(
    classes: Mapping[str, float], views: Mapping[str, float], chance: float
) -> dict[str, float | None]:
    """Disentanglement scores: four shares of how well z splits into content (class) and style (view parameters).

    The class score of a part is its accuracy above chance, (accuracy − chance) / (1 − chance); the view score is the
    mean R² of the view parameters; both cut to [0, 1]. What a part *keeps* is its score over that of z, at most 1; what
    it *lacks* is 1 minus that. 1 everywhere is content that predicts the class as well as z and the view not at all,
    beside style that does the opposite. Two equal copies of z keep all and lack nothing, a mean of ½; so do two parts
    that predict nothing: look at the four, not at the mean alone.

    Args:
        classes: accuracy of the class from each of z, content and style.
        views: mean R² of the view parameters from each.
        chance: accuracy of always predicting the commonest class, in [0, 1).

    Returns:
        ``"content_keeps_class"``, ``"content_lacks_views"``, ``"style_keeps_views"`` and ``"style_lacks_class"``, None
        where the score of z is below 0.02; and ``"mean"`` of the four, None if one is.

    Raises:
        ValueError: z, content or style is missing, or chance is not in [0, 1).
    """
    for name, scores in (("classes", classes), ("views", views)):
        if missing := [part for part in PARTS if part not in scores]:
            raise ValueError(f"{name} must hold a score of z, content and style, {', '.join(missing)} is missing")
    if not 0 <= chance < 1:
        raise ValueError(f"chance must be a fraction below 1, got {chance}")
    of = {"class": {part: (classes[part] - chance) / (1 - chance) for part in PARTS}, "views": views}
    shares: dict[str, float | None] = {}
    for part, kept, lacked in (("content", "class", "views"), ("style", "views", "class")):
        for verb, what in (("keeps", kept), ("lacks", lacked)):
            whole = _cut(of[what]["z"])
            share = None if whole < LEAST else _cut(_cut(of[what][part]) / whole)
            shares[f"{part}_{verb}_{what}"] = share if share is None or verb == "keeps" else 1 - share
    known = [share for share in shares.values() if share is not None]
    return {**shares, "mean": sum(known) / 4 if len(known) == 4 else None}


def _cut(value: float) -> float:
    return min(1.0, max(0.0, value))
