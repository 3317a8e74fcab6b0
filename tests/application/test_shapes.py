"""Rendered shapes match their factors."""

import math

import pytest
import torch

from pp_simve.data.shapes import LOBES, rendered_shapes


def test_images_show_their_factors() -> None:
    shapes = rendered_shapes(400, size=64, seed=3)
    ink = shapes.images.squeeze(1).double() / 255
    at = (torch.arange(64) + 0.5) / 32 - 1
    mass = ink.sum(dim=(1, 2))
    factors = {name: values.double() for name, values in shapes.factors.items()}
    torch.testing.assert_close((ink * at).sum(dim=(1, 2)) / mass, factors["x"], atol=0.01, rtol=0)
    torch.testing.assert_close((ink * at.unsqueeze(1)).sum(dim=(1, 2)) / mass, factors["y"], atol=0.01, rtol=0)
    torch.testing.assert_close(ink.amax(dim=(1, 2)), factors["grey"], atol=0.003, rtol=0)
    # The area within r(φ) = size (1 + a cos mφ) is π size² (1 + a²/2), whatever m.
    area = mass / ink.amax(dim=(1, 2)) / 32**2
    torch.testing.assert_close(area, math.pi * (1 + 0.35**2 / 2) * factors["size"] ** 2, atol=0, rtol=0.03)
    # The moment of order m turns with the shape, and is the greatest among the classes' orders.
    angle = torch.atan2(at.unsqueeze(1) - factors["y"].view(-1, 1, 1), at - factors["x"].view(-1, 1, 1))
    radius = torch.hypot(at.unsqueeze(1) - factors["y"].view(-1, 1, 1), at - factors["x"].view(-1, 1, 1))
    orders = torch.tensor(list(LOBES.values())).double()
    moments = torch.stack([(ink * radius * torch.exp(1j * m * angle)).sum(dim=(1, 2)) for m in orders], dim=1)
    assert torch.equal(moments.abs().argmax(dim=1), shapes.labels)
    own = moments.gather(1, shapes.labels.unsqueeze(1)).squeeze(1)
    # Up to a whole turn of the moment, which is less than a turn of the shape.
    turn = torch.angle(own * torch.exp(-1j * orders[shapes.labels] * factors["rotation"]))
    assert turn.abs().max() < 0.1


def test_class_and_style_are_independent_and_the_seed_decides() -> None:
    shapes = rendered_shapes(8000, seed=1)
    assert torch.equal(shapes.images, rendered_shapes(8000, seed=1).images)
    assert not torch.equal(shapes.images[:10], rendered_shapes(10, seed=2).images)
    table = torch.stack(list(shapes.factors.values()), 1)
    # Five standard deviations of a correlation of 8,000 independent rows.
    bound = 5 / math.sqrt(8000)
    assert (torch.corrcoef(table.T) - torch.eye(5)).abs().max() < bound
    for label in range(len(LOBES)):
        rows = (shapes.labels == label).float()
        assert torch.corrcoef(torch.cat([rows.unsqueeze(1), table], 1).T)[0, 1:].abs().max() < bound
        assert abs(float(rows.mean()) - 1 / len(LOBES)) < 0.03


def test_refuses_what_shows_nothing() -> None:
    with pytest.raises(ValueError, match="at least 1 image of at least 8 pixels a side, got 5 of 4"):
        rendered_shapes(5, size=4)
