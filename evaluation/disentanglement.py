"""Disentanglement: what content and style keep of what z knows, and what each of them lacks of the other's."""

from __future__ import annotations

from collections.abc import Mapping

LEAST = 0.02
"""Knowledge of z below which there is nothing to share out."""

PARTS = ("z", "content", "style")


def disentanglement_scores(
    classes: Mapping[str, float], views: Mapping[str, float], chance: float
) -> dict[str, float | None]:
    """In four shares, how cleanly z is parted into content, which is to know the class, and style, the view.

    Knowledge of the class is the accuracy above chance, (accuracy − chance) / (1 − chance); knowledge of the view is
    the mean R² of its parameters; both cut to [0, 1]. What a part *keeps* is its knowledge over that of z, at most 1;
    what it *lacks* is 1 minus that.

    Read it so: 1 everywhere is content that knows all of the class and nothing of the view, beside style that knows all
    of the view and nothing of the class. Two equal copies of z keep all and lack nothing, a mean of ½; so do two parts
    that know nothing, which keep nothing and lack all: look at the four, not at the mean alone.

    Args:
        classes: accuracy of the class read from each of z, content and style, as fractions.
        views: mean R² of the view's parameters read from each.
        chance: accuracy of who always says the commonest class, below 1.

    Returns:
        ``"content_keeps_class"``, ``"content_lacks_views"``, ``"style_keeps_views"`` and ``"style_lacks_class"``, None
        where z knows less than 0.02 itself; and ``"mean"`` of the four, None if one is.

    Raises:
        ValueError: z, content or style is missing, or chance is not in [0, 1).
    """
    for name, scores in (("classes", classes), ("views", views)):
        if missing := [part for part in PARTS if part not in scores]:
            raise ValueError(f"{name} must hold a score of z, content and style, {', '.join(missing)} is missing")
    if not 0 <= chance < 1:
        raise ValueError(f"chance must be a fraction below 1, got {chance}")
    of_class = {part: _cut((classes[part] - chance) / (1 - chance)) for part in PARTS}
    of_views = {part: _cut(views[part]) for part in PARTS}
    shares = {
        "content_keeps_class": _kept(of_class, "content"),
        "content_lacks_views": _lacked(of_views, "content"),
        "style_keeps_views": _kept(of_views, "style"),
        "style_lacks_class": _lacked(of_class, "style"),
    }
    known = [share for share in shares.values() if share is not None]
    return {**shares, "mean": sum(known) / 4 if len(known) == 4 else None}


def _kept(knowledge: Mapping[str, float], part: str) -> float | None:
    return None if knowledge["z"] < LEAST else min(1.0, knowledge[part] / knowledge["z"])


def _lacked(knowledge: Mapping[str, float], part: str) -> float | None:
    kept = _kept(knowledge, part)
    return None if kept is None else 1 - kept


def _cut(value: float) -> float:
    return min(1.0, max(0.0, value))
