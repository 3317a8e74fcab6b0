"""Named methods: each consists of the documented parts and fits the digits; compatible and incompatible parts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pp_simve.data import DataShape
from pp_simve.inference import (
    BYOL,
    ELBO,
    IWAE,
    AmortizedGuide,
    AnalyticELBO,
    BarlowTwins,
    ConsistencyELBO,
    DecoderFreeELBO,
    DeltaGuide,
    DenoisingELBO,
    InstanceDiscrimination,
    KernelEntropy,
    MoCo,
    Objective,
    StructuredGuide,
    SwAV,
    VICRegEntropy,
)
from pp_simve.models import BlockPrior, FlatPrior, GaussianPrior, InfoNCE, MixturePrior, NTXent, StandardPrior
from pp_simve.run.config import FitConfig
from pp_simve.run.folder import RunFolder, load_run
from pp_simve.run.methods import METHODS, Program, build

from .command import SMALL, interrupted_at, results, run

SHAPE = DataShape((1, 8, 8), images=40)
NARROW: dict[str, Any] = {"encoder": "mlp(hidden=[16])", "decoder": "mlp(hidden=[16])", "latent_dim": 6}
PARTS: dict[str, tuple[type, type, type[Objective], type | None]] = {
    "simve": (GaussianPrior, AmortizedGuide, ELBO, None),
    "vae": (StandardPrior, AmortizedGuide, ELBO, None),
    "beta-vae": (StandardPrior, AmortizedGuide, ELBO, None),
    "cr-vae": (StandardPrior, AmortizedGuide, ConsistencyELBO, None),
    "aavae": (StandardPrior, AmortizedGuide, DenoisingELBO, None),
    "iwae": (StandardPrior, AmortizedGuide, IWAE, None),
    "group-vae": (BlockPrior, StructuredGuide, ELBO, None),
    "bridge": (BlockPrior, AmortizedGuide, ELBO, NTXent),
    "infonce": (FlatPrior, DeltaGuide, ELBO, InfoNCE),
    "simclr": (FlatPrior, DeltaGuide, ELBO, NTXent),
    "clip": (FlatPrior, DeltaGuide, ELBO, InfoNCE),
    "moco": (FlatPrior, DeltaGuide, MoCo, InfoNCE),
    "vicreg": (FlatPrior, DeltaGuide, DecoderFreeELBO, None),
    "swav": (MixturePrior, DeltaGuide, SwAV, None),
    "instance": (MixturePrior, DeltaGuide, InstanceDiscrimination, None),
    "barlow": (FlatPrior, DeltaGuide, BarlowTwins, None),
    "simsiam": (FlatPrior, DeltaGuide, BYOL, None),
    "byol": (FlatPrior, DeltaGuide, BYOL, None),
}
WITH_PIXELS = [method for method, (_, guide, _, _) in PARTS.items() if guide is not DeltaGuide]
DRAWN = {"interpolation", "reconstructions", "samples", "swaps", "traversals"}

pytestmark = pytest.mark.usefixtures("evaluated_quickly")


def built(method: str, **settings: Any) -> Program:
    return build(FitConfig(method=method, **(NARROW | settings)).resolve(SHAPE), SHAPE)


def fitted(folder: Path, *arguments: str) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """results.json and the rows of metrics.jsonl of three steps on the digits."""
    assert run(*SMALL, "--steps", "3", *arguments, "--out", "run") == 0
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return results(folder / "run"), rows


def test_every_method_says_what_it_is_and_stands_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert METHODS.keys() == PARTS.keys()
    assert run("--help") == 0
    shown = " ".join(word.strip("│╭╮╰╯─,.") for word in capsys.readouterr().out.split())
    for method, recipe in METHODS.items():
        assert recipe.__doc__
        assert recipe.__doc__.strip().splitlines()[0].endswith(".")
        assert f" {method} " in shown


@pytest.mark.parametrize("method", PARTS)
def test_every_method_fits_the_digits_from_the_command_line(
    method: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, rows = fitted(folder, "--method", method)
    assert ("ELBO" in capsys.readouterr().out) == (method in WITH_PIXELS)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert all(("reconstruction" in row) == (method in WITH_PIXELS) for row in rows)
    if method in WITH_PIXELS:
        assert math.isfinite(found["bound"]["loss"])
    else:
        assert found["bound"] is None
        assert found["is_bound"] is False
    if method != "clip":  # of two modalities
        assert 0.3 < found["content"]["linear"] <= 1
        assert 0.3 < found["content"]["knn"] <= 1
    figures = {path.stem for path in (folder / "run" / "figures").iterdir()}
    assert figures == ({"loss"} | DRAWN if method in WITH_PIXELS else {"loss"})
    assert RunFolder(folder / "run").read_config().settings.method == method


@pytest.mark.parametrize("method", PARTS)
def test_every_method_is_made_of_its_parts(method: str) -> None:
    program = built(method)
    model = program.model
    parts = (
        type(model.prior),
        type(program.guide),
        type(program.objective),
        type(model.group) if model.group else None,
    )
    assert parts == PARTS[method]
    assert (model.likelihood is not None) == (method in WITH_PIXELS)
    # The guide's prior is the model's own, and the objective fits this very pair.
    inner = getattr(program.objective, "elbo", program.objective)
    assert inner.model is model
    assert inner.guide is program.guide
    assert program.guide.prior is model.prior
    assert model.prior.latent_dim == 6


def number(program: Program, path: str) -> Any:
    """An attribute by its path, called where it is a function, as plain numbers."""
    value: Any = program
    for name in path.split("."):
        value = getattr(value, name)
    value = value() if callable(value) else value
    return value.tolist() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("simve", "model.prior.style_variance", [0.15] * 6),
        ("simve", "model.prior.content_variance", [1.0] * 6),
        ("vae", "objective.beta", 1.0),
        ("beta-vae", "objective.beta", 4.0),
        ("aavae", "objective.elbo.beta", 0.0),
        ("cr-vae", "objective.elbo.beta", 1.0),
        ("cr-vae", "objective.weight", 0.1),
        ("iwae", "objective.samples", 8),
        *((method, "objective.beta", 0) for method in ("infonce", "simclr")),
        *((method, "objective.alpha", 1) for method in ("infonce", "simclr")),
        *((method, "model.group.temperature", 0.5) for method in ("infonce", "simclr")),
        *((method, "model.group.unit_norm", True) for method in ("infonce", "simclr")),
        *((method, "model.group.width", None) for method in ("infonce", "simclr")),
        ("clip", "model.group.temperature", 0.07),
        ("vicreg", "objective.entropy.variance", 25),
        ("vicreg", "objective.entropy.covariance", 1),
        ("vicreg", "model.prior.style_variance", [6 / (4 * 25)] * 6),
        ("swav", "model.prior.style_variance", [0.1] * 6),
        ("instance", "model.prior.style_variance", [0.07] * 6),
        ("byol", "objective.momentum", 0.99),
        ("simsiam", "objective.momentum", None),
        ("bridge", "objective.beta", 1),
        ("bridge", "objective.alpha.ratio", 0.1),
        ("bridge", "model.group.projection", (256,)),
        ("bridge", "objective.backbone.projection", (256,)),
    ],
)
def test_the_numbers_of_the_methods(method: str, path: str, expected: Any) -> None:
    found = number(built(method), path)
    assert found == (pytest.approx(expected) if expected is not None else None)


@pytest.mark.parametrize(("latent_dim", "shared"), [(2, 1), (3, 1), (6, 3), (7, 3)])
def test_half_of_z_is_the_content_block(latent_dim: int, shared: int) -> None:
    group_vae, bridge = built("group-vae", latent_dim=latent_dim).model, built("bridge", latent_dim=latent_dim).model
    for prior in (group_vae.prior, bridge.prior):
        assert isinstance(prior, BlockPrior)
        assert isinstance(prior.block, GaussianPrior)
        assert prior.content_axes().tolist() == [True] * shared + [False] * (latent_dim - shared)
    # The content of group-vae is the same up to a hundredth; images are told apart by the content block of bridge.
    assert isinstance(group_vae.prior, BlockPrior)
    assert isinstance(group_vae.prior.block, GaussianPrior)
    assert group_vae.prior.block.style_variance().sqrt().tolist() == pytest.approx([0.01] * shared)
    assert isinstance(bridge.group, NTXent)
    assert bridge.group.width == shared


def test_a_part_named_in_the_settings_comes_before_the_methods() -> None:
    program = built("beta-vae", prior="flat", guide="structured", objective="analytic(free_bits=0.5)")
    assert type(program.model.prior) is FlatPrior
    assert type(program.guide) is StructuredGuide
    assert isinstance(program.objective, AnalyticELBO)
    assert program.objective.beta() == 1.0
    assert program.objective.free_bits == 0.5


BALANCED = "elbo(alpha=balanced(ratio=linear(start=0.1, end=0.5)), backbone=infonce(projection=[8]))"


@pytest.mark.parametrize("objective", ["elbo(alpha=linear(start=0, end=20))", BALANCED])
def test_a_stopped_bridge_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch, objective: str) -> None:
    command = (*SMALL, "--method", "bridge", "--objective", objective, "--quiet")
    assert run(*command, "--out", "whole") == 0
    with monkeypatch.context() as interrupting:
        interrupted_at(interrupting, step=4)
        assert run(*command, "--out", "run") == 130
    assert run("--resume", "run", "--quiet") == 0
    whole, resumed = (load_run(folder / name).objective.state_dict() for name in ("whole", "run"))
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


def test_a_group_joins_simve_with_a_weight_along_a_schedule(folder: Path) -> None:
    flags = ("--group", "ntxent(width=4, temperature=0.2)", "--objective", "elbo(alpha=linear(start=0, end=20))")
    found, rows = fitted(folder, *flags, "--steps", "10")
    assert found["is_bound"] is True
    for step, row in enumerate(rows):
        others = row["reconstruction"] + row["content"] + row["style"] + row["entropy"]
        assert row["loss"] == pytest.approx(-others - 2 * step * row["group"], rel=1e-5)
    group = load_run(folder / "run").model.group
    assert isinstance(group, NTXent)
    assert (group.width, group.temperature) == (4, 0.2)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--method", "simclr", "--views", "3", "--precision", "bf16"),
        ("--method", "vicreg", "--views", "3", "--batch-size", "2"),
        ("--method", "simclr", "--batch-size", "2", "--group", "ntxent(temperature=0.01)"),
        ("--method", "infonce", "--views", "3", "--prior", "gaussian"),
        ("--method", "simve", "--group", "ntxent", "--objective", "iwae(samples=2)"),
        ("--method", "simve", "--group", "ntxent", "--objective", "analytic"),
    ],
    ids=" ".join,
)
def test_what_else_goes_together(arguments: tuple[str, ...], folder: Path) -> None:
    _, rows = fitted(folder, *arguments)
    assert all(math.isfinite(value) for row in rows for value in row.values())


def test_the_bound_that_is_reported_is_without_the_group(folder: Path) -> None:
    found, _ = fitted(folder, "--method", "bridge")
    bound = found["bound"]
    terms = bound["reconstruction"] + bound["content"] + bound["style"] + bound["entropy"]
    assert bound["loss"] == pytest.approx(-terms, rel=1e-5)


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
        (
            ("--group", "ntxent(heat=1)"),
            "options of ntxent: temperature, unit_norm, width, learn_temperature, projection",
        ),
        (
            ("--group", "pp_simve.models:FlatPrior(latent_dim=8)"),
            "not a class derived from pp_simve.models.contrastive.GroupLikelihood",
        ),
        (("--objective", "elbo(alpha=-1)"), "alpha must not be negative, got -1"),
        (("--objective", "elbo(alpha=balanced())"), "this model observes no group; give alpha as a number"),
        (("--objective", "elbo(alpha=balanced(ratio=-1))"), "ratio must not be negative, got -1"),
        (("--method", "simclr", "--objective", "elbo(alpha=balanced())"), "this model observes no pixels"),
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
        *(
            (("--method", method, "--views", "1"), "views must be at least 2, got 1: the objective takes the original")
            for method in ("cr-vae", "aavae")
        ),
        (("--method", "group-vae", "--latent", "1"), "the prior of --method group-vae: the content block must leave"),
        (
            ("--method", "vicreg", "--prior", "student"),
            "the guide of --method vicreg: DeltaGuide infers content",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_does_not_go_together_is_refused(
    arguments: tuple[str, ...], words: str, refused: Callable[..., str]
) -> None:
    assert words in refused(*SMALL, *arguments, "--out", "run", "--quiet")
