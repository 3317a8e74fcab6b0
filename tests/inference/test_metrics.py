"""The buffer of metrics, and the error it raises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pp_simve.inference import NonFiniteError
from pp_simve.inference.metrics import MetricBuffer, StepMeans, fit_warnings
from pp_simve.inference.plan import checked_plan


def terms(loss: float, content: float = 0.0) -> dict[str, Tensor]:
    return {"loss": torch.tensor(loss, requires_grad=True), "content": torch.tensor(content)}


def test_rows_come_out_in_order_with_their_steps_and_the_buffer_starts_again() -> None:
    buffer = MetricBuffer(3, torch.device("cpu"))
    for step in range(1, 4):
        assert not buffer.full
        buffer.add(terms(loss=step / 2, content=-step))
    assert buffer.full
    rows = buffer.fetch(buffer.rows(), last_step=13)
    assert rows == [{"step": 10 + step, "loss": step / 2, "content": -step} for step in range(1, 4)]
    assert buffer.count == 0
    buffer.add(terms(7.0))
    assert buffer.fetch(buffer.rows(), last_step=14) == [{"step": 14, "loss": 7.0, "content": 0.0}]


def test_a_row_is_a_copy_without_a_gradient() -> None:
    buffer = MetricBuffer(2, torch.device("cpu"))
    value = torch.tensor(1.0)
    buffer.add({"loss": value})
    value.fill_(9.0)
    assert buffer.rows().tolist() == [[1.0]]
    assert not buffer.rows().requires_grad


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_bad_step_and_its_first_bad_term_other_than_the_loss_are_named(bad: float) -> None:
    buffer = MetricBuffer(4, torch.device("cpu"))
    for row in (terms(1.0), terms(bad, bad), terms(bad), terms(1.0)):
        buffer.add(row)
    with pytest.raises(NonFiniteError, match=rf"content became {bad} at step 6; lower the learning rate") as caught:
        buffer.fetch(buffer.rows(), last_step=8)
    assert (caught.value.step, caught.value.term) == (6, "content")


def test_a_bad_loss_alone_is_named_too() -> None:
    buffer = MetricBuffer(1, torch.device("cpu"))
    buffer.add(terms(math.nan))
    with pytest.raises(NonFiniteError) as caught:
        buffer.fetch(buffer.rows(), last_step=1)
    assert (caught.value.step, caught.value.term) == (1, "loss")
    assert isinstance(caught.value, FloatingPointError)


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([550, 1e9, 1e6, 6e4, 5e4, 5e4], "the fit diverged: the loss rose from 550 to 5e+04; lower --lr (it was 10)"),
        ([-300, -200, 10, 50, 40, 30], "the fit diverged: the loss rose from -300 to 30; "),
        ([0.0, -0.0, 0.0, 0.0, -0.0], "nothing was learned: the loss is 0 at every step; "),
        ([550, 1e9, 1e6, 300, 290, 280], None),  # a transient
        ([550, 540, 530, 520, 900, 530], None),
        ([-300, -250, -290, -310, -305], None),
        ([0.1, 0.5, 0.6, 0.7, 0.8], None),  # of such sizes a contrastive loss may be
        ([550, 1e9], None),  # too short to tell
    ],
)
def test_a_fit_that_went_wrong_is_named(losses: list[float], words: str | None) -> None:
    found = fit_warnings([{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)], lr=10.0)
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (1, [(1, 1.0), (2, 4.0), (3, 9.0), (4, 16.0), (5, 25.0)]),
        (2, [(2, 2.5), (4, 12.5), (5, 25.0)]),
        (9, [(5, 11.0)]),
    ],
)
@pytest.mark.parametrize("kept", range(5))
def test_rows_are_means_over_so_many_steps_also_of_a_fit_that_was_stopped_between(
    every: int, expected: list[tuple[int, float]], kept: int
) -> None:
    rows = [{"step": step, "loss": float(step**2)} for step in range(1, 6)]
    before, after = StepMeans(every, total=5), StepMeans(every, total=5)
    means = before.add(rows[:kept])
    after.restore(before.state())
    means += after.add(rows[kept:])
    assert means == [{"step": step, "loss": loss} for step, loss in expected]


@pytest.mark.parametrize(("steps", "every"), [(1, 1), (100_000, 1), (100_001, 2), (10_000_000, 100)])
def test_the_history_of_a_long_fit_is_bounded(steps: int, every: int) -> None:
    settings = {"batch_size": 1, "epochs": None, "lr": None, "optimizer": None, "schedule": "constant", "seed": 0}
    more = {"clip_norm": None, "accumulate": 1, "ema": None, "fetch_every": 1}
    assert checked_plan(1, steps=steps, **settings, **more).log_every == every
