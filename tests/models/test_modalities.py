"""Views of one modality or several: the `Views` class, and the program that observes each modality."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor, nn

from pp_simve.models import Bernoulli, Gaussian, GaussianPrior, MLPDecoder, SimVE, Views, ViewsLike
from pp_simve.models.views import modality_modules

LATENT, IMAGES = 3, 4
SHAPES = {"picture": (1, 2, 3), "attributes": (5, 1, 1)}
pytestmark = pytest.mark.usefixtures("local_parameters")


def make(**arguments: Any) -> SimVE:
    likelihoods = {
        "picture": Gaussian(MLPDecoder(LATENT, SHAPES["picture"], hidden=(8,)), 0.5),
        "attributes": Bernoulli(MLPDecoder(LATENT, SHAPES["attributes"], hidden=(8,))),
    }
    return SimVE(GaussianPrior(LATENT), likelihoods, **arguments)


def make_alone() -> SimVE:
    return SimVE(GaussianPrior(LATENT), Bernoulli(MLPDecoder(LATENT, SHAPES["picture"], hidden=(8,))))


def draw(**counts: int) -> dict[str, Tensor]:
    """Views of each modality, in that order."""
    return {modality: torch.rand(count, IMAGES, *SHAPES[modality]) for modality, count in counts.items()}


def run(model: SimVE, views: ViewsLike) -> Any:
    with pyro.validation_enabled(True):
        return poutine.trace(model).get_trace(views).nodes


# The class.


def test_views_of_a_tensor_a_mapping_and_views() -> None:
    tensor, mapping = torch.rand(3, IMAGES, 1, 2, 2), draw(picture=2, attributes=1)
    alone, several = Views.of(tensor), Views.of(mapping)
    assert Views.of(alone) is alone
    assert alone.plain is alone.tensor() is tensor
    assert several.plain == mapping
    assert [(views.n_views, views.n_images) for views in (alone, several)] == [(3, IMAGES), (3, IMAGES)]
    assert (alone.modalities, several.modalities) == ((None,), ("picture", "attributes"))
    assert alone.device == several.device == torch.device("cpu")
    for views in (alone, several):
        assert [batch for _, batch in views.items()] == views.tensors()
        assert Views.by_modality(dict(views.items())).modalities == views.modalities
    assert (repr(alone), repr(several)) == (
        "Views((3, 4, 1, 2, 2))",
        "Views({'picture': (2, 4, 1, 2, 3), 'attributes': (1, 4, 5, 1, 1)})",
    )


@pytest.mark.parametrize("images", [slice(1, 3), [2, 0, 2], torch.tensor([3, 3])])
def test_images_are_indexed_in_every_modality(images: Any) -> None:
    mapping = draw(picture=2, attributes=1)
    for views in (mapping, mapping["picture"]):
        for found, batch in zip(Views.of(views)[images].tensors(), Views.of(views).tensors(), strict=True):
            assert torch.equal(found, torch.stack([view[images] for view in batch]))


def test_modalities_are_selected_in_the_order_given() -> None:
    views = draw(picture=2, attributes=1)
    assert Views.of(views).select(["attributes", "picture"]).modalities == ("attributes", "picture")
    assert Views.of(views["picture"]).select([None]).plain is views["picture"]
    with pytest.raises(ValueError, match="no views of modality sound, only of picture, attributes"):
        Views.of(views).select(["picture", "sound"])


@pytest.mark.parametrize("leading", [(), (7,)])
@pytest.mark.parametrize(
    ("counts", "places"),
    [
        ({"picture": 2, "attributes": 1}, [[0, 1], [2]]),
        ({"attributes": 1, "picture": 2}, [[0], [1, 2]]),
        ({"picture": 3}, [[0, 1, 2]]),
    ],
)
def test_z_is_split_in_the_order_of_the_views(
    counts: dict[str, int], places: list[list[int]], leading: tuple[int, ...]
) -> None:
    z, views = torch.randn(*leading, 3, IMAGES, LATENT), draw(**counts)
    found = dict(Views.of(views).split(z))
    assert list(found) == list(views)
    for part, place in zip(found.values(), places, strict=True):
        assert torch.equal(part, z[..., place, :, :])
    assert dict(Views.of(torch.rand(3, IMAGES, 1, 2, 2)).split(z)) == {None: z}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Views.of({"a": torch.rand(2, 4, 1, 2, 2), "b": torch.rand(2, 5, 1, 2, 2)}),
            r"views of every modality must be of the same images, .* \{'a': 4, 'b': 5\}",
        ),
        (
            lambda: Views.of(torch.rand(2, 1, 3, 3)),
            r"views must be float .*, got float32 \(2, 1, 3, 3\); draw .*None\]",
        ),
        (lambda: Views.of({"a": torch.ones(1, 2, 1, 3, 3, dtype=torch.uint8)}), r"got uint8 \(1, 2, 1, 3, 3\)"),
        (lambda: Views.of({}), r"views of every modality must be of the same images, got .* \{\}"),
        (
            lambda: Views.of(draw(picture=1)).tensor(),
            "views without modalities, one tensor, are needed here, got .* picture",
        ),
        (lambda: Views.of(draw(picture=1)).tensor("sound"), "views of modality sound are needed here, got .* picture"),
        (
            lambda: Views.of({name: torch.rand(1, 2, 1, 1, 1) for name in ("sound", "picture", "smell")}).check_known(
                SHAPES
            ),
            "views of an unknown modality: sound, smell; known are picture, attributes",
        ),
        (
            lambda: Views.of(torch.rand(1, 2, 1, 1, 1)).check_known(SHAPES),
            "views must be given by modality, a dictionary of picture, attributes",
        ),
        (lambda: modality_modules({}), "views of several modalities need at least one modality"),
    ],
)
def test_errors(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "name", ["", "two words", "1st", "a.b", "a-b", "items", "forward", "training", "_modules", "T_destination"]
)
def test_names_that_a_module_cannot_have_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"named like variables \\('image', 'attributes'\\), got {name}$"):
        modality_modules({"image": nn.Identity(), name: nn.Identity()})


# The program.


@pytest.mark.parametrize("views", [{"picture": 2, "attributes": 1}, {"attributes": 1, "picture": 3}, {"picture": 2}])
def test_each_modality_is_observed_in_its_plate(views: dict[str, int]) -> None:
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
def test_each_modality_is_explained_by_the_z_of_its_views(order: tuple[str, str], particles: int) -> None:
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


@pytest.mark.parametrize("modality", SHAPES)
def test_images_of_a_modality_are_generated_by_its_likelihood(modality: str) -> None:
    model = make()
    pyro.set_rng_seed(1)
    images = model.generate(6, views=3, modality=modality)
    assert images.shape == (3, 6, *SHAPES[modality])
    assert not images.requires_grad
    pyro.set_rng_seed(1)
    content = torch.randn(1, 6, LATENT)
    z = content + 0.15**0.5 * torch.randn(3, 6, LATENT)
    torch.testing.assert_close(images, model.likelihood_of(modality)(z).mean)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make().likelihood_of("sound"), "no likelihood of modality sound; it has those of picture, attrib"),
        (lambda: make().likelihood_of(), "no likelihood of views without a modality; it has those of picture, attrib"),
        (lambda: make().generate(2, modality="sound"), "no likelihood of modality sound; it has those of picture, at"),
        (lambda: make_alone().likelihood_of("picture"), "no likelihood of modality picture; its views are of one mod"),
        (lambda: SimVE(GaussianPrior(LATENT)).likelihood_of("picture"), "a SimVE without a likelihood has no images"),
        (
            lambda: run(make(), draw(picture=1) | {"sound": torch.rand(1, IMAGES, 1, 1, 1)}),
            "no likelihood of modality sound; it has those of picture, attributes",
        ),
        (lambda: run(make(), draw(picture=1)["picture"]), "no likelihood of views without a modality"),
        (lambda: run(make_alone(), draw(picture=1)), "no likelihood of modality picture"),
        (
            lambda: run(make(), draw(picture=1) | {"attributes": torch.rand(1, IMAGES + 1, 5, 1, 1)}),
            "must be of the same images",
        ),
        (lambda: SimVE(GaussianPrior(LATENT), {}), "at least one modality"),
        (
            lambda: SimVE(GaussianPrior(LATENT), {"two words": Bernoulli(nn.Identity())}),
            "named like variables .* got two words",
        ),
    ],
)
def test_what_the_program_refuses(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
