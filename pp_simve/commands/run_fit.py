"""A fit from its settings to its run folder."""

from __future__ import annotations

import logging
import math
import re
import time
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pp_simve.data import ImageData, load_data
from pp_simve.errors import ConfigError
from pp_simve.evaluation import OnlineProbe
from pp_simve.evaluation.records import Record, by_name
from pp_simve.inference import CheckpointError, Progress, Run, fit
from pp_simve.inference.device import DeviceError, choose_device
from pp_simve.inference.launching import launch
from pp_simve.inference.optimizers import OptimizerFactory
from pp_simve.inference.plan import total_steps
from pp_simve.inference.processes import ProcessError, Processes
from pp_simve.inference.progress_bar import status, watched
from pp_simve.models.schedules import Schedule
from pp_simve.report.outcome import write_outcome
from pp_simve.run.config import FitConfig, Settings, reading_options
from pp_simve.run.console import STOPPED, WRONG_INPUT, interruptible, plain
from pp_simve.run.environment import chosen_threads
from pp_simve.run.folder import RunFolder
from pp_simve.run.methods import Program, build
from pp_simve.run.named_parts import OPTIMIZERS, SCHEDULES, make_part
from pp_simve.run.numbers import counted
from pp_simve.run.tables import print_results
from pp_simve.run.tracking import TRACKERS, JSONLines, Several, Tracker
from pp_simve.run.trust import check_trusted, own_parts_of
from pp_simve.run.viewing import Viewing


def run_fit(config: FitConfig) -> int:
    """Loads the data, fits, evaluates and writes the run folder; the exit code."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # several processes announce themselves otherwise
    processes = Processes.of(config.device, config.devices, config.nodes)
    first_process = processes.first
    console = Console(quiet=config.quiet or not first_process, highlight=False)
    say = plain(console)
    if config.resume is not None and config.out is not None and RunFolder(config.out).finished:  # --resume auto
        say(f"{config.out} is finished; nothing to do")
        return 0
    if config.resume is not None and config.optimizer == "":
        raise ConfigError(
            f"{config.resume} was fitted from Python; resume it there: "
            f"fit(..., checkpoint=CheckpointFile(Path({str(config.resume / 'checkpoint.pt')!r})))"
        )
    if config.resume is not None and config.trust_parts:
        check_trusted(config.resume, config, True, notes=say)
    try:
        choose_device(config.device)  # fails before the data are loaded
    except DeviceError as error:
        if config.resume is None:
            raise
        raise ConfigError(
            f"{config.resume} was fitted on a GPU, and {error.args[0].partition(';')[0]}; resume it where "
            "there is one, or start a new run"
        ) from None
    data = load_data(config.data, config.data_root, **reading_options(config), progress=not console.quiet)
    for note in data.notes:
        console.print(f"note: {note}", markup=False)
    settings = config.resolve(data.shape)
    viewing = Viewing.of(settings, data.shape)
    torch.manual_seed(settings.seed)
    program = build(settings, data.shape)
    if settings.init and not (config.resume and RunFolder(config.resume).checkpoint.exists()):
        initial = RunFolder(Path(settings.init)).start(program.objective)
        say(initial)
    optimizer = make_part("optimizer", settings.optimizer, OPTIMIZERS, OptimizerFactory, settings.lr)
    schedule = make_part("schedule", settings.schedule, SCHEDULES, Schedule)

    folder = RunFolder(config.resume or config.out or _new_folder(settings))
    apart = config.resume is None and config.out is None
    writing = folder.writing("results.json", "report.html", new=config.resume is None, apart=apart)
    values = processes.share(settings.batch_size) * settings.views * math.prod(data.image_shape)
    fabric = launch(processes, config.device)
    with ExitStack() as stack:
        stack.enter_context(chosen_threads(values))
        path = None
        try:
            if first_process:
                path = stack.enter_context(writing).path
        finally:
            path = fabric.broadcast(path)  # the others have the folder from the first, or end with it
        if path is None:
            return WRONG_INPUT
        folder = RunFolder(path)
        trust = " --trust-parts" if own_parts_of(settings) else ""
        resume = f"--resume {folder.path}{trust}"
        tracker = _tracker(settings, folder, first_process)
        fitted = False
        steps_done = 0 if config.resume is None else _resumable_steps(folder, data)
        try:
            if config.resume is None and first_process:
                folder.create(settings, data.shape, data.fingerprint)
            say(_introduction(settings, data, program, folder))
            tracker.start(settings.to_json(), steps_done)
            run = _fit(settings, data, program, optimizer, schedule, viewing, folder, tracker, console)
            if not first_process:
                return 0
            if not run.finished:
                tracker.finish({})
                console.print(f"stopped at step {run.steps} of {run.total_steps}; go on with")
                say(f"  python -m pp_simve.fit {resume}")
                return STOPPED

            def show(results: dict[str, Any], records: list[Record]) -> None:
                print_results(results, records, console)
                tracker.finish(results | {"scores": by_name(records)})

            if processes.several:
                console.print("scores are computed by the first process alone")
            folder.write_weights(run.objective)
            fitted = True
            write_outcome(
                *(folder, run, program, viewing, data, settings),
                scored=config.evaluate == "quick",
                show=show,
                announce=partial(status, console),
            )
        except BaseException as error:
            tracker.finish({})  # whose files must be closed before they are discarded
            if config.resume is None and first_process:
                folder.discard()
            if isinstance(error, OSError | KeyboardInterrupt | ProcessError):
                if fitted:
                    error.add_note("the fit is finished, its scores and report may not be; go on with")
                    error.add_note(f"  python -m pp_simve.evaluate {folder.path}{trust}   (all scores), or")
                    error.add_note(f"  python -m pp_simve.fit {resume}   (quick scores, figures and map)")
                elif folder.checkpoint.exists():
                    error.add_note(f"nothing is lost up to the last checkpoint; go on with {resume}")
                elif config.resume is None and first_process:
                    error.add_note(f"there was no checkpoint yet, so nothing is left of {folder.path}")
            raise
        say(f"report: {folder.path / 'report.html'}")
        say(f"run folder: {folder.path}")
        return 0


def _fit(
    settings: Settings,
    data: ImageData,
    program: Program,
    optimizer: OptimizerFactory,
    schedule: Schedule,
    viewing: Viewing,
    folder: RunFolder,
    tracker: Tracker,
    console: Console,
) -> Run:
    watching = nullcontext(lambda progress: None) if console.quiet else watched(console)
    with watching as show, interruptible() as interruption:

        def monitor(progress: Progress) -> None:
            if progress.means:
                tracker.log(progress.means)
            show(progress)

        return fit(
            program.model,
            program.guide,
            data.images if viewing.modalities is None else viewing.images(data.train),
            objective=program.objective,
            policy=viewing.policy,
            views=settings.views,
            batch_size=settings.batch_size,
            epochs=settings.epochs or None,
            steps=settings.steps or None,
            optimizer=optimizer,
            schedule=schedule,
            clip_norm=settings.clip_norm or None,
            accumulate=settings.accumulate,
            ema=settings.ema or None,
            seed=settings.seed,
            device=settings.device,
            devices=settings.devices,
            nodes=settings.nodes,
            precision=settings.precision,
            monitor=monitor,
            observer=_probe(settings, data, program),
            should_stop=interruption,
            checkpoint=folder.checkpoint,
            checkpoint_minutes=settings.checkpoint_minutes,
            log_every=settings.log_every or None,
        )


def _probe(settings: Settings, data: ImageData, program: Program) -> OnlineProbe | None:
    """The probe that is logged while fitting, if one was asked for."""
    if not settings.probe:
        return None
    if data.train.labels is None or len(data.train.labeled()) < len(data.train):
        raise ConfigError(f"--probe {settings.probe} predicts the class, but images of {data.name} have no labels")
    try:
        return OnlineProbe(program.guide, data.train.labels, settings.probe)
    except ValueError as error:
        raise ConfigError(f"--probe {settings.probe}: {error}") from None


def _tracker(settings: Settings, folder: RunFolder, first_process: bool) -> Several:
    """metrics.jsonl and the trackers that were asked for, on the first process."""
    # Built on all processes, so that a wrong name ends all of them.
    asked = [make_part("track", text, TRACKERS, Tracker, folder.path) for text in dict.fromkeys(settings.track)]
    return Several([JSONLines(folder.path), *asked] if first_process else [])


def _resumable_steps(folder: RunFolder, data: ImageData) -> int:
    """The steps a run's checkpoint has done; other data are refused."""
    # `parse` checked whether its parts are trusted, and nothing is built here.
    if folder.read_config(trust_parts=True).fingerprint != data.fingerprint:
        raise ConfigError(
            f"the images of {data.name} are not those {folder.path} was started with; say where those are (--data, "
            "--data-root), or start a new run"
        )
    steps = folder.checkpoint.load().get("steps") if folder.checkpoint.exists() else 0
    if not isinstance(steps, int):
        raise CheckpointError(f"{folder.checkpoint.path} is of another program; start a new run")
    return steps


def _new_folder(settings: Settings) -> Path:
    kind, _, rest = settings.data.partition(":")
    name = f"{kind}-{Path(rest).stem}" if rest else kind
    method = re.sub(r"[^\w.+-]", "-", settings.method.partition("(")[0])
    return Path("runs") / f"{name}-{method}-{time.strftime('%Y%m%d-%H%M%S')}"


def _introduction(settings: Settings, data: ImageData, program: Program, folder: RunFolder) -> str:
    trained = (parameter for parameter in program.objective.parameters() if parameter.requires_grad)
    parameters = sum(parameter.numel() for parameter in trained)
    kinds = f" each of {settings.modalities}" if settings.modalities else ""
    steps_per_epoch = max(1, len(data.train) // (settings.batch_size * settings.accumulate))
    latents = program.model.prior.latent_dim
    steps = total_steps(settings.epochs or None, settings.steps or None, steps_per_epoch)
    return (
        f"{settings.method} on {data}\n"
        f"{parameters:,} parameters, {latents} latents, {settings.views} views{kinds} ({settings.policy}), "
        f"{counted(steps / steps_per_epoch, 'epoch')} ({counted(steps, 'step')}) of batches of {settings.batch_size}, "
        f"seed {settings.seed}\n"
        f"run folder: {folder.path}"
    )
