"""`python -m pp_simve.diagnose`: what it writes and says, and what is said where a check has no meaning."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from pp_simve import diagnose
from pp_simve.diagnosing import checks, refinement
from pp_simve.evaluation.posterior import weigh
from pp_simve.run.folder import RunFolder, load_run

from .command import SMALL
from .command import run as run_fit

QUICK = ("--images", "12", "--draws", "60", "--simulations", "30", "--device", "cpu")
OF_EVERY_RUN = ["khat", "gap", "calibration", "predictions", "left-out", "axes"]


def run(*arguments: str) -> int:
    """The exit code of a command line."""
    try:
        return diagnose.main(arguments)
    except SystemExit as end:  # tyro's way out
        return int(end.code or 0)


def diagnostics(path: Path) -> dict[str, Any]:
    """diagnostics.json of a run."""
    entries: dict[str, Any] = json.loads((path / "diagnostics.json").read_text())
    return entries


def fitted_with(folder: Path, *flags: str) -> Path:
    """A run of ten steps with settings of its own."""
    assert run_fit(*SMALL, *flags, "--out", str(folder / "run"), "--quiet") == 0
    return folder / "run"


def names(entries: dict[str, Any]) -> list[str]:
    return [check["name"] for check in entries["checks"]]


def table(entries: dict[str, Any], name: str) -> list[Sequence[Any]]:
    """The rows of a check."""
    (check,) = (check for check in entries["checks"] if check["name"] == name)
    rows: list[Sequence[Any]] = check["rows"]["rows"]
    return rows


@pytest.fixture
def fitted(finished_run: Path, folder: Path) -> Path:
    """The finished run: a copy of one's own."""
    return Path(shutil.copytree(finished_run, folder / "run"))


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Few replicates, and no figures but where a test is about them: they take most of the time."""
    monkeypatch.setattr(checks, "PREDICTIVE_DRAWS", 800)
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(RunFolder, "write_figure", lambda *arguments: None)


@pytest.fixture
def drawn() -> None:
    """Figures are wanted."""


@pytest.mark.usefixtures("drawn")
def test_a_run_gets_its_posterior_checks_figures_and_a_section(
    fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = (fitted / "model.safetensors").read_bytes()
    assert run(str(fitted), *QUICK) == 0
    found = diagnostics(fitted)
    assert names(found) == OF_EVERY_RUN
    assert found["notes"] == []
    for check in found["checks"]:
        assert check["how"]
        assert check["blind"]
        assert check["alarm"] in (True, False)
        assert check["rows"]["rows"]
    shown = capsys.readouterr().out
    page = (fitted / "report.html").read_text()
    for check in found["checks"]:
        assert check["title"] in shown
        assert check["title"] in page
    for figure in ("khat", "calibration", "calibration-pooled", "predictions", "left-out", "axes"):
        assert (fitted / "figures" / f"diagnose-{figure}.png").is_file()
    assert (fitted / "model.safetensors").read_bytes() == weights


def test_the_posterior_is_the_one_that_is_judged(fitted: Path) -> None:
    assert run(str(fitted), *QUICK, "--quiet") == 0
    with xr.open_datatree(fitted / "posterior.nc", engine="h5netcdf") as tree:
        assert dict(tree["posterior"].sizes) == {"chain": 1, "draw": 60, "image": 12, "view": 2, "latent": 8}
        weight = torch.from_numpy(np.array(tree["sample_stats"]["log_weight"][0]))
        labels = tree["constant_data"]["label"].to_numpy()
        assert json.loads(tree.attrs["configuration"]) == json.loads((fitted / "config.json").read_text())["config"]
    weights = weigh(weight)
    (khat,) = (check for check in diagnostics(fitted)["checks"] if check["name"] == "khat")
    assert khat["value"] == 100 * weights.share_above
    assert dict(table(diagnostics(fitted), "gap"))["gap, nats an image"] == weights.mean_gap[0]
    assert labels.shape == (12,)


def test_the_same_command_finds_the_same(fitted: Path) -> None:
    found = []
    for _ in range(2):
        assert run(str(fitted), *QUICK, "--quiet") == 0
        found.append({name: entry for name, entry in diagnostics(fitted).items() if name != "seconds"})
    assert found[0] == found[1]
    assert run(str(fitted), *QUICK, "--quiet", "--seed", "3") == 0
    assert table(diagnostics(fitted), "gap") != table({"checks": found[0]["checks"]}, "gap")


def test_figures_of_an_earlier_diagnosis_go(fitted: Path) -> None:
    stale = fitted / "figures" / "diagnose-prototypes.png"
    stale.write_bytes(b"")
    assert run(str(fitted), *QUICK, "--quiet") == 0
    assert not stale.exists()
    assert (fitted / "figures" / "loss.png").exists()


def test_points_have_no_weights_and_the_rest_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fitted_with(folder, "--guide", "point")
    assert run(str(path), *QUICK) == 0
    found = diagnostics(path)
    assert names(found) == ["predictions", "left-out", "axes"]
    assert len(found["notes"]) == 3
    for note, name in zip(found["notes"], ["k̂", "the gap", "simulation-based calibration"], strict=True):
        assert note.startswith(f"No {name}")
        assert "PointGuide are points" in note
    assert "no meaning" in capsys.readouterr().out
    (left_out,) = (check for check in found["checks"] if check["name"] == "left-out")
    assert left_out["value"] is None
    assert left_out["unit"] is None


def test_without_pixels_only_axes_are_left(folder: Path) -> None:
    path = fitted_with(folder, "--method", "simclr")
    assert run(str(path), *QUICK, "--quiet") == 0
    found = diagnostics(path)
    assert names(found) == ["axes"]
    assert len(found["notes"]) == 5
    assert "pixels are not modelled" in found["notes"][0]


def test_prototypes_are_looked_at_under_a_mixture(folder: Path) -> None:
    path = fitted_with(folder, "--prior", "mixture(prototypes=5)")
    assert run(str(path), *QUICK, "--quiet") == 0
    rows = table(diagnostics(path), "prototypes")
    assert len(rows) == 5
    assert sum(share for _, share in rows) == pytest.approx(1)


def test_an_improper_prior_is_said_to_have_no_calibration(folder: Path) -> None:
    path = fitted_with(folder, "--prior", "flat")
    assert run(str(path), *QUICK, "--quiet") == 0
    found = diagnostics(path)
    assert any(note.startswith("No simulation-based calibration") and "improper" in note for note in found["notes"])
    assert {"khat", "gap", "predictions"} <= set(names(found))


def test_views_of_several_kinds(folder: Path) -> None:
    path = fitted_with(folder, "--modalities", "halves")
    assert run(str(path), *QUICK, "--quiet") == 0
    found = diagnostics(path)
    assert names(found) == OF_EVERY_RUN
    assert {name.split()[0] for name, *_ in table(found, "predictions")} == {"upper", "lower"}


def test_one_draw_has_no_weights(fitted: Path) -> None:
    assert run(str(fitted), *QUICK, "--draws", "1", "--quiet") == 0
    found = diagnostics(fitted)
    assert not {"khat", "gap"} & set(names(found))
    assert {"calibration", "predictions", "axes"} <= set(names(found))
    assert any("draws" in note for note in found["notes"])


def test_refinement_and_reference_on_demand(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CHAINS": 2, "REFERENCE_DRAWS": 40, "WARMUP": 40, "COMPARED_DRAWS": 200}.items():
        monkeypatch.setattr(refinement, name, value)
    small = (*QUICK, "--images", "3", "--quiet")
    assert run(str(fitted), *small, "--reference", "1", "--refine", "5") == 0
    found = diagnostics(fitted)
    assert names(found) == [*OF_EVERY_RUN, "refined", "reference"]
    elbo = next(row for row in table(found, "refined") if row[0].startswith("ELBO"))
    assert elbo[2] > elbo[1] - 1
    (reference,) = (check for check in found["checks"] if check["name"] == "reference")
    assert reference["rows"]["columns"] == ["measure", "guide", "refined"]
    assert 0 <= reference["value"] <= 1
    assert "2 chains of 40 + 40 draws" in reference["how"]


def test_one_run_that_cannot_be_read_does_not_stop_the_others(
    fitted: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(folder / "nothing"), str(fitted), *QUICK, "--quiet") == 2
    message = capsys.readouterr().err
    assert "nothing was not diagnosed" in " ".join(message.split())
    assert names(diagnostics(fitted)) == OF_EVERY_RUN


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "nothing to diagnose"),
        (("RUN", "--images", "0"), "--images must be at least 1"),
        (("RUN", "--draws", "0"), "--draws must be at least 1"),
        (("RUN", "--simulations", "1"), "--simulations must be at least 2"),
        (("RUN", "--refine", "-1"), "--refine must be at least 0"),
        (("RUN", "--images", "3", "--reference", "4"), "at most --images 3"),
    ],
)
def test_wrong_settings_are_named(
    flags: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    assert run(*flags) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not list(folder.iterdir())


def test_a_damaged_run_is_named_and_left_as_it_was(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fitted / "model.safetensors").write_bytes(b"damaged")
    assert run(str(fitted), *QUICK) == 2
    assert "damaged" in capsys.readouterr().err
    assert not (fitted / "diagnostics.json").exists()
    assert not (fitted / "posterior.nc").exists()


def test_weights_that_are_no_numbers_are_said_to_be_none(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(fitted)
    program = load_run(folder.path)
    with torch.no_grad():
        next(program.model.parameters()).fill_(torch.nan)
    folder.write_weights(program.objective)
    assert run(str(fitted), *QUICK) == 2
    assert "is NaN or infinite: the fit failed" in " ".join(capsys.readouterr().err.split())
    assert not (fitted / "diagnostics.json").exists()
    assert not (fitted / "posterior.nc").exists()
