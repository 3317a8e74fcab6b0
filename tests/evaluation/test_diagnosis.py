"""`diagnose`: every check of a pair in one call, and what is reported if a check has no meaning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pp_simve.evaluation import open_posterior
from pp_simve.evaluation.posterior import CHECKS, Diagnosis, Finding, Subject, diagnose, diagnosis, weigh
from pp_simve.inference import AmortizedGuide, PointGuide
from pp_simve.inference.augmentations import Compose, RandomFlip
from pp_simve.models import EmpiricalPrior, FlatPrior, MixturePrior, Prior, SimVE

from ..inference.linear_gaussian import LATENT, POINTS, SHAPE, STYLE, PotentialEncoder, make_model
from .planted_guides import planted, program_of_modalities

ALWAYS = ["khat", "gap", "calibration", "predictions", "left-out", "axes"]


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "PREDICTIVE_DRAWS", 800)


def names(found: Diagnosis) -> list[str]:
    return [check["name"] for check in found.checks]


@pytest.mark.parametrize(("shift", "alarms"), [(0.0, set()), (1.0, {"khat", "gap", "calibration"})])
def test_every_check_reports(shift: float, alarms: set[str]) -> None:
    found = diagnose(*planted(shift=shift, images=40)[:3], seed=3)
    assert names(found) == ALWAYS
    assert not found.notes
    raised = {check["name"] for check in found.checks if check["alarm"]}
    assert alarms <= raised if alarms else not raised
    for check in found.checks:
        assert check["title"]
        assert check["how"].endswith(".")
        assert check["limitations"].endswith(".")
        rows = check["rows"]
        assert {len(row) for row in rows["rows"]} == {len(rows["columns"])}
    figures = {"khat", "calibration", "calibration-pooled", "predictions", "left-out", "axes"}
    assert set(found.figures()) == {f"diagnose-{name}" for name in figures}


def test_weights_are_those_of_the_file_and_views_those_of_the_policy(tmp_path: Path) -> None:
    images, policy = torch.rand(10, *SHAPE, dtype=torch.float64), Compose([RandomFlip()], SHAPE)
    subjects: list[Subject] = []
    model, guide = (part.float() for part in planted()[:2])
    found = diagnose(
        model,
        guide,
        images.float(),
        policy,
        views=3,
        draws=40,
        seed=5,
        checks={"k̂": CHECKS["k̂ of the importance weights"], "mine": subjects.append},
        to=tmp_path / "posterior.nc",
    )
    assert names(found) == ["khat"]  # a check that returns None reports nothing
    with open_posterior(tmp_path / "posterior.nc") as tree:
        log_weight = torch.from_numpy(tree["sample_stats"]["log_weight"][0].to_numpy().copy())
        assert tree["constant_data"]["horizontal_flip"].shape == (10, 3)
        assert torch.equal(subjects[0].views, torch.from_numpy(tree["observed_data"]["x"].to_numpy()).transpose(0, 1))
    assert found.checks[0]["value"] == 100 * weigh(log_weight).share_above
    assert torch.equal(subjects[0].pictures, images.float())


PAIRS: dict[str, tuple[Prior | None, list[str], list[str]]] = {
    "points": (
        None,
        ["predictions", "left-out", "axes"],
        ["No k̂ of the importance weights: draws of PointGuide are points", "No gap", "No simulation-based calibration"],
    ),
    "no pixels": (
        None,
        ["axes"],
        ["No k̂ of the importance weights: pixels are not modelled", "No gap", "No sim", "No posterior pr", "No leave"],
    ),
    "improper": (
        FlatPrior(LATENT),
        [name for name in ALWAYS if name != "calibration"],
        ["No simulation-based calibration: the prior FlatPrior is improper"],
    ),
    "mixture": (MixturePrior(LATENT, POINTS, style_variance=STYLE), [*ALWAYS, "prototypes"], []),
    "of the batch": (
        EmpiricalPrior(LATENT, memory=None),
        [*(name for name in ALWAYS if name != "calibration"), "prototypes"],
        ["No simulation-based calibration: the prior EmpiricalPrior is made of the images"],
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_checks_without_meaning_are_notes(name: str) -> None:
    other, checks, notes = PAIRS[name]
    _, exact, views, _, linear = planted()
    prior = (other or exact.prior).double()
    model = SimVE(prior) if name == "no pixels" else make_model(prior, linear)
    kind = PointGuide if name == "points" else AmortizedGuide
    guide = kind(PotentialEncoder(linear), prior).double()
    found = diagnose(model, guide, views, draws=40, simulations=50)
    assert names(found) == checks
    for note, start in zip(found.notes, notes, strict=True):
        assert note.startswith(start)
        assert note.endswith(".")
    by_name = {check["name"]: check for check in found.checks}
    if name == "points":
        assert by_name["left-out"]["value"] is by_name["left-out"]["unit"] is None
    if name == "mixture":
        rows = by_name["prototypes"]["rows"]
        assert sum(float(str(share)) for _, share in rows["rows"]) == pytest.approx(1)


def test_one_draw_has_no_weights() -> None:
    found = diagnose(*planted()[:3], draws=1, simulations=50)
    assert names(found) == ["calibration", "predictions", "axes"]
    assert len(found.notes) == 3


def test_several_modalities() -> None:
    model, guide, views = program_of_modalities()
    found = diagnose(model, guide, views, draws=40, simulations=30)
    assert names(found) == ALWAYS
    rows = found.checks[3]["rows"]
    assert {str(name).split()[0] for name, *_ in rows["rows"]} == {"picture", "attributes"}


def test_checks_of_ones_own_and_their_announcement() -> None:
    announced: list[str] = []

    @contextmanager
    def announce(name: str) -> Iterator[None]:
        announced.append(name)
        yield

    def mine(subject: Subject) -> Finding:
        raise ValueError(f"{len(subject.pictures or ())} pictures")

    def broken(subject: Subject) -> Finding:
        raise KeyError("a mistake is no note")

    settings = {"draws": 40, "simulations": 50, "announce": announce}
    given = planted()[:3]
    found = diagnose(*given, checks={**CHECKS, "mine": mine}, **settings)  # type: ignore[arg-type]
    assert announced == [*CHECKS, "mine"]
    assert found.notes == ("No mine: 0 pictures.",)
    with pytest.raises(KeyError):
        diagnose(*given, checks={"broken": broken}, **settings)  # type: ignore[arg-type]
