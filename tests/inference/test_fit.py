"""fit(): defaults, what it leaves unchanged, and errors."""

from __future__ import annotations

import math
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pp_simve.inference import (
    ELBO,
    AmortizedGuide,
    CheckpointFile,
    NonFiniteError,
    ProgramError,
    Progress,
    Run,
    WarmupCosine,
    fit,
)
from pp_simve.inference.plan import FitError

from .programs import PIXELS, SHAPE, FaultyGuide, Pair, Still, make_pair, small_images, stop_after


def fresh_pair(seed: int = 0, prior: str = "gaussian learned") -> Pair:
    pyro.set_rng_seed(seed)
    return make_pair(prior, dtype=torch.float32)


def small_fit(pair: Pair | None = None, **arguments: Any) -> Run:
    pair = pair or fresh_pair()
    defaults: dict[str, Any] = {"steps": 7, "batch_size": 16, "device": "cpu", "precision": "32", "fetch_every": 3}
    images = arguments.pop("images", None)
    return fit(pair.model, pair.guide, small_images() if images is None else images, **(defaults | arguments))


def parameters_of(run: Run) -> list[Tensor]:
    return list(run.objective.state_dict().values())


def assert_same_parameters(first: Run, second: Run) -> None:
    assert all(torch.equal(a, b) for a, b in zip(parameters_of(first), parameters_of(second), strict=True))


# What it does


def test_the_seed_determines_history_and_parameters_bit_for_bit_whatever_the_global_random_state() -> None:
    pairs, runs = [fresh_pair() for _ in range(3)], []
    for place, (pair, seed) in enumerate(zip(pairs, (3, 3, 4), strict=True)):
        pyro.set_rng_seed(place)
        runs.append(small_fit(pair, seed=seed))
    first, second, other = runs
    assert first.history == second.history
    assert_same_parameters(first, second)
    assert all(one["loss"] != another["loss"] for one, another in zip(first.history, other.history, strict=True))


def test_history_has_every_step_once_and_its_terms_in_full() -> None:
    run = small_fit(steps=10, fetch_every=4)
    assert [row["step"] for row in run.history] == list(range(1, 11))
    assert set(run.history[0]) == {"step", "loss", "reconstruction", "content", "style", "entropy"}
    assert all(math.isfinite(value) for row in run.history for value in row.values())
    assert run.steps == run.total_steps == 10
    assert run.finished
    assert run.seconds_per_epoch > 0
    assert run.peak_memory_mb > 0
    assert "model=" not in repr(run), "printing a run would print every layer"


def test_the_loss_falls_and_every_parameter_moves() -> None:
    pair = fresh_pair()
    before = {name: value.clone() for name, value in pair.both().state_dict().items()}
    run = small_fit(pair, steps=80, lr=2e-2)
    losses = [row["loss"] for row in run.history]
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 0.5
    for name, value in pair.both().state_dict().items():
        assert not torch.equal(value, before[name]), name
        assert bool(torch.isfinite(value).all()), name


def test_the_pair_is_fitted_in_place_and_left_in_evaluation_mode() -> None:
    pair = fresh_pair()
    run = small_fit(pair)
    assert run.model is pair.model
    assert run.guide is pair.guide
    assert not any(module.training for module in pair.both().children())
    assert not any(module.training for module in run.objective.modules())


def test_training_runs_in_training_mode_even_if_the_pair_comes_in_evaluation_mode() -> None:
    first = fresh_pair()
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 4), nn.Dropout(0.5))
    seen: list[bool] = []
    encoder.register_forward_hook(lambda module, *_: seen.append(module.training))
    guide = AmortizedGuide(encoder, first.prior, features=4).eval()
    small_fit(Pair(first.model.eval(), guide, first.prior), steps=2)
    assert seen == [True, True]


@pytest.mark.parametrize(("epochs", "steps"), [(2.5, 5), (None, 20)])
def test_epochs_are_counted_in_full_batches_and_are_ten_by_default(epochs: float | None, steps: int) -> None:
    """Of 40 images in batches of 16 the incomplete third is left out."""
    assert small_fit(epochs=epochs, steps=None).total_steps == steps


def test_an_epoch_shows_each_image_once_and_orders_differ() -> None:
    pair = fresh_pair()
    seen: list[int] = []

    class Witness(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, views: Tensor) -> dict[str, Tensor]:
            assert torch.equal(views[0], views[1])
            seen.extend((views[0, :, 0, 0, 0] * 255).round().int().tolist())
            return {"loss": self.weight * views.mean()}

    numbered = torch.arange(32, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, *SHAPE)
    small_fit(pair, images=numbered, objective=Witness(), policy=Still(), epochs=2, steps=None)
    assert sorted(seen[:32]) == sorted(seen[32:]) == list(range(32))
    assert seen[:32] != seen[32:]


def test_images_may_be_a_numpy_array_and_are_left_alone() -> None:
    images = small_images()
    array = images.numpy().copy()
    assert small_fit(images=array).history == small_fit(images=images).history
    assert np.array_equal(array, small_images().numpy())


def test_bfloat16_networks_give_nearly_the_loss_of_float32_and_leave_parameters_float32() -> None:
    full, low = small_fit(precision="32"), small_fit(precision="bf16")
    assert low.history != full.history
    for one, other in zip(full.history, low.history, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=0.02)
    assert {value.dtype for value in parameters_of(low)} == {torch.float32}


# Schedule


def test_with_constant_gradients_adam_moves_by_the_scheduled_learning_rate() -> None:
    class Slope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, views: Tensor) -> dict[str, Tensor]:
            return {"loss": self.position, "position": self.position.detach().clone()}

    schedule, slope, calls = WarmupCosine(0.3), Slope(), []

    def noted(step: int, total: int) -> float:
        calls.append((step, total))
        return schedule(step, total)

    run = small_fit(objective=slope, schedule=noted, steps=10, lr=0.25)
    assert calls == [(step, 10) for step in range(10)]
    positions = [*(row["position"] for row in run.history), float(slope.position.detach())]
    moves = [before - after for before, after in pairwise(positions)]
    assert moves == pytest.approx([0.25 * schedule(step, 10) for step in range(10)], rel=1e-4, abs=1e-6)


# Monitor


def test_the_monitor_is_called_every_few_steps_and_at_the_end() -> None:
    reports: list[Progress] = []
    run = small_fit(steps=10, fetch_every=4, monitor=reports.append)
    assert [progress.step for progress in reports] == [4, 8, 10]
    assert [row for progress in reports for row in progress.rows] == run.history
    assert {progress.total_steps for progress in reports} == {10}
    assert [progress.epoch for progress in reports] == [2, 4, 5]
    assert {progress.epochs for progress in reports} == {5}
    assert all(progress.images_per_second > 0 for progress in reports)
    assert [progress.seconds_left > 0 for progress in reports] == [True, True, False]


def test_how_often_metrics_are_fetched_changes_no_number() -> None:
    assert small_fit(fetch_every=1).history == small_fit(fetch_every=100).history


def test_stopping_ends_the_fit_at_that_step_and_the_run_says_so() -> None:
    run = small_fit(steps=10, fetch_every=100, should_stop=stop_after(5))
    assert run.steps == 5
    assert not run.finished
    assert [row["step"] for row in run.history] == [1, 2, 3, 4, 5]


# What it leaves alone


@pytest.mark.parametrize("fails", [False, True])
def test_global_random_state_and_settings_are_untouched(fails: bool) -> None:
    pair = fresh_pair()
    random, settings = torch.get_rng_state(), pyro.settings.get()

    def monitor(_: Progress) -> None:
        if fails:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) if fails else nullcontext():
        small_fit(pair, monitor=monitor)
    assert torch.equal(torch.get_rng_state(), random)
    assert pyro.settings.get() == settings
    assert not list(pyro.get_param_store().keys())


def test_validation_is_on_for_the_first_step_only() -> None:
    pair = fresh_pair()
    seen: list[bool] = []
    objective = ELBO(pair.model, pair.guide)
    objective.register_forward_pre_hook(lambda *_: seen.append(pyro.settings.get("validate_infer")))
    small_fit(pair, objective=objective, steps=4)
    assert seen == [True, False, False, False]


# What goes wrong


class Broken(nn.Module):
    """The objective, whose loss and a term, or only the gradient, are NaN at the k-th call."""

    def __init__(self, objective: nn.Module, call: int, what: str = "term") -> None:
        super().__init__()
        self.objective, self.calls_left, self.what = objective, call, what

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        self.calls_left -= 1
        terms: dict[str, Tensor] = self.objective(views)
        if self.calls_left:
            return terms
        if self.what == "gradient":
            return terms | {"loss": terms["loss"] + (0 * terms["loss"]).sqrt()}
        return terms | {name: terms[name] * math.nan for name in ("loss", "style")}


@pytest.mark.filterwarnings("ignore:Encountered NaN:UserWarning")  # Pyro's own, in the validated step
@pytest.mark.parametrize(("call", "fetch_every"), [(1, 1), (4, 3), (7, 100)])
def test_a_nan_is_reported_with_its_step_and_term(call: int, fetch_every: int) -> None:
    pair = fresh_pair()
    objective = Broken(ELBO(pair.model, pair.guide), call)
    with pytest.raises(NonFiniteError, match=f"style became nan at step {call}; lower the learning rate") as caught:
        small_fit(pair, objective=objective, fetch_every=fetch_every)
    assert (caught.value.step, caught.value.term) == (call, "style")
    assert not hasattr(caught.value, "__notes__")


def test_a_nan_without_a_checkpoint_so_far_says_so_and_writes_none(tmp_path: Path) -> None:
    pair, checkpoint = fresh_pair(), CheckpointFile(tmp_path / "checkpoint.pt")
    objective = Broken(ELBO(pair.model, pair.guide), 4)
    with pytest.raises(NonFiniteError) as caught:
        small_fit(pair, objective=objective, checkpoint=checkpoint)
    assert caught.value.__notes__ == ["no checkpoint was kept yet"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("checkpoint_minutes", [0.0, 1000.0])
def test_a_nan_leaves_the_last_good_checkpoint_and_names_it(tmp_path: Path, checkpoint_minutes: float) -> None:
    pair, checkpoint = fresh_pair(), CheckpointFile(tmp_path / "checkpoint.pt")
    objective = Broken(ELBO(pair.model, pair.guide), 9)
    small_fit(pair, objective=objective, steps=20, checkpoint=checkpoint, should_stop=stop_after(6))
    good = checkpoint.load()
    settings = {"steps": 20, "checkpoint": checkpoint, "checkpoint_minutes": checkpoint_minutes, "fetch_every": 100}
    with pytest.raises(NonFiniteError) as caught:
        small_fit(pair, objective=objective, **settings)
    assert caught.value.step == 9
    assert caught.value.__notes__ == [f"the last good checkpoint is {checkpoint.path}"]
    kept = checkpoint.load()
    assert kept["steps"] == (8 if checkpoint_minutes == 0 else good["steps"])
    tensors = [value for value in kept["objective"].values() if isinstance(value, Tensor)]
    assert all(bool(torch.isfinite(value).all()) for value in tensors)


def test_parameters_that_became_nan_are_not_kept_even_where_the_loss_was_finite(tmp_path: Path) -> None:
    pair, checkpoint = fresh_pair(), CheckpointFile(tmp_path / "checkpoint.pt")
    objective = Broken(ELBO(pair.model, pair.guide), 5, "gradient")
    with pytest.raises(NonFiniteError) as caught:
        small_fit(pair, objective=objective, checkpoint=checkpoint, checkpoint_minutes=0, fetch_every=100, steps=9)
    assert caught.value.step == 5
    kept = checkpoint.load()
    assert kept["steps"] == 4
    assert all(bool(torch.isfinite(value).all()) for value in kept["objective"].values())


@pytest.mark.parametrize("steps", [5, 9])
def test_a_fit_that_ends_right_after_its_parameters_became_nan_says_so_and_keeps_the_state_before(
    steps: int, tmp_path: Path
) -> None:
    pair, checkpoint = fresh_pair(), CheckpointFile(tmp_path / "checkpoint.pt")
    objective = Broken(ELBO(pair.model, pair.guide), 5, "gradient")
    settings = {"steps": steps, "checkpoint": checkpoint, "checkpoint_minutes": 0, "should_stop": stop_after(5)}
    with pytest.raises(NonFiniteError, match="a parameter became nan at step 5"):
        small_fit(pair, objective=objective, **settings)
    assert checkpoint.load()["steps"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"views": 0}, "views must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"devices": 0}, "devices must be at least 1, got 0"),
        ({"fetch_every": 0}, "fetch_every must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be positive and finite, got 0.0"),
        ({"lr": math.nan}, "lr must be positive and finite, got nan"),
        ({"batch_size": 41}, "batch_size is 41, but there are only 40 images to fit; choose at most 40"),
        ({"batch_size": 15, "devices": 2}, r"batch_size 15 must be a multiple of devices \(2\)"),
        ({"epochs": 1, "steps": 1}, "give epochs or steps, not both"),
        ({"steps": 0}, "a fit needs at least one step, got 0"),
        ({"steps": None, "epochs": math.nan}, "epochs must be finite, got nan"),
        ({"steps": None, "epochs": 0.1}, "a fit needs at least one step, got 0.1 epochs"),
        ({"images": small_images(0)}, r"there are no images to fit, got shape \(0, 1, 4, 4\)"),
        ({"images": small_images().float()}, r"images must be float in \[0, 1\], .* images / 255"),
        ({"policy": "afine"}, "unknown view policy 'afine'; did you mean 'affine'?"),
        ({"images": small_images(40, (3, 4, 4))}, r"failed on images of shape \(3, 4, 4\).* \(.*cannot be multiplied"),
        ({"images": small_images(40, (1, 5, 5))}, r"failed on images of shape \(1, 5, 5\)"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(FitError, match=message):
        small_fit(**arguments)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("not reparametrised", "the guide's site 'style' is not reparametrised .* use a distribution with has_rsample"),
        ("param", r"pyro\.param\('shift'\) lives in Pyro's global store.*; make it a torch\.nn\.Parameter"),
    ],
)
def test_guides_that_cannot_work_are_refused_at_the_first_step(fault: str, message: str) -> None:
    pair = fresh_pair()
    with pytest.raises(ProgramError, match=message):
        fit(pair.model, FaultyGuide(fault), small_images(), batch_size=16, steps=3, device="cpu")  # type: ignore[arg-type]
    pyro.clear_param_store()


def test_a_prior_that_samples_a_latent_of_all_images_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = fresh_pair()
    content = pair.prior.content

    def scaled() -> Any:
        pyro.sample("tau", dist.LogNormal(0.0, 1.0))
        return content()

    monkeypatch.setattr(pair.prior, "content", scaled)
    with pytest.raises(ProgramError, match=r"\{'tau'\}\. Is tau what all images share\? Then make it a parameter"):
        small_fit(pair)
