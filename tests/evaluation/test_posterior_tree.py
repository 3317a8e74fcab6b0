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
    CONTENT,
    DOUBLE,
    IMAGES,
    LATENT,
    PIXEL_VARIANCE,
    QUADRATIC,
    SHAPE,
    STYLE,
    VIEWS,
    PotentialEncoder,
    exact_program,
    make_linear,
    make_model,
)
from .planted_guides import exact_moments, program_of_modalities

Pair = tuple[SimVE, Guide]
FLIP = Compose([RandomFlip()], SHAPE)
DEVIATIONS = 4.5


def values(tree: xr.DataTree, group: str, name: str) -> np.ndarray:
    """Without the dimension of the only chain."""
    return tree[group][name].isel(chain=0).to_numpy()


def agree(drawn: np.ndarray, mean: Any, variance: Any) -> None:
    """Means and variances of independent draws are within their Monte-Carlo errors."""
    assert np.abs((drawn.mean(0) - mean) / np.sqrt(variance / len(drawn))).max() < DEVIATIONS
    assert np.abs(drawn.var(0) / variance - 1).max() < DEVIATIONS * np.sqrt(2 / len(drawn))


@pytest.mark.parametrize("case", QUADRATIC)
def test_log_weights_of_the_exact_guide_are_the_evidence_and_have_no_tail(case: str) -> None:
    *pair, views, evidence, _ = exact_program(case)
    log_weight = values(posterior(pair, views, draws=50), "sample_stats", "log_weight")
    np.testing.assert_allclose(log_weight, np.tile(evidence, (50, 1)), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(psis(log_weight)[1], -np.inf)


def test_posterior_and_prior_have_their_moments() -> None:
    draws = 8000
    *pair, views, _, linear = exact_program()
    tree = posterior(pair, views, draws=draws, predictive_draws=draws)
    weight, bias = linear.weight.numpy(), linear.bias.numpy()
    moments = exact_moments(linear, views, CONTENT, STYLE)
    for name, (mean, variance) in moments.items():
        agree(values(tree, "posterior", name), mean.numpy(), variance.numpy())
    z = values(tree, "posterior", "z")
    np.testing.assert_allclose(z, values(tree, "posterior", "content")[:, :, None] + values(tree, "posterior", "style"))
    noise = values(tree, "posterior_predictive", "x").reshape(draws, IMAGES, VIEWS, -1) - (z @ weight.T + bias)
    np.testing.assert_allclose(noise.var(), PIXEL_VARIANCE, rtol=0.02)
    assert abs(noise.mean()) < 0.01

    of_z = np.array(CONTENT) + np.array(STYLE)
    for name, variance in (("content", np.array(CONTENT)), ("style", np.array(STYLE)), ("z", of_z)):
        agree(values(tree, "prior", name), 0.0, variance)
    z = values(tree, "prior", "z")
    np.testing.assert_allclose((z[:, 0] * z[:, 1]).mean(0), CONTENT, rtol=0.25)  # what views share is content
    x = values(tree, "prior_predictive", "x").reshape(draws, VIEWS, -1)
    covariance = weight * of_z @ weight.T + PIXEL_VARIANCE * np.eye(len(weight))
    agree(x, bias, covariance.diagonal())
    np.testing.assert_allclose(np.cov(x[:, 0].T), covariance, atol=0.06)


def test_densities_are_those_of_each_view_and_of_the_joint() -> None:
    model, guide, views, *_ = exact_program()
    tree = posterior((model, guide), views, draws=5)
    content, style, z = (torch.from_numpy(values(tree, "posterior", name)) for name in ("content", "style", "z"))
    of_pixels = model.likelihood_of()(z).log_prob(views.transpose(0, 1))
    np.testing.assert_allclose(values(tree, "log_likelihood", "x"), of_pixels.detach())
    of_content = torch.distributions.Normal(0, torch.tensor(CONTENT, dtype=DOUBLE).sqrt()).log_prob(content)
    of_style = torch.distributions.Normal(0, torch.tensor(STYLE, dtype=DOUBLE).sqrt()).log_prob(style)
    joint = of_content.sum(-1) + of_style.sum((-1, -2)) + of_pixels.sum(-1)
    np.testing.assert_allclose(values(tree, "sample_stats", "log_p"), joint.detach())
    stats = tree["sample_stats"]
    np.testing.assert_allclose(stats["log_p"] - stats["log_q"], stats["log_weight"])


def test_groups_dimensions_and_attributes_are_the_documented_ones() -> None:
    *pair, views, _, _ = exact_program()
    settings = {"seed": 4, "view_seed": 5, "commit": "abc+", "labels": [2, 0, 1, 2], "index": [5, 3, 9, 7]}
    settings["classes"] = ("cat", "dog", "10")
    tree = posterior(pair, views, draws=6, predictive_draws=2, configuration={"epochs": 2}, **settings)  # type: ignore[arg-type]
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
    constants = tree["constant_data"]
    assert constants["class"][constants["label"].to_numpy()].to_numpy().tolist() == ["10", "cat", "dog", "10"]
    expected = {"draws": 6, "views": VIEWS, "seed": 4, "view_seed": 5, "commit": "abc+"}
    assert {name: tree.attrs[name] for name in expected} == expected
    assert tree.attrs["configuration"] == '{"epochs": 2}'
    assert tree.attrs["torch"].split("+")[0] == torch.__version__.split("+")[0]
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
    settings = {"draws": 20, "predictive_draws": 3, "labels": index + 1000, "index": index}
    tree = posterior(small_pair(), images, policy=policy, **settings)  # type: ignore[arg-type]
    constants, observed = tree["constant_data"], tree["observed_data"]["x"].to_numpy()
    assert observed.shape == (MANY, 2, *SHAPE)
    assert constants["index"].to_numpy().tolist() == index.tolist() == tree["sample_stats"]["image"].to_numpy().tolist()
    assert constants["label"].to_numpy().tolist() == (index + 1000).tolist()
    for view in range(2):
        parameters = {name: torch.tensor(constants[name].to_numpy()[:, view]) for name in policy.names}
        np.testing.assert_allclose(observed[:, view], policy.apply(images.float() / 255, parameters), atol=1e-6)
    # Each image's draws come from its own views: their mean over draws is near the guide's own.
    expected = small_pair()[1].posterior(torch.tensor(observed).transpose(0, 1)).z.transpose(0, 1).detach().numpy()
    assert np.corrcoef(values(tree, "posterior", "z").mean(0).ravel(), expected.ravel())[0, 1] > 0.9
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


def test_views_come_from_the_run_its_images_or_the_caller() -> None:
    (model, guide), images = small_pair(), many_images()
    run = fit(model, guide, images, policy=FLIP, views=3, steps=2)
    images, drawn = images[:5], torch.rand(2, 5, *SHAPE)
    tree = posterior(run, images, draws=4)
    assert tree["constant_data"]["horizontal_flip"].shape == (5, 3)
    assert posterior(run, images, views=1, draws=4)["observed_data"].sizes["view"] == 1
    np.testing.assert_array_equal(posterior(run, drawn, draws=4)["observed_data"]["x"], drawn.transpose(0, 1))
    # A pair without a policy takes each image as its view.
    observed = posterior((model, guide), images.numpy(), draws=1, predictive_draws=0)["observed_data"]["x"]
    np.testing.assert_allclose(observed, images[:, None] / 255, atol=1e-7)


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

WEIGHT = "sample_stats.log_weight"
PRIOR = {"prior.content", "prior.style", "prior.z", "prior_predictive.x"}
PIXELS = {"posterior_predictive.x", "prior_predictive.x", "log_likelihood.x", "sample_stats.log_p", WEIGHT}
LEFT_OUT: list[tuple[Callable[[], Prior], type[AmortizedGuide], bool, str, str, set[str]]] = [
    (lambda: FlatPrior(LATENT), AmortizedGuide, True, "no_prior", "improper", PRIOR),
    (lambda: BlockPrior(LATENT, FlatPrior(2)), AmortizedGuide, True, "no_prior", "improper", PRIOR),
    (lambda: EmpiricalPrior(LATENT, memory=None), AmortizedGuide, True, "no_prior", "images' own", PRIOR),
    (lambda: EmpiricalPrior(LATENT, memory=5), AmortizedGuide, True, "", "", set()),
    (
        lambda: StandardPrior(LATENT),
        AmortizedGuide,
        True,
        "no_content",
        "shares",
        {"posterior.content", "prior.content"},
    ),
    (lambda: GaussianPrior(LATENT), PointGuide, True, "no_log_q", "points", {"sample_stats.log_q", WEIGHT}),
    (lambda: GaussianPrior(LATENT), AmortizedGuide, False, "no_log_p", "not modelled", PIXELS),
]


@pytest.mark.parametrize(("prior", "kind", "pixels", "attribute", "reason", "missing"), LEFT_OUT)
def test_what_has_no_meaning_is_left_out_and_said(
    prior: Callable[[], Prior], kind: type[AmortizedGuide], pixels: bool, attribute: str, reason: str, missing: set[str]
) -> None:
    (*pair, views, _, linear), made = exact_program(), prior().double()
    model = make_model(made, linear) if pixels else SimVE(made)  # type: ignore[arg-type]
    tree = posterior((model, kind(PotentialEncoder(linear), made).double()), views, draws=3)
    assert variables(posterior(pair, views, draws=3)) - variables(tree) == missing
    assert {key for key in tree.attrs if key.startswith("no_")} == ({attribute} if attribute else set())
    assert reason in tree.attrs.get(attribute, "")


def variables(tree: xr.DataTree) -> set[str]:
    return {f"{name}.{key}" for name, group in tree.children.items() for key in group.data_vars}


def test_widths_of_latents_that_differ_have_dimensions_of_their_own() -> None:
    *_, views, _, linear = exact_program()
    prior = BlockPrior(LATENT, GaussianPrior(2)).double()
    guide = AmortizedGuide(PotentialEncoder(linear), prior).double()
    tree = posterior((make_model(prior, linear), guide), views, draws=1, predictive_draws=0)
    assert tree["posterior"]["content"].sizes == {"chain": 1, "draw": 1, "image": IMAGES, "content_latent": 2}
    assert tree["posterior"]["style"].dims[-1] == "latent"
    assert tree["prior"]["content"].dims[-1] == "content_latent"
    assert not {"posterior_predictive", "prior_predictive"} & set(tree.children)


# Errors.

NAN = torch.rand(4, *SHAPE).index_fill(0, torch.tensor([2]), torch.nan)


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
        ({"views": 0, "policy": FLIP}, "views must be at least 1"),
        ({"images": torch.zeros(3, 4, *SHAPE), "views": 2}, "are 3 views already"),
        ({"images": torch.zeros(3, 4, *SHAPE), "policy": FLIP}, "are 3 views already"),
        ({"policy": {"a": FLIP}}, "go together"),
        ({"images": {"a": torch.zeros(2, *SHAPE)}, "policy": {"b": FLIP}}, "policies of b, but no"),
        ({"labels": [1, 2]}, r"labels must be one number an image, shape \(4,\)"),
        ({"labels": ["a", "b", "c", "d"]}, "one number an image"),
        ({"images": torch.zeros(4, 1, 3, 3)}, r"\(1, 3, 3\) do not go .* model's images are of shape \(1, 2, 4\)"),
        ({"images": NAN}, r"NaN or infinite in 1 of 4 images \(2\)"),
        ({"images": torch.stack([torch.rand(4, *SHAPE), NAN])}, r"NaN or infinite in 1 of 4 images \(2\)"),
        ({"model": nn.Linear(1, 1)}, r"must be a SimVE, .* got Linear"),
    ],
)
def test_bad_input_is_explained(settings: dict[str, Any], message: str) -> None:
    model, guide = small_pair()
    given = {"images": torch.zeros(4, *SHAPE), "draws": 3, "model": model, **settings}
    with pytest.raises((ValueError, TypeError), match=message):
        posterior((given.pop("model"), guide), **given)


class Overflowing(nn.Module):
    """An encoder that is fine for all but bright images."""

    features = LATENT

    def forward(self, images: Tensor) -> Tensor:
        brightness = images.flatten(1).mean(1, keepdim=True)
        return torch.where(brightness > 0.9, torch.nan, brightness.expand(-1, LATENT))


@pytest.mark.parametrize(("likelihood", "bright"), [(Gaussian, 0), (Bernoulli, 4)])
def test_a_density_that_is_nan_shows_in_its_own_image_alone(
    likelihood: type[Gaussian | Bernoulli], bright: int
) -> None:
    model = SimVE(GaussianPrior(LATENT), likelihood(MLPDecoder(LATENT, SHAPE, hidden=(4,))))
    guide = AmortizedGuide(Overflowing(), model.prior)  # type: ignore[arg-type]
    images = torch.rand(6, *SHAPE) * 0.5
    images[bright] = 1
    tree = posterior((model, guide), images, draws=40)
    only = np.arange(6) == bright
    for group, name in (("posterior", "z"), ("posterior_predictive", "x"), ("sample_stats", "log_weight")):
        found = np.isnan(values(tree, group, name))
        assert found[:, only].all()
        assert not found[:, ~only].any()
    with pytest.raises(ValueError, match=rf"NaN or ∞ in 1 of 6 images \({bright}\)"):
        psis(values(tree, "sample_stats", "log_weight"))


# Fits as chains.


def test_fits_that_agree_are_told_from_one_that_does_not() -> None:
    *pair, views, _, linear = exact_program()
    trees = [posterior(pair, views, draws=400, seed=seed) for seed in range(3)]
    agreeing = stack_chains(trees[:2])
    assert agreeing["posterior"].sizes["chain"] == agreeing["sample_stats"].sizes["chain"] == 2
    assert agreeing["observed_data"].identical(trees[0]["observed_data"])
    for chain, tree in enumerate(trees[:2]):
        np.testing.assert_array_equal(
            agreeing["posterior"]["content"].sel(chain=chain), values(tree, "posterior", "content")
        )
    assert summary(agreeing, ["content"])["r_hat"].max() < 1.02
    other = StructuredGuide(PotentialEncoder(linear), pair[1].prior).double()  # its potentials are not fitted
    unlike = stack_chains([*trees[:2], posterior((pair[0], other), views, draws=400, seed=5)])
    assert summary(unlike, ["content"])["r_hat"].max() > 1.1
    again = stack_chains([agreeing, trees[2]])
    assert again["posterior"]["chain"].to_numpy().tolist() == again.attrs["seed"] == [0, 1, 2]


def test_chains_of_other_images_views_or_draws_are_refused() -> None:
    pair, images = small_pair(), many_images()[:5]

    def tree(**settings: Any) -> xr.DataTree:
        return posterior(
            pair, **{"images": images, "policy": augmentation_policy("affine", SHAPE), "draws": 8, **settings}
        )

    first, other = tree(), "tree 2 is not of the images and views of the first"
    for stacked, message in [
        ([first], "at least two"),
        ([first, tree()], r"share their noise.*\(seeds \[0, 0\]\)"),
        ([first, tree(seed=1, view_seed=1)], other),
        ([first, tree(seed=1, images=images.flip(0))], other),
        ([first, tree(seed=1, images=images[:4])], other),
        ([first, tree(seed=1, views=3)], other),
        ([first, tree(seed=1, policy=FLIP)], other),
        ([first, tree(seed=1, labels=range(5))], other),
        ([first, tree(seed=1, draws=9)], r"posterior\.content has sizes .*'draw': 9.* in tree 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            stack_chains(stacked)
