"""A user's own parts: module:Class on the command line, from the folder it runs in, and under the suites."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pp_simve.evaluation import Effort
from pp_simve.models.schedules import annealed_parts
from pp_simve.run.folder import RunFolder, load_run

from .command import SMALL, results, run

OWN = '''
import pyro
import pyro.distributions as dist
import torch
from own_guide import VotingGuide
from torch import nn

from pp_simve.inference import ELBO, AmortizedGuide, Objective, Schedule
from pp_simve.inference.augmentations import AugmentationPolicy
from pp_simve.models.schedules import Annealed
from pp_simve.models import ExactPrior, GaussianPrior, Likelihood, apply_network


class Tight(GaussianPrior):
    def __init__(self, latent, tightness=0.1):
        super().__init__(latent, style_variance=tightness)
        self.tightness = tightness


class Careful(AmortizedGuide):
    pass


class Laplace(Likelihood):
    def __init__(self, decoder, scale=0.2):
        super().__init__()
        self.decoder, self.scale = decoder, scale

    def forward(self, z):
        return dist.Laplace(apply_network(self.decoder, z, event_dim=1), self.scale).to_event(3)


class Flat(nn.Module):
    """Does not say how wide its output is."""

    def __init__(self, image_shape, width=12):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(image_shape[0] * image_shape[1] * image_shape[2], width))

    def forward(self, images):
        return self.layers(images)


class Named(Flat):
    """Has layers called `features`, as torchvision's VGG does."""

    def __init__(self, image_shape):
        super().__init__(image_shape)
        self.features = nn.Flatten()


class Paint(nn.Module):
    def __init__(self, latent, image_shape, width=12):
        super().__init__()
        self.image_shape = image_shape
        self.layer = nn.Linear(latent, image_shape[0] * image_shape[1] * image_shape[2])

    def forward(self, z):
        return self.layer(z).reshape(-1, *self.image_shape)


class Dim(AugmentationPolicy):
    names = ("dimming",)

    def __init__(self, image_shape, most=1.0):
        self.most = most

    def sample(self, count, *, generator):
        return {"dimming": self.most * torch.rand(count, generator=generator, device=generator.device)}

    def apply(self, images, parameters):
        return images * (1 - parameters["dimming"]).view(-1, 1, 1, 1)


class Square(nn.Module):
    """An encoder that forgets to flatten."""

    def __init__(self, image_shape):
        super().__init__()

    def forward(self, images):
        return images


class Fussy(Square):
    def forward(self, images, labels):
        return images


class Nothing(Square):
    def forward(self, images):
        return None


class Wide(Square):
    def forward(self, images):
        return images.flatten()[None]


class Small(Paint):
    """A decoder of images that are too small."""

    def __init__(self, latent, image_shape):
        super().__init__(latent, (1, 2, 5))


class Narrow(Paint):
    """A decoder of other latents."""

    def __init__(self, latent, image_shape):
        super().__init__(latent + 1, image_shape)


class Pixels(Likelihood):
    """A likelihood that forgets that an image is one event."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, z):
        return dist.Normal(apply_network(self.decoder, z, event_dim=1), 1.0)


class Wave(Schedule):
    def __init__(self, height=1.0):
        self.height = height

    def __call__(self, step, total):
        return self.height * step / total


class Strict(GaussianPrior):
    def __init__(self, latent):
        raise ValueError("latent must be a prime number")


class MyPrior(ExactPrior):
    """Content of few axes, spread over z by a learned matrix: z = content @ spread + style."""

    def __init__(self, latent_dim, width=2, style_variance=0.5):
        super().__init__(latent_dim)
        if not 0 < width <= latent_dim:
            raise ValueError(f"width must be in 1..{latent_dim}, got {width}")
        self.style_variance = style_variance
        self.spread = nn.Parameter(torch.randn(width, latent_dim) / width**0.5)

    def content(self):
        zeros = torch.zeros_like(self.spread[:, 0])
        return dist.Normal(zeros, torch.ones_like(zeros)).to_event(1)

    def style(self, content):
        zeros = content.new_zeros(*content.shape[:-1], self.latent_dim)
        return dist.Normal(zeros, self.style_variance**0.5).to_event(1)

    def compose(self, content, style):
        return content @ self.spread + style

    def decompose(self, content, z):
        return z - content @ self.spread

    def content_posterior(self, z):
        gathered = z.sum(-3, keepdim=True) @ self.spread.T / self.style_variance
        precision = z.shape[-3] * self.spread @ self.spread.T / self.style_variance
        covariance = torch.linalg.inv(precision + torch.eye(len(precision)).to(precision))
        return dist.MultivariateNormal(gathered @ covariance, covariance)

    def log_marginal(self, z):
        posterior = self.content_posterior(z)
        content = torch.zeros_like(posterior.mean)
        joint = self.content().log_prob(content) + self.style(content).log_prob(z).sum(-2, keepdim=True)
        return (joint - posterior.log_prob(content)).squeeze(-2)


class Eventless(VotingGuide):
    """Forgets that content is one vector."""

    def content(self, features):
        return super().content(features).base_dist


class Styleless(VotingGuide):
    """Forgets a site."""

    def forward(self, views):
        features = apply_network(self.encoder, views, event_dim=3)
        with pyro.plate("image", views.shape[1], dim=-1):
            pyro.sample("content", self.content(features))


class Mine(Objective):
    """The ELBO, and a price for views whose z lie apart."""

    def __init__(self, model, guide, weight=0.1):
        super().__init__()
        self.model, self.guide = model, guide
        self.elbo = ELBO(model, guide)
        self.weight = Annealed(weight)

    def forward(self, views):
        z = self.guide.posterior(views).z
        apart = (z - z.mean(0)).square().sum() / views.shape[1]
        terms = self.elbo(views)
        return {**terms, "loss": terms["loss"] + self.weight() * apart, "apart": apart.detach()}


class Summed(Mine):
    """Forgets to divide by the number of images."""

    def forward(self, views):
        return {name: value * views.shape[1] for name, value in super().forward(views).items()}
'''

TESTS = """
import my_parts
from full_covariance import TestFullCovarianceGuide
from own_guide import TestVotingGuide
from own_prior import TestClusterPrior
from spherical_prior import TestSphericalPrior

from pp_simve.inference import AmortizedGuide
from pp_simve.testing import GuideSuite, ObjectiveSuite, PriorSuite


class TestMyPrior(PriorSuite):
    def make(self, latent_dim):
        return my_parts.MyPrior(latent_dim, width=1)


class TestVotingGuideWithMyPrior(TestVotingGuide):
    make_prior = my_parts.MyPrior


class TestTheirGuideWithMyPrior(GuideSuite):
    make = AmortizedGuide
    make_prior = my_parts.MyPrior


class TestMine(ObjectiveSuite):
    make = my_parts.Mine


class TestEventless(GuideSuite):
    make = my_parts.Eventless


class TestSummed(ObjectiveSuite):
    make = my_parts.Summed
"""
MODULES = ("my_parts", "full_covariance", "own_guide", "own_prior", "spherical_prior")


@pytest.fixture(autouse=True)
def _modules(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (folder / "my_parts.py").write_text(OWN)
    (folder / "broken_parts.py").write_text("from torch import no_such_thing\n")
    for name in MODULES[1:]:
        shutil.copy(Path(__file__).parents[2] / "examples" / f"{name}.py", folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr("pp_simve.run.scores.QUICK", Effort(min_views=100))
    importlib.invalidate_caches()
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


def in_the_shell(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python`` with these arguments, from the user's folder."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def fitted(folder: Path, parts: dict[str, str]) -> Any:
    """The program of a run with these parts, read from its folder."""
    flags = [word for flag, text in parts.items() for word in (f"--{flag}", text)]
    assert run(*SMALL, *flags, "--out", "run", "--quiet") == 0
    config = RunFolder(folder / "run").read_config(trust_parts=True).settings
    assert {flag: getattr(config, flag) for flag in parts} == parts
    return load_run(folder / "run", trust_parts=True)


@pytest.mark.parametrize(
    "parts",
    [
        {"prior": "my_parts:Tight", "guide": "my_parts:Careful", "encoder": "my_parts:Flat"},
        {
            "prior": "my_parts:Tight(tightness=0.4)",
            "likelihood": "my_parts:Laplace(scale=0.1)",
            "encoder": "my_parts:Flat(width=5)",
            "decoder": "my_parts:Paint",
            "objective": "elbo(beta=my_parts:Wave(height=2))",
        },
        {"encoder": "my_parts:Named", "policy": "my_parts:Dim(most=0.5)"},
    ],
    ids=", ".join,
)
def test_parts_of_ones_own(folder: Path, parts: dict[str, str]) -> None:
    program = fitted(folder, parts)
    if "prior" in parts:
        assert program.model.prior.tightness == (0.4 if "0.4" in parts["prior"] else 0.1)
    if "policy" in parts:
        assert set(results(folder / "run")["style"]) == {"mean_r2", "dimming", "representation"}


def test_a_prior_inside_ours_and_an_objective_with_a_schedule_inside(folder: Path) -> None:
    prior = "block(content=my_parts:Tight(latent=4, tightness=0.2))"
    objective = "my_parts:Mine(weight=linear(start=0.5, end=0.25))"
    program = fitted(folder, {"prior": prior, "guide": "structured", "objective": objective})
    block = program.model.prior.block
    assert (type(block).__name__, block.latent_dim, block.tightness) == ("Tight", 4, 0.2)
    (weight,) = annealed_parts(program.objective)
    assert weight() == 0.25
    weight.move(0, 10)
    assert weight() == 0.5
    assert '"apart"' in (folder / "run" / "metrics.jsonl").read_text()


def test_a_prior_and_a_guide_from_files_in_the_folder(folder: Path) -> None:
    parts = ["--data", "digits", "--prior", "my_parts:MyPrior", "--guide", "own_guide:VotingGuide"]
    ended = in_the_shell(folder, "-m", "pp_simve.fit", *SMALL, *parts, "--out", "run")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert results(folder / "run")["content"]["linear"] > 0
    program: Any = load_run(folder / "run", trust_parts=True)
    assert (type(program.model.prior).__name__, type(program.guide).__name__) == ("MyPrior", "VotingGuide")


DERIVED = "is not a class derived from pp_simve.models"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--prior my_parts:Tigth", "unknown class in my_parts 'Tigth'; did you mean 'Tight'?"),
        ("--prior my_parts:Tight(looseness=1)", "unexpected keyword argument 'looseness'"),
        ("--prior my_parts:Tight(tightness=-1)", "style_variance must be"),
        ("--prior my_parts:Strict", "--prior my_parts:Strict: latent must be a prime number"),
        ("--prior my_parts:Paint", f"my_parts:Paint {DERIVED}.priors.base.Prior"),
        ("--prior my_parts:Careful", f"my_parts:Careful {DERIVED}.priors.base.Prior"),
        ("--prior broken_parts:Tight", "cannot import name 'no_such_thing'"),
        ("--prior block(content=my_parts:MyPrior(latent_dim=4))", "needs a ConjugatePrior"),
        # The command does not answer yet for content of another width than the messages of the guide are about.
        ("--prior my_parts:MyPrior --guide structured", "StructuredGuide"),
        ("--prior my_parts:MyPrior --objective analytic", "has no closed form"),
        ("--likelihood my_parts:Square", f"{DERIVED}.likelihoods.Likelihood"),
        ("--likelihood my_parts:Pixels", "one event over a whole image"),
        ("--encoder my_parts:Square", "an output of shape (2, features), got shape (2, 1, 16, 16)"),
        ("--encoder my_parts:Wide", "must map 2 images to an output of shape (2, features), got shape (1, 512)"),
        ("--encoder my_parts:Nothing", "must map 2 images to an output of shape (2, features), got type NoneType"),
        ("--encoder my_parts:Fussy", "does not accept a batch of images of shape (2, 1, 16, 16)"),
        ("--decoder my_parts:Small", "images of shape (1, 2, 5), but those of the data are (1, 16, 16)"),
        ("--decoder my_parts:Narrow", "does not accept latents of shape (2, 8)"),
        ("--guide my_parts:Styleless", "Found vars in model but not guide: {'style'}"),
        ("--guide my_parts:Eventless", "Shape mismatch inside plate('image') at site content"),
        ("--objective my_parts:Mine(wieght=1)", "unexpected keyword argument 'wieght'"),
    ],
)
def test_a_part_that_does_not_fit_ends_with_a_message_and_no_folder(
    refused: Callable[..., str], flags: str, words: str
) -> None:
    assert words in refused(*SMALL, *flags.split(), "--out", "run", "--quiet")


def test_the_suites_pass_right_parts_and_name_what_is_wrong_with_others(folder: Path) -> None:
    (folder / "test_my_parts.py").write_text(TESTS)
    ended = in_the_shell(folder, "-m", "pytest", "-rA", "--tb=line", "-W", "error", "-p", "no:cacheprovider", ".")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    failed: dict[str, list[str]] = {}
    for outcome, name, check in re.findall(r"^(PASSED|FAILED|ERROR)\b.*?::(\w+)::(\w+)", ended.stdout, re.MULTILINE):
        failed.setdefault(name, []).extend([] if outcome == "PASSED" else [check])
    right = {"TestVotingGuide", "TestClusterPrior", "TestMyPrior", "TestVotingGuideWithMyPrior"}
    right |= {"TestTheirGuideWithMyPrior", "TestMine", "TestFullCovarianceGuide", "TestSphericalPrior"}
    assert {name for name, checks in failed.items() if not checks} == right
    assert failed.keys() - right == {"TestEventless", "TestSummed"}
    assert "test_sites_are_those_of_the_model" in failed["TestEventless"]
    assert ".to_event(1)" in ended.stdout
    assert failed["TestSummed"] == ["test_the_loss_is_a_mean_over_images"]
    assert "divide by views.shape[1]" in ended.stdout
