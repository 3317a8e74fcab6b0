"""Training steps per second: `pp_simve`, the same loss written by hand, and a plain pipeline that goes image by image.

    python benchmarks/throughput.py [--setting both] [--rounds 9] [--seconds 2] [--threads 2] [--data-root DIR]

All pipelines fit the same networks by the same objective, 64 images of 2 views a step, which is checked first:

- a:   PIL images, torchvision transforms in a Dataset, a DataLoader, float32, Adam as it comes; a2 has 2 workers
- b:   `pp_simve`, precision auto (bf16 networks where the hardware multiplies them); b32 in float32
- c:   the loss of a on the views of b: b without Pyro, Fabric and the named terms; c32 in float32

The pipelines take turns, in an order that rotates, so that a busy machine slows all of them. Steps at the start of a
turn are not timed. The tables have medians over rounds; ratios are taken within a round, and the median is of those.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torchvision
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from pp_simve.data import load_data
from pp_simve.data.official import OFFICIAL
from pp_simve.inference import ELBO, AmortizedGuide, MLPEncoder, ResidualEncoder
from pp_simve.inference.augmentations import augmentation_policy, draw_views
from pp_simve.inference.data import Images
from pp_simve.inference.device import choose_device, network_dtype
from pp_simve.inference.loop import Loop
from pp_simve.inference.optimizers import Adam
from pp_simve.inference.plan import Plan
from pp_simve.models import Bernoulli, Gaussian, GaussianPrior, MLPDecoder, ResidualDecoder, SimVE, network_precision
from pp_simve.models.schedules import constant

IMAGES = 64  # a step
VIEWS = 2
STYLE_VARIANCE = 0.15
PIXEL_VARIANCE = 0.01
SMALLEST_SCALE = 1e-4
LR = 1e-3
SYNTHETIC = 10_000  # images, where no data are given
WARM_STEPS = 6  # of every turn, untimed: caches, and the four batches that two workers make ahead
FETCH_EVERY = 32


@dataclass(frozen=True)
class Setting:
    """What is fitted to what. ``wanted`` is the least a/b we would be content with."""

    title: str
    data: str
    image_shape: tuple[int, int, int]
    latent_dim: int
    policy: str
    likelihood: str
    networks: str
    wanted: float

    def __str__(self) -> str:
        shape = "x".join(map(str, self.image_shape))
        return (
            f"{self.title}, {shape}: {self.networks}, {self.latent_dim} latents, {self.likelihood}, views {self.policy}"
        )


SETTINGS = {
    "fashionmnist": Setting("Fashion-MNIST", "fashionmnist", (1, 28, 28), 20, "crop", "bernoulli", "mlp", 2.5),
    "cifar": Setting("CIFAR-10", "cifar10", (3, 32, 32), 64, "crop+colour", "gaussian", "residual", 3.0),
}
WANTED_OVERHEAD = 1.10  # the most b/c we would be content with


# --- the objective, by the library and by hand ------------------------------------------------------------------------


def networks(setting: Setting) -> tuple[MLPEncoder | ResidualEncoder, nn.Module]:
    """Encoder and decoder, with the same parameters at every call."""
    torch.manual_seed(0)
    if setting.networks == "mlp":
        return MLPEncoder(setting.image_shape), MLPDecoder(setting.latent_dim, setting.image_shape)
    return ResidualEncoder(setting.image_shape), ResidualDecoder(setting.latent_dim, setting.image_shape)


def library_objective(setting: Setting) -> ELBO:
    encoder, decoder = networks(setting)
    prior = GaussianPrior(setting.latent_dim, style_variance=STYLE_VARIANCE)
    likelihood = Bernoulli(decoder) if setting.likelihood == "bernoulli" else Gaussian(decoder, PIXEL_VARIANCE)
    return ELBO(SimVE(prior, likelihood), AmortizedGuide(encoder, prior))


class HandWritten(nn.Module):
    """SimVE's negative evidence bound per image, content integrated out, as one writes it for one experiment."""

    def __init__(self, setting: Setting, precision: torch.dtype | None = None) -> None:
        super().__init__()
        encoder, decoder = networks(setting)
        self.encoder, self.decoder = encoder, decoder
        self.head = nn.Linear(encoder.features, 2 * setting.latent_dim)
        self.bernoulli = setting.likelihood == "bernoulli"
        self.precision = precision

    def forward(self, views: Tensor) -> Tensor:
        """The loss for ``views`` of shape ``(view, image, channel, height, width)``."""
        count, images = views.shape[:2]
        pixels = views.flatten(0, 1)
        with self.autocast(views.device):
            features = self.encoder(pixels)
        loc, raw_scale = self.head(features.float()).chunk(2, -1)
        scale = functional.softplus(raw_scale) + SMALLEST_SCALE
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        with self.autocast(views.device):
            outputs = self.decoder(z)
        outputs = outputs.float()

        if self.bernoulli:
            log_likelihood = -functional.binary_cross_entropy_with_logits(outputs, pixels, reduction="sum")
        else:
            squares = functional.mse_loss(outputs, pixels, reduction="sum")
            log_likelihood = -0.5 * (squares / PIXEL_VARIANCE + pixels.numel() * math.log(2 * math.pi * PIXEL_VARIANCE))
        z = z.view(count, images, -1)
        mean = z.mean(0)
        mean_variance = count + STYLE_VARIANCE  # of the views' mean, times the number of views; content has variance 1
        quadratic = (z - mean).square().sum() / STYLE_VARIANCE + count * mean.square().sum() / mean_variance
        log_det = (count - 1) * math.log(STYLE_VARIANCE) + math.log(mean_variance) + count * math.log(2 * math.pi)
        log_prior = -0.5 * (quadratic + mean.numel() * log_det)
        entropy = scale.log().sum() + 0.5 * (noise.square().sum() + noise.numel() * math.log(2 * math.pi))
        return -(log_likelihood + log_prior + entropy) / images

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        return nullcontext() if self.precision is None else torch.autocast(device.type, self.precision)


def check_same_objective(setting: Setting, data: Tensor) -> None:
    """Stops unless loss and gradients agree, given parameters, views and noise.

    Raises:
        SystemExit: they do not.
    """
    library, by_hand = library_objective(setting).to(data.device), HandWritten(setting).to(data.device)
    by_hand.head.load_state_dict(library.guide.recognition.encoder_head.head.state_dict())
    generator = torch.Generator(data.device).manual_seed(0)
    views, _ = draw_views(
        augmentation_policy(setting.policy, setting.image_shape), data[:IMAGES], VIEWS, generator=generator
    )
    parts = [
        (
            library.guide.recognition.encoder_head.encoder,
            library.guide.recognition.encoder_head.head,
            library.model.likelihood.decoder,
        ),
        (by_hand.encoder, by_hand.head, by_hand.decoder),
    ]
    losses, gradients = [], []
    for objective, networks_of in zip((library, by_hand), parts, strict=True):
        torch.manual_seed(1)  # both draw z first
        output = objective(views)
        loss = output["loss"] if isinstance(output, dict) else output
        parameters = [parameter for network in networks_of for parameter in network.parameters()]
        losses.append(loss.detach())
        gradients.append(torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, parameters)]))
    for name, (ours, theirs), tolerance in (("losses", losses, 1e-5), ("gradients", gradients, 1e-3)):
        error = float((ours - theirs).norm() / theirs.norm())
        if not error <= tolerance:
            raise SystemExit(
                f"{setting.title}: the {name} of pp_simve and of the hand-written objective differ by "
                f"{error:.1e} (relative), more than {tolerance:.0e}: they do not do the same work"
            )


# --- the pipelines ----------------------------------------------------------------------------------------------------


class Pipeline(Protocol):
    def steps(self) -> Generator[None]:
        """Takes a gradient step before each yield, for ever; closed at the end of a turn."""


class ViewDataset(Dataset[Tensor]):
    """Views of PIL images, made one at a time, ``(view, channel, height, width)``."""

    def __init__(self, images: Tensor, transform: Callable[..., Tensor]) -> None:
        # Height, width, channel as bytes: what torchvision's data sets keep.
        self.images = images.permute(0, 2, 3, 1).squeeze(-1).contiguous().numpy()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        image = transforms.functional.to_pil_image(self.images[index])
        return torch.stack([self.transform(image) for _ in range(VIEWS)])


class PerImage(Pipeline):
    """a: views image by image on the CPU, everything else as it comes."""

    def __init__(self, setting: Setting, data: Tensor, device: torch.device, workers: int) -> None:
        self.device = device
        self.objective = HandWritten(setting).to(device)
        self.optimizer = torch.optim.Adam(self.objective.parameters(), lr=LR)
        dataset = ViewDataset(data, torchvision_views(setting))
        self.loader = DataLoader(
            dataset, IMAGES, shuffle=True, drop_last=True, num_workers=workers, pin_memory=device.type == "cuda"
        )

    def steps(self) -> Generator[None]:
        while True:
            # Closing the generator ends the workers, which would go on making batches in the others' turns.
            for views in self.loader:
                loss = self.objective(views.to(self.device, non_blocking=True).transpose(0, 1))
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                yield


def torchvision_views(setting: Setting) -> transforms.Compose:
    """The policy's views from torchvision's transforms (the classic ones: on PIL images v2 is slower)."""
    side = setting.image_shape[-1]
    if setting.policy == "crop":
        steps = [transforms.RandomResizedCrop(side, scale=(0.4, 1.0)), transforms.RandomHorizontalFlip()]
    else:
        steps = [
            transforms.RandomResizedCrop(side, scale=(0.3, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
        ]
    return transforms.Compose([*steps, transforms.ToTensor()])


class Library(Pipeline):
    """b: the loop of `pp_simve.inference.fit`."""

    def __init__(self, setting: Setting, data: Tensor, device: torch.device, precision: torch.dtype | None) -> None:
        fabric = Fabric(accelerator=device.type, devices=1, precision="32-true")
        fabric.launch()
        plan = Plan(
            batch_size=IMAGES,
            total_steps=1,  # only schedules look at it
            optimizer=Adam(LR),
            schedule=constant,
            seed=0,
            fetch_every=FETCH_EVERY,
        )
        source = Images(data, augmentation_policy(setting.policy, setting.image_shape), VIEWS)
        self.loop = Loop(fabric, library_objective(setting), source, plan)
        self.precision = precision

    def steps(self) -> Generator[None]:
        while True:
            with network_precision(self.precision):
                self.loop.step()
            if self.loop.buffer.full:
                self.loop.fetch()
            yield


class LibraryViews(Pipeline):
    """c: the hand-written loss in a careful loop, on views that the library draws."""

    def __init__(self, setting: Setting, data: Tensor, device: torch.device, precision: torch.dtype | None) -> None:
        self.data = data.to(device)
        self.policy = augmentation_policy(setting.policy, setting.image_shape)
        self.generator = torch.Generator(device).manual_seed(0)
        self.objective = HandWritten(setting, precision).to(device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.objective.parameters(), lr=LR, fused=True)
        self.total = torch.zeros((), device=device)

    def steps(self) -> Generator[None]:
        while True:
            order = torch.randperm(len(self.data), generator=self.generator, device=self.data.device)
            for batch in order[: len(order) // IMAGES * IMAGES].split(IMAGES):
                views, _ = draw_views(self.policy, self.data[batch], VIEWS, generator=self.generator)
                loss = self.objective(views)
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
                self.total += loss.detach()
                yield


def pipelines(setting: Setting, data: Tensor, device: torch.device, workers: list[int]) -> dict[str, Pipeline]:
    auto = network_dtype("auto", device)
    return {
        **{per_image_name(count): PerImage(setting, data, device, count) for count in workers},
        "b": Library(setting, data, device, auto),
        "b32": Library(setting, data, device, None),
        "c": LibraryViews(setting, data, device, auto),
        "c32": LibraryViews(setting, data, device, None),
    }


def per_image_name(workers: int) -> str:
    return f"a{workers}" if workers else "a"


# --- timing -----------------------------------------------------------------------------------------------------------


def turn(pipeline: Pipeline, seconds: float, device: torch.device) -> float:
    """Milliseconds a step, over at least ``seconds`` of steps."""
    steps = pipeline.steps()
    for _ in range(WARM_STEPS):
        next(steps)
    synchronize(device)
    count, start = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - start < seconds:
        next(steps)
        count += 1
    synchronize(device)
    elapsed = time.perf_counter() - start
    steps.close()
    return elapsed / count * 1e3


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    candidates: dict[str, Pipeline], rounds: int, seconds: float, device: torch.device
) -> dict[str, list[float]]:
    """Milliseconds a step of each pipeline in each round."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for pipeline in candidates.values():
        turn(pipeline, 0.0, device)
    names = list(candidates)
    for index in range(rounds):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            times[name].append(turn(candidates[name], seconds, device))
    return times


def paired_ratios(times: dict[str, list[float]]) -> dict[str, list[float]]:
    """Time of the first over time of the second in each round, by ``first/second``."""
    per_image = [name for name in times if name.startswith("a")]
    pairs = [(name, other) for other in ("b", "c") for name in per_image] + [("b", "c"), ("b32", "c32"), ("b32", "b")]
    return {f"{x}/{y}": [mine / other for mine, other in zip(times[x], times[y], strict=True)] for x, y in pairs}


# --- what is reported -------------------------------------------------------------------------------------------------


def read_images(setting: Setting, root: Path | None) -> tuple[Tensor, str]:
    """uint8 images ``(image, channel, height, width)``, and what they are."""
    if root is not None:
        files = [root / file for file in OFFICIAL[setting.data].files]
        if (root / setting.data).is_dir() or all(file.is_file() for file in files):
            images = load_data(setting.data, root).train.images
            return images, f"{len(images):,} of {setting.title}"
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (SYNTHETIC, *setting.image_shape), dtype=torch.uint8, generator=generator)
    return images, f"{len(images):,} synthetic ones (noise; the work does not depend on the pixels)"


def describe_machine(device: torch.device) -> dict[str, str | int]:
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "auto precision": str(network_dtype("auto", device) or torch.float32).removeprefix("torch."),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
    }


def cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def spread(values: list[float], digits: int) -> str:
    """Median (least-most)."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def print_tables(times: dict[str, list[float]], ratios: dict[str, list[float]], wanted: float) -> None:
    labels = {
        "b": "pp_simve, precision auto",
        "b32": "pp_simve, float32",
        "c": "by hand on our views, precision auto",
        "c32": "by hand on our views, float32",
    }
    print(f"{'pipeline':<50} {'ms/step: median (min-max)':>28} {'views/s':>9}")
    for name, values in times.items():
        label = labels.get(name, f"image by image, PIL and torchvision, {name[1:] or 0} workers")
        speed = 1e3 * IMAGES * VIEWS / statistics.median(values)
        print(f"{name:<4} {label:<45} {spread(values, 2):>28} {speed:>9,.0f}")
    print(f"\n{'ratio of times':<50} {'median (min-max)':>28} {'wanted':>9}")
    for name, values in ratios.items():
        goal = f">= {wanted:g}" if name.startswith("a") and name.endswith("/b") else ""
        goal = f"<= {WANTED_OVERHEAD:.2f}" if name in ("b/c", "b32/c32") else goal
        print(f"{name:<50} {spread(values, 3):>28} {goal:>9}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=[*SETTINGS, "both"], default="both")
    parser.add_argument("--rounds", type=int, default=9, help="turns of every pipeline")
    parser.add_argument("--seconds", type=float, default=2.0, help="of every turn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="of the DataLoader of a")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--data-root", type=Path, help="folder of the data sets (default: synthetic images)")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    arguments = parser.parse_args()
    for name in ("rounds", "seconds", "threads"):
        if not getattr(arguments, name) > 0:
            parser.error(f"--{name} must be above 0, got {getattr(arguments, name)}")
    if min(arguments.workers) < 0:
        parser.error(f"--workers must be at least 0, got {min(arguments.workers)}")
    torch.set_num_threads(arguments.threads)
    device = torch.device(choose_device(arguments.device))

    machine = describe_machine(device)
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(f"{IMAGES} images x {VIEWS} views a step, {arguments.rounds} rounds of {arguments.seconds:g} s a pipeline")
    results: dict[str, object] = {"machine": machine, "rounds": arguments.rounds, "seconds": arguments.seconds}
    for name in SETTINGS if arguments.setting == "both" else [arguments.setting]:
        setting = SETTINGS[name]
        images, source = read_images(setting, arguments.data_root)
        print(f"\n{setting}")
        print(f"images: {source}")
        check_same_objective(setting, images.to(device))
        print("pp_simve and the hand-written objective agree on loss and gradients\n")
        candidates = pipelines(setting, images, device, arguments.workers)
        times = measure(candidates, arguments.rounds, arguments.seconds, device)
        ratios = paired_ratios(times)
        print_tables(times, ratios, setting.wanted)
        results[name] = {"images": source, "ms per step": times, "ratios": ratios}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
