"""Shares of knowledge, on answers that follow from the definition."""

from __future__ import annotations

import pytest

from pp_simve.evaluation.disentanglement import disentanglement_scores

SHARES = ("content_keeps_class", "content_lacks_views", "style_keeps_views", "style_lacks_class")


def shares(classes: tuple[float, float, float], views: tuple[float, float, float], chance: float = 0.1) -> list[object]:
    """The four shares and their mean, from scores of z, content and style."""
    names = ("z", "content", "style")
    found = disentanglement_scores(dict(zip(names, classes, strict=True)), dict(zip(names, views, strict=True)), chance)
    return [found[name] for name in (*SHARES, "mean")]


def test_a_clean_parting_is_1_everywhere() -> None:
    assert shares((0.9, 0.9, 0.1), (0.8, 0.0, 0.8)) == [1, 1, 1, 1, 1]
    # Below chance and below 0 is knowing nothing; above z is knowing as much.
    assert shares((0.9, 0.95, 0.05), (0.8, -0.3, 0.9)) == [1, 1, 1, 1, 1]


def test_copies_of_z_keep_all_and_lack_nothing() -> None:
    assert shares((0.9, 0.9, 0.9), (0.8, 0.8, 0.8)) == [1, 0, 1, 0, 0.5]


def test_parts_exchanged_keep_and_lack_nothing() -> None:
    assert shares((0.9, 0.1, 0.9), (0.8, 0.8, 0.0)) == [0, 0, 0, 0, 0]


def test_shares_are_linear_in_between() -> None:
    found = shares((0.9, 0.7, 0.3), (0.8, 0.2, 0.6), chance=0.5)
    # Above chance of 0.5: z knows 0.8 of the class, content 0.4, style nothing.
    assert found[:4] == pytest.approx([0.5, 0.75, 0.75, 1.0])
    assert found[4] == pytest.approx(0.75)


def test_what_z_does_not_know_is_not_shared_out() -> None:
    assert shares((0.9, 0.9, 0.1), (0.01, 0.5, 0.5)) == [1, None, None, 1, None]
    assert shares((0.1, 0.9, 0.1), (0.8, 0.0, 0.8)) == [None, 1, 1, None, None]


def test_wrong_input_is_named() -> None:
    scores = {"z": 0.5, "content": 0.5, "style": 0.5}
    with pytest.raises(ValueError, match="views must hold a score of z, content and style, style is missing"):
        disentanglement_scores(scores, {"z": 0.5, "content": 0.5}, 0.1)
    with pytest.raises(ValueError, match="chance must be a fraction below 1, got 1"):
        disentanglement_scores(scores, scores, 1)
