"""Trackers of a run's metrics: metrics.jsonl always; TensorBoard, W&B or a user's own on request."""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning_fabric.loggers.tensorboard import TensorBoardLogger

from pp_simve.errors import ConfigError
from pp_simve.run.folder import RunFolder

Row = Mapping[str, float]
"""The terms of one step by name, and ``step``, counted from 1."""


@runtime_checkable
class Tracker(Protocol):
    """Receives the metrics of a run as it goes, on its first process only. Built from the run's folder and its options.

    A user's class with these three methods works from the command line, ``--track package.module:Class``; derived
    from this one, it needs only those that do something.
    """

    def start(self, config: Mapping[str, Any], steps: int) -> None:
        """Before the first step; the run's folder exists.

        Args:
            config: the run's settings, as in config.json.
            steps: done before, where a run is resumed; what was logged of later ones is forgotten, they are done again.
        """

    def log(self, rows: Sequence[Row]) -> None:
        """Each time metrics are fetched, with the steps since the last time, at least one, in order."""

    def finish(self, results: Mapping[str, Any]) -> None:
        """At the end, with what results.json holds; with nothing where the run was stopped or failed."""


class JSONLines(Tracker):
    """metrics.jsonl in the run's folder: a line a step.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = RunFolder(folder)

    def start(self, config: Mapping[str, Any], steps: int) -> None:
        if (self.folder.path / "metrics.jsonl").exists():
            self.folder.truncate_metrics(steps)

    def log(self, rows: Sequence[Row]) -> None:
        self.folder.append_metrics(rows)

    def finish(self, results: Mapping[str, Any]) -> None:
        pass


class TensorBoard(Tracker):
    """Curves for ``tensorboard --logdir RUN``, in the folder's ``tensorboard``; results as scalars ``results/…``.

    Args:
        folder: the run's.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        _optional("torch.utils.tensorboard", "TensorBoard")
        self.folder = folder
        self._step = 0

    def start(self, config: Mapping[str, Any], steps: int) -> None:
        self._step = steps
        # Steps after those of the checkpoint are taken again: the curves drop them.
        self._logger = TensorBoardLogger(self.folder, "tensorboard", version="", purge_step=steps + 1)
        self._logger.experiment.add_text("config", f"```json\n{json.dumps(config, indent=2)}\n```")

    def log(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._step = int(row["step"])
            self._logger.log_metrics({name: value for name, value in row.items() if name != "step"}, self._step)

    def finish(self, results: Mapping[str, Any]) -> None:
        self._logger.log_metrics({f"results/{name}": value for name, value in numbers(results)}, self._step)
        self._logger.experiment.close()


class WandB(Tracker):
    """Weights & Biases: curves, settings and, as the summary, results.

    By default nothing leaves the machine, nor is anything printed: the run is kept in the folder's ``wandb``, for
    ``wandb sync``. (W&B would report its own errors even so: ``WANDB_ERROR_REPORTING`` is set to false in the
    environment, unless it is set already.) A resumed run is one more of W&B's in the group of the folder's name; steps
    done twice are in both. A run that was stopped, or failed, ends there with exit code 1.

    Args:
        folder: the run's.
        project: of W&B's.
        online: sends the run to W&B as it goes.

    Raises:
        ImportError: wandb is not installed.
        ConfigError: by `start`, W&B does not take the run, such as without a login.
    """

    def __init__(self, folder: Path, project: str = "pp_simve", online: bool = False) -> None:
        self.folder = folder
        self.project = project
        self.online = online
        if not online:
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # before the import, which reads it
        self._library = _optional("wandb", "WandB")
        self._run: Any = None

    def start(self, config: Mapping[str, Any], steps: int) -> None:
        try:
            self._run = self._library.init(
                project=self.project,
                name=self.folder.resolve().name,
                group=self.folder.resolve().name,
                dir=str(self.folder),
                mode="online" if self.online else "offline",
                config=dict(config),
                # The terminal belongs to the fit: W&B neither copies what is printed there nor, offline, prints.
                settings=self._library.Settings(console="off", silent=not self.online),
            )
        except self._library.Error as error:
            raise ConfigError(
                f"W&B did not take the run ({error}); `wandb login`, or leave out online=True and `wandb sync` later"
            ) from error

    def log(self, rows: Sequence[Row]) -> None:
        for row in rows:
            terms = {name: value for name, value in row.items() if name != "step"}
            self._run.log(terms, step=int(row["step"]))

    def finish(self, results: Mapping[str, Any]) -> None:
        self._run.summary.update({f"results/{name}": value for name, value in numbers(results)})
        self._run.finish(exit_code=0 if results else 1)


class Several(Tracker):
    """All of them; each is finished, even if another fails to be.

    Args:
        trackers: told in this order.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = list(trackers)
        self._started: list[Tracker] = []

    def start(self, config: Mapping[str, Any], steps: int) -> None:
        for tracker in self.trackers:
            tracker.start(config, steps)
            self._started.append(tracker)

    def log(self, rows: Sequence[Row]) -> None:
        for tracker in self.trackers:
            tracker.log(rows)

    def finish(self, results: Mapping[str, Any]) -> None:
        started, self._started = self._started, []
        with ExitStack() as stack:
            for tracker in reversed(started):
                stack.callback(tracker.finish, results)


TRACKERS: Mapping[str, Callable[..., Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB}
"""Trackers of ``--track`` by name; metrics.jsonl is written in any case."""


def numbers(results: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The finite numbers among nested results, by names like ``content/linear``."""
    for name, value in results.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{prefix}{name}", value


def _optional(module: str, tracker: str) -> Any:
    try:
        found = importlib.import_module(module)
        if hasattr(found, "__path__") and getattr(found, "__file__", None) is None:  # a namespace
            raise ImportError(f"it is not installed, and {next(iter(found.__path__))} is a folder without it")
        return found
    except ImportError as error:
        raise ImportError(f"{tracker} cannot be used ({error}); pip install 'pp_simve[tracking]'") from error
