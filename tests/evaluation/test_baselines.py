"""What scores are compared with: the commonest class, pixels, networks before the fit; and columns that are equal."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from pp_simve.evaluation.pixels import SIDE, PixelComponents
from pp_simve.evaluation.records import MULTIPLE, Record, chance_of, distinct
from pp_simve.evaluation.subject import Subject, commonest
from pp_simve.inference import AmortizedGuide, MLPEncoder
from pp_simve.inference.augmentations import augmentation_policy
from pp_simve.models import GaussianPrior
from pp_simve.run.tables import print_scores


def test_pixel_components_are_those_of_the_covariance() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (200, 1, 6, 6), generator=generator, dtype=torch.uint8)
    images[:, :, :3] //= 4  # so that components differ in size
    before = torch.get_rng_state()
    found = PixelComponents.of(images, 5, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    x = images.flatten(1).double() / 255
    variances = torch.linalg.eigvalsh(x.T.cov()).flip(0)[:5]
    torch.testing.assert_close(found(images).double().var(0), variances, rtol=5e-3, atol=0)
    assert torch.equal(found(images), PixelComponents.of(images, 5, seed=1)(images))
    torch.testing.assert_close(found(images), found(images.float() / 255))


@pytest.mark.parametrize(
    ("shape", "width", "expected"),
    [((4, 1, 8, 8), 16, 4), ((40, 3, 1, 1), 16, 3), ((40, 3, 70, 50), 16, 16)],
)
def test_there_are_as_many_components_as_images_and_pixels(shape: tuple[int, ...], width: int, expected: int) -> None:
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    found = PixelComponents.of(images, width, seed=0)
    assert found(images).shape == (shape[0], expected)
    assert len(found.mean) <= 3 * SIDE**2


def test_the_commonest_class() -> None:
    assert commonest(torch.tensor([3, 5, 3, 3])) == {"chance": 0.75}


@pytest.mark.parametrize(
    ("metric", "chance"),
    [("accuracy", "chance"), ("recall@5", "chance@5"), ("balanced_accuracy", "chance_balanced"), ("r2", "")],
)
def test_names_of_chance_levels(metric: str, chance: str) -> None:
    assert chance_of(metric) == chance


def test_the_untrained_baseline_needs_a_guide() -> None:
    guide = AmortizedGuide(MLPEncoder((1, 8, 8), hidden=[4]), GaussianPrior(2))
    with pytest.raises(ValueError, match="'untrained' needs the guide before its fit"):
        Subject(guide, None, augmentation_policy("affine", (1, 8, 8)), (), representations=("z", "untrained"))


EQUAL = [
    *(Record("class", "accuracy", 0.5, name, "linear") for name in ("z", "content", "pixels")),
    *(Record("class", "chance", 0.125, name, "linear") for name in ("z", "content", "pixels")),
    Record("several_views", "accuracy", 0.75, "content", "linear", "2"),
    Record("information", MULTIPLE, 1.0, "content", note="z times a number"),
]


def test_a_multiple_of_z_is_said_once() -> None:
    kept = distinct(EQUAL)
    assert [one.task for one in kept if one.representation == "content"] == ["several_views", "information"]
    assert distinct(EQUAL[:-1]) == EQUAL[:-1]
    text = io.StringIO()
    print_scores(EQUAL, Console(file=text, width=80))
    rows = {" ".join(line.split()) for line in text.getvalue().splitlines()}
    assert {"z pixels chance", "class, linear probe 50.0 % 50.0 % 12.5 %"} < rows
    assert "class, content of 2 views 75.0 %" in rows
    assert "content: z times a number" in rows
