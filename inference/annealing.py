"""Numbers that may change over a fit: a constant, or a schedule that the loop moves along."""

from __future__ import annotations

from torch import nn

from pp_simve.inference.schedules import Schedule


class Annealed(nn.Module):
    """A number for each step of a fit; call it for its value now.

    The value is a plain float: a step that uses it reads nothing from the device. Outside a fit it is the one at the
    end of the schedule.

    Args:
        value: the number, or its schedule, a function of ``(step, total steps)``.

    Attributes:
        ends: its first and last values.
    """

    def __init__(self, value: float | Schedule) -> None:
        super().__init__()
        self.schedule = value if callable(value) else None
        self.ends = (float(value(0, 1)), float(value(1, 1))) if callable(value) else (float(value), float(value))
        self.value = self.ends[1]

    def forward(self) -> float:
        return self.value

    def move(self, step: int, total: int) -> None:
        """Takes the value of a step."""
        if self.schedule is not None:
            self.value = float(self.schedule(step, total))

    def finish(self) -> None:
        """Takes the value of the end."""
        self.value = self.ends[1]

    def extra_repr(self) -> str:
        return f"{self.schedule or self.value}"


def annealed_parts(module: nn.Module) -> list[Annealed]:
    """Those in a module that change over a fit."""
    return [part for part in module.modules() if isinstance(part, Annealed) and part.schedule is not None]
