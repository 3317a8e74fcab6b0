"""The posterior as a data tree: values of the linear-Gaussian program, names and order, what is left out, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from pp_simve.evaluation import posterior, psis, stack_chains, summary
from pp_simve.evaluation.posterior import tree as trees
from pp_simve.inference import AmortizedGuide, Guide, PointGuide, StructuredGuide, fit
from pp_simve.inference.augmentations import Compose, RandomFlip, augmentation_policy
from pp_simve.models import (
    Bernoulli,
    BlockPrior,
    EmpiricalPrior,
    FlatPrior,
    Gaussian,
    GaussianPrior,
    MLPDecoder,
    Prior,
    SimVE,
    StandardPrior,
)

from ..inference.linear_gaussian import (
    CASES,
    CONTENT,
    IMAGES,
    LATENT,
    PIXEL_VARIANCE,
    QUADRATIC,
    SHAPE,
    STYLE,
    VIEWS,
    Linear,
    PotentialEncoder,
    draw_views,
    exact_structured_guide,
    make_linear,
    make_model,
)
from .planted_guides import program_of_modalities

Pair = tuple[SimVE, Guide]


def exact(case: str = "gaussian", images: int = IMAGES) -> tuple[Pair, Linear, Tensor]:
    """The linear program, its posterior as a guide, and views of images."""
    torch.manual_seed(0)
    linear = make_linear()
    prior = CASES[case].prior().double()
    return (make_model(prior, linear), exact_structured_guide(prior, linear)), linear, draw_views(linear, images)


def values(tree: xr.DataTree, group: str, name: str) -> np.ndarray:
    """Without the dimension of the only chain."""
    return tree[group][name].isel(chain=0).to_numpy()


@pytest.mark.parametrize("case", QUADRATIC)
def test_log_weights_of_the_exact_guide_are_the_evidence_and_have_no_tail(case: str) -> None:
    pair, linear, views = exact(case)
    tree = posterior(pair, views, draws=50)
    log_weight = values(tree, "sample_stats", "log_weight")
    evidence = CASES[case].evidence(linear, views).numpy()
    np.testing.assert_allclose(log_weight, np.tile(evidence, (50, 1)), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(psis(log_weight)[1], -np.inf)
    stats = tree["sample_stats"]
    np.testing.assert_allclose(stats["log_p"] - stats["log_q"], stats["log_weight"])


def closed_form(linear: Linear, views: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Means ``(image, latent, unknown)`` and variances ``(latent, unknown)`` of content and each view's style.

    By axis, each view's potential is N(content + style_j; mean_j, 1/Λ): a Gaussian over J + 1 unknowns.
    """
    potential, count = linear.potential_mean(views), len(views)
    means = np.empty((views.shape[1], LATENT, count + 1))
    variances = np.empty((LATENT, count + 1))
    for axis in range(LATENT):
        sums = np.hstack([np.ones((count, 1)), np.eye(count)])  # content + style_j
        strength = float(linear.precision[axis])
        precision = np.diag([1 / CONTENT[axis], *[1 / STYLE[axis]] * count]) + strength * sums.T @ sums
        covariance = np.linalg.inv(precision)
        means[:, axis] = strength * potential[..., axis].numpy().T @ sums @ covariance
        variances[axis] = covariance.diagonal()
    return means, variances


def test_posterior_moments_are_those_of_the_closed_form() -> None:
    draws = 4000
    pair, linear, views = exact()
    tree = posterior(pair, views, draws=draws, predictive_draws=draws)
    means, variances = closed_form(linear, views)
    content = values(tree, "posterior", "content")
    style = values(tree, "posterior", "style").transpose(0, 1, 3, 2)  # (draw, image, latent, view)
    found = np.concatenate([content[..., None], style], -1)
    error = np.sqrt(variances / draws)
    assert np.abs((found.mean(0) - means) / error).max() < 4.5
    assert np.abs(found.var(0) / variances - 1).max() < 4.5 * np.sqrt(2 / draws)
    z = values(tree, "posterior", "z")
    np.testing.assert_allclose(z, content[:, :, None] + values(tree, "posterior", "style"))
    # Predicted pixels are W z + b and their noise.
    mean = (means[:, :, :1] + means[:, :, 1:]).transpose(0, 2, 1) @ linear.weight.numpy().T + linear.bias.numpy()
    x = values(tree, "posterior_predictive", "x").reshape(draws, IMAGES, VIEWS, -1)
    assert np.abs((x.mean(0) - mean) / (x.std(0) / np.sqrt(draws))).max() < 4.5
    noise = x - (z @ linear.weight.numpy().T + linear.bias.numpy())
    np.testing.assert_allclose(noise.var(), PIXEL_VARIANCE, rtol=0.02)


def test_log_likelihood_is_that_of_each_view_and_adds_up_to_the_joint() -> None:
    (model, guide), _, views = exact()
    tree = posterior((model, guide), views, draws=5)
    z = torch.from_numpy(values(tree, "posterior", "z"))
    expected = model.likelihood_of()(z).log_prob(views.transpose(0, 1))
    found = values(tree, "log_likelihood", "x")
    np.testing.assert_allclose(found, expected.detach())
    content, style = (torch.from_numpy(values(tree, "posterior", name)) for name in ("content", "style"))
    of_content = torch.distributions.Normal(0, torch.tensor(CONTENT, dtype=torch.float64).sqrt()).log_prob(content)
    of_style = torch.distributions.Normal(0, torch.tensor(STYLE, dtype=torch.float64).sqrt()).log_prob(style)
    joint = of_content.sum(-1) + of_style.sum((-1, -2)) + expected.sum(-1)
    np.testing.assert_allclose(values(tree, "sample_stats", "log_p"), joint.detach())


def test_prior_draws_have_the_moments_of_the_prior() -> None:
    draws = 8000
    pair, linear, views = exact()
    tree = posterior(pair, views, draws=draws, predictive_draws=draws)
    content, style, z = (values(tree, "prior", name) for name in ("content", "style", "z"))
    assert content.shape == (draws, LATENT)
    assert style.shape == z.shape == (draws, VIEWS, LATENT)
    of_z = np.array(CONTENT) + np.array(STYLE)
    for drawn, variance in ((content[:, None], CONTENT), (style, STYLE), (z, of_z)):
        assert np.abs(drawn.mean(0) / np.sqrt(np.array(variance) / draws)).max() < 4.5
        assert np.abs(drawn.var(0) / variance - 1).max() < 4.5 * np.sqrt(2 / draws)
    np.testing.assert_allclose((z[:, 0] * z[:, 1]).mean(0), CONTENT, rtol=0.25)  # what views share is content
    x = values(tree, "prior_predictive", "x").reshape(draws, VIEWS, -1)
    weight = linear.weight.numpy()
    covariance = weight * of_z @ weight.T + PIXEL_VARIANCE * np.eye(len(weight))
    assert np.abs((x.mean(0) - linear.bias.numpy()) / np.sqrt(covariance.diagonal() / draws)).max() < 4.5
    np.testing.assert_allclose(np.cov(x[:, 0].T), covariance, atol=0.06)


def test_groups_and_dimensions_are_the_documented_ones() -> None:
    pair, _, views = exact()
    tree = posterior(pair, views, draws=6, predictive_draws=2, labels=torch.arange(IMAGES), index=[5, 3, 9, 7])
    pixels = ("view", "channel", "height", "width")
    found = {
        f"{name}.{key}": item.dims for name, group in tree.children.items() for key, item in group.data_vars.items()
    }
    assert found == {
        "posterior.content": ("chain", "draw", "image", "latent"),
        "posterior.style": ("chain", "draw", "image", "view", "latent"),
        "posterior.z": ("chain", "draw", "image", "view", "latent"),
        "posterior_predictive.x": ("chain", "draw", "image", *pixels),
        "prior.content": ("chain", "draw", "latent"),
        "prior.style": ("chain", "draw", "view", "latent"),
        "prior.z": ("chain", "draw", "view", "latent"),
        "prior_predictive.x": ("chain", "draw", *pixels),
        "observed_data.x": ("image", *pixels),
        "constant_data.index": ("image",),
        "constant_data.label": ("image",),
        "sample_stats.log_p": ("chain", "draw", "image"),
        "sample_stats.log_q": ("chain", "draw", "image"),
        "sample_stats.log_weight": ("chain", "draw", "image"),
        "log_likelihood.x": ("chain", "draw", "image", "view"),
    }
    assert tree["posterior"].sizes == {"chain": 1, "draw": 6, "image": IMAGES, "view": VIEWS, "latent": LATENT}
    assert tree["posterior_predictive"].sizes["draw"] == tree["prior_predictive"].sizes["draw"] == 2
    assert tree["observed_data"]["x"].shape == (IMAGES, VIEWS, *SHAPE)
    assert tree["posterior"]["image"].to_numpy().tolist() == [5, 3, 9, 7]
    assert not {"sample", "pred_id"} & {str(dim) for group in tree.children.values() for dim in group.dims}


def test_attributes_say_how_the_tree_came_about() -> None:
    pair, _, views = exact()
    tree = posterior(pair, views, draws=3, seed=4, view_seed=5, configuration={"epochs": 2}, commit="abc+")
    assert {key: tree.attrs[key] for key in ("draws", "views", "seed", "view_seed", "commit", "configuration")} == {
        "draws": 3,
        "views": VIEWS,
        "seed": 4,
        "view_seed": 5,
        "commit": "abc+",
        "configuration": '{"epochs": 2}',
    }
    assert tree.attrs["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert tree.attrs["inference_library"] == "pp_simve"
    assert "GaussianPrior" in posterior(pair, views, draws=3).attrs["configuration"]


# Images, views and their order.

MANY = 150
"""More than two blocks of images, the last not full."""


def many_images() -> Tensor:
    return torch.randint(0, 256, (MANY, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def small_pair() -> Pair:
    torch.manual_seed(0)
    linear = make_linear()
    prior = GaussianPrior(LATENT)
    model = make_model(prior, linear).float()
    return model, AmortizedGuide(PotentialEncoder(linear).float(), prior)


@pytest.mark.parametrize("numbers", [2**22, 3000])
def test_images_views_and_labels_line_up_in_any_number_of_parts(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "NUMBERS_AT_ONCE", numbers)
    images, policy = many_images(), augmentation_policy("affine", SHAPE)
    index = torch.arange(MANY).flip(0)
    tree = posterior(
        small_pair(), images, policy=policy, draws=20, predictive_draws=3, labels=index + 1000, index=index
    )
    constants, observed = tree["constant_data"], tree["observed_data"]["x"].to_numpy()
    assert observed.shape == (MANY, 2, *SHAPE)
    assert constants["index"].to_numpy().tolist() == index.tolist() == tree["sample_stats"]["image"].to_numpy().tolist()
    assert constants["label"].to_numpy().tolist() == (index + 1000).tolist()
    for view in range(2):
        parameters = {name: torch.tensor(constants[name].to_numpy()[:, view]) for name in policy.names}
        np.testing.assert_allclose(observed[:, view], policy.apply(images.float() / 255, parameters), atol=1e-6)
    # Each image's draws come from its own views: their mean over draws is near the guide's own.
    guide = small_pair()[1]
    expected = guide.posterior(torch.tensor(observed).transpose(0, 1)).z.transpose(0, 1).detach().numpy()
    z = values(tree, "posterior", "z")
    assert np.corrcoef(z.mean(0).ravel(), expected.ravel())[0, 1] > 0.9
    assert np.isfinite(values(tree, "sample_stats", "log_weight")).all()


def test_seeds_decide_draws_and_views_apart_and_leave_torch_alone() -> None:
    pair, images, policy = small_pair(), many_images()[:70], augmentation_policy("affine", SHAPE)

    def tree(**settings: Any) -> xr.DataTree:
        return posterior(pair, images, **{"policy": policy, "draws": 8, **settings})

    state = torch.get_rng_state()
    first = tree()
    assert torch.equal(state, torch.get_rng_state())
    assert first.identical(tree())
    other_draws, other_views = tree(seed=1), tree(view_seed=1)
    assert first["observed_data"].identical(other_draws["observed_data"])
    for group in ("posterior", "posterior_predictive", "prior", "prior_predictive"):
        assert not first[group].equals(other_draws[group])
    assert not first["observed_data"].equals(other_views["observed_data"])
    assert first["observed_data"].identical(tree(draws=500, predictive_draws=100)["observed_data"])


def test_a_run_brings_its_policy_and_number_of_views() -> None:
    model, guide = small_pair()
    images, policy = many_images(), Compose([RandomFlip()], SHAPE)
    run = fit(model, guide, images, policy=policy, views=3, steps=2)
    tree = posterior(run, images[:5], draws=4)
    assert tree["observed_data"].sizes["view"] == 3
    assert tree["constant_data"]["horizontal_flip"].shape == (5, 3)
    assert posterior(run, images[:5], views=1, draws=4)["observed_data"].sizes["view"] == 1
    drawn = torch.rand(2, 5, *SHAPE)
    np.testing.assert_array_equal(posterior(run, drawn, draws=4)["observed_data"]["x"], drawn.transpose(0, 1))


def test_a_pair_without_a_policy_takes_each_image_as_its_view() -> None:
    images = many_images()[:5]
    tree = posterior(small_pair(), images, draws=4)
    assert tree["observed_data"].sizes["view"] == 1
    np.testing.assert_allclose(tree["observed_data"]["x"].to_numpy()[:, 0], images / 255, atol=1e-7)
    assert tree["observed_data"].identical(posterior(small_pair(), images.numpy(), draws=4)["observed_data"])


def test_modalities_have_variables_of_their_own() -> None:
    model, guide, _ = program_of_modalities()
    shapes = {"picture": (1, 2, 3), "attributes": (4, 1, 1)}
    images = {modality: torch.rand(70, *shape) for modality, shape in shapes.items()}
    policy = {"picture": augmentation_policy("affine", shapes["picture"])}
    tree = posterior((model, guide), images, policy=policy, views=None, draws=4, predictive_draws=3)
    assert tree["constant_data"]["modality"].to_numpy().tolist() == ["picture", "attributes"]
    assert tree["constant_data"]["rotation_picture"].dims == ("image", "view_picture")
    assert tree["posterior"]["z"].shape == (1, 4, 70, 2, model.prior.latent_dim)
    assert tree["log_likelihood"]["x_attributes"].dims == ("chain", "draw", "image", "view_attributes")
    for modality, shape in shapes.items():
        assert tree["posterior_predictive"][f"x_{modality}"].shape == (1, 3, 70, 1, *shape)
        assert tree["prior_predictive"][f"x_{modality}"].shape == (1, 3, 1, *shape)
    np.testing.assert_array_equal(tree["observed_data"]["x_attributes"][:, 0], images["attributes"])
    z = torch.from_numpy(values(tree, "posterior", "z"))
    expected = model.likelihood_of("attributes")(z[:, :, 1]).log_prob(images["attributes"])
    np.testing.assert_allclose(values(tree, "log_likelihood", "x_attributes")[..., 0], expected.detach(), rtol=1e-4)


# What is left out, and why.

WITHOUT_PIXELS = {
    "posterior_predictive.x",
    "prior_predictive.x",
    "log_likelihood.x",
    "sample_stats.log_p",
    "sample_stats.log_weight",
}
LEFT_OUT: list[tuple[Callable[[], Prior], type[AmortizedGuide], bool, str, str, set[str]]] = [
    (lambda: FlatPrior(LATENT), AmortizedGuide, True, "no_prior", "improper", {"prior"}),
    (lambda: BlockPrior(LATENT, FlatPrior(2)), AmortizedGuide, True, "no_prior", "improper", {"prior"}),
    (lambda: EmpiricalPrior(LATENT, memory=None), AmortizedGuide, True, "no_prior", "images' own", {"prior"}),
    (
        lambda: StandardPrior(LATENT),
        AmortizedGuide,
        True,
        "no_content",
        "shares nothing",
        {"posterior.content", "prior.content"},
    ),
    (
        lambda: GaussianPrior(LATENT),
        PointGuide,
        True,
        "no_log_q",
        "points without a density",
        {"sample_stats.log_q", "sample_stats.log_weight"},
    ),
    (lambda: GaussianPrior(LATENT), AmortizedGuide, False, "no_log_p", "not modelled", WITHOUT_PIXELS),
    (lambda: EmpiricalPrior(LATENT, memory=5), AmortizedGuide, True, "", "", set()),
]


@pytest.mark.parametrize(("prior", "kind", "pixels", "attribute", "reason", "missing"), LEFT_OUT)
def test_what_has_no_meaning_is_left_out_and_said(
    prior: Callable[[], Prior], kind: type[AmortizedGuide], pixels: bool, attribute: str, reason: str, missing: set[str]
) -> None:
    (pair, linear, views), made = exact(), prior().double()
    model = make_model(made, linear) if pixels else SimVE(made)  # type: ignore[arg-type]
    tree = posterior((model, kind(PotentialEncoder(linear), made).double()), views, draws=3)
    everything, found = variables(posterior(pair, views, draws=3)), variables(tree)
    assert everything - found == {
        name for name in everything if name in missing or name.split(".")[0].split("_")[0] in missing
    }
    assert {key for key in tree.attrs if key.startswith("no_")} == ({attribute} if attribute else set())
    assert reason in tree.attrs.get(attribute, "")


def variables(tree: xr.DataTree) -> set[str]:
    return {f"{name}.{key}" for name, group in tree.children.items() for key in group.data_vars}


def test_widths_of_latents_that_differ_have_dimensions_of_their_own() -> None:
    _, linear, views = exact()
    prior = BlockPrior(LATENT, GaussianPrior(2)).double()
    guide = AmortizedGuide(PotentialEncoder(linear), prior).double()
    tree = posterior((make_model(prior, linear), guide), views, draws=3)
    assert tree["posterior"]["content"].sizes == {"chain": 1, "draw": 3, "image": IMAGES, "content_latent": 2}
    assert tree["posterior"]["style"].dims[-1] == "latent"
    assert tree["prior"]["content"].dims[-1] == "content_latent"
    standard = StandardPrior(LATENT).double()
    guide = AmortizedGuide(PotentialEncoder(linear), standard).double()
    tree = posterior((make_model(standard, linear), guide), views, draws=40)
    assert len(summary(tree)) == 2 * IMAGES * VIEWS * LATENT


def test_one_draw_and_no_pixels_are_enough() -> None:
    pair, _, views = exact()
    tree = posterior(pair, views, draws=1, predictive_draws=0)
    assert tree["posterior"]["z"].shape == (1, 1, IMAGES, VIEWS, LATENT)
    assert not {"posterior_predictive", "prior_predictive"} & set(tree.children)
    with pytest.raises(ValueError, match="draws, got 1"):
        psis(values(tree, "sample_stats", "log_weight"))


# Errors.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": 0}, "draws must be at least 1"),
        ({"predictive_draws": -1}, "predictive_draws 0 or more"),
        ({"images": torch.zeros(0, *SHAPE)}, r"no images to draw from: their shape is \(0, 1, 2, 4\)"),
        ({"images": torch.zeros(4, 2, 4)}, r"shape \(image, channel, height, width\), or views"),
        ({"images": torch.zeros(4, *SHAPE, dtype=torch.int64)}, "uint8, or float"),
        ({"images": {}}, "at least one modality"),
        ({"images": {"a": torch.zeros(2, *SHAPE), "b": torch.zeros(3, *SHAPE)}}, "numbers of images"),
        ({"images": {"a": torch.zeros(2, *SHAPE)}}, "likelihood of modality a"),
        ({"views": 2}, "views of the same pixels would count"),
        ({"views": 0, "policy": Compose([RandomFlip()], SHAPE)}, "views must be at least 1"),
        ({"images": torch.zeros(3, 4, *SHAPE), "views": 2}, "are 3 views already"),
        ({"images": torch.zeros(3, 4, *SHAPE), "policy": Compose([RandomFlip()], SHAPE)}, "are 3 views already"),
        ({"policy": {"a": Compose([RandomFlip()], SHAPE)}}, "go together"),
        (
            {"images": {"a": torch.zeros(2, *SHAPE)}, "policy": {"b": Compose([RandomFlip()], SHAPE)}},
            "policies of b, but no",
        ),
        ({"labels": [1, 2]}, r"labels must be one number an image, shape \(4,\)"),
        ({"labels": ["a", "b", "c", "d"]}, "one number an image"),
        ({"index": torch.zeros(4, 1)}, "index must be one number an image"),
        (
            {"images": torch.zeros(4, 1, 3, 3)},
            r"\(1, 3, 3\) do not go through .* model's images are of shape \(1, 2, 4\)",
        ),
        ({"images": torch.zeros(4, 3, 2, 4)}, r"do not go through"),
    ],
)
def test_bad_input_is_explained(settings: dict[str, Any], message: str) -> None:
    given = {"images": torch.zeros(4, *SHAPE), "draws": 3, **settings}
    with pytest.raises(ValueError, match=message):
        posterior(small_pair(), **given)


def test_pixels_that_are_nan_are_found_before_any_work() -> None:
    images = torch.rand(4, *SHAPE)
    images[2, 0, 0, 1] = torch.nan
    with pytest.raises(ValueError, match=r"NaN or infinite in 1 of 4 images \(2\)"):
        posterior(small_pair(), images)
    with pytest.raises(ValueError, match=r"NaN or infinite in 1 of 4 images \(2\)"):
        posterior(small_pair(), torch.stack([torch.rand(4, *SHAPE), images]))


class Overflowing(nn.Module):
    """An encoder that is fine for all but bright images."""

    features = LATENT

    def forward(self, images: Tensor) -> Tensor:
        brightness = images.flatten(1).mean(1, keepdim=True)
        return torch.where(brightness > 0.9, torch.nan, brightness.expand(-1, LATENT))


@pytest.mark.parametrize("likelihood", [Gaussian, Bernoulli])
@pytest.mark.parametrize("bright", [0, 4])
def test_a_density_that_is_nan_shows_in_its_own_image_alone(
    likelihood: type[Gaussian | Bernoulli], bright: int
) -> None:
    model = SimVE(GaussianPrior(LATENT), likelihood(MLPDecoder(LATENT, SHAPE, hidden=(4,))))
    guide = AmortizedGuide(Overflowing(), model.prior)  # type: ignore[arg-type]
    images = torch.rand(6, *SHAPE) * 0.5
    images[bright] = 1
    tree = posterior((model, guide), images, draws=40)
    log_weight = values(tree, "sample_stats", "log_weight")
    only = np.arange(6) == bright
    np.testing.assert_array_equal(np.isnan(log_weight), np.tile(only, (40, 1)))
    for group, name in (("posterior", "z"), ("posterior_predictive", "x")):
        found = values(tree, group, name)
        assert np.isnan(found[:, only]).all()
        assert not np.isnan(found[:, ~only]).any()
    with pytest.raises(ValueError, match=rf"NaN or ∞ in 1 of 6 images \({bright}\)"):
        psis(log_weight)


def test_other_programs_are_refused() -> None:
    with pytest.raises(TypeError, match=r"must be a SimVE, .* got Linear"):
        posterior((nn.Linear(1, 1), small_pair()[1]), many_images())


# Fits as chains.


def test_fits_that_agree_are_told_from_one_that_does_not() -> None:
    pair, linear, views = exact()
    trees = [posterior(pair, views, draws=400, seed=seed) for seed in range(3)]
    agreeing = stack_chains(trees[:2])
    assert agreeing["posterior"].sizes["chain"] == agreeing["sample_stats"].sizes["chain"] == 2
    assert agreeing.attrs["seed"] == [0, 1]
    assert agreeing["observed_data"].identical(trees[0]["observed_data"])
    for chain in range(2):
        np.testing.assert_array_equal(
            agreeing["posterior"]["content"].sel(chain=chain), values(trees[chain], "posterior", "content")
        )
    assert summary(agreeing, ["content"])["r_hat"].max() < 1.02
    other = StructuredGuide(PotentialEncoder(linear), pair[1].prior).double()  # its potentials know nothing yet
    unlike = stack_chains([*trees[:2], posterior((pair[0], other), views, draws=400, seed=5)])
    assert summary(unlike, ["content"])["r_hat"].max() > 1.1
    again = stack_chains([agreeing, trees[2]])
    assert again["posterior"]["chain"].to_numpy().tolist() == [0, 1, 2]
    assert again.attrs["seed"] == [0, 1, 2]


def test_chains_of_other_images_views_or_draws_are_refused() -> None:
    pair, images, policy = small_pair(), many_images()[:5], augmentation_policy("affine", SHAPE)

    def tree(**settings: Any) -> xr.DataTree:
        return posterior(pair, **{"images": images, "policy": policy, "draws": 8, **settings})

    first = tree()
    with pytest.raises(ValueError, match="at least two"):
        stack_chains([first])
    with pytest.raises(ValueError, match=r"share their noise.*\(seeds \[0, 0\]\)"):
        stack_chains([first, tree()])
    for other in (
        tree(seed=1, view_seed=1),
        tree(seed=1, images=images.flip(0)),
        tree(seed=1, images=images[:4]),
        tree(seed=1, views=3),
        tree(seed=1, policy=Compose([RandomFlip()], SHAPE)),
        tree(seed=1, labels=range(5)),
    ):
        with pytest.raises(ValueError, match="tree 2 is not of the images and views of the first"):
            stack_chains([first, other])
    with pytest.raises(ValueError, match=r"posterior\.content has sizes .*'draw': 9.* in tree 2"):
        stack_chains([first, tree(seed=1, draws=9)])
