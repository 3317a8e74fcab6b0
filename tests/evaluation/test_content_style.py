"""Content and style scores of features whose knowledge is known."""

import math

import pytest
import torch
from torch import Tensor

from pp_simve.evaluation import KNNProbe, LinearProbe, content_scores, style_scores


def features(rows: int, seed: int, width: int = 5) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def splits(seed: int = 0) -> list[Tensor]:
    return [features(rows, seed + index) for index, rows in enumerate((1000, 400, 600))]


def test_content_is_the_accuracy_of_both_probes_on_test() -> None:
    train, validation, test = ((x, (x[:, 0] + 0.5 * x[:, 1] > 0).long()) for x in splits())
    scores = content_scores(train, validation, test)
    assert list(scores) == ["linear", "knn"]
    assert scores["linear"] == LinearProbe().fit(*train, *validation).score(*test) > 0.97
    assert scores["knn"] == KNNProbe().fit(*train, *validation).score(*test) > 0.85


def test_content_of_a_ring_is_seen_by_neighbours_only() -> None:
    train, validation, test = ((x[:, :2], (x[:, :2].norm(dim=1) > 1.2).long()) for x in splits())
    scores = content_scores(train, validation, test)
    # The best half-plane has 0.63: all beyond a line at one side of the ring, and the larger class for the rest.
    assert scores["linear"] < 0.7
    assert scores["knn"] > 0.93


def known(x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """One parameter that the features hold, one they do not, one that does not vary."""
    hidden = torch.randn(len(x), generator=torch.Generator().manual_seed(len(x)))
    return x, {"seen": 30 * x[:, 0] - 7, "hidden": hidden, "fixed": torch.ones(len(x))}


def test_style_says_who_knows_what() -> None:
    train, validation, test = map(known, splits())
    scores = style_scores(train, validation, test)
    assert list(scores) == ["mean_r2", "seen", "hidden", "fixed"]
    assert scores["seen"] > 0.999
    assert abs(scores["hidden"]) < 0.05
    assert math.isnan(scores["fixed"])
    assert scores["mean_r2"] == pytest.approx((scores["seen"] + scores["hidden"]) / 2)


def test_style_mean_is_undefined_where_nothing_varies() -> None:
    x = features(20, seed=0)
    split = (x, {"fixed": torch.zeros(20)})
    assert all(math.isnan(score) for score in style_scores(split, split, split).values())


def test_style_pairs_parameters_by_name_not_by_order() -> None:
    train, validation, test = map(known, splits())
    turned = test[0], dict(reversed(test[1].items()))
    assert style_scores(train, validation, turned)["seen"] > 0.999


def test_style_takes_parameters_of_any_number_type() -> None:
    x = features(200, seed=1)
    split = (x, {"flip": x[:, 0] > 0, "count": (4 * x[:, 1]).long()})
    scores = style_scores(split, split, split)
    assert 0.5 < scores["flip"] < 0.9
    assert scores["count"] > 0.9


def test_style_refuses() -> None:
    x = features(10, seed=0)
    good = (x, {"a": x[:, 0]})
    with pytest.raises(ValueError, match="there are no view parameters"):
        style_scores((x, {}), good, good)
    with pytest.raises(ValueError, match=r"test has the view parameters \['b'\], but train has \['a'\]"):
        style_scores(good, good, (x, {"b": x[:, 0]}))
    with pytest.raises(ValueError, match=r"validation view parameter 'a' must have shape \(10,\), got \(2, 5\)"):
        style_scores(good, (x, {"a": x[:, 0].view(2, 5)}), good)
    with pytest.raises(ValueError, match="a view parameter may not be called 'mean_r2'"):
        style_scores((x, {"mean_r2": x[:, 0]}), good, good)
    with pytest.raises(ValueError, match="train targets are NaN or infinite"):
        style_scores((x, {"a": x[:, 0] / 0}), good, good)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_a_collapsed_representation_scores_chance_and_zero(value: float) -> None:
    x = torch.full((300, 4), value)
    y = (torch.arange(300) % 10 < 3).long()
    scores = content_scores((x, y), (x, y), (x, y))
    assert scores["linear"] == pytest.approx(0.7)
    assert scores["knn"] in (pytest.approx(0.3), pytest.approx(0.7))
    assert LinearProbe(penalties=[0.0]).fit(x, y, x, y).score(x, y) == pytest.approx(0.7)
    split = (x, {"a": features(300, seed=0)[:, 0]})
    assert style_scores(split, split, split)["a"] == pytest.approx(0, abs=1e-6)
