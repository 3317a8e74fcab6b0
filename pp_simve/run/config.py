"""The settings of a fit: what `python -m pp_simve.fit` accepts, and what config.json of a run holds."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pp_simve.data.types import DataShape
from pp_simve.errors import ConfigError

# Settings that may be left out: their help says itself what is then chosen.
Text = Annotated[str | None, tyro.conf.arg(metavar="STR", help_behavior_hint="")]
Count = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
LatentCount = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="", aliases=("--latent",))]
Number = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")]
Place = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
Texts = Annotated[
    tuple[str, ...], tyro.conf.arg(metavar="STR", help_behavior_hint="(repeatable)"), tyro.conf.UseAppendAction
]


@dataclass(frozen=True)
class FitConfig:
    """Settings of a fit. Entries that are None are chosen by the data, see `chosen_for`."""

    data: str = "digits"
    """digits, mnist, fashionmnist, cifar10, celeba, folder:PATH (PATH/{train,test}/CLASS/*) or npz:FILE."""
    data_root: Path = Path("data")
    """Folder of the data sets; what is missing is downloaded there through torchvision."""
    image_size: Count = None
    """Resize images to this many pixels a side (default: as they are; celeba 64)."""
    skip_bad: bool = False
    """Leave unreadable images out instead of stopping."""
    method: str = "simve"
    """Recipe of model, guide and objective: simve, vae, beta-vae, cr-vae, aavae, iwae, group-vae, infonce, simclr,
    clip, vicreg, swav, instance, barlow, simsiam, byol or bridge."""
    prior: Text = None
    """gaussian, flat, mixture, empirical, block, standard, student or package.module:Class; options in brackets:
    "gaussian(style_variance=0.3)" (default: the method's)."""
    guide: Text = None
    """amortized, structured, flow, point, delta or package.module:Class (default: the method's)."""
    objective: Text = None
    """elbo, iwae, analytic, consistency, denoising, implied, swapped, instances, bootstrap, correlation or
    package.module:Class: "elbo(beta=linear(until=0.3))" (default: the method's)."""
    likelihood: Text = None
    """bernoulli, gaussian or package.module:Class (default: bernoulli for grey images, gaussian for colour)."""
    group: Text = None
    """Observe which image a view came from, among candidates: views, images or package.module:Class (default: the
    method's)."""
    encoder: Text = None
    """mlp, residual, resnet18 or package.module:Class (default: mlp for grey images up to 32 pixels, else residual)."""
    decoder: Text = None
    """mlp, residual or package.module:Class (default: the encoder's counterpart)."""
    latent_dim: LatentCount = None
    """Latent dimensions (default: 32 for grey images, 64 for colour)."""
    modalities: Text = None
    """Views of several kinds, each with its own encoder and likelihood: halves (upper and lower), attributes (an image
    and its attributes) or package.module:Class (default: none; clip: attributes where the data have them, else
    halves)."""
    views: Count = None
    """Views of each image in a batch (default: 2; with modalities, 1 of each kind)."""
    policy: Text = None
    """How views are drawn: affine, crop, crop+colour, paper or package.module:Class (default: affine for digits, crop
    for grey images, crop+colour for RGB)."""
    batch_size: Count = None
    """Images a step, over all devices (default: 128)."""
    epochs: Number = None
    """Passes over the training images (default: 150 for digits, else 10)."""
    steps: Count = None
    """Gradient steps, instead of epochs."""
    lr: Number = None
    """Adam's learning rate (default: 0.002 for digits, else 0.001)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate over the fit: cosine rises over the first 5 % of the steps and falls to 0."""
    seed: int = 0
    """Decides initial parameters, batches, views and samples; the split of the data is always the same."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto is a GPU where there is one."""
    devices: int = 1
    """Processes, each with its share of every batch."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """Of the networks; auto is bf16 where the hardware multiplies it. Distributions are always float32."""
    out: Place = None
    """The run folder to make (default: runs/DATA-METHOD-TIME)."""
    resume: Place = None
    """Go on with a stopped run; its settings are the run's own, so give no others."""
    probe: Text = None
    """Watch a linear probe of the class on backbone, z, content or style while fitting; the fit is the same without."""
    track: Texts = ()
    """Who else is told of the run, beside metrics.jsonl and metrics.csv: tensorboard, wandb, "wandb(project='x')" or
    package.module:Class; give the flag again for another."""
    trust_parts: bool = False
    """With --resume: import the parts of your own (package.module:Class) that the run's settings name. Their code runs,
    so give it only for runs that you trust."""
    quiet: bool = False
    """Print nothing but errors."""

    def __post_init__(self) -> None:
        for name in ("views", "devices", "batch_size", "steps", "latent_dim", "image_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{_flag(name)} must be at least 1, got {value}")
        for name in ("lr", "epochs"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"--{_flag(name)} must be a positive number, got {value}")
        if self.epochs is not None and self.steps is not None:
            raise ConfigError("give --epochs or --steps, not both")

    def chosen_for(self, shape: DataShape) -> FitConfig:
        """The same with every choice that depends on the data made."""
        channels, height, width = shape.image
        digits = self.data == "digits"
        grey = channels == 1
        flat = grey and max(height, width) <= 32
        encoder = self.encoder or ("mlp(hidden=[512, 256])" if digits else "mlp" if flat else "residual")
        chosen: dict[str, Any] = {
            "encoder": encoder,
            "decoder": ("mlp(hidden=[256, 512])" if digits else "mlp" if encoder.startswith("mlp") else "residual"),
            "likelihood": "bernoulli" if grey else "gaussian",
            "latent_dim": 32 if grey else 64,
            "policy": "affine" if digits else "crop" if grey else "crop+colour",
            "batch_size": 128,
            "lr": 2e-3 if digits else 1e-3,
        }
        if self.method == "clip":
            chosen["modalities"] = "attributes" if shape.attributes else "halves"
        chosen["views"] = 1 if self.modalities or "modalities" in chosen else 2
        if self.steps is None:
            chosen["epochs"] = 150.0 if digits else 10.0
        return dataclasses.replace(
            self, **{name: value for name, value in chosen.items() if getattr(self, name) is None}
        )

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and strings, by name; ``trust_parts`` is left out, because it counts for one command only."""
        entries = dataclasses.asdict(self)
        del entries["trust_parts"]
        return {name: str(value) if isinstance(value, Path) else value for name, value in entries.items()}

    @classmethod
    def from_json(cls, entries: dict[str, Any]) -> FitConfig:
        """The inverse of `to_json`.

        Raises:
            ConfigError: an entry this version does not know, or lacks a value it accepts.
        """
        paths = {"data_root", "out", "resume"}
        known = {entry.name for entry in dataclasses.fields(cls)} - {"trust_parts"}  # not for a file to say
        if unknown := set(entries) - known:
            raise ConfigError(f"settings of another version: {', '.join(sorted(unknown))} are not known to this one")
        try:
            values: dict[str, Any] = {k: Path(v) if k in paths and v is not None else v for k, v in entries.items()}
            return cls(**values | {"track": tuple(values.get("track", ()))})  # a list in JSON
        except TypeError as error:
            raise ConfigError(f"settings hold a value of a wrong type ({error})") from None

    def differences(self, other: FitConfig) -> dict[str, tuple[Any, Any]]:
        """Entries that differ and matter to the numbers of a fit."""
        ignored = {"data_root", "out", "resume", "probe", "track", "trust_parts", "quiet"}
        names = [entry.name for entry in dataclasses.fields(self) if entry.name not in ignored]
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def read_config(path: Path) -> dict[str, Any]:
    """The entries of a config.json.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    try:
        entries = json.loads(path.read_text())
        if not isinstance(entries, dict):
            raise ValueError("no settings in it")
        return entries
    except FileNotFoundError:
        raise ConfigError(f"{path.parent} is no run folder: it has no {path.name}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); the run folder is damaged") from None


def _flag(name: str) -> str:
    return name.replace("_", "-")
