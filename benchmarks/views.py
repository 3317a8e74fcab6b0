"""Time to draw one view of every image in a batch: `pp_simve` on the batch, torchvision one image at a time.

    python benchmarks/views.py [--repeats 20] [--threads 2] [--device cpu]

Every pipeline starts from uint8 pixels and ends with one float32 batch in [0, 1]. The pipelines take turns, so that a
busy machine slows all of them; the first turn warms up and is not counted. The table has the median and the fastest.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor
from torchvision.transforms import v2

from pp_simve.inference.augmentations import augmentation_policy, draw_views

BATCH = 256
CASES = {"crop+colour": (3, 32, 32), "crop": (1, 28, 28)}


def torchvision_pipeline(name: str, side: int) -> v2.Compose:
    """The same distribution of views from torchvision's own random transforms."""
    area = (0.3, 1.0) if name == "crop+colour" else (0.4, 1.0)
    steps: list[torch.nn.Module] = [v2.RandomResizedCrop(side, scale=area), v2.RandomHorizontalFlip()]
    if name == "crop+colour":
        steps += [v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8), v2.RandomGrayscale(p=0.2)]
    return v2.Compose([*steps, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


def pipelines(name: str, shape: tuple[int, int, int], device: str) -> dict[str, Callable[[], Tensor]]:
    pixels = torch.randint(0, 256, (BATCH, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    resident = pixels.to(device)
    pictures = [v2.functional.to_pil_image(image) for image in pixels]
    policy, generator = augmentation_policy(name, shape), torch.Generator(device).manual_seed(0)
    peer = torchvision_pipeline(name, shape[-1])
    return {
        "pp_simve, batch": lambda: draw_views(policy, resident, 1, generator=generator)[0],
        "torchvision, tensor by tensor": lambda: torch.stack([peer(image) for image in pixels]).to(device),
        "torchvision, PIL by PIL": lambda: torch.stack([peer(picture) for picture in pictures]).to(device),
    }


def seconds(pipeline: Callable[[], Tensor], device: str) -> float:
    start = time.perf_counter()
    pipeline()
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="timed turns of every pipeline")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    parser.add_argument("--device", default="cpu", help="where the images live: cpu or cuda")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {arguments.repeats}")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)  # torchvision draws from the global generator

    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, Python {platform.python_version()}")
    print(f"{BATCH} images a batch, {arguments.device}, {arguments.threads} threads, {arguments.repeats} repeats\n")
    print(f"{'policy':<12} {'image':<10} {'pipeline':<30} {'median ms':>10} {'fastest ms':>11} {'ratio':>7}")
    for name, shape in CASES.items():
        candidates = pipelines(name, shape, arguments.device)
        times: dict[str, list[float]] = {label: [] for label in candidates}
        for _ in range(arguments.repeats + 1):
            for label, pipeline in candidates.items():
                times[label].append(seconds(pipeline, arguments.device))
        ours = statistics.median(times["pp_simve, batch"][1:])
        for label, values in times.items():
            median, fastest = statistics.median(values[1:]), min(values[1:])
            row = f"{name:<12} {'x'.join(map(str, shape)):<10} {label:<30}"
            print(f"{row} {median * 1e3:>10.2f} {fastest * 1e3:>11.2f} {median / ours:>7.1f}")


if __name__ == "__main__":
    main()
