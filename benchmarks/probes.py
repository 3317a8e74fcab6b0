"""Probes of this package and scikit-learn's on the same features, in turns: agreement and CPU time.

    python benchmarks/probes.py

Penalty, k and metric are given, so that both solve the same problem. Times are medians of CPU seconds over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits
from torch import Tensor

from pp_simve.evaluation import KNNProbe, LinearProbe, RidgeProbe

PENALTY, NEIGHBORS, CLASSES = 1e-4, 10, 10


def features(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Overlapping Gaussian classes in correlated features of unlike scales, their classes, and three targets."""
    fixed, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    centers = 0.5 * torch.randn(CLASSES, width, generator=fixed)
    mixing = torch.randn(width, width, generator=fixed) / width**0.5 * torch.logspace(0, -1.5, width)
    labels = torch.randint(CLASSES, (rows,), generator=own)
    hidden = centers[labels] + torch.randn(rows, width, generator=own)
    return hidden @ mixing, labels, hidden[:, :3] + torch.randn(rows, 3, generator=own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    x, y, targets = features(arguments.rows, arguments.width, seed=1)
    test_x, test_y, _ = features(arguments.rows // 4, arguments.width, seed=2)
    mean, sd = x.mean(0), x.std(0, correction=0)
    x, test_x = (x - mean) / sd, (test_x - mean) / sd
    one, few = (x[:1], y[:1]), (x[:10], targets[:10])
    rows, test_rows = x.numpy(), test_x.numpy()

    linear, logistic = LinearProbe([PENALTY]), LogisticRegression(C=1 / (len(x) * PENALTY), max_iter=1000)
    knn, neighbors = KNNProbe([NEIGHBORS], ["euclidean"]), KNeighborsClassifier(NEIGHBORS)
    ridge, regression = RidgeProbe([PENALTY]), Ridge(alpha=len(x) * PENALTY)
    pairs: dict[str, tuple[Callable[[], Tensor], Callable[[], np.ndarray]]] = {
        "linear": (
            lambda: linear.fit(x, y, *one).predict(test_x),
            lambda: logistic.fit(rows, y.numpy()).predict(test_rows),
        ),
        "k-NN": (
            lambda: knn.fit(x, y, *one).predict(test_x),
            lambda: neighbors.fit(rows, y.numpy()).predict(test_rows),
        ),
        "ridge": (
            lambda: ridge.fit(x, targets, *few).predict(test_x),
            lambda: regression.fit(rows, targets.numpy()).predict(test_rows),
        ),
    }
    print("| probe | accuracy | scikit-learn | largest difference | CPU s | scikit-learn, CPU s | ratio |")
    print(f"|{'---|' * 7}")
    with threadpool_limits(arguments.threads):
        for name, (ours, theirs) in pairs.items():
            rounds = [(timed(ours), timed(theirs)) for _ in range(arguments.rounds)]
            found, expected = (torch.as_tensor(result) for result, _ in rounds[-1])
            if name == "ridge":
                scores = ["–", "–", f"{float((found - expected).abs().max()):.1e}"]
            else:
                accuracies = [float((part == test_y).double().mean()) for part in (found, expected)]
                scores = [f"{a:.4f}" for a in accuracies] + [f"{abs(accuracies[0] - accuracies[1]):.4f}"]
            mine, other = (statistics.median(pair[place][1] for pair in rounds) for place in (0, 1))
            print(f"| {name} | {' | '.join(scores)} | {mine:.3f} | {other:.3f} | {mine / other:.1f} |", flush=True)


def timed(call: Callable[[], Tensor | np.ndarray]) -> tuple[Tensor | np.ndarray, float]:
    """Result of a call, and its CPU seconds over all threads."""
    start = time.process_time()
    return call(), time.process_time() - start


if __name__ == "__main__":
    main()
