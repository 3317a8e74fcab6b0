"""MNIST, Fashion-MNIST and CIFAR-10 through torchvision, downloaded where they are missing."""

import os
import shutil
import socket
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

from pp_simve.data.collection import TEST, TRAIN, Collection
from pp_simve.data.pixels import Reading, resize
from pp_simve.data.types import DataError

TIMEOUT = 30.0  # seconds without a response from a server, after which a download has failed


@dataclass(frozen=True)
class Official:
    """A torchvision data set: its class there, and its files and packed archives, relative to the root."""

    title: str
    dataset: str
    files: tuple[str, ...]
    archives: tuple[str, ...]
    classes: tuple[str, ...] | None = None  # None: as torchvision calls them


_CIFAR10 = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _idx(title: str, dataset: str, classes: tuple[str, ...] | None = None) -> Official:
    files = tuple(f"{dataset}/raw/{name}" for name in _IDX)
    return Official(title, dataset, files, tuple(f"{file}.gz" for file in files), classes)


OFFICIAL = {
    "mnist": _idx("MNIST", "MNIST", tuple("0123456789")),
    "fashionmnist": _idx("Fashion-MNIST", "FashionMNIST"),
    "cifar10": Official(
        "CIFAR-10", "CIFAR10", tuple(f"cifar-10-batches-py/{name}" for name in _CIFAR10), ("cifar-10-python.tar.gz",)
    ),
}


def read_official(name: str, root: Path, reading: Reading) -> Collection:
    """Read a data set from `root`, after downloading it there where files are missing.

    Raises DataError where files are missing and cannot be downloaded, or are damaged.
    """
    official = OFFICIAL[name]
    if any(not (root / file).is_file() for file in official.files):
        _download(official, root, name)
    try:
        train, test = _open(official, root, train=True), _open(official, root, train=False)
        classes = official.classes or tuple(train.classes)
        parts = [_tensors(dataset, len(classes)) for dataset in (train, test)]
        images = torch.cat([resize(images, reading) if reading.size else images for images, _ in parts])
    except Exception as error:  # a damaged file fails in torchvision's readers in many ways
        raise DataError(
            f"{official.title}: the files in {root.absolute()} are damaged ({error}). "
            f"Delete them, so that they are downloaded again, or replace them: {_wanted(official, root)}."
        ) from error
    return Collection(
        images=images,
        part=torch.cat([torch.full_like(labels, part) for (_, labels), part in zip(parts, (TRAIN, TEST), strict=True)]),
        labels=torch.cat([labels for _, labels in parts]),
        classes=classes,
    )


def _tensors(dataset: Any, classes: int) -> tuple[Tensor, Tensor]:
    """uint8 (image, channel, height, width) and int64 (image,) of a torchvision data set."""
    images, labels = np.asarray(dataset.data), torch.as_tensor(dataset.targets).long()
    if images.shape[0] != labels.shape[0]:
        raise ValueError(f"{images.shape[0]} images, but {labels.shape[0]} labels")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels from {int(labels.min())} to {int(labels.max())}, but {classes} classes")
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(images)), labels


def _open(official: Official, root: Path, *, train: bool, download: bool = False) -> Any:
    with warnings.catch_warnings():
        # Of torchvision's own unpacking, and of arrays that an old numpy wrote: nothing a user could act on.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        return getattr(torchvision.datasets, official.dataset)(root, train=train, download=download)


def _download(official: Official, root: Path, name: str) -> None:
    """Fetch into a temporary folder in `root`, so that a failed or interrupted download leaves nothing behind."""
    absent = f"{official.title} is not in {root.absolute()}, and"
    instead = (
        f"Put {_wanted(official, root)}, or an image folder {root.absolute() / name}/{{train,test}}/<class>/*; "
        "or choose the folder that holds the data with `--data-root DIR`."
    )
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    writable = False
    try:
        root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".download-", dir=root) as folder:
            writable = True
            _fetch(official, root, Path(folder))
    except BaseException as error:
        for folder_made in made:
            with suppress(OSError):  # not empty, or never made
                folder_made.rmdir()
        if not isinstance(error, Exception):
            raise
        reason = " ".join(str(error).split())  # no network, no space, a wrong checksum, a broken archive
        failed = f"its download failed ({reason})"
        refused = f"cannot be downloaded there: the folder is not writable ({reason})"
        raise DataError(f"{absent} {failed if writable else refused}. {instead}") from error


def _fetch(official: Official, root: Path, folder: Path) -> None:
    for archive in official.archives:
        if (root / archive).is_file():
            # An archive fetched by hand is unpacked, not downloaded again; torchvision checks it.
            (folder / archive).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / archive, folder / archive)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        _open(official, folder, train=True, download=True)
    finally:
        socket.setdefaulttimeout(before)
    for file in official.files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder / file, root / file)


def _wanted(official: Official, root: Path) -> str:
    folder = root.absolute() / Path(official.files[0]).parent
    names = ", ".join(Path(file).name for file in official.files)
    packed = ", ".join(str(root.absolute() / archive) for archive in official.archives[:1])
    return f"the files {names} in {folder} (packed files, such as {packed}, are unpacked)"
