"""Fits to streams: which batches are taken, in which order, what a resumed fit goes on with, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from pp_simve.inference import CheckpointFile, InstanceDiscrimination, Run, fit
from pp_simve.inference.plan import FitError
from pp_simve.inference.streams import ENDLESS_EPOCH, Stream
from pp_simve.models import MixturePrior, SimVE

from .programs import Still, make_pair, small_images, stop_after

IMAGES, BATCH = 40, 16
PER_PASS = IMAGES // BATCH  # and eight images left over
SETTINGS: dict[str, Any] = {"seed": 3, "device": "cpu", "precision": "32", "checkpoint_minutes": 1000}


def fitted(stream: Any, seen: list[Tensor] | None = None, **settings: Any) -> Run:
    pyro.set_rng_seed(0)
    pair = make_pair("gaussian learned", dtype=torch.float32)

    def observer(views: Any, places: Tensor) -> dict[str, Tensor]:
        if seen is not None:
            seen.append(views)
        return {}

    return fit(pair.model, pair.guide, stream, observer=observer, **(SETTINGS | settings))


def in_unit_range(images: Tensor) -> Tensor:
    return images.float() / 255


class Labelled(Dataset[Any]):
    """Images with labels."""

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return small_images()[index], index


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_taken_in_the_order_of_the_loader_pass_by_pass(workers: int) -> None:
    seen: list[Tensor] = []
    loader = DataLoader(Labelled(), BATCH, num_workers=workers)
    run = fitted(loader, seen, policy=Still(), epochs=2)
    batches = in_unit_range(small_images())[: PER_PASS * BATCH].split(BATCH) * 2  # the incomplete one left out
    assert len(seen) == len(batches) == run.steps
    for views, batch in zip(seen, batches, strict=True):
        assert torch.equal(views, torch.stack([batch, batch]))
    assert run.epochs == 2
    assert isinstance(run.policy, Still)


def test_the_default_policy_and_other_lengths_are_those_of_fit() -> None:
    loader = DataLoader(Labelled(), BATCH)
    run = fitted(loader, views=3, steps=1)
    assert (run.views, run.epochs) == (3, 1 / PER_PASS)
    assert {"crop_top", "horizontal_flip"} <= set(run.policy.names)  # type: ignore[union-attr]  # of one modality
    assert fitted(loader, policy="affine", epochs=1, accumulate=2).steps == 1


class Ready:
    """Batches of views as collate functions make them."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        self.make = make

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Any]:
        for batch in small_images(3 * BATCH).split(BATCH):
            yield self.make(batch)


LAYOUTS: dict[str, Callable[[Tensor], Any]] = {
    "tensor (view, image, ...)": lambda batch: torch.stack([batch, 255 - batch]),
    "array (view, image, ...)": lambda batch: torch.stack([batch, 255 - batch]).numpy(),
    "tuple of views": lambda batch: (batch, 255 - batch),
    "list of views, labels, names": lambda batch: ([batch, 255 - batch], torch.arange(BATCH), ["a"] * BATCH),
    "tensor of views, labels": lambda batch: (torch.stack([batch, 255 - batch]), torch.arange(BATCH)),
    "floats": lambda batch: (in_unit_range(batch), in_unit_range(255 - batch)),
    "float64": lambda batch: (batch.double() / 255, (255 - batch).numpy() / 255),
}


@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS)
def test_views_that_are_ready_are_taken_as_they_are(make: Callable[[Tensor], Any]) -> None:
    seen: list[Tensor] = []
    run = fitted(Ready(make), seen, epochs=1)
    assert (len(seen), run.views, run.policy) == (3, 2, None)
    for views, batch in zip(seen, small_images(3 * BATCH).split(BATCH), strict=True):
        torch.testing.assert_close(views, in_unit_range(torch.stack([batch, 255 - batch])))


@pytest.mark.parametrize("make", [torch.clone, torch.Tensor.numpy, lambda batch: (batch, [0] * BATCH)])
def test_a_list_of_batches_is_a_stream(make: Callable[[Tensor], Any]) -> None:
    batches = small_images().split(BATCH)  # the last one has half as many images
    expected = fitted(DataLoader(Labelled(), BATCH), steps=5)
    assert fitted([make(batch) for batch in batches], steps=5).history == expected.history


class Turned(Labelled):
    """With a random transform of its own, on torch's global stream."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return small_images()[index].rot90(int(torch.randint(4, ())), (1, 2)), index


LOADERS: dict[str, Callable[[], Any]] = {
    "shuffled": lambda: DataLoader(Labelled(), BATCH, shuffle=True),
    "random transform": lambda: DataLoader(Turned(), BATCH, shuffle=True, drop_last=True),
    "worker": lambda: DataLoader(Turned(), BATCH, shuffle=True, num_workers=1),
}


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
def test_a_stopped_fit_goes_on_bit_for_bit_in_the_middle_of_a_pass(
    tmp_path: Path, make: Callable[[], Any], steps: int
) -> None:
    checkpoint = CheckpointFile(tmp_path / "checkpoint.pt")
    whole = fitted(make(), epochs=3)
    fitted(make(), epochs=3, checkpoint=checkpoint, should_stop=stop_after(steps))
    resumed = fitted(make(), epochs=3, checkpoint=checkpoint)
    assert whole.steps == resumed.steps == 3 * PER_PASS
    assert resumed.history == whole.history[steps:]


def test_passes_differ_in_their_order_and_seeds_in_theirs() -> None:
    def orders(seed: int) -> list[list[int]]:
        stream = Stream.of(DataLoader(Labelled(), BATCH, shuffle=True), Still(), 2, original_first=False, seed=seed)
        found = []
        for _ in range(2):
            batches = [stream.draw(torch.arange(BATCH), torch.Generator())[0] for _ in range(PER_PASS)]
            found.append([int((batch * 255).sum()) for batch in torch.cat(batches)])
        return found

    first, second = orders(0)
    assert first != second
    assert orders(0) == [first, second]
    assert orders(1)[0] != first


def test_a_process_takes_its_share_of_a_batch() -> None:
    stream = Stream.of(DataLoader(Labelled(), BATCH), Still(), 2, original_first=False, seed=0)
    share = stream.order(torch.Generator())[BATCH : 2 * BATCH][1::2]  # of the second process of two
    views = stream.draw(share, torch.Generator())
    assert torch.equal(views[1], in_unit_range(small_images())[1:BATCH:2])


def test_an_endless_stream_needs_a_number_of_steps() -> None:
    def endless() -> Iterator[Tensor]:
        while True:
            yield small_images(BATCH)

    run = fitted(endless(), steps=5)
    assert (run.steps, run.epochs) == (5, 5 / ENDLESS_EPOCH)
    with pytest.raises(FitError, match="the stream has no length, so there are no epochs; give steps"):
        fitted(endless())


class Growing:
    def __iter__(self) -> Iterator[Tensor]:
        yield small_images(BATCH)
        yield small_images(BATCH + 1)


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Tensor]:
        yield from small_images()


@pytest.mark.parametrize(
    ("stream", "settings", "words"),
    [
        (iter([]), {"steps": 1}, "the stream is empty"),
        (
            iter([small_images(BATCH)]),
            {"steps": 2},
            "ended after 1 batches and cannot be iterated again",
        ),
        (DataLoader(Labelled(), BATCH), {"batch_size": 8}, "batch_size is 8, but the stream gives batches of 16"),
        (DataLoader(Labelled(), BATCH), {"policy": {"photo": "crop"}}, "policies by modality .photo. need images by"),
        (DataLoader(Labelled(), BATCH), {"policy": "crops"}, "did you mean 'crop'"),
        (
            Ready(LAYOUTS["tuple of views"]),
            {"policy": "crop"},
            "gives 2 views of each image, ready made: leave out",
        ),
        (Ready(LAYOUTS["tuple of views"]), {"views": 3}, "gives 2 views of each image, ready made"),
        (Growing(), {"steps": 2}, r"batch 2 of the stream has shape \(17, 1, 4, 4\), the first had \(16, 1, 4, 4\)"),
        (DataLoader(Labelled(), 3 * IMAGES), {}, "no full batch, .* its first has 40 images"),
        (
            (batch.float() for batch in [small_images()]),
            {"steps": 1},
            r"batches of the stream must be float in \[0, 1\]",
        ),
        (iter(["a.png"]), {"steps": 1}, "batches of the stream must be a tensor, .* type str"),
        (list(small_images(BATCH)), {}, r"a tensor, an array or a torch Dataset, got .* list; stack them: torch.stack"),
        ([], {}, "must be a tensor, an array or a torch Dataset"),
        (["a.png"], {}, "must be a tensor, an array or a torch Dataset"),
        (Endless(), {"steps": 1}, r"fit it as a stream, DataLoader\(dataset, batch_size\), with steps"),
    ],
)
def test_what_is_no_stream_is_refused(stream: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(FitError, match=words):
        fitted(stream, **settings)


def test_objectives_that_know_images_by_their_place_refuse_streams() -> None:
    pair = make_pair("flat", dtype=torch.float32)
    model = SimVE(MixturePrior(3, IMAGES, learn_prototypes=False))
    objective = InstanceDiscrimination(model, pair.guide)
    with pytest.raises(FitError, match="InstanceDiscrimination knows images by their place in the data"):
        fit(model, pair.guide, DataLoader(Labelled(), BATCH), objective=objective, steps=1)
