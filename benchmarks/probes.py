"""Our probes beside scikit-learn's, in turns, on the same features: agreement, and ratios of time.

    python benchmarks/probes.py --data-root DIR

Features are the first 64 principal components of the images' pixels, fitted on train, of which the validation split is
part here: penalty, k and metric are given, so that both solve the same problem and nothing is chosen. On a machine
with other work, the ratio of CPU times is the steadier one.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from pp_simve.data import load
from pp_simve.evaluation import KNNProbe, LinearProbe, RidgeProbe
from pp_simve.inference.augmentations import augmentation_policy, draw_views

PENALTY = 1e-4
NEIGHBOURS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashionmnist")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    data = load(arguments.data, arguments.data_root)
    images = torch.cat([data.train.images, data.validation.images])
    pixels = [part.flatten(1).float() / 255 for part in (images, data.test.images)]
    torch.manual_seed(0)  # of the principal components' random start
    _, _, axes = torch.pca_lowrank(pixels[0], q=64, niter=4)
    mean = pixels[0].mean(0)
    train, test = (standardised((part - mean) @ axes, (pixels[0] - mean) @ axes) for part in pixels)
    labels = [split.labels for split in (data.train, data.validation, data.test)]
    first, second, test_y = (part for part in labels if part is not None)
    train_y = torch.cat([first, second])
    angle = view_angles(images)
    print(f"{data.name}: {tuple(train.shape)} train, {tuple(test.shape)} test features, {arguments.threads} threads")

    def linear_ours() -> Tensor:
        probe = LinearProbe(penalties=[PENALTY]).fit(train, train_y, train[:1], train_y[:1])
        return probe.predict(test)

    def linear_theirs() -> np.ndarray:
        model = LogisticRegression(C=1 / (len(train) * PENALTY), max_iter=1000)
        return model.fit(train.numpy(), train_y.numpy()).predict(test.numpy())

    def knn_ours() -> Tensor:
        probe = KNNProbe(neighbors=[NEIGHBOURS], metrics=["euclidean"])
        return probe.fit(train, train_y, train[:1], train_y[:1]).predict(test)

    def knn_theirs() -> np.ndarray:
        model = KNeighborsClassifier(NEIGHBOURS, n_jobs=arguments.threads)
        return model.fit(train.numpy(), train_y.numpy()).predict(test.numpy())

    def ridge_ours() -> Tensor:
        probe = RidgeProbe(penalties=[PENALTY]).fit(train, angle, train[:100], angle[:100])
        return probe.predict(test)

    def ridge_theirs() -> np.ndarray:
        return Ridge(alpha=len(train) * PENALTY).fit(train.numpy(), angle.numpy()).predict(test.numpy())

    rows: list[tuple[str, Callable[[], Tensor], Callable[[], np.ndarray]]] = [
        ("linear", linear_ours, linear_theirs),
        ("k-NN", knn_ours, knn_theirs),
        ("ridge", ridge_ours, ridge_theirs),
    ]
    print(
        "| probe | ours | scikit-learn | same predictions | ours, s | scikit-learn, s | ratio of times | of CPU times |"
    )
    print(f"|{'---|' * 8}")
    for name, ours, theirs in rows:
        walls: list[tuple[float, float]] = []
        works: list[tuple[float, float]] = []
        for _ in range(arguments.rounds):
            mine, *my_times = timed(ours)
            other, *their_times = timed(theirs)
            for column, pair in zip((walls, works), zip(my_times, their_times, strict=True), strict=True):
                column.append(pair)
        found, expected = mine.double(), torch.as_tensor(other).double()
        if name == "ridge":
            scores = ["–", "–", f"within {float((found - expected.view_as(found)).abs().max()):.1e}"]
        else:
            scores = [f"{float((part == test_y).double().mean()):.4f}" for part in (found, expected)]
            scores.append(f"{float((found == expected).double().mean()):.4f}")
        times = [f"{statistics.median(column):.2f}" for column in zip(*walls, strict=True)]
        print(f"| {name} | {' | '.join([*scores, *times, ratio(walls), ratio(works)])} |", flush=True)


def ratio(seconds: list[tuple[float, float]]) -> str:
    """How many times as long theirs took as ours: median of the rounds, and range."""
    ratios = sorted(theirs / ours for ours, theirs in seconds)
    return f"{statistics.median(ratios):.1f} ({ratios[0]:.1f}-{ratios[-1]:.1f})"


def standardised(part: Tensor, train: Tensor) -> Tensor:
    return (part - train.mean(0)) / train.std(0)


def view_angles(images: Tensor) -> Tensor:
    """A continuous target an image: the rotation of a view drawn for it."""
    policy = augmentation_policy("affine", (1, *images.shape[-2:]))
    _, parameters = draw_views(policy, images, 1, generator=torch.Generator().manual_seed(0))
    return parameters["rotation"].T


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """What the call returns, and the seconds it took: by the clock, and of CPU summed over threads."""
    clock, work = time.perf_counter(), time.process_time()
    found = call()
    return found, time.perf_counter() - clock, time.process_time() - work


if __name__ == "__main__":
    main()
