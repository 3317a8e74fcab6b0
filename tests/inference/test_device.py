"""The choice of device and precision."""

from __future__ import annotations

import pytest
import torch

from pp_simve.inference import DeviceError
from pp_simve.inference.device import choose_device, network_dtype, peak_memory_mb

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("visible", "device"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch, visible: bool, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible)
    assert choose_device("auto") == device
    assert choose_device("cpu") == "cpu"


def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"no CUDA device is visible .*use --device cpu"):
        choose_device("cuda")


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_a_precision_asked_for_is_obeyed(device: torch.device) -> None:
    assert network_dtype("32", device) is None
    assert network_dtype("bf16", device) == torch.bfloat16


@pytest.mark.parametrize("capable", [True, False])
def test_auto_precision_is_bfloat16_where_the_hardware_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, capable: bool
) -> None:
    expected = torch.bfloat16 if capable else None
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: capable)
    assert network_dtype("auto", CUDA) == expected
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: capable)
    assert network_dtype("auto", CPU) == expected
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: capable)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert network_dtype("auto", CPU) == expected


def test_peak_memory_is_in_megabytes() -> None:
    before = peak_memory_mb(CPU)
    assert 50 < before < 100_000
    block = torch.ones(10_000_000, dtype=torch.float64)  # 80 MB, written
    assert peak_memory_mb(CPU) >= before
    del block
