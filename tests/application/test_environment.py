"""What commands set for libraries: waiting, threads, backends; and folders that are taken for packages."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import pp_simve
from pp_simve.run.console import exit_code, interruptible
from pp_simve.run.environment import chosen_threads, threads_for
from pp_simve.run.tracking import _optional

SCRIPT = """
from pp_simve.run.console import exit_code
from pp_simve.run.environment import chosen_threads


def command():
    import matplotlib
    import torch

    torch.set_num_threads(8)
    with chosen_threads(2**20):
        print(torch.get_num_threads(), end=" ")
    print(torch.get_num_threads(), matplotlib.get_backend(auto_select=False))
    return 0


exit_code(command)
"""


@pytest.mark.parametrize(
    ("variables", "waiting", "printed"),
    [
        ({}, "PASSIVE", "4 8 None"),
        ({"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "3"}, "ACTIVE", "8 8 None"),
        ({"GOMP_SPINCOUNT": "7", "MPLBACKEND": "svg"}, "", "4 8 svg"),
        ({"MPLBACKEND": "module://not_installed.backend_inline"}, "PASSIVE", "4 8 None"),
        ({"MPLBACKEND": "module://matplotlib.backends.backend_svg"}, "PASSIVE", "4 8 module://matplotlib"),
    ],
)
def test_commands_wait_passively_and_keep_what_the_user_has_set(
    variables: dict[str, str], waiting: str, printed: str
) -> None:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MPLBACKEND")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment | {"OMP_DISPLAY_ENV": "TRUE"} | variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ended.stdout.startswith(printed)
    assert (f"OMP_WAIT_POLICY = '{waiting}'" in ended.stderr) == bool(waiting)  # as OpenMP itself has read it


@pytest.mark.parametrize(
    ("most", "values", "expected"),
    [(1, None, 1), (2, None, 1), (16, None, 15), (16, 256 * 256, 1), (16, 256 * 3 * 32 * 32, 3), (2, 10**9, 1)],
)
def test_threads_are_those_that_the_work_keeps_busy(most: int, values: int | None, expected: int) -> None:
    assert threads_for(most, values) == expected


def test_the_threads_of_a_program_that_calls_a_command_stay() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with chosen_threads(1):
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_outside_the_main_thread_nothing_interrupts() -> None:
    answers: list[bool] = []

    def work() -> None:
        with interruptible() as interruption:
            answers.append(interruption())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]


def test_a_folder_of_the_name_of_the_package_ends_commands_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pp_simve, "__file__", None)
    assert exit_code(lambda: 0) == 2
    assert "for the installed pp_simve; start the command from another folder" in capsys.readouterr().err


def test_a_folder_of_the_name_of_a_tracker_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tracker_folder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"not installed, and .*tracker_folder is a folder without it\); pip install"):
        _optional("tracker_folder", "WandB")
    monkeypatch.delitem(sys.modules, "tracker_folder")
