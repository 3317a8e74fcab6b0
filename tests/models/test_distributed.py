"""Values of all processes: in the order of ranks, with the gradient of every process's loss."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pp_simve.models.distributed import gathered

DOUBLE = torch.float64
SCRIPT = """
import sys
from datetime import timedelta
from pathlib import Path

import torch

from pp_simve.models.distributed import gathered

torch.set_num_threads(1)
folder, rank = Path.cwd(), int(sys.argv[1])
patience = timedelta(seconds=60)
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2, timeout=patience
)
generator = torch.Generator().manual_seed(rank)
results = {}
for dim in (0, 1, 2, -1, -2):
    leaf = torch.randn(4, 3, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    values = leaf.transpose(0, 1)  # shape (3, 4, 2), not contiguous
    everyone, first = gathered(values, dim)
    weights = torch.randn(everyone.shape, dtype=torch.float64, generator=generator)
    (gradient,) = torch.autograd.grad((weights * everyone.square()).sum(), values)
    results[dim] = {"own": values, "everyone": everyone, "first": first, "weights": weights, "gradient": gradient}

with torch.no_grad():
    everyone, _ = gathered(leaf, 0)
plain, _ = gathered(leaf.detach(), 0)
results["constant"] = {
    "same": torch.equal(everyone, plain), "followed": [everyone.requires_grad, plain.requires_grad]
}
numbers, _ = gathered(torch.tensor([rank, 10 + rank]), 0)
results["integers"] = numbers

leaf = torch.ones(2, requires_grad=True)
everyone, _ = gathered(leaf, 0)
given = torch.arange(4.0)
(gradient,) = torch.autograd.grad(everyone, leaf, given)
results["untouched"] = {"given": given, "gradient": gradient}
torch.save(results, folder / f"rank{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[object, dict[str, torch.Tensor]]]:
    """What each of two processes saved; a process that is left alone gives up after a minute."""
    folder = tmp_path_factory.mktemp("gathering")
    (folder / "script.py").write_text(SCRIPT)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::UserWarning"}
    running = [
        subprocess.Popen([sys.executable, "script.py", str(rank)], cwd=folder, env=environment) for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2])
def test_values_stand_side_by_side_in_the_order_of_ranks(
    ranks: list[dict[object, dict[str, torch.Tensor]]], dim: int
) -> None:
    expected = torch.cat([rank[dim]["own"] for rank in ranks], dim)
    size = ranks[0][dim]["own"].shape[dim]
    for place, rank in enumerate(ranks):
        assert torch.equal(rank[dim]["everyone"], expected)
        assert rank[dim]["first"] == place * size


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2])
def test_the_gradient_is_the_sum_over_the_losses_of_all(
    ranks: list[dict[object, dict[str, torch.Tensor]]], dim: int
) -> None:
    """Of Σ w x² over both processes, by hand: 2 x times the weights of both."""
    both = ranks[0][dim]["weights"] + ranks[1][dim]["weights"]
    for rank in ranks:
        own = rank[dim]["own"]
        first = int(rank[dim]["first"])
        expected = 2 * own * both.narrow(dim, first, own.shape[dim])
        torch.testing.assert_close(rank[dim]["gradient"], expected, rtol=1e-12, atol=1e-12)


def test_values_without_a_gradient_are_gathered_too(ranks: list[dict[object, dict[str, torch.Tensor]]]) -> None:
    for rank in ranks:
        assert rank["constant"] == {"same": True, "followed": [False, False]}
        assert torch.equal(torch.as_tensor(rank["integers"]), torch.tensor([0, 10, 1, 11]))


def test_the_gradient_that_comes_in_is_left_alone(ranks: list[dict[object, dict[str, torch.Tensor]]]) -> None:
    for place, rank in enumerate(ranks):
        assert torch.equal(rank["untouched"]["given"], torch.arange(4.0))
        assert torch.equal(rank["untouched"]["gradient"], 2 * torch.arange(4.0)[2 * place : 2 * place + 2])


def test_without_other_processes_it_is_the_very_same_tensor(tmp_path: Path) -> None:
    values = torch.randn(2, 3, requires_grad=True)
    found, first = gathered(values, 1)
    assert found is values
    assert first == 0
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        found, first = gathered(values, 1)
    finally:
        torch.distributed.destroy_process_group()
    assert found is values
    assert first == 0
