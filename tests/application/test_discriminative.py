"""Methods that tell images apart, from the command line: without pixels, and beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pp_simve import judgement
from pp_simve.data import DataShape
from pp_simve.evaluation import judge
from pp_simve.inference import ELBO, AmortizedGuide, DecoderFreeELBO, DeltaGuide, KernelEntropy, VICRegEntropy
from pp_simve.models import Bernoulli, BlockPrior, FlatPrior, InfoNCE, NTXent
from pp_simve.run.config import FitConfig
from pp_simve.run.folder import load_run
from pp_simve.run.methods import METHODS, Program, build

from .command import SMALL, interrupted_at, results, run

SHAPE = DataShape((1, 8, 8), images=40)
DISCRIMINATIVE = ("infonce", "simclr", "vicreg")


@pytest.fixture(autouse=True)
def judged_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judgement, "judge", partial(judge, min_views=100))


def fitted(folder: Path, *arguments: str) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """results.json and the rows of metrics.jsonl of three steps on the digits."""
    assert run(*SMALL, "--steps", "3", *arguments, "--out", "run", "--quiet") == 0
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return results(folder / "run"), rows


def built(method: str, **settings: Any) -> Program:
    narrow: dict[str, Any] = {"encoder": "mlp(hidden=[16])", "decoder": "mlp(hidden=[16])", "latent_dim": 6}
    return build(FitConfig(method=method, **(narrow | settings)).resolve(SHAPE), SHAPE)


@pytest.mark.parametrize("method", [*DISCRIMINATIVE, "bridge"])
def test_a_method_fits_the_digits(method: str, folder: Path) -> None:
    found, rows = fitted(folder, "--method", method)
    figures = {path.stem for path in (folder / "run" / "figures").iterdir()}
    assert [row["step"] for row in rows] == [1, 2, 3]
    for probe in ("linear", "knn"):
        assert 0.3 < found["content"][probe] <= 1
    if method in DISCRIMINATIVE:
        assert found["bound"] is None
        assert found["is_bound"] is False
        assert figures == {"loss"}
        assert all("reconstruction" not in row for row in rows)
    else:
        assert math.isfinite(found["bound"]["loss"])
        assert found["is_bound"] is True
        assert figures == {"interpolation", "loss", "reconstructions", "samples", "swaps", "traversals"}
    saved = load_run(folder / "run")
    assert (saved.model.likelihood is None) == (method in DISCRIMINATIVE)
    assert (saved.model.group is None) == (method == "vicreg")


def test_a_method_without_pixels_prints_no_bound(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SMALL, "--steps", "1", "--method", "simclr", "--out", "run") == 0
    shown = capsys.readouterr().out
    assert "linear probe" in shown
    assert "ELBO" not in shown


def test_a_stopped_bridge_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = (*SMALL, "--method", "bridge", "--objective", "elbo(alpha=linear(start=0, end=20))", "--quiet")
    assert run(*command, "--out", "whole") == 0
    with monkeypatch.context() as interrupting:
        interrupted_at(interrupting, step=4)
        assert run(*command, "--out", "run") == 130
    assert run("--resume", "run", "--quiet") == 0
    whole, resumed = (load_run(folder / name).objective.state_dict() for name in ("whole", "run"))
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


def test_the_parts_of_the_recipes() -> None:
    infonce, simclr, vicreg, bridge = (built(method) for method in (*DISCRIMINATIVE, "bridge"))
    for program, group in {infonce: InfoNCE, simclr: NTXent}.items():
        assert type(program.model.group) is group
        assert type(program.model.prior) is FlatPrior
        assert type(program.guide) is DeltaGuide
        assert isinstance(program.objective, ELBO)
        assert (program.objective.beta(), program.objective.alpha()) == (0, 1)
        assert program.model.group.temperature == 0.5
        assert program.model.group.unit_norm
        assert program.model.group.width is None

    assert isinstance(vicreg.objective, DecoderFreeELBO)
    assert isinstance(vicreg.objective.entropy, VICRegEntropy)
    assert (vicreg.objective.entropy.variance, vicreg.objective.entropy.covariance) == (25, 1)
    assert isinstance(vicreg.model.prior, FlatPrior)
    invariance = 6 / (4 * vicreg.model.prior.style_variance())
    torch.testing.assert_close(invariance, torch.full((6,), 25.0))
    assert type(vicreg.guide) is DeltaGuide

    assert isinstance(bridge.model.likelihood, Bernoulli)
    assert isinstance(bridge.model.prior, BlockPrior)
    assert bridge.model.prior.block.latent_dim == 3
    assert isinstance(bridge.model.group, NTXent)
    assert bridge.model.group.width == 3
    assert isinstance(bridge.objective, ELBO)
    assert (bridge.objective.beta(), bridge.objective.alpha()) == (1, 20)
    assert type(bridge.guide) is AmortizedGuide


@pytest.mark.parametrize("latent_dim", [2, 3, 7])
def test_the_group_of_the_bridge_is_told_from_the_content_block(latent_dim: int) -> None:
    model = built("bridge", latent_dim=latent_dim).model
    assert isinstance(model.prior, BlockPrior)
    assert isinstance(model.group, NTXent)
    assert model.group.width == model.prior.block.latent_dim == int(model.prior.content_axes().sum())


def test_a_group_joins_simve(folder: Path) -> None:
    found, rows = fitted(folder, "--method", "simve", "--group", "ntxent(width=4, temperature=0.2)")
    assert found["is_bound"] is True
    for row in rows:
        terms = row["reconstruction"] + row["content"] + row["style"] + row["entropy"] + row["group"]
        assert row["loss"] == pytest.approx(-terms, rel=1e-5)
    group = load_run(folder / "run").model.group
    assert isinstance(group, NTXent)
    assert (group.width, group.temperature) == (4, 0.2)


def test_the_bound_that_is_reported_is_without_the_group(folder: Path) -> None:
    found, _ = fitted(folder, "--method", "bridge")
    bound = found["bound"]
    terms = bound["reconstruction"] + bound["content"] + bound["style"] + bound["entropy"]
    assert bound["loss"] == pytest.approx(-terms, rel=1e-5)


def test_alpha_rises_along_its_schedule(folder: Path) -> None:
    objective = "elbo(alpha=linear(start=0, end=20))"
    _, rows = fitted(folder, "--group", "infonce", "--objective", objective, "--steps", "10")
    for step, row in enumerate(rows):
        others = row["reconstruction"] + row["content"] + row["style"] + row["entropy"]
        assert row["loss"] == pytest.approx(-others - 2 * step * row["group"], rel=1e-5)


@pytest.mark.parametrize(
    ("entropy", "kind"),
    [
        ("kernel(temperature=0.2, chunk=16)", KernelEntropy),
        ("logdet(shrinkage=0.1)", None),
        ("vicreg(variance=12.5)", VICRegEntropy),
    ],
)
def test_an_entropy_may_be_chosen(entropy: str, kind: type | None, folder: Path) -> None:
    _, rows = fitted(folder, "--method", "vicreg", "--objective", f"decoder-free(entropy={entropy}, weight=2.0)")
    for row in rows:
        assert row["loss"] == pytest.approx(-row["agreement"] - 2 * row["entropy"], rel=1e-4, abs=1e-4)
    objective = load_run(folder / "run").objective
    assert isinstance(objective, DecoderFreeELBO)
    assert kind is None or isinstance(objective.entropy, kind)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--method", "simclr", "--views", "3"),
        ("--method", "infonce", "--views", "3"),
        ("--method", "vicreg", "--views", "3"),
        ("--method", "simclr", "--batch-size", "2"),
        ("--method", "vicreg", "--batch-size", "2"),
        ("--method", "simclr", "--group", "ntxent(temperature=0.01)"),
        ("--method", "simclr", "--precision", "bf16"),
        ("--method", "simclr", "--prior", "gaussian"),
        ("--method", "simve", "--group", "ntxent", "--objective", "iwae(samples=2)"),
        ("--method", "simve", "--group", "ntxent", "--objective", "analytic"),
    ],
    ids=" ".join,
)
def test_what_else_goes_together(arguments: tuple[str, ...], folder: Path) -> None:
    _, rows = fitted(folder, *arguments)
    assert all(math.isfinite(value) for row in rows for value in row.values())


# What is refused, in words.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--group", "ntxent", "--views", "1"), "it needs 2 views or more; got 1"),
        (("--method", "simclr", "--views", "1"), "it needs 2 views or more; got 1"),
        (("--method", "infonce", "--views", "1"), "it needs 2 views or more; got 1"),
        (("--group", "ntxnt"), "unknown group 'ntxnt'; did you mean 'ntxent'?"),
        (("--group", "ntxent(temperature=0)"), "temperature must be positive and finite, got 0"),
        (("--group", "ntxent(width=0)"), "width must be at least 1 axis, got 0"),
        (("--group", "ntxent(width=9)"), "the first 9 axes of z, which has 8"),
        (("--group", "ntxent(heat=1)"), "its options are: temperature, unit_norm, width, learn_temperature"),
        (
            ("--group", "pp_simve.models:FlatPrior(latent_dim=8)"),
            "not a class derived from pp_simve.models.contrastive.GroupLikelihood",
        ),
        (("--objective", "elbo(alpha=-1)"), "alpha must not be negative, got -1"),
        (("--method", "vicreg", "--objective", "decoder-free(entropy=vicrag())"), "did you mean 'vicreg'?"),
        (("--method", "vicreg", "--objective", "decoder-free(entropy=3)"), "entropy must be an EntropyEstimate"),
        (
            ("--method", "vicreg", "--objective", "decoder-free(entropy=flat(latent_dim=8))"),
            "entropy must be an EntropyEstimate (kernel, logdet, vicreg), got FlatPrior",
        ),
        (("--method", "vicreg", "--batch-size", "1"), "need 2 images in it at least; got 1"),
        (
            ("--method", "vicreg", "--objective", "decoder-free(entropy=logdet(shrinkage=0))", "--batch-size", "4"),
            "8 views in a batch has no determinant on 8 axes",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_does_not_go_together_is_refused(
    arguments: tuple[str, ...], words: str, refused: Callable[..., str]
) -> None:
    assert words in refused(*SMALL, *arguments, "--out", "run", "--quiet")


def test_the_methods_are_listed() -> None:
    assert {*DISCRIMINATIVE, "bridge"} <= set(METHODS)
