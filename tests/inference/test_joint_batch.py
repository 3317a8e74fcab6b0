"""Two processes that share a batch compare with all of it: loss and gradient of one process with the joint batch."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = '''
import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch import nn

from pp_simve.inference import (
    ELBO,
    DeltaGuide,
    GaussianEntropy,
    DecoderFreeELBO,
    InstanceDiscrimination,
    KernelEntropy,
    SwAV,
    VICRegEntropy,
)
from pp_simve.models import InfoNCE, NTXent, Bernoulli, FlatPrior, GaussianPrior, MixturePrior, SimVE

torch.set_num_threads(1)
folder, rank, world = Path.cwd(), int(sys.argv[1]), int(sys.argv[2])
latent, pixels = 3, 16


def encoder():
    layers = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 5), nn.Tanh())
    layers.features = 5
    return layers


def contrastive(group):
    prior = FlatPrior(latent)
    return ELBO(SimVE(prior, group=group), DeltaGuide(encoder(), prior), beta=0)


def bridge(group):
    prior = GaussianPrior(latent)
    decoder = nn.Sequential(nn.Linear(latent, pixels), nn.Unflatten(-1, (1, 4, 4)))
    return ELBO(SimVE(prior, Bernoulli(decoder), group), DeltaGuide(encoder(), prior), alpha=2.0)


def implied(entropy):
    prior = FlatPrior(latent)
    return DecoderFreeELBO(SimVE(prior), DeltaGuide(encoder(), prior), entropy=entropy, weight=1.5)


def swapped(unit_norm, **learned):
    prior = MixturePrior(latent, 5, style_variance=0.1, content_variance=1.0, unit_norm=unit_norm, **learned)
    return SwAV(SimVE(prior), DeltaGuide(encoder(), prior, unit_norm=unit_norm))


class Particles(nn.Module):
    """The group of four z of each view, which differ as draws of a guide would."""

    def __init__(self, group):
        super().__init__()
        self.weight, self.group = nn.Parameter(torch.randn(4, 1, pixels, latent)), group

    def forward(self, views):
        of_group, groups = self.group(views.flatten(2) @ self.weight)
        return {"loss": -of_group.log_prob(groups).sum(-2).mean()}


cases = {
    "images": lambda: contrastive(InfoNCE(0.3)),
    "images, any norm": lambda: contrastive(InfoNCE(0.3, unit_norm=False)),
    "images, learned temperature": lambda: contrastive(InfoNCE(0.3, learn_temperature=True)),
    "images, particles": lambda: Particles(InfoNCE(0.3)),
    "views": lambda: contrastive(NTXent(0.3)),
    "views, any norm": lambda: contrastive(NTXent(0.3, unit_norm=False)),
    "views, learned temperature": lambda: contrastive(NTXent(0.3, learn_temperature=True)),
    "views, particles": lambda: Particles(NTXent(0.3)),
    "views, bridge": lambda: bridge(NTXent(0.3, width=2, learn_temperature=True)),
    "kernel": lambda: implied(KernelEntropy(0.3)),
    "kernel, any norm, chunks": lambda: implied(KernelEntropy(0.3, unit_norm=False, chunk=5)),
    "logdet": lambda: implied(GaussianEntropy()),
    "vicreg": lambda: implied(VICRegEntropy(3.0, 0.7)),
    "swapped": lambda: swapped(True),
    "swapped, any norm and weight": lambda: swapped(False, learn_weights=True, learn_style=True),
}


def batch(views):
    generator = torch.Generator().manual_seed(views)
    return torch.rand(views, 8, 1, 4, 4, dtype=torch.float64, generator=generator)


def build(case):
    torch.manual_seed(0)
    return cases[case]().double()


def mean(value):
    """Over processes, as DistributedDataParallel takes it of gradients."""
    value = value.detach().clone()
    if world > 1:
        torch.distributed.all_reduce(value)
    return value / world


def measured(objective, views):
    loss = objective(views)["loss"]
    loss.backward()
    parameters = {name.removeprefix("module."): parameter for name, parameter in objective.named_parameters()}
    assert all(parameter.grad is not None for parameter in parameters.values())
    return loss, {name: parameter.grad for name, parameter in parameters.items()}


def averaged(objective, views):
    loss, gradients = measured(objective, views)
    return {"loss": mean(loss), "gradients": {name: mean(value) for name, value in gradients.items()}}


def remembered(views, wrap):
    """Two steps, some of whose images are the same, so that the second depends on what the first left."""
    torch.manual_seed(0)
    prior = MixturePrior(latent, 20, style_variance=0.07, unit_norm=True, learn_prototypes=False)
    guide = DeltaGuide(encoder(), prior, unit_norm=True)
    objective = InstanceDiscrimination(SimVE(prior), guide).double().train()
    module = nn.parallel.DistributedDataParallel(objective) if wrap else objective
    steps = []
    for index in (torch.tensor([9, 4, 0, 13, 7, 2, 19, 5]), torch.tensor([4, 1, 9, 11, 5, 17, 3, 7])):
        module.zero_grad()
        loss = module(batch(views)[:, rank::world].contiguous(), index[rank::world])["loss"]
        loss.backward()
        found = {name: parameter.grad.clone() for name, parameter in objective.named_parameters()}
        if not wrap:
            found = {name: mean(value) for name, value in found.items()}
        steps.append({"loss": mean(loss), "gradients": found, "bank": prior.points.clone()})
    return {"first step": steps[0], "second step": steps[1]}


if world > 1:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
results = {}
for case in cases:
    for views in (2, 3):
        joint = batch(views)
        own = joint[:, rank::world].contiguous()
        found = {"trained": averaged(build(case).train(), own)}
        if world > 1:
            wrapped = nn.parallel.DistributedDataParallel(build(case).train())
            loss, gradients = measured(wrapped, own)
            found["wrapped"] = {"loss": mean(loss), "gradients": gradients}
            found["apart"] = averaged(build(case).eval(), own)
        if rank == 0:  # alone: the other process has nothing to do with it
            loss, gradients = measured(build(case).eval(), joint)
            found["evaluated"] = {"loss": loss.detach(), "gradients": gradients}
        results[f"{case}, {views} views"] = found
for views in (1, 2):
    results[f"remembered, {views} views"] = remembered(views, wrap=False)
    results[f"remembered, {views} views, wrapped"] = remembered(views, wrap=world > 1)
torch.save(results, folder / f"rank{rank}of{world}.pt")
if world > 1:
    torch.distributed.destroy_process_group()
'''

NAMES = [
    "images",
    "images, any norm",
    "images, learned temperature",
    "images, particles",
    "views",
    "views, any norm",
    "views, learned temperature",
    "views, particles",
    "views, bridge",
    "kernel",
    "kernel, any norm, chunks",
    "logdet",
    "vicreg",
    "swapped",
    "swapped, any norm and weight",
]
CASES = [f"{name}, {views} views" for name in NAMES for views in (2, 3)]
REMEMBERED = [f"remembered, {views} views{how}" for views in (1, 2) for how in ("", ", wrapped")]
Results = dict[str, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("gathered")
    (made / "script.py").write_text(SCRIPT)
    return made


@pytest.fixture(scope="module")
def two(folder: Path) -> list[Results]:
    """What each of two processes found; one that waits for the other in vain gives up after a minute."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::UserWarning"}
    running = [
        subprocess.Popen([sys.executable, "script.py", str(rank), "2"], cwd=folder, env=environment)
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    return [torch.load(folder / f"rank{rank}of2.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def one(folder: Path) -> Results:
    """What one process finds of the joint batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["script.py", "0", "1"])
        patch.chdir(folder)
        runpy.run_path("script.py")
    found: Results = torch.load(folder / "rank0of1.pt", weights_only=True)
    return found


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-10, atol=1e-10)
    assert list(found["gradients"]) == list(expected["gradients"])
    for name, gradient in expected["gradients"].items():
        torch.testing.assert_close(found["gradients"][name], gradient, rtol=1e-10, atol=1e-10, msg=name)


def distance(found: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of a gradient."""
    pairs = zip(found["gradients"].values(), other["gradients"].values(), strict=True)
    return max(float((mine - theirs).abs().max()) for mine, theirs in pairs)


@pytest.mark.parametrize("how", ["trained", "wrapped"])
@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_loss_and_gradient_of_the_joint_batch(
    one: Results, two: list[Results], case: str, how: str
) -> None:
    """Averaged here, and by DistributedDataParallel itself."""
    for name, gradient in one[case]["trained"]["gradients"].items():
        # Without norms nothing depends on where z is, so its bias has no gradient.
        assert name.endswith("head.bias") or gradient.abs().max() > 1e-4
    for rank in two:
        assert_same(rank[case][how], one[case]["trained"])


@pytest.mark.parametrize("case", CASES)
def test_each_process_among_its_own_images_is_another_loss(one: Results, two: list[Results], case: str) -> None:
    for rank in two:
        assert abs(float(rank[case]["apart"]["loss"] - one[case]["trained"]["loss"])) > 1e-3
        assert distance(rank[case]["apart"], one[case]["trained"]) > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_one_process_is_evaluated_alone(one: Results, two: list[Results], case: str) -> None:
    """Though the other is there, and asks nothing."""
    assert_same(two[0][case]["evaluated"], one[case]["evaluated"])
    assert torch.equal(one[case]["evaluated"]["loss"], one[case]["trained"]["loss"])
    assert distance(one[case]["evaluated"], one[case]["trained"]) == 0


@pytest.mark.parametrize("case", [case for case in CASES if "learned" in case])
def test_the_temperature_is_learned_from_all(one: Results, two: list[Results], case: str) -> None:
    (name,) = [name for name in one[case]["trained"]["gradients"] if "log_excess" in name]
    for rank in two:
        joint, apart = one[case]["trained"]["gradients"][name], rank[case]["apart"]["gradients"][name]
        assert abs(float(joint - apart)) > 1e-3


def test_the_cases_are_all_there(one: Results) -> None:
    assert list(one) == CASES + REMEMBERED


@pytest.mark.parametrize("step", ["first step", "second step"])
@pytest.mark.parametrize("case", REMEMBERED)
def test_two_processes_remember_what_one_does_of_the_joint_batch(
    one: Results, two: list[Results], case: str, step: str
) -> None:
    """Every process all of it, to the same bits."""
    for rank in two:
        assert_same(rank[case][step], one[case][step])
        torch.testing.assert_close(rank[case][step]["bank"], one[case][step]["bank"], rtol=1e-10, atol=1e-10)
        assert torch.equal(rank[case][step]["bank"], two[0][case][step]["bank"])


@pytest.mark.parametrize("case", REMEMBERED)
def test_what_is_remembered_moves_on(one: Results, case: str) -> None:
    first, second = (one[case][step] for step in ("first step", "second step"))
    moved = (first["bank"] - second["bank"]).abs().amax(-1) > 1e-3
    assert moved.nonzero().flatten().tolist() == [1, 3, 4, 5, 7, 9, 11, 17]
    assert abs(float(first["loss"] - second["loss"])) > 1e-3
    assert all(gradient.abs().max() > 1e-4 for gradient in second["gradients"].values())
