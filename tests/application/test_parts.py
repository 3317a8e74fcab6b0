"""`make_part`: parts, and parts of parts, from their text: `block(content=flat(latent_dim=8))`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pp_simve.data import DataShape
from pp_simve.errors import ConfigError, unknown_name
from pp_simve.inference import BYOL, ELBO, AmortizedGuide, Geometric, Linear
from pp_simve.models import (
    BlockPrior,
    EmpiricalPrior,
    FlatPrior,
    GaussianPrior,
    MixturePrior,
    MLPDecoder,
    Prior,
    StandardPrior,
)
from pp_simve.models.schedules import annealed_parts
from pp_simve.run.config import FitConfig
from pp_simve.run.folder import RunFolder, load_run
from pp_simve.run.methods import Program, build
from pp_simve.run.named_parts import (
    DECODERS,
    ENCODERS,
    GROUPS,
    GUIDES,
    LIKELIHOODS,
    OBJECTIVES,
    PRIORS,
    RENAMED,
    make_part,
)

from .command import SMALL, run


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


def test_an_unknown_name_has_its_nearest() -> None:
    fruit = ["apple", "Pear-Tree", "Pear-Tree:x"]
    assert unknown_name("fruit", "aple", fruit).startswith(
        "unknown fruit 'aple'; did you mean 'apple'? Expected one of:"
    )
    assert unknown_name("fruit", "zzz", fruit) == "unknown fruit 'zzz'. Expected one of: apple, Pear-Tree, Pear-Tree:x"
    assert "did you mean 'Pear-Tree'?" in unknown_name("fruit", "peartree:7", fruit)


def test_the_parts_by_name() -> None:
    assert list(PRIORS) == ["gaussian", "flat", "mixture", "empirical", "block", "standard", "student"]
    assert list(GUIDES) == ["amortized", "structured", "flow", "point", "delta"]
    bounds = ["elbo", "iwae", "analytic", "consistency", "denoising"]
    assert list(OBJECTIVES) == [*bounds, "decoder-free", "swav", "instances", "byol", "moco", "barlow-twins"]
    assert (list(LIKELIHOODS), list(GROUPS)) == (["bernoulli", "gaussian"], ["ntxent", "infonce"])
    assert (list(ENCODERS), list(DECODERS)) == (["mlp", "residual", "resnet18", "timm"], ["mlp", "residual"])
    assert DECODERS["mlp"] is MLPDecoder


def test_renamed_parts_answer_with_their_new_names() -> None:
    for flag, named in {"group": GROUPS, "objective": OBJECTIVES}.items():
        for before, now in RENAMED[flag].items():
            with pytest.raises(
                ConfigError, match=rf"--{flag} {before} is now called {now}; write --{flag} {now}\(x=1\)"
            ):
                make_part(flag, f"{before}(x=1)", named, object)


def test_hyphens_may_be_underscores() -> None:
    assert type(built(method="byol", objective="byol(hidden=[8])").objective) is BYOL
    assert type(built(method="barlow", objective="barlow_twins").objective) is type(built(method="barlow").objective)


def prior(text: str, latent_dim: int = 6) -> Prior:
    return make_part("prior", text, PRIORS, Prior, latent_dim)


@pytest.mark.parametrize(
    ("text", "kind", "width"),
    [
        ("block(content=flat(latent_dim=4))", FlatPrior, 4),
        ("block(content=standard(latent_dim=2))", StandardPrior, 2),
        ("block(content=mixture(latent_dim=3, prototypes=5))", MixturePrior, 3),
        ("block(content=empirical(latent_dim=3, memory=7))", EmpiricalPrior, 3),
        ("block(content=gaussian(latent_dim=2, style_variance=[0.25, 0.5]))", GaussianPrior, 2),
        ("block( content = flat( latent_dim = 4 ) )", FlatPrior, 4),
        ("block(content=pp_simve.models:GaussianPrior(latent_dim=4))", GaussianPrior, 4),
        ("pp_simve.models:BlockPrior(content=flat(latent_dim=4))", FlatPrior, 4),
        ("pp_simve.models:BlockPrior(content=pp_simve.models:FlatPrior(latent_dim=4))", FlatPrior, 4),
        ("block(content=3)", GaussianPrior, 3),
    ],
)
def test_a_prior_within_a_prior(text: str, kind: type[Prior], width: int) -> None:
    made = prior(text)
    assert isinstance(made, BlockPrior)
    assert made.latent_dim == 6
    assert type(made.block) is kind
    assert made.block.latent_dim == width


def test_parts_nest_as_deep_as_one_likes() -> None:
    made = prior("block(content=block(latent_dim=4, content=block(latent_dim=2, content=flat(latent_dim=1))))", 8)
    depths = []
    while isinstance(made, BlockPrior):
        depths.append(made.latent_dim)
        made = made.block
    assert depths == [8, 4, 2]
    assert isinstance(made, FlatPrior)


def built(**settings: Any) -> Program:
    narrow: dict[str, Any] = {"encoder": "mlp(hidden=[16])", "decoder": "mlp(hidden=[16])", "latent_dim": 6}
    shape = (1, 8, 8)
    return build(FitConfig(**(narrow | settings)).resolve(DataShape(shape)), DataShape(shape))


def test_weights_and_scales_of_a_program_may_be_schedules() -> None:
    program = built(
        objective="elbo(beta=linear(start=0.1, until=0.3))",
        guide="amortized(scale=geometric(end=0.05))",
        group="ntxent(temperature=linear(start=0.5, end=0.1))",
    )
    assert isinstance(program.objective, ELBO)
    assert program.objective.beta.schedule == Linear(0.1, 1.0, 0.3)
    assert isinstance(program.guide, AmortizedGuide)
    assert program.guide.recognition.scale.schedule == Geometric(1.0, 0.05)
    assert Linear(0.5, 0.1) in [part.schedule for part in annealed_parts(program.model)]


def test_a_guide_may_pass_the_messages_of_a_prior_of_its_own() -> None:
    program = built(prior="student", guide="structured(messages=gaussian(latent_dim=6, learn_style=True))")
    messages = program.guide.get_submodule("messages")
    assert isinstance(messages, GaussianPrior)
    assert messages is not program.model.prior


@example("pp_simve.models:GaussianPrior(latent_dim=4)", "it's my:Class(1)")
@example("_module_of_", "a\\\\'b:C(")
@given(st.text(alphabet="aB:.(')\" \\=,[]_", max_size=20), st.text(alphabet="aB:.(')\" \\", max_size=10))
def test_any_quoted_text_is_left_alone_beside_a_part_of_ones_own(first: str, second: str) -> None:
    text = f"box(option=[{first!r}, {second!r}], other=pp_simve.inference:Linear(until=0.5))"
    made = box(text)
    assert made.option == [first, second]
    assert made.other == Linear(until=0.5)


@pytest.mark.parametrize(
    ("flag", "text", "words"),
    [
        ("objective", "elbo(beta=linaer())", "did you mean 'linear'?"),
        ("objective", "elbo(beta=linear(until=2))", "until is a fraction of all steps in (0, 1], got 2"),
        ("objective", "elbo(beta=linear(0.1))", "--objective 'elbo(beta=linear(0.1))' cannot be read"),
        ("objective", "elbo(beta=linear(end=-1))", "beta must not be negative, got -1.0"),
        ("objective", "elbo(beta=flat(latent_dim=2))", "--objective"),
        ("guide", "amortized(scale=geometric(end=0))", "start and end must be positive"),
        ("guide", "amortized(scale=linear(start=1, end=0))", "scale must be positive, got 0.0"),
        ("guide", "structured(messages=gaussian(latent_dim=3))", "about 3 latent axes"),
        (
            "prior",
            "gaussian(style_varience=1)",
            "did you mean 'style_variance'? (every prior is first given latent_dim;",
        ),
        ("objective", "elbo(beta=linear(ende=1))", "did you mean 'end'? (options of linear: start, end, until)"),
        ("prior", "block(content=flatt(latent_dim=4))", "'flatt'; did you mean 'flat'?"),
        ("prior", "block(content=zzz(latent_dim=4))", "'zzz'. Expected one of: gaussian"),
        ("prior", "block(content=flat(4))", "cannot be read"),
        ("prior", "block(content=flat(**{'latent': 4}))", "cannot be read"),
        ("prior", "block(content=flat(latent_dim=4, latent_dim=4))", "cannot be read"),
        ("prior", "block(content=flat)", "cannot be read"),
        ("prior", "block(content=flat(latent_dim=4)(1))", "cannot be read"),
        ("prior", "block(content=flat(latent_dim=4)", "cannot be read"),
        ("prior", "block(content=__import__('os').system('true'))", "cannot be read"),
        ("prior", "block(content=flat(latent_dim=4, tau=1))", "unexpected keyword argument 'tau'"),
        ("prior", "block(content=flat())", "missing a required argument: 'latent_dim'"),
        (
            "prior",
            "block(content=flat(latent_dim=4, style_variance=-1))",
            "style_variance must be positive and finite, got -1",
        ),
        ("prior", "block(content=flat(latent_dim=0))", "latent_dim must be at least 1, got 0"),
        ("prior", "block(content=flat(latent_dim=6))", "the content block must leave axes to style, got 6 of 6"),
        ("prior", "block(content=student(latent_dim=4))", "needs a ConjugatePrior"),
        ("prior", "block(content=linear())", "needs a ConjugatePrior"),
        ("prior", "block(content=no_such_module:Prior(latent_dim=4))", "No module named 'no_such_module'"),
        ("prior", "block(content=pp_simve.models:GaussianPrior(4))", "cannot be read"),
        (
            "prior",
            "block(content=os:getpid())",
            "os:getpid is not a class derived from pp_simve.models.priors.base.Prior or",
        ),
        ("prior", "block(content=pathlib:Path())", "pathlib:Path is not a class derived from"),
        (
            "prior",
            "block(content=pp_simve.models:MLPDecoder(latent_dim=4, image_shape=(1, 2, 2)))",
            "not a class derived from",
        ),
        (
            "prior",
            "gaussian(style_variance=pp_simve.models.schedules:constant(step=0, total=1))",
            "not a class derived from",
        ),
        ("prior", "gaussian(style_variance=[flat(latent_dim=4)])", "cannot be read"),
        ("prior", "pp_simve.models:MLPDecoder(image_shape=(1, 2, 2))", "MLPDecoder is not a class derived from"),
        ("prior", "block(content=pp_simve.models:GausianPrior(latent_dim=4))", "did you mean 'GaussianPrior'?"),
    ],
)
def test_a_part_that_does_not_fit_is_refused_by_its_flag(flag: str, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        built(**{flag: text})
    message = str(refusal.value)
    assert words in message
    assert flag in message.split(":")[0]


def test_a_fit_of_nested_parts_can_be_read_back(folder: Path, evaluated_quickly: None) -> None:
    nested = {
        "encoder": "timm(name='test_vit', patch_size=4)",
        "prior": "block(content=pp_simve.models:FlatPrior(latent_dim=3))",
        "objective": "elbo(beta=linear(start=0.1, until=0.3))",
        "guide": "structured(scale=geometric(end=0.5))",
    }
    flags = [word for flag, text in nested.items() for word in (f"--{flag}", text)]
    assert run(*SMALL, "--steps", "3", *flags, "--out", "run", "--quiet") == 0
    config = RunFolder(folder / "run").read_config(trust_parts=True).settings
    assert {flag: getattr(config, flag) for flag in nested} == nested
    program = load_run(folder / "run", trust_parts=True)
    assert isinstance(program.model.prior, BlockPrior)
    assert isinstance(program.model.prior.block, FlatPrior)
