"""Fréchet distance between features of two sets of images: FID, where the features are Inception's."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from pp_simve.evaluation.probes.base import Array, checked_features

INCEPTION_WEIGHTS = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
"""Source of the weights of published FIDs, converted for torch; 92 MB."""


@torch.no_grad()
def frechet_distance(first: Array, second: Array) -> float:
    """Squared Fréchet (2-Wasserstein) distance between Gaussians fitted to two sets of features; FID for Inception's.

    ``|μ_a − μ_b|² + tr(S_a + S_b − 2 (S_a S_b)^½)``, with the unbiased covariances S, in squared units of the features
    (Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500, equation 6). Biased upwards, the more so the fewer
    the rows, by an amount that differs between models (Chong and Forsyth 2020, arXiv 1911.07023): compare distances of
    equal numbers of rows only, many more than there are features.

    Raises:
        ValueError: features not of shape ``(row, feature)``, of another width, not finite, or of one row.
    """
    # With triangular factors Rᵀ R = S, the last trace is the sum of the singular values of R_a R_bᵀ, which is accurate
    # for singular S, too.
    first = checked_features(first, "first")
    second = checked_features(second, "second", width=first.shape[1]).to(first.device)
    (first_mean, first_factor), (second_mean, second_factor) = _mean_and_factor(first), _mean_and_factor(second)
    between = (first_mean - second_mean).square().sum()
    spread = first_factor.square().sum() + second_factor.square().sum()
    common = torch.linalg.svdvals(first_factor @ second_factor.mT).sum()
    return max(0.0, float(between + spread - 2 * common))


@torch.no_grad()
def inception_features(images: Tensor, weights: Path, *, batch_size: int = 64) -> Tensor:
    """Features of FID: Inception's last pooling layer, by torch-fidelity, float32 ``(image, 2048)``.

    Nothing is downloaded. torch-fidelity resizes images to 299×299 as the original implementation does; of small gray
    images the features are hardly meaningful, so such a FID ranks models at most.

    Args:
        images: shape ``(image, 1 or 3, height, width)``, uint8, or float in [0, 1], which is rounded to 8 bits.
        weights: the file of `INCEPTION_WEIGHTS`, or any state of that network.

    Raises:
        ImportError: torch-fidelity is not installed.
        FileNotFoundError: there are no weights at that path.
        ValueError: images of another shape or type, or a file that does not hold the network's weights.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(
            f"images must have shape (image, 1 or 3, height, width) and hold some, got {tuple(images.shape)}"
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"images must be uint8, or floating point in [0, 1], got {images.dtype}")
    network = _inception(weights).to(images.device)
    found = []
    for chunk in torch.split(images, batch_size):
        pixels = chunk if chunk.dtype == torch.uint8 else (255 * chunk.float()).round().clamp(0, 255).byte()
        found.append(network(pixels.expand(-1, 3, -1, -1))[0])
    return torch.cat(found)


def _mean_and_factor(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and R with Rᵀ R the unbiased covariance, at most as many rows as features; float64."""
    if len(features) < 2:
        raise ValueError("a covariance needs at least two rows of features, got 1")
    features = features.double()
    mean = features.mean(0)
    return mean, torch.linalg.qr(features - mean, mode="r").R / (len(features) - 1) ** 0.5


def _inception(weights: Path) -> torch.nn.Module:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ImportError(f"FID needs torch-fidelity ({error}): pip install 'pp_simve[fid]'") from error
    if not weights.is_file():
        raise FileNotFoundError(
            f"no file {weights}: FID needs Inception's weights, which are never downloaded here; "
            f"get {INCEPTION_WEIGHTS} and give its path"
        )
    try:
        # The extractor unpickles the file without restrictions: first check that it holds nothing but tensors.
        torch.load(weights, map_location="cpu", weights_only=True)
        network: torch.nn.Module = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)
        )
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{weights} does not hold Inception's weights ({reason}); get {INCEPTION_WEIGHTS}") from error
    return network
