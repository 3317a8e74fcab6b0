"""Figures: their contents, and non-finite numbers in them."""

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib._pylab_helpers import Gcf
from matplotlib.figure import Figure
from torch import Tensor

from pp_simve.evaluation.matplotlib_figures import (
    _moving_average,
    columns_figure,
    interpolation_figure,
    loss_figure,
    reconstruction_figure,
    rgb,
    samples_figure,
    swap_figure,
    traversal_figure,
)


def pictures(*leading: int, channels: int = 3, side: int = 8) -> Tensor:
    return torch.rand(*leading, channels, side, side, generator=torch.Generator().manual_seed(0))


def drawn(figure: Figure) -> np.ndarray:
    """The figure as pixels, (height, width, 4)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba")
    width, height = (round(size * figure.dpi) for size in figure.get_size_inches())
    return np.frombuffer(buffer.getvalue(), np.uint8).reshape(height, width, 4)


def cell(figure: Figure, row: int, column: int, side: int = 8) -> np.ndarray:
    """A picture of a grid, with the gap around it cut away."""
    canvas = np.asarray(figure.axes[0].images[0].get_array())
    top, left = (1 + place * (side + 1) for place in (row, column))
    return canvas[top : top + side, left : left + side]


def colors(picture: Tensor) -> np.ndarray:
    return np.broadcast_to(picture.movedim(0, -1).double().numpy(), (8, 8, 3))


def labels(figure: Figure) -> tuple[list[str], list[str]]:
    axes = figure.axes[0]
    return [text.get_text() for text in axes.get_xticklabels()], [text.get_text() for text in axes.get_yticklabels()]


HISTORY = [
    {"step": 10 * step, "loss": 500 * math.exp(-step / 3) + 90, "content": 2.0, "entropy": -5.0 - step}
    for step in range(200)
]


def test_loss_has_a_panel_a_term() -> None:
    figure = loss_figure(HISTORY)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "content", "entropy"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["step"] * 3
    assert figure.axes[0].get_ylabel() == "nats per image"
    raw, smooth = figure.axes[2].lines
    np.testing.assert_allclose(raw.get_ydata(), [row["entropy"] for row in HISTORY])
    np.testing.assert_allclose(raw.get_xdata(), [row["step"] for row in HISTORY])
    assert raw.get_alpha() < 0.5
    np.testing.assert_allclose(smooth.get_ydata()[50:150], raw.get_ydata()[50:150])
    # The drop at the start does not flatten what follows.
    assert figure.axes[0].get_ylim()[1] < 100
    drawn(figure)


def test_loss_survives_missing_and_broken_values() -> None:
    history: list[dict[str, float]] = [dict(row) for row in HISTORY]
    history[3]["loss"], history[4]["loss"], history[5]["loss"] = math.nan, math.inf, -math.inf
    del history[7]["content"]
    for row in history:
        row["entropy"] = math.nan
    history[-1]["late"] = 1.0
    figure = loss_figure(history)
    assert len(figure.axes) == 4
    assert np.isnan(figure.axes[0].lines[0].get_ydata()[3:6]).all()
    assert [text.get_text() for text in figure.axes[2].texts] == ["no finite values"]
    drawn(figure)
    drawn(loss_figure([{"step": 0, "loss": 3.0}]))


def test_moving_average_is_the_mean_of_the_finite_neighbours() -> None:
    values = np.array([1.0, 2.0, np.nan, 4.0, 9.0])
    np.testing.assert_allclose(_moving_average(values, 1), [1.5, 1.5, np.nan, 6.5, 6.5])
    np.testing.assert_allclose(_moving_average(values, 0), values)


@pytest.mark.parametrize("channels", [1, 3])
def test_reconstructions_stand_beside_their_views(channels: int) -> None:
    originals, views = pictures(5, channels=channels), pictures(2, 5, channels=channels)
    figure = reconstruction_figure(originals, views, 1 - views)
    assert labels(figure)[0] == ["image", "view 1", "decoded", "view 2", "decoded"]
    for column, expected in enumerate((originals[4], views[0, 4], 1 - views[0, 4], views[1, 4], 1 - views[1, 4])):
        np.testing.assert_allclose(cell(figure, 4, column), colors(expected), atol=1e-6)
    drawn(figure)


def test_swaps_stand_under_their_style_and_beside_their_content() -> None:
    contents, styles, swaps = pictures(3), 1 - pictures(4), pictures(3, 4)
    figure = swap_figure(contents, styles, swaps)
    assert labels(figure)[0] == ["content of", *["style of"] * 4]
    assert (cell(figure, 0, 0) == 1).all()
    np.testing.assert_allclose(cell(figure, 0, 2), colors(styles[1]))
    np.testing.assert_allclose(cell(figure, 3, 0), colors(contents[2]))
    np.testing.assert_allclose(cell(figure, 3, 2), colors(swaps[2, 1]))
    drawn(figure)


def test_interpolations_stand_between_their_ends() -> None:
    first, second = pictures(2), 1 - pictures(2)
    ways = {"z": pictures(2, 5), "content": 1 - pictures(2, 5)}
    figure = interpolation_figure(first, second, ways)
    assert labels(figure) == (["from", *[""] * 5, "to"], ["z", "content"] * 2)
    for pair in range(2):
        for row, way in enumerate(ways.values()):
            for column, expected in ((0, first[pair]), (4, way[pair, 3]), (6, second[pair])):
                np.testing.assert_allclose(cell(figure, 2 * pair + row, column), colors(expected))
    drawn(figure)


def test_traversals_have_a_block_an_image_and_a_row_an_axis() -> None:
    images, moved = pictures(2), pictures(2, 12).reshape(2, 3, 4, 3, 8, 8)
    figure = traversal_figure(images, moved, [7, 0, 2], [-2, 0, 1, 2.5])
    steps = ["−2 sd", "mean", "+1 sd", "+2.5 sd"]
    assert labels(figure) == ([*steps, "", *steps], ["image", "axis 7", "axis 0", "axis 2"])
    for image in range(2):
        np.testing.assert_allclose(cell(figure, 0, 5 * image + 2), colors(images[image]))
        np.testing.assert_allclose(cell(figure, 3, 5 * image + 1), colors(moved[image, 2, 1]))
    drawn(figure)


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (7, 3, 3), (12, 3, 4)])
def test_samples_fill_a_grid_in_reading_order(count: int, rows: int, columns: int) -> None:
    samples = pictures(count, channels=1)
    figure = samples_figure(samples.numpy(), "samples of the prior")
    assert figure.axes[0].get_title() == "samples of the prior"
    for index in range(count):
        np.testing.assert_allclose(cell(figure, index // columns, index % columns), colors(samples[index]))
    if count < rows * columns:
        assert (cell(figure, rows - 1, columns - 1) == 1).all()
    drawn(figure)


def test_columns_stand_side_by_side() -> None:
    figure = columns_figure({"here": pictures(3), "there": 1 - pictures(3)})
    assert labels(figure)[0] == ["here", "there"]
    np.testing.assert_allclose(cell(figure, 2, 1), colors(1 - pictures(3)[2]))


def test_broken_pixels_are_magenta_and_others_clipped() -> None:
    samples = torch.full((2, 3, 4, 4), 0.5)
    samples[0, 1, 2, 3], samples[1, 0, 0, 0], samples[1, 0, 0, 1], samples[1, 0, 0, 2] = math.nan, math.inf, 7, -7
    colours = rgb(samples, 4, "samples")
    assert colours[0, 2, 3].tolist() == [1, 0, 1]
    assert colours[1, 0, 0].tolist() == [1, 0, 1]
    assert colours[1, 0, 1].tolist() == [1, 0.5, 0.5]
    assert colours[1, 0, 2].tolist() == [0, 0.5, 0.5]
    drawn(samples_figure(samples, "broken"))


def test_picture_pixels_are_whole_screen_pixels() -> None:
    """One picture of one colour is a uniform block on the screen, a whole multiple of its size."""
    picture = torch.zeros(1, 3, 10, 10)
    screen = drawn(samples_figure(picture, ""))[..., :3]
    dark = (screen < 10).all(-1)
    rows, columns = dark.any(1).sum(), dark.any(0).sum()
    assert rows == columns
    assert rows % 10 == 0
    assert dark.sum() == rows * columns
    tall = samples_figure(torch.zeros(1, 1, 300, 200), "").axes[0].get_window_extent()
    assert tall.height > tall.width


def test_pictures_may_carry_gradients_and_half_precision() -> None:
    drawn(samples_figure(pictures(2).bfloat16().requires_grad_(), "half"))


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (r"samples must have shape .* got \(2, 4, 8, 8\)", lambda: samples_figure(torch.zeros(2, 4, 8, 8), "")),
        (r"samples must have shape .* and hold some", lambda: samples_figure(pictures(0), "")),
        ("samples must be floating point", lambda: samples_figure(pictures(2).byte(), "")),
        ("reconstructions must be", lambda: reconstruction_figure(pictures(5), pictures(2, 5), pictures(2, 4))),
        ("views must be", lambda: reconstruction_figure(pictures(5), pictures(2, 4), pictures(2, 5))),
        (r"swaps must be \(3, 4\) pictures", lambda: swap_figure(pictures(3), pictures(4), pictures(4, 3))),
        ("needs at least one way", lambda: interpolation_figure(pictures(2), pictures(2), {})),
        (
            r"content must be \(2, 5\) pictures",
            lambda: interpolation_figure(pictures(2), pictures(2), {"z": pictures(2, 5), "content": pictures(2, 4)}),
        ),
        (
            r"pictures must be \(1, 3, 5\) pictures",
            lambda: traversal_figure(
                pictures(1), pictures(1, 12).reshape(1, 3, 4, 3, 8, 8), [0, 1, 2], [0, 1, 2, 3, 4]
            ),
        ),
        ("needs at least one", lambda: columns_figure({})),
        (r"b must be \(2,\) pictures", lambda: columns_figure({"a": pictures(2), "b": pictures(3)})),
        ("history holds no loss terms", lambda: loss_figure([])),
    ],
)
def test_refuses(message: str, call: Callable[[], Figure]) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_figures_are_not_pyplots() -> None:
    drawn(samples_figure(pictures(2), ""))
    assert Gcf.get_all_fig_managers() == []
