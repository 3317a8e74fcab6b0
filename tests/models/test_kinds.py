"""Views of several modalities in the program: who is decoded by whom, what may be missing, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyro
import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor, nn

from pp_simve.models import Bernoulli, Gaussian, GaussianPrior, MLPDecoder, SimVE, Views
from pp_simve.models.modalities import check_modalities, modality_modules, split_by_modality, view_and_image_counts

LATENT, IMAGES = 3, 4
SHAPES = {"picture": (1, 2, 3), "attributes": (5, 1, 1)}


@pytest.fixture(autouse=True)
def local_parameters() -> Iterator[None]:
    with pyro.settings.context(module_local_params=True):
        yield


def make(**arguments: Any) -> SimVE:
    likelihoods = {
        "picture": Gaussian(MLPDecoder(LATENT, SHAPES["picture"], hidden=(8,)), 0.5),
        "attributes": Bernoulli(MLPDecoder(LATENT, SHAPES["attributes"], hidden=(8,))),
    }
    return SimVE(GaussianPrior(LATENT), likelihoods, **arguments)


def make_alone() -> SimVE:
    return SimVE(GaussianPrior(LATENT), Bernoulli(MLPDecoder(LATENT, SHAPES["picture"], hidden=(8,))))


def draw(**counts: int) -> dict[str, Tensor]:
    """So many views of each modality, in that order."""
    return {modality: torch.rand(count, IMAGES, *SHAPES[modality]) for modality, count in counts.items()}


def run(model: SimVE, views: Views) -> Any:
    with pyro.validation_enabled(True):
        return poutine.trace(model).get_trace(views).nodes


# Counting and dividing.


def test_views_are_counted_over_all_kinds_and_images_once() -> None:
    assert view_and_image_counts(torch.rand(3, IMAGES, 1, 2, 2)) == (3, IMAGES)
    assert view_and_image_counts(draw(picture=2, attributes=1)) == (3, IMAGES)
    assert view_and_image_counts(draw(attributes=4)) == (4, IMAGES)


def test_kinds_of_different_numbers_of_images_cannot_be_counted() -> None:
    views = {"a": torch.rand(2, 4, 1, 2, 2), "b": torch.rand(2, 5, 1, 2, 2)}
    with pytest.raises(ValueError, match=r"views of every modality must be of the same images, .* \{'a': 4, 'b': 5\}"):
        view_and_image_counts(views)
    with pytest.raises(ValueError, match=r"views of every modality must be of the same images, got .* \{\}"):
        view_and_image_counts({})


@pytest.mark.parametrize("leading", [(), (7,)])
def test_z_is_divided_in_the_views_own_order(leading: tuple[int, ...]) -> None:
    z = torch.randn(*leading, 3, IMAGES, LATENT)
    for views, places in (
        (draw(picture=2, attributes=1), {"picture": [0, 1], "attributes": [2]}),
        (draw(attributes=1, picture=2), {"attributes": [0], "picture": [1, 2]}),
        (draw(picture=3), {"picture": [0, 1, 2]}),
    ):
        found = dict(split_by_modality(z, views))
        assert list(found) == list(views)
        for modality, place in places.items():
            assert torch.equal(found[modality], z[..., place, :, :])


def test_parts_by_kind_are_a_module_in_their_order() -> None:
    parts = {"zebra": nn.Linear(1, 2), "ape": nn.Linear(1, 3)}
    made = modality_modules(parts)
    assert list(made) == ["zebra", "ape"]
    assert made["ape"] is parts["ape"]
    with pytest.raises(ValueError, match="views of several modalities need at least one modality"):
        modality_modules({})


@pytest.mark.parametrize(
    "name", ["", "two words", "1st", "a.b", "a-b", "items", "forward", "training", "_modules", "T_destination"]
)
def test_names_that_a_module_cannot_have_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"named like variables \\('image', 'attributes'\\), got {name}$"):
        modality_modules({"image": nn.Identity(), name: nn.Identity()})


def test_a_kind_may_be_missing_but_not_unknown() -> None:
    check_modalities(draw(attributes=1), SHAPES)
    check_modalities({}, SHAPES)
    with pytest.raises(ValueError, match="views of an unknown modality: sound, smell; known are picture, attributes"):
        check_modalities({"sound": torch.rand(1), "picture": torch.rand(1), "smell": torch.rand(1)}, SHAPES)


# The program.


@pytest.mark.parametrize("views", [{"picture": 2, "attributes": 1}, {"attributes": 1, "picture": 3}, {"picture": 2}])
def test_each_kind_is_observed_in_a_plate_of_its_own(views: dict[str, int]) -> None:
    drawn, total = draw(**views), sum(views.values())
    nodes = run(make(), drawn)
    assert nodes["content"]["value"].shape == (IMAGES, LATENT)
    assert nodes["style"]["value"].shape == nodes["z"]["value"].shape == (total, IMAGES, LATENT)
    assert {name for name in nodes if name.startswith("x")} == {f"x_{modality}" for modality in views}
    for modality, count in views.items():
        site = nodes[f"x_{modality}"]
        assert site["is_observed"]
        assert site["value"] is drawn[modality]
        assert site["fn"].batch_shape == (count, IMAGES)
        assert site["fn"].event_shape == SHAPES[modality]
        plates = {frame.name: (frame.dim, frame.size) for frame in site["cond_indep_stack"]}
        assert plates == {"image": (-1, IMAGES), f"view_{modality}": (-2, count)}


@pytest.mark.parametrize("particles", [1, 7])
@pytest.mark.parametrize("order", [("picture", "attributes"), ("attributes", "picture")])
def test_each_kind_is_explained_by_the_z_of_its_own_views(order: tuple[str, str], particles: int) -> None:
    model, counts = make(), {"picture": 2, "attributes": 1}
    views = draw(**{modality: counts[modality] for modality in order})
    with pyro.plate("particles", particles, dim=-3):
        trace = poutine.trace(model).get_trace(views)
    trace.compute_log_prob()
    nodes: Any = trace.nodes
    z, start = nodes["z"]["value"], 0
    for modality, batch in views.items():
        for view, image in enumerate(batch):
            expected = model.likelihood_of(modality)(z[:, start]).log_prob(image)
            torch.testing.assert_close(nodes[f"x_{modality}"]["log_prob"][:, view], expected)
            start += 1
    assert start == z.shape[1]


def test_without_a_likelihood_no_kind_is_observed() -> None:
    nodes = run(SimVE(GaussianPrior(LATENT)), draw(picture=2, attributes=1))
    assert nodes["z"]["value"].shape == (3, IMAGES, LATENT)
    assert not any(name.startswith("x") for name in nodes)


def test_views_of_a_kind_that_is_not_modelled_are_refused() -> None:
    with pytest.raises(ValueError, match="no likelihood of modality sound; it has those of picture, attributes"):
        run(make(), draw(picture=1) | {"sound": torch.rand(1, IMAGES, 1, 1, 1)})
    with pytest.raises(ValueError, match="no likelihood of modality picture"):
        run(make_alone(), draw(picture=1))


def test_kinds_of_different_numbers_of_images_are_refused() -> None:
    with pytest.raises(ValueError, match="must be of the same images"):
        run(make(), draw(picture=1) | {"attributes": torch.rand(1, IMAGES + 1, 5, 1, 1)})


def test_saved_and_loaded_likelihoods_by_kind_give_the_same_numbers() -> None:
    first, second = make(), make()
    second.load_state_dict(first.state_dict())
    z = torch.randn(IMAGES, LATENT)
    for modality in SHAPES:
        assert torch.equal(first.likelihood_of(modality)(z).mean, second.likelihood_of(modality)(z).mean)


# What is generated.


@pytest.mark.parametrize("modality", SHAPES)
def test_images_of_a_kind_are_generated_by_its_own_likelihood(modality: str) -> None:
    model = make()
    pyro.set_rng_seed(1)
    images = model.generate(6, views=3, modality=modality)
    assert images.shape == (3, 6, *SHAPES[modality])
    assert not images.requires_grad
    pyro.set_rng_seed(1)
    content = torch.randn(1, 6, LATENT)
    z = content + 0.15**0.5 * torch.randn(3, 6, LATENT)
    torch.testing.assert_close(images, model.likelihood_of(modality)(z).mean)


def test_the_likelihood_of_a_kind_is_the_one_given() -> None:
    alone, model = make_alone(), make()
    assert alone.likelihood_of() is alone.likelihood
    assert isinstance(model.likelihood_of("picture"), Gaussian)
    assert isinstance(model.likelihood_of("attributes"), Bernoulli)


def test_a_kind_that_is_not_there_has_no_likelihood() -> None:
    for call in (make().likelihood_of, lambda modality: make().generate(2, modality=modality)):
        for modality in ("sound", None):
            with pytest.raises(ValueError, match="; it has those of picture, attrib"):
                call(modality)
    with pytest.raises(ValueError, match="no likelihood of modality picture"):
        make_alone().likelihood_of("picture")
    with pytest.raises(ValueError, match="a SimVE without a likelihood has no images to generate or decode"):
        SimVE(GaussianPrior(LATENT)).likelihood_of("picture")


def test_likelihoods_of_no_kind_or_of_impossible_names_are_refused() -> None:
    likelihood = Bernoulli(MLPDecoder(LATENT, SHAPES["picture"], hidden=(8,)))
    with pytest.raises(ValueError, match="at least one modality"):
        SimVE(GaussianPrior(LATENT), {})
    with pytest.raises(ValueError, match=r"named like variables .* got two words"):
        SimVE(GaussianPrior(LATENT), {"two words": likelihood})
