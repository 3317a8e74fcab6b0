"""The loop: views drawn on the device, a gradient step of the objective, nothing read back in between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pp_simve.inference.augmentations import AugmentationPolicy, Compose, augmentation_policy
from pp_simve.inference.checkpoint import CheckpointError, CheckpointFile
from pp_simve.inference.data import Images, MultimodalImages
from pp_simve.inference.device import (
    DeviceName,
    Precision,
    choose_device,
    leave_processes_at_exit,
    network_dtype,
    peak_memory_mb,
)
from pp_simve.inference.guides import Guide
from pp_simve.inference.loop import Loop, Observer, Plan
from pp_simve.inference.metrics import NonFiniteError
from pp_simve.inference.objectives import ELBO
from pp_simve.inference.schedules import Schedule, constant
from pp_simve.inference.tools import random_state_kept
from pp_simve.models import network_precision

Pixels = Tensor | np.ndarray[Any, Any]


class FitError(ValueError):
    """An argument of `fit` is out of range, or does not go with the images."""


@dataclass(frozen=True)
class Progress:
    """What a monitor is told each time metrics are fetched.

    Attributes:
        step, total_steps: steps done and to do; counted from 1.
        epoch, epochs: epochs done (a fraction) and to do.
        rows: terms of the steps since the last call, per image in nats, each with its ``step``.
        images_per_second: of all devices, since the last call; a view counts as an image.
        seconds_left: at that speed.
    """

    step: int
    total_steps: int
    epoch: float
    epochs: float
    rows: list[dict[str, float]]
    images_per_second: float
    seconds_left: float


@dataclass
class Run:
    """A fitted pair and how it came about.

    Attributes:
        model, guide, objective: fitted in place, in evaluation mode.
        policy: what drew the views; by modality where they are of several.
        views: of each image in a batch; where they are of several modalities, of each modality.
        history: the terms of each step (of this process, where a fit was resumed).
        steps, total_steps: done and planned; fewer done than planned means the fit was stopped.
        seconds_per_epoch: wall-clock, mean over the epochs done, data and views included.
        peak_memory_mb: see `peak_memory_mb`.
    """

    model: nn.Module
    guide: Guide
    objective: nn.Module
    policy: AugmentationPolicy | dict[str, AugmentationPolicy]
    views: int
    history: list[dict[str, float]] = field(repr=False)
    steps: int
    total_steps: int
    seconds_per_epoch: float
    peak_memory_mb: float

    @property
    def finished(self) -> bool:
        """Whether every planned step was done."""
        return self.steps == self.total_steps


def fit(
    model: nn.Module,
    guide: Guide,
    images: Pixels | Mapping[str, Pixels],
    *,
    objective: nn.Module | None = None,
    policy: AugmentationPolicy | Mapping[str, AugmentationPolicy] | None = None,
    views: int | None = None,
    batch_size: int = 128,
    epochs: float | None = None,
    steps: int | None = None,
    lr: float = 1e-3,
    schedule: Schedule = constant,
    seed: int = 0,
    device: DeviceName = "auto",
    devices: int = 1,
    precision: Precision = "auto",
    fetch_every: int = 32,
    monitor: Callable[[Progress], None] | None = None,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] | None = None,
    checkpoint: CheckpointFile | None = None,
    checkpoint_seconds: float = 20.0,
) -> Run:
    """Fits model and guide to views of images, in place.

    Args:
        model, guide: Pyro programs over the same sites, see `SimVE` and `Guide`.
        images: uint8, shape ``(image, channel, height, width)``; kept on the device whole. Where views are of several
            modalities, one such tensor per modality, all of the same things in the same order (vectors as images of
            one pixel).
        objective: see `Objective`; any module from views to named terms with ``loss`` among them will do. Default
            ``ELBO(model, guide)``.
        policy: draws the views; default ``crop`` for grey images, ``crop+colour`` for RGB. Where views are of several
            modalities, one per modality, and by default every modality as it is.
        views: views of each image in a batch (J), by default 2; where they are of several modalities, of each
            modality, and 1.
        batch_size: images a step, over all devices; an incomplete last batch of an epoch is left out.
        epochs, steps: how long; give one of them (neither means 10 epochs).
        lr: Adam's learning rate.
        schedule: its factor as a function of (step, total steps).
        seed: decides batches, views and samples; the global random state is left as it was.
        device: ``auto``, ``cpu`` or ``cuda``.
        devices: processes, each with its share of every batch.
        precision: of the networks, ``auto``, ``32`` or ``bf16``; distributions are float32 always.
        fetch_every: steps between reads of the metrics from the device.
        monitor: called with `Progress` after each such read, on the first process.
        observer: watches each step, and adds to its terms: see `Observer`. The fit is the same with and without.
        should_stop: asked after each step; True ends the fit there, with a checkpoint.
        checkpoint: where to keep the state; an existing one is resumed from.
        checkpoint_seconds: least time between checkpoints, which are taken at ends of epochs and of the fit.

    Raises:
        FitError: arguments out of range, a batch larger than the data.
        ProgramError: model and guide that do not match.
        NonFiniteError: a term became NaN or infinite.
        CheckpointError: the checkpoint is damaged or of another fit.
        OSError: the checkpoint could not be written.
    """
    source = _source(images, policy, views, bool(getattr(objective, "original_first", False)))
    count = len(source)
    for part in (objective, observer):
        known = getattr(part, "known_images", None)
        if known is not None and count > known:
            raise FitError(f"{type(part).__name__} knows {known} images by their index, but there are {count} to fit")
    _check_counts(count, batch_size=batch_size, devices=devices, fetch_every=fetch_every, lr=lr)
    plan = Plan(
        batch_size=batch_size,
        total_steps=_total_steps(epochs, steps, count // batch_size),
        lr=lr,
        schedule=schedule,
        seed=seed,
        fetch_every=fetch_every,
    )
    fabric = Fabric(
        accelerator=choose_device(device),
        devices=devices,
        strategy="auto" if devices == 1 else "ddp",
        precision="32-true",
    )
    fabric.launch()
    if devices > 1:
        leave_processes_at_exit()
    with (
        random_state_kept(fabric.device),
        network_precision(network_dtype(precision, fabric.device)),
        _checkpoint_named(checkpoint),
    ):
        loop = Loop(fabric, objective if objective is not None else ELBO(model, guide), source, plan, observer)
        seconds_before = _resume(loop, checkpoint)
        history: list[dict[str, float]] = []
        started = fetched_at = saved_at = time.perf_counter()
        fetched_steps = loop.steps
        stop = False
        while loop.steps < plan.total_steps and not stop:
            loop.step()
            end = loop.steps == plan.total_steps
            meeting = loop.buffer.full or end
            # Several processes must stop at the same step, so they ask only where they meet anyway.
            if should_stop is not None and (devices == 1 or meeting):
                stop = bool(fabric.broadcast(should_stop()))
            due = False
            if checkpoint is not None and loop.steps % loop.steps_per_epoch == 0:
                due = bool(fabric.broadcast(time.perf_counter() - saved_at >= checkpoint_seconds))
            if meeting or stop or due:
                rows = loop.fetch()
                history.extend(rows)
                now = time.perf_counter()
                speed = (loop.steps - fetched_steps) / (now - fetched_at)
                fetched_at, fetched_steps = now, loop.steps
                if monitor is not None and fabric.is_global_zero:
                    monitor(_progress(loop, rows, speed))
            if (end or stop or due) and not loop.finite():
                # The step's terms were finite, its gradient was not: the next step would have shown it.
                raise NonFiniteError(loop.steps, "a parameter", math.nan)
            if checkpoint is not None and (end or stop or due):
                state = loop.state() | {"seconds": seconds_before + time.perf_counter() - started}
                if fabric.is_global_zero:
                    checkpoint.save(state)
                saved_at = time.perf_counter()
    for part in loop.annealed:
        part.finish()
    loop.objective.eval()
    seconds = seconds_before + time.perf_counter() - started
    policy, views = _drawing(source)
    return Run(
        model=model,
        guide=guide,
        objective=loop.objective,
        policy=policy,
        views=views,
        history=history,
        steps=loop.steps,
        total_steps=plan.total_steps,
        seconds_per_epoch=seconds / max(loop.steps, 1) * loop.steps_per_epoch,
        peak_memory_mb=peak_memory_mb(fabric.device),
    )


def image_shape(images: Tensor) -> tuple[int, int, int]:
    """``(channel, height, width)`` of a batch of images."""
    channels, height, width = images.shape[-3:]
    return channels, height, width


def _resume(loop: Loop, checkpoint: CheckpointFile | None) -> float:
    """Goes on from an existing checkpoint; seconds spent before it."""
    if checkpoint is None or not checkpoint.exists():
        return 0.0
    state = checkpoint.load()
    try:
        if "seconds" not in state:
            raise ValueError("it has no entry 'seconds'")
        loop.restore(state)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.path} is of another fit: {error}") from None
    return float(state["seconds"])


@contextmanager
def _checkpoint_named(checkpoint: CheckpointFile | None) -> Iterator[None]:
    """Notes on a `NonFiniteError` where the last good state is."""
    try:
        yield
    except NonFiniteError as error:
        if checkpoint is not None:
            kept = (
                f"the last good checkpoint is {checkpoint.path}"
                if checkpoint.exists()
                else "no checkpoint was kept yet"
            )
            error.add_note(kept)
        raise


def _progress(loop: Loop, rows: list[dict[str, float]], speed: float) -> Progress:
    plan = loop.plan
    return Progress(
        step=loop.steps,
        total_steps=plan.total_steps,
        epoch=loop.steps / loop.steps_per_epoch,
        epochs=plan.total_steps / loop.steps_per_epoch,
        rows=rows,
        images_per_second=speed * plan.batch_size * loop.source.views,
        seconds_left=(plan.total_steps - loop.steps) / speed,
    )


def _source(
    images: Pixels | Mapping[str, Pixels],
    policy: AugmentationPolicy | Mapping[str, AugmentationPolicy] | None,
    views: int | None,
    original_first: bool,
) -> Images | MultimodalImages:
    """Where views are drawn from.

    Raises:
        FitError: images or views that cannot be, modalities that do not go together.
    """
    by_modality = isinstance(images, Mapping)
    if by_modality and original_first:
        raise FitError("an objective that compares views with the original image needs images of one modality")
    each = views if views is not None else 1 if by_modality else 2
    least = 1 + original_first
    if each < least:
        why = ": the objective sees the original image as the first of them" if original_first else ""
        raise FitError(f"views must be at least {least}, got {each}{why}")
    if not isinstance(images, Mapping):
        if isinstance(policy, Mapping):
            raise FitError(f"policies by modality ({', '.join(policy)}) need images by modality")
        data = _checked_images(images)
        drawing = policy or augmentation_policy("crop" if data.shape[1] == 1 else "crop+colour", image_shape(data))
        return Images(data, drawing, each, original_first)
    if policy is not None and (not isinstance(policy, Mapping) or set(policy) - set(images)):
        raise FitError(
            f"images are by modality ({', '.join(images)}), so the policy must be, too: {{modality: policy}}"
        )
    modalities = {}
    for modality, pixels in images.items():
        data = _checked_images(pixels)
        drawing = (policy or {}).get(modality) or Compose([], image_shape(data))
        modalities[modality] = Images(data, drawing, each)
    counts = {modality: len(part) for modality, part in modalities.items()}
    if len(set(counts.values())) != 1:
        raise FitError(f"images of every modality must be of the same things, got numbers of images {counts}")
    return MultimodalImages(modalities)


def _drawing(source: Images | MultimodalImages) -> tuple[AugmentationPolicy | dict[str, AugmentationPolicy], int]:
    """The policy, and views of each modality."""
    if isinstance(source, Images):
        return source.policy, source.views
    modalities = source.modalities
    return {modality: part.policy for modality, part in modalities.items()}, next(iter(modalities.values())).views


def _checked_images(images: Pixels) -> Tensor:
    data = torch.as_tensor(images)
    if data.dtype != torch.uint8 or data.ndim != 4:
        raise FitError(
            "images must be uint8 of shape (image, channel, height, width), "
            f"got {data.dtype} of shape {tuple(data.shape)}"
        )
    return data


def _check_counts(count: int, *, batch_size: int, devices: int, fetch_every: int, lr: float) -> None:
    for name, value in {
        "batch_size": batch_size,
        "devices": devices,
        "fetch_every": fetch_every,
    }.items():
        if value < 1:
            raise FitError(f"{name} must be at least 1, got {value}")
    if not 0 < lr < math.inf:
        raise FitError(f"lr must be positive and finite, got {lr}")
    if batch_size > count:
        raise FitError(f"batch_size is {batch_size}, but there are only {count} images to fit; choose at most {count}")
    if batch_size % devices:
        raise FitError(f"batch_size {batch_size} must be a multiple of devices ({devices})")


def _total_steps(epochs: float | None, steps: int | None, steps_per_epoch: int) -> int:
    if epochs is not None and steps is not None:
        raise FitError(f"give epochs or steps, not both (got {epochs} epochs and {steps} steps)")
    if epochs is not None and not math.isfinite(epochs):
        raise FitError(f"epochs must be finite, got {epochs}")
    total = steps if steps is not None else round((10 if epochs is None else epochs) * steps_per_epoch)
    if total < 1:
        raise FitError(f"a fit needs at least one step, got {steps if steps is not None else f'{epochs} epochs'}")
    return total
