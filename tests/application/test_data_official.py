"""torchvision's data sets: read where they are, downloaded where not, and never left half downloaded."""

import gzip
import hashlib
import os
import pickle
import socket
import tarfile
import warnings
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision

from pp_simve.data import DataError, load_data, official

from .data_fixtures import assert_disjoint, real_data_root, write_classes

COUNTS = {"train": 40, "t10k": 20}


def idx_files(name: str) -> dict[str, bytes]:
    """A tiny MNIST: the four IDX files by their path below the root."""
    rng = np.random.default_rng(0)
    files = {}
    for part, count in COUNTS.items():
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        head = b"".join(number.to_bytes(4, "big") for number in (2051, count, 28, 28))
        files[f"{name}/raw/{part}-images-idx3-ubyte"] = head + images.tobytes()
        labels = (np.arange(count) % 10).astype(np.uint8)
        files[f"{name}/raw/{part}-labels-idx1-ubyte"] = (
            (2049).to_bytes(4, "big") + count.to_bytes(4, "big") + bytes(labels)
        )
    return files


def put(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


class Failing:
    """Stands in for a torchvision data set whose download breaks off half way."""

    error: BaseException = URLError("no network")

    def __init__(self, root: Path, train: bool, download: bool) -> None:
        assert download
        (Path(root) / "cifar-10-python.tar.gz").write_bytes(b"half")
        (Path(root) / "FashionMNIST" / "raw").mkdir(parents=True)
        raise self.error


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for dataset in ("MNIST", "FashionMNIST", "CIFAR10"):
        monkeypatch.setattr(torchvision.datasets, dataset, Failing)


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashionmnist", "FashionMNIST")])
def test_idx_files_are_read(tmp_path: Path, name: str, folder: str) -> None:
    put(tmp_path, idx_files(folder))
    before = everything(tmp_path)
    data = load_data(name, tmp_path)
    assert data.image_shape == (1, 28, 28)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [30, 10, 20]
    assert data.classes[0] == ("0" if name == "mnist" else "T-shirt/top")
    assert len(data.classes) == 10
    assert_disjoint(data, 60)
    assert load_data(name, tmp_path, image_size=32).image_shape == (1, 32, 32)
    assert everything(tmp_path) == before


def cifar_files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A tiny CIFAR-10, whose checksums torchvision is told."""
    rng = np.random.default_rng(0)
    files = {}
    for name in official._CIFAR10[:-1]:
        images = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        files[name] = pickle.dumps({"data": images, "labels": [number % 10 for number in range(20)]})
    files["batches.meta"] = pickle.dumps({"label_names": list("abcdefghij")})
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    cifar = torchvision.datasets.CIFAR10
    monkeypatch.setattr(cifar, "train_list", [[name, sums[name]] for name in official._CIFAR10[:5]])
    monkeypatch.setattr(cifar, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": sums["batches.meta"]})
    return {f"cifar-10-batches-py/{name}": content for name, content in files.items()}


def test_cifar_batches_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, cifar_files(monkeypatch))
    data = load_data("cifar10", tmp_path)
    assert data.image_shape == (3, 32, 32)
    assert data.classes == tuple("abcdefghij")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [90, 10, 20]
    assert_disjoint(data, 120)


def test_packed_files_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = cifar_files(monkeypatch)
    put(tmp_path / "unpacked", files)
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "unpacked" / "cifar-10-batches-py", "cifar-10-batches-py")
    md5 = hashlib.md5((root / "cifar-10-python.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", md5)
    assert len(load_data("cifar10", root).test) == 20
    assert everything(root) == sorted([*files, "cifar-10-batches-py", "cifar-10-python.tar.gz"])


def test_packed_idx_files_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = {f"{name}.gz": gzip.compress(content) for name, content in idx_files("MNIST").items()}
    put(tmp_path, packed)
    resources = [(Path(name).name, hashlib.md5(content).hexdigest()) for name, content in packed.items()]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    assert len(load_data("mnist", tmp_path).test) == 20
    assert {*idx_files("MNIST"), *packed} <= set(everything(tmp_path))


def test_download_goes_to_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = torchvision.datasets.MNIST
    timeouts = []

    def fetch(root: Path, train: bool, download: bool) -> Any:
        if download:
            timeouts.append(socket.getdefaulttimeout())
            put(Path(root), {**idx_files("MNIST"), "MNIST/raw/train-images-idx3-ubyte.gz": b"packed"})
        return genuine(root, train=train)

    monkeypatch.setattr(torchvision.datasets, "MNIST", fetch)
    # torchvision takes the folder's name from the class.
    root = tmp_path / "new" / "root"
    before = socket.getdefaulttimeout()
    assert len(load_data("mnist", root).test) == 20
    assert everything(root) == sorted([*idx_files("MNIST"), "MNIST", "MNIST/raw"])
    assert timeouts == [official.TIMEOUT]
    assert socket.getdefaulttimeout() == before
    assert len(load_data("mnist", root).test) == 20
    assert len(timeouts) == 1


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mnist", "MNIST/raw .*MNIST/raw/train-images-idx3-ubyte.gz"),
        ("fashionmnist", "FashionMNIST/raw "),
        ("cifar10", "data_batch_1, .*batches.meta in .*cifar-10-batches-py .*cifar-10-python.tar.gz"),
    ],
)
def test_failed_download_says_what_to_put_where(tmp_path: Path, name: str, files: str) -> None:
    root = tmp_path / "new" / "root"
    with pytest.raises(DataError, match=rf"download failed \(<urlopen error no network>\).*{files}.*--data-root DIR"):
        load_data(name, root)
    assert everything(tmp_path) == []


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("error", [URLError("no network"), KeyboardInterrupt()])
def test_failed_download_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(Failing, "error", error)
    put(tmp_path, dict(list(idx_files("FashionMNIST").items())[:-1]))
    before = everything(tmp_path)
    for name, root in (("fashionmnist", tmp_path), ("cifar10", tmp_path / "root")):
        with pytest.raises((DataError, KeyboardInterrupt)):
            load_data(name, root)
        assert everything(tmp_path) == before


@pytest.mark.usefixtures("_no_network")
def test_a_root_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "file").write_text("a regular file, below which no folder can be made")
    with pytest.raises(DataError, match=r"not writable.*--data-root DIR"):
        load_data("cifar10", tmp_path / "file" / "root")
    monkeypatch.setattr(official, "TemporaryDirectory", refuse)
    with pytest.raises(DataError, match=r"not writable .*Permission denied"):
        load_data("cifar10", tmp_path)
    assert everything(tmp_path) == ["file"]


@pytest.mark.parametrize("damage", ["truncated", "checksum", "labels"])
def test_damaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    files, name, message = idx_files("MNIST"), "mnist", r"MNIST: the files in .* are damaged.*Delete them"
    if damage == "truncated":
        files = {file: content[:-5] for file, content in files.items()}
    elif damage == "labels":
        files["MNIST/raw/t10k-labels-idx1-ubyte"] = (2049).to_bytes(4, "big") + (3).to_bytes(4, "big") + bytes(3)
        message = "20 images, but 3 labels"
    else:
        files = cifar_files(monkeypatch) | {"cifar-10-batches-py/test_batch": b"other"}
        name, message = "cifar10", r"CIFAR-10: the files in .* are damaged"
    put(tmp_path, files)
    with pytest.raises(DataError, match=message):
        load_data(name, tmp_path)


def test_the_default_root_and_arrays_of_an_old_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = torchvision.datasets.MNIST

    def warn(root: Path, train: bool, download: bool) -> Any:
        warnings.warn("align should be passed as bool", np.exceptions.VisibleDeprecationWarning, stacklevel=1)
        return genuine(root, train=train)

    put(tmp_path / "data", idx_files("MNIST"))
    monkeypatch.setattr(torchvision.datasets, "MNIST", warn)
    monkeypatch.chdir(tmp_path)
    assert len(load_data("mnist").test) == 20


def test_an_image_folder_in_the_root_comes_first(tmp_path: Path) -> None:
    write_classes(tmp_path / "cifar10" / "train", {"cat": 6, "dog": 6})
    write_classes(tmp_path / "cifar10" / "test", {"cat": 2, "dog": 2}, start=100)
    data = load_data("cifar10", tmp_path, cache=tmp_path / "cache")
    assert data.name == "cifar10"
    assert data.classes == ("cat", "dog")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [10, 2, 4]
    assert "not comparable with the official pixels" in data.notes[0]
    assert sorted(os.listdir(tmp_path)) == ["cache", "cifar10"]


def test_real_fashion_mnist() -> None:
    root = real_data_root()
    if not (root / "FashionMNIST").is_dir():
        pytest.skip(f"{root} has no FashionMNIST")
    data = load_data("fashionmnist", root)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [54_000, 6_000, 10_000]
    for split, count in ((data.train, 5400), (data.validation, 600), (data.test, 1000)):
        assert split.labels is not None
        assert torch.bincount(split.labels).tolist() == [count] * 10
    theirs = torchvision.datasets.FashionMNIST(root, train=False).data
    assert torch.equal(data.test.images.double().mean(0)[0], theirs.double().mean(0))
    assert data.fingerprint == load_data("fashionmnist", root).fingerprint
