"""Evaluators on features whose true content and style are known: they find what is there, and nothing else."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from pp_simve.data import Split
from pp_simve.evaluation import (
    CanonicalCritic,
    MLPRegressionProbe,
    RidgeProbe,
    content_scores,
    evaluate_representations,
    few_label_scores,
    mutual_information,
    score,
    select,
    style_scores,
)
from pp_simve.evaluation.probes.mlp import MLPTraining
from pp_simve.evaluation.records import REPRESENTATIONS
from pp_simve.inference.augmentations import AugmentationPolicy, Parameters
from pp_simve.inference.guides.base import Guide, Representation

CLASSES, STYLES = 4, 3
WIDTH = CLASSES + STYLES
SIZES = (1000, 300, 400)
# Four standard deviations of a binomial with as many rows as test has.
CHANCE = 4 * math.sqrt(1 / CLASSES * (1 - 1 / CLASSES) / SIZES[2])


@dataclass(frozen=True)
class Factors:
    content: Tensor
    style: Tensor
    labels: Tensor


def factors(rows: int, seed: int) -> Factors:
    """Gaussian style, independent of content: one of four well separated Gaussian clusters."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (rows,), generator=generator)
    content = 5.0 * torch.eye(CLASSES)[labels] + torch.randn(rows, CLASSES, generator=generator)
    return Factors(content, torch.randn(rows, STYLES, generator=generator), labels)


SPLITS = tuple(factors(rows, seed) for seed, rows in enumerate(SIZES))
# Well-conditioned, so that rounding plays no part.
MIXING = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(9)))[0]


@pytest.mark.parametrize("kept", ["content", "style", "content and style", "mixed content and style", "noise"])
def test_scores_find_the_factors_that_are_there(kept: str) -> None:
    labelled, styled = [], []
    for part in SPLITS:
        both = torch.cat([part.content, part.style], dim=1)
        noise = torch.randn(len(both), 7, generator=torch.Generator().manual_seed(len(both)))
        x = {"content": part.content, "style": part.style, "content and style": both, "noise": noise}.get(kept)
        x = both @ MIXING if x is None else x
        labelled.append((x, part.labels))
        styled.append((x, {f"style{axis}": part.style[:, axis] for axis in range(STYLES)}))
    for accuracy in content_scores(*labelled).values():
        assert accuracy > 0.97 if "content" in kept else abs(accuracy - 1 / CLASSES) < CHANCE
    for r2 in style_scores(*styled).values():
        assert r2 > 0.999 if "style" in kept else -0.05 < r2 < 0.05


def as_pixels(x: Tensor) -> Tensor:
    """Numbers of a few standard deviations as values in [0, 1]."""
    return x / 32 + 0.5


def from_pixels(x: Tensor) -> Tensor:
    return (x - 0.5) * 32


class Styled(AugmentationPolicy):
    """Images are content and style, rotated; a view has a style of its own in place of its image's."""

    names: ClassVar[tuple[str, ...]] = ("style0", "style1", "style2")

    def sample(self, count: int, *, generator: torch.Generator) -> Parameters:
        return {name: torch.randn(count, generator=generator) for name in self.names}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        style = torch.stack([parameters[name] for name in self.names], dim=1)
        x = from_pixels(images.flatten(1))
        own = x @ MIXING[CLASSES:].T
        return as_pixels(x + (style - own) @ MIXING[CLASSES:]).view(images.shape)


class Unmixing(Guide):
    """The exact posterior of the factors: the mixing undone."""

    def posterior(self, views: Tensor) -> Representation:
        z = from_pixels(views.flatten(2)) @ MIXING.T
        return Representation(views.flatten(2), z, z[..., :CLASSES].mean(dim=0), z[..., CLASSES:])


def test_the_matrix_of_a_guide_that_undoes_the_mixing_is_the_truth() -> None:
    mixed = [as_pixels(torch.cat([part.content, part.style], dim=1) @ MIXING) for part in SPLITS]
    splits = [Split(x.view(-1, 1, 1, WIDTH), part.labels, None) for x, part in zip(mixed, SPLITS, strict=True)]
    records = evaluate_representations(Unmixing(), Styled(), *splits, seed=0)
    for name in REPRESENTATIONS:
        for accuracy in (one.value for one in select(records, representation=name, task="class", metric="accuracy")):
            assert accuracy > 0.97 if name != "style" else accuracy < 1 / CLASSES + CHANCE
        for style in Styled.names:
            r2 = score(records, representation=name, task="view", target=style)
            assert r2 > 0.999 if name != "content" else abs(r2) < 0.05


def test_a_smooth_non_linear_mixing_hides_from_the_line_and_not_from_the_network() -> None:
    # A swirl is invertible and keeps lengths: each axis is turned by an angle that grows with the length.
    def swirled(style: Tensor) -> Tensor:
        angle = 2 * style[:, :2].norm(dim=1)
        x, y = style[:, 0], style[:, 1]
        return torch.stack([angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y], dim=1)

    parts = [factors(rows, seed) for seed, rows in ((11, 4000), (12, 500), (13, 500))]
    x, y = [swirled(part.style) for part in parts], [part.style[:, :2] for part in parts]
    training = MLPTraining(hidden=128, decays=(1e-3,), learning_rate=1e-2, epochs=40, patience=40)
    line = RidgeProbe().fit(x[0], y[0], x[1], y[1]).score(x[2], y[2])
    network = MLPRegressionProbe(training).fit(x[0], y[0], x[1], y[1]).score(x[2], y[2])
    assert line.max() < 0.2
    assert network.min() > 0.9


def test_few_labels_and_mutual_information_agree_with_the_scores() -> None:
    contents = [(part.content, part.labels) for part in SPLITS]
    styles = [(part.style, part.labels) for part in SPLITS]
    # Clusters 5 standard deviations out: ten labels a class are enough to tell them apart.
    assert few_label_scores(*contents, counts=(10,))["10"]["mean"] > 0.95
    assert few_label_scores(*styles, counts=(10,))["10"]["mean"] < 1 / CLASSES + CHANCE
    # Two views share content and not style: what they say of each other is in content.
    train, _, test = SPLITS
    other, held = factors(len(train.labels), 21), factors(len(test.labels), 22)
    again = [part.content + 0.1 * noise.content for part, noise in ((train, other), (test, held))]
    shared = mutual_information(test.content, again[1], CanonicalCritic.fit(train.content, again[0]))
    unshared = mutual_information(test.style, held.style, CanonicalCritic.fit(train.style, other.style))
    assert 2.0 < shared["bound"] <= shared["ceiling"]
    assert unshared["bound"] < 0.05
