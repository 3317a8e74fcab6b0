"""Options of the commands that read runs, and of `parts`; those of a fit are `pp_simve.run.config.FitConfig`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pp_simve.errors import ConfigError
from pp_simve.run.config import HUB, Count, Flag, Place, ReadingOptions, Text, reading_options


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
class OneRunOptions(ReadingOptions):
    """A finished run, and images that are read as those of its fit unless flags say otherwise."""

    run: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = None
    """Folder of a finished run, or hub:OWNER/NAME."""
    data: Text = None
    """Images: folder:PATH, npz:FILE, the path of an image, or the name of data (default: those of the fit)."""
    data_root: Place = None
    """Folder of the data sets (default: the one of the fit)."""
    trust_parts: Flag = False
    """Import the package.module:Class parts that the settings of the run name. Only for runs that you trust."""
    quiet: Flag = False
    """Print errors only."""

    def __post_init__(self) -> None:
        if self.run is None:
            raise ConfigError("no run was given; give the folder of a finished run")

    @property
    def reading(self) -> dict[str, Any]:
        """Options of `load_images` that were given."""
        root = {} if self.data_root is None else {"root": self.data_root}
        return root | reading_options(self)


@dataclass(frozen=True)
class EmbedConfig(OneRunOptions):
    """Options of `pp_simve.embed`."""

    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("features.npz")
    """File to write: .npz (an array for each of --what), .npy (of one) or .parquet (a column for each feature)."""
    what: str = "content"
    """Features, separated by commas: content, style, z, backbone."""
    views: int = 1
    (
        "1: images as they are. More: augmented views of each, as the fit drew them; content is inferred from all of "
        "them together, the others are means over the views."
    )
    draws: int = 0
    """Draws of the guide of each image, for standard deviations of the approximate posterior."""
    split: Literal["all", "train", "validation", "test"] = "all"
    """Images of a split, as a fit divides the data."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto is a GPU where there is one."""
    batch_size: int = 512
    """Views a forward pass; memory grows with it."""
    seed: int = 0
    """Random seed of views and draws."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = self.names
        if self.out.suffix not in (".npz", ".npy", ".parquet"):
            raise ConfigError(f"--out {self.out} must end in .npz, .npy or .parquet")
        if self.out.suffix == ".npy" and (len(names) > 1 or self.draws):
            raise ConfigError(f"--out {self.out} holds one array: give one of --what and no --draws, or a .npz file")
        check_place(self.out)

    @property
    def names(self) -> list[str]:
        """The features."""
        return names_in(self.what)


@dataclass(frozen=True)
class ExportConfig(OneRunOptions):
    """Options of `pp_simve.export`."""

    to: Literal["onnx", "pt2", "safetensors"] = "onnx"
    """Format: onnx (needs pp_simve[export]), pt2 (torch.export), or safetensors (weights of the encoder alone)."""
    what: Text = None
    """Outputs of onnx and pt2, separated by commas: backbone, content, z, style (default: backbone,content)."""
    out: Place = None
    """File to write (default: model.onnx, model.pt2 or encoder.safetensors in the run folder; of hub: runs, here)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.to == "safetensors" and self.what is not None:
            raise ConfigError(
                "--to safetensors writes the weights of the encoder, whose output is the backbone: leave out --what"
            )
        if self.out is not None:
            check_place(self.out)
        names_in(self.what or "z")

    @property
    def place(self) -> Path:
        """The file to write."""
        name = "encoder" if self.to == "safetensors" else "model"
        folder = Path() if str(self.run).startswith(HUB) else Path(str(self.run))  # not the cache of downloads
        return self.out or folder / f"{name}.{self.to}"

    @property
    def names(self) -> list[str]:
        """The outputs."""
        return names_in(self.what or "backbone,content")


def names_in(what: str) -> list[str]:
    """The names in a text that separates them by commas; refuses an empty one."""
    names = [name.strip() for name in what.split(",")]
    if "" in names:
        raise ConfigError(f"name {names.index('') + 1} of --what {what!r} is empty; expected such as content,z")
    return names


def check_place(out: Path) -> None:
    """Refuses a file that could not be written, before anything is computed."""
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out} {'is a folder' if out.is_dir() else 'is in no folder that exists'}")


@dataclass(frozen=True)
class EvaluateConfig(FittedRunOptions):
    """Options of `pp_simve.evaluate`."""

    on: Text = None
    (
        "Other data to evaluate on, such as folder:PATH, whose images are resized to those of the fit; probes are "
        "fitted on its train images (default: the data of the fit)."
    )
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
        if self.on is not None and self.data is not None:
            raise ConfigError("give --data, where the images of the fit are, or --on, other images; not both")
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
    """Row with its settings, "LABEL: FLAGS", such as "structured: --method simve --guide structured"."""
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
    """Also evaluate runs in full (python -m pp_simve.evaluate), where that is not done, and add its columns."""
    trust_parts: Flag = False
    """Import package.module:Class parts that only stored runs name. Only for runs that you trust."""
    quiet: Flag = False
    """Print errors only."""

    def __post_init__(self) -> None:
        for name in ("seeds", "jobs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} must be at least 1, got {getattr(self, name)}")
