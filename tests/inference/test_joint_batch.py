"""Two processes that share a batch compare with all of it: loss and gradient of one process with the joint batch.

Below it, what is gathered of all processes: in the order of ranks, with the gradient of every process's loss.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pp_simve.models.distributed import gathered

SCRIPT = '''
import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch import nn

from pp_simve.inference import (
    ELBO,
    Balanced,
    DeltaGuide,
    GaussianEntropy,
    DecoderFreeELBO,
    InstanceDiscrimination,
    KernelEntropy,
    MoCo,
    SwAV,
    VICRegEntropy,
)
from pp_simve.models import InfoNCE, NTXent, Bernoulli, FlatPrior, GaussianPrior, MixturePrior, SimVE
from pp_simve.models.distributed import gathered

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


def balanced():
    """A weight that is measured at each step, over all processes."""
    prior = GaussianPrior(latent)
    decoder = nn.Sequential(nn.Linear(latent, pixels), nn.Unflatten(-1, (1, 4, 4)))
    model = SimVE(prior, Bernoulli(decoder), NTXent(0.3, width=2))
    return ELBO(model, DeltaGuide(encoder(), prior), alpha=Balanced(0.3), backbone=InfoNCE(0.5))


def queued():
    """A queue of the keys of all processes."""
    prior = FlatPrior(latent)
    return MoCo(SimVE(prior, group=InfoNCE(0.3)), DeltaGuide(encoder(), prior), queue=60, momentum=0.5)


def two_steps(make, views, wrap):
    """Two steps, of which the second depends on what the first left."""
    torch.manual_seed(0)
    objective = make().double()
    module = nn.parallel.DistributedDataParallel(objective) if wrap else objective
    steps = []
    for other in (0, 10):
        module.zero_grad()
        terms = module(batch(views + other)[:views, rank::world].contiguous())
        terms["loss"].backward()
        trained = {name: parameter for name, parameter in objective.named_parameters() if parameter.requires_grad}
        found = {name: parameter.grad.clone() if wrap else mean(parameter.grad) for name, parameter in trained.items()}
        left = [objective.queue.sum(0)] if make is queued else [terms["alpha"], terms["cosine"]]
        steps.append({"loss": mean(terms["loss"]), "gradients": found, "left": left})
    return {"first step": steps[0], "second step": steps[1]}


def gathering():
    """Values and gradients along each dimension, constants, integers, and a gradient that must stay as it is."""
    generator, results = torch.Generator().manual_seed(rank), {}
    for dim in (0, 1, 2, -1, -2):
        leaf = torch.randn(4, 3, 2, dtype=torch.float64, generator=generator, requires_grad=True)
        own = leaf.transpose(0, 1)  # shape (3, 4, 2), not contiguous
        everyone, first = gathered(own, dim)
        weights = torch.randn(everyone.shape, dtype=torch.float64, generator=generator)
        (gradient,) = torch.autograd.grad((weights * everyone.square()).sum(), own)
        results[dim] = {"own": own, "everyone": everyone, "first": first, "weights": weights, "gradient": gradient}
    with torch.no_grad():
        constant, _ = gathered(leaf, 0)
    plain, _ = gathered(leaf.detach(), 0)
    integers, _ = gathered(torch.tensor([rank, 10 + rank]), 0)
    leaf, given = torch.ones(2, requires_grad=True), torch.arange(4.0)
    (gradient,) = torch.autograd.grad(gathered(leaf, 0)[0], leaf, given)
    followed = [torch.equal(constant, plain), constant.requires_grad, plain.requires_grad]
    return results | {"followed": followed, "integers": integers, "given": given, "gradient": gradient}


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
for views in (2, 3):
    for make in (balanced, queued):
        results[f"{make.__name__}, {views} views"] = two_steps(make, views, wrap=False)
        results[f"{make.__name__}, {views} views, wrapped"] = two_steps(make, views, wrap=world > 1)
torch.save(results, folder / f"rank{rank}of{world}.pt")
if world > 1:
    torch.save(gathering(), folder / f"gathered{rank}.pt")
    torch.distributed.destroy_process_group()
'''

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


def assert_same(found: dict[str, Any], expected: dict[str, Any], case: str) -> None:
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-10, atol=1e-10, msg=case)
    torch.testing.assert_close(found["gradients"], expected["gradients"], rtol=1e-10, atol=1e-10, msg=case)


def distance(found: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of a gradient."""
    pairs = zip(found["gradients"].values(), other["gradients"].values(), strict=True)
    return max(float((mine - theirs).abs().max()) for mine, theirs in pairs)


def test_two_processes_have_the_loss_and_gradient_of_the_joint_batch(one: Results, two: list[Results]) -> None:
    """Averaged here, and by DistributedDataParallel itself; among its own images alone, each has another."""
    cases = [case for case in one if not case.startswith(("remembered", "balanced", "queued"))]
    assert len(cases) == 30
    for case in cases:
        joint = one[case]["trained"]
        for name, gradient in joint["gradients"].items():
            # Without norms nothing depends on where z is, so its bias has no gradient.
            assert name.endswith("head.bias") or gradient.abs().max() > 1e-4, case
        for rank in two:
            apart = rank[case]["apart"]
            for how in ("trained", "wrapped"):
                assert_same(rank[case][how], joint, case)
            assert abs(float(apart["loss"] - joint["loss"])) > 1e-3, case
            assert distance(apart, joint) > 1e-3, case
            for name in (name for name in joint["gradients"] if "log_excess" in name):
                assert abs(float(joint["gradients"][name] - apart["gradients"][name])) > 1e-3, case
        # One process is evaluated alone, though the other is there.
        evaluated = one[case]["evaluated"]
        assert_same(two[0][case]["evaluated"], evaluated, case)
        assert torch.equal(evaluated["loss"], joint["loss"]), case
        assert distance(evaluated, joint) == 0, case


def test_two_processes_remember_what_one_does_of_the_joint_batch(one: Results, two: list[Results]) -> None:
    """Every process all of it, to the same bits."""
    cases = [case for case in one if case.startswith("remembered")]
    assert len(cases) == 4
    for case in cases:
        for rank in two:
            for step, expected in one[case].items():
                assert_same(rank[case][step], expected, case)
                torch.testing.assert_close(rank[case][step]["bank"], expected["bank"], rtol=1e-10, atol=1e-10, msg=case)
                assert torch.equal(rank[case][step]["bank"], two[0][case][step]["bank"]), case
        first, second = one[case]["first step"], one[case]["second step"]
        moved = (first["bank"] - second["bank"]).abs().amax(-1) > 1e-3
        assert moved.nonzero().flatten().tolist() == [1, 3, 4, 5, 7, 9, 11, 17], case
        assert abs(float(first["loss"] - second["loss"])) > 1e-3, case
        assert all(gradient.abs().max() > 1e-4 for gradient in second["gradients"].values()), case


@pytest.mark.parametrize("name", ["balanced", "queued"])
def test_two_processes_leave_what_one_does_of_the_joint_batch(name: str, one: Results, two: list[Results]) -> None:
    """The balanced weight; keys of the queue, whose order is another."""
    cases = [case for case in one if case.startswith(name)]
    assert len(cases) == 4
    for case in cases:
        for rank in two:
            for step, expected in one[case].items():
                assert_same(rank[case][step], expected, case)
                torch.testing.assert_close(rank[case][step]["left"], expected["left"], rtol=1e-10, atol=1e-10)
        first, second = (one[case][step]["left"][0] for step in ("first step", "second step"))
        assert not torch.equal(first, second)


# What is gathered of all processes.


@pytest.fixture(scope="module")
def gatherings(folder: Path, two: list[Results]) -> list[dict[Any, Any]]:
    return [torch.load(folder / f"gathered{rank}.pt", weights_only=True) for rank in range(len(two))]


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2])
def test_values_of_all_are_in_the_order_of_ranks_and_have_the_gradient_of_all(
    gatherings: list[dict[Any, Any]], dim: int
) -> None:
    """Of Σ w x² over both processes, by hand: 2 x times the weights of both."""
    everyone = torch.cat([rank[dim]["own"] for rank in gatherings], dim)
    weights = gatherings[0][dim]["weights"] + gatherings[1][dim]["weights"]
    for place, rank in enumerate(gatherings):
        own = rank[dim]["own"]
        assert torch.equal(rank[dim]["everyone"], everyone)
        assert rank[dim]["first"] == place * own.shape[dim]
        expected = 2 * own * weights.narrow(dim, rank[dim]["first"], own.shape[dim])
        torch.testing.assert_close(rank[dim]["gradient"], expected, rtol=1e-12, atol=1e-12)


def test_constants_and_integers_are_gathered_and_the_gradient_that_comes_in_is_left_alone(
    gatherings: list[dict[Any, Any]],
) -> None:
    for place, rank in enumerate(gatherings):
        assert rank["followed"] == [True, False, False]
        assert rank["integers"].tolist() == [0, 10, 1, 11]
        assert torch.equal(rank["given"], torch.arange(4.0))
        assert torch.equal(rank["gradient"], 2 * torch.arange(4.0)[2 * place : 2 * place + 2])


def test_without_other_processes_it_is_the_very_same_tensor(tmp_path: Path) -> None:
    values = torch.randn(2, 3, requires_grad=True)
    assert gathered(values, 1) == (values, 0)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        found, first = gathered(values, 1)
    finally:
        torch.distributed.destroy_process_group()
    assert found is values
    assert first == 0
