"""Dividing a collection into train, validation and test, the same way for every training seed."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pp_simve.data.collection import TEST, TRAIN, UNDIVIDED, VALIDATION, Collection
from pp_simve.data.decode import Listing
from pp_simve.data.types import DataError, ImageData, Split, chunks
from pp_simve.inference import MappedImages

VALIDATION_FRACTION = 0.1
TEST_FRACTION = 0.2
# How many images of a class a part must hold so that every split drawn from it gets one.
NEEDED = {UNDIVIDED: 3, TRAIN: 2}


def split_positions(collection: Collection | Listing, seed: int) -> dict[int, Tensor]:
    """Positions of the images of TRAIN, VALIDATION and TEST: the splits that the source gives; else stratified, 70 %
    train, 10 % validation, 20 % test.

    Where the source gives train and test only, a stratified 10 % of train becomes validation. The result depends on
    `seed`, parts and labels alone, not on torch's global generator.
    """
    labels, part = collection.labels, collection.part
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(part.shape[0], generator=generator)
    chosen = part[order].clone()
    strata = torch.zeros_like(part) if labels is None else labels
    _draw(chosen, UNDIVIDED, strata[order], {TEST: TEST_FRACTION, VALIDATION: VALIDATION_FRACTION})
    if not bool((chosen == VALIDATION).any()):
        _draw(chosen, TRAIN, strata[order], {VALIDATION: VALIDATION_FRACTION})
    found = {}
    for which in (TRAIN, VALIDATION, TEST):
        index = order[(chosen == which) & ((which == TRAIN) | (strata[order] >= 0))]
        # The first of each class went to test: without another shuffle what is left would begin with few classes.
        found[which] = index[torch.randperm(len(index), generator=generator)]
    return found


def divide(name: str, collection: Collection, seed: int) -> ImageData:
    """The collection in its `split_positions`; a mapped one is in their order already.

    Raises DataError where a class has too few images to be in every split.
    """
    labels = collection.labels
    check_divisible(name, collection.part, labels, collection.classes)
    notes = [*collection.notes]
    unlabeled = labels is not None and bool((labels < 0).any())
    if labels is not None and len(collection.classes) < 2:
        notes.append(f"one class only ({collection.classes[0]}): the images are used without labels")
        labels = None
    if unlabeled:
        notes.append(
            "images without a label are fitted but not evaluated; those given for validation or test are left out"
        )

    def split(rows: Tensor | slice, index: Tensor, mapped: MappedImages | None = None) -> Split:
        return Split(
            images=collection.images[rows] if mapped is None else torch.from_numpy(mapped.images),
            labels=None if labels is None else labels[rows],
            attributes=None if collection.attributes is None else collection.attributes[rows],
            index=index,
            mapped=mapped,
        )

    if collection.order is None or collection.mapped is None:
        splits = [split(rows, rows) for rows in split_positions(collection, seed).values()]
    else:
        splits, end = [], 0
        for which in (TRAIN, VALIDATION, TEST):
            rows = slice(end, end := end + int((collection.part == which).sum()))
            splits.append(split(rows, collection.order[rows], MappedImages(collection.mapped[rows])))
    train, validation, test = splits
    return ImageData(
        name=name,
        train=train,
        validation=validation,
        test=test,
        classes=() if labels is None else collection.classes,
        attribute_names=collection.attribute_names,
        notes=tuple(notes),
        digest=collection.digest,
    )


def _draw(chosen: Tensor, source: int, strata: Tensor, fractions: dict[int, float]) -> None:
    """Give each split its fraction of every class in part `source`, at least one image; the rest becomes TRAIN.

    Images without a label, of stratum -1, all become TRAIN.
    """
    for stratum in set(strata[chosen == source].tolist()):
        members = torch.nonzero((chosen == source) & (strata == stratum)).flatten()
        chosen[members] = TRAIN
        start = 0
        for split, fraction in fractions.items() if stratum >= 0 else ():
            count = max(1, round(fraction * members.shape[0]))
            chosen[members[start : start + count]] = split
            start += count


def copies_note(data: ImageData) -> str | None:
    """Note on test images that are also in train or validation, pixel by pixel; None without any."""
    seen = {one for split in (data.train, data.validation) for one in _hashes(split)}
    copies = sum(one in seen for one in _hashes(data.test))
    if not copies:
        return None
    return (
        f"{copies} of {len(data.test)} test images are exact copies of train or validation images: "
        "test results will look better than they are"
    )


def _hashes(split: Split) -> Iterator[int]:
    return (hash(image.numpy().tobytes()) for chunk in chunks(split.pixels) for image in chunk)


def check_divisible(name: str, part: Tensor, labels: Tensor | None, classes: tuple[str, ...]) -> None:
    """Raise DataError unless the images can be divided with at least one of every class in every split."""
    if labels is not None:  # the others are fitted only
        part, labels = part[labels >= 0], labels[labels >= 0]
        labels = labels if len(classes) > 1 else None
    total = part.shape[0]
    if total < 2:
        found = "no images" if total == 0 else "one image only"
        raise DataError(f"{name} holds {found}. Training needs images for train, validation and test: add more.")
    present = set(part.tolist())
    sources = {UNDIVIDED, TRAIN} if VALIDATION not in present else {UNDIVIDED}
    for source in sorted(sources & present):
        needed, members = NEEDED[source], part == source
        where = "its train part" if source == TRAIN else "it"
        splits = "train and validation" if source == TRAIN else "train, validation and test"
        if labels is None:
            if (count := int(members.sum())) < needed:
                raise DataError(f"{name}: {where} holds {count} images, at least {needed} are needed for {splits}.")
            continue
        counts = torch.bincount(labels[members], minlength=len(classes)).tolist()
        few = [f"{label!r} ({count})" for label, count in zip(classes, counts, strict=True) if count < needed]
        if few:
            raise DataError(
                f"{name}: too few images of class {', '.join(few)}. Each class needs at least {needed} in {where}, "
                f"one each for {splits}: add images, or remove the class."
            )
    if UNDIVIDED not in present and not {TRAIN, TEST} <= present:
        missing = "train" if TRAIN not in present else "test"
        raise DataError(f"{name} has no {missing} images. Both train and test need some: add images to {missing}.")
