"""The fits of a comparison: planned and checked before anything is fitted."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pp_simve.data import DataShape
from pp_simve.errors import ConfigError
from pp_simve.inference.device import choose_device
from pp_simve.run.config import FitConfig, Settings, reading_options
from pp_simve.run.folder import RunFolder, load_once
from pp_simve.run.methods import build
from pp_simve.run.trust import Notes, check_trusted, own_parts_of, unsaid
from pp_simve.run.viewing import Viewing

ALIKE = ("views", "policy", "encoder", "modalities")
"""Settings that runs of one table have in common, beside the images themselves."""


LIBRARIES = ("pp_simve.commands.run_fit", "pp_simve.report.plots")
"""Modules that import what a fit needs."""


@dataclass(frozen=True)
class PlannedFit:
    """A fit of a row of the table, finished or not.

    Attributes:
        label: of the row.
        folder: of the run.
        flags: its command line, without where it goes.
        config: its settings, all choices made.
        fingerprint: of its images.
        trust_parts: whether a stored run may import what its settings name.
    """

    label: str
    folder: RunFolder
    flags: tuple[str, ...]
    config: Settings
    fingerprint: str
    trust_parts: bool = False

    @property
    def finished(self) -> bool:
        """Whether it has results and a page."""
        return self.folder.finished

    @property
    def forkable(self) -> bool:
        """Whether it may be forked: CUDA does not survive that, and several processes start the command again."""
        return choose_device(self.config.device) == "cpu" and self.config.devices == self.config.nodes == 1

    @property
    def command(self) -> list[str]:
        """What fits it, or goes on with it where its folder has settings."""
        path = self.folder.path
        going_on = [f"--resume={path}", *(["--trust-parts"] if self.trust_parts else [])]
        flags = going_on if (path / "config.json").exists() else [*self.flags, f"--out={path}"]
        return [sys.executable, "-m", "pp_simve.fit", "--quiet", *flags]


def planned(
    settings: Mapping[str, FitConfig],
    seeds: int,
    out: Path,
    say: Notes = unsaid,
    *,
    trust_parts: bool = False,
    progress: bool = True,
) -> list[PlannedFit]:
    """Every fit of the table, its settings checked as far as they can be before anything is fitted.

    Args:
        settings: by label.
        seeds: fits of each.
        out: where the run folders are or will be.
        say: is told what a person should know of how the data were loaded.
        trust_parts: allows stored runs to import what their settings name, beside the parts of ``settings``.
        progress: whether a terminal shows a progress bar while images are decoded.

    Raises:
        ConfigError: an unknown name, parts that do not go together, labels that make the same folder, a folder that
            holds something else or a run with other settings, parts of a stored run that are not trusted.
        DataError: the images cannot be used.
    """
    images, noted = load_once(progress=progress), set[str]()
    fits: list[PlannedFit] = []
    labels: dict[str, str] = {}
    for label, common in settings.items():
        name = folder_name(label)
        if (other := labels.setdefault(name.casefold(), label)) != label:
            raise ConfigError(f"rows {other!r} and {label!r} would have the same folder, {out / name}-0; rename one")
        choose_device(common.device)
        for seed in range(seeds):
            folder = RunFolder(out / f"{name}-{seed}")
            config = dataclasses.replace(common, seed=seed)
            if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
                shape, fingerprint = _stored(folder, config, trust_parts, say)
            else:
                found = images(config.data, config.data_root, **reading_options(config))
                shape, fingerprint = found.shape, found.fingerprint
                for note in found.notes:
                    if note not in noted:
                        say(f"note: {note}")
                        noted.add(note)
            chosen = config.resolve(shape)
            if seed == 0:
                Viewing.of(chosen, shape)
                build(chosen, shape)
            # What was typed here is trusted, and `_stored` lets nothing else pass without --trust-parts.
            trusted = trust_parts or bool(own_parts_of(common))
            fits.append(PlannedFit(label, folder, as_flags(config), chosen, fingerprint, trusted))
    return fits


def folder_name(label: str) -> str:
    """The name of a row's run folders, before the seed."""
    return re.sub(r"[^\w.+-]", "-", label)


def _stored(folder: RunFolder, asked: FitConfig, trust_parts: bool, say: Notes) -> tuple[DataShape, str]:
    """Shape and fingerprint of the data of a run that was started before with the settings asked for."""
    settings, fingerprint, shape = folder.read_config(trust_parts=True)  # only compared, until `check_trusted` below
    if different := settings.differences(asked.resolve(shape).as_config()):
        raise ConfigError(
            f"{folder.path} was started with other settings: {', '.join(different)}; repeat them, choose another "
            "--out, or remove it"
        )
    check_trusted(folder.path, settings, trust_parts, typed=asked, notes=say)
    return shape, fingerprint


def as_flags(config: FitConfig) -> tuple[str, ...]:
    """The flags of ``python -m pp_simve.fit`` that give these settings."""
    flags = []
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if value != entry.default:
            name = f"--{entry.name.replace('_', '-')}"
            # With the sign of equality, a value may begin with a hyphen; a flag with several values is repeated.
            values = value if isinstance(value, tuple) else (value,)
            flags += [name if one is True else f"{name}={one}" for one in values]
    return tuple(flags)


def differences(fits: Sequence[PlannedFit]) -> list[str]:
    """In words, what is not the same for all fits and has to be for their scores to compare."""
    found = []
    for name in ("data", *ALIKE):
        labels: dict[str, dict[str, None]] = {}
        for fit in fits:
            value = (
                f"{fit.config.data} ({fit.fingerprint})"
                if name == "data"
                else str(getattr(fit.config, name)) or "not set"
            )
            labels.setdefault(value, {})[fit.label] = None
        if len(labels) > 1:
            found.append(f"{name} is " + ", but ".join(f"{value} in {', '.join(of)}" for value, of in labels.items()))
    return found


def caption(fits: Sequence[PlannedFit], differing: Sequence[str]) -> str:
    """What the rows have in common."""
    shared = "mean ± sd over seeds, on the test split"
    if differing:
        return f"Runs that are not alike; {shared}."
    config = fits[0].config
    modalities = f" each of {config.modalities}" if config.modalities else ""
    return (
        f"{config.data} (images {fits[0].fingerprint}), {config.views} views{modalities} ({config.policy}), "
        f"encoder {config.encoder}; {shared}."
    )
