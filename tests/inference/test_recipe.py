"""The recipe of a fit: optimizer, schedule, clipping, accumulation, moving average, frozen parts."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pp_simve.inference import ELBO, AmortizedGuide, CheckpointError, CheckpointFile, Run, fit
from pp_simve.inference.optimizers import LARS, SGD, Adam, AdamW
from pp_simve.inference.plan import FitError
from pp_simve.models.schedules import SCHEDULES, WarmupCosine
from pp_simve.testing.objective import read_backs

from .programs import FEATURES, PIXELS, Pair, Still, make_pair, small_images, stop_after

TOTAL, BATCH = 10, 16
SETTINGS: dict[str, Any] = {
    **{"batch_size": BATCH, "steps": TOTAL, "seed": 3, "device": "cpu", "precision": "32", "fetch_every": 3},
    **{"policy": Still(), "checkpoint_minutes": 1000},
}


def one_cycle(step: int, total: int) -> float:
    """A third of the steps up from 0.04, half a cosine down to 0."""
    done = (step + 1) / total
    return 0.04 + 0.96 * 3 * done if done < 1 / 3 else 0.5 * (1 + math.cos(math.pi * (1.5 * done - 0.5)))


def grouped(parameters: Any) -> torch.optim.Optimizer:
    """Two learning rates, in the ratio of 1 to 3."""
    first, *others = parameters
    return torch.optim.AdamW([{"params": [first], "lr": 3e-2}, {"params": others}], lr=1e-2, weight_decay=0.05)


RECIPE: dict[str, Any] = {"optimizer": grouped, "schedule": one_cycle, "clip_norm": 0.3, "accumulate": 2, "ema": 0.8}


def fresh_pair(norm: bool = False) -> Pair:
    pyro.set_rng_seed(0)
    pair = make_pair("gaussian learned", dtype=torch.float32)
    if norm:
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, FEATURES), nn.BatchNorm1d(FEATURES), nn.Dropout(0.5))
        pair.guide = AmortizedGuide(encoder, pair.prior, features=FEATURES)
    return pair


def fitted(pair: Pair, **arguments: Any) -> Run:
    return fit(pair.model, pair.guide, small_images(), **(SETTINGS | arguments))


def states_equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


@pytest.mark.parametrize("recipe", [{}, {"optimizer": AdamW(1e-2)}, RECIPE], ids=["none", "one", "all"])
def test_a_fit_equals_the_loop_that_users_write_bit_for_bit(recipe: dict[str, Any]) -> None:
    run = fitted(fresh_pair(), **recipe)
    batches, pair, losses = recipe.get("accumulate", 1), fresh_pair(), []
    objective = ELBO(pair.model, pair.guide)
    make = recipe.get("optimizer", lambda parameters: torch.optim.Adam(parameters, lr=1e-3, fused=True))
    optimizer = make(list(objective.parameters()))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: recipe["schedule"](step, TOTAL) if "schedule" in recipe else 1.0
    )
    average = AveragedModel(objective, multi_avg_fn=get_ema_multi_avg_fn(recipe.get("ema", 0.0)))
    images, order = small_images().float() / 255, torch.Generator().manual_seed(3)
    torch.manual_seed(3000)
    objective.train()
    for step in range(TOTAL):
        steps_per_epoch = len(images) // (BATCH * batches)
        if step % steps_per_epoch == 0:
            places = torch.randperm(len(images), generator=order).split(BATCH)
        found = []
        for batch in range(batches):
            chosen = images[places[step % steps_per_epoch * batches + batch]]
            loss = objective(torch.stack([chosen, chosen]))["loss"]
            (loss / batches).backward()
            found.append(loss.detach())
        if "clip_norm" in recipe:
            torch.nn.utils.clip_grad_norm_(objective.parameters(), recipe["clip_norm"])
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        average.update_parameters(objective)
        losses.append(torch.stack(found).mean().item())
    assert [row["loss"] for row in run.history] == losses
    assert states_equal(run.objective, average.module if "ema" in recipe else objective)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_stopped_fit_goes_on_bit_for_bit_with_everything_set(tmp_path: Any, steps: int) -> None:
    checkpoint = CheckpointFile(tmp_path / "checkpoint.pt")
    fitted(fresh_pair(), **RECIPE, checkpoint=checkpoint, should_stop=stop_after(steps))
    resumed, whole = (fitted(fresh_pair(), **RECIPE, checkpoint=kept) for kept in (checkpoint, None))
    assert resumed.history == whole.history[steps:]
    assert states_equal(resumed.objective, whole.objective)
    assert states_equal(fitted(fresh_pair(), **RECIPE, checkpoint=checkpoint).objective, whole.objective)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": SGD(1e-2)}, "it has optimizer_type = AdamW, this fit has SGD"),
        ({"optimizer": AdamW(2e-2)}, r"it has lr = \[0.03, 0.01\], this fit has 0.02"),
        ({"clip_norm": None}, "it has clip_norm = 0.3, this fit has None"),
        ({"accumulate": 1}, "it has accumulate = 2, this fit has 1"),
        ({"ema": 0.9}, "it has ema = 0.8, this fit has 0.9"),
    ],
)
def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Any, change: dict[str, Any], message: str) -> None:
    checkpoint = CheckpointFile(tmp_path / "checkpoint.pt")
    fitted(fresh_pair(), **RECIPE, checkpoint=checkpoint, should_stop=stop_after(1))
    with pytest.raises(CheckpointError, match=f"is of another fit: {message}"):
        fitted(fresh_pair(), **(RECIPE | change), checkpoint=checkpoint)


def test_a_checkpoint_from_before_recipes_goes_on(tmp_path: Any) -> None:
    checkpoint = CheckpointFile(tmp_path / "checkpoint.pt")
    fitted(fresh_pair(), checkpoint=checkpoint, should_stop=stop_after(4))
    later = ("optimizer_type", "clip_norm", "accumulate", "ema", "average")
    checkpoint.save({name: value for name, value in checkpoint.load().items() if name not in later})
    assert fitted(fresh_pair(), checkpoint=checkpoint).history == fitted(fresh_pair()).history[4:]


class Pull(nn.Module):
    """No randomness: a mean over the images of the batch."""

    def __init__(self, guide: nn.Module) -> None:
        super().__init__()
        self.guide = guide

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.guide.posterior(views).z - 1).square().mean()}  # type: ignore[operator]


def test_half_batches_accumulated_equal_whole_ones() -> None:
    runs, seen = [], []

    def observer(views: Tensor, images: Tensor) -> dict[str, Tensor]:
        seen.append(images)
        return {"brightness": views.mean()}

    for parts in (1, 2):
        pair = fresh_pair()
        settings = {"batch_size": BATCH // parts, "accumulate": parts, "optimizer": SGD(0.1), "observer": observer}
        runs.append(fitted(pair, objective=Pull(pair.guide), **settings))
    for row, other in zip(runs[0].history, runs[1].history, strict=True):
        assert other == pytest.approx(row, rel=1e-5)
    for mine, theirs in zip(*(run.objective.state_dict().values() for run in runs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    assert torch.equal(torch.cat(seen[:TOTAL]), torch.cat(seen[TOTAL:]))


def test_evaluation_uses_the_average_with_the_last_batch_statistics() -> None:
    plain, averaged = (fitted(fresh_pair(norm=True), ema=ema).guide.state_dict() for ema in (None, 0.9))
    for name, value in plain.items():
        assert torch.equal(value, averaged[name]) == ("running" in name or "batches" in name), name


def test_frozen_parts_stay_frozen_with_their_batch_statistics() -> None:
    pair = fresh_pair(norm=True)
    encoder: Any = next(part for part in pair.guide.modules() if isinstance(part, nn.Sequential) and len(part) == 4)
    encoder.requires_grad_(False)
    before, stored, inside, outputs = copy.deepcopy(pair.both()), copy.deepcopy(encoder), [], []
    encoder.register_forward_hook(lambda module, inputs, output: outputs.append((inputs[0], output)))
    pair.guide.register_forward_hook(lambda module, *_: inside.append(module.training))
    fitted(pair, ema=0.9, optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.5))
    assert states_equal(encoder, stored)
    assert not states_equal(pair.both(), before)
    assert all(inside)
    images, features = outputs[0]
    assert torch.equal(encoder(images), features)  # without dropout


@pytest.mark.parametrize("make", [Adam(0.1, eps=0.5), AdamW(0.1, weight_decay=0.0, eps=0.5)])
def test_the_constant_in_the_denominator_shortens_the_first_step(make: Callable[[Any], torch.optim.Optimizer]) -> None:
    parameter = nn.Parameter(torch.zeros(1, 1))
    optimizer = make([parameter])
    parameter.grad = torch.full((1, 1), 2.0)
    optimizer.step()
    assert parameter.item() == pytest.approx(-0.1 * 2.0 / (2.0 + 0.5))  # m / (sqrt(v) + eps), biases corrected


@pytest.mark.parametrize("make", [Adam(0.1), AdamW(0.1, weight_decay=0.3), SGD(0.1, momentum=0.9, weight_decay=0.3)])
def test_named_optimizers_decay_neither_norms_nor_biases(make: Callable[[Any], torch.optim.Optimizer]) -> None:
    layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    optimizer = make(layers.parameters())
    decays = {id(one): group["weight_decay"] for group in optimizer.param_groups for one in group["params"]}
    expected = 0 if isinstance(make, Adam) else 0.3
    assert [decays[id(one)] for one in layers.parameters()] == [expected, 0, 0, 0, expected, 0]
    assert {group["lr"] for group in optimizer.param_groups} == {0.1}
    assert all(group["fused"] for group in optimizer.param_groups)


def test_lars_scales_the_steps_of_layers_and_those_of_biases_not(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(1, 2)
    before = {name: value.detach().clone() for name, value in layer.named_parameters()}
    optimizer = LARS(0.5, weight_decay=0.1, trust_coeff=0.02)(layer.parameters())
    gradient = torch.tensor([3.0, 4.0])
    layer.weight.grad, layer.bias.grad = gradient[:, None].clone(), gradient.clone()
    optimizer.step()
    size = before["weight"].norm()
    step = 0.5 * 0.02 * size / (5.0 + 0.1 * size) * (gradient[:, None] + 0.1 * before["weight"])
    torch.testing.assert_close(layer.weight.detach(), before["weight"] - step)
    torch.testing.assert_close(layer.bias.detach(), before["bias"] - 0.5 * gradient)
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(ImportError, match="LARS needs timm: pip install"):
        LARS(0.5)


@pytest.mark.parametrize("optimizer", [Adam(0.1), AdamW(0.1), SGD(0.1, momentum=0.9), LARS(0.1)])
def test_a_step_with_everything_set_reads_nothing_back(optimizer: Callable[[Any], torch.optim.Optimizer]) -> None:
    reads = []
    pair = fresh_pair()
    objective = ELBO(pair.model, pair.guide)
    with read_backs() as found:
        objective.register_forward_pre_hook(lambda *_: reads.append(len(found)))
        fitted(pair, objective=objective, **RECIPE | {"optimizer": optimizer, "fetch_every": 100})
    assert len(reads) == 2 * TOTAL
    assert len(set(reads[2:])) == 1  # before the second step and before the last


def test_schedules_go_by_name() -> None:
    assert set(SCHEDULES) == {"constant", "cosine", "linear", "geometric", "cyclic"}
    by_name, by_function = (fitted(fresh_pair(), schedule=schedule) for schedule in ("cosine", WarmupCosine()))
    assert by_name.history == by_function.history != fitted(fresh_pair()).history


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clip_norm": 0.0}, "clip_norm must be positive and finite, got 0.0"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"accumulate": 3}, "accumulate 3 batches of 16 are more than the 40 images to fit"),
        ({"ema": 1.0}, r"ema is .*, in \(0, 1\), got 1.0"),
        ({"schedule": "cosin"}, "one of .*'cosine'.*, got 'cosin'"),
        ({"lr": 0.1, "optimizer": Adam(0.1)}, "give lr or optimizer, not both"),
        ({"optimizer": lambda parameters: parameters}, "optimizer must return a torch.optim.Optimizer, got list"),
    ],
)
def test_recipes_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(FitError, match=message):
        fitted(fresh_pair(), **arguments)
