"""The conformance suite of likelihoods."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pp_simve.inference import AmortizedGuide, Guide
from pp_simve.models import GaussianPrior, Likelihood, SimVE, network_precision
from pp_simve.testing.checks import (
    DOUBLE,
    EXACT,
    IMAGES,
    LATENT,
    PARTICLES,
    SHAPE,
    VIEWS,
    Suite,
    TinyDecoder,
    TinyEncoder,
    check,
    check_finite_differences,
    check_normalized,
    close,
    must_run,
    seeded,
    skip,
)

LEADING = ((IMAGES,), (VIEWS, IMAGES), (PARTICLES, VIEWS, IMAGES))
ONE_PIXEL = (1, 1, 1)


class LikelihoodSuite(Suite[Likelihood]):
    """Checks of a likelihood of your own: subclass it, define how to make one, and let pytest collect the subclass.

        class TestMyLikelihood(LikelihoodSuite):
            def make(self, decoder: nn.Module) -> MyLikelihood:
                return MyLikelihood(decoder)

    Attributes:
        normalised: whether the density of an image integrates to one (or sums, where the distribution can enumerate
            its support). False where grey values are scored by what is no density of theirs (`Bernoulli`).
    """

    normalised: ClassVar[bool] = True

    @abstractmethod
    def make(self, decoder: nn.Module) -> Likelihood:
        """A new likelihood around a decoder that maps ``(batch, latent)`` to ``(batch, channel, height, width)``."""

    def test_one_event_over_a_whole_image(self) -> None:
        """The event is the image, the batch is z's leading dimensions, particles included."""
        likelihood = self._part()
        for leading in LEADING:
            found = likelihood(_z(leading))
            check(
                found.batch_shape == leading and found.event_shape == SHAPE,
                f"for z of shape {(*leading, LATENT)} it has batch {tuple(found.batch_shape)} and event "
                f"{tuple(found.event_shape)}, expected batch {leading} and event {SHAPE}: pixels are not independent "
                "observations. End with .to_event(3), and call the decoder with apply_network(..., event_dim=1)",
            )
            shape = tuple(found.log_prob(_images(leading)).shape)
            check(shape == leading, f"log_prob of images has shape {shape}, expected {leading}, one number an image")

    def test_mean_is_an_image(self) -> None:
        """Figures and samples show it."""
        for leading in LEADING:
            with must_run("the distribution's mean", "a property `mean`: figures of reconstructions show it"):
                mean = self._part()(_z(leading)).mean
            expected = (*leading, *SHAPE)
            check(mean.shape == expected, f".mean has shape {tuple(mean.shape)}, expected {expected}")
            check(bool(mean.isfinite().all()), ".mean is not finite")

    def test_grey_images_have_finite_densities(self) -> None:
        """Black, white and everything between: pixels of exactly 0 and 1 are common."""
        grey = _images((IMAGES,))
        for images in (torch.zeros_like(grey), torch.ones_like(grey), grey, grey.round()):
            log_density = self._part()(_z((IMAGES,))).log_prob(images)
            check(
                bool(torch.isfinite(log_density).all()),
                f"log_prob of images in {images.min():.2g}..{images.max():.2g} is {log_density.tolist()}, expected "
                "finite numbers: pixels may be 0 and 1. Clamp them, or take a distribution whose support holds them",
            )

    def test_density_integrates_to_one(self) -> None:
        """Over an image of one pixel, by quadrature."""
        if not self.normalised:
            skip("its densities are not normalized, as declared")
        with seeded():
            likelihood = self.make(TinyDecoder(LATENT, ONE_PIXEL)).to(DOUBLE).eval()
        for z in _z((3,)):
            check_normalized(_OnePixel(likelihood(z.unsqueeze(0))), "an image of one pixel")

    def test_z_gets_a_gradient(self) -> None:
        """From log p(x | z)."""
        z = _z((IMAGES,)).requires_grad_()
        log_density = self._part()(z).log_prob(_images((IMAGES,))).sum()
        gradient = torch.autograd.grad(log_density, z, allow_unused=True)[0] if log_density.requires_grad else None
        check(
            gradient is not None and bool(torch.isfinite(gradient).all() and (gradient != 0).any()),
            f"the gradient of log p(x | z) with respect to z is {gradient}, expected a finite one that is not zero: "
            "nothing else trains the guide. Look for a detach()",
        )

    def test_gradients_equal_finite_differences(self) -> None:
        """Of log p(x | z) and of the mean, with respect to parameters and z."""
        likelihood = self._part()
        z, images = self._inputs(likelihood)
        z.requires_grad_()
        check_finite_differences(lambda: self._outputs(likelihood, z, images), (z, *likelihood.parameters()))

    def test_batch_equals_loop(self) -> None:
        """An image's density and mean do not depend on views, images and particles beside it."""
        likelihood = self._part()
        z, images = _z(LEADING[-1]), _images(LEADING[-1])
        together = self._outputs(likelihood, z, images)
        for index in ((0, 0, 0), (1, 2, 3), (4, 1, 2)):
            for name, value in self._outputs(likelihood, z[index].unsqueeze(0), images[index].unsqueeze(0)).items():
                message = f"{name} of a batch is not what it is one by one; look for a sum or mean over other images"
                close(together[name][index], value.squeeze(0), message, *EXACT)
        shared, expected = likelihood(z).log_prob(images[0]), likelihood(z).log_prob(images[:1].expand_as(images))
        close(shared, expected, "images without the particles' dimension are not broadcast over them", *EXACT)

    def test_networks_may_run_in_bfloat16(self) -> None:
        """Under `network_precision` the decoder runs in bfloat16, densities stay in float32, near what they were."""
        ran_in: list[torch.dtype] = []
        with seeded():
            decoder = TinyDecoder(LATENT)
            decoder.register_forward_hook(lambda module, inputs, output: ran_in.append(output.dtype))
            likelihood = self.make(decoder).eval()
        z, images = self._inputs(likelihood, torch.float32)
        full = likelihood(z).log_prob(images)
        with network_precision(torch.bfloat16):
            low = likelihood(z).log_prob(images)
        check(
            ran_in[-1] == torch.bfloat16 and low.dtype == torch.float32,
            f"under network_precision(torch.bfloat16) the decoder ran in {ran_in[-1]} and log_prob is {low.dtype}. "
            "Expected bfloat16 and float32: call the decoder through apply_network(self.decoder, z, event_dim=1), "
            "which runs it in that precision and gives its output in full",
        )
        close(low, full, "log_prob with a decoder in bfloat16 is far from that in float32", rtol=0.1, atol=1.0)

    # What the checks run on

    def _new(self) -> Likelihood:
        return self.make(TinyDecoder(LATENT))

    def _inputs(self, part: Likelihood, dtype: torch.dtype = DOUBLE) -> tuple[Tensor, ...]:
        return _z((VIEWS, IMAGES)).to(dtype), _images((VIEWS, IMAGES)).to(dtype)

    def _outputs(self, part: Likelihood, *inputs: Tensor) -> dict[str, Tensor]:
        z, images = inputs
        found = part(z)
        return {"log_prob": found.log_prob(images), ".mean": found.mean}

    def _loss(self, part: Likelihood) -> Tensor:
        return -self._outputs(part, *self._inputs(part))["log_prob"].sum()

    def _fits(self) -> list[tuple[Likelihood, SimVE, Guide, None]]:
        likelihood, prior = self._part(dtype=torch.float32), GaussianPrior(LATENT)
        with seeded():
            return [(likelihood, SimVE(prior, likelihood), AmortizedGuide(TinyEncoder(), prior), None)]


def _z(leading: tuple[int, ...]) -> Tensor:
    with seeded(3):
        return torch.randn(*leading, LATENT, dtype=DOUBLE)


def _images(leading: tuple[int, ...]) -> Tensor:
    """Grey noise with some pixels exactly black and white."""
    with seeded(4):
        return (1.2 * torch.rand(*leading, *SHAPE, dtype=DOUBLE) - 0.1).clamp(0, 1)


class _OnePixel:
    """A distribution of batch ``(1,)``, event ``(1, 1, 1)`` as one of a vector of one number, for quadrature."""

    event_shape, batch_shape = torch.Size((1,)), torch.Size(())

    def __init__(self, image: Any) -> None:
        self.image = image
        self.has_enumerate_support = bool(getattr(image, "has_enumerate_support", False))

    @property
    def support(self) -> Any:
        return self.image.support

    def sample(self, shape: tuple[int, ...]) -> Tensor:
        draws: Tensor = self.image.sample(shape)
        return draws.reshape(*shape, 1)

    def enumerate_support(self, expand: bool = False) -> Tensor:
        values: Tensor = self.image.enumerate_support(expand=expand)
        return values.reshape(-1, 1)

    def log_prob(self, value: Tensor) -> Tensor:
        log_density: Tensor = self.image.log_prob(value.reshape(-1, 1, *ONE_PIXEL))
        return log_density.reshape(-1)
