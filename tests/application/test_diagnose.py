"""`python -m pp_simve.diagnose`: output, files, and messages where a check does not apply."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from pp_simve import diagnose
from pp_simve.evaluation.posterior import diagnosis, weigh
from pp_simve.run.files import read_json
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
    entries: dict[str, Any] = read_json(path / "diagnostics.json")
    return entries


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


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    """Few replicates."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(diagnosis, "PREDICTIVE_DRAWS", 800)
        yield


@pytest.fixture(scope="module")
def diagnosed(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A diagnosed copy of the finished run, and what was printed. Look, but do not touch."""
    path = Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("diagnosed") / "run"))
    (path / "figures" / "diagnose-prototypes.png").write_bytes(b"")  # of an earlier diagnosis
    with redirect_stdout(io.StringIO()) as shown:
        assert run(str(path), *QUICK) == 0
    return path, shown.getvalue()


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures: they take most of the time."""
    monkeypatch.setattr(RunFolder, "write_figure", lambda *arguments: None)


def test_a_run_gets_its_posterior_checks_figures_and_a_section(diagnosed: tuple[Path, str], finished_run: Path) -> None:
    path, shown = diagnosed
    found = diagnostics(path)
    assert names(found) == OF_EVERY_RUN
    assert found["notes"] == []
    page = (path / "report.html").read_text()
    for check in found["checks"]:
        assert check["how"]
        assert check["limitations"]
        assert check["alarm"] in (True, False)
        assert check["rows"]["rows"]
        assert check["title"] in shown
        assert check["title"] in page
    figures = ["axes", "calibration", "calibration-pooled", "khat", "left-out", "predictions"]
    drawn = sorted(figure.stem for figure in (path / "figures").glob("diagnose-*"))
    assert drawn == [f"diagnose-{name}" for name in figures]
    assert (path / "figures" / "loss.png").exists()
    assert (path / "model.safetensors").read_bytes() == (finished_run / "model.safetensors").read_bytes()


def test_the_posterior_is_the_one_that_is_checked(diagnosed: tuple[Path, str]) -> None:
    path, _ = diagnosed
    with xr.open_datatree(path / "posterior.nc", engine="h5netcdf") as tree:
        assert dict(tree["posterior"].sizes) == {"chain": 1, "draw": 60, "image": 12, "view": 2, "latent": 8}
        weight = torch.from_numpy(np.array(tree["sample_stats"]["log_weight"][0]))
        labels = tree["constant_data"]["label"].to_numpy()
        assert tree["constant_data"]["class"].to_numpy().tolist() == list("0123456789")
        assert json.loads(tree.attrs["configuration"]) == read_json(path / "config.json")["config"]
    weights = weigh(weight)
    (khat,) = (check for check in diagnostics(path)["checks"] if check["name"] == "khat")
    assert khat["value"] == 100 * weights.share_above
    assert dict(table(diagnostics(path), "gap"))["gap, nats an image"] == weights.mean_gap[0]
    assert labels.shape == (12,)


@pytest.mark.usefixtures("undrawn")
def test_the_same_command_finds_the_same(diagnosed: tuple[Path, str], fitted: Path) -> None:
    first = diagnostics(diagnosed[0])
    assert run(str(fitted), *QUICK, "--quiet") == 0
    assert {**diagnostics(fitted), "seconds": first["seconds"]} == first
    assert run(str(fitted), *QUICK, "--quiet", "--seed", "3") == 0
    assert table(diagnostics(fitted), "gap") != table(first, "gap")


@pytest.mark.usefixtures("undrawn")
def test_views_of_several_modalities(folder: Path) -> None:
    path = folder / "run"
    assert run_fit(*SMALL, "--modalities", "halves", "--out", str(path), "--quiet") == 0
    assert run(str(path), *QUICK, "--quiet") == 0
    found = diagnostics(path)
    assert names(found) == OF_EVERY_RUN
    assert {name.split()[0] for name, *_ in table(found, "predictions")} == {"upper", "lower"}


@pytest.mark.usefixtures("undrawn")
def test_refinement_and_reference_on_demand(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CHAINS": 2, "REFERENCE_DRAWS": 40, "WARMUP": 40, "COMPARED_DRAWS": 200}.items():
        monkeypatch.setattr(diagnosis, name, value)
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


@pytest.mark.usefixtures("undrawn")
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
        ((), "no runs were given"),
        (("RUN", "--images", "0"), "--images must be at least 1"),
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


@pytest.mark.parametrize("damage", ["damaged", "NaN or infinite: the fit failed"])
def test_damaged_weights_are_named_and_nothing_is_written(
    damage: str, fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if damage == "damaged":
        (fitted / "model.safetensors").write_bytes(b"damaged")
    else:
        program = load_run(fitted)
        torch.nn.init.constant_(next(program.model.parameters()), torch.nan)
        RunFolder(fitted).write_weights(program.objective)
    assert run(str(fitted), *QUICK) == 2
    assert damage in " ".join(capsys.readouterr().err.split())
    assert not (fitted / "diagnostics.json").exists()
    assert not (fitted / "posterior.nc").exists()
