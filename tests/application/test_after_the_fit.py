"""The page on what follows a fit, from a folder of images to a shared run, as a reader would type it."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from pp_simve.__main__ import main

from .command import SMALL
from .data_fixtures import write_classes
from .test_hub import FakeHub, hub  # noqa: F401 (a fixture)

PAGE = Path(__file__).parents[2] / "docs/after_the_fit.md"


def test_the_page_runs(hub: FakeHub, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811 (fixture)
    write_classes(folder / "photos", {"cat": 40, "dog": 40})
    write_classes(folder / "new_photos", {"cat": 12, "dog": 12}, start=1000)
    session: dict[str, object] = {"__name__": "page"}
    steps = re.findall(r"(?ms)^    python -m pp_simve\.([^#\n]+)|^```python\n(.*?)^```", PAGE.read_text())
    assert len(steps) > 8
    for command, code in steps:
        if "onnx" in command + code and not (find_spec("onnxscript") and find_spec("onnxruntime")):
            continue  # the extra is not installed
        if code:
            exec(compile(code, PAGE.name, "exec"), session)
        else:
            name, *arguments = shlex.split(command)
            assert main([name, *arguments, *(SMALL if name == "fit" else [])]) == 0, capsys.readouterr().err
    assert session["several"].shape == (24, 8)  # type: ignore[attr-defined]
    assert {"features.npz", "model.pt2", "encoder.safetensors"} <= {path.name for path in folder.iterdir()}
