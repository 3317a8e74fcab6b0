"""Fits methods side by side and tabulates what each learned: python -m pp_simve.compare --methods simve,vae,simclr

Any further flag is a setting of every fit, as in python -m pp_simve.fit --help: --data cifar10 --epochs 100.
Fits that are finished are not repeated, and interrupted ones go on: give the same command again.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import tyro
from rich.console import Console

from pp_simve.data import DataShape, load
from pp_simve.errors import ConfigError
from pp_simve.evaluate import EvaluateConfig, evaluate_runs
from pp_simve.inference.device import choose_device
from pp_simve.inference.tools import write_whole
from pp_simve.run.comparison import comma_separated, is_evaluated, markdown, row
from pp_simve.run.config import FitConfig, Text
from pp_simve.run.console import STOPPED, WRONG_INPUT, exit_code
from pp_simve.run.folder import RunFolder
from pp_simve.run.methods import build
from pp_simve.run.processes import PlannedFit, carry_out
from pp_simve.run.trust import check_trusted, own_parts_of
from pp_simve.run.viewing import Viewing

METHODS = "simve,vae,simclr"
ALIKE = ("views", "policy", "encoder", "modalities")
"""Settings that runs of one table have in common, beside the images themselves."""
OWN = ("seed", "out", "resume", "trust_parts", "quiet")
"""Settings of a fit that the comparison gives itself."""


@dataclass(frozen=True)
class CompareConfig:
    """What is compared. Any further flag is a setting of every fit."""

    methods: Text = None
    """Names of methods with commas between, a row each (default: simve,vae,simclr where no --row is given)."""
    row: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A row with settings of its own: "LABEL: FLAGS", such as "structured: --method simve --guide structured"; they
    come before the settings of every fit."""
    seeds: int = 3
    """Fits of each row: seeds 0, 1, ..."""
    jobs: int = 1
    """Fits at a time, which share the cores; seconds an epoch of fits beside one another say little."""
    out: Path = Path("runs/compare")
    """Folder of the run folders and of table.md, table.csv and table.json."""
    mixed: bool = False
    """Tabulate runs of different images, views, policies or encoders all the same."""
    evaluate: bool = False
    """Also evaluate the runs that were not (python -m pp_simve.evaluate), and tabulate what that adds."""
    trust_parts: bool = False
    """Import parts (package.module:Class) that stored runs name and this command does not. Their code runs, so give it
    only for runs that you trust; parts that this command names need no such trust."""
    quiet: bool = False
    """Print nothing but errors."""

    def __post_init__(self) -> None:
        for name in ("seeds", "jobs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} must be at least 1, got {getattr(self, name)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return exit_code(lambda: run_comparison(*parse(given), given))


def parse(arguments: Sequence[str]) -> tuple[CompareConfig, dict[str, FitConfig]]:
    """What is compared, and the settings of each row by its label.

    Raises:
        ConfigError: a wrong value, a setting that is not the fits' to choose, or no rows.
        SystemExit: help, an unknown flag, or a value of the wrong type (answered by tyro, code 2).
    """
    program = "python -m pp_simve.compare"
    config, rest = tyro.cli(
        CompareConfig, args=list(arguments), prog=program, description=__doc__, return_unknown_args=True
    )
    common = tyro.cli(FitConfig, args=rest, prog=program)
    if common.method != FitConfig.method:
        raise ConfigError(f"--method {common.method} is of one fit; give --methods {common.method},... instead")
    _check_own(common, "")
    methods = config.methods if config.methods is not None else "" if config.row else METHODS
    rows: list[tuple[str, tuple[str, ...]]] = [
        (name.strip(), ("--method", name.strip())) for name in methods.split(",") if name.strip()
    ]
    rows += [_labelled(text) for text in config.row]
    if not rows:
        raise ConfigError("there is nothing to compare; give --methods simve,vae or --row")
    settings: dict[str, FitConfig] = {}
    for label, flags in rows:
        if label in settings:
            raise ConfigError(f"there are two rows {label!r}; give each --row a label of its own")
        settings[label] = _settings_of_row(label, flags, common)
    return config, settings


def _labelled(text: str) -> tuple[str, tuple[str, ...]]:
    label, colon, flags = text.partition(":")
    try:
        words = shlex.split(flags)
    except ValueError as error:  # a quotation mark without its partner
        raise ConfigError(f"--row {text!r} cannot be read ({error})") from None
    if not colon or not label.strip():
        raise ConfigError(
            f'--row {text!r} cannot be read; expected "LABEL: FLAGS", such as "structured: --guide structured"'
        )
    return label.strip(), tuple(words)


def _settings_of_row(label: str, flags: Sequence[str], common: FitConfig) -> FitConfig:
    """The common settings, but for those that the row gives itself."""
    program = f"--row {label!r}"
    own = tyro.cli(FitConfig, args=list(flags), prog=program)
    if own.epochs is not None or own.steps is not None:
        common = dataclasses.replace(common, epochs=None, steps=None)
    settings = tyro.cli(FitConfig, args=list(flags), default=common, prog=program)
    _check_own(settings, f" of row {label!r}")
    return settings


def _check_own(config: FitConfig, where: str) -> None:
    plain = FitConfig()
    for name in OWN:
        if getattr(config, name) != getattr(plain, name):
            raise ConfigError(
                f"--{name.replace('_', '-')} {getattr(config, name)}{where} is not for a single fit to choose: the "
                "comparison gives each its seed (--seeds how many) and its folder below --out, and takes --trust-parts "
                "and --quiet itself"
            )


def run_comparison(config: CompareConfig, settings: Mapping[str, FitConfig], given: Sequence[str]) -> int:
    """Fits what is missing, and writes the table; the exit code."""
    console = Console(quiet=config.quiet, highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    fits = planned(settings, config.seeds, config.out, say, trust_parts=config.trust_parts)
    differing = differences(fits)
    if differing and not config.mixed:
        raise ConfigError(
            "these runs would not be alike: " + "; ".join(differing) + ". Compare those that are, or give --mixed to "
            "tabulate them all the same"
        )
    config.out.mkdir(parents=True, exist_ok=True)
    missing = [fit for fit in fits if not fit.finished]
    if len(missing) < len(fits):
        say(f"{len(fits) - len(missing)} of {len(fits)} fits are finished already")
    stopped, failures = carry_out(missing, config.jobs, say)
    if stopped:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"stopped with {sum(fit.finished for fit in fits)} of {len(fits)} fits finished; go on with\n"
            f"  python -m pp_simve.compare {shlex.join(given)}",
            markup=False,
        )
        return STOPPED
    of_labels = {label: [fit.folder.path for fit in fits if fit.label == label and fit.finished] for label in settings}
    if config.evaluate:
        for fit in fits:
            path = fit.folder.path
            if not fit.finished or is_evaluated(path):
                continue
            say(f"evaluating {path}")
            device = next(iter(settings.values())).device
            if evaluate_runs(EvaluateConfig((path,), device=device, trust_parts=fit.trust_parts, quiet=True)):
                failures.append(f"{path} was not evaluated")
    rows = [row(label, paths, evaluated=config.evaluate) for label, paths in of_labels.items()]
    notes = [*(f"not alike: {entry}" for entry in differing), *failures]
    title = caption(fits, differing)
    text = markdown(rows, title, notes)
    write_whole(config.out / "table.md", text.encode())
    write_whole(config.out / "table.csv", comma_separated(rows).encode())
    entries = {"title": title, "notes": notes, "rows": rows}
    write_whole(config.out / "table.json", (json.dumps(entries, indent=2, allow_nan=False) + "\n").encode())
    say(f"\n{text}\nwritten to {config.out / 'table.md'}, .csv and .json")
    return WRONG_INPUT if failures else 0


def planned(
    settings: Mapping[str, FitConfig],
    seeds: int,
    out: Path,
    say: Callable[[str], None] = lambda note: None,
    *,
    trust_parts: bool = False,
) -> list[PlannedFit]:
    """Every fit of the table, its settings checked as far as they can be before anything is fitted.

    Args:
        settings: by label.
        seeds: fits of each.
        out: where the run folders are or will be.
        say: is told what a person should know of how the data were loaded.
        trust_parts: allows stored runs to import what their settings name, beside the parts of ``settings``.

    Raises:
        ConfigError: an unknown name, parts that do not go together, labels that make the same folder, a folder that
            holds something else or a run with other settings, parts of a stored run that are not trusted.
        DataError: the images cannot be used.
    """

    @lru_cache(maxsize=1)
    def images(data: str, data_root: Path, image_size: int | None, skip_bad: bool) -> tuple[DataShape, str]:
        found = load(data, data_root, image_size=image_size, skip_bad=skip_bad)
        for note in found.notes:
            say(f"note: {note}")
        return found.shape, found.fingerprint

    fits: list[PlannedFit] = []
    labels: dict[str, str] = {}
    for label, common in settings.items():
        name = "".join(letter if letter.isalnum() or letter in "-_.+" else "-" for letter in label)
        if (other := labels.setdefault(name.casefold(), label)) != label:
            raise ConfigError(f"rows {other!r} and {label!r} would have the same folder, {out / name}-0; rename one")
        choose_device(common.device)
        for seed in range(seeds):
            folder = RunFolder(out / f"{name}-{seed}")
            config = dataclasses.replace(common, seed=seed)
            if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
                shape, fingerprint = _stored(folder, config, trust_parts, say)
            else:
                shape, fingerprint = images(config.data, config.data_root, config.image_size, config.skip_bad)
            chosen = config.resolve(shape)
            if seed == 0:
                Viewing.of(chosen, shape)
                build(chosen, shape)
            # What was typed here is trusted, and `_stored` lets nothing else pass without --trust-parts.
            trusted = trust_parts or bool(own_parts_of(common))
            fits.append(PlannedFit(label, folder, as_flags(config), chosen, fingerprint, trusted))
    return fits


def _stored(
    folder: RunFolder, asked: FitConfig, trust_parts: bool, say: Callable[[str], None]
) -> tuple[DataShape, str]:
    """Shape and fingerprint of the data of a run that was started before.

    Raises:
        ConfigError: it is damaged, no run, or one with other settings than those asked for, or it names parts that are
            neither asked for nor trusted.
    """
    settings, fingerprint = folder.read_settings(trust_parts=True)  # only compared, until `check_trusted` below
    shape = folder.read_shape()
    if different := settings.differences(asked.resolve(shape).as_config()):
        raise ConfigError(
            f"{folder.path} was started with other settings: {', '.join(different)}; repeat them, choose another "
            "--out, or remove it"
        )
    check_trusted(folder.path, settings, trust_parts, typed=asked)
    if names := own_parts_of(settings, typed=asked):
        say(f"{folder.path}: importing {', '.join(names)} (--trust-parts)")
    return shape, fingerprint


def as_flags(config: FitConfig) -> tuple[str, ...]:
    """The flags of ``python -m pp_simve.fit`` that give these settings."""
    flags = []
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if value != entry.default:
            flag = "--" + entry.name.replace("_", "-")
            # With the sign of equality, a value may begin with a hyphen.
            flags.append(flag if value is True else f"{flag}={value}")
    return tuple(flags)


def differences(fits: Sequence[PlannedFit]) -> list[str]:
    """In words, what is not the same for all fits and has to be for their scores to compare."""

    def values(fit: PlannedFit) -> dict[str, str]:
        settings = {name: str(getattr(fit.config, name)) for name in ALIKE}
        return {"data": f"{fit.config.data} ({fit.fingerprint})", **settings}

    found = []
    for name in ("data", *ALIKE):
        labels: dict[str, dict[str, None]] = {}
        for fit in fits:
            labels.setdefault(values(fit)[name], {})[fit.label] = None
        if len(labels) > 1:
            found.append(f"{name} is " + ", but ".join(f"{value} in {', '.join(of)}" for value, of in labels.items()))
    return found


def caption(fits: Sequence[PlannedFit], differing: Sequence[str]) -> str:
    """What the rows have in common."""
    shared = "mean ± sd over seeds, on the test split"
    if differing:
        return f"Runs that are not alike; {shared}."
    config = fits[0].config
    kinds = f" each of {config.modalities}" if config.modalities else ""
    return (
        f"{config.data} (images {fits[0].fingerprint}), {config.views} views{kinds} ({config.policy}), "
        f"encoder {config.encoder}; {shared}."
    )


if __name__ == "__main__":
    sys.exit(main())
