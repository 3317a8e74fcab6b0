"""`judge` on guides that are known to know, or not to know, the class and the view."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pp_simve.evaluation import content_scores, judge
from pp_simve.evaluation.judgement import embed_views
from pp_simve.inference.augmentations import AugmentationPolicy, Parameters, augmentation_policy, draw_views
from pp_simve.inference.guides.base import Guide, Representation
from pp_simve.inference.tools import unit_range

CLASSES = 4
CLASS_PIXELS = [0, 1, 2, 3]
TINT_PIXELS = [6, 7, 8]


@dataclass(frozen=True)
class Split:
    images: Tensor
    labels: Tensor | None


def split(count: int, seed: int, labelled: bool = True) -> Split:
    """3×3 images: the class is lit among the first four pixels, the last three are dark, noise everywhere."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    images = torch.randint(60, (count, 9), generator=generator)
    images[torch.arange(count), labels] += 150
    return Split(images.to(torch.uint8).view(count, 1, 3, 3), labels if labelled else None)


class Tint(AugmentationPolicy):
    """Writes ``tint`` on the last row of pixels; ``secret`` leaves no trace."""

    names = ("tint", "secret")

    def sample(self, count: int, *, generator: torch.Generator) -> Parameters:
        return {name: torch.rand(count, generator=generator) for name in self.names}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        images = images.clone()
        images[:, 0, 2, :] = 0.2 + 0.6 * parameters["tint"].unsqueeze(1)
        return images


class Still(AugmentationPolicy):
    names = ()

    def sample(self, count: int, *, generator: torch.Generator) -> Parameters:
        return {}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return images


class PixelGuide(Guide):
    """Knows exactly the pixels it is told to look at."""

    def __init__(self, z: list[int], content: list[int]) -> None:
        super().__init__()
        self.z_pixels, self.content_pixels = z, content
        self.seen: list[tuple[int, torch.dtype]] = []

    def forward(self, views: Tensor) -> None:
        raise NotImplementedError

    def posterior(self, views: Tensor) -> Representation:
        assert not self.training
        self.seen.append((views.shape[0] * views.shape[1], views.dtype))
        pixels = views.flatten(2)
        z, content = pixels[..., self.z_pixels], pixels[..., self.content_pixels].mean(0)
        return Representation(backbone=pixels, z=z, content=content, style=z[..., :1])


TRAIN, VALIDATION, TEST = split(400, 1), split(150, 2), split(300, 3)


def test_content_and_style_are_found_where_they_are() -> None:
    guide = PixelGuide(z=list(range(9)), content=CLASS_PIXELS).train()
    result = judge(guide, Tint(), TRAIN, VALIDATION, TEST, seed=0)
    assert list(result) == ["backbone", "z", "content", "style"]
    assert result["content"]["linear"] > 0.99
    assert result["content"]["knn"] > 0.99
    of_z = result["z"]
    assert of_z["tint"] > 0.999
    assert abs(of_z["secret"]) < 0.03
    assert of_z["mean_r2"] == pytest.approx((of_z["tint"] + of_z["secret"]) / 2)
    assert guide.training
    assert {dtype for _, dtype in guide.seen} == {torch.float32}
    json.dumps(result, allow_nan=False)


def test_each_representation_knows_what_is_in_it_and_nothing_else() -> None:
    result = judge(PixelGuide(z=CLASS_PIXELS, content=TINT_PIXELS), Tint(), TRAIN, VALIDATION, TEST, seed=0)
    # 300 test images: within four standard deviations of chance.
    assert abs(result["content"]["linear"] - 1 / CLASSES) < 0.1
    assert abs(result["content"]["knn"] - 1 / CLASSES) < 0.1
    assert result["content"]["tint"] > 0.999
    assert result["z"]["linear"] > 0.99
    assert abs(result["z"]["tint"]) < 0.03
    for name in ("linear", "knn", "tint"):  # the backbone has all pixels
        assert result["backbone"][name] > 0.99


def test_only_the_representations_asked_for_are_judged() -> None:
    guide = PixelGuide(z=CLASS_PIXELS, content=TINT_PIXELS)
    whole = judge(guide, Tint(), TRAIN, VALIDATION, TEST, seed=0)
    part = judge(guide, Tint(), TRAIN, VALIDATION, TEST, seed=0, representations=("z", "backbone"))
    assert list(part) == ["z", "backbone"]
    assert part == {name: whole[name] for name in part}
    with pytest.raises(ValueError, match=r"unknown representations \['head'\]; known are backbone, z, content, style"):
        judge(guide, Tint(), TRAIN, VALIDATION, TEST, seed=0, representations=("z", "head"))


def test_content_is_read_from_clean_images() -> None:
    guide = PixelGuide(z=CLASS_PIXELS, content=list(range(9)))
    result = judge(guide, Tint(), TRAIN, VALIDATION, TEST, seed=0)
    pixels = [(unit_range(part.images).flatten(1), part.labels) for part in (TRAIN, VALIDATION, TEST)]
    expected = content_scores(*pixels)
    assert {name: result["content"][name] for name in expected} == expected


def test_a_representation_without_width_is_left_out() -> None:
    result = judge(PixelGuide(z=CLASS_PIXELS, content=[]), Tint(), TRAIN, VALIDATION, TEST, seed=0)
    assert list(result) == ["backbone", "z", "style"]
    assert result["z"]["linear"] > 0.99


def test_without_labels_content_has_no_score_and_it_is_said() -> None:
    guide = PixelGuide(z=TINT_PIXELS, content=CLASS_PIXELS)
    result = judge(guide, Tint(), TRAIN, split(150, 2, labelled=False), split(300, 3, labelled=False), seed=0)
    for name in ("backbone", "z", "content", "style"):
        assert result[name]["linear"] is None
        assert result[name]["knn"] is None
    assert result["notes"] == {"class": "no labels in validation, test"}
    assert result["z"]["tint"] > 0.999


def test_a_parameter_that_does_not_vary_has_no_score() -> None:
    class Fixed(Tint):
        def sample(self, count: int, *, generator: torch.Generator) -> Parameters:
            return {**super().sample(count, generator=generator), "secret": torch.ones(count)}

    result = judge(PixelGuide(TINT_PIXELS, CLASS_PIXELS), Fixed(), TRAIN, VALIDATION, TEST, seed=0)
    assert result["z"]["secret"] is None
    assert result["z"]["mean_r2"] == result["z"]["tint"]


def test_a_policy_without_parameters_has_no_style_score() -> None:
    result = judge(PixelGuide(TINT_PIXELS, CLASS_PIXELS), Still(), TRAIN, VALIDATION, TEST, seed=0)
    assert result["z"]["mean_r2"] is None
    assert result["notes"] == {"views": "the view policy has no parameters"}


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    guide = PixelGuide(z=[*CLASS_PIXELS, 6], content=CLASS_PIXELS)
    state = torch.get_rng_state()
    first = judge(guide, Tint(), TRAIN, VALIDATION, TEST, seed=5)
    torch.rand(3)
    again = judge(guide, Tint(), TRAIN, VALIDATION, TEST, seed=5)
    other = judge(guide, Tint(), TRAIN, VALIDATION, TEST, seed=6)
    assert first == again
    for name in first:
        assert first[name]["mean_r2"] != other[name]["mean_r2"]
        assert first[name]["linear"] == other[name]["linear"]
    torch.set_rng_state(state)
    judge(guide, Tint(), TRAIN, VALIDATION, TEST, seed=5)
    assert torch.equal(torch.get_rng_state(), state)


def test_splits_have_streams_of_their_own() -> None:
    """With the same images thrice, the same stream would give the same views thrice."""
    drawn: list[Tensor] = []

    class Recording(Tint):
        def sample(self, count: int, *, generator: torch.Generator) -> Parameters:
            parameters = super().sample(count, generator=generator)
            drawn.append(parameters["secret"])
            return parameters

    same = split(100, 1)
    guide = PixelGuide(TINT_PIXELS, CLASS_PIXELS)
    judge(guide, Recording(), same, same, same, seed=0, min_views=100)
    first = [values.clone() for values in drawn]
    assert len(first) == 3
    assert len({tuple(values.tolist()) for values in first}) == 3
    drawn.clear()
    judge(guide, Recording(), same, same, split(37, 4), seed=0, min_views=100)
    assert torch.equal(drawn[0], first[0])
    assert torch.equal(drawn[1], first[1])


@pytest.mark.parametrize(
    ("images", "min_views", "max_views", "rows"),
    [
        (400, 4000, 60_000, 4000),
        (300, 4000, 60_000, 4200),
        (50, 4000, 120, 100),
        (400, 1, 60_000, 400),
        (90, 9, 40, 40),
    ],
)
def test_the_number_of_views(images: int, min_views: int, max_views: int, rows: int) -> None:
    guide = PixelGuide(TINT_PIXELS, CLASS_PIXELS)
    pictures = split(images, 1).images
    embedded, parameters = embed_views(guide, Tint(), pictures, torch.Generator().manual_seed(0), min_views, max_views)
    z = embedded["z"]
    assert z.shape == (rows, 3)
    assert {name: values.shape for name, values in parameters.items()} == {"tint": (rows,), "secret": (rows,)}
    assert max(count for count, _ in guide.seen) <= 1024
    torch.testing.assert_close(z[:, 0], 0.2 + 0.6 * parameters["tint"])


def test_a_large_split_is_thinned_at_random() -> None:
    images = torch.arange(200, dtype=torch.uint8).view(200, 1, 1, 1).expand(200, 1, 3, 3)
    embedded, _ = embed_views(PixelGuide([0], []), Still(), images, torch.Generator().manual_seed(0), 10, 50)
    kept = (embedded["z"].flatten() * 255).round().int().tolist()
    assert len(set(kept)) == 50
    assert max(kept) > 150


def test_real_views_of_real_images() -> None:
    """A guide that keeps every pixel of Fashion-MNIST knows a good part of the class and of affine views."""
    datasets = pytest.importorskip("torchvision.datasets")
    root = next(
        (parent / "shared/data" for parent in Path(__file__).parents if (parent / "shared/data").is_dir()), None
    )
    try:
        data = datasets.FashionMNIST(root, train=False, download=False) if root else None
    except RuntimeError:
        data = None
    if data is None:
        pytest.skip("Fashion-MNIST is not on this machine")
    images, labels = data.data.unsqueeze(1)[..., ::2, ::2], data.targets
    parts = [Split(images[a:b], labels[a:b]) for a, b in ((0, 1000), (1000, 1500), (1500, 2000))]
    pixels = list(range(14 * 14))
    result = judge(
        PixelGuide(pixels, pixels), augmentation_policy("affine", (1, 14, 14)), *parts, seed=0, min_views=2000
    )
    assert result["content"]["linear"] > 0.7
    assert result["content"]["knn"] > 0.65
    assert list(result["z"]) == ["linear", "knn", "mean_r2", "rotation", "scale", "shift_x", "shift_y"]
    assert result["z"]["shift_x"] > 0.5


def test_views_come_from_the_library() -> None:
    views, parameters = draw_views(Tint(), TEST.images[:5], 2, generator=torch.Generator().manual_seed(0))
    assert views.shape == (2, 5, 1, 3, 3)
    torch.testing.assert_close(views[:, :, 0, 2, 1], 0.2 + 0.6 * parameters["tint"])
