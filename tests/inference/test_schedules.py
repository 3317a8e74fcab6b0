"""Schedules of β and of a guide's scale, the numbers that follow them, and the loop that moves them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pp_simve.inference import (
    ELBO,
    AmortizedGuide,
    CheckpointFile,
    Cyclic,
    DeltaGuide,
    FlowGuide,
    Geometric,
    Guide,
    Linear,
    PointGuide,
    Run,
    StructuredGuide,
    WarmupCosine,
    fit,
)
from pp_simve.inference.guides.recognition import Recognition
from pp_simve.models import FlatPrior, InfoNCE, SimVE
from pp_simve.models.schedules import Annealed, Schedule, annealed_parts

from .programs import FEATURES, LATENT, SmoothEncoder, draw_views, make_pair, small_images, stop_after

TOTAL = 11


def test_warmup_rises_in_equal_steps_from_above_zero_to_one() -> None:
    schedule = WarmupCosine(0.1)
    rise = [schedule(step, 100) for step in range(11)]
    assert rise == pytest.approx([(step + 1) / 11 for step in range(11)])


def test_after_warmup_follows_half_a_cosine_to_almost_zero() -> None:
    schedule = WarmupCosine(0.2)
    for step in range(20, 100):
        assert schedule(step, 100) == pytest.approx(math.cos(math.pi / 2 * (step - 20) / 80) ** 2)
    assert 0 < schedule(99, 100) < 1e-3
    assert schedule(60, 100) == pytest.approx(0.5)


@pytest.mark.parametrize("total", [1, 2, 3, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 0.99])
def test_stays_in_the_unit_interval_and_above_zero_for_short_fits(warmup: float, total: int) -> None:
    assert all(0 < WarmupCosine(warmup)(step, total) <= 1 for step in range(total))


@pytest.mark.parametrize("warmup", [-0.1, 1.0, 5.0, math.nan])
def test_warmup_outside_the_fit_is_refused(warmup: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"fraction of all steps in [0, 1), got {warmup}")):
        WarmupCosine(warmup)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Linear(), {0: 0, 25: 0.25, 50: 0.5, 99: 0.99, 100: 1, 150: 1}),
        (Linear(0.1, 0.9, until=0.5), {0: 0.1, 25: 0.5, 50: 0.9, 75: 0.9, 100: 0.9}),
        (Linear(4, 1, until=0.2), {0: 4, 10: 2.5, 20: 1, 100: 1}),
        (Geometric(), {0: 1, 50: 0.1, 100: 0.01, 150: 0.01}),
        (Geometric(1e-3, 1e3, until=0.5), {0: 1e-3, 25: 1, 50: 1e3, 75: 1e3, 100: 1e3}),
        (Cyclic(), {0: 0, 6.25: 0.5, 12.5: 1, 24: 1, 25: 0, 31.25: 0.5, 50: 0, 75: 0, 99: 1, 100: 1, 150: 1}),
        (Cyclic(0.2, 1, cycles=2, rise=1), {0: 0.2, 25: 0.6, 50: 0.2, 75: 0.6, 100: 1}),
        (Cyclic(1, 0.5, cycles=1, rise=0.25), {0: 1, 12.5: 0.75, 25: 0.5, 99: 0.5, 100: 0.5}),
    ],
    ids=repr,
)
def test_values_at_the_start_in_between_at_the_end_and_beyond(schedule: Schedule, values: dict[float, float]) -> None:
    for done, value in values.items():
        assert schedule(round(done * 8), 800) == pytest.approx(value, rel=1e-12, abs=1e-15), done


@pytest.mark.parametrize(("total", "cycles"), [(12, 4), (13, 4), (100, 7), (9, 2)])
def test_every_cycle_starts_at_the_start(total: int, cycles: int) -> None:
    schedule = Cyclic(0.0, 1.0, cycles=cycles)
    values = [schedule(step, total) for step in range(total)]
    # A cycle that starts between two steps is seen by the step after it, by less than one step's rise above the start.
    begins = [0] + [step for step in range(1, total) if values[step] < values[step - 1]]
    assert begins == [math.ceil(cycle * total / cycles) for cycle in range(cycles)]
    assert all(values[step] < cycles / total / 0.5 for step in begins)


numbers = st.floats(-1e3, 1e3)
positive = st.floats(1e-6, 1e6)
fractions = st.floats(0.01, 1.0)
schedules = st.one_of(
    st.builds(Linear, numbers, numbers, fractions),
    st.builds(Geometric, positive, positive, fractions),
    st.builds(Cyclic, numbers, numbers, st.integers(1, 10), fractions),
)


@given(schedules, st.integers(1, 500), st.data())
def test_a_schedule_stays_between_its_ends_and_reaches_the_last(
    schedule: Linear | Geometric | Cyclic, total: int, data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, 2 * total))
    low, high = sorted([schedule.start, schedule.end])
    slack = 1e-9 * max(abs(low), abs(high))
    assert low - slack <= schedule(step, total) <= high + slack
    assert schedule(0, total) == pytest.approx(schedule.start)
    for beyond in (total, total + 1, 10 * total):
        assert schedule(beyond, total) == pytest.approx(schedule.end)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (Linear, {"until": 0.0}, r"until is a fraction of all steps in \(0, 1\], got 0\.0"),
        (Linear, {"until": math.nan}, "until is a fraction .* got nan"),
        (Linear, {"start": math.inf}, "start must be finite, got inf"),
        (Geometric, {"start": 0.0}, r"start and end must be positive, got 0\.0 and 0\.01"),
        (Geometric, {"end": math.inf}, "end must be finite"),
        (Geometric, {"until": -0.1}, "until is a fraction"),
        (Cyclic, {"cycles": 0}, "cycles must be at least 1, got 0"),
        (Cyclic, {"rise": 0.0}, r"rise is a fraction of a cycle in \(0, 1\], got 0\.0"),
        (Cyclic, {"start": -math.inf}, "start must be finite"),
    ],
)
def test_impossible_schedules_are_refused(make: Callable[..., Schedule], arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


# Numbers that follow a schedule.


@pytest.mark.parametrize("schedule", [Linear(0.2, 0.8), Geometric(1.0, 0.05), Cyclic(0.1, 0.6), lambda _, __: 0.3])
def test_outside_a_fit_a_number_has_the_value_at_the_end(schedule: Schedule) -> None:
    number = Annealed(schedule)
    assert number() == schedule(1, 1)
    number.move(2, 10)
    assert number() == schedule(2, 10)
    assert annealed_parts(nn.ModuleList([nn.Linear(1, 1), number])) == [number]


# The first import of zuko switches torch's validation of distributions off for the whole process: the guide must not.
@pytest.mark.parametrize("make", [AmortizedGuide, PointGuide, StructuredGuide, FlowGuide], ids=lambda m: m.__name__)
@pytest.mark.parametrize("scale", [0.0, math.nan, Linear(0.5, -0.5)], ids=["0", "nan", "to -0.5"])
def test_a_scale_that_is_not_positive_is_refused_in_favour_of_the_delta_guide(
    make: type[AmortizedGuide], scale: float | Schedule
) -> None:
    with pytest.raises(ValueError, match=r"scale must be positive, got .*; for a guide without noise take DeltaGuide"):
        make(SmoothEncoder(), FlatPrior(LATENT), scale=scale)


@pytest.mark.parametrize("make", [AmortizedGuide, PointGuide, StructuredGuide, FlowGuide], ids=lambda m: m.__name__)
def test_a_scale_multiplies_every_standard_deviation(make: Callable[..., Guide]) -> None:
    plain, narrow = (make(SmoothEncoder(), FlatPrior(LATENT), scale=scale) for scale in (1.0, 0.25))
    narrow.load_state_dict(plain.state_dict())
    features = torch.randn(5, FEATURES)
    recognitions = [guide.get_submodule("recognition") for guide in (plain, narrow)]
    wide, small = (part.latent(features) for part in recognitions if isinstance(part, Recognition))
    torch.testing.assert_close(small.mean, wide.mean)
    torch.testing.assert_close(small.stddev, 0.25 * wide.stddev)


def test_the_bound_uses_the_value_of_now() -> None:
    pair, views = make_pair(), draw_views(2)
    objective = ELBO(pair.model, pair.guide, beta=Linear(0.0, 1.0))
    losses = {}
    for step in (0, 3, 10):
        objective.beta.move(step, 10)
        pyro.set_rng_seed(3)
        moved = objective(views)["loss"]
        pyro.set_rng_seed(3)
        losses[step] = moved
        assert torch.equal(moved, ELBO(pair.model, pair.guide, beta=step / 10)(views)["loss"])
    assert len({float(loss.detach()) for loss in losses.values()}) == 3


# The loop.


class Noted:
    """A schedule that keeps the steps it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def __call__(self, step: int, total: int) -> float:
        self.asked.append((step, total))
        return 0.5 + 0.5 * step / total


def fit_annealed(
    beta: float | Schedule, scale: float | Schedule, checkpoint: CheckpointFile | None = None, **arguments: Any
) -> Run:
    """Everything is built anew, as a new process would. An epoch has two steps."""
    pyro.set_rng_seed(0)
    pair = make_pair("gaussian learned", dtype=torch.float32)
    guide = AmortizedGuide(SmoothEncoder(), pair.prior, scale=scale)
    defaults: dict[str, Any] = {"steps": TOTAL, "batch_size": 16, "lr": 1e-2, "seed": 5, "fetch_every": 3}
    return fit(
        pair.model,
        guide,
        small_images(),
        objective=ELBO(pair.model, guide, beta=beta),
        checkpoint=checkpoint,
        device="cpu",
        precision="32",
        **(defaults | arguments),
    )


def test_a_fit_moves_each_schedule_once_a_step() -> None:
    beta, scale = Noted(), Noted()
    fit_annealed(beta, scale)
    for schedule in (beta, scale):
        assert schedule.asked[:2] == [(0, 1), (1, 1)]  # when it is made: where it begins and ends
        assert schedule.asked[2:] == [(step, TOTAL) for step in range(TOTAL)]


@pytest.mark.parametrize("where", ["group", "backbone"])
def test_a_fit_moves_the_temperature_of_a_group_likelihood(where: str) -> None:
    seen: list[float] = []
    group, prior = InfoNCE(Linear(0.5, 0.1)), FlatPrior(LATENT)
    group.register_forward_hook(lambda *_: seen.append(group.temperature))
    model = SimVE(prior, group=group if where == "group" else None)
    guide = DeltaGuide(SmoothEncoder(), prior)
    objective = ELBO(model, guide, backbone=group if where == "backbone" else None)
    fit(model, guide, small_images(), objective=objective, steps=TOTAL, batch_size=16, device="cpu", precision="32")
    assert seen[-TOTAL:] == [Linear(0.5, 0.1)(step, TOTAL) for step in range(TOTAL)]
    assert group.temperature == pytest.approx(0.1)


def test_a_schedule_that_does_not_move_gives_the_fit_of_the_constant() -> None:
    annealed = fit_annealed(lambda _, __: 0.3, lambda _, __: 0.7)
    constant = fit_annealed(0.3, 0.7)
    assert annealed.history == constant.history
    assert fit_annealed(0.4, 0.7).history != constant.history
    assert fit_annealed(0.3, 0.8).history != constant.history


@pytest.mark.parametrize("steps", [6])
def test_a_fit_with_schedules_goes_on_bit_for_bit(tmp_path: Path, steps: int) -> None:
    schedules = Linear(0.1, 1.0, until=0.8), Geometric(1.0, 0.1)
    checkpoint = CheckpointFile(tmp_path / "checkpoint.pt")
    stopped = fit_annealed(*schedules, checkpoint, should_stop=stop_after(steps))
    assert stopped.steps == steps
    resumed, whole = fit_annealed(*schedules, checkpoint), fit_annealed(*schedules)
    assert resumed.history == whole.history[steps:]
    first, second = resumed.objective.state_dict(), whole.objective.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    values = [[part() for part in annealed_parts(run.objective)] for run in (resumed, whole)]
    assert values[0] == values[1]


# The last step is one step before the end, so that moving them step by step is not enough.
def test_after_a_fit_every_number_has_the_value_at_the_end() -> None:
    """As it has where the parameters are loaded into a program made anew."""
    run = fit_annealed(Linear(0.1, 1.0), Geometric(1.0, 0.1))
    assert {part() for part in annealed_parts(run.objective)} == {1.0, 0.1}
