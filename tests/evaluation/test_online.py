"""OnlineProbe: it learns from the features, and the fit itself is the same bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pp_simve.evaluation import LinearProbe
from pp_simve.evaluation.online import OnlineProbe
from pp_simve.inference import (
    AmortizedGuide,
    CheckpointFile,
    DeltaGuide,
    FlowGuide,
    Guide,
    MLPEncoder,
    Representation,
    ResidualEncoder,
    Run,
    StructuredGuide,
    fit,
)
from pp_simve.inference.augmentations import Compose
from pp_simve.inference.loop import Loop
from pp_simve.inference.svi import FitError
from pp_simve.models import Bernoulli, EmpiricalPrior, GaussianPrior, MLPDecoder, PlainViews, SimVE
from pp_simve.testing.objective import read_backs

from .pictures import PixelGuide

SHAPE = (1, 8, 8)
COUNT, BATCH = 48, 16
LABELS = torch.arange(COUNT) % 3
IMAGES = torch.randint(0, 256, (COUNT, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


class Noisy(AmortizedGuide):
    """Draws where it need not, as a guide whose mean has no closed form would."""

    def posterior(self, views: PlainViews) -> Representation:
        found = super().posterior(views)
        return Representation(found.backbone, found.z + torch.randn_like(found.z), found.content, found.style)


GUIDES: dict[str, Callable[[], Guide]] = {
    "multilayer": lambda: AmortizedGuide(MLPEncoder(SHAPE, hidden=(16,)), GaussianPrior(4)),
    "batch norm": lambda: AmortizedGuide(ResidualEncoder(SHAPE, width=4), GaussianPrior(4)),
    "projection": lambda: DeltaGuide(MLPEncoder(SHAPE, hidden=(16,)), GaussianPrior(4), projection=[8]),
    "structured": lambda: StructuredGuide(MLPEncoder(SHAPE, hidden=(16,)), GaussianPrior(4)),
    "flow": lambda: FlowGuide(MLPEncoder(SHAPE, hidden=(16,)), GaussianPrior(4)),
    "dropout": lambda: AmortizedGuide(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5)), GaussianPrior(4), features=16
    ),
    "noisy": lambda: Noisy(MLPEncoder(SHAPE, hidden=(16,)), GaussianPrior(4)),
    "candidates of the batch": lambda: AmortizedGuide(
        MLPEncoder(SHAPE, hidden=(16,)), EmpiricalPrior(4, style_variance=0.1)
    ),
    "candidates in a memory": lambda: AmortizedGuide(
        MLPEncoder(SHAPE, hidden=(16,)), EmpiricalPrior(4, style_variance=0.1, memory=20)
    ),
}


def small_fit(guide: Guide, probe: OnlineProbe | None, images: Tensor = IMAGES, **arguments: Any) -> Run:
    pyro.set_rng_seed(3)
    model = SimVE(guide.prior, Bernoulli(MLPDecoder(guide.prior.latent_dim, SHAPE, hidden=(16,))))  # type: ignore[arg-type]
    defaults = {"batch_size": BATCH, "steps": 7, "lr": 1e-2, "seed": 2, "device": "cpu", "precision": "32"}
    return fit(model, guide, images, observer=probe, **(defaults | arguments))


def made(name: str) -> Guide:
    pyro.set_rng_seed(0)
    return GUIDES[name]()


def without_probe(run: Run) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "probe_accuracy"} for row in run.history]


def assert_same_fit(watched: Run, plain: Run) -> None:
    assert without_probe(watched) == plain.history
    assert all("probe_accuracy" in row for row in watched.history)
    ours, theirs = watched.objective.state_dict(), plain.objective.state_dict()
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("name", GUIDES)
def test_the_fit_is_the_same_bit_for_bit(name: str, tmp_path: Path) -> None:
    """History, parameters, buffers and random streams."""
    guide = made(name)
    one, other = CheckpointFile(tmp_path / "one.pt"), CheckpointFile(tmp_path / "other.pt")
    watched = small_fit(guide, OnlineProbe(guide, LABELS, "z"), checkpoint=one)
    assert_same_fit(watched, small_fit(made(name), None, checkpoint=other))
    ours, theirs = one.load(), other.load()
    assert ours.keys() == theirs.keys()
    for stream, state in ours["random"][0].items():
        assert torch.equal(state, theirs["random"][0][stream]), stream


@pytest.mark.parametrize("before", [True, False])
def test_a_probe_may_come_and_go_at_a_resumption(tmp_path: Path, before: bool) -> None:
    checkpoint = CheckpointFile(tmp_path / "checkpoint.pt")
    asked = iter(range(1, 100))
    guide = made("batch norm")
    first = small_fit(
        guide,
        OnlineProbe(guide, LABELS) if before else None,
        checkpoint=checkpoint,
        should_stop=lambda: next(asked) == 4,
    )
    guide = made("batch norm")
    probe = OnlineProbe(guide, LABELS)
    second = small_fit(guide, None if before else probe, checkpoint=checkpoint)
    assert probe._steps == (0 if before else 3)  # a resumed fit starts a new one
    whole = small_fit(made("batch norm"), None)
    assert without_probe(first) + without_probe(second) == whole.history
    for name, value in second.objective.state_dict().items():
        assert torch.equal(value, whole.objective.state_dict()[name]), name


def test_a_step_of_the_loop_reads_nothing_back_either(monkeypatch: pytest.MonkeyPatch) -> None:
    guide, plain, found = made("batch norm"), Loop.step, []

    def counted(loop: Loop) -> None:
        with read_backs() as here:
            plain(loop)
        if loop.steps > 1:
            found.append(list(here))

    monkeypatch.setattr(Loop, "step", counted)
    small_fit(guide, OnlineProbe(guide, LABELS))
    assert found == [[]] * 6


@pytest.mark.parametrize("window", [1, 3, 100])
def test_it_is_softmax_regression_by_adam_on_running_statistics(window: int) -> None:
    generator = torch.Generator().manual_seed(4)
    labels = torch.tensor([7, -2, 7, 40, -2, 40, 40, 7, 7, -2])
    classes = [-2, 7, 40]
    probe = OnlineProbe(PixelGuide([0], []), labels, lr=0.03, window=window)
    width = 5
    weight, bias = torch.zeros(3, width, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    state = {id(part): (torch.zeros_like(part), torch.zeros_like(part)) for part in (weight, bias)}
    seen: list[Tensor] = []
    right: list[float] = []
    for step in range(1, 7):
        index = torch.randperm(len(labels), generator=generator)[:4]
        views = 5 + torch.rand(2, 4, width, 1, 1, generator=generator, dtype=torch.float64)
        views[..., 2, :, :] = 1.0  # never varies
        said = float(probe(views, index)["probe_accuracy"])

        # All rows so far, a step's weighted so that means are as documented.
        seen.append(views[0].flatten(1))
        shares = torch.ones(step, dtype=torch.float64)
        for later in range(step):
            newest = 1 / min(later + 1, window)
            shares[:later] *= 1 - newest
            shares[later] = newest
        rows, row_weights = torch.cat(seen), shares.repeat_interleave(4) / 4
        mean = (rows * row_weights[:, None]).sum(0)
        variance = ((rows - mean).square() * row_weights[:, None]).sum(0)
        x = (seen[-1] - mean) / (variance + 1e-8).sqrt()
        x[:, 2] = 0.0  # where the mean above is only nearly 1, and Adam makes any gradient large

        gradients = [torch.zeros_like(weight), torch.zeros_like(bias)]
        hits = 0
        for row, place in zip(x, index.tolist(), strict=True):
            truth = classes.index(int(labels[place]))
            logits = weight @ row + bias
            hits += int(logits.argmax()) == truth
            for entry in range(3):
                slope = (float(logits.softmax(0)[entry]) - (entry == truth)) / 4
                gradients[0][entry] += slope * row
                gradients[1][entry] += slope
        right.append(hits / 4)
        assert said == pytest.approx(sum(r * float(s) for r, s in zip(right, shares, strict=True)), abs=1e-10)
        for part, gradient in zip((weight, bias), gradients, strict=True):
            first, second = state[id(part)]
            first.mul_(0.9).add_(0.1 * gradient)
            second.mul_(0.999).add_(0.001 * gradient**2)
            part -= 0.03 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        torch.testing.assert_close(probe.weight, weight, rtol=0, atol=1e-10)
        torch.testing.assert_close(probe.bias, bias, rtol=0, atol=1e-10)


def test_features_are_read_in_evaluation_mode_without_gradients() -> None:
    guide = PixelGuide([0], []).train()  # refuses others
    OnlineProbe(guide, LABELS)(torch.rand(1, 4, 3, 1, 1), torch.arange(4))
    assert guide.training


def test_shuffled_labels_stay_near_chance() -> None:
    guide = made("multilayer")
    labels = torch.randint(3, (COUNT,), generator=torch.Generator().manual_seed(9))
    noise = torch.randint(0, 256, (COUNT, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    run = small_fit(guide, OnlineProbe(guide, labels), noise, steps=3)
    # Four standard deviations of a binomial with the 48 images of one epoch, each seen once.
    assert abs(run.history[-1]["probe_accuracy"] - 1 / 3) < 4 * (2 / 9 / COUNT) ** 0.5


def test_views_of_several_kinds_are_read_by_the_first_modality() -> None:
    encoders = {"left": MLPEncoder(SHAPE, hidden=(6,)), "right": MLPEncoder((3, 1, 1), hidden=(5,))}
    guide = AmortizedGuide(encoders, GaussianPrior(4))
    probe = OnlineProbe(guide, LABELS)
    probe({"right": torch.rand(2, 8, 3, 1, 1), "left": torch.rand(1, 8, *SHAPE)}, torch.arange(8))
    assert probe.weight.shape == (3, 5)


def test_on_digits_its_accuracy_rises_to_near_a_linear_probes() -> None:
    data = load_digits()
    images = torch.as_tensor(data.images * 255 / 16).to(torch.uint8)[:, None]
    labels = torch.as_tensor(data.target)
    prior = GaussianPrior(16)
    guide = AmortizedGuide(MLPEncoder(SHAPE, hidden=(64,)), prior)
    probe = OnlineProbe(guide, labels[:1400])
    as_they_are = Compose([], SHAPE)
    run = small_fit(guide, probe, images[:1400], policy=as_they_are, batch_size=64, steps=150, lr=2e-3)
    curve = [row["probe_accuracy"] for row in run.history]
    assert curve[0] < 0.3  # chance is 0.1, and the classifier of the first step is all zeros
    assert curve[-1] > 0.6

    features = guide.embed_batches(images).backbone
    exact = LinearProbe().fit(features[:1200], labels[:1200], features[1200:1400], labels[1200:1400])
    x = (features[1400:] - probe._mean) * (probe._variance + 1e-8).rsqrt()
    ours = (probe.classes[(x @ probe.weight.T + probe.bias).argmax(1)] == labels[1400:]).double().mean()
    assert float(ours) > exact.score(features[1400:], labels[1400:]) - 0.06


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": LABELS.double()}, "labels must be integers, got torch.float64"),
        ({"labels": LABELS[:, None]}, r"labels must have shape \(image,\) .* got \(48, 1\)"),
        ({"labels": torch.zeros(9, dtype=torch.long)}, "labels hold only class 0; a probe needs at least two"),
        ({"labels": LABELS, "representation": "zed"}, "unknown representation 'zed'; known are backbone, z"),
        ({"labels": LABELS, "lr": 0.0}, "lr must be one or more numbers > 0"),
        ({"labels": LABELS, "window": 0}, "window must be one or more numbers >= 1"),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OnlineProbe(made("multilayer"), **arguments)


def test_refuses_what_only_the_fit_can_tell() -> None:
    with pytest.raises(ValueError, match="content has no width under this prior"):
        OnlineProbe(PixelGuide([0], []), LABELS, "content")(torch.rand(1, 4, 3, 1, 1), torch.arange(4))
    guide = made("multilayer")
    with pytest.raises(FitError, match="OnlineProbe was made for 40 images, by their index, but there are 48 to fit"):
        small_fit(guide, OnlineProbe(guide, LABELS[:40]))
    with pytest.raises(ValueError, match="observer and objective both have a term loss; rename one"):
        small_fit(guide, lambda views, index: {"loss": torch.zeros(())})  # type: ignore[arg-type]
