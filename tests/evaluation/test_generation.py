"""What is decoded of a linear program, where every number can be written down."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pp_simve.evaluation.generation import interpolate, reconstruct, sample, swap, traverse
from pp_simve.inference import AmortizedGuide
from pp_simve.models import FlatPrior, Gaussian, GaussianPrior, Prior, SimVE, StandardPrior

from .planted_guides import Flatten

LATENT = 3
SHAPE = (1, 2, 2)
CONTENT_VARIANCE, STYLE_VARIANCE = 2.0, 0.5


def linear_program(prior: Prior) -> tuple[SimVE, AmortizedGuide, Tensor, Tensor]:
    """A program whose decoder is x = A z and whose guide's mean is z = B x; model, guide, A and B."""
    generator = torch.Generator().manual_seed(3)
    decode, encode = torch.randn(4, LATENT, generator=generator), torch.randn(LATENT, 4, generator=generator)
    decoder = nn.Sequential(nn.Linear(LATENT, 4, bias=False), nn.Unflatten(-1, SHAPE))
    guide = AmortizedGuide(Flatten(4), prior)
    with torch.no_grad():
        decoder[0].weight.copy_(decode)
        guide.recognition.encoder_head.head.weight[:LATENT] = encode
        guide.recognition.encoder_head.head.bias.zero_()
    return SimVE(prior, Gaussian(decoder)), guide, decode, encode


def pictures(views: int, images: int) -> Tensor:
    return torch.rand(views, images, *SHAPE)


def decoded(matrix: Tensor, z: Tensor) -> Tensor:
    return (z @ matrix.T).unflatten(-1, SHAPE)


def posterior_content(z: Tensor) -> Tensor:
    """E[content | z of all views] of the Gaussian prior, from z of shape (view, image, latent)."""
    precision = 1 / CONTENT_VARIANCE + len(z) / STYLE_VARIANCE
    return z.sum(0) / STYLE_VARIANCE / precision


@pytest.fixture
def gaussian() -> GaussianPrior:
    return GaussianPrior(LATENT, content_variance=CONTENT_VARIANCE, style_variance=STYLE_VARIANCE)


def test_reconstruct_decodes_each_view(gaussian: GaussianPrior) -> None:
    model, guide, decode, encode = linear_program(gaussian)
    views = pictures(3, 5)
    rebuilt = reconstruct(model, guide, views)
    assert rebuilt.shape == (3, 5, *SHAPE)
    assert not rebuilt.requires_grad
    torch.testing.assert_close(rebuilt, decoded(decode, views.flatten(2) @ encode.T))


def test_swap_pairs_the_content_of_rows_with_the_style_of_columns(gaussian: GaussianPrior) -> None:
    model, guide, decode, encode = linear_program(gaussian)
    rows, columns = pictures(4, 3), pictures(2, 5)
    swapped = swap(model, guide, rows, columns)
    assert swapped.shape == (3, 5, *SHAPE)
    assert not swapped.requires_grad
    z_rows, z_columns = rows.flatten(2) @ encode.T, columns.flatten(2) @ encode.T
    content = posterior_content(z_rows)
    style = z_columns[0] - posterior_content(z_columns)
    for row in range(3):
        for column in range(5):
            expected = decoded(decode, content[row] + style[column])
            torch.testing.assert_close(swapped[row, column], expected)


def test_ways_between_images_are_straight(gaussian: GaussianPrior) -> None:
    """Plain loops over pairs and steps."""
    model, guide, decode, encode = linear_program(gaussian)
    first, second = pictures(4, 3), pictures(4, 3)
    ways = interpolate(model, guide, first, second, steps=5)
    assert list(ways) == ["z", "content"]
    z_first, z_second = first.flatten(2) @ encode.T, second.flatten(2) @ encode.T
    content_first, content_second = posterior_content(z_first), posterior_content(z_second)
    for pair in range(3):
        for step in range(5):
            share = step / 4
            z = (1 - share) * z_first[0, pair] + share * z_second[0, pair]
            torch.testing.assert_close(ways["z"][pair, step], decoded(decode, z))
            content = (1 - share) * content_first[pair] + share * content_second[pair]
            style = z_first[0, pair] - content_first[pair]
            torch.testing.assert_close(ways["content"][pair, step], decoded(decode, content + style))
    assert not ways["z"].requires_grad


def test_a_prior_that_shares_nothing_has_one_way() -> None:
    model, guide, _, _ = linear_program(StandardPrior(LATENT))
    assert list(interpolate(model, guide, pictures(2, 3), pictures(2, 3))) == ["z"]


def test_ways_need_pairs_and_two_ends(gaussian: GaussianPrior) -> None:
    model, guide, _, _ = linear_program(gaussian)
    with pytest.raises(ValueError, match="must hold as many images of one size"):
        interpolate(model, guide, pictures(2, 3), pictures(2, 4))
    with pytest.raises(ValueError, match=r"steps be at least 2, got .* and 1 steps"):
        interpolate(model, guide, pictures(2, 3), pictures(2, 3), steps=1)


def test_a_traversal_moves_one_axis(gaussian: GaussianPrior) -> None:
    model, guide, decode, encode = linear_program(gaussian)
    images, views = pictures(1, 2)[0], pictures(1, 50)[0]
    deviations = (-2.0, 0.0, 1.5)
    found = traverse(model, guide, images, views, axes=2, deviations=deviations)
    means = views.flatten(1) @ encode.T
    mean, deviation = means.mean(0), means.std(0)
    order = sorted(range(LATENT), key=lambda axis: -float(deviation[axis]))[:2]
    assert found.axes.tolist() == order
    assert found.pictures.shape == (2, 2, 3, *SHAPE)
    for row, axis in enumerate(order):
        for step, amount in enumerate(deviations):
            value = mean[axis] + amount * deviation[axis]
            torch.testing.assert_close(found.values[row, step], value)
            for image in range(2):
                z = encode @ images[image].flatten()
                z[axis] = value
                torch.testing.assert_close(found.pictures[image, row, step], decoded(decode, z))


def test_a_traversal_takes_all_axes_and_8_bit_images(gaussian: GaussianPrior) -> None:
    model, guide, _, _ = linear_program(gaussian)
    images = torch.randint(256, (3, *SHAPE), dtype=torch.uint8)
    found = traverse(model, guide, images, images)
    assert found.pictures.shape == (3, LATENT, 5, *SHAPE)
    torch.testing.assert_close(found.pictures, traverse(model, guide, images / 255, images / 255).pictures)
    with pytest.raises(ValueError, match="at least 2 views and 1 axis, got 1 views and 8 axes"):
        traverse(model, guide, images, images[:1])
    with pytest.raises(ValueError, match="got 3 views and 0 axes"):
        traverse(model, guide, images, images, axes=0)


def test_samples_are_drawn_from_the_prior(gaussian: GaussianPrior) -> None:
    model, guide, decode, _ = linear_program(gaussian)
    samples, title = sample(model, guide, pictures(2, 3), 40_000)
    assert title == "samples from the prior"
    assert samples.shape == (40_000, *SHAPE)
    expected = (CONTENT_VARIANCE + STYLE_VARIANCE) * decode @ decode.T
    torch.testing.assert_close(samples.flatten(1).T.cov(), expected, rtol=0.1, atol=0.1)
    assert samples.mean(0).abs().max() < 0.1


def test_a_flat_prior_lends_its_contents_from_the_views() -> None:
    model, guide, decode, encode = linear_program(FlatPrior(LATENT, style_variance=1e-8))
    views = pictures(4, 3)
    samples, title = sample(model, guide, views, 7)
    assert title == "contents of test images, styles from the prior"
    assert samples.shape == (7, *SHAPE)
    content = (views.flatten(2) @ encode.T).mean(0)
    torch.testing.assert_close(samples, decoded(decode, content[torch.arange(7) % 3]), rtol=0, atol=1e-3)


def test_a_flat_prior_draws_its_styles() -> None:
    model, guide, decode, encode = linear_program(FlatPrior(LATENT, style_variance=STYLE_VARIANCE))
    views = pictures(4, 1)
    samples, _ = sample(model, guide, views, 40_000)
    centred = samples.flatten(1) - decode @ encode @ views.flatten(2).mean(0)[0]
    torch.testing.assert_close(centred.T.cov(), STYLE_VARIANCE * decode @ decode.T, rtol=0.1, atol=0.1)
