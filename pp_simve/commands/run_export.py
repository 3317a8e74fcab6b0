"""The encoder of a fitted run, written for programs without pp_simve and compared with the run."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import safetensors.torch
import torch
from rich.console import Console
from torch import Tensor, nn

from pp_simve.commands.opened import one_run
from pp_simve.commands.options import ExportConfig
from pp_simve.errors import ConfigError, optional_module
from pp_simve.inference.exporting import FeatureModule, exported, plain_network
from pp_simve.inference.tools import write_whole
from pp_simve.run.loaded import LoadedRun, absent, check_names

COMPARED = 64
"""Images that the file is compared on."""
TOLERANCE = 1e-3
"""Largest difference, as a fraction of the largest feature: other kernels sum in another order."""

Outputs = Callable[[Tensor], tuple[Tensor, ...]]


def export_run(config: ExportConfig) -> int:
    """Writes the file; the exit code."""
    console = Console(quiet=config.quiet, highlight=False)
    if config.to == "onnx":
        optional_module("onnxscript", "export", "--to onnx")  # torch's exporter imports it
    with one_run(config, console) as run:
        _export(run, config, console)
    return 0


def _export(run: LoadedRun, config: ExportConfig, console: Console) -> None:
    images = run.first(run.named_data(config.data), COMPARED, **config.reading)
    make = {"onnx": _onnx, "pt2": _pt2, "safetensors": _weights}[config.to]
    with torch.no_grad():
        module: nn.Module = _encoder(run) if config.to == "safetensors" else _features(run, config.names, images)
        expected = _tuple(module(images))
        data, outputs = make(module, images, config.names)
        found = _tuple(outputs(images))
    pairs = list(zip(found, expected, strict=True))
    difference = max(float((one - other).abs().max()) for one, other in pairs)
    largest = max(float(other.abs().max()) for _, other in pairs)
    if not difference <= TOLERANCE * largest:
        raise ConfigError(
            f"the {config.to} file gives other features than the run: they differ by up to {difference:.3g}, the "
            f"largest is {largest:.3g}; nothing was written. Take another format (--to)"
        )
    write_whole(config.place, data)
    console.print(
        f"written to {config.place}; largest difference from the run on {len(images)} images: {difference:.1e} "
        f"(largest feature {largest:.3g})",
        markup=False,
        soft_wrap=True,
    )


def _features(run: LoadedRun, names: list[str], images: Tensor) -> FeatureModule:
    check_names(names)
    module = FeatureModule(run.guide, names).eval()
    for name, values in zip(names, module(images), strict=True):
        if not values.shape[-1]:
            raise ConfigError(absent(name, values))
    return module


def _encoder(run: LoadedRun) -> nn.Module:
    encoder = getattr(run.guide, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ConfigError(f"{type(run.guide).__name__} has no module `encoder`; take --to pt2 or onnx")
    return plain_network(encoder)


def _pt2(module: nn.Module, images: Tensor, names: list[str]) -> tuple[bytes, Outputs]:
    assert isinstance(module, FeatureModule)
    file = io.BytesIO()
    torch.export.save(exported(module, images), file)
    data = file.getvalue()
    return data, torch.export.load(io.BytesIO(data)).module()


def _onnx(module: nn.Module, images: Tensor, names: list[str]) -> tuple[bytes, Outputs]:
    onnxruntime = optional_module("onnxruntime", "export", "--to onnx")
    assert isinstance(module, FeatureModule)
    graph = exported(module, images)
    program = torch.onnx.export(
        graph, (images,), dynamo=True, input_names=["images"], output_names=names, verbose=False
    )
    assert program is not None
    data = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return data, lambda batch: tuple(map(torch.from_numpy, session.run(names, {"images": batch.numpy()})))


def _weights(module: nn.Module, images: Tensor, names: list[str]) -> tuple[bytes, Outputs]:
    state = {name: values.detach().contiguous().clone() for name, values in module.state_dict().items()}
    data = safetensors.torch.save(state, {"images": "float in [0, 1], shape " + str(tuple(images.shape[1:]))})
    read = copy.deepcopy(module)
    for values in read.state_dict().values():
        values.zero_()
    read.load_state_dict(safetensors.torch.load(data))
    return data, read


def _tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple | list) else (outputs,)
