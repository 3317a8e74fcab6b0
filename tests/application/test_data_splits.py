"""Splits: fixed, disjoint, stratified, and independent of the global generator."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pp_simve.data import DataError, ImageData, load_data
from pp_simve.data.collection import TEST, TRAIN, UNDIVIDED, VALIDATION, Collection
from pp_simve.data.splits import divide

from .data_fixtures import assert_disjoint, rows


def collection(labels: list[int] | None, part: list[int], classes: int = 2) -> Collection:
    count = len(part)
    images = torch.arange(count, dtype=torch.int32).view(torch.uint8).reshape(count, 1, 2, 2).clone()
    names = tuple("abcdefghij"[:classes]) if labels is not None else ()
    return Collection(images, torch.tensor(part), None if labels is None else torch.tensor(labels), classes=names)


def counts(data: ImageData, classes: int) -> list[list[int]]:
    splits = (data.train, data.validation, data.test)
    return [torch.bincount(split.labels, minlength=classes).tolist() for split in splits if split.labels is not None]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (collection([0] * 100 + [1] * 50, [UNDIVIDED] * 150), [[70, 35], [10, 5], [20, 10]]),
        (collection([0, 1] * 100, [TRAIN] * 160 + [TEST] * 40), [[72, 72], [8, 8], [20, 20]]),
        (collection([0, 1] * 10, [TRAIN] * 12 + [VALIDATION] * 4 + [TEST] * 4), [[6, 6], [2, 2], [2, 2]]),
        (collection(None, [UNDIVIDED] * 20), [14, 2, 4]),
    ],
)
def test_stratified_fractions(given: Collection, expected: list[Any]) -> None:
    data = divide("x", given, seed=0)
    assert (counts(data, 2) or [len(data.train), len(data.validation), len(data.test)]) == expected
    assert_disjoint(data, len(given.part))
    if bool((given.part == TEST).any()):  # the given test images are kept
        assert rows(data.test) == {image.numpy().tobytes() for image in given.images[given.part == TEST]}


def test_labels_stay_with_their_images() -> None:
    whole = collection([0] * 30 + [1] * 30, [UNDIVIDED] * 60)
    data = divide("x", whole, seed=3)
    for split in (data.train, data.validation, data.test):
        numbers = split.images.flatten(1).contiguous().view(torch.int32).flatten()
        assert split.labels is not None
        assert torch.equal(split.labels, (numbers >= 30).long())


def test_splits_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = load_data("digits")
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    assert load_data("digits").fingerprint == first.fingerprint
    assert load_data("digits", seed=1).fingerprint != first.fingerprint
    torch.manual_seed(1)
    load_data("digits")
    assert torch.equal(torch.random.get_rng_state(), state)


@given(st.lists(st.integers(3, 40), min_size=2, max_size=6), st.integers(0, 5))
def test_every_class_is_in_every_split(sizes: list[int], seed: int) -> None:
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    data = divide("x", collection(labels, [UNDIVIDED] * len(labels), len(sizes)), seed)
    assert all(min(split) >= 1 for split in counts(data, len(sizes)))
    assert [sum(column) for column in zip(*counts(data, len(sizes)), strict=True)] == sizes
    assert_disjoint(data, len(labels))


@pytest.mark.parametrize(
    ("labels", "part", "message"),
    [
        ([], [], "no images"),
        ([0], [UNDIVIDED], "one image only"),
        ([0] * 5 + [1] * 2, [UNDIVIDED] * 7, r"class 'b' \(2\).*at least 3"),
        ([0, 0, 1, 0, 1], [TRAIN] * 3 + [TEST] * 2, r"class 'b' \(1\).*at least 2 in its train part"),
        (None, [UNDIVIDED] * 2, "at least 3 are needed"),
        (None, [TRAIN, TEST], "at least 2 are needed for train and validation"),
        ([0, 1, 0, 1], [TRAIN] * 4, "no test images"),
        ([0] * 9, [UNDIVIDED] * 9, "class 'b' .0"),
    ],
)
def test_too_few_images(labels: list[int] | None, part: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        divide("x", collection(labels, part), seed=0)


def test_the_first_images_of_a_split_are_a_fair_sample() -> None:
    """The first tenth of each split has every class about as often as the whole."""
    labels = torch.arange(6000) % 4
    data = divide(
        "many",
        Collection(
            torch.zeros(6000, 1, 2, 2, dtype=torch.uint8),
            torch.full((6000,), UNDIVIDED),
            labels,
            classes=("a", "b", "c", "d"),
        ),
        seed=0,
    )
    for split in (data.train, data.validation, data.test):
        assert split.labels is not None
        first = len(split) // 10
        counts = torch.bincount(split.labels[:first], minlength=4) / first
        assert (counts - 0.25).abs().max() < 4 * (0.25 * 0.75 / first) ** 0.5
