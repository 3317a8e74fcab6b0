"""A fit that was interrupted and goes on equals one that was not, bit for bit; other checkpoints are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor

from pp_simve.inference import (
    AmortizedGuide,
    CheckpointError,
    CheckpointFile,
    Progress,
    ResidualEncoder,
    Run,
    WarmupCosine,
    fit,
)
from pp_simve.inference.loop import Loop
from pp_simve.models import Gaussian, GaussianPrior, ResidualDecoder, SimVE

from .programs import make_pair, small_images, stop_after

TOTAL = 11
RGB = (3, 16, 16)


def fit_mlp(checkpoint: CheckpointFile | None = None, **arguments: Any) -> Run:
    """Everything is built anew, as a new process would. An epoch has two steps."""
    pyro.set_rng_seed(0)
    pair = make_pair("gaussian learned", dtype=torch.float32)
    return run_fit(pair.model, pair.guide, small_images(), checkpoint, **arguments)


def fit_convolutions(checkpoint: CheckpointFile | None = None, **arguments: Any) -> Run:
    """With batch normalisation, whose statistics are state too."""
    pyro.set_rng_seed(0)
    prior = GaussianPrior(3)
    model = SimVE(prior, Gaussian(ResidualDecoder(3, RGB, width=4), learned=True))
    guide = AmortizedGuide(ResidualEncoder(RGB, width=4), prior)
    return run_fit(model, guide, small_images(40, RGB), checkpoint, **arguments)


def run_fit(model: Any, guide: Any, images: Tensor, checkpoint: CheckpointFile | None, **arguments: Any) -> Run:
    defaults: dict[str, Any] = {
        "steps": TOTAL,
        "batch_size": 16,
        "lr": 1e-2,
        "schedule": WarmupCosine(0.2),
        "seed": 5,
        "fetch_every": 3,
        "device": "cpu",
        "precision": "32",
    }
    return fit(model, guide, images, checkpoint=checkpoint, **(defaults | arguments))


def assert_same_end(resumed: Run, whole: Run, steps: int) -> None:
    """The tail of the history and all final numbers are equal bit for bit."""
    assert resumed.history == [row for row in whole.history if row["step"] > steps]
    assert resumed.finished
    first, second = resumed.objective.state_dict(), whole.objective.state_dict()
    assert list(first) == list(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.fixture
def checkpoint(tmp_path: Path) -> CheckpointFile:
    return CheckpointFile(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("steps", [1, 5, 6])
def test_a_fit_stopped_in_or_between_epochs_goes_on_bit_for_bit(checkpoint: CheckpointFile, steps: int) -> None:
    stopped = fit_mlp(checkpoint, should_stop=stop_after(steps))
    assert stopped.steps == steps
    assert not stopped.finished
    assert_same_end(fit_mlp(checkpoint), fit_mlp(), steps)


def test_a_convolutional_fit_goes_on_bit_for_bit(checkpoint: CheckpointFile) -> None:
    fit_convolutions(checkpoint, should_stop=stop_after(3))
    assert_same_end(fit_convolutions(checkpoint), fit_convolutions(), 3)


def test_a_fit_may_be_stopped_many_times(checkpoint: CheckpointFile) -> None:
    history = []
    while not history or history[-1]["step"] < TOTAL:
        history += fit_mlp(checkpoint, should_stop=stop_after(2)).history
    whole = fit_mlp()
    assert history == whole.history
    last = fit_mlp(checkpoint)
    assert_same_end(last, whole, TOTAL)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"batch_size": 8, "accumulate": 2, "ema": 0.9, "log_every": 3}],
    ids=["plain", "accumulate, ema, log_every"],
)
def test_a_fit_that_died_goes_on_from_the_last_checkpoint_within_an_epoch(
    checkpoint: CheckpointFile, arguments: dict[str, Any]
) -> None:
    def die(progress: Progress) -> None:
        if progress.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_mlp(checkpoint, checkpoint_minutes=0, fetch_every=1, monitor=die, **arguments)
    assert checkpoint.load()["steps"] == 7
    assert_same_end(fit_mlp(checkpoint, **arguments), fit_mlp(**arguments), 7)


def test_keeping_checkpoints_changes_no_number(checkpoint: CheckpointFile) -> None:
    assert_same_end(fit_mlp(checkpoint, checkpoint_minutes=0), fit_mlp(), 0)


@pytest.mark.parametrize(("minutes", "expected"), [(0, [*range(1, 12)]), (3, [3, 6, 9, 11]), (1000, [11])])
def test_checkpoints_are_so_many_minutes_apart_wherever_an_epoch_ends(
    checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch, minutes: float, expected: list[int]
) -> None:
    saved: list[int] = []
    now = 0.0

    def step_for_a_minute(loop: Loop) -> None:
        nonlocal now
        now += 60
        step(loop)

    step = Loop.step
    monkeypatch.setattr(Loop, "step", step_for_a_minute)
    monkeypatch.setattr("pp_simve.inference.svi.time.perf_counter", lambda: now)
    monkeypatch.setattr(CheckpointFile, "save", lambda _, state: saved.append(state["steps"]))
    fit_mlp(checkpoint, checkpoint_minutes=minutes)
    assert saved == expected


def test_a_finished_fit_has_nothing_more_to_do(checkpoint: CheckpointFile) -> None:
    whole = fit_mlp(checkpoint)
    before = checkpoint.path.read_bytes()
    again = fit_mlp(checkpoint)
    assert again.finished
    assert again.history == []
    assert checkpoint.path.read_bytes() == before
    assert_same_end(again, whole, TOTAL)


def test_seconds_spent_before_count_too(checkpoint: CheckpointFile) -> None:
    fit_mlp(checkpoint, should_stop=stop_after(5))
    state = checkpoint.load()
    assert state["seconds"] > 0
    checkpoint.save(state | {"seconds": 1100.0})
    assert fit_mlp(checkpoint).seconds_per_epoch >= 1100 / TOTAL * 2


def test_a_truncated_checkpoint_is_refused_and_kept(checkpoint: CheckpointFile) -> None:
    fit_mlp(checkpoint, should_stop=stop_after(5))
    data = checkpoint.path.read_bytes()
    checkpoint.path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt cannot be read as a checkpoint .*; it is missing"):
        fit_mlp(checkpoint)
    assert checkpoint.path.read_bytes() == data[: len(data) // 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 20}, "is of another fit: it has total_steps = 11, this fit has 20"),
        ({"images": 48}, "is of another fit: it has images = 40, this fit has 48"),
    ],
)
def test_a_checkpoint_of_a_fit_of_another_length_or_data_is_refused_by_name(
    checkpoint: CheckpointFile, arguments: dict[str, Any], message: str
) -> None:
    fit_mlp(checkpoint, should_stop=stop_after(5))
    before = checkpoint.path.read_bytes()
    images = small_images(arguments.pop("images", 40))
    pair = make_pair("gaussian learned", dtype=torch.float32)
    kept = {name: value.clone() for name, value in pair.both().state_dict().items()}
    random = torch.get_rng_state()
    with pytest.raises(CheckpointError, match=message):
        run_fit(pair.model, pair.guide, images, checkpoint, **arguments)
    assert torch.equal(torch.get_rng_state(), random)
    assert checkpoint.path.read_bytes() == before
    assert all(torch.equal(kept[name], value) for name, value in pair.both().state_dict().items())


def test_a_checkpoint_of_another_program_is_refused_by_name(checkpoint: CheckpointFile) -> None:
    fit_mlp(checkpoint, should_stop=stop_after(5))
    pair = make_pair("flat", dtype=torch.float32)
    with pytest.raises(CheckpointError, match=r"is of another fit: Error.* loading state_dict for ELBO"):
        run_fit(pair.model, pair.guide, small_images(), checkpoint)


def test_a_checkpoint_of_several_processes_is_refused_by_name(checkpoint: CheckpointFile) -> None:
    fit_mlp(checkpoint, should_stop=stop_after(5))
    state = checkpoint.load()
    checkpoint.save(state | {"random": state["random"] * 2})
    with pytest.raises(CheckpointError, match="is of another fit: it ran on 2 devices, this fit on 1"):
        fit_mlp(checkpoint)


@pytest.mark.parametrize("missing", ["objective", "optimizer", "random", "order", "steps", "total_steps", "seconds"])
def test_a_checkpoint_that_lacks_an_entry_is_refused(checkpoint: CheckpointFile, missing: str) -> None:
    fit_mlp(checkpoint, should_stop=stop_after(5))
    state = checkpoint.load()
    del state[missing]
    checkpoint.save(state)
    with pytest.raises(CheckpointError, match=f"is of another fit: it has no entry '{missing}'"):
        fit_mlp(checkpoint)
