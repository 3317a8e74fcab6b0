"""Figures: what stands where, and what broken numbers do to them."""

import io
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pp_simve.evaluation import loss_figure, reconstruction_figure, samples_figure, swap_figure
from pp_simve.evaluation.figures import _moving_average, interpolation_figure, traversal_figure
from pp_simve.evaluation.sheets import Sheet, rgb


def pictures(*leading: int, channels: int = 3, side: int = 8) -> Tensor:
    return torch.rand(*leading, channels, side, side, generator=torch.Generator().manual_seed(0))


def drawn(figure: Figure) -> np.ndarray:
    """The figure as pixels, (height, width, 4)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba")
    width, height = (round(size * figure.dpi) for size in figure.get_size_inches())
    return np.frombuffer(buffer.getvalue(), np.uint8).reshape(height, width, 4)


def cells(figure: Figure, axes: int, rows: int, columns: int) -> list[list[np.ndarray]]:
    """The canvas of one axes, cut into its cells."""
    canvas = np.asarray(figure.axes[axes].images[0].get_array())
    return [np.split(row, columns, axis=1) for row in np.split(canvas, rows)]


def inside(cell: np.ndarray, side: int = 8) -> np.ndarray:
    edge = (len(cell) - side) // 2
    return cell[edge : edge + side, edge : edge + side]


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


def test_loss_refuses_an_empty_history() -> None:
    with pytest.raises(ValueError, match="history holds no loss terms"):
        loss_figure([])


def test_moving_average_is_the_mean_of_the_finite_neighbours() -> None:
    values = np.array([1.0, 2.0, np.nan, 4.0, 9.0])
    np.testing.assert_allclose(_moving_average(values, 1), [1.5, 1.5, np.nan, 6.5, 6.5])
    np.testing.assert_allclose(_moving_average(values, 0), values)


@pytest.mark.parametrize("channels", [1, 3])
def test_reconstruction_columns(channels: int) -> None:
    views = pictures(2, 5, channels=channels)
    figure = reconstruction_figure(pictures(5, channels=channels), views, 1 - views)
    assert [axes.get_title() for axes in figure.axes] == ["image", "view 1", "decoded", "view 2", "decoded"]
    shown = inside(cells(figure, 3, 5, 1)[4][0])
    np.testing.assert_allclose(shown, np.broadcast_to(views[1, 4].movedim(0, -1).double().numpy(), (8, 8, 3)))
    np.testing.assert_allclose(inside(cells(figure, 4, 5, 1)[4][0]), 1 - shown, atol=1e-6)
    # Rows line up: every column starts and ends at the same height.
    assert len({(axes.get_position().y0, axes.get_position().y1) for axes in figure.axes}) == 1
    drawn(figure)


def test_swap_grid() -> None:
    swaps = pictures(3, 4)
    figure = swap_figure(pictures(3), pictures(4), swaps)
    top, side, grid = figure.axes
    assert top.get_title() == "style of"
    assert side.get_ylabel() == "content of"
    np.testing.assert_allclose(inside(cells(figure, 2, 3, 4)[2][1]), swaps[2, 1].movedim(0, -1).double().numpy())
    assert (top.get_position().x0, top.get_position().x1) == (grid.get_position().x0, grid.get_position().x1)
    assert (side.get_position().y0, side.get_position().y1) == (grid.get_position().y0, grid.get_position().y1)
    drawn(figure)


def test_interpolations_stand_between_their_ends() -> None:
    first, second = pictures(2), 1 - pictures(2)
    ways = {"z": pictures(2, 5), "content": 1 - pictures(2, 5)}
    figure = interpolation_figure(first, second, ways)
    assert [axes.get_title() for axes in figure.axes] == ["from", "to", "", ""] * 2
    assert [axes.get_ylabel() for axes in figure.axes] == ["", "", "z", "content"] * 2
    for pair in range(2):
        for place, expected in ((0, first[pair]), (1, second[pair])):
            shown = inside(cells(figure, 4 * pair + place, 1, 1)[0][0])
            np.testing.assert_allclose(shown, expected.movedim(0, -1).double().numpy())
        for row, pictures_of_way in enumerate(ways.values()):
            shown = inside(cells(figure, 4 * pair + 2 + row, 1, 5)[0][3])
            np.testing.assert_allclose(shown, pictures_of_way[pair, 3].movedim(0, -1).double().numpy())
    start, end, way, below = (axes.get_position() for axes in figure.axes[:4])
    assert start.x1 < way.x0 < way.x1 < end.x0
    assert below.y1 <= way.y0 + 1e-9
    drawn(figure)


def test_traversals_have_a_block_an_image_and_a_row_an_axis() -> None:
    moved = pictures(2, 12).reshape(2, 3, 4, 3, 8, 8)
    figure = traversal_figure(pictures(2), moved, [7, 0, 2], [-2, 0, 1, 2.5])
    top, grid, other_top, other = figure.axes
    assert [axes.get_title() for axes in (top, other_top)] == ["image", "image"]
    assert [label.get_text() for label in grid.get_xticklabels()] == ["−2 sd", "mean", "+1 sd", "+2.5 sd"]
    assert [label.get_text() for label in grid.get_yticklabels()] == ["7", "0", "2"]
    assert grid.get_ylabel() == "axis of z"
    assert other.get_yticklabels() == []
    for image, axes in ((0, 1), (1, 3)):
        shown = inside(cells(figure, axes, 3, 4)[2][1])
        np.testing.assert_allclose(shown, moved[image, 2, 1].movedim(0, -1).double().numpy())
    # Labels stand at the middles of their cells.
    width = np.asarray(grid.images[0].get_array()).shape[1]
    np.testing.assert_allclose(grid.get_xticks(), (np.arange(4) + 0.5) / 4 * width - 0.5)
    drawn(figure)


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (7, 3, 3), (12, 3, 4)])
def test_samples_fill_a_grid_in_reading_order(count: int, rows: int, columns: int) -> None:
    samples = pictures(count, channels=1)
    figure = samples_figure(samples.numpy(), "samples of the prior")
    assert len(figure.axes) == 1
    assert figure.axes[0].get_title() == "samples of the prior"
    grid = cells(figure, 0, rows, columns)
    for index in range(count):
        np.testing.assert_allclose(inside(grid[index // columns][index % columns])[..., 0], samples[index, 0].numpy())
    if count < rows * columns:
        assert (grid[-1][-1] == 1).all()
    drawn(figure)


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
    sheet = Sheet(1, 1, rgb(torch.zeros(1, 1, 300, 200), 4, "x"))
    axes = sheet.show(rgb(torch.zeros(1, 1, 1, 300, 200), 5, "x"), 0, 0)
    assert axes.get_window_extent().height > axes.get_window_extent().width


def test_pictures_may_carry_gradients_and_half_precision() -> None:
    drawn(samples_figure(pictures(2).bfloat16().requires_grad_(), "half"))


def test_refuses_what_is_not_pictures() -> None:
    with pytest.raises(ValueError, match=r"samples must have shape .* got \(2, 4, 8, 8\)"):
        samples_figure(torch.zeros(2, 4, 8, 8), "")
    with pytest.raises(ValueError, match=r"samples must have shape .* and hold some, got \(0, 3, 8, 8\)"):
        samples_figure(pictures(0), "")
    with pytest.raises(ValueError, match="samples must be floating point"):
        samples_figure(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "")
    with pytest.raises(ValueError, match=r"views .* and reconstructions .* must both be"):
        reconstruction_figure(pictures(5), pictures(2, 5), pictures(2, 4))
    with pytest.raises(ValueError, match="swaps must be 3 rows by 4 columns"):
        swap_figure(pictures(3), pictures(4), pictures(4, 3))
    with pytest.raises(ValueError, match="needs at least one way"):
        interpolation_figure(pictures(2), pictures(2), {})
    with pytest.raises(ValueError, match="as many pairs in pictures of one size, ways in as many steps"):
        interpolation_figure(pictures(2), pictures(2), {"z": pictures(2, 5), "content": pictures(2, 4)})
    with pytest.raises(ValueError, match="pictures must be of 2 images, as images are"):
        traversal_figure(pictures(2), pictures(1, 12).reshape(1, 3, 4, 3, 8, 8), [0, 1, 2], [0, 1, 2, 3])
    with pytest.raises(ValueError, match="pictures must be of 3 axes in 5 steps"):
        traversal_figure(pictures(1), pictures(1, 12).reshape(1, 3, 4, 3, 8, 8), [0, 1, 2], [0, 1, 2, 3, 4])


def test_no_pyplot() -> None:
    program = "import sys, pp_simve.evaluation.figures; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
