"""Content from several views, of a guide that averages pixels: noise in views goes with their number."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pp_simve.evaluation import LinearProbe
from pp_simve.evaluation.tasks.classes import contents_of_views, several_view_scores
from pp_simve.inference.augmentations import AugmentationPolicy, Parameters, draw_views

from .pictures import EVERY, PixelGuide, pictures


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


TRAIN, VALIDATION, TEST = ((one.images, one.labels) for one in map(pictures, (400, 150, 300), (1, 2, 3)))


def test_against_a_probe_of_the_views() -> None:
    state = torch.get_rng_state()
    found = several_view_scores(PixelGuide(EVERY, EVERY), Noise(), TRAIN, VALIDATION, TEST, seed=3, counts=(2,))
    assert torch.equal(torch.get_rng_state(), state)
    seeds = torch.randint(2**62, (3,), generator=torch.Generator().manual_seed(3)).tolist()
    rows = []
    for (images, labels), seed in zip((TRAIN, VALIDATION, TEST), seeds, strict=True):
        views, _ = draw_views(Noise(), images, 2, generator=torch.Generator().manual_seed(seed))
        rows.append((views.flatten(2).mean(0), labels))
    assert found == {"2": LinearProbe().fit(*rows[0], *rows[1]).score(*rows[2])}


def test_without_content_z_is_averaged() -> None:
    one, other = (
        contents_of_views(guide, Noise(), TEST[0], (1, 3), torch.Generator().manual_seed(0))
        for guide in (PixelGuide(EVERY, EVERY), PixelGuide(EVERY, []))
    )
    for count in (1, 3):
        torch.testing.assert_close(one[count], other[count])


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="counts must be one or more numbers >= 1"):
        several_view_scores(PixelGuide(EVERY, EVERY), Noise(), TRAIN, VALIDATION, TEST, seed=0, counts=(0, 1))
    one = TRAIN[0], torch.zeros_like(TRAIN[1])
    with pytest.raises(ValueError, match="only class 0"):
        several_view_scores(PixelGuide(EVERY, EVERY), Noise(), one, VALIDATION, TEST, seed=0)
