"""Disentanglement scores, on cases that follow from the definition."""

from __future__ import annotations

import pytest

from pp_simve.evaluation.disentanglement import disentanglement_scores

SHARES = ("content_keeps_class", "content_lacks_views", "style_keeps_views", "style_lacks_class")


@pytest.mark.parametrize(
    ("classes", "views", "chance", "expected"),
    [
        pytest.param((0.9, 0.9, 0.1), (0.8, 0.0, 0.8), 0.1, [1, 1, 1, 1, 1], id="clean"),
        pytest.param((0.9, 0.95, 0.05), (0.8, -0.3, 0.9), 0.1, [1, 1, 1, 1, 1], id="below chance, above z"),
        pytest.param((0.9, 0.9, 0.9), (0.8, 0.8, 0.8), 0.1, [1, 0, 1, 0, 0.5], id="copies of z"),
        pytest.param((0.9, 0.1, 0.9), (0.8, 0.8, 0.0), 0.1, [0, 0, 0, 0, 0], id="exchanged"),
        # Above chance of 0.5: z has 0.8 of the class, content 0.4, style nothing.
        pytest.param((0.9, 0.7, 0.3), (0.8, 0.2, 0.6), 0.5, [0.5, 0.75, 0.75, 1.0, 0.75], id="linear in between"),
        pytest.param((0.9, 0.9, 0.1), (0.01, 0.5, 0.5), 0.1, [1, None, None, 1, None], id="no views in z"),
        pytest.param((0.1, 0.9, 0.1), (0.8, 0.0, 0.8), 0.1, [None, 1, 1, None, None], id="no class in z"),
    ],
)
def test_shares(
    classes: tuple[float, float, float], views: tuple[float, float, float], chance: float, expected: list[float | None]
) -> None:
    """Four shares and their mean, from scores of z, content and style."""
    names = ("z", "content", "style")
    found = disentanglement_scores(dict(zip(names, classes, strict=True)), dict(zip(names, views, strict=True)), chance)
    for name, value in zip((*SHARES, "mean"), expected, strict=True):
        assert found[name] == (None if value is None else pytest.approx(value))


def test_wrong_input_is_named() -> None:
    scores = {"z": 0.5, "content": 0.5, "style": 0.5}
    with pytest.raises(ValueError, match="views must hold a score of z, content and style, style is missing"):
        disentanglement_scores(scores, {"z": 0.5, "content": 0.5}, 0.1)
    with pytest.raises(ValueError, match="chance must be a fraction below 1, got 1"):
        disentanglement_scores(scores, scores, 1)
