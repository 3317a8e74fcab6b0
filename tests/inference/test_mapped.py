"""Images in a file: fits to them equal those to the same images in memory, and workers are sent their place."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch

from pp_simve.inference import CheckpointFile, MappedImages, Run, data, fit
from pp_simve.inference.data import ImagesOfFile, training_source
from pp_simve.inference.images import ImagesError
from pp_simve.inference.plan import FitError

from .programs import make_pair, small_images, stop_after

BATCH = 8


def mapped(folder: Path) -> np.memmap[Any, Any]:
    np.save(folder / "images.npy", small_images().numpy())
    found = np.load(folder / "images.npy", mmap_mode="r")
    assert isinstance(found, np.memmap)
    return found


def fitted(images: Any, **settings: Any) -> Run:
    pyro.set_rng_seed(0)
    pair = make_pair("gaussian learned", dtype=torch.float32)
    settings = {"epochs": 2, "batch_size": BATCH, "seed": 3, "device": "cpu", "precision": "32"} | settings
    return fit(pair.model, pair.guide, images, **settings)


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2}, {"views": 3, "policy": "affine"}])
def test_a_fit_to_a_file_is_that_to_the_images_in_memory(tmp_path: Path, settings: dict[str, Any]) -> None:
    expected = fitted(small_images(), **settings).history
    for images in (mapped(tmp_path), MappedImages(mapped(tmp_path))):
        assert fitted(images, **settings).history == expected


@pytest.mark.parametrize("steps", [1, 5, 7])
def test_a_stopped_fit_to_a_file_goes_on_bit_for_bit(tmp_path: Path, steps: int) -> None:
    checkpoint = CheckpointFile(tmp_path / "checkpoint.pt")
    fitted(mapped(tmp_path), checkpoint=checkpoint, should_stop=stop_after(steps))
    assert fitted(mapped(tmp_path), checkpoint=checkpoint).history == fitted(small_images()).history[steps:]


def test_the_next_batch_is_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = training_source(mapped(tmp_path), "crop", 2)
    assert isinstance(source, ImagesOfFile)
    expected = training_source(small_images(), "crop", 2)
    places = torch.tensor([3, 1, 2])
    for told in (places, torch.tensor([3, 1, 4]), torch.tensor([3]), places[:0]):  # the views are right in any case
        source.expect(told)
        drawn = source.draw(places, torch.Generator().manual_seed(0))
        assert torch.equal(drawn, expected.draw(places, torch.Generator().manual_seed(0)))
    source.expect(places)
    source._reader.shutdown()  # waits for what was begun
    monkeypatch.delattr(MappedImages, "batch")
    source.draw(places, torch.Generator())


@pytest.mark.parametrize("part", [slice(None), slice(7, 31), slice(30, 2, -3)])
def test_mapped_images_are_sent_to_workers_as_their_place_in_the_file(tmp_path: Path, part: slice) -> None:
    images = MappedImages(mapped(tmp_path)[part])
    sent = pickle.dumps(images)
    assert images.images[1].tobytes() not in sent
    received = pickle.loads(sent)
    assert torch.equal(torch.stack(received.__getitems__(range(len(images)))), torch.stack(list(images)))
    assert torch.equal(received[1], torch.from_numpy(small_images().numpy()[part].copy())[1])


def test_a_file_stays_where_it_is_if_it_takes_too_much_of_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = mapped(tmp_path)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * images.nbytes - 1, 0))
    moved = training_source(images, "crop", 2).to(torch.device("cuda"))
    assert isinstance(moved, ImagesOfFile)
    assert (moved.device.type, moved.target.type) == ("cpu", "cuda")  # of the images, and of their views


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_fit_to_a_file_on_a_gpu_is_that_to_the_images_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(data, "DEVICE_SHARE", share)
    assert fitted(mapped(tmp_path), device="cuda").history == fitted(small_images(), device="cuda").history


def test_what_cannot_be_mapped_is_refused_or_read(tmp_path: Path) -> None:
    images = mapped(tmp_path)
    some = images[[1, 2, 3, 4]]  # a copy, in memory
    with pytest.raises(ImagesError, match="needs images of a file, got an array in memory; open the file"):
        MappedImages(some)
    assert fitted(some, batch_size=4).history == fitted(small_images()[1:5], batch_size=4).history
    floats = np.memmap(tmp_path / "floats", np.float64, "w+", shape=images.shape)
    floats[20:] = 2  # seen in the first batch that has one of them
    for words, wrong in {
        "there are no images to fit": images[:0],
        "channel last; move it": images.reshape(-1, 8, 8, 1),
        "float in .0, 1., got values in .0, 2.": floats,
    }.items():
        with pytest.raises(ImagesError, match=words):
            fitted(wrong)
    with pytest.raises(FitError, match="batch_size must be at least 1, got 0"):
        fitted(images, batch_size=0)


@pytest.mark.parametrize("size", [None, 0, 200])
def test_a_file_that_is_gone_or_too_short_is_named(tmp_path: Path, size: int | None) -> None:
    images = mapped(tmp_path)
    file = tmp_path / "images.npy"
    if size is None:
        file.unlink()
    else:
        os.truncate(file, size)
    with pytest.raises(ImagesError, match=r"images\.npy, was deleted or shortened"):
        MappedImages(images)


def test_images_of_a_file_in_reverse_are_fitted(tmp_path: Path) -> None:
    images = mapped(tmp_path)[::-1]
    assert fitted(images).history == fitted(images.copy()).history
