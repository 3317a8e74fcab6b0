"""`python -m pp_simve.export`: files for programs without pp_simve give the features of the run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, safe_open
from torch import nn

from pp_simve import export, load_run
from pp_simve.commands import run_export
from pp_simve.inference.exporting import FeatureModule, exported, plain_network

from .command import write_npz
from .test_embed import unfitted

NEEDS_ONNX = pytest.mark.skipif(
    not (importlib.util.find_spec("onnxscript") and importlib.util.find_spec("onnxruntime")),
    reason="the extra pp_simve[export] is not installed",
)
FORMATS = [pytest.param("onnx", marks=NEEDS_ONNX), "pt2", "safetensors"]


def run(*arguments: str) -> int:
    """The exit code of a command line."""
    try:
        return export.main(arguments)
    except SystemExit as end:  # tyro's way out
        return int(end.code or 0)


@pytest.mark.parametrize("to", FORMATS)
def test_files_give_the_features_of_the_run(
    finished_run: Path, folder: Path, capsys: pytest.CaptureFixture[str], to: str
) -> None:
    assert run(str(finished_run), "--to", to, "--out", f"model.{to}") == 0
    assert "largest difference from the run on 64 images" in capsys.readouterr().out
    fitted, images = load_run(finished_run), torch.rand(5, 1, 16, 16)  # another number than what was exported with
    expected = fitted.embed(images, ("backbone", "content"))
    if to == "safetensors":
        encoder: Any = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.ReLU())  # plain torch
        encoder.load_state_dict(load_file("model.safetensors"))
        found = (encoder(images).detach().numpy(),)
        with safe_open("model.safetensors", "pt") as stored:
            assert stored.metadata() == {"images": "float in [0, 1], shape (1, 16, 16)"}
    elif to == "pt2":
        found = tuple(values.detach().numpy() for values in torch.export.load("model.pt2").module()(images))
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession("model.onnx")
        assert [one.name for one in session.get_outputs()] == ["backbone", "content"]
        found = tuple(session.run(None, {"images": images.numpy()}))
    for values, name in zip(found, expected, strict=False):
        np.testing.assert_allclose(values, expected[name], atol=1e-5)


@pytest.mark.parametrize(
    "flags",
    [
        {"method": "vae"},
        {"method": "simclr"},
        {"method": "swav"},
        {"method": "group-vae"},
        {"method": "bridge"},
        {"prior": "student", "guide": "structured"},
        {"prior": "mixture(prototypes=3)"},
        {"encoder": "residual"},
        {"encoder": "resnet18"},
        {"encoder": "timm(name='test_vit', patch_size=4)"},
        {"guide": "flow"},
    ],
    ids=lambda flags: " ".join(flags.values()),
)
def test_guides_and_encoders_become_graphs(flags: dict[str, Any]) -> None:
    fitted = unfitted(*flags.items(), shape=(1, 8, 8))
    names = ("backbone", "z") if flags == {"method": "vae"} else ("backbone", "z", "content", "style")
    module = FeatureModule(fitted.guide, names).eval()
    graph: Any = exported(module, torch.rand(4, 1, 8, 8)).module()
    images = torch.rand(7, 1, 8, 8)
    with torch.no_grad():
        for found, expected in zip(graph(images), module(images), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("guide", ["amortized", "structured", "delta", "point"])
def test_the_encoder_of_a_guide_is_the_one_it_was_given(guide: str) -> None:
    encoder: Any = unfitted(("guide", guide), ("encoder", "resnet18"), shape=(3, 80, 80)).guide.encoder
    network = torchvision.models.resnet18(weights=None)
    missing, unexpected = network.load_state_dict(plain_network(encoder).state_dict(), strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])
    wrapped = nn.Sequential(network)  # as encoders without `features` are
    assert plain_network(wrapped) is network
    halves: Any = unfitted(("guide", guide), ("modalities", "halves")).guide.encoder
    assert list(halves) == ["upper", "lower"]


def test_the_weights_load_in_timm() -> None:
    encoder: Any = unfitted(("encoder", "resnet18"), shape=(3, 80, 80)).guide.encoder
    network = timm.create_model("resnet18", num_classes=0)
    network.load_state_dict(plain_network(encoder).state_dict())
    images = torch.rand(2, 3, 80, 80)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), encoder.eval()(images))
    named: Any = unfitted(("encoder", "timm(name='resnet18')"), shape=(3, 80, 80)).guide.encoder
    network.load_state_dict(plain_network(named).state_dict())


def test_a_file_that_differs_is_not_written(
    finished_run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(module: nn.Module, images: torch.Tensor, names: list[str]) -> Any:
        data, outputs = pt2(module, images, names)
        return data, lambda batch: tuple(1.01 * values for values in outputs(batch))

    pt2 = run_export._pt2
    monkeypatch.setattr(run_export, "_pt2", wrong)
    assert run(str(finished_run), "--to", "pt2", "--out", "model.pt2") == 2
    assert "gives other features than the run" in capsys.readouterr().err
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "torchscript"], "invalid choice 'torchscript'"),
        (["--to", "safetensors", "--what", "backbone"], "leave out --what"),
        (["--to", "pt2", "--what", "styel"], "did you mean 'style'?"),
        (["--to", "pt2", "--out", "no/model.pt2"], "is in no folder that exists"),
        (["--to", "pt2", "--data", "npz:large.npz"], "--image-size 16x16"),
        (["--to", "pt2", "--data", "npz:gone.npz"], "gone.npz does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_writes_nothing(
    finished_run: Path, folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    write_npz(folder / "large.npz", (3, 30, 30))
    before = sorted(finished_run.iterdir())
    assert run(str(finished_run), *arguments) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert sorted(finished_run.iterdir()) == before
    assert [path.name for path in folder.iterdir()] == ["large.npz"]


def test_a_missing_run_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("gone", "--to", "pt2") == 2
    assert capsys.readouterr().err == "error: gone is no run folder: it has no config.json\n"


def test_a_missing_package_is_named(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert run(str(finished_run)) == 2
    assert "pip install 'pp_simve[export]'" in capsys.readouterr().err
