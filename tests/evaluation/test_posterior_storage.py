"""Posteriors in files: the tree in memory, some images at a time, whole or not at all, read by plain xarray."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from pp_simve.evaluation import PosteriorFileError, open_posterior, posterior, stack_chains
from pp_simve.evaluation.posterior import storage
from pp_simve.evaluation.posterior import tree as trees
from pp_simve.inference import AmortizedGuide, MLPEncoder
from pp_simve.inference.augmentations import AugmentationPolicy, Parameters, augmentation_policy
from pp_simve.models import Bernoulli, GaussianPrior, MLPDecoder, SimVE

from .planted_guides import program_of_modalities

SHAPE, LATENT, MANY = (1, 4, 4), 3, 150


def write(path: Path | None, **settings: Any) -> xr.DataTree:
    torch.manual_seed(0)
    prior, images = GaussianPrior(LATENT), torch.rand(MANY, *SHAPE, generator=torch.Generator().manual_seed(1))
    model = SimVE(prior, Bernoulli(MLPDecoder(LATENT, SHAPE, hidden=(4,))))
    guide = AmortizedGuide(MLPEncoder(SHAPE, hidden=(4,)), prior)
    given = {
        "policy": augmentation_policy("affine", SHAPE),
        "draws": 8,
        "predictive_draws": 3,
        "labels": range(MANY),
        "classes": ["cat", "œuf"],
    }
    return posterior((model, guide), images, **{**given, **settings, "to": path})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a posterior in it. Look, but do not touch."""
    path = tmp_path_factory.mktemp("written") / "posterior.nc"
    write(path).close()
    return path


@pytest.fixture
def path(tmp_path: Path, written: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copy(written, tmp_path))


@pytest.mark.parametrize("numbers", [2**22, 2000])
def test_the_file_holds_the_tree_in_memory(numbers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "NUMBERS_AT_ONCE", numbers)
    monkeypatch.setattr(storage, "CHUNK_BYTES", 500)
    path = tmp_path / "posterior.nc"
    expected, written = write(None, commit="abc"), write(path, commit="abc")
    assert written.identical(expected)
    written.close()
    with open_posterior(path) as opened:
        assert opened.identical(expected)
    assert [file.name for file in tmp_path.iterdir()] == ["posterior.nc"]


def test_modalities_and_several_chains_are_kept(tmp_path: Path) -> None:
    model, guide, _ = program_of_modalities()
    given = {"picture": torch.rand(70, 1, 2, 3), "attributes": torch.rand(70, 4, 1, 1)}
    trees = [posterior((model, guide), given, draws=4, seed=seed, to=tmp_path / f"{seed}.nc") for seed in range(2)]
    expected = posterior((model, guide), given, draws=4)
    assert trees[0].identical(expected)
    assert trees[0]["constant_data"]["modality"].to_numpy().tolist() == ["picture", "attributes"]
    both = stack_chains(trees)
    both.to_netcdf(tmp_path / "both.nc", engine="h5netcdf")
    with open_posterior(tmp_path / "both.nc") as opened:
        assert opened.identical(both)
        assert opened["posterior"].sizes["chain"] == 2
    for tree in trees:
        tree.close()


PLAIN = """
import sys
import xarray as xr
with xr.open_datatree(sys.argv[1], engine="h5netcdf") as tree:
    assert tree["posterior"]["z"].dims == ("chain", "draw", "image", "view", "latent")
    print(float(tree["posterior"]["z"].mean()), float(tree["observed_data"]["x"].sum()), tree.attrs["draws"])
assert not {"pp_simve", "torch", "pyro", "arviz"} & set(sys.modules)
"""


def test_a_fresh_process_reads_it_with_plain_xarray(path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", PLAIN, str(path)]
    mean, total, draws = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    with open_posterior(path) as tree:
        assert float(mean) == pytest.approx(float(tree["posterior"]["z"].mean()))
        assert float(total) == pytest.approx(float(tree["observed_data"]["x"].sum()))
    assert draws == "8"


MEMORY = """
import resource, sys
from pathlib import Path
import torch
from pp_simve.evaluation import posterior
from pp_simve.inference import AmortizedGuide, MLPEncoder
from pp_simve.models import Gaussian, GaussianPrior, MLPDecoder, SimVE

torch.set_num_threads(1)
path, shape, prior = Path(sys.argv[1]), (1, 8, 8), GaussianPrior(64)
model = SimVE(prior, Gaussian(MLPDecoder(64, shape, hidden=(8,))))
guide = AmortizedGuide(MLPEncoder(shape, hidden=(8,)), prior)
for count in (256, 1024):
    posterior((model, guide), torch.rand(count, *shape), draws=200, to=path).close()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, path.stat().st_size // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux alone")
def test_memory_does_not_grow_with_images(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", MEMORY, str(tmp_path / "posterior.nc")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    (before, small), (after, large) = [map(int, line.split()) for line in lines]
    assert large - small > 100_000  # kilobytes
    assert after - before < (large - small) / 3  # allocators keep a little; joined in memory, it would be twice as much


# Whole or not at all.


class FailingSecond(AugmentationPolicy):
    """Views as they are, until the second block of images."""

    names = ()

    def __init__(self) -> None:
        self.calls = 0

    def sample(self, count: int, *, generator: torch.Generator) -> Parameters:
        self.calls += 1
        if self.calls > 1:
            raise KeyboardInterrupt
        return {}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return images


def test_an_interrupted_file_is_not_there_and_an_older_one_stays(tmp_path: Path, path: Path) -> None:
    before = path.read_bytes()
    for target in (path, tmp_path / "new.nc"):
        with pytest.raises(KeyboardInterrupt):
            write(target, policy=FailingSecond())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["posterior.nc"]


def test_a_folder_that_is_not_there_is_an_error_before_the_work(tmp_path: Path) -> None:
    policy = FailingSecond()
    policy.calls = 1
    with pytest.raises(OSError, match="nowhere"):
        write(tmp_path / "nowhere" / "posterior.nc", policy=policy)


def test_a_file_in_use_may_be_replaced(path: Path) -> None:
    with open_posterior(path) as old:
        write(path, seed=1).close()
        old_z = old["posterior"]["z"].to_numpy()
    with open_posterior(path) as new:
        assert new.attrs["seed"] == 1
        assert not np.array_equal(new["posterior"]["z"].to_numpy(), old_z)


# Files that are no posterior.


def another_version(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.attrs["format"] = "pp_simve posterior 99"


def without_a_group(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["observed_data"]


def of_others(path: Path) -> None:
    path.unlink()
    xr.Dataset({"z": ("draw", np.zeros(3))}).to_netcdf(path, engine="h5netcdf")


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


DAMAGED = r"posterior\.nc cannot be read .*: it is damaged or no netCDF file"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Path.unlink, r"there is no file .*posterior\.nc; posterior\(\.\.\., to="),
        (lambda path: cut(path, 0.0), DAMAGED),
        (lambda path: cut(path, 0.1), DAMAGED),
        (lambda path: cut(path, 0.9), DAMAGED),
        (lambda path: path.write_bytes(b"content, style\n" * 1000), DAMAGED),
        (another_version, "another version: its format is 'pp_simve posterior 99', this"),
        (of_others, "not a posterior of pp_simve"),
        (without_a_group, "lacks observed_data: it is damaged"),
    ],
)
def test_what_is_no_posterior_is_refused(change: Callable[[Path], object], message: str, path: Path) -> None:
    change(path)
    with pytest.raises(PosteriorFileError, match=message):
        open_posterior(path)


def test_a_damaged_value_is_found(path: Path) -> None:
    with open_posterior(path) as tree:
        values = tree["posterior"]["z"].to_numpy()
    data = path.read_bytes()
    place = data.find(values[0, 0, 0].tobytes())  # the latents of a view stand beside one another
    assert place > 0
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    with pytest.raises(PosteriorFileError, match="its checksum does not match"):
        open_posterior(path)
