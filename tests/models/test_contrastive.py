"""The group likelihood: candidates counted, compared and left out as explicit loops over them do."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pp_simve.models import FlatPrior, GaussianPrior, GroupLikelihood, InfoNCE, NTXent, SimVE
from pp_simve.models.schedules import Linear, Schedule

DOUBLE = torch.float64
KINDS: dict[str, type[GroupLikelihood]] = {"views": NTXent, "images": InfoNCE}
IMAGES, LATENT = 4, 5


def draw_z(views: int, images: int = IMAGES, latent_dim: int = LATENT) -> Tensor:
    return torch.randn(views, images, latent_dim, dtype=DOUBLE, requires_grad=True)


def candidates_of(modality: str, view: int, image: int, other: int, views: int, images: int) -> list[tuple[int, int]]:
    """(view, image) of all that view ``other`` of the image is to be found among, itself included."""
    if modality == "images":
        return [(other, b) for b in range(images)]
    everything = [(j, b) for j in range(views) for b in range(images)]
    return [(j, b) for j, b in everything if b != image or j == other]


def by_loops(modality: str, z: Tensor, temperature: float, unit_norm: bool) -> Tensor:
    """Σ over views and their other views of log p(group | z), image by image, with densities written in full."""
    views, images, latent_dim = z.shape
    u = z / z.square().sum(-1, keepdim=True).sqrt() if unit_norm else z
    totals = []
    for b in range(images):
        total = torch.zeros((), dtype=DOUBLE)
        for j in range(views):
            for other in range(views):
                if other == j:
                    continue
                log_density = {
                    place: -(u[j, b] - u[place]).square().sum() / (2 * temperature)
                    - latent_dim / 2 * math.log(2 * math.pi * temperature)
                    for place in candidates_of(modality, j, b, other, views, images)
                }
                total = total + log_density[other, b] - torch.stack(list(log_density.values())).logsumexp(0)
        totals.append(total)
    return torch.stack(totals)


def log_prob(group: GroupLikelihood, z: Tensor) -> Tensor:
    """Summed over views: shape ``(..., image)``."""
    of_group, groups = group(z)
    found: Tensor = of_group.log_prob(groups)
    return found.sum(-2)


@pytest.mark.parametrize("unit_norm", [True, False])
@pytest.mark.parametrize("views", [2, 4])
@pytest.mark.parametrize("modality", KINDS)
def test_value_and_gradient_equal_explicit_loops(modality: str, views: int, unit_norm: bool) -> None:
    z = draw_z(views)
    ours = log_prob(KINDS[modality](0.3, unit_norm=unit_norm), z)
    theirs = by_loops(modality, z, 0.3, unit_norm)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    weights = torch.randn(IMAGES, dtype=DOUBLE)
    (our_gradient,) = torch.autograd.grad(ours @ weights, z)
    (their_gradient,) = torch.autograd.grad(theirs @ weights, z)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("views", [2, 3, 5])
def test_there_are_as_many_candidates_as_stated(views: int) -> None:
    """Equal embeddings make all candidates equally probable: 2B − 1 among two views, B among images."""
    z = torch.ones(views, IMAGES, LATENT, dtype=DOUBLE)
    for modality, count in {"views": (views * IMAGES - 1) - (views - 2), "images": IMAGES}.items():
        of_group, groups = KINDS[modality]()(z)
        assert of_group.batch_shape == (views, IMAGES)
        assert of_group.event_shape == groups.shape[2:] == (views - 1,)
        assert groups.dtype == torch.long
        probabilities = of_group.base_dist.probs
        assert ((probabilities > 0).sum(-1) == count).all()
        expected = torch.full((IMAGES,), -views * (views - 1) * math.log(count), dtype=DOUBLE)
        torch.testing.assert_close(log_prob(KINDS[modality](), z), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("modality", KINDS)
def test_only_the_content_block_speaks_of_the_group(modality: str) -> None:
    z = draw_z(3)
    ours = log_prob(KINDS[modality](0.3, width=2), z)
    torch.testing.assert_close(ours, log_prob(KINDS[modality](0.3), z[..., :2]), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(ours.sum(), z)
    assert (gradient[..., 2:] == 0).all()
    assert (gradient[..., :2] != 0).all()


@pytest.mark.parametrize("modality", KINDS)
@pytest.mark.parametrize("views", [2, 3])
def test_each_particle_is_a_batch_of_its_own(modality: str, views: int) -> None:
    z = torch.randn(6, views, IMAGES, LATENT, dtype=DOUBLE)
    group = KINDS[modality](0.2)
    found = log_prob(group, z)
    assert found.shape == (6, IMAGES)
    for particle in range(6):
        torch.testing.assert_close(found[particle], log_prob(group, z[particle]), rtol=1e-12, atol=1e-12)


# As a site of the program.


@pytest.mark.parametrize("modality", KINDS)
def test_the_group_is_a_plain_observation(modality: str) -> None:
    model = SimVE(GaussianPrior(LATENT), group=KINDS[modality](0.3)).double()
    with pyro.validation_enabled(True):
        trace = poutine.trace(model).get_trace(torch.rand(3, IMAGES, 1, 4, 4, dtype=DOUBLE))
        trace.compute_log_prob()
    site: Any = trace.nodes["group"]
    assert site["type"] == "sample"
    assert site["is_observed"]
    assert isinstance(site["fn"].base_dist, dist.Categorical)
    assert [frame.name for frame in site["cond_indep_stack"]] == ["image", "view"]
    assert site["log_prob"].shape == (3, IMAGES)
    z: Any = trace.nodes["z"]["value"]
    torch.testing.assert_close(site["log_prob"].sum(0), log_prob(KINDS[modality](0.3), z), rtol=0, atol=0)
    assert "x" not in trace.nodes


def test_without_pixels_nothing_is_generated() -> None:
    with pytest.raises(ValueError, match="without a likelihood"):
        SimVE(FlatPrior(LATENT), group=NTXent()).generate(3)


# A temperature that is learned, as CLIP's is.


def clip(first: Tensor, second: Tensor, log_scale: Tensor) -> Tensor:
    """Radford et al. 2021, figure 3: images and texts by features already projected, t = log 1/temperature."""
    images = first / first.square().sum(1, keepdim=True).sqrt()
    texts = second / second.square().sum(1, keepdim=True).sqrt()
    logits = images @ texts.T * log_scale.exp()
    labels = torch.arange(len(logits))
    return (functional.cross_entropy(logits.T, labels) + functional.cross_entropy(logits, labels)) / 2


@pytest.mark.parametrize("temperature", [0.012, 0.07, 0.5])
def test_among_images_with_a_learned_temperature_is_clip(temperature: float) -> None:
    """Both directions added, so twice CLIP's loss; T = 0.01 + exp(p) and t = −log T, so dt/dp = −(T − 0.01)/T."""
    z, group = draw_z(2), InfoNCE(temperature, learn_temperature=True).double()
    ours = -log_prob(group, z).mean()
    found = torch.as_tensor(group.temperature).detach()
    log_scale = (-found.log()).requires_grad_()
    theirs = 2 * clip(z[0], z[1], log_scale)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    (parameter,) = group.parameters()
    our_z, our_slope = torch.autograd.grad(ours, [z, parameter])
    their_z, their_slope = torch.autograd.grad(theirs, [z, log_scale])
    torch.testing.assert_close(our_z, their_z, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(our_slope, -their_slope * (found - 0.01) / found, rtol=1e-10, atol=1e-10)
    assert our_slope.abs() > 1e-4


@pytest.mark.parametrize("modality", KINDS)
def test_what_is_learned_starts_as_the_fixed_temperature(modality: str) -> None:
    z = draw_z(3)
    learned = KINDS[modality](0.07, learn_temperature=True).double()
    assert isinstance(learned.temperature, Tensor)
    assert learned.temperature.shape == ()
    start = float(learned.temperature.detach())
    assert start == pytest.approx(0.07, rel=1e-6)
    fixed = KINDS[modality](start)
    assert fixed.temperature == start
    assert not list(fixed.parameters())
    assert not fixed.state_dict()
    torch.testing.assert_close(log_prob(learned, z), log_prob(fixed, z), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("modality", KINDS)
def test_the_slope_by_the_temperature_equals_finite_differences(modality: str) -> None:
    z, group = draw_z(3), KINDS[modality](0.2, unit_norm=False, learn_temperature=True).double()
    (parameter,) = group.parameters()
    (slope,) = torch.autograd.grad(log_prob(group, z).sum(), parameter)
    values = []
    with torch.no_grad():
        for move in (1e-5, -2e-5):
            parameter.add_(move)
            values.append(log_prob(group, z).sum())
    torch.testing.assert_close(slope, (values[0] - values[1]) / 2e-5, rtol=1e-7, atol=1e-7)


def test_a_learned_temperature_stays_above_a_hundredth_and_comes_back_from_there() -> None:
    """Pairs that agree ask for ever less, pairs that do not for more: near the floor a slope is left."""
    group = InfoNCE(0.07, learn_temperature=True).double()
    agreeing = (1 + torch.eye(IMAGES, dtype=DOUBLE)).expand(2, IMAGES, IMAGES)  # cosines 6/7 between images
    wrong = torch.stack([agreeing[0], agreeing[0].roll(1, 0)])
    optimizer = torch.optim.Adam(group.parameters(), lr=0.1)

    def learned_from(z: Tensor, steps: int) -> float:
        for _ in range(steps):
            optimizer.zero_grad()
            (-log_prob(group, z).mean()).backward()
            optimizer.step()
        return float(torch.as_tensor(group.temperature).detach())

    assert 0.01 < learned_from(agreeing, 60) < 0.02
    assert learned_from(wrong, 100) > 0.07


@pytest.mark.parametrize("temperature", [0.01, 0.005])
def test_a_learned_temperature_cannot_start_at_its_floor(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"stays above 0.01 and must start there, got {temperature}"):
        NTXent(temperature, learn_temperature=True)
    NTXent(temperature)


def test_a_learned_temperature_has_no_schedule() -> None:
    with pytest.raises(ValueError, match="a learned temperature starts from a number"):
        NTXent(Linear(0.5, 0.1), learn_temperature=True)


# What could go wrong with numbers.


def finite(group: GroupLikelihood, z: Tensor) -> Tensor:
    """The log probability, after a look at its gradient."""
    z = z.detach().requires_grad_()
    found = log_prob(group, z)
    (gradient,) = torch.autograd.grad(found.sum(), z)
    assert torch.isfinite(found).all()
    assert torch.isfinite(gradient).all()
    return found


@pytest.mark.parametrize("unit_norm", [True, False])
@pytest.mark.parametrize("modality", KINDS)
def test_extreme_batches_have_finite_numbers(modality: str, unit_norm: bool) -> None:
    group = KINDS[modality](0.01, unit_norm=unit_norm)
    z = torch.randn(2, 6, 3)
    finite(group, z)
    finite(group, z[:, :2])  # two images
    finite(group, z.repeat(1, 2, 1))  # every image twice
    finite(group, z[:1].expand(2, 6, 3))  # the views of an image the same
    finite(group, torch.ones(2, 6, 3))
    finite(group, torch.zeros(2, 6, 3))
    finite(group, torch.cat([torch.zeros(1, 6, 3), z[:1]]))
    finite(group, 1e3 * z)
    finite(group, 1e-3 * z)


@pytest.mark.parametrize("modality", KINDS)
def test_a_single_image_can_only_be_itself(modality: str) -> None:
    """It is evaluated, but there is nothing to learn from it."""
    group = KINDS[modality]()
    with pytest.raises(ValueError, match="needs batches of 2 images or more; got 1"):
        group(torch.randn(3, 1, LATENT))
    assert (finite(group.eval(), torch.randn(3, 1, LATENT)) == 0).all()


# What is refused.


@pytest.mark.parametrize("modality", KINDS)
def test_a_single_view_has_nothing_to_be_compared_with(modality: str) -> None:
    with pytest.raises(ValueError, match="needs 2 views or more; got 1"):
        KINDS[modality]()(torch.randn(1, 3, LATENT))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan, Linear(0.5, 0.0)])
def test_temperatures_that_are_none(temperature: float | Schedule) -> None:
    with pytest.raises(ValueError, match="temperature must be positive and finite"):
        NTXent(temperature)


def test_a_block_must_have_axes_and_z_must_have_them() -> None:
    with pytest.raises(ValueError, match="width must be at least 1 axis, got 0"):
        NTXent(width=0)
    with pytest.raises(ValueError, match="the first 6 axes of z, which has 5"):
        NTXent(width=6)(torch.randn(2, 3, LATENT))
    NTXent(width=LATENT)(torch.randn(2, 3, LATENT))


def test_a_projection_head_is_compared_in_its_own_space() -> None:
    group = NTXent(0.7, width=3, projection=[6, 4])
    model, z = SimVE(GaussianPrior(LATENT), group=group).double(), draw_z(2)
    head = group.head
    assert head is not None
    assert model.group is group
    assert [part.in_features for part in head if hasattr(part, "in_features")] == [3, 6, 4]
    embedded = z[..., :3].flatten(0, 1)
    for first, norm in ((0, 1), (3, 4)):
        hidden = embedded @ head[first].weight.T  # type: ignore[union-attr, operator]
        centered = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + head[norm].eps).sqrt()  # type: ignore[operator]
        embedded = centered.clamp(min=0)
    embedded = (embedded @ head[6].weight.T + head[6].bias).unflatten(0, (2, IMAGES))  # type: ignore[union-attr, operator]
    torch.testing.assert_close(log_prob(group, z), by_loops("views", embedded, 0.7, True))


def test_a_projection_head_belongs_to_one_width() -> None:
    group = NTXent(projection=[4])
    with pytest.raises(ValueError, match="is built by connect"):
        group(draw_z(2))
    SimVE(GaussianPrior(LATENT), group=group)
    SimVE(GaussianPrior(LATENT), group=group)
    with pytest.raises(ValueError, match="was built for 5 axes, not 3"):
        SimVE(GaussianPrior(3), group=group)
    with pytest.raises(ValueError, match="each at least 1, got"):
        NTXent(projection=[0])


def test_a_zero_vector_is_normalised_to_itself() -> None:
    """Its cosine with anything is 0: as good as a vector at a right angle to all."""
    z = functional.normalize(torch.randn(2, 3, 2, dtype=DOUBLE), dim=-1)
    z = torch.cat([z, torch.zeros(2, 3, 1, dtype=DOUBLE)], -1)
    zero = z.clone()
    zero[0, 0] = 0
    of_group, groups = InfoNCE()(zero)
    torch.testing.assert_close(of_group.log_prob(groups)[0, 0], torch.tensor(-math.log(3), dtype=DOUBLE))
