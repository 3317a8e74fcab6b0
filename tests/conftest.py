"""For every test: one thread, fixed seeds, and a guard that fails tests which leave a global setting changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyro
import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """On small tensors, threads that wait for one another cost more than they save."""
    torch.set_num_threads(1)


def global_settings() -> dict[str, Any]:
    """Everything global that library or test code could change and that would leak into the next test."""
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "deterministic warnings only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn deterministic": torch.backends.cudnn.deterministic,
        "cudnn benchmark": torch.backends.cudnn.benchmark,
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "grad mode": torch.is_grad_enabled(),
        "autocast on CPU": torch.is_autocast_enabled("cpu"),
        "autocast on CUDA": torch.is_autocast_enabled("cuda"),
        "parameters in Pyro's store": sorted(pyro.get_param_store().keys()),
    } | {f"pyro.settings {name}": value for name, value in pyro.settings.get().items()}


def restore(settings: dict[str, Any]) -> None:
    """Puts back what `global_settings` reported, so that only the culprit fails."""
    torch.set_default_dtype(settings["default dtype"])
    torch.set_default_device(settings["default device"])
    torch.set_num_threads(settings["threads"])
    torch.use_deterministic_algorithms(
        settings["deterministic algorithms"], warn_only=settings["deterministic warnings only"]
    )
    torch.backends.cudnn.deterministic = settings["cudnn deterministic"]
    torch.backends.cudnn.benchmark = settings["cudnn benchmark"]
    torch.set_float32_matmul_precision(settings["float32 matmul precision"])
    torch.set_grad_enabled(settings["grad mode"])
    torch.set_autocast_enabled("cpu", settings["autocast on CPU"])
    torch.set_autocast_enabled("cuda", settings["autocast on CUDA"])
    pyro.clear_param_store()
    prefix = "pyro.settings "
    pyro.settings.set(
        **{name.removeprefix(prefix): value for name, value in settings.items() if name.startswith(prefix)}
    )


@pytest.fixture(autouse=True)
def settings_left_alone() -> Iterator[None]:
    """Seeds the test, and fails it if a global setting differs afterwards."""
    pyro.set_rng_seed(0)
    before = global_settings()
    yield
    after = global_settings()
    changed = [f"{name}: {before[name]} -> {after[name]}" for name in before if before[name] != after[name]]
    if changed:
        restore(before)
        pytest.fail("global settings left changed: " + "; ".join(changed))


@pytest.fixture
def local_parameters() -> Iterator[None]:
    """Parameters belong to their module, not to Pyro's global store."""
    with pyro.settings.context(module_local_params=True):
        yield
    pyro.clear_param_store()
