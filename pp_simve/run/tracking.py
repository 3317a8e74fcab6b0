"""Where a run's numbers go while it is fitted: files in its folder always, TensorBoard, W&B or one's own on request."""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pp_simve.errors import ConfigError
from pp_simve.inference.tools import write_whole
from pp_simve.run.folder import RunFolder

Row = Mapping[str, float]
"""The terms of one step by name, and ``step``, counted from 1."""


@runtime_checkable
class Tracker(Protocol):
    """Is told of a run as it goes, on its first process only. Built from the run's folder and its own options.

    A class of one's own with these three methods works from the command line, ``--track package.module:Class``; derived
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


class CSVFile(Tracker):
    """metrics.csv in the run's folder: a row a step under a header of the terms' names, numbers in full.

    A term that appears later, in a run resumed with more to observe, becomes a new column, empty in the rows before.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.csv"
        self._names: list[str] = []

    def start(self, config: Mapping[str, Any], steps: int) -> None:
        if self.path.exists():
            self._write([row for row in self._rows() if int(row["step"]) <= steps])

    def log(self, rows: Sequence[Row]) -> None:
        text = io.StringIO()
        if not self._names:
            self._names = list(rows[0])
            self._writer(text).writeheader()
        elif new := [name for name in rows[0] if name not in self._names]:
            before = self._rows()
            self._names += new
            self._write(before)
        self._writer(text).writerows(rows)
        with self.path.open("a") as file:
            file.write(text.getvalue())

    def finish(self, results: Mapping[str, Any]) -> None:
        pass

    def _rows(self) -> list[dict[str, str]]:
        """The rows there are, without half a line at the end."""
        whole, _, _ = self.path.read_text().rpartition("\n")
        reader = csv.DictReader(io.StringIO(whole))
        rows = list(reader)
        self._names = list(reader.fieldnames or ())
        return rows

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replaces the file, by nothing where not even the header was whole."""
        text = io.StringIO()
        if self._names:
            writer = self._writer(text)
            writer.writeheader()
            writer.writerows(rows)
        write_whole(self.path, text.getvalue().encode())

    def _writer(self, text: io.StringIO) -> csv.DictWriter[str]:
        return csv.DictWriter(text, self._names, lineterminator="\n")


class TensorBoard(Tracker):
    """Curves for ``tensorboard --logdir RUN``, in the folder's ``tensorboard``; results as scalars ``results/…``.

    Args:
        folder: the run's.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tensorboard"
        self._library = _optional("torch.utils.tensorboard", "TensorBoard")
        self._writer: Any = None
        self._step = 0

    def start(self, config: Mapping[str, Any], steps: int) -> None:
        self._step = steps
        self._writer = self._library.SummaryWriter(log_dir=str(self.folder), purge_step=steps + 1)
        self._writer.add_text("config", f"```json\n{json.dumps(config, indent=2)}\n```")

    def log(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._step = int(row["step"])
            for name, value in row.items():
                if name != "step":
                    self._writer.add_scalar(name, value, self._step)

    def finish(self, results: Mapping[str, Any]) -> None:
        for name, value in numbers(results):
            self._writer.add_scalar(f"results/{name}", value, self._step)
        self._writer.close()


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
"""What ``--track`` knows by name; JSON lines and CSV are written in any case."""


def numbers(results: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The finite numbers among nested results, by names like ``knows/z/linear``."""
    for name, value in results.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{prefix}{name}", value


def _optional(module: str, tracker: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{tracker} cannot be used ({error}); pip install 'pp_simve[tracking]'") from error
