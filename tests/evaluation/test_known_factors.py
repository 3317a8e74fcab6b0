"""Evaluators on features whose true content and style are known: they find what is there, and nothing else."""

import math

import pytest
import torch
from torch import Tensor

from pp_simve.evaluation import content_scores, style_scores

CLASSES, STYLES = 4, 3
WIDTH = CLASSES + STYLES
SIZES = (1000, 300, 400)
# Four standard deviations of a binomial with as many rows as test has.
CHANCE = 4 * math.sqrt(1 / CLASSES * (1 - 1 / CLASSES) / SIZES[2])
# Well-conditioned, so that rounding plays no part.
MIXING = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(9)))[0]


def factors(rows: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Content, one of four well separated Gaussian clusters; style, Gaussian and independent of it; and the classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (rows,), generator=generator)
    content = 5.0 * torch.eye(CLASSES)[labels] + torch.randn(rows, CLASSES, generator=generator)
    return content, torch.randn(rows, STYLES, generator=generator), labels


@pytest.mark.parametrize("kept", ["content", "style", "content and style", "mixed content and style", "noise"])
def test_scores_find_the_factors_that_are_there(kept: str) -> None:
    labelled, styled = [], []
    for seed, rows in enumerate(SIZES):
        content, style, labels = factors(rows, seed)
        both = torch.cat([content, style], dim=1)
        noise = torch.randn(rows, 7, generator=torch.Generator().manual_seed(rows))
        x = {"content": content, "style": style, "content and style": both, "noise": noise}.get(kept, both @ MIXING)
        labelled.append((x, labels))
        styled.append((x, {f"style{axis}": style[:, axis] for axis in range(STYLES)}))
    for accuracy in content_scores(*labelled).values():
        assert accuracy > 0.97 if "content" in kept else abs(accuracy - 1 / CLASSES) < CHANCE
    for r2 in style_scores(*styled).values():
        assert r2 > 0.999 if "style" in kept else -0.05 < r2 < 0.05
