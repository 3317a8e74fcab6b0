"""Writing style of drawn strokes whose slant and thickness are known, and of real digits."""

import math

import pytest
import torch
from torch import Tensor

from pp_simve.data import load_data
from pp_simve.evaluation import handwriting
from pp_simve.evaluation.handwriting import handwriting_style

SIDE = 64


def plain(image: Tensor) -> dict[str, float]:
    """Everything from its formula, by loops over the pixels of a ``(height, width)`` image."""
    height, width = image.shape
    ink = {(row, column): float(image[row, column]) for row in range(height) for column in range(width)}
    mass = sum(ink.values())
    centre_x = sum(value * column for (_, column), value in ink.items()) / mass
    centre_y = sum(value * row for (row, _), value in ink.items()) / mass

    def moment(p: int, q: int) -> float:
        return sum(value * (column - centre_x) ** p * (row - centre_y) ** q for (row, column), value in ink.items())

    outline = 0.0
    for row in range(-1, height):
        for column in range(-1, width + 1):
            here = ink.get((row, column), 0.0)
            for down, right in ((1, 0), (1, 1), (1, -1)):
                step = abs(ink.get((row + down, column + right), 0.0) - here)
                outline += step / (math.sqrt(2) if right else 1)
            outline += abs(ink.get((row, column + 1), 0.0) - here)
    # π/2 times the mean over four directions.
    outline *= math.pi / 2 / 4
    return {
        "slant": math.degrees(math.atan(-moment(1, 1) / moment(0, 2))),
        "size": math.sqrt((moment(2, 0) + moment(0, 2)) / mass),
        "thickness": 2 * mass / outline,
        "centre_x": centre_x - (width - 1) / 2,
        "centre_y": centre_y - (height - 1) / 2,
    }


@pytest.mark.parametrize("shape", [(5, 8), (9, 4), (2, 2)])
def test_equals_loops_over_pixels(shape: tuple[int, int]) -> None:
    images = torch.rand(3, 1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images[1, :, :, 0] = 0
    found = handwriting_style(images)
    assert list(found) == ["slant", "size", "thickness", "centre_x", "centre_y"]
    for index, image in enumerate(images[:, 0]):
        expected = plain(image)
        assert {name: float(values[index]) for name, values in found.items()} == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("height", "width"), [(40, 3), (5, 17), (8, 8)])
def test_upright_rectangles_have_closed_forms(height: int, width: int) -> None:
    images = torch.zeros(1, 1, SIDE, SIDE)
    images[0, 0, 10 : 10 + height, 20 : 20 + width] = 1
    found = {name: float(values) for name, values in handwriting_style(images).items()}
    outline = math.pi / 8 * (2 * (height + width) + 4 * (height + width - 1) / math.sqrt(2))
    assert found == pytest.approx(
        {
            "slant": 0.0,
            "size": math.sqrt((height**2 - 1 + width**2 - 1) / 12),
            "thickness": 2 * height * width / outline,
            "centre_x": 20 + width / 2 - SIDE / 2,
            "centre_y": 10 + height / 2 - SIDE / 2,
        },
        abs=1e-10,
    )


def painted(inside: torch.Tensor, fine: int) -> Tensor:
    """Grey levels from what is inside at ``fine`` times the resolution: how much of each pixel is covered."""
    return torch.nn.functional.avg_pool2d(inside.double()[None, None], fine)


def grid(fine: int) -> tuple[Tensor, Tensor]:
    """x to the right and y upwards, in pixels from the middle, at ``fine`` times the resolution."""
    places = (torch.arange(SIDE * fine, dtype=torch.float64) + 0.5) / fine - SIDE / 2
    return places.unsqueeze(0), -places.unsqueeze(1)


LENGTH = 48.0


def stroke(lean: float, width: float, fine: int = 8) -> Tensor:
    """A stroke of length 48 whose top leans to the right by ``lean`` degrees from upright."""
    x, y = grid(fine)
    angle = math.radians(lean)
    along, across = x * math.sin(angle) + y * math.cos(angle), x * math.cos(angle) - y * math.sin(angle)
    return painted((along.abs() < LENGTH / 2) & (across.abs() < width / 2), fine)


@pytest.mark.parametrize("width", [2.0, 3.5, 6.0])
@pytest.mark.parametrize("lean", [-45.0, -10.0, 0.0, 22.5, 40.0])
def test_slant_and_thickness_of_strokes(lean: float, width: float) -> None:
    found = handwriting_style(stroke(lean, width))
    sine, cosine = math.sin(math.radians(lean)), math.cos(math.radians(lean))
    # The second moments of a rectangle turned by the lean.
    slope = (LENGTH**2 - width**2) * sine * cosine / (LENGTH**2 * cosine**2 + width**2 * sine**2)
    assert float(found["slant"]) == pytest.approx(math.degrees(math.atan(slope)), abs=0.2)
    # 1/0.948 and 1/1.026 are what four directions make of edges of one direction; the rest is the pixels' part.
    ratio = float(found["thickness"]) * (1 + width / LENGTH) / width
    slack = 0.07 if width < 3 else 0.02
    assert 1 / 1.026 - slack < ratio < 1 / 0.948 + slack


@pytest.mark.parametrize("width", [2.0, 4.0, 7.0])
def test_thickness_of_a_ring_is_its_width(width: float) -> None:
    x, y = grid(8)
    radius = (x.square() + y.square()).sqrt()
    found = handwriting_style(painted((radius - 18).abs() < width / 2, 8))
    # No ends, and all directions alike: no bias of the outline but that of the mean over four, under 1%.
    assert float(found["thickness"]) == pytest.approx(width, rel=0.015)
    assert float(found["size"]) == pytest.approx(math.sqrt(18**2 + width**2 / 4), rel=1e-3)


def test_soft_edges_and_faint_ink_are_not_thinner() -> None:
    image = stroke(25, 6)
    soft = torch.nn.functional.avg_pool2d(image, 3, stride=1, padding=1)
    hard, blurred = (float(handwriting_style(picture)["thickness"]) for picture in (image, soft))
    assert blurred == pytest.approx(hard, rel=0.03)
    for name, values in handwriting_style(image * 0.1).items():
        torch.testing.assert_close(values, handwriting_style(image)[name], rtol=0, atol=1e-10)


def sheared(image: Tensor, degrees: float) -> Tensor:
    """The rows of ``(height, width)`` moved so that the top goes to the right, each by linear interpolation."""
    height, width = image.shape
    result = torch.zeros_like(image)
    for row in range(height):
        move = math.tan(math.radians(degrees)) * ((height - 1) / 2 - row)
        whole, rest = math.floor(move), move - math.floor(move)
        for column in range(width):
            if image[row, column]:
                result[row, column + whole] += (1 - rest) * image[row, column]
                result[row, column + whole + 1] += rest * image[row, column]
    return result


@pytest.mark.parametrize("degrees", [-30.0, 12.0])
def test_a_shear_of_real_digits_adds_its_tangent(degrees: float) -> None:
    digits = load_data("digits").train.images[:12]
    padded = torch.nn.functional.pad(digits, (12, 12, 0, 0)).double()
    before = handwriting_style(padded)
    after = handwriting_style(torch.stack([sheared(image, degrees) for image in padded[:, 0]]).unsqueeze(1))
    expected = torch.deg2rad(before["slant"]).tan() + math.tan(math.radians(degrees))
    torch.testing.assert_close(after["slant"], torch.rad2deg(expected.atan()), rtol=0, atol=1e-9)
    assert before["slant"].std() > 1


def test_bytes_and_floats_agree_and_chunks_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load_data("digits").train.images[:10]
    whole = handwriting_style(digits)
    monkeypatch.setattr(handwriting, "_PIXELS", 3 * 256 + 1)
    for other in (digits, digits.float() / 255):
        for name, values in handwriting_style(other).items():
            assert values.dtype == torch.float64
            assert values.shape == (10,)
            torch.testing.assert_close(values, whole[name], rtol=0, atol=1e-4)


def test_blank_images_are_nan_and_a_single_row_has_no_slant() -> None:
    images = torch.zeros(4, 1, 12, 12)
    images[1, 0, 4, 2:9] = torch.rand(7, generator=torch.Generator().manual_seed(0)) + 0.1
    images[2, 0, 2:9, 4] = 1
    images[3, 0, 6, 6] = 1
    found = handwriting_style(images)
    assert all(values[0].isnan() for values in found.values())
    assert found["slant"].isnan().tolist() == [True, True, False, True]
    for name in ("size", "thickness", "centre_x", "centre_y"):
        assert found[name][1:].isfinite().all()
    assert found["slant"][2] == 0
    assert found["size"][3] == 0


GREY = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("message", "images"),
    [
        (r"shape \(image, 1, height, width\) and hold some, got \(5, 3, 6, 6\)", GREY.expand(-1, 3, -1, -1)),
        (r"shape \(image, 1, height, width\) and hold some, got \(0, 1, 6, 6\)", GREY[:0]),
        ("images must be real", GREY.to(torch.complex64)),
        (r"5 of 5 have values below 0 \(the first is image 0\)", GREY - 1),
        (r"images are NaN or infinite in 1 of 5 rows \(rows 3\)", GREY.index_fill(0, torch.tensor(3), torch.inf)),
    ],
)
def test_refuses(message: str, images: Tensor) -> None:
    with pytest.raises(ValueError, match=message):
        handwriting_style(images)
