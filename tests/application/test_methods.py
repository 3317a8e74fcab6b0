"""Named methods: each fits the digits from the command line, and is made of what its docstring says."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pp_simve import judgement
from pp_simve.data import DataShape
from pp_simve.evaluation import judge
from pp_simve.inference import (
    ELBO,
    IWAE,
    AmortizedGuide,
    AnalyticELBO,
    ConsistencyELBO,
    DenoisingELBO,
    Objective,
    StructuredGuide,
)
from pp_simve.models import BlockPrior, GaussianPrior, StandardPrior
from pp_simve.run.config import FitConfig
from pp_simve.run.folder import RunFolder, load_run
from pp_simve.run.methods import METHODS, Program, build

from .command import SMALL, results, run

SHAPE = DataShape((1, 8, 8), images=40)
WITHOUT_PIXELS = ("infonce", "simclr", "clip", "vicreg", "swav", "instance", "barlow", "simsiam", "byol")
NARROW: dict[str, Any] = {"encoder": "mlp(hidden=[16])", "decoder": "mlp(hidden=[16])", "latent_dim": 6}


def built(method: str, **settings: Any) -> Program:
    return build(FitConfig(method=method, **(NARROW | settings)).resolve(SHAPE), SHAPE)


PARTS: dict[str, tuple[type, type, type[Objective]]] = {
    "simve": (GaussianPrior, AmortizedGuide, ELBO),
    "vae": (StandardPrior, AmortizedGuide, ELBO),
    "beta-vae": (StandardPrior, AmortizedGuide, ELBO),
    "cr-vae": (StandardPrior, AmortizedGuide, ConsistencyELBO),
    "aavae": (StandardPrior, AmortizedGuide, DenoisingELBO),
    "iwae": (StandardPrior, AmortizedGuide, IWAE),
    "group-vae": (BlockPrior, StructuredGuide, ELBO),
}


def test_every_method_is_listed_here() -> None:
    assert METHODS.keys() >= PARTS.keys()


def test_every_method_says_what_it_is_and_stands_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = " ".join(word.strip("│╭╮╰╯─,.") for word in capsys.readouterr().out.split())
    for method, recipe in METHODS.items():
        assert recipe.__doc__
        assert recipe.__doc__.strip().splitlines()[0].endswith(".")
        assert f" {method} " in shown


@pytest.mark.parametrize("method", METHODS)
def test_every_method_fits_the_digits_from_the_command_line(
    method: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judgement, "judge", partial(judge, min_views=100))
    assert run(*SMALL, "--steps", "2", "--method", method, "--out", "run", "--quiet") == 0
    found = results(folder / "run")
    assert found["steps"] == 2
    if found["bound"] is not None:
        assert math.isfinite(found["bound"]["loss"])
    assert (found["bound"] is None) == (method in WITHOUT_PIXELS)
    config, _ = RunFolder(folder / "run").read_settings()
    assert config.method == method
    saved = load_run(folder / "run")
    if method in PARTS:
        prior, guide, _ = PARTS[method]
        assert (type(saved.model.prior), type(saved.guide)) == (prior, guide)


@pytest.mark.parametrize("method", PARTS)
def test_every_method_is_made_of_its_parts(method: str) -> None:
    program = built(method)
    prior, guide, objective = PARTS[method]
    assert (type(program.model.prior), type(program.guide), type(program.objective)) == (prior, guide, objective)
    # The guide's prior is the model's own, and the objective fits this very pair.
    inner = getattr(program.objective, "elbo", program.objective)
    assert inner.model is program.model
    assert inner.guide is program.guide
    assert program.guide.prior is program.model.prior
    assert program.model.prior.latent_dim == 6


def test_the_numbers_of_the_methods() -> None:
    simve, beta_vae, vae = built("simve"), built("beta-vae"), built("vae")
    assert isinstance(simve.model.prior, GaussianPrior)
    assert simve.model.prior.style_variance().tolist() == pytest.approx([0.15] * 6)
    assert simve.model.prior.content_variance().tolist() == [1.0] * 6
    assert isinstance(beta_vae.objective, ELBO)
    assert isinstance(vae.objective, ELBO)
    assert beta_vae.objective.beta() == 4.0
    assert vae.objective.beta() == 1.0
    aavae, cr_vae, iwae = built("aavae").objective, built("cr-vae").objective, built("iwae").objective
    assert isinstance(aavae, DenoisingELBO)
    assert aavae.elbo.beta() == 0.0
    assert isinstance(cr_vae, ConsistencyELBO)
    assert cr_vae.weight == 0.1
    assert cr_vae.elbo.beta() == 1.0
    assert isinstance(iwae, IWAE)
    assert iwae.samples == 8


@pytest.mark.parametrize(("latent_dim", "shared"), [(2, 1), (6, 3), (7, 3)])
def test_group_vae_shares_half_of_z_up_to_a_hundredth(latent_dim: int, shared: int) -> None:
    prior = built("group-vae", latent_dim=latent_dim).model.prior
    assert isinstance(prior, BlockPrior)
    assert isinstance(prior.block, GaussianPrior)
    assert prior.latent_dim == latent_dim
    assert prior.block.latent_dim == shared
    assert prior.block.style_variance().sqrt().tolist() == pytest.approx([0.01] * shared)
    assert prior.content_axes().tolist() == [True] * shared + [False] * (latent_dim - shared)


def test_a_part_named_in_the_settings_comes_before_the_methods() -> None:
    program = built("beta-vae", prior="flat", guide="structured", objective="analytic(free_bits=0.5)")
    assert type(program.model.prior).__name__ == "FlatPrior"
    assert type(program.guide) is StructuredGuide
    assert isinstance(program.objective, AnalyticELBO)
    assert program.objective.beta() == 1.0
    assert program.objective.free_bits == 0.5


@pytest.mark.parametrize("method", ["cr-vae", "aavae"])
def test_methods_that_need_the_image_beside_a_view_say_so(
    method: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*SMALL, "--method", method, "--views", "1", "--out", "run") == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert "views must be at least 2, got 1: the objective sees the original image" in " ".join(message.split())
    assert not (folder / "run").exists()
