"""Progress reports and the result of a fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from pp_simve.inference.augmentations import AugmentationPolicy, ImageShape
from pp_simve.inference.guides import Guide


@dataclass(frozen=True)
class Progress:
    """Progress of a fit at one fetch of its metrics; as text, one line: ``fit(..., monitor=print)``.

    Attributes:
        step: steps done, counted from 1.
        total_steps: steps planned.
        epoch: epochs done (a fraction).
        epochs: epochs planned.
        rows: terms of the steps since the last call, per image in nats, each with its ``step``.
        means: the rows of the history since the last call: of every ``log_every`` steps the means, with the last
            ``step``.
        images_per_second: of all devices, since the last call; a view counts as an image.
        seconds_left: at that speed.
    """

    step: int
    total_steps: int
    epoch: float
    epochs: float
    rows: list[dict[str, float]]
    means: list[dict[str, float]]
    images_per_second: float
    seconds_left: float

    @property
    def epochs_done(self) -> str:
        """Epochs done of those planned, as text."""
        total = f"{self.epochs:.1f}"
        return f"{self.epoch:{len(total)}.1f}/{total}"

    def terms(self, width: int | None = None) -> str:
        """Mean loss, and as many mean terms as fit the width; speed and time left."""
        end = f"{self.images_per_second:,.0f} views/s  {_duration(self.seconds_left)} left"
        text = ""
        for name in self.rows[-1]:
            if name != "step":
                longer = f"{text}{name} {sum(row[name] for row in self.rows) / len(self.rows):.2f}  "
                if text and width is not None and len(longer) + len(end) > width:
                    break
                text = longer
        return text + end

    def __str__(self) -> str:
        return f"epoch {self.epochs_done}  {self.terms()}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass(repr=False)
class Run:
    """A fitted pair and the record of its fit; `pp_simve.save_run` keeps it in a folder.

    Attributes:
        model: fitted in place, in evaluation mode.
        guide: likewise.
        objective: likewise.
        policy: the policy that drew the views; by modality where they are of several, None where they were ready made.
        views: of each image in a batch; where they are of several modalities, of each modality.
        image_shape: ``(channel, height, width)``; by modality where views are of several.
        settings: of the steps, as a checkpoint holds them: batch size, seed, learning rates, ...
        history: the terms of each step, or their means over every ``log_every`` steps (of this process, where a fit
            was resumed).
        steps: steps done; fewer than planned means the fit was stopped.
        total_steps: steps planned.
        epochs: done; an epoch is as many steps as there are whole batches of the images.
        seconds_per_epoch: wall-clock, mean over the epochs done, data and views included.
        peak_memory_mb: see `peak_memory_mb`.
    """

    model: nn.Module
    guide: Guide
    objective: nn.Module
    policy: AugmentationPolicy | dict[str, AugmentationPolicy] | None
    views: int
    image_shape: ImageShape | dict[str, ImageShape]
    settings: Mapping[str, Any]
    history: list[dict[str, float]]
    steps: int
    total_steps: int
    epochs: float
    seconds_per_epoch: float
    peak_memory_mb: float

    @property
    def finished(self) -> bool:
        """Whether every planned step was done."""
        return self.steps == self.total_steps

    def __repr__(self) -> str:
        terms = {name: value for row in self.history[-1:] for name, value in row.items() if name != "step"}
        return (
            f"Run: {self.steps:,} of {self.total_steps:,} steps, {self.epochs:.1f} epochs of "
            f"{self.seconds_per_epoch:.3g} s, {self.peak_memory_mb:,.0f} MB at most\n"
            f"{type(self.model).__name__}, {type(self.guide).__name__}, {type(self.objective).__name__}, "
            f"{self.views} views of images {self.image_shape}\n"
            f"last terms: {', '.join(f'{name} {value:.4g}' for name, value in terms.items()) or 'none'}"
        )
