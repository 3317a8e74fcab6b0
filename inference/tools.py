"""Small tools: pixel range, modes and gradients of modules, random state, optional packages, whole files, memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def default_float(images: Tensor) -> Tensor:
    """Float images of the default type, as networks need them; uint8 images as they are."""
    return images if images.dtype == torch.uint8 else images.to(torch.get_default_dtype())


def unit_range(images: Tensor) -> Tensor:
    """uint8 images as floats of the default type in [0, 1]; float images as they are."""
    return images.to(torch.get_default_dtype()).div_(255) if images.dtype == torch.uint8 else images


def seeds(seed: int) -> Iterator[int]:
    """An endless sequence of seeds, one for each batch or split."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield int(torch.randint(2**62, (1,), generator=generator))


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Context with a module in evaluation mode; afterwards each of its parts is in its former mode."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        module.train(modes[module])
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Context with modules in evaluation mode and parameters without gradient; afterwards all is as before."""
    wanted = {parameter: parameter.requires_grad for module in modules for parameter in module.parameters()}
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(evaluation_mode(module))
        for parameter in wanted:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter, gradient in wanted.items():
                parameter.requires_grad_(gradient)


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Context that restores the global random states, which Pyro draws from, at its end."""
    with torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
        yield


def optional_module(name: str, extra: str, use: str) -> Any:
    """A module of an optional dependency.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise ImportError(f"{use} needs {name.partition('.')[0]}: pip install 'pp_simve[{extra}]'") from None


def write_whole(path: Path, data: bytes | bytearray | memoryview) -> None:
    """Writes a file under a temporary name beside ``path`` and renames it, so that no half file ever has the name.

    Raises:
        OSError: the disk is full, the folder not writable, ...; the temporary file is gone and an older file intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def memory_at_hand() -> int | None:
    """Bytes of memory of this machine, or of the container where that has less; None where the system does not say."""
    found = []
    with suppress(AttributeError, OSError, ValueError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):
        found.append(int(CONTAINER_LIMIT.read_text()))
    return min(found, default=None)
