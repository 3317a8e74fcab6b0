"""What a CUDA device makes of a fit, in less than 8 minutes: times of a step, memory, a compiled step, epochs a minute.

    python benchmarks/gpu.py                         # on a CUDA device
    python benchmarks/gpu.py --device cpu --quick    # every line once, without meaning

- Steps of `throughput`'s networks by the library (b, b32) and by hand (c, c32), in bf16 and float32, and their memory.
- The same step of the library with encoder and decoder under torch.compile(mode="reduce-overhead"): CUDA graphs.
- Epochs a minute of 50,000 images of 3x32x32, a ResNet-18 and SimVE.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from throughput import (
    SETTINGS,
    Library,
    LibraryViews,
    Pipeline,
    Setting,
    describe_machine,
    measure,
    read_images,
    spread,
)
from torch import nn

from pp_simve import AmortizedGuide, Gaussian, GaussianPrior, ResidualDecoder, ResNet18Encoder, SimVE
from pp_simve.inference import fit
from pp_simve.inference.device import choose_device, network_dtype


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    device = torch.device(choose_device(given.device))
    rounds, seconds, images = (1, 0.0, 16) if given.quick else (7, 2.0, 50_000)
    print(", ".join(f"{name} {value}" for name, value in describe_machine(device).items()))
    for setting in SETTINGS.values():
        steps(setting, device, rounds, seconds)
    epochs(device, images)


def steps(setting: Setting, device: torch.device, rounds: int, seconds: float) -> None:
    """Prints a table of the setting's pipelines."""
    data, _ = read_images(setting, None)
    auto = network_dtype("auto", device)
    makers: dict[str, Callable[[], Pipeline]] = {
        "by hand, float32": lambda: LibraryViews(setting, data, device, None),
        "by hand, precision auto": lambda: LibraryViews(setting, data, device, auto),
        "pp_simve, float32": lambda: Library(setting, data, device, None),
        "pp_simve, precision auto": lambda: Library(setting, data, device, auto),
        "pp_simve, precision auto, compiled": lambda: compiled(Library(setting, data, device, auto)),
    }
    pipelines, memory = {}, {}
    for name, make in makers.items():
        pipelines[name] = make()
        memory[name] = step_memory(pipelines[name], device)
    times = measure(pipelines, rounds, seconds, device)
    print(f"\n{setting}\n\n| | ms a step, median (min-max) | of the first | memory of a step, MB |\n|---|---|---|---|")
    for name, values in times.items():
        ratio = statistics.median(one / base for one, base in zip(values, times["by hand, float32"], strict=True))
        print(f"| {name} | {spread(values, 3)} | {ratio:.2f} | {memory[name]:.0f} |")


def compiled(pipeline: Library) -> Library:
    """The pipeline with its networks compiled, in place."""
    objective = pipeline.loop.objective
    for network in (objective.guide.encoder, objective.model.likelihood.decoder):
        assert isinstance(network, nn.Module)
        network.compile(mode="reduce-overhead")
    return pipeline


def step_memory(pipeline: Pipeline, device: torch.device) -> float:
    """MB that steps take at most beyond what is kept between them; 0 on the CPU, where torch does not count."""
    steps = pipeline.steps()
    next(steps)
    if device.type != "cuda":
        return 0.0
    kept = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    next(steps)
    return (torch.cuda.max_memory_allocated(device) - kept) / 2**20


def epochs(device: torch.device, images: int) -> None:
    """Prints epochs a minute of a fit like those of CIFAR-10, after one that is not timed."""
    shape = (3, 32, 32)
    prior = GaussianPrior(64)
    model = SimVE(prior, Gaussian(ResidualDecoder(64, shape)))
    guide = AmortizedGuide(ResNet18Encoder(shape), prior)
    data = torch.randint(0, 256, (images, *shape), dtype=torch.uint8)
    ends: list[float] = []
    batch = min(512, images // 2)
    fit(
        *(model, guide, data),
        batch_size=batch,
        epochs=2,
        device=device.type,
        fetch_every=images // batch,
        monitor=lambda progress: ends.append(time.perf_counter()),
    )
    print(f"\nResNet-18, SimVE, {images} images, batches of {batch}: {60 / (ends[1] - ends[0]):.2f} epochs a minute")


if __name__ == "__main__":
    main()
