"""The folder of a run: its paths, reading and writing (`RunFolder`), and the fitted program (`load_run`)."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import pp_simve
from pp_simve.data import DataShape, ImageData, load_data
from pp_simve.errors import ConfigError
from pp_simve.inference.checkpoint import CheckpointFile
from pp_simve.inference.tools import write_whole
from pp_simve.run.config import Settings, read_config, reading_options
from pp_simve.run.methods import Program, build
from pp_simve.run.trust import check_trusted
from pp_simve.run.viewing import Viewing


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run, and reading and writing what lies there. Files are written whole or not at all.

    config.json, metrics.jsonl (a line a step), model.safetensors, checkpoint.pt, results.json,
    figures/, report.html and what its map is drawn from, map.safetensors; later evaluation.json, diagnostics.json and
    posterior.nc.
    """

    path: Path

    @property
    def checkpoint(self) -> CheckpointFile:
        """The state to go on from."""
        return CheckpointFile(self.path / "checkpoint.pt")

    def create(self, settings: Settings, shape: DataShape, fingerprint: str) -> list[Path]:
        """Makes the folder and writes the settings.

        Returns:
            The folders made for it, innermost first: `discard` takes them away again.

        Raises:
            ConfigError: the folder exists and has something in it.
            OSError: it cannot be made.
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ConfigError(
                f"{self.path} exists and is not empty; choose another --out, or go on with --resume {self.path}"
            )
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        entries = {
            "version": pp_simve.__version__,
            "commit": source_commit(),
            "torch": torch.__version__,
            "data_fingerprint": fingerprint,
            "data_shape": dataclasses.asdict(shape),
            "config": settings.to_json(),
        }
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_json("config.json", entries)
        except BaseException as error:
            self.discard(made)
            error.add_note(f"the run folder {self.path} was not made")
            raise
        return made

    def discard(self, made: Iterable[Path]) -> None:
        """Removes what `create` and the run made, if the run got no further than its settings."""
        if self.checkpoint.exists():
            return
        made = list(made)
        shutil.rmtree(self.path, ignore_errors=True)
        if self.path not in made:
            self.path.mkdir(exist_ok=True)  # an empty folder that was there before stays
        for folder in made:
            with suppress(OSError):  # gone already, or in use by another run
                folder.rmdir()

    def read_settings(self, *, trust_parts: bool = False) -> tuple[Settings, str]:
        """The run's settings and the fingerprint of its data.

        Args:
            trust_parts: allows settings that name parts of a user's own (``package.module:Class``), whose modules are
                imported when the settings are used.

        Raises:
            ConfigError: no run folder, or a damaged one, or one of another version; parts that are not trusted.
        """
        entries = self._entries()
        settings = Settings.from_json(entries["config"])
        check_trusted(self.path, settings, trust_parts)
        return settings, str(entries["data_fingerprint"])

    def read_shape(self) -> DataShape:
        """The shape of the run's data.

        Raises:
            ConfigError: no run folder, or a damaged one.
        """
        given = self._entries()["data_shape"]
        try:
            return DataShape(**given | {"image": tuple(given["image"])})
        except (TypeError, KeyError) as error:
            raise ConfigError(f"{self.path / 'config.json'} holds no data_shape ({error})") from None

    def read_weights(self) -> dict[str, Tensor]:
        """The parameters and buffers of model, guide and objective, by name.

        Raises:
            ConfigError: the run has no weights yet, or they are damaged.
        """
        weights = self.path / "model.safetensors"
        try:
            return safetensors.torch.load_file(weights)
        except FileNotFoundError:
            raise ConfigError(
                f"{self.path} is not finished: it has no {weights.name}; go on with --resume {self.path}"
            ) from None
        except safetensors.SafetensorError as error:
            raise _damaged(weights, error) from None

    def write_weights(self, objective: nn.Module) -> None:
        """Writes the parameters and buffers of model, guide and objective."""
        # Model and guide share their prior: safetensors wants no two names for the same memory.
        state = {name: value.detach().cpu().contiguous().clone() for name, value in objective.state_dict().items()}
        write_whole(self.path / "model.safetensors", safetensors.torch.save(state))

    def append_metrics(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Adds a line for each step."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def read_metrics(self) -> list[dict[str, float]]:
        """The terms of every step so far.

        Raises:
            ConfigError: the file is damaged.
        """
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        try:
            rows = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
            if not all("step" in row and all(isinstance(value, int | float) for value in row.values()) for row in rows):
                raise ValueError("expected numbers by name, and the step, on every line")
        except ValueError as error:
            raise ConfigError(f"{path} is damaged ({error}); delete it, and the report has no curves") from None
        return rows

    def truncate_metrics(self, steps: int) -> None:
        """Forgets steps after the checkpoint's, which a resumed run takes again."""
        kept = "".join(json.dumps(row) + "\n" for row in self.read_metrics() if row["step"] <= steps)
        write_whole(self.path / "metrics.jsonl", kept.encode())

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Writes results.json; NaN becomes null, which JSON knows."""
        self._write_json("results.json", _without_nan(results))

    def write_figure(self, name: str, figure: Figure) -> None:
        """Writes figures/NAME.png."""
        folder = self.path / "figures"
        folder.mkdir(exist_ok=True)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi="figure")  # sheets are laid out in whole pixels
        write_whole(folder / f"{name}.png", picture.getvalue())

    def _entries(self) -> dict[str, Any]:
        entries = read_config(self.path / "config.json")
        if missing := {"config", "data_fingerprint", "data_shape"} - set(entries):
            raise ConfigError(
                f"{self.path / 'config.json'} lacks {', '.join(sorted(missing))}; the run folder is damaged"
            )
        return entries

    def _write_json(self, name: str, entries: Mapping[str, Any]) -> None:
        write_whole(self.path / name, (json.dumps(entries, indent=2, allow_nan=False) + "\n").encode())


@dataclass(frozen=True)
class FittedRun:
    """A finished run.

    Attributes:
        folder: its files.
        settings: of the fit.
        program: fitted, in evaluation mode.
        data: the images, with their splits.
        viewing: how views are drawn.
    """

    folder: RunFolder
    settings: Settings
    program: Program
    data: ImageData
    viewing: Viewing


Load = Callable[..., ImageData]
"""`pp_simve.data.load_data`, or a loader called as it is."""


def load_once() -> Load:
    """A loader that keeps the last data: runs that are read together are mostly of the same images."""

    return lru_cache(maxsize=1)(load_data)


def load_run(path: Path | str, *, trust_parts: bool = False) -> Program:
    """The fitted model, guide and objective of a run, in evaluation mode, on the CPU.

    Args:
        path: of the run folder.
        trust_parts: allows the import of parts of a user's own (``package.module:Class``) that the settings name.

    Raises:
        ConfigError: the run has no weights yet, or they are damaged or do not fit its settings; parts that are not
            trusted.
    """
    folder = RunFolder(Path(path))
    settings, _ = folder.read_settings(trust_parts=trust_parts)
    program = build(settings, folder.read_shape())
    state = folder.read_weights()
    try:
        program.objective.load_state_dict(state)
    except RuntimeError as error:
        raise _damaged(folder.path / "model.safetensors", error) from None
    program.objective.eval()
    return program


def load_fitted(
    folder: RunFolder,
    device: torch.device,
    images: Load,
    data_root: Path | None = None,
    *,
    trust_parts: bool = False,
) -> FittedRun:
    """A finished run with the images it was fitted to.

    Args:
        folder: of the run.
        device: where to put the program.
        images: loads the data.
        data_root: where they are, if elsewhere than for the fit.
        trust_parts: as in `load_run`.

    Raises:
        ConfigError: a run that is damaged or not finished, or other images than it was fitted to; parts that are not
            trusted.
        DataError: the images cannot be loaded.
    """
    settings, fingerprint = folder.read_settings(trust_parts=trust_parts)
    program = load_run(folder.path, trust_parts=trust_parts)
    data = images(settings.data, data_root or settings.data_root, **reading_options(settings))
    if data.fingerprint != fingerprint:
        raise ConfigError(
            f"the images of {data.name} are not those {folder.path} was fitted to ({data.fingerprint}, expected "
            f"{fingerprint}); give back the old ones, or fit again"
        )
    program.objective.to(device)
    return FittedRun(folder, settings, program, data, Viewing.of(settings, data.shape))


def source_commit() -> str | None:
    """The commit of the package's source, with ``+`` where it was changed since; None outside a git checkout of it."""
    source = Path(pp_simve.__file__)

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        # An installed copy may lie inside somebody else's repository, whose commit says nothing about it.
        git("ls-files", "--error-unmatch", source.name)
        return git("describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+") or None
    except (OSError, subprocess.SubprocessError):
        return None


def _damaged(weights: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{weights} cannot be loaded ({str(error).splitlines()[0]}); the run folder is damaged")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
