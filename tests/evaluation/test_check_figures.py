"""Figures of checks: their contents, also for few or no values."""

from __future__ import annotations

import io

import pytest
import torch
from matplotlib.figure import Figure

from pp_simve.evaluation.posterior import (
    AxesCheck,
    axes_figure,
    calibrate,
    check_axes,
    check_predictions,
    predictive_figure,
    ranks_figure,
    weigh,
    weights_figure,
)

from .planted_guides import planted


def written(figure: Figure) -> int:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return len(file.getvalue())


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible() and axes.get_title(loc="left")]


def test_weights_show_every_image_and_the_worst() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(400, 30, generator=generator) * torch.linspace(0.1, 6, 30)
    weight[:, 3] = 2.0  # equal weights: −∞
    check = weigh(weight)
    figure = weights_figure(check, torch.rand(30, 1, 4, 4, generator=generator), worst=5)
    histogram, scatter, *pictures = figure.axes
    assert sum(patch.get_height() for patch in histogram.patches) == pytest.approx(30)
    assert len(scatter.collections[0].get_offsets()) == 30
    assert "1 all weights equal" in histogram.get_xlabel()
    assert [axes.get_xlabel() for axes in pictures] == [f"image {image}" for image in check.worst(5).tolist()]
    assert f"k̂ {float(check.khat.max()):.2f}" == pictures[0].get_title()
    assert titles(figure)[0] == f"{check.share_above:.0%} of images above 0.62"
    assert written(figure)
    assert len(weights_figure(check).axes) == 2
    assert written(weights_figure(weigh(torch.zeros(100, 1))))
    with pytest.raises(ValueError, match="those of the check"):
        weights_figure(check, torch.rand(29, 1, 4, 4))


def test_ranks_are_drawn_in_their_band() -> None:
    found = calibrate(*planted(shift=0.7)[:3], simulations=500, seed=1)
    figure = ranks_figure(found.ranks)
    assert titles(figure) == ["content: 3 of 3 out", "style: 3 of 3 out", "z: 3 of 3 out", "log likelihood"]
    first = figure.axes[0]
    drawn = first.lines[0].get_ydata()
    assert drawn[0] == drawn[-1] == 0
    assert torch.as_tensor(drawn[1:-1]).tolist() == found.ranks["content"].differences()[0].tolist()
    assert written(figure)
    assert titles(ranks_figure(found.pooled))[0] == "content, axes in turn"
    with pytest.raises(ValueError, match="at least one"):
        ranks_figure({})


def test_axes_stand_in_the_order_of_contraction() -> None:
    check = check_axes(*planted(images=40)[:3], seed=1)
    figure = axes_figure(check)
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert heights == sorted(check.latents["content"].contraction.tolist(), reverse=True)
    assert titles(figure)[0] == "content: all fill the prior"
    assert written(figure)
    with pytest.raises(ValueError, match="proper prior"):
        axes_figure(AxesCheck({}, {}))


def test_predictions_stand_against_the_views() -> None:
    given = planted()[:3]
    check = check_predictions(*given, draws=900, seed=1)
    figure = predictive_figure(check)
    assert [title.split(":")[0] for title in titles(figure)] == list(check.statistics)
    assert written(figure)
    five = {str(place): lambda images: images.mean((-3, -2, -1)) for place in range(5)}
    many = check_predictions(*given, draws=1000, seed=1, statistics=five)
    assert len(titles(predictive_figure(many))) == 5
