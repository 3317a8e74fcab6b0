"""Content from several views, of a guide that averages pixels: noise in views goes with their number."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pp_simve.evaluation import LinearProbe
from pp_simve.evaluation.tasks.classes import contents_of_views, several_view_scores
from pp_simve.inference.augmentations import AugmentationPolicy, Parameters, draw_views
from pp_simve.inference.guides.base import Guide, Representation

CLASSES = 4


class Mean(Guide):
    """Content is the mean pixel values over views; without content, z has them a view."""

    def __init__(self, *, shares: bool = True) -> None:
        super().__init__()
        self.shares = shares

    def forward(self, views: Tensor) -> None:
        raise NotImplementedError

    def posterior(self, views: Tensor) -> Representation:
        assert not self.training
        pixels = views.flatten(2)
        content = pixels.mean(0)
        return Representation(
            backbone=pixels, z=pixels, content=content if self.shares else content[:, :0], style=pixels
        )


class Noise(AugmentationPolicy):
    """Views are much noisier than the classes are apart."""

    names = ("seed",)

    def sample(self, count: int, *, generator: torch.Generator) -> Parameters:
        return {"seed": torch.randint(2**20, (count,), generator=generator).float()}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        noise = [
            torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(int(s))) for s in parameters["seed"]
        ]
        return images + 0.6 * torch.stack(noise)


def split(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    images = torch.zeros(count, CLASSES)
    images[torch.arange(count), labels] = 255
    return images.to(torch.uint8).view(count, 1, 2, 2), labels


TRAIN, VALIDATION, TEST = split(400, 1), split(150, 2), split(300, 3)


def test_against_a_probe_of_the_views() -> None:
    state = torch.get_rng_state()
    found = several_view_scores(Mean(), Noise(), TRAIN, VALIDATION, TEST, seed=3, counts=(2,))
    assert torch.equal(torch.get_rng_state(), state)
    seeds = torch.randint(2**62, (3,), generator=torch.Generator().manual_seed(3)).tolist()
    rows = []
    for (images, labels), seed in zip((TRAIN, VALIDATION, TEST), seeds, strict=True):
        views, _ = draw_views(Noise(), images, 2, generator=torch.Generator().manual_seed(seed))
        rows.append((views.flatten(2).mean(0), labels))
    assert found == {"2": LinearProbe().fit(*rows[0], *rows[1]).score(*rows[2])}


def test_without_content_z_is_averaged() -> None:
    one, other = (
        contents_of_views(Mean(shares=shares), Noise(), TEST[0], (1, 3), torch.Generator().manual_seed(0))
        for shares in (True, False)
    )
    for count in (1, 3):
        torch.testing.assert_close(one[count], other[count])


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="counts must be one or more numbers >= 1"):
        several_view_scores(Mean(), Noise(), TRAIN, VALIDATION, TEST, seed=0, counts=(0, 1))
    one = TRAIN[0], torch.zeros_like(TRAIN[1])
    with pytest.raises(ValueError, match="only class 0"):
        several_view_scores(Mean(), Noise(), one, VALIDATION, TEST, seed=0)
