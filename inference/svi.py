"""Stochastic variational inference: fits a model and a guide to views drawn on the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from pp_simve.inference.augmentations import ImageShape
from pp_simve.inference.checkpoint import CheckpointError, CheckpointFile
from pp_simve.inference.data import FitImages, FitPolicy, Source, image_shape, training_source
from pp_simve.inference.device import DeviceName, Precision, network_dtype, peak_memory_mb
from pp_simve.inference.guides import Guide
from pp_simve.inference.images import ImagesError, describes_shapes, mismatch
from pp_simve.inference.loop import Loop, Observer, keep_frozen
from pp_simve.inference.metrics import NonFiniteError
from pp_simve.inference.objectives import ELBO
from pp_simve.inference.plan import FitError, checked_plan
from pp_simve.inference.processes import Devices, Processes, lost_processes_named, wait_for_all
from pp_simve.inference.progress import Progress, Run
from pp_simve.inference.progress_bar import watched_on_stderr
from pp_simve.inference.streams import Stream, as_batches
from pp_simve.inference.tools import random_state_kept
from pp_simve.models import network_precision

BATCH_SIZE = 128


def fit(
    model: nn.Module,
    guide: Guide,
    images: FitImages,
    *,
    objective: nn.Module | None = None,
    policy: FitPolicy = None,
    views: int | None = None,
    batch_size: int | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    lr: float | None = None,
    optimizer: Callable[[Any], Optimizer] | None = None,
    schedule: Callable[[int, int], float] | str = "constant",
    clip_norm: float | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    seed: int = 0,
    device: DeviceName = "auto",
    devices: Devices = None,
    nodes: int | None = None,
    precision: Precision = "auto",
    fetch_every: int = 32,
    log_every: int | None = None,
    progress: bool = True,
    monitor: Callable[[Progress], None] | None = None,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] | None = None,
    checkpoint: CheckpointFile | None = None,
    checkpoint_minutes: float = 10.0,
) -> Run:
    """Stochastic variational inference: fits model and guide to views of images, in place.

    Args:
        model: the generative program, see `SimVE`.
        guide: the variational program over the same sites, see `Guide`.
        images: tensor or array, uint8 in 0..255 or float in [0, 1], shape ``(image, channel, height, width)``; a torch
            ``Dataset`` of images of one size, whose labels are not used; or what `load_data` returns, of which train is
            fitted. Where views are of several modalities, one tensor, array or data set per modality, all of the same
            things in the same order (vectors as images of one pixel). All these are kept on the device. Or an
            ``np.memmap``, which is left in its file (on a GPU: where it takes more than half of the free memory), or a
            `DataLoader` or another iterable, whose batches are taken as they come: see `MappedImages` and `Stream`.
        objective: see `Objective`; any module from views to named terms with ``loss`` among them will do. Default
            ``ELBO(model, guide)``.
        policy: draws the views, or its name in ``POLICIES``. The default is that of the shell for what `load_data`
            returns (``affine`` for the digits), otherwise ``crop+colour`` for RGB images and ``crop`` for others, both
            with flips. Where views are of several modalities, one per modality, by default the identity.
        views: views of each image in a batch (J), by default 2; where they are of several modalities, of each
            modality, and 1.
        batch_size: images a batch, over all devices, by default 128, or those of a stream; an incomplete last batch of
            an epoch is dropped.
        epochs: length of the fit in passes over the images (default: 10), or
        steps: in steps.
        lr: Adam's learning rate, by default 1e-3.
        optimizer: function from the list of parameters that require gradients to an optimizer, in place of Adam:
            ``lambda parameters: torch.optim.AdamW(parameters, lr=1e-3)``, or one of `pp_simve.inference.optimizers`.
            Frozen parameters stay as they are, and so do the batch-norm statistics of modules without others.
        schedule: factor of the learning rate of each parameter group, as a function of (step, total steps), or the
            name of one: ``constant``, ``cosine``, ``linear``, ``geometric``, ``cyclic``.
        clip_norm: largest norm of the gradient of all parameters together; longer gradients are scaled down to it.
        accumulate: batches a step, whose gradients and terms are averaged. Contrastive terms and batch norms see each
            batch alone, and so do updates that an objective makes at each batch (BYOL's copy of the guide).
        ema: fraction that the exponential moving average of the parameters keeps of itself at each step, such as
            0.999; it starts with the parameters after the first step. At the end model, guide and objective hold the
            average; the parameters themselves are in the checkpoint. Buffers, such as batch-norm statistics, are the
            last ones.
        seed: determines batches, views and samples; the global random state is left as it was.
        device: ``auto``, ``cpu`` or ``cuda``.
        devices: processes on each node, each with its share of every batch; ``auto`` is one per GPU. By default those
            that torchrun or srun started, otherwise this one alone.
        nodes: machines, by default those of torchrun or srun, otherwise 1.
        precision: of the networks, ``auto``, ``32`` or ``bf16``; distributions are float32 always.
        fetch_every: steps between reads of the metrics from the device.
        log_every: steps whose means are one row of the history, by default as few as give at most 100,000 rows.
        progress: whether a terminal or a notebook shows a progress bar, where there is no monitor.
        monitor: called with `Progress` after each such read, on the first process.
        observer: called after each step, adds to its terms: see `Observer`. The fit is the same with and without.
        should_stop: called after each step (of several processes, on the first one, after each read of the metrics);
            True ends the fit there, with a checkpoint.
        checkpoint: file of the state; the fit resumes from an existing one, from whichever step it was written at.
        checkpoint_minutes: between checkpoints. The last one is written at the end of the fit.

    Raises:
        FitError: images or arguments out of range, a batch larger than the data, images of another shape than the
            programs are built for, inference mode; processes that cannot be started, that end before the fit does
            (`ProcessError`), or some of whose parameters have no gradient.
        ProgramError: model and guide that do not match.
        NonFiniteError: a term became NaN or infinite.
        CheckpointError: the checkpoint is damaged or of another fit.
        OSError: the checkpoint could not be written.

    Examples:
        >>> import torch
        >>> from pp_simve import AmortizedGuide, Bernoulli, GaussianPrior, MLPDecoder, MLPEncoder, SimVE, load_data
        >>> images = load_data("digits").train.images  # uint8 (image, channel, height, width)
        >>> prior = GaussianPrior(8)
        >>> model = SimVE(prior, Bernoulli(MLPDecoder(8, (1, 16, 16))))
        >>> guide = AmortizedGuide(MLPEncoder((1, 16, 16)), prior)
        >>> run = fit(model, guide, images, steps=2, device="cpu")
        >>> run.steps, [*run.history[-1]]
        (2, ['step', 'loss', 'content', 'style', 'reconstruction', 'entropy'])
        >>> guide.embed_batches(images[:5]).content.shape
        torch.Size([5, 8])
    """
    if torch.is_inference_mode_enabled():
        raise FitError("fit needs gradients, which torch.inference_mode() rules out; call it outside of that context")
    original_first = bool(getattr(objective, "original_first", False))
    batches = as_batches(images)
    if batches is None:
        views = views if views is not None else 1 if isinstance(images, Mapping) else 2
        source: Source = training_source(images, policy, views, original_first=original_first)
        batch_size = BATCH_SIZE if batch_size is None else batch_size
    else:
        if isinstance(policy, Mapping):
            raise FitError(f"policies by modality ({', '.join(policy)}) need images by modality, got a stream")
        stream = Stream.of(batches, policy, views, original_first=original_first, seed=seed)
        _check_stream(stream, objective, observer, batch_size, steps)
        source, views, batch_size = stream, stream.n_views, stream.batch_size
    for part in (objective, observer):
        known = getattr(part, "known_images", None)
        if known is not None and len(source) > known:
            raise FitError(
                f"{type(part).__name__} was made for {known} images, by their index, but there are {len(source)} to fit"
            )
    processes = Processes.of(device, devices, nodes)
    processes.share(batch_size)
    plan = checked_plan(
        len(source),
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
        lr=lr,
        optimizer=optimizer,
        schedule=schedule,
        clip_norm=clip_norm,
        accumulate=accumulate,
        ema=ema,
        seed=seed,
        fetch_every=fetch_every,
        log_every=log_every,
    )
    if not checkpoint_minutes >= 0:
        raise FitError(f"checkpoint_minutes must be at least 0, got {checkpoint_minutes}")
    from pp_simve.inference.launching import launch  # here, as it imports Fabric, which takes as long as torch itself

    fabric = launch(processes, device)
    with (
        torch.enable_grad(),
        random_state_kept(fabric.device),
        network_precision(network_dtype(precision, fabric.device)),
        _checkpoint_named(checkpoint),
        watched_on_stderr() if progress and monitor is None and fabric.is_global_zero else nullcontext() as bar,
        lost_processes_named(fabric),
    ):
        monitor = monitor or bar
        loop = Loop(fabric, objective if objective is not None else ELBO(model, guide), source, plan, observer)
        keep_frozen(model, guide)
        seconds_before = _resume(loop, checkpoint)
        history: list[dict[str, float]] = []
        started = fetched_at = saved_at = time.perf_counter()
        fetched_steps = loop.steps
        stop = False
        while loop.steps < plan.total_steps and not stop:
            with _shape_named(source, guide):
                loop.step()
            end = loop.steps == plan.total_steps
            fetching = loop.buffer.full or end
            due = False
            # Several processes must do both at the same step, so they communicate only where they fetch anyway.
            if fabric.world_size == 1 or fetching:
                stop = should_stop is not None and should_stop()
                due = checkpoint is not None and time.perf_counter() - saved_at >= 60 * checkpoint_minutes
                stop, due = fabric.broadcast((stop, due))
            if fetching or stop or due:
                rows = loop.fetch()
                means = loop.means.add(rows)
                history.extend(means)
                now = time.perf_counter()
                speed = (loop.steps - fetched_steps) / (now - fetched_at)
                fetched_at, fetched_steps = now, loop.steps
                if monitor is not None and fabric.is_global_zero:
                    monitor(_progress(loop, rows, means, speed))
            if (end or stop or due) and not loop.finite():
                # The step's terms were finite, its gradient was not: the next step would have shown it.
                raise NonFiniteError(loop.steps, "a parameter", math.nan)
            if checkpoint is not None and (end or stop or due):
                state = loop.state() | {"seconds": seconds_before + time.perf_counter() - started}
                if fabric.is_global_zero:
                    checkpoint.save(state)
                saved_at = time.perf_counter()
            if fetching or stop or due:
                wait_for_all(fabric)  # the first process was busy with monitor and checkpoint
    loop.finish()
    seconds = seconds_before + time.perf_counter() - started
    return Run(
        model=model,
        guide=guide,
        objective=loop.objective,
        policy=source.policy,
        views=views,
        image_shape=_shapes(source),
        settings=loop.settings(),
        history=history,
        steps=loop.steps,
        total_steps=plan.total_steps,
        epochs=loop.steps / loop.steps_per_epoch,
        seconds_per_epoch=seconds / max(loop.steps, 1) * loop.steps_per_epoch,
        peak_memory_mb=peak_memory_mb(fabric.device),
    )


def _check_stream(
    stream: Stream, objective: nn.Module | None, observer: Observer | None, batch_size: int | None, steps: int | None
) -> None:
    """Refuses what needs to know all images, or their number."""
    if batch_size not in (None, stream.batch_size):
        raise FitError(f"batch_size is {batch_size}, but the stream gives batches of {stream.batch_size}; leave it out")
    if stream.length is None and steps is None:
        raise FitError("the stream has no length, so there are no epochs; give steps")
    for part in (objective, observer):
        if getattr(part, "indexed", False) or hasattr(part, "known_images"):
            raise FitError(
                f"{type(part).__name__} knows images by their place in the data, which they do not have in a stream; "
                "give a tensor, an array or a Dataset"
            )


def _resume(loop: Loop, checkpoint: CheckpointFile | None) -> float:
    """Resumes from an existing checkpoint; the seconds spent before it."""
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
def _shape_named(source: Source, guide: Guide) -> Iterator[None]:
    """Names the images' shape, and that of the encoder, where a step fails because tensors do not match."""
    try:
        yield
    except RuntimeError as error:
        if not describes_shapes(error):
            raise
        raise ImagesError(mismatch("model and guide failed on", source.images, guide, error)) from error


@contextmanager
def _checkpoint_named(checkpoint: CheckpointFile | None) -> Iterator[None]:
    """Adds the path of the last good checkpoint to a `NonFiniteError`."""
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


def _shapes(source: Source) -> ImageShape | dict[str, ImageShape]:
    if isinstance(source.images, Mapping):
        return {modality: image_shape(images) for modality, images in source.images.items()}
    return image_shape(source.images)


def _progress(loop: Loop, rows: list[dict[str, float]], means: list[dict[str, float]], speed: float) -> Progress:
    plan = loop.plan
    return Progress(
        step=loop.steps,
        total_steps=plan.total_steps,
        epoch=loop.steps / loop.steps_per_epoch,
        epochs=plan.total_steps / loop.steps_per_epoch,
        rows=rows,
        means=means,
        images_per_second=speed * plan.images * loop.source.n_views,
        seconds_left=(plan.total_steps - loop.steps) / speed,
    )
