"""Options of `evaluate`, `diagnose`, `compare` and `parts`; those of a fit are `pp_simve.run.config.FitConfig`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pp_simve.errors import ConfigError
from pp_simve.run.config import Count, Flag, Place, Text


@dataclass(frozen=True)
class FittedRunOptions:
    """Finished runs, and where to compute."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...", help_behavior_hint="")]
    """Folders of finished runs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto is a GPU where there is one."""
    data: Text = None
    """Images of the run, where they have moved: folder:PATH or npz:FILE (default: those of the fit)."""
    data_root: Place = None
    """Folder of the data sets (default: the one of the fit)."""
    trust_parts: Flag = False
    """Import the package.module:Class parts that the settings of a run name. Only for runs that you trust."""
    quiet: Flag = False
    """Print errors only."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ConfigError("no runs were given; give the folders of one or more finished runs")


@dataclass(frozen=True)
class EvaluateConfig(FittedRunOptions):
    """Options of `pp_simve.evaluate`."""

    rows: int = 10_000
    """Most images (and views) of a split for costly evaluators: MLP probes, clusters, information, FID, ..."""
    restarts: int = 3
    """Random initialisations of the Gaussian mixture; the one of highest likelihood is kept."""
    fine_tune: Count = None
    """Also fine-tune a copy of the encoder on the labels of train, for at most this many epochs (default: off)."""
    fid_weights: Place = None
    """Also compute FID with the Inception weights in this file; needs pp_simve[fid] (default: off)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rows", "restarts", "fine_tune"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.fid_weights is not None and not self.fid_weights.is_file():
            raise ConfigError(f"--fid-weights {self.fid_weights} is no file")


@dataclass(frozen=True)
class DiagnoseConfig(FittedRunOptions):
    """Options of `pp_simve.diagnose`."""

    images: int = 128
    """Test images to draw posteriors of, from the first."""
    draws: int = 500
    """Posterior draws per image."""
    simulations: int = 500
    """Images simulated from the model for simulation-based calibration."""
    reference: int = 0
    """Images whose posterior is compared with NUTS, from the first; 20 of digits take some minutes."""
    refine: int = 0
    """Gradient steps of refining the posterior of each image; 200 are many."""
    seed: Count = None
    """Random seed of views and draws (default: one for all runs, so that runs compare)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        least = {"images": 1, "draws": 1, "simulations": 2, "reference": 0, "refine": 0}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ConfigError(f"--{name} must be at least {smallest}, got {getattr(self, name)}")
        if self.reference > self.images:
            raise ConfigError(f"--reference compares some of the images: at most --images {self.images}")


@dataclass(frozen=True)
class PartsConfig:
    """Options of `pp_simve.parts`."""

    kinds: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[KIND ...]", help_behavior_hint="")
    ] = ()
    (
        "Kinds of part (default: all): method, prior, guide, likelihood, group, encoder, decoder, objective, policy, "
        "modalities, track, optimizer, schedule, entropy, weight."
    )


@dataclass(frozen=True)
class CompareConfig:
    """Options of `pp_simve.compare`. Any further flag is a setting of every fit."""

    methods: Text = None
    """Methods separated by commas, a row each (default: simve,vae,simclr where no --row is given)."""
    row: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Row with settings of its own, "LABEL: FLAGS", such as "structured: --method simve --guide structured"."""
    seeds: int = 3
    """Fits of each row, with random seeds 0, 1, ..."""
    jobs: int = 1
    """Fits at a time; they share the cores, so that seconds an epoch no longer compare."""
    out: Path = Path("runs/compare")
    """Folder of the run folders and of table.md, .tex, .csv and .json, and runs.csv (a row a run)."""
    format: Literal["md", "csv", "latex", "json"] = "md"
    """Format of the table that is printed; with others than md, progress goes to standard error."""
    mixed: Flag = False
    """Tabulate runs although their images, views, policies or encoders differ."""
    evaluate: Flag = False
    """Also evaluate runs that were not yet (python -m pp_simve.evaluate), and add the columns of that."""
    trust_parts: Flag = False
    """Import package.module:Class parts that only stored runs name. Only for runs that you trust."""
    quiet: Flag = False
    """Print errors only."""

    def __post_init__(self) -> None:
        for name in ("seeds", "jobs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} must be at least 1, got {getattr(self, name)}")
