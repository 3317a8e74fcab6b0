"""`make_part`: parts from their text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pp_simve.errors import ConfigError, unknown_name
from pp_simve.models import GaussianPrior, MLPDecoder, Prior
from pp_simve.run.methods import METHODS
from pp_simve.run.parts import DECODERS, ENCODERS, GUIDES, LIKELIHOODS, OBJECTIVES, PRIORS, make_part


class Box:
    """A part that keeps what it was built from."""

    def __init__(self, first: object, *, option: object = None, other: object = None) -> None:
        self.first, self.option, self.other = first, option, other


def box(text: str) -> Box:
    return make_part("box", text, {"box": Box}, Box, 7)


def test_arguments_come_before_options() -> None:
    assert (box("box").first, box("box").option) == (7, None)
    made = box(" box ( option = [1, 2.5], other = 'a, (b)' ) ")
    assert (made.first, made.option, made.other) == (7, [1, 2.5], "a, (b)")


literals = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(literals, literals)
def test_any_literal_is_an_option(option: object, other: object) -> None:
    made = box(f"box(option={option!r}, other={other!r})")
    assert (made.option, made.other) == (option, other)


@given(st.text(max_size=30))
def test_any_other_text_is_refused_in_words(text: str) -> None:
    with pytest.raises(ConfigError, match=r"box|class in"):
        box(f"x{text}")


@pytest.mark.parametrize(
    "text",
    [
        "box(",
        "box)",
        "box(option)",
        "box(option=)",
        "box(1)",
        "box(option=name)",
        "box(option=__import__('os'))",
        "box(option={[]: 1})",
        "box(option=1) + 2",
        "box(option=1)(other=2)",
        "box(**{'option': 1})",
        "box(option=1, option=2)",
    ],
)
def test_malformed_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--box|unknown box"):
        box(text)


def test_a_user_part_is_imported() -> None:
    part = make_part("prior", "pp_simve.models:GaussianPrior(style_variance=0.5)", {}, Prior, 4)
    assert isinstance(part, GaussianPrior)
    assert part.latent_dim == 4


def test_a_part_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--prior .*:MLPDecoder is not a class derived from .*\.Prior"):
        make_part("prior", "pp_simve.models:MLPDecoder(image_shape=(1, 2, 2))", PRIORS, Prior, 4)


def test_options_are_named_in_the_error() -> None:
    with pytest.raises(ConfigError, match=r"its options are: option, other$"):
        box("box(third=1)")


def test_an_unknown_name_has_its_nearest() -> None:
    assert str(unknown_name("fruit", "aple", ["apple", "pear"])) == (
        "unknown fruit 'aple'; did you mean 'apple'? Expected one of: apple, pear"
    )
    assert str(unknown_name("fruit", "zzz", ["apple", "pear"])) == ("unknown fruit 'zzz'. Expected one of: apple, pear")


def test_the_named_parts_are_those_of_the_help() -> None:
    assert list(PRIORS) == ["gaussian", "flat", "mixture", "empirical", "block", "standard", "student"]
    assert list(GUIDES) == ["amortized", "structured", "flow", "point", "delta"]
    bounds = ["elbo", "iwae", "analytic", "consistency", "denoising"]
    limits = ["decoder-free", "swav", "instances", "byol", "barlow-twins"]
    assert list(OBJECTIVES) == bounds + limits
    assert list(LIKELIHOODS) == ["bernoulli", "gaussian"]
    assert list(ENCODERS) == ["mlp", "residual", "resnet18"]
    assert list(DECODERS) == ["mlp", "residual"]
    assert {"simve", "vae"} <= set(METHODS)
    assert DECODERS["mlp"] is MLPDecoder
