"""Sources of views, of one modality or several, and fits to views by modality."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor, nn

from pp_simve.inference import (
    ELBO,
    AmortizedGuide,
    CheckpointError,
    CheckpointFile,
    ConsistencyELBO,
    DeltaGuide,
    Run,
    StructuredGuide,
    WarmupCosine,
    fit,
)
from pp_simve.inference.augmentations import AugmentationPolicy, augmentation_policy, draw_views
from pp_simve.inference.data import Images, MultimodalImages
from pp_simve.inference.plan import FitError
from pp_simve.models import Bernoulli, FlatPrior, Gaussian, GaussianPrior, InfoNCE, MLPDecoder, SimVE

from .programs import Dim, Still, assert_no_reads, make_loop, stop_after

LATENT = 3
SHAPES = {"picture": (1, 4, 4), "attributes": (5, 1, 1)}


def noise(modality: str, count: int = 40) -> Tensor:
    """uint8, the same at every call."""
    generator = torch.Generator().manual_seed(len(modality))
    return torch.randint(0, 256, (count, *SHAPES[modality]), dtype=torch.uint8, generator=generator)


def images_by_modality(count: int = 40) -> dict[str, Tensor]:
    return {modality: noise(modality, count) for modality in SHAPES}


# Drawing.


@pytest.mark.parametrize(
    "policy", [Dim(), Still(), augmentation_policy("crop", (1, 4, 4))], ids=["dim", "still", "crop"]
)
@pytest.mark.parametrize("views", [1, 3])
def test_images_draw_the_policys_views_of_the_chosen_ones(views: int, policy: AugmentationPolicy) -> None:
    images, index = noise("picture"), torch.tensor([7, 0, 39, 7])
    source = Images(images, policy, views)
    assert (len(source), source.n_views) == (40, views)
    ours, theirs = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    for _ in range(2):
        expected, _ = draw_views(policy, images[index], views, generator=theirs)
        assert torch.equal(source.draw(index, ours), expected)


@pytest.mark.parametrize("views", [2, 3])
def test_the_original_image_comes_first_where_asked(views: int) -> None:
    images, index = noise("picture"), torch.tensor([7, 0, 39])
    source = Images(images, Dim(), views, original_first=True)
    assert source.n_views == views
    drawn = source.draw(index, torch.Generator().manual_seed(1))
    assert drawn.shape == (views, 3, 1, 4, 4)
    assert drawn.dtype == torch.float32
    torch.testing.assert_close(drawn[0], images[index].float() / 255, rtol=1e-6, atol=0)
    generator = torch.Generator().manual_seed(1)
    expected, _ = draw_views(Dim(), images[index], views - 1, generator=generator)
    assert torch.equal(drawn[1:], expected)


@pytest.mark.parametrize("order", [("picture", "attributes"), ("attributes", "picture")])
def test_modalities_draw_in_turn_from_one_generator(order: tuple[str, str]) -> None:
    views, index = {"picture": 2, "attributes": 1}, torch.tensor([3, 3, 11])
    source = MultimodalImages({modality: Images(noise(modality), Dim(), views[modality]) for modality in order})
    assert (len(source), source.n_views) == (40, 3)
    ours, theirs = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    for _ in range(2):
        drawn = source.draw(index, ours)
        assert tuple(drawn) == order
        for modality in order:
            dimming = torch.rand(views[modality] * 3, generator=theirs).view(views[modality], 3, 1, 1, 1)
            expected = noise(modality)[index].float() / 255 * (1 - dimming)
            torch.testing.assert_close(drawn[modality], expected, rtol=1e-6, atol=0)


def test_a_source_moves_to_a_device_with_its_settings() -> None:
    source = Images(noise("picture"), Dim(), 3, original_first=True)
    moved = source.to(torch.device("meta"))
    assert moved.images.device.type == moved.device.type == "meta"
    assert (moved.policy, moved.n_views, moved.original_first) == (source.policy, 3, True)
    by_modality = MultimodalImages({"picture": source, "attributes": Images(noise("attributes"), Still(), 1)})
    everything = by_modality.to(torch.device("meta"))
    assert {part.images.device.type for part in everything.modalities.values()} == {"meta"}
    assert everything.device.type == "meta"
    assert list(everything.modalities) == ["picture", "attributes"]
    assert (len(everything), everything.n_views) == (40, 4)
    assert source.images.device.type == "cpu"


def test_images_without_a_policy_are_taken_as_they_are() -> None:
    images, index = noise("picture"), torch.tensor([7, 0, 39, 7])
    generator = torch.Generator()
    views, parameters = Images(images, None, 1).draw_with_parameters(index, generator)
    assert torch.equal(views, images[index][None].float() / 255)
    assert parameters == {}
    drawn_before = torch.rand(3, 40, 1, 4, 4)
    source = Images(drawn_before, None, 3)
    assert (len(source), source.n_views) == (40, 3)
    assert torch.equal(source.draw(index, generator), drawn_before[:, index])
    _, parameters = Images(images, Dim(), 2).draw_with_parameters(index, generator)
    assert parameters["dimming"].shape == (2, 4)


@pytest.mark.parametrize(
    ("images", "policy", "views", "message"),
    [
        (noise("picture"), None, 2, "without a policy there are 1 views of each image, got 2"),
        (torch.rand(3, 40, 1, 4, 4), None, 1, "without a policy there are 3 views of each image, got 1"),
        (torch.rand(3, 40, 1, 4, 4), Dim(), 3, "images of five dimensions are views already, so they take no policy"),
    ],
)
def test_sources_that_cannot_be_are_refused(images: Tensor, policy: Any, views: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Images(images, policy, views)


# Fits to views by modality.


def make_pair(guide: Callable[..., Any] = AmortizedGuide) -> tuple[SimVE, Any]:
    """From a fixed random state, as a new process would; with batch norm, whose statistics are state too."""
    pyro.set_rng_seed(0)
    prior = GaussianPrior(LATENT, 1.5, [0.05, 0.4, 2.0], learn_content=True, learn_style=True)
    likelihoods = {
        "picture": Gaussian(MLPDecoder(LATENT, SHAPES["picture"], hidden=(8,)), 0.1, learned=True),
        "attributes": Bernoulli(MLPDecoder(LATENT, SHAPES["attributes"], hidden=(8,))),
    }
    return SimVE(prior, likelihoods), guide(encoders(), prior, projection=[6])


def encoders() -> dict[str, nn.Module]:
    made: dict[str, nn.Module] = {}
    for modality, shape in SHAPES.items():
        made[modality] = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 7), nn.Tanh())
        made[modality].features = 7  # type: ignore[assignment]
    return made


def small_fit(
    images: Mapping[str, Any] | Tensor | None = None, guide: Callable[..., Any] = AmortizedGuide, **arguments: Any
) -> Run:
    model, made = make_pair(guide)
    objective = arguments.pop("objective", None)
    defaults: dict[str, Any] = {
        "steps": 7,
        "batch_size": 16,
        "lr": 1e-2,
        "seed": 5,
        "device": "cpu",
        "precision": "32",
        "fetch_every": 3,
        "objective": None if objective is None else objective(model, made),
    }
    return fit(model, made, images_by_modality() if images is None else images, **(defaults | arguments))


def assert_same_parameters(first: Run, second: Run) -> None:
    ours, theirs = first.objective.state_dict(), second.objective.state_dict()
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_two_modalities_learn_to_find_one_another() -> None:
    """Pictures and attributes that show the same number, by CLIP: the other view is reports from 15 others."""
    pyro.set_rng_seed(0)
    shown = torch.rand(40, 1)
    images = {
        modality: (255 * (shown - torch.rand(math.prod(shape))).abs()).to(torch.uint8).view(40, *shape)
        for modality, shape in SHAPES.items()
    }
    prior = FlatPrior(LATENT)
    model, guide = SimVE(prior, group=InfoNCE(0.07, learn_temperature=True)), DeltaGuide(encoders(), prior)
    objective = ELBO(model, guide, beta=0)
    run = fit(model, guide, images, objective=objective, batch_size=16, steps=150, lr=2e-2, device="cpu")
    assert run.history[0]["loss"] > math.log(16)
    assert run.history[-1]["loss"] < 0.7 * 2 * math.log(16)
    embedded = [
        nn.functional.normalize(guide.embed_batches({modality: part}).z, dim=-1) for modality, part in images.items()
    ]
    nearest = (embedded[0] @ embedded[1].T).argmax(1)
    assert float((shown[nearest] - shown).abs().mean()) < 0.1


class Recorder(nn.Module):
    """Keeps the views it is called with."""

    def __init__(self, *_: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[dict[str, Tensor]] = []

    def forward(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        self.seen.append(views)
        return {"loss": self.weight * torch.stack([batch.mean() for batch in views.values()]).sum()}


def views_of_a_fit(images: Mapping[str, Any], **arguments: Any) -> list[dict[str, Tensor]]:
    objective = small_fit(images, objective=Recorder, **arguments).objective
    assert isinstance(objective, Recorder)
    return objective.seen


def test_by_default_a_batch_has_one_view_of_each_modality_unchanged_and_of_the_same_things() -> None:
    numbers = torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1)
    images = {modality: numbers.expand(-1, *shape) for modality, shape in SHAPES.items()}
    seen = views_of_a_fit(images, epochs=2, steps=None)
    assert len(seen) == 4
    for views in seen:
        assert list(views) == list(SHAPES)
        places = (views["picture"][0, :, 0, 0, 0] * 255).round()
        assert len(places.unique()) == 16
        for modality, batch in views.items():
            assert batch.shape == (1, 16, *SHAPES[modality])
            expected = places.view(1, 16, 1, 1, 1).expand_as(batch) / 255
            torch.testing.assert_close(batch, expected, rtol=1e-6, atol=0)


def test_each_modality_has_its_number_of_views_and_policy() -> None:
    white = {modality: torch.full((40, *shape), 255, dtype=torch.uint8) for modality, shape in SHAPES.items()}
    for views in views_of_a_fit(white, views=3, policy={"attributes": Dim()}):
        assert {modality: tuple(batch.shape) for modality, batch in views.items()} == {
            modality: (3, 16, *shape) for modality, shape in SHAPES.items()
        }
        assert bool((views["picture"] == 1).all())
        assert len(views["attributes"].unique()) == 3 * 16


def test_the_model_may_have_modalities_that_the_data_have_not() -> None:
    model, guide = make_pair()
    before = {name: value.clone() for name, value in nn.ModuleList([model, guide]).state_dict().items()}
    run = small_fit({"attributes": noise("attributes")}, views=2)
    for name, value in nn.ModuleList([run.model, run.guide]).state_dict().items():
        assert torch.equal(value, before[name]) == (".picture." in name), name


def test_a_view_counts_as_an_image_of_the_speed() -> None:
    reports: list[Any] = []
    small_fit(views=2, monitor=reports.append, steps=7, fetch_every=3)
    left = reports[0].images_per_second * reports[0].seconds_left
    assert left == pytest.approx((7 - 3) * 16 * 2 * 2)


@pytest.mark.parametrize("steps", [2, 5])
def test_a_fit_to_several_modalities_goes_on_bit_for_bit(steps: int, tmp_path: Path) -> None:
    checkpoint = CheckpointFile(tmp_path / "checkpoint.pt")
    settings: dict[str, Any] = {"views": 2, "policy": {"picture": Dim()}, "schedule": WarmupCosine(0.2)}
    stopped = small_fit(checkpoint=checkpoint, should_stop=stop_after(steps), **settings)
    assert (stopped.steps, stopped.finished) == (steps, False)
    resumed, whole = small_fit(checkpoint=checkpoint, **settings), small_fit(**settings)
    assert resumed.finished
    assert resumed.history == whole.history[steps:]
    assert_same_parameters(resumed, whole)


def test_a_checkpoint_of_another_number_of_views_is_refused(tmp_path: Path) -> None:
    checkpoint = CheckpointFile(tmp_path / "checkpoint.pt")
    small_fit(checkpoint=checkpoint, should_stop=stop_after(2))
    with pytest.raises(CheckpointError, match="is of another fit: it has views = 2, this fit has 4"):
        small_fit(checkpoint=checkpoint, views=2)


@pytest.mark.parametrize(("guide", "particles"), [(AmortizedGuide, 3), (StructuredGuide, 1), (DeltaGuide, 1)])
def test_a_step_over_several_modalities_reads_nothing_back(guide: Callable[..., Any], particles: int) -> None:
    model, made = make_pair(guide)
    likelihoods = {modality: model.likelihood_of(modality) for modality in SHAPES}
    model = SimVE(model.prior, likelihoods, InfoNCE(0.07, learn_temperature=True))
    source = MultimodalImages(
        {
            "picture": Images(noise("picture", 16), augmentation_policy("crop", (1, 4, 4)), 2),
            "attributes": Images(noise("attributes", 16), Still(), 1),
        }
    )
    loop = make_loop(ELBO(model, made, particles=particles), source)
    # Batch norm takes the mean off; what a delta guide's content is, is no matter of its learned variances.
    assert_no_reads(loop, may_stay=loop.parameters)


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"views": 0}, "views must be at least 1, got 0"),
        (
            {"policy": Dim()},
            r"images are by modality \(picture, attributes\), so the policy must be, too: \{modality: policy\}",
        ),
        (
            {"images": noise("picture"), "policy": {"picture": Dim()}},
            r"policies by modality \(picture\) need images by modality",
        ),
        (
            {"images": {"picture": noise("picture"), "attributes": noise("attributes", 39)}},
            "must be of the same things, got numbers of images {'picture': 40, 'attributes': 39}",
        ),
        (
            {"images": {"picture": noise("picture"), "attributes": noise("attributes").long()}},
            r"images of attributes must be uint8 .* got int64; convert them: images.to\(torch.uint8\)",
        ),
        ({"batch_size": 41}, "batch_size is 41, but there are only 40 images to fit"),
        (
            {"objective": ConsistencyELBO, "views": 2},
            "an objective that compares views with the original image needs images of one modality",
        ),
    ],
)
def test_images_and_policies_that_do_not_go_together_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(FitError, match=message):
        small_fit(**arguments)
