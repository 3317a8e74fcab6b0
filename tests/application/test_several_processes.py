"""Several processes are one run, whatever starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pp_simve.run.folder import RunFolder

from .command import SMALL, results

FIT = ("-m", "pp_simve.fit", *SMALL, "--steps", "4")


def ended(folder: Path, commands: list[tuple[str, ...]], variables: list[dict[str, str]]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of Python programs that run at the same time."""
    running = [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command, own in zip(commands, variables, strict=True)
    ]
    printed = [process.communicate(timeout=120) for process in running]
    return [(process.returncode, *texts) for process, texts in zip(running, printed, strict=True)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """Metrics of the processes that the command starts itself, whatever is left over from other programs."""
    folder = tmp_path_factory.mktemp("own")
    left_over = {"LOCAL_RANK": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    return one_run(folder, ended(folder, [(*FIT, "--devices", "2")], [left_over]))


def one_run(folder: Path, processes: list[tuple[int, str, str]]) -> list[dict[str, float]]:
    """The metrics of the only run in a folder, which one process has reported."""
    assert [code for code, *_ in processes] == [0] * len(processes), processes
    assert [errors for *_, errors in processes] == [""] * len(processes)
    output = "".join(printed for _, printed, _ in processes)
    assert output.count("linear probe") == output.count("scores are computed by the first process alone") == 1
    assert [path.name for path in folder.iterdir()] == ["runs"]
    (run,) = (folder / "runs").iterdir()
    assert results(run)["steps"] == 4
    assert not list(run.glob(".*"))
    return RunFolder(run).read_metrics()


def test_two_nodes_of_torchrun_are_one_run(folder: Path, expected: list[dict[str, float]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    place = ("--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", port)
    nodes = [("-m", "torch.distributed.run", *place, "--node-rank", rank, *FIT) for rank in "01"]
    assert [row["step"] for row in expected] == [1, 2, 3, 4]
    assert one_run(folder, ended(folder, nodes, [{}, {}])) == expected


def test_a_folder_that_is_taken_ends_all_with_one_message(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "notes.txt").touch()
    ((code, out, errors),) = ended(folder, [(*FIT, "--devices", "2", "--out", "run")], [{}])
    assert (code, out) == (2, "")
    assert errors.count("error:") == 1
    assert errors.startswith("error: run exists")
