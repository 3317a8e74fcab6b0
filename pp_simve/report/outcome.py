"""What a fit leaves in its run folder when it has ended, and the saving of runs that were fitted from Python."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from pp_simve.data import DataShape, ImageData, ImageShape
from pp_simve.errors import ConfigError
from pp_simve.evaluation.records import Record
from pp_simve.evaluation.suite import Announce
from pp_simve.inference import Run
from pp_simve.inference.augmentations import POLICIES
from pp_simve.inference.metrics import fit_warnings
from pp_simve.inference.tools import random_state_kept
from pp_simve.models import SimVE
from pp_simve.models.distributed import is_first
from pp_simve.report.embedding import embed_test
from pp_simve.report.page import write_report
from pp_simve.run.config import FROM_PYTHON, FitConfig, Settings
from pp_simve.run.figures import run_figures
from pp_simve.run.folder import RunFolder
from pp_simve.run.methods import Program, own_program
from pp_simve.run.scores import images_in_words, most_scored, run_results, scored_images
from pp_simve.run.viewing import Viewing

_log = logging.getLogger(__name__)


def write_outcome(
    folder: RunFolder,
    run: Run,
    program: Program,
    viewing: Viewing,
    data: ImageData,
    settings: Settings,
    *,
    scored: bool = True,
    show: Callable[[dict[str, Any], list[Record]], None] = lambda results, records: None,
    announce: Announce = nullcontext,
) -> None:
    """Evaluates a fitted program and writes results, figures and page.

    Args:
        folder: has settings, metrics and weights.
        run: the fit.
        program: fitted.
        viewing: how views are drawn.
        data: what was fitted.
        settings: of the fit.
        scored: whether scores are computed.
        show: is given results and score records before they are written.
        announce: makes a context for each part of the work from what it is called.

    Raises:
        OSError: a file cannot be written.
    """
    most = most_scored(settings, data)
    shown = scored_images(data, most)
    results = run_results(run, program, viewing, shown, settings, most, scored=scored, announce=announce)
    results["scored"] = images_in_words(data, shown, most) if scored else ""
    history = folder.read_metrics()
    results["warnings"] = fit_warnings(history, settings.lr)
    show(results, [Record.from_json(entries) for entries in results["records"]])
    folder.write_results(results)
    with announce("figures"):
        for name, figure in run_figures(program, viewing, shown, history):
            folder.write_figure(name, figure)
    with announce("map of the report"):
        write_report(folder, embed_test(program, viewing, shown))


def save_run(
    run: Run,
    path: Path | str,
    data: ImageData | None = None,
    *,
    build: Callable[..., Any] | str | None = None,
    policy: str = "",
) -> RunFolder:
    """Saves a run that was fitted from Python as a run folder.

    Args:
        run: what `fit` returned.
        path: of the folder, which is made. It may hold the checkpoint of the fit, ``checkpoint.pt``, and nothing else.
        data: what `load_data` returned, where that was fitted. The run is then evaluated as by the command, and the
            page has its scores. Otherwise the folder has weights, metrics and settings, and ``evaluate`` and
            ``diagnose`` need ``--data``.
        build: function from the image shape to (model, guide) or (model, guide, objective) as they were built for the
            fit, or its ``"package.module:function"``. `load_run` and the commands import it, where you give
            ``--trust-parts``. Without it, `load_run` needs ``model=`` and ``guide=``, and the commands refuse the run.
        policy: that drew the views, as ``"package.module:Class(option=value)"``, where it is one of your own.

    Returns:
        The folder. Only the first of several processes writes it.

    Raises:
        ConfigError: the folder has something in it; other data than were fitted; ``build`` cannot be imported, or
            builds other programs.
        OSError: a file cannot be written.
    """
    folder = RunFolder(Path(path))
    if not is_first():
        return folder
    if data is not None:
        _check_data(run, data)
    shape, method = _shape(run, data), FROM_PYTHON
    if build is not None:
        method = build if isinstance(build, str) else _address(build)
        _check_build(method, run)
    policy = policy or _name(run, shape.image)
    settings = _settings(run, data, method, policy, shape)
    program = Program(run.model, run.guide, run.objective) if isinstance(run.model, SimVE) and policy else None
    if data is not None and program is None:
        _log.warning("note: %s is not evaluated: that needs a SimVE model and a policy by name (policy=)", path)
    with folder.writing(new=True, beside=folder.checkpoint.path.name):
        try:
            folder.append_metrics(run.history)
            folder.write_weights(run.objective)
            folder.create(settings, shape, "" if data is None else data.fingerprint)
        except BaseException:
            for name in ("metrics.jsonl", "model.safetensors", "config.json"):
                (folder.path / name).unlink(missing_ok=True)
            raise
        if data is not None and program is not None:
            write_outcome(folder, run, program, Viewing.of(settings, shape), data, settings)
        else:
            write_report(folder)
    return folder


def _settings(run: Run, data: ImageData | None, method: str, policy: str, shape: DataShape) -> Settings:
    """The settings of a run as the command line would have them; what has no name there is empty."""
    fitted = run.settings
    rates = fitted["lr"]
    config = FitConfig(
        **{"data": "", **({} if data is None else data.source)},
        method=method,
        policy=policy,
        views=run.views,
        batch_size=fitted["batch_size"],
        accumulate=fitted["accumulate"],
        steps=fitted["total_steps"],
        optimizer="",
        schedule="",
        lr=rates[0] if isinstance(rates, list) else rates,
        clip_norm=fitted["clip_norm"],
        ema=fitted["ema"],
        seed=fitted["seed"],
    )
    return config.resolve(shape)


def _shape(run: Run, data: ImageData | None) -> DataShape:
    shapes = list(run.image_shape.values()) if isinstance(run.image_shape, dict) else [run.image_shape]
    return data.shape if data is not None else DataShape(shapes[0], images=run.settings["images"])


def _check_data(run: Run, data: object) -> None:
    fitted = f"{run.settings['images']} images of shape {run.image_shape}"
    if not isinstance(data, ImageData):
        raise ConfigError(f"data is what load_data returned, got {type(data).__name__}; for arrays, leave it out")
    if (given := f"{len(data.train)} images of shape {data.image_shape}") != fitted:
        raise ConfigError(f"the run was fitted to {fitted}, but data has {given}; give what was fitted")


def _name(run: Run, shape: ImageShape) -> str:
    """The name of the policy that drew the views; empty where it has none, or views are of several modalities."""
    for name, make in POLICIES.items():
        try:
            if make(shape) == run.policy:
                return name
        except ValueError:  # a policy for other images
            continue
    return ""


def _address(build: Callable[..., Any]) -> str:
    """``package.module:function`` of a function."""
    module, name = getattr(build, "__module__", None), getattr(build, "__qualname__", "")
    if module in (None, "__main__") or not name.isidentifier():
        raise ConfigError(
            f"build={name or build} of {module} cannot be imported elsewhere: put the function into a module, a file "
            'such as my_programs.py, and pass my_programs.build or "my_programs:build"; or leave it out, and pass '
            "model and guide to load_run"
        )
    return f"{module}:{name}"


def _check_build(method: str, run: Run) -> None:
    """Refuses a function that builds other programs than those of the run."""
    with random_state_kept(torch.device("cpu")):
        built = own_program(method, run.image_shape).objective.state_dict()
    own: Mapping[str, torch.Tensor] = run.objective.state_dict()
    different = [name for name in {**own, **built} if name not in own or name not in built]
    different += [name for name, value in built.items() if name in own and own[name].shape != value.shape]
    if different:
        raise ConfigError(
            f"build={method} makes other programs than those of the run: {different[0]} is not of the same shape in "
            f"both ({len(different)} of {len(own)} weights differ)"
        )
