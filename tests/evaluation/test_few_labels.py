"""Class scores: those of both probes, and of few labels: which rows are drawn, and what is reported for them."""

import statistics
from typing import Any

import pytest
import torch
from torch import Tensor

from pp_simve.evaluation import KNNProbe, LinearProbe, content_scores
from pp_simve.evaluation.tasks import classes
from pp_simve.evaluation.tasks.classes import few_label_scores

Split = tuple[Tensor, Tensor]


def blobs(rows: int, seed: int, spread: float = 1.0) -> Split:
    """Six Gaussian classes, numbered 2, 4, …, 12."""
    centres = 3 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(6, (rows,), generator=generator)
    return centres[y] + spread * torch.randn(rows, 5, generator=generator), 2 * y + 2


class Recorder(LinearProbe):
    """A linear probe that remembers which rows every fit was given, told by their first feature, and every score."""

    fits: list[tuple[list[int], list[int]]]
    scores: list[float]

    def fit(self, train_x: Tensor, train_y: Tensor, validation_x: Tensor, validation_y: Tensor) -> LinearProbe:
        self.fits.append((train_x[:, 0].long().tolist(), validation_x[:, 0].long().tolist()))
        return super().fit(train_x, train_y, validation_x, validation_y)

    def score(self, x: Tensor, y: Tensor) -> float:
        self.scores.append(super().score(x, y))
        return self.scores[-1]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setattr(Recorder, "fits", [], raising=False)
    monkeypatch.setattr(Recorder, "scores", [], raising=False)
    monkeypatch.setattr(classes, "LinearProbe", Recorder)
    return Recorder


def numbered(split: Split, shift: float = 0.0) -> Split:
    """The row's number as the first feature; the others moved."""
    x, y = split
    return torch.cat([torch.arange(len(x)).unsqueeze(1).to(x), x + shift], dim=1), y


TRAIN, VALIDATION, TEST = blobs(300, 1), blobs(150, 2), blobs(200, 3)


def test_content_is_the_accuracy_of_both_probes_on_test() -> None:
    linear, knn = (probe.fit(*TRAIN, *VALIDATION).score(*TEST) for probe in (LinearProbe(), KNNProbe()))
    assert content_scores(TRAIN, VALIDATION, TEST) == {"linear": linear, "knn": knn}


def classes_of(rows: list[int], y: Tensor) -> list[int]:
    return torch.bincount(y[rows], minlength=13)[2::2].tolist()


def test_each_draw_has_count_rows_a_class_from_train_and_from_validation(recorder: type[Recorder]) -> None:
    few_label_scores(numbered(TRAIN), numbered(VALIDATION), numbered(TEST), counts=(1, 7), draws=3, penalties=(1.0,))
    assert len(recorder.fits) == 6
    for index, (fitted, chosen) in enumerate(recorder.fits):
        count = (1, 7)[index % 2]
        assert classes_of(fitted, TRAIN[1]) == [count] * 6
        assert classes_of(chosen, VALIDATION[1]) == [count] * 6
        assert len(set(fitted)) == len(fitted)
        assert len(set(chosen)) == len(chosen)
    for small, large in zip(recorder.fits[::2], recorder.fits[1::2], strict=True):
        assert set(small[0]) < set(large[0])
        assert set(small[1]) < set(large[1])
    assert len({tuple(fitted) for fitted, _ in recorder.fits}) == 6
    assert len({tuple(chosen) for _, chosen in recorder.fits}) == 6


def test_draws_are_decided_by_seed_and_labels_alone(recorder: type[Recorder]) -> None:
    def drawn(shift: float, counts: tuple[int, ...], seed: int) -> list[tuple[list[int], list[int]]]:
        recorder.fits.clear()
        splits = numbered(TRAIN, shift), numbered(VALIDATION, shift), numbered(TEST)
        few_label_scores(*splits, counts=counts, draws=3, seed=seed, penalties=(1.0,))
        return list(recorder.fits)

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = drawn(0.0, (4,), seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert drawn(100.0, (4,), seed=0) == first
    assert drawn(0.0, (2, 4, 9), seed=0)[1::3] == first
    assert drawn(0.0, (4,), seed=1) != first


def test_all_rows_of_a_class_are_drawn_equally_often(recorder: type[Recorder]) -> None:
    y = torch.tensor([0] * 4 + [1] * 4)
    split = numbered((torch.zeros(8, 1), y[torch.randperm(8, generator=torch.Generator().manual_seed(0))]))
    few_label_scores(split, split, split, counts=(1,), draws=200, penalties=(1.0,))
    for part in zip(*recorder.fits, strict=True):
        times = torch.bincount(torch.tensor(part).flatten(), minlength=8)
        # Five standard deviations of a binomial with 200 draws of one in four.
        assert ((times - 50).abs() < 5 * (200 * 3 / 16) ** 0.5).all()


def test_says_mean_and_sample_sd_over_draws(recorder: type[Recorder]) -> None:
    found = few_label_scores(TRAIN, VALIDATION, TEST, counts=(1, 5), draws=4)
    assert list(found) == ["1", "5"]
    for index, row in enumerate(found.values()):
        scores = recorder.scores[index::2]
        assert len(set(scores)) > 1
        assert row["mean"] == pytest.approx(statistics.mean(scores), abs=1e-12)
        assert row["sd"] == pytest.approx(statistics.stdev(scores), abs=1e-12)
        assert row["short_classes"] == 0
    assert few_label_scores(TRAIN, VALIDATION, TEST, counts=(5,), draws=1)["5"]["sd"] is None


def test_classes_with_fewer_rows_give_all_they_have_and_are_counted(recorder: type[Recorder]) -> None:
    sizes = torch.bincount(TRAIN[1], minlength=13)[2::2]
    middle = int(sizes.sort().values[3])
    found = few_label_scores(numbered(TRAIN), numbered(VALIDATION), TEST_NUMBERED, counts=(middle, 1000), draws=2)
    assert found[str(middle)]["short_classes"] == int((sizes < middle).sum()) > 0
    assert classes_of(recorder.fits[0][0], TRAIN[1]) == sizes.clamp(max=middle).tolist()
    # All rows, in every draw: the probe of all labels.
    full = LinearProbe().fit(*numbered(TRAIN), *numbered(VALIDATION)).score(*TEST_NUMBERED)
    assert found["1000"] == {"mean": full, "sd": 0.0, "short_classes": 6.0}


TEST_NUMBERED = numbered(TEST)


def test_more_labels_know_more_and_noise_knows_nothing() -> None:
    train, validation, test = (blobs(rows, seed, spread=2.5) for rows, seed in ((900, 1), (900, 2), (1000, 3)))
    found = few_label_scores(train, validation, test, draws=3, penalties=(1.0, 1e-1, 1e-2))
    one, ten, hundred = (float(row["mean"] or 0) for row in found.values())
    assert list(found) == ["1", "10", "100"]
    assert 1 / 6 < one < ten < hundred
    shuffled = (test[0], test[1][torch.randperm(1000, generator=torch.Generator().manual_seed(0))])
    chance = few_label_scores(train, validation, shuffled, counts=(10,))["10"]["mean"]
    assert chance == pytest.approx(1 / 6, abs=4 * (5 / 36 / 1000) ** 0.5)


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        ("train features are NaN or infinite in 300 of 300", {"train": (TRAIN[0] / 0, TRAIN[1])}),
        ("test features are NaN or infinite in 200 of 200", {"test": (TEST[0] / 0, TEST[1])}),
        (r"validation features must have shape \(row, 5\)", {"validation": (VALIDATION[0][:, :2], VALIDATION[1])}),
        (r"train labels must have shape \(300,\)", {"train": (TRAIN[0], TRAIN[1][:4])}),
        ("train labels hold only class 1", {"train": (TRAIN[0], torch.ones(300).long())}),
        ("counts must be one or more numbers >= 1", {"counts": (0, 5)}),
        ("draws must be one or more numbers >= 1", {"draws": 0}),
    ],
)
def test_refuses(message: str, changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        few_label_scores(**{"train": TRAIN, "validation": VALIDATION, "test": TEST, **changed})
