"""Images as users have them: accepted forms, and the errors for others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pp_simve.inference import AmortizedGuide, FitError, MLPEncoder, ResidualEncoder, fit
from pp_simve.inference.augmentations import FromTransforms
from pp_simve.inference.data import ImagesOfFile, training_source
from pp_simve.inference.images import as_images
from pp_simve.models import Bernoulli, Gaussian, GaussianPrior, MLPDecoder, SimVE
from pp_simve.testing.objective import read_backs

from .programs import small_images

SHAPE = (3, 6, 5)
BYTES = small_images(20, SHAPE)
ARRAY: np.ndarray[Any, Any] = BYTES.numpy()
UNIT = BYTES.float() / 255


class Items(Dataset[Any]):
    """A data set of any items."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Any:
        return self.items[place]


class Stream(IterableDataset[Tensor]):
    """Images without a number."""

    def __iter__(self) -> Iterator[Tensor]:
        yield from BYTES


def pictures(images: Tensor = BYTES) -> list[Image.Image]:
    return [Image.fromarray(image.movedim(0, -1).squeeze(-1).numpy()) for image in images]


def mapped(folder: Path) -> np.ndarray[Any, Any]:
    np.save(folder / "images.npy", ARRAY)
    found: np.ndarray[Any, Any] = np.load(folder / "images.npy", mmap_mode="r")
    return found


GOOD: dict[str, Any] = {
    "tensor": BYTES,
    "float tensor": UNIT,
    "double tensor": UNIT.double(),
    "array": ARRAY,
    "float64 array": ARRAY / 255,
    "negative strides": ARRAY[:, :, ::-1, ::-1].copy()[:, :, ::-1, ::-1],
    "other byte order": (ARRAY / 255).astype(">f4"),
    "rounding": UNIT + 9e-4,
    "tensors": Items(list(BYTES)),
    "arrays with labels": Items([(image, 3) for image in ARRAY / 255]),
    "pictures with labels": Items([[image, 3] for image in pictures()]),
    "tensor data set": TensorDataset(BYTES, torch.arange(20)),
}
FLOATS = ("float tensor", "double tensor", "float64 array", "other byte order", "rounding", "arrays with labels")


@pytest.mark.parametrize("form", [*GOOD, "memory-mapped"])
def test_images_may_come_in_any_form(form: str, tmp_path: Path) -> None:
    given = mapped(tmp_path) if form == "memory-mapped" else GOOD[form]
    source = training_source(given, None, 2)
    found = source.mapped.batch(torch.arange(20)) if isinstance(source, ImagesOfFile) else source.images
    assert isinstance(found, Tensor)
    assert found.dtype == (torch.float32 if form in FLOATS else torch.uint8)
    torch.testing.assert_close(
        found if found.dtype == torch.uint8 else found * 255, BYTES.to(found.dtype), rtol=0, atol=0.5
    )
    assert found.max() <= (255 if found.dtype == torch.uint8 else 1)
    guide = AmortizedGuide(MLPEncoder(SHAPE, hidden=(4,)), GaussianPrior(2))
    expected = guide.embed_batches(BYTES).z
    torch.testing.assert_close(guide.embed_batches(given, batch_size=7).z, expected, rtol=0, atol=1e-3)
    if isinstance(given, Tensor | np.ndarray):
        torch.testing.assert_close(guide.embed(given).z, expected, rtol=0, atol=1e-3)


def test_gray_pictures_have_one_channel() -> None:
    gray = small_images(4, (1, 6, 5))
    assert torch.equal(as_images(Items(pictures(gray))), gray)


def test_an_array_is_shared_and_not_changed() -> None:
    assert as_images(ARRAY).data_ptr() == ARRAY.ctypes.data
    outside = UNIT + 9e-4
    before = outside.clone()
    assert as_images(outside).max() == 1
    assert torch.equal(outside, before)


HWC = np.ascontiguousarray(np.moveaxis(np.tile(ARRAY, (1, 1, 1, 2)), 1, -1))
BAD: dict[str, tuple[Any, str]] = {
    "channel last": (HWC, r"got \(20, 6, 10, 3\), which has the channel last; move it: np.moveaxis\(images, -1, 1\)"),
    "channel last, tensor": (torch.from_numpy(HWC), r"move it: images.movedim\(-1, 1\)"),
    "0 to 255": (ARRAY.astype(np.float32), r"got values in \[0, 255\]; divide .*: images / 255"),
    "normalized": (UNIT * 4 - 2, r"got values in \[-2, 2\]; leave out a normalization, or undo it: .* std \+ mean"),
    "16 bits": (ARRAY.astype(np.uint16), r"got uint16; convert them: images.astype\(np.float32\) / 65535"),
    "yes or no": (BYTES > 9, r"got bool; convert them: images.to\(torch.float32\)"),
    "whole numbers": (ARRAY.astype(int), r"0..255 or float in \[0, 1\], got int64; convert .*astype\(np.uint8\)"),
    "not a number": (UNIT * float("nan"), r"got values in \[nan, nan\]; replace what is not a number"),
    "objects": (np.array([[[[None]]]]), "got object"),
    "one image": (BYTES[0], r"got \(3, 6, 5\); add a batch dimension to a single image, image\[None\]"),
    "no channel": (ARRAY[:, 0], r"or the channel to gray images, images\[:, None\]"),
    "rows": (ARRAY.reshape(20, -1), r"got \(20, 90\); reshape them: images.reshape\(count, channels, height, width\)"),
    "no pixels": (BYTES[..., :0], "which has no pixels"),
    "list": (list(BYTES), r"got an object of type list; stack them: torch.stack\(images\)"),
    "loader": (DataLoader(Items(list(BYTES))), "type DataLoader; give its dataset, loader.dataset"),
    "text": ("images.npy", "must be a tensor, an array or a torch Dataset, got an object of type str"),
    "stream": (Stream(), "must have a length, Stream has none; fit it as a stream, DataLoader"),
    "sizes": (Items([*BYTES, BYTES[0, :, :4]]), r"item 20 of images is torch.uint8 .*\(3, 4, 5\), but item 0 .*Resize"),
    "modes": (Items([*pictures(), *pictures(BYTES[:, :1])]), r"item 20 .* shape \(1, 6, 5\), but item 0"),
    "palette": (Items([image.convert("P") for image in pictures()]), r"item 0 of images has mode P.*convert\('RGB'\)"),
    "dictionaries": (Items([{"image": BYTES[0]}]), "item 0 of images is an object of type dict, expected an image"),
    "flat items": (Items(list(BYTES[:, 0])), r"item 0 .* must have shape \(channel, height, width\), got \(6, 5\)"),
}


@pytest.mark.parametrize("form", BAD)
def test_other_images_are_refused_in_the_same_words_everywhere(form: str) -> None:
    images, words = BAD[form]
    guide = AmortizedGuide(MLPEncoder(SHAPE, hidden=(4,)), GaussianPrior(2))
    for call in (lambda: training_source(images, None, 2), lambda: guide.embed_batches(images)):
        with pytest.raises(FitError, match=words):
            call()


def test_embedding_a_loaded_data_set_is_refused_with_the_images_to_give() -> None:
    guide = AmortizedGuide(MLPEncoder(SHAPE, hidden=(4,)), GaussianPrior(2))
    with pytest.raises(FitError, match=r"give the images of one split: data\.test\.images"):
        guide.embed_batches(SimpleNamespace(images=BYTES, default_policy="affine"))  # type: ignore[arg-type]


def test_the_loop_of_a_probe_reads_nothing_from_the_device() -> None:
    guide = AmortizedGuide(MLPEncoder(SHAPE, hidden=(4,)), GaussianPrior(2))
    with pyro.validation_enabled(False), read_backs() as found:
        guide.embed(UNIT * 255)
    assert found == []


@pytest.mark.parametrize("encoder", [MLPEncoder(SHAPE, hidden=(4,)), ResidualEncoder(SHAPE, width=2)])
def test_images_of_another_shape_are_named_with_that_of_the_encoder(encoder: MLPEncoder | ResidualEncoder) -> None:
    prior = GaussianPrior(2)
    model, guide = SimVE(prior, Gaussian(MLPDecoder(2, SHAPE, hidden=(4,)))), AmortizedGuide(encoder, prior)
    gray, words = BYTES[:, :1], r"of shape \(1, 6, 5\); the encoder is built for \(3, 6, 5\) \(.*\)\. Build"
    with pytest.raises(FitError, match="model and guide failed on images " + words):
        fit(model, guide, gray, steps=1, batch_size=4, device="cpu")
    with pytest.raises(ValueError, match="AmortizedGuide cannot embed images " + words):
        guide.embed_batches(gray)


def small() -> tuple[SimVE, AmortizedGuide]:
    torch.manual_seed(0)
    prior = GaussianPrior(2)
    decoder = MLPDecoder(2, (1, 6, 5), hidden=(4,))
    return SimVE(prior, Bernoulli(decoder)), AmortizedGuide(MLPEncoder((1, 6, 5), hidden=(4,)), prior)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_default_type_serves_fit_and_embedding(dtype: torch.dtype) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model, guide = small()
        fit(model, guide, BYTES[:, :1], steps=2, batch_size=4, device="cpu")
        assert guide.embed_batches(BYTES[:, :1]).z.dtype == guide.embed(UNIT.half()[:, :1]).z.dtype == dtype
    finally:
        torch.set_default_dtype(before)


def test_fit_needs_gradients_and_takes_them() -> None:
    histories = []
    for context in (torch.enable_grad(), torch.no_grad()):
        model, guide = small()
        with context:
            histories.append(fit(model, guide, BYTES[:, :1], steps=2, batch_size=4, device="cpu").history)
            assert torch.is_grad_enabled() is isinstance(context, torch.enable_grad)
    assert histories[0] == histories[1]
    with torch.inference_mode(), pytest.raises(FitError, match=r"torch.inference_mode\(\) rules out; call it outside"):
        fit(model, guide, BYTES[:, :1], steps=2, batch_size=4, device="cpu")


def test_a_pipeline_of_transforms_fits() -> None:
    policy = FromTransforms(lambda image: image * torch.rand(()))
    runs = [fit(*small(), BYTES[:, :1], policy=policy, steps=2, batch_size=4, device="cpu") for _ in range(2)]
    assert runs[0].history == runs[1].history
    assert runs[0].policy is policy
