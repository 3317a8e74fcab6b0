"""The Fréchet distance against SciPy's matrix root, and Inception's features without torch-fidelity or its weights."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from pp_simve.evaluation import frechet
from pp_simve.evaluation.frechet import frechet_distance, inception_features


def reference(first: Tensor, second: Tensor) -> float:
    """The formula with covariances and the root of their product."""
    a, b = first.double().numpy(), second.double().numpy()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root))


def features(rows: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator)
    return torch.randn(rows, width, generator=generator) @ mix + 3 * torch.randn(width, generator=generator)


def test_against_scipy() -> None:
    first, second = features(200, 12, 0), features(90, 12, 1)
    found = frechet_distance(first, second)
    assert found == pytest.approx(reference(first, second), rel=1e-9)
    assert frechet_distance(second, first) == pytest.approx(found, rel=1e-12)


def test_known_answers() -> None:
    first = features(300, 8, 2).double()
    assert frechet_distance(first, first.flip(0)) == pytest.approx(0, abs=1e-9)
    shift = torch.arange(8.0)
    assert frechet_distance(first, first + shift) == pytest.approx(float(shift.square().sum()), rel=1e-9)
    # N(0, S) and N(0, 4 S) are tr S apart.
    centred = first - first.mean(0)
    assert frechet_distance(centred, 2 * centred) == pytest.approx(float(centred.T.cov().trace()), rel=1e-9)


def test_fewer_rows_than_features() -> None:
    """Singular covariances: those of rows in orthogonal directions share nothing."""
    first, second = torch.zeros(3, 10), torch.zeros(3, 10)
    first[:, :2], second[:, 5:7] = torch.randn(3, 2), torch.randn(3, 2)
    means = (first.mean(0) - second.mean(0)).square().sum()
    apart = means + first[:, :2].T.cov().trace() + second[:, 5:7].T.cov().trace()
    assert frechet_distance(first, second) == pytest.approx(float(apart), rel=1e-5)


def test_wrong_features_are_named() -> None:
    first = features(5, 3, 0)
    with pytest.raises(ValueError, match=r"second features must have shape \(row, 3\) .* got \(5, 2\)"):
        frechet_distance(first, first[:, :2])
    with pytest.raises(ValueError, match="at least two rows of features, got 1"):
        frechet_distance(first, first[:1])
    with pytest.raises(ValueError, match="second features are NaN or infinite in 1 of 5 rows"):
        frechet_distance(first, torch.where(torch.arange(5)[:, None] == 2, torch.nan, first))


class FakeInception(nn.Module):
    """Stands for torch-fidelity's network: takes 8-bit RGB, answers one tuple entry a feature asked for."""

    seen: list[Tensor]

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str) -> None:
        super().__init__()
        assert (name, features_list) == ("inception-v3-compat", ["2048"])
        self.layer = nn.Linear(3, 5)
        self.load_state_dict(torch.load(feature_extractor_weights_path))
        FakeInception.seen = []

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        FakeInception.seen.append(images)
        return (self.layer(images.float().mean((2, 3))),)


@pytest.fixture
def fidelity(monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = ModuleType("torch_fidelity"), ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = FakeInception  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "inception.pth"
    torch.save({"layer.weight": torch.randn(5, 3), "layer.bias": torch.randn(5)}, path)
    return path


@pytest.mark.usefixtures("fidelity")
def test_images_are_given_as_8_bit_colours(weights: Path) -> None:
    images = torch.randint(256, (5, 1, 4, 4), dtype=torch.uint8)
    found = inception_features(images, weights, batch_size=2)
    assert found.shape == (5, 5)
    assert [len(batch) for batch in FakeInception.seen] == [2, 2, 1]
    assert torch.equal(torch.cat(FakeInception.seen), images.expand(-1, 3, -1, -1))
    torch.testing.assert_close(inception_features(images / 255, weights), found)
    beyond = torch.cat([images / 255, torch.full((1, 1, 4, 4), 1.5)])
    inception_features(beyond, weights)
    assert FakeInception.seen[0][-1].unique().tolist() == [255]
    assert not found.requires_grad


@pytest.mark.usefixtures("fidelity")
@pytest.mark.parametrize("damage", ["missing", "text", "empty", "other", "code"])
def test_wrong_weights_are_named(weights: Path, damage: str) -> None:
    expected: type[Exception] = ValueError
    words = f"{weights} does not hold Inception's weights"
    if damage == "missing":
        weights.unlink()
        expected, words = FileNotFoundError, f"no file {weights}: FID needs Inception's weights"
    elif damage == "text":
        weights.write_text("<html>not found</html>")
    elif damage == "empty":
        weights.write_bytes(b"")
    elif damage == "other":
        torch.save({"layer.weight": torch.zeros(2, 2)}, weights)
    else:
        torch.save({"layer.weight": _Runs()}, weights)
    with pytest.raises(expected, match="weights") as caught:
        inception_features(torch.zeros(2, 3, 4, 4), weights)
    assert words in str(caught.value)
    assert frechet.INCEPTION_WEIGHTS in str(caught.value)


class _Runs:
    """Code that unpickling would run."""

    def __reduce__(self) -> tuple[Any, tuple[str, ...]]:
        return pytest.fail, ("weights were unpickled",)


def test_without_torch_fidelity(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ImportError, match=r"FID needs torch-fidelity .*pip install 'pp_simve\[fid\]'"):
        inception_features(torch.zeros(2, 3, 4, 4), weights)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(2, 4, 4, 4), r"shape \(image, 1 or 3, height, width\) and hold some, got \(2, 4, 4, 4\)"),
        (torch.zeros(0, 3, 4, 4), "hold some"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.int64), r"uint8, or floating point in \[0, 1\], got torch\.int64"),
    ],
)
def test_wrong_images_are_named(images: Tensor, words: str, weights: Path) -> None:
    with pytest.raises(ValueError, match=words):
        inception_features(images, weights)
