"""Device, network precision and memory use."""

from __future__ import annotations

import resource
import sys
from typing import Literal

import torch

DeviceName = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "32", "bf16"]


class DeviceError(ValueError):
    """Requested device that is not available."""


def choose_device(name: DeviceName) -> Literal["cpu", "cuda"]:
    """``auto`` is CUDA where there is a GPU.

    Raises:
        DeviceError: ``cuda`` without a GPU.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("no CUDA device is visible to torch on this machine; use --device cpu, or auto")
    return name


def network_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """The type networks are autocast to; None for float32.

    ``auto`` is bfloat16 where the hardware supports it: CUDA from Ampere on, CPUs with AVX512-BF16 or AMX.
    """
    if precision == "32":
        return None
    if precision == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    supported = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if supported else None


def device_name(device: torch.device) -> str:
    """The GPU's name, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def peak_memory_mb(device: torch.device) -> float:
    """Highest memory so far in megabytes: allocated on a GPU, resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
