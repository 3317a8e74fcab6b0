"""Cost of a gradient step of each method: rounds alternate between methods, so that all share the noise.

python benchmarks/steps.py --data fashionmnist --data-root DIR --rounds 5
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import torch
from family import SETTINGS

from pp_simve.data import DataShape, load_data
from pp_simve.fit import parse
from pp_simve.inference.augmentations import augmentation_policy, draw_views
from pp_simve.inference.device import network_dtype
from pp_simve.models import network_precision
from pp_simve.models.schedules import annealed_parts
from pp_simve.run.methods import build

WARM_UP = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="of each setting a round")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    pyro.enable_validation(False)
    images = load_data(arguments.data, Path(arguments.data_root)).train.images
    settings = {name: flags for name, flags in SETTINGS.items() if "--steps" not in flags}
    turns = {name: stepper(["--data", arguments.data, *flags], images) for name, flags in settings.items()}
    times: dict[str, list[float]] = {name: [] for name in turns}
    with network_precision(network_dtype("auto", torch.device("cpu"))):
        for take in turns.values():
            for _ in range(WARM_UP):
                take()
        for _ in range(arguments.rounds):
            for name, take in turns.items():
                started = time.perf_counter()
                for _ in range(arguments.steps):
                    images_seen = take()
                times[name].append((time.perf_counter() - started) / arguments.steps / images_seen * 1e6)
    first = next(iter(times))
    print("| | µs an image, median (min-max) of rounds | over " + first + " |\n|---|---|---|")
    for name, values in times.items():
        ratios = [mine / theirs for mine, theirs in zip(values, times[first], strict=True)]
        spread = f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"
        print(f"| {name} | {spread} | {statistics.median(ratios):.2f} |")


def stepper(flags: list[str], images: torch.Tensor) -> Callable[[], int]:
    """A function that draws views, takes a gradient step and returns how many images that saw."""
    shape = DataShape((int(images.shape[1]), int(images.shape[2]), int(images.shape[3])), images=len(images))
    settings = parse(flags).resolve(shape)
    torch.manual_seed(0)
    objective = build(settings, shape).objective
    for part in annealed_parts(objective):
        part.finish()
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-3, fused=True)
    policy, generator = augmentation_policy(settings.policy, shape.image), torch.Generator().manual_seed(0)
    batch, count = images[: settings.batch_size], settings.views

    def take() -> int:
        views, _ = draw_views(policy, batch, count, generator=generator)
        objective(views)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        return len(batch)

    return take


if __name__ == "__main__":
    main()
