"""Settings of a fit: `FitConfig`, as typed for ``python -m pp_simve.fit``, and `Settings`, with every choice made."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from pp_simve.errors import ConfigError

if TYPE_CHECKING:  # help and wrong flags are answered without importing torch
    from pp_simve.data.types import DataShape

# Settings that may be left out: their help text states the default.
Text = Annotated[str | None, tyro.conf.arg(metavar="STR", help_behavior_hint="")]
Count = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
LatentCount = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="", aliases=("--latent",))]
Number = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")]
Size = Annotated[int | str | None, tyro.conf.arg(metavar="N|HxW", help_behavior_hint="")]
Resize = Annotated[
    Literal["auto", "squash", "crop", "pad"] | None,
    tyro.conf.arg(metavar="{auto,squash,crop,pad}", help_behavior_hint=""),
]
Devices = Annotated[int | Literal["auto"] | None, tyro.conf.arg(metavar="INT|auto", help_behavior_hint="")]
Place = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
Flag = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]
Texts = Annotated[
    tuple[str, ...], tyro.conf.arg(metavar="STR", help_behavior_hint="(repeatable)"), tyro.conf.UseAppendAction
]

HUB = "hub:"
"""Prefix of the names of runs on the Hugging Face Hub, ``hub:OWNER/NAME``."""

FROM_PYTHON = "python"
"""Method of a run that was fitted from Python, whose programs the settings do not describe."""

NAMING_PARTS = (
    "method",
    *("prior", "guide", "objective", "likelihood", "group", "encoder", "decoder", "modalities", "policy"),
    *("optimizer", "schedule", "track"),
)
"""Settings whose texts name parts, which may be a user's own ``package.module:Class``, a method's a function."""
PARTS_OF_METHODS = ("prior", "guide", "objective", "likelihood", "group", "encoder", "decoder", "latent_dim")
"""Settings of named methods, which programs of a user's own do not have."""

MOVABLE = ("data", "devices", "nodes")
"""Settings of where the images are and where the fit runs."""

_EXPECTED: dict[Any, str] = {
    **{str: "a text", Path: "a path", int: "a whole number", float: "a number", bool: "true or false"},
    tuple[str, ...]: "a list of names of parts",
    int | str: "a number of pixels or a text",
}


@dataclass(frozen=True)
class SourceOptions:
    """Where the images are."""

    data: str = "digits"
    (
        "Data set: digits, mnist, fashionmnist, cifar10, celeba, folder:PATH (PATH/{train,test}/CLASS/*, PATH/CLASS/* "
        "or PATH/*) or npz:FILE."
    )
    data_root: Path = Path("data")
    """Folder of the data sets; missing ones are downloaded through torchvision."""


@dataclass(frozen=True)
class ReadingOptions:
    """How images are read; what is not given is by default as `Settings` has it, or as it was in the fit of a run."""

    image_size: Size = None
    """Side to resize images to, in pixels, or HEIGHTxWIDTH (default: as they are; celeba 64)."""
    resize: Resize = None
    """Resizing: squash, crop (the largest central part) or pad; auto (default) is squash (celeba: crop)."""
    background: Text = None
    """Color behind transparent pixels and of padding, such as black or #808080 (default: white)."""
    range: Text = None
    """Pixel range: MIN,MAX (black and white), 16bit (0 to 65535 above 8 bits), auto (default: by the type)."""
    layout: Text = None
    """Layout of arrays: chw or hwc where both are possible, the shape of flat images, such as 28x28, auto (default)."""
    skip_bad: Flag = False
    """Skip images that cannot be decoded instead of stopping."""


@dataclass(frozen=True)
class DataOptions(ReadingOptions, SourceOptions):
    """Images, and the views of each."""

    views: Count = None
    """Views of each image in a batch (default: 2; with modalities, 1 of each)."""
    policy: Text = None
    """Augmentation policy: affine (default of digits), crop (grey images), crop+colour (RGB), paper."""
    modalities: Text = None
    """Modalities, each with its own encoder and likelihood: halves, attributes (default: none, except with clip)."""


@dataclass(frozen=True)
class ModelOptions:
    """Model and guide. Parts take options in brackets, as in "gaussian(style_variance=0.3)": see `pp-simve parts`.
    A part of your own is package.module:Class."""

    method: str = "simve"
    (
        "Recipe of model, guide and objective: simve, vae, beta-vae, cr-vae, aavae, iwae, group-vae, infonce, simclr, "
        "clip, moco, vicreg, swav, instance, barlow, simsiam, byol, bridge, or your own package.module:function from "
        "the image shape to model and guide."
    )
    prior: Text = None
    """Prior of the latents: gaussian, flat, mixture, empirical, block, standard, student (default: the method's)."""
    guide: Text = None
    """Variational posterior: amortized, structured, flow, point, delta (default: the method's)."""
    likelihood: Text = None
    """Likelihood of pixels: bernoulli (default of grey images), gaussian (RGB)."""
    group: Text = None
    """Group likelihood: ntxent (among all other views), infonce (one view of each image) (default: the method's)."""
    encoder: Text = None
    (
        "Encoder network: mlp (default of grey images up to 32 pixels), residual (of others), resnet18, or of timm: "
        "\"timm(name='vit_tiny_patch16_224')\"."
    )
    decoder: Text = None
    """Decoder network: mlp, residual (default: the encoder's counterpart; mlp for sides not a multiple of 4)."""
    latent_dim: LatentCount = None
    """Latent dimensions (default: 32 for grey images, 64 for colour)."""
    init: Text = None
    """Run folder whose weights are the initial ones, where names and shapes match (default: random weights)."""


@dataclass(frozen=True)
class OptimizationOptions:
    """Objective, and stochastic gradient steps."""

    objective: Text = None
    (
        "Objective: elbo, iwae, analytic, consistency, denoising, decoder-free, swav, instances, byol, moco, "
        'barlow-twins, e.g. "elbo(beta=linear(until=0.3))" (default: the method\'s).'
    )
    epochs: Number = None
    """Passes over the training images (default: 150 for digits, else 10)."""
    steps: Count = None
    """Gradient steps, instead of epochs."""
    batch_size: Count = None
    """Images a batch, over all devices; an incomplete last batch of an epoch is dropped (default: 128)."""
    optimizer: Text = None
    """Optimizer: adam (default), "adamw(weight_decay=0.05)", "sgd(momentum=0.9)", lars; norms, biases do not decay."""
    lr: Number = None
    """Learning rate (default: 0.002 for digits, else 0.001)."""
    schedule: Text = None
    (
        "Factor of the learning rate: cosine (default) warms up over the first 5 % of the steps and decays to 0; "
        'constant, geometric, cyclic, "linear(start=1, end=0.1)".'
    )
    clip_norm: Number = None
    """Largest norm of the gradient of all parameters together (default: none)."""
    accumulate: Count = None
    """Batches a step, whose gradients are averaged (default: 1)."""
    ema: Number = None
    """Moving average of the parameters: the fraction it keeps at each step, such as 0.999. It is what is evaluated and
    saved (default: none)."""


@dataclass(frozen=True)
class RunOptions:
    """Device, random seed and run folder."""

    seed: int = 0
    """Random seed of parameters, batches, views and samples; the split of the data does not depend on it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto is a GPU where there is one."""
    devices: Devices = None
    """Processes on each node, each with its share of every batch; auto is one per GPU (default: those that torchrun or
    srun started, else 1)."""
    nodes: Count = None
    """Machines (default: those of torchrun or srun, else 1)."""
    checkpoint_minutes: Number = None
    """Time between checkpoints, in minutes (default: 10); SIGINT, SIGTERM, SIGHUP and SIGUSR1 stop with one, too."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """Precision of the networks; auto is bf16 where the hardware supports it. Distributions are float32."""
    out: Place = None
    """Run folder to create (default: runs/DATA-METHOD-TIME)."""
    resume: Place = None
    """Run folder of a stopped run to resume with its own settings: give no others. auto resumes the run in --out, or
    starts it."""
    trust_parts: Flag = False
    """With --resume: import the package.module:Class parts that the run names. Only for runs that you trust."""


@dataclass(frozen=True)
class LoggingOptions:
    """Metrics and output."""

    probe: Text = None
    """Log the accuracy of a linear probe of the class on backbone, z, content or style; does not change the fit."""
    evaluate: Literal["quick", "none"] = "quick"
    """Scores at the end of the fit; python -m pp_simve.evaluate gives them in full."""
    track: Texts = ()
    """Tracker beside metrics.jsonl: tensorboard, wandb, "wandb(project='x')" or package.module:Class."""
    log_every: Count = None
    """Steps whose means are a line of metrics.jsonl (default: as few as give at most 100,000 lines)."""
    quiet: Flag = False
    """Print errors only."""


@dataclass(frozen=True)
class FitConfig(LoggingOptions, RunOptions, OptimizationOptions, ModelOptions, DataOptions):
    """Settings of a fit as typed. Those that are None are chosen by `resolve`, from the method and the data."""

    def __post_init__(self) -> None:
        counts = ("views", "devices", "nodes", "batch_size", "steps", "accumulate", "latent_dim", "image_size")
        for name in (*counts, "log_every"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        for name in ("lr", "epochs", "clip_norm", "checkpoint_minutes"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"--{name.replace('_', '-')} must be a positive number, got {value}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(f"--ema must be a number between 0 and 1, got {self.ema}")
        if self.epochs is not None and self.steps is not None:
            raise ConfigError("give --epochs or --steps, not both")
        if is_own(self.method) and (given := [name for name in PARTS_OF_METHODS if getattr(self, name)]):
            raise ConfigError(
                f"--{given[0].replace('_', '-')} replaces a part of a named method, and {self.method} builds its own; "
                f"give it as an option, such as {self.method}(width=64)"
            )

    def resolve(self, shape: DataShape) -> Settings:
        """Makes the choices that were left open, for data of this shape."""
        from pp_simve.data.types import default_policy  # here, because help needs no torch
        from pp_simve.inference.processes import Processes

        channels, height, width = shape.image
        digits = self.data == "digits"
        grey = channels == 1
        flat = grey and max(height, width) <= 32
        halved = not (height % 4 or width % 4) and min(height, width) >= 16  # what the residual decoder can draw
        encoder = self.encoder or ("mlp(hidden=[512, 256])" if digits else "mlp" if flat else "residual")
        parts: dict[str, Any] = {
            "encoder": encoder,
            "decoder": "mlp(hidden=[256, 512])"
            if digits
            else "residual"
            if halved and not encoder.startswith("mlp")
            else "mlp",
            "likelihood": "bernoulli" if grey else "gaussian",
            "latent_dim": 32 if grey else 64,
        }
        own = is_own(self.method) or self.method == FROM_PYTHON
        chosen: dict[str, Any] = ({} if own else parts) | {
            "policy": default_policy(self.data, shape.image),
            "batch_size": 128,
            "lr": 2e-3 if digits else 1e-3,
        }
        if self.method == "clip":
            chosen["modalities"] = "attributes" if shape.attributes else "halves"
        chosen["views"] = 1 if self.modalities or "modalities" in chosen else 2
        if self.steps is None:
            chosen["epochs"] = 150.0 if digits else 10.0
        given = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(Settings)}
        processes = Processes.of(self.device, self.devices, self.nodes)
        given |= {"devices": processes.local, "nodes": processes.nodes}
        # The run can then be evaluated from another working directory.
        given |= {"data": _absolute(self.data), "data_root": self.data_root.expanduser().absolute()}
        given |= {"init": self.init and _place(self.init)}
        return Settings(**chosen | {name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings with every choice made, as config.json holds them; each is described in `FitConfig`.

    An empty text, or 0, means: the method's part, no group, modalities or probe, random initial weights, images of
    their own size, no clipping or moving average, rows of metrics as `fit` chooses, and the length given by the other
    one of ``epochs`` and ``steps``. Of runs fitted from Python also: data, policy, optimizer or schedule that have no
    name.
    """

    data: str
    data_root: Path
    image_size: int | str = 0
    resize: Literal["auto", "squash", "crop", "pad"] = "auto"
    background: str = "white"
    range: str = "auto"
    layout: str = "auto"
    skip_bad: bool
    method: str
    prior: str = ""
    guide: str = ""
    objective: str = ""
    likelihood: str = ""
    group: str = ""
    encoder: str = ""
    decoder: str = ""
    latent_dim: int = 0
    init: str = ""
    modalities: str = ""
    views: int
    policy: str
    batch_size: int
    epochs: float = 0.0
    steps: int = 0
    optimizer: str = "adam"
    lr: float
    schedule: str = "cosine"
    clip_norm: float = 0.0
    accumulate: int = 1
    ema: float = 0.0
    seed: int
    device: Literal["auto", "cpu", "cuda"]
    devices: int
    checkpoint_minutes: float = 10.0
    nodes: int = 1
    precision: Literal["auto", "32", "bf16"]
    probe: str = ""
    track: tuple[str, ...] = ()
    log_every: int = 0

    def __post_init__(self) -> None:
        self.as_config()  # the same limits

    def as_config(self) -> FitConfig:
        """The command line's settings that resolve to these, for data of any shape."""
        pairs = [(entry, getattr(self, entry.name)) for entry in dataclasses.fields(self)]
        return FitConfig(**{entry.name: value for entry, value in pairs if value or value != entry.default})

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, by name."""
        return vars(self) | {"data_root": str(self.data_root), "track": list(self.track)}

    @classmethod
    def from_json(cls, entries: dict[str, Any]) -> Settings:
        """The inverse of `to_json`.

        Raises:
            ConfigError: an entry that is unknown, missing, of a wrong type or out of range.
        """
        known = get_type_hints(cls)
        # Settings of the command line alone, which earlier versions stored too; for them null stood for "not set".
        entries = {name: value for name, value in entries.items() if name not in ("out", "resume", "quiet")}
        if unknown := set(entries) - set(known):
            raise ConfigError(f"settings of another version: {', '.join(sorted(unknown))} are not known to this one")
        entries = {name: value for name, value in entries.items() if value is not None}
        required = {entry.name for entry in dataclasses.fields(cls) if entry.default is MISSING}
        if missing := required - set(entries):
            raise ConfigError(f"settings of another version: {', '.join(sorted(missing))} are missing")
        return cls(**{name: _typed(name, value, known[name]) for name, value in entries.items()})

    def differences(self, other: FitConfig, *, moved: bool = False) -> list[str]:
        """Settings that matter to the numbers of a fit and are not those of ``other``, in words.

        Args:
            other: compared with these.
            moved: whether data and processes may be elsewhere; fingerprint and checkpoint are checked for those.
        """
        stored, other = (
            dataclasses.replace(one, data=_absolute(one.data), init=one.init and _place(one.init))
            for one in (self.as_config(), other)
        )
        ignored = {"data_root", "out", "resume", "checkpoint_minutes", "trust_parts", *(MOVABLE if moved else ())}
        ignored |= {entry.name for entry in dataclasses.fields(LoggingOptions)}
        names = [entry.name for entry in dataclasses.fields(FitConfig) if entry.name not in ignored]
        pairs = {name: (getattr(stored, name), getattr(other, name)) for name in names}
        return [f"{name} is {_shown(a)} there, {_shown(b)} here" for name, (a, b) in pairs.items() if a != b]


def is_own(text: str) -> bool:
    """Whether a text names something of the user's, ``package.module:name``, with options or without."""
    return ":" in text.partition("(")[0]


def reading_options(config: ReadingOptions | Settings) -> dict[str, Any]:
    """Options of `pp_simve.data.load_data` that decide how images are read."""
    return {entry.name: value for entry in dataclasses.fields(ReadingOptions) if (value := getattr(config, entry.name))}


def _typed(name: str, value: Any, kind: Any) -> Any:
    """A value of a JSON file as the type of its setting."""
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    if choices:
        fits, expected = value in choices, f"one of {', '.join(choices)}"
    elif kind == tuple[str, ...]:
        fits, expected = isinstance(value, list) and all(isinstance(one, str) for one in value), _EXPECTED[kind]
    else:
        fits = type(value) in {float: (int, float), Path: (str,), int | str: (int, str)}.get(kind, (kind,))
        expected = "the name of a part" if name in NAMING_PARTS else _EXPECTED[kind]
    if not fits:
        raise ConfigError(f"the setting {name} holds {str(value)[:80]!r}, expected {expected}")
    return kind(value) if isinstance(kind, type) or kind == tuple[str, ...] else value


def _absolute(data: str) -> str:
    """The name of data with an absolute path, where it has one."""
    kind, _, place = data.partition(":")
    return f"{kind}:{_place(place)}" if kind in ("folder", "npz") and place else data


def _place(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _shown(value: object) -> str:
    return "not set" if value is None else repr(value)
