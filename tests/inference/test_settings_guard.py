"""The guard of global settings guards."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pytest
import torch

from ..conftest import global_settings, restore

CHANGES: dict[str, Callable[[], object]] = {
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "threads": lambda: torch.set_num_threads(2),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "grad mode": lambda: torch.set_grad_enabled(False),
    "autocast on CPU": lambda: torch.set_autocast_enabled("cpu", True),
    "parameters in Pyro's store": lambda: pyro.param("left", torch.zeros(1)),
    "pyro.settings validate_infer": lambda: pyro.enable_validation(False),
    "pyro.settings module_local_params": lambda: pyro.settings.set(module_local_params=True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_setting_is_seen_and_can_be_put_back(name: str) -> None:
    before = global_settings()
    CHANGES[name]()
    seen = global_settings()
    restore(before)
    assert seen[name] != before[name]
    assert global_settings() == before


def test_each_test_starts_from_the_same_seed() -> None:
    start = torch.get_rng_state()
    pyro.set_rng_seed(0)
    assert torch.equal(torch.get_rng_state(), start)


def test_tests_run_on_one_thread() -> None:
    assert torch.get_num_threads() == 1
