"""Runs fitted from Python: saved, loaded, evaluated and diagnosed like runs of the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pp_simve import diagnose, embed, evaluate, load_data, load_run, save_run
from pp_simve.data import ImageData
from pp_simve.errors import ConfigError
from pp_simve.inference import CheckpointFile, Run, fit
from pp_simve.inference.augmentations import AugmentationPolicy, Compose, RandomFlip

from .command import results, run

pytestmark = pytest.mark.usefixtures("evaluated_quickly")

PROGRAMS = """
from pp_simve.inference import ELBO, AmortizedGuide, MLPEncoder
from pp_simve.models import Bernoulli, GaussianPrior, MLPDecoder, SimVE


def build(shape, width=16):
    prior = GaussianPrior(4)
    model = SimVE(prior, Bernoulli(MLPDecoder(4, shape, hidden=[width])))
    return model, AmortizedGuide(MLPEncoder(shape, hidden=[width]), prior)


def wider(shape):
    return build(shape, width=17)


def with_objective(shape):
    model, guide = build(shape)
    return model, guide, ELBO(model, guide, beta=0.5)


def model_only(shape):
    return build(shape)[0]


class Stub:
    pass
"""


@pytest.fixture
def programs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the user's."""
    (folder / "own_programs.py").write_text(PROGRAMS)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield __import__("own_programs")
    del sys.modules["own_programs"]


@pytest.fixture
def digits() -> ImageData:
    return load_data("digits")


def fitted(build: Callable[..., Any], data: Any, **arguments: Any) -> Run:
    torch.manual_seed(0)
    model, guide, *objective = build((1, 16, 16))
    options = {"objective": objective[0] if objective else None, "steps": 4, "batch_size": 32, "device": "cpu"}
    return fit(model, guide, data, **options | arguments)


@pytest.mark.parametrize("name", ["build", "with_objective"])
def test_a_saved_run_is_evaluated_diagnosed_and_loaded(
    programs: Any, digits: ImageData, folder: Path, name: str
) -> None:
    build = getattr(programs, name)
    fit_run = fitted(build, digits)
    saved = save_run(fit_run, "run", digits, build=build)
    assert saved.path == Path("run")
    assert saved.finished
    assert results(Path("run"))["content"]["linear"] is not None
    assert saved.read_metrics() == fit_run.history
    assert run("--resume", "run") == 2
    for main, flags in ((evaluate.main, ["--rows", "50"]), (diagnose.main, ["--images", "4", "--simulations", "4"])):
        assert main(["run", *flags]) == 2, "its module is not trusted"
        assert main(["run", *flags, "--trust-parts", "--quiet"]) == 0
    loaded = load_run("run", trust_parts=True)
    by_hand = build((1, 16, 16))
    again = load_run("run", **dict(zip(("model", "guide", "objective"), by_hand, strict=False)))
    for program in (loaded, again):
        assert not program.objective.training
        for key, value in program.objective.state_dict().items():
            assert torch.equal(value, fit_run.objective.state_dict()[key]), key


def test_a_run_of_arrays_is_evaluated_where_its_images_are_named(
    programs: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16), dtype=np.uint8)
    np.savez("images.npz", images=images, labels=np.arange(60) % 2)
    save_run(fitted(programs.build, images[:40, None], policy="crop"), "run", build=programs.build)
    for command in (evaluate, embed):
        assert command.main(["run", "--trust-parts"]) == 2
        assert "run was fitted to images given in Python; say where they are" in capsys.readouterr().err
    assert evaluate.main(["run", "--trust-parts", "--on", "npz:images.npz", "--rows", "50", "--quiet"]) == 0
    assert evaluate.main(["run", "--trust-parts", "--data", "npz:images.npz", "--rows", "50"]) == 0


def test_a_run_of_a_notebook_is_loaded_into_programs_that_are_passed(
    programs: Any, digits: ImageData, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit_run = fitted(programs.build, digits)
    save_run(fit_run, folder / "run", digits)
    assert results(folder / "run")["steps"] == 4
    with pytest.raises(
        ConfigError, match=r"pass them, load_run\(path, model=\.\.\., guide=\.\.\.\), or save the run with"
    ):
        load_run("run")
    assert evaluate.main(["run"]) == 2
    assert "the run's programs were built in Python" in capsys.readouterr().err
    model, guide = programs.build((1, 16, 16))
    load_run("run", model=model, guide=guide)
    assert all(map(torch.equal, model.state_dict().values(), fit_run.model.state_dict().values()))
    model, guide = programs.wider((1, 16, 16))
    with pytest.raises(ConfigError, match=r"(?s)the given programs are not those of run: .*size mismatch"):
        load_run("run", model=model, guide=guide)
    with pytest.raises(ConfigError, match="takes model and guide together"):
        load_run("run", model=model)


def local(shape: Any) -> None: ...


local.__module__ = "__main__"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (local, r"build=local of __main__ cannot be imported elsewhere: put the function into a module"),
        (lambda shape: shape, "cannot be imported elsewhere"),
        (
            "own_programs:wider",
            r"wider makes other programs than those of the run: .* \(6 of 12 weights differ\)",
        ),
        ("own_programs:model_only", r"must return \(SimVE, Guide\) or \(SimVE, Guide, objective\), got SimVE"),
        ("own_programs:Stub", "own_programs:Stub is not a function defined in that module"),
        ("own_programs:MLPEncoder", "is not a function defined in that module"),
        ("own_programs:bild", "unknown class in own_programs 'bild'"),
        ("own_programs:build(depth=3)", "unexpected keyword argument 'depth'"),
        ("nowhere:build", "No module named 'nowhere'"),
    ],
)
def test_what_does_not_build_the_programs_is_refused_before_anything_is_written(
    programs: Any, digits: ImageData, folder: Path, build: Any, message: str
) -> None:
    fit_run = fitted(programs.build, digits)
    with pytest.raises(ConfigError, match=message):
        save_run(fit_run, "run", digits, build=build)
    assert not (folder / "run").exists()


def test_a_saved_run_may_have_its_checkpoint_and_is_not_overwritten(
    programs: Any, digits: ImageData, folder: Path
) -> None:
    checkpoint = CheckpointFile(folder / "run" / "checkpoint.pt")
    checkpoint.path.parent.mkdir()
    stopped = fitted(programs.build, digits, checkpoint=checkpoint, should_stop=lambda: True)
    assert stopped.steps == 1
    fit_run = fitted(programs.build, digits, checkpoint=checkpoint)
    with pytest.raises(ConfigError, match="data is what load_data returned, got Tensor; for arrays, leave it out"):
        save_run(fit_run, "run", digits.images)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"fitted to 1259 images of shape .*, but data has 359 images"):
        save_run(fit_run, "run", replace(digits, train=digits.test))
    save_run(fit_run, "run")
    with pytest.raises(ConfigError, match="run exists and is not empty"):
        save_run(fit_run, "run")
    assert checkpoint.load()["steps"] == 4


def test_the_first_of_several_processes_saves(
    programs: Any, digits: ImageData, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_run = fitted(programs.build, digits)
    for name, value in {"is_initialized": True, "get_world_size": 2, "get_rank": 1}.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    save_run(fit_run, "run")
    assert not (folder / "run").exists()


def still(shape: Any) -> AugmentationPolicy:
    return Compose([RandomFlip(probability=0.0)], shape)


def test_a_policy_without_a_name_is_said_to_be_missing(
    programs: Any, digits: ImageData, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_run(fitted(programs.build, digits, policy=still((1, 16, 16))), "run", digits, build=programs.build)
    assert "run is not evaluated: that needs a SimVE model and a policy by name (policy=)" in caplog.text
    assert not (folder / "run" / "results.json").exists()
    assert (folder / "run" / "report.html").exists()
    assert load_run("run", trust_parts=True)


def test_a_program_of_ones_own_is_fitted_by_the_command(
    programs: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("--batch-size", "32", "--steps", "3", "--device", "cpu", "--precision", "32")
    assert run("--method", "own_programs:build(width=8)", *small, "--out", "run") == 0
    assert results(Path("run"))["parameters"] == sum(
        value.numel() for value in load_run("run", trust_parts=True).objective.parameters()
    )
    assert evaluate.main(["run", "--rows", "50", "--trust-parts", "--quiet"]) == 0
    assert run("--method", "own_programs:build", "--latent", "3", *small) == 2
    assert "--latent-dim replaces a part of a named method, and own_programs:build builds its own" in (
        capsys.readouterr().err
    )


def test_printing_a_run_takes_a_few_lines(programs: Any, digits: ImageData) -> None:
    lines = repr(fitted(programs.build, digits)).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("Run: 4 of 4 steps, 0.1 epochs of ")
    assert lines[1] == "SimVE, AmortizedGuide, ELBO, 2 views of images (1, 16, 16)"
    assert lines[2].startswith("last terms: loss ")
