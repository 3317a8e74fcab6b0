"""The folder of a run: its paths, reading and writing (`RunFolder`), and the fitted program (`load_run`)."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import math
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import pp_simve
from pp_simve.data import DataShape, ImageData, load_data
from pp_simve.errors import ConfigError
from pp_simve.inference import ELBO, CheckpointFile, Guide
from pp_simve.inference.sealing import BLANK, SEAL, read_sealed, sealed
from pp_simve.inference.tools import random_state_kept, write_whole
from pp_simve.models import SimVE
from pp_simve.run.config import Settings, reading_options
from pp_simve.run.files import read_json, write_json
from pp_simve.run.hub import run_path
from pp_simve.run.loaded import LoadedRun, fitting
from pp_simve.run.lock import is_own, locked
from pp_simve.run.methods import Program, build
from pp_simve.run.trust import Notes, check_trusted, unsaid
from pp_simve.run.viewing import Viewing

CHECKSUM = "crc32"
"""Entry of each line of metrics.jsonl."""

_log = logging.getLogger(__name__)


class StoredConfig(NamedTuple):
    """What config.json tells of a run."""

    settings: Settings
    fingerprint: str
    shape: DataShape


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run, and reading and writing what lies there. Files are written whole or not at all.

    config.json, metrics.jsonl (a line a step), model.safetensors, checkpoint.pt, results.json,
    figures/, report.html and what its map is drawn from, map.safetensors; later evaluation.json, diagnostics.json and
    posterior.nc. All but the page have checksums, which are verified when they are read.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))  # a text will do

    @property
    def checkpoint(self) -> CheckpointFile:
        """The state to go on from."""
        return CheckpointFile(self.path / "checkpoint.pt")

    @property
    def started(self) -> bool:
        """Whether there is anything but what a process left that was killed before it wrote the settings."""
        return self._has_others()

    def _has_others(self, beside: str = "") -> bool:
        if not self.path.is_dir():
            return self.path.exists()
        return not all(is_own(path) or path.name == beside for path in self.path.iterdir())

    @property
    def finished(self) -> bool:
        """Whether a fit wrote everything up to the page, which it writes last."""
        return all((self.path / name).exists() for name in ("results.json", "report.html"))

    @contextmanager
    def writing(self, *files: str, new: bool = False, apart: bool = False, beside: str = "") -> Iterator[RunFolder]:
        """Context in which this process alone writes to the run.

        Args:
            files: that will be written, so that they are known to be no folders before anything is computed.
            new: makes the folder; what is still empty at the end is removed again.
            apart: numbers a new folder whose name is taken.
            beside: name of a file that a new folder may have.

        Yields:
            The run folder, with its number.

        Raises:
            ConfigError: another process writes to the run; the folder has something in it where it is to be new, has
                no run where it is not, or cannot be written to.
            OSError: the folder cannot be made.
        """
        if not new:
            self._entries()
        elif self._has_others(beside) and not apart:
            raise self._taken()
        made = [folder for folder in (self.path, *self.path.parents) if new and not folder.exists()]
        folder = self
        try:
            if new:
                folder = self._made_apart() if apart else self
                made = [folder.path, *made] if apart else made
                folder.path.mkdir(parents=True, exist_ok=True)
            with locked(folder.path):
                if new and folder._has_others(beside):
                    raise self._taken()
                if taken := [name for name in files if (folder.path / name).is_dir()]:
                    raise ConfigError(f"{folder.path / taken[0]} is a folder, expected a file; remove it")
                yield folder
        finally:
            for path in made:
                with suppress(OSError):  # not empty
                    path.rmdir()

    def _made_apart(self) -> RunFolder:
        """A folder of this name, or of this name and a number, that no other process made."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = RunFolder(self.path.with_name(f"{self.path.name}-{number}" if number > 1 else self.path.name))
            try:
                folder.path.mkdir()
                return folder
            except FileExistsError:
                continue
        raise AssertionError

    def create(self, settings: Settings, shape: DataShape, fingerprint: str) -> None:
        """Writes the settings, which makes the folder a run.

        Raises:
            OSError: they cannot be written.
        """
        entries = {
            "version": pp_simve.__version__,
            "commit": source_commit(),
            "torch": torch.__version__,
            "data_fingerprint": fingerprint,
            "data_shape": dataclasses.asdict(shape),
            "config": settings.to_json(),
        }
        try:
            write_json(self.path / "config.json", entries)
        except BaseException as error:
            error.add_note(f"the run folder {self.path} was not made")
            raise

    def discard(self) -> None:
        """Removes all files of a run that got no further than its settings; the folder itself stays."""
        if self.checkpoint.exists():
            return
        for path in self.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()

    def read_config(self, *, trust_parts: bool = False, notes: Notes = unsaid) -> StoredConfig:
        """The run's settings, and fingerprint and shape of its data.

        Args:
            trust_parts: allows settings that name parts of a user's own (``package.module:Class``), whose modules are
                imported when the settings are used.
            notes: called with what such settings import.

        Raises:
            ConfigError: no run folder, or a damaged one, or one of another version; parts that are not trusted.
        """
        entries = self._entries()
        given = entries["data_shape"]
        names = [entry.name for entry in dataclasses.fields(DataShape) if entry.name in given]
        if len(given["image"]) != 3:
            raise ConfigError(f"{self.path / 'config.json'} is damaged (data_shape.image has not 3 numbers); fit again")
        shape = DataShape(**{name: given[name] for name in names} | {"image": tuple(given["image"])})
        settings = Settings.from_json(entries["config"])
        check_trusted(self.path, settings, trust_parts, notes=notes)
        return StoredConfig(settings, str(entries["data_fingerprint"]), shape)

    def read_weights(self) -> dict[str, Tensor]:
        """The parameters and buffers of model, guide and objective, by name.

        Raises:
            ConfigError: the run has no weights yet, or they are damaged.
        """
        weights = self.path / "model.safetensors"
        try:
            return safetensors.torch.load(read_sealed(weights))
        except FileNotFoundError:
            raise ConfigError(
                f"{self.path} is not finished: it has no {weights.name}; go on with "
                f"python -m pp_simve.fit --resume {self.path}"
            ) from None
        except (safetensors.SafetensorError, ValueError) as error:
            raise _damaged(weights, error) from None

    def start(self, objective: nn.Module) -> str:
        """Copies the run's weights into another program, where names and shapes match; in words, which.

        Raises:
            ConfigError: no weights, or none that match.
        """
        self._entries()  # a folder that is no run is named as such
        stored, own = self.read_weights(), objective.state_dict()
        common = {name: value for name, value in stored.items() if name in own and own[name].shape == value.shape}
        if not common:
            raise ConfigError(
                f"--init {self.path}: none of its {len(stored)} weights has the name and shape of one of this program; "
                "give the run the same encoder, decoder, latent_dim and image size, or another --init"
            )
        objective.load_state_dict(common, strict=False)
        others = [name for name in own if name not in common]
        rest = f"; it has none for {', '.join(others)}" if others else ""
        return f"{len(common)} of {len(own)} weights are those of {self.path}{rest}"

    def write_weights(self, objective: nn.Module) -> None:
        """Writes the parameters and buffers of model, guide and objective."""
        # Model and guide share their prior: safetensors wants no two names for the same memory.
        state = {name: value.detach().cpu().contiguous().clone() for name, value in objective.state_dict().items()}
        write_whole(self.path / "model.safetensors", sealed(safetensors.torch.save(state, {SEAL: BLANK})))

    def append_metrics(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Adds a line for each step, with a checksum of the line without it."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.writelines(map(_line, rows))

    def read_metrics(self) -> list[dict[str, float]]:
        """The terms of every step so far, in order, each step once; damaged lines are left out, with a warning."""
        path = self.path / "metrics.jsonl"
        *lines, _ = path.read_bytes().split(b"\n") if path.exists() else [b""]  # behind the last one, half a line
        found = list(map(_row, lines))
        # Only runs of earlier versions have lines without a checksum.
        checked = any(one is not None and one.checked for one in found)
        rows = [one.terms for one in found if one is not None and one.checked >= checked]
        if damaged := len(lines) - len(rows):
            _log.warning("note: %s: %d of %d lines are damaged and left out", path, damaged, len(lines))
        return [row for _, row in sorted({row["step"]: row for row in reversed(rows)}.items())]

    def truncate_metrics(self, steps: int) -> None:
        """Forgets steps after the checkpoint's, which a resumed run takes again."""
        kept = "".join(_line(row) for row in self.read_metrics() if row["step"] <= steps)
        write_whole(self.path / "metrics.jsonl", kept.encode())

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Writes results.json; NaN becomes null, which JSON knows."""
        write_json(self.path / "results.json", results)

    def write_figure(self, name: str, figure: Figure) -> None:
        """Writes figures/NAME.png."""
        folder = self.path / "figures"
        folder.mkdir(exist_ok=True)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi="figure")  # sheets are laid out in whole pixels
        write_whole(folder / f"{name}.png", picture.getvalue())

    def _entries(self) -> dict[str, Any]:
        path = self.path / "config.json"
        if not path.exists() and self.path.is_dir() and not self.started:
            raise ConfigError(
                f"{self.path} is no run folder: it has no {path.name}; --out {self.path} starts a run there"
            )
        entries = read_json(path)
        if missing := {"config", "data_fingerprint", "data_shape"} - set(entries):
            raise ConfigError(f"{path} lacks {', '.join(sorted(missing))}; the run folder is damaged")
        return entries

    def _taken(self) -> ConfigError:
        return ConfigError(
            f"{self.path} exists and is not empty; choose another --out, or go on with --resume {self.path}"
        )


class _Row(NamedTuple):
    terms: dict[str, float]
    checked: bool


def _line(row: Mapping[str, float]) -> str:
    return json.dumps({**row, CHECKSUM: zlib.crc32(json.dumps(row).encode())}) + "\n"


def _row(line: bytes) -> _Row | None:
    """The terms of a line of metrics.jsonl; None where it is damaged."""
    try:
        row = json.loads(line)
        checksum = row.pop(CHECKSUM, None)
        if type(row["step"]) is not int or not all(
            type(value) in (int, float) and math.isfinite(value) for value in row.values()
        ):
            raise ValueError("expected finite numbers by name")
        if checksum not in (None, zlib.crc32(json.dumps(row).encode())):
            raise ValueError("checksum")
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    return _Row(row, checksum is not None)


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

    def untrained(self) -> Guide:
        """The guide as it was before the fit, with parameters of the run's seed."""
        device = next(self.program.objective.parameters()).device
        with random_state_kept(device):
            torch.manual_seed(self.settings.seed)
            return build(self.settings, self.data.shape).guide.to(device)


Load = Callable[..., ImageData]
"""`pp_simve.data.load_data`, or a loader called as it is."""


def load_once(*, progress: bool = True) -> Load:
    """A loader that keeps the last data: runs that are read together are mostly of the same images."""
    return lru_cache(maxsize=1)(partial(load_data, progress=progress))


def load_run(
    path: Path | str,
    *,
    model: SimVE | None = None,
    guide: Guide | None = None,
    objective: nn.Module | None = None,
    trust_parts: bool = False,
    notes: Notes = unsaid,
) -> LoadedRun:
    """The fitted model, guide and objective of a run, in evaluation mode, on the CPU.

    Args:
        path: of the run folder, or ``hub:OWNER/NAME[@REVISION]``, a run on the Hugging Face Hub.
        model: of a run saved from Python without ``build=``, as it was built for the fit; the weights are copied into
            it. Other runs build their own.
        guide: likewise.
        objective: likewise, by default ``ELBO(model, guide)``.
        trust_parts: allows the import of parts of a user's own (``package.module:Class``) that the settings name.
        notes: called with what is imported for them.

    Raises:
        ConfigError: the run has no weights yet, or they are damaged or do not fit its settings or the given programs;
            parts that are not trusted; a run that cannot be downloaded.
    """
    if (model is None) != (guide is None) or (model is None and objective is not None):
        raise ConfigError("load_run takes model and guide together, and an objective with them only")
    folder = RunFolder(run_path(path))
    given = None
    if model is not None and guide is not None:
        given = Program(model, guide, objective if objective is not None else ELBO(model, guide))
    # What is given needs no import of what the settings name.
    stored = folder.read_config(trust_parts=trust_parts or given is not None, notes=notes if given is None else unsaid)
    program = given or build(stored.settings, stored.shape)
    state = folder.read_weights()
    try:
        program.objective.load_state_dict(state)
    except RuntimeError as error:
        if given is not None:
            raise ConfigError(f"the given programs are not those of {folder.path}: {error}") from None
        raise _damaged(folder.path / "model.safetensors", error) from None
    program.objective.eval()
    return LoadedRun(program.model, program.guide, program.objective, folder.path, *stored)


def load_fitted(
    folder: RunFolder,
    device: torch.device,
    images: Load,
    data_root: Path | None = None,
    *,
    source: str | None = None,
    on: str | None = None,
    trust_parts: bool = False,
    notes: Notes = unsaid,
) -> FittedRun:
    """A finished run with the images it was fitted to, or with others.

    Args:
        folder: of the run.
        device: where to put the program.
        images: loads the data.
        data_root: where data sets are, if elsewhere than for the fit.
        source: the data, such as ``folder:PATH``, if they have moved.
        on: other data than those of the fit; their images are resized to its.
        trust_parts: as in `load_run`.
        notes: likewise.

    Raises:
        ConfigError: a run that is damaged or not finished, or other images than it was fitted to; parts that are not
            trusted.
        DataError: the images cannot be loaded.
    """
    program = load_run(folder.path, trust_parts=trust_parts, notes=notes)
    settings, fingerprint = program.settings, program.fingerprint
    options, root = reading_options(settings), data_root or settings.data_root
    if on is not None:
        side = "x".join(map(str, program.shape.image[1:]))
        data = fitting(images(on, root, **options | {"image_size": side}), program.shape.image)
    else:
        data = images(program.named_data(source), root, **options)
        if fingerprint and data.fingerprint != fingerprint:
            raise ConfigError(
                f"the images of {data.name} are not those {folder.path} was fitted to ({data.fingerprint}, expected "
                f"{fingerprint}); say where those are (--data, --data-root), or fit again"
            )
        if data.shape != program.shape if fingerprint else data.image_shape != program.shape.image:
            config = folder.path / "config.json"
            raise ConfigError(f"{config} holds the shape of other images than {data.name}; fit again")
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
