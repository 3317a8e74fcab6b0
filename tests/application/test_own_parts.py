"""A user's own parts, named on the command line as module:Class from the folder it runs in."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pp_simve.evaluation import Effort
from pp_simve.run.folder import RunFolder, load_run

from .command import SMALL, results, run

OWN = '''
import pyro.distributions as dist
import torch
from torch import nn

from pp_simve.inference import AmortizedGuide, Schedule
from pp_simve.inference.augmentations import AugmentationPolicy
from pp_simve.models import GaussianPrior, Likelihood, apply_network


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
'''


@pytest.fixture(autouse=True)
def _module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (folder / "my_parts.py").write_text(OWN)
    (folder / "broken_parts.py").write_text("from torch import no_such_thing\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr("pp_simve.run.scores.QUICK", Effort(min_views=100))
    importlib.invalidate_caches()
    yield
    sys.modules.pop("my_parts", None)


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
    flags = [word for flag, text in parts.items() for word in (f"--{flag}", text)]
    assert run(*SMALL, *flags, "--out", "run", "--quiet") == 0
    config, _ = RunFolder(folder / "run").read_settings(trust_parts=True)
    assert {flag: getattr(config, flag) for flag in parts} == parts
    program = load_run(folder / "run", trust_parts=True)
    if "prior" in parts:
        assert program.model.prior.tightness == (0.4 if "0.4" in parts["prior"] else 0.1)
    if "policy" in parts:
        assert set(results(folder / "run")["style"]) == {"mean_r2", "dimming", "representation"}


@pytest.mark.parametrize(
    ("flag", "text", "words"),
    [
        ("prior", "my_parts:Tigth", "unknown class in my_parts 'Tigth'; did you mean 'Tight'?"),
        ("prior", "my_parts:Tight(looseness=1)", "unexpected keyword argument 'looseness'"),
        ("prior", "my_parts:Tight(tightness=-1)", "style_variance must be"),
        ("prior", "my_parts:Strict", "--prior my_parts:Strict: latent must be a prime number"),
        ("prior", "my_parts:Paint", "my_parts:Paint is not a class derived from pp_simve.models.priors.base.Prior"),
        ("prior", "my_parts:Careful", "my_parts:Careful is not a class derived from pp_simve.models.priors.base.Prior"),
        ("likelihood", "my_parts:Square", "is not a class derived from pp_simve.models.likelihoods.Likelihood"),
        (
            "encoder",
            "my_parts:Square",
            "an output of shape (2, features), got shape (2, 1, 16, 16)",
        ),
        ("encoder", "my_parts:Wide", "must map 2 images to an output of shape (2, features), got shape (1, 512)"),
        ("encoder", "my_parts:Nothing", "must map 2 images to an output of shape (2, features), got type NoneType"),
        ("encoder", "my_parts:Fussy", "does not accept a batch of images of shape (1, 16, 16)"),
        ("decoder", "my_parts:Small", "images of shape (1, 2, 5), but those of the data are (1, 16, 16)"),
        ("decoder", "my_parts:Narrow", "does not accept latents of shape (2, 8)"),
        ("likelihood", "my_parts:Pixels", "one event over a whole image"),
        ("prior", "broken_parts:Tight", "cannot import name 'no_such_thing'"),
    ],
)
def test_a_part_that_does_not_fit(refused: Callable[..., str], flag: str, text: str, words: str) -> None:
    assert words in refused(*SMALL, f"--{flag}", text)
