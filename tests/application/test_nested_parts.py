"""Parts as options of parts: `block(content=flat(latent_dim=8))`, `elbo(beta=linear(until=0.3))`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pp_simve import judgement
from pp_simve.data import DataShape
from pp_simve.errors import ConfigError
from pp_simve.evaluation import judge
from pp_simve.inference import ELBO, AmortizedGuide, Cyclic, Geometric, Linear
from pp_simve.models import (
    BlockPrior,
    EmpiricalPrior,
    FlatPrior,
    GaussianPrior,
    MixturePrior,
    Prior,
    StandardPrior,
)
from pp_simve.run.config import FitConfig
from pp_simve.run.folder import RunFolder, load_run
from pp_simve.run.methods import Program, build
from pp_simve.run.parts import PRIORS, make_part

from .command import SMALL, run


class Box:
    """A part that keeps what it was built from."""

    def __init__(self, *, option: object = None, other: object = None) -> None:
        self.option, self.other = option, other


def box(text: str) -> Box:
    return make_part("box", text, {"box": Box}, Box)


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


def test_the_options_of_the_inner_part_are_its_own() -> None:
    made = prior("block(content=gaussian(latent_dim=2, style_variance=[0.25, 0.5], learn_style=True), variance=4)")
    assert isinstance(made, BlockPrior)
    assert isinstance(made.block, GaussianPrior)
    assert made.block.style_variance().tolist() == pytest.approx([0.25, 0.5])
    assert made.block.style_variance.log is not None
    assert made.variance.tolist() == [4.0] * 4


def test_parts_nest_as_deep_as_one_likes() -> None:
    made = prior("block(content=block(latent_dim=4, content=block(latent_dim=2, content=flat(latent_dim=1))))", 8)
    depths = []
    while isinstance(made, BlockPrior):
        depths.append(made.latent_dim)
        made = made.block
    assert depths == [8, 4, 2]
    assert isinstance(made, FlatPrior)


def test_schedules_are_options_too() -> None:
    assert box("box(option=linear())").option == Linear()
    assert box("box(option=cyclic(cycles=2))").option == Cyclic(cycles=2)
    made = box("box(option=linear(start=0.1, until=0.3), other=geometric(end=1e-3))")
    assert (made.option, made.other) == (Linear(0.1, 1.0, 0.3), Geometric(1.0, 1e-3))


def built(**settings: Any) -> Program:
    narrow: dict[str, Any] = {"encoder": "mlp(hidden=[16])", "decoder": "mlp(hidden=[16])", "latent_dim": 6}
    shape = (1, 8, 8)
    return build(FitConfig(**(narrow | settings)).resolve(DataShape(shape)), DataShape(shape))


def test_weights_and_scales_of_a_program_may_be_schedules() -> None:
    program = built(objective="elbo(beta=linear(start=0.1, until=0.3))", guide="amortized(scale=geometric(end=0.05))")
    assert isinstance(program.objective, ELBO)
    assert program.objective.beta.schedule == Linear(0.1, 1.0, 0.3)
    assert isinstance(program.guide, AmortizedGuide)
    assert program.guide.recognition.scale.schedule == Geometric(1.0, 0.05)


def test_a_guide_may_pass_the_messages_of_a_prior_of_its_own() -> None:
    program = built(prior="student", guide="structured(messages=gaussian(latent_dim=6, learn_style=True))")
    messages = program.guide.get_submodule("messages")
    assert isinstance(messages, GaussianPrior)
    assert messages is not program.model.prior


@pytest.mark.parametrize(
    "words",
    [
        "flat(latent_dim=8)",
        "linear(until=0.3)",
        "pp_simve.models:GaussianPrior(latent_dim=4)",
        "my:Class(",
        "it's my:Class(1)",
        'say "my:Class(1)"',
        "_module_of_",
        "a\\\\'b:C(",
    ],
)
def test_what_stands_in_quotes_stays_as_it_is(words: str) -> None:
    made = box(f"box(option={words!r}, other=linear())")
    assert made.option == words
    assert made.other == Linear()


@given(st.text(alphabet="aB:.(')\" \\=,[]_", max_size=20), st.text(alphabet="aB:.(')\" \\", max_size=10))
def test_any_quoted_text_is_left_alone_beside_a_part_of_ones_own(first: str, second: str) -> None:
    text = f"box(option=[{first!r}, {second!r}], other=pp_simve.inference:Linear(until=0.5))"
    made = box(text)
    assert made.option == [first, second]
    assert made.other == Linear(until=0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("block(content=flatt(latent_dim=4))", "'flatt'; did you mean 'flat'?"),
        ("block(content=zzz(latent_dim=4))", "'zzz'. Expected one of: gaussian"),
        ("block(content=flat(4))", "cannot be read"),
        ("block(content=flat(**{'latent': 4}))", "cannot be read"),
        ("block(content=flat(latent_dim=4, latent_dim=4))", "cannot be read"),
        ("block(content=flat)", "cannot be read"),
        ("block(content=flat(latent_dim=4)(1))", "cannot be read"),
        ("block(content=flat(latent_dim=4)", "cannot be read"),
        ("block(content=__import__('os').system('true'))", "cannot be read"),
        ("block(content=flat(latent_dim=4, tau=1))", "unexpected keyword argument 'tau'"),
        ("block(content=flat())", "missing a required argument: 'latent_dim'"),
        ("block(content=flat(latent_dim=4, style_variance=-1))", "style_variance must be positive and finite, got -1"),
        ("block(content=flat(latent_dim=0))", "latent must be at least 1 dimension, got 0"),
        ("block(content=flat(latent_dim=6))", "the content block must leave axes to style, got 6 of 6"),
        ("block(content=student(latent_dim=4))", "needs a ConjugatePrior"),
        ("block(content=linear())", "needs a ConjugatePrior"),
        ("block(content=no_such_module:Prior(latent_dim=4))", "No module named 'no_such_module'"),
        ("block(content=pp_simve.models:GaussianPrior(4))", "cannot be read"),
        ("block(content=os:getpid())", "os:getpid is not a class derived from pp_simve.models.priors.base.Prior or"),
        ("block(content=pathlib:Path())", "pathlib:Path is not a class derived from"),
        ("block(content=pp_simve.models:MLPDecoder(latent_dim=4, image_shape=(1, 2, 2)))", "not a class derived from"),
        ("gaussian(style_variance=pp_simve.inference.schedules:constant(step=0, total=1))", "not a class derived from"),
        ("gaussian(style_variance=[flat(latent_dim=4)])", "cannot be read"),
    ],
)
def test_a_nested_part_that_does_not_fit_is_refused_by_its_flag(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        prior(text)
    message = str(refusal.value)
    assert words in message
    assert "prior" in message.split(":")[0]


def test_an_unknown_class_of_ones_own_is_named_with_its_module_and_its_nearest() -> None:
    with pytest.raises(ConfigError, match=r"pp_simve\.models 'GausianPrior'; did you mean 'GaussianPrior'\?"):
        prior("block(content=pp_simve.models:GausianPrior(latent_dim=4))")


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
    ],
)
def test_on_the_command_line_it_is_refused_in_words(
    refused: Callable[..., str], flag: str, text: str, words: str
) -> None:
    message = refused(*SMALL, f"--{flag}", text)
    assert message.startswith("error: ")
    assert words in message
    assert flag in message


def test_a_fit_of_nested_parts_can_be_read_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judgement, "judge", partial(judge, min_views=100))
    nested = {
        "prior": "block(content=pp_simve.models:FlatPrior(latent_dim=3))",
        "objective": "elbo(beta=linear(start=0.1, until=0.3))",
        "guide": "structured(scale=geometric(end=0.5))",
    }
    flags = [word for flag, text in nested.items() for word in (f"--{flag}", text)]
    assert run(*SMALL, "--steps", "3", *flags, "--out", "run", "--quiet") == 0
    config, _ = RunFolder(folder / "run").read_settings(trust_parts=True)
    assert {flag: getattr(config, flag) for flag in nested} == nested
    program = load_run(folder / "run", trust_parts=True)
    assert isinstance(program.model.prior, BlockPrior)
    assert isinstance(program.model.prior.block, FlatPrior)
