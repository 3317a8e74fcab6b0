"""The conformance suite of likelihoods."""

from __future__ import annotations

import unittest
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from pp_simve.inference import AmortizedGuide, Guide
from pp_simve.models import GaussianPrior, Likelihood, SimVE, network_precision
from pp_simve.testing.checks import (
    DOUBLE,
    IMAGES,
    LATENT,
    PARTICLES,
    SHAPE,
    VIEWS,
    Suite,
    TinyDecoder,
    TinyEncoder,
    check,
    check_density,
    check_finite_differences,
    close,
    must_run,
    seeded,
    shapes,
)

LEADING = ((IMAGES,), (VIEWS, IMAGES), (PARTICLES, VIEWS, IMAGES))


class LikelihoodSuite(Suite[Likelihood]):
    """Conformance suite of likelihoods: subclass it, define how to make one, and let pytest collect the subclass.

        class TestMyLikelihood(LikelihoodSuite):
            def make(self, decoder: nn.Module) -> MyLikelihood:
                return MyLikelihood(decoder)

    Attributes:
        normalized: whether the density of an image integrates to one. False where the scores of grey values are not a
            density of theirs (`Bernoulli`).
    """

    normalized: ClassVar[bool] = True

    @abstractmethod
    def make(self, decoder: nn.Module) -> Likelihood:
        """A new likelihood around a decoder that maps ``(batch, latent)`` to ``(batch, channel, height, width)``."""

    def test_one_event_over_a_whole_image(self) -> None:
        """The event is the image, the batch is z's leading dimensions, particles included; the mean is an image."""
        likelihood = self._part()
        for leading in LEADING:
            found = likelihood(_z(leading))
            check(
                found.batch_shape == leading and found.event_shape == SHAPE,
                f"for z of shape {(*leading, LATENT)} it has {shapes(found)}, expected "
                f"batch {leading} and event {SHAPE}. End with .to_event(3), and "
                "call the decoder with apply_network(..., event_dim=1)",
            )
            shape = tuple(found.log_prob(_images(leading)).shape)
            check(shape == leading, f"log_prob of images has shape {shape}, expected {leading}, one number an image")
            with must_run("the distribution's mean", "a property `mean`: figures of reconstructions show it"):
                mean = found.mean
            check(
                mean.shape == (*leading, *SHAPE), f".mean has shape {tuple(mean.shape)}, expected {(*leading, *SHAPE)}"
            )
            check(mean.isfinite().all(), ".mean is not finite")

    def test_grey_images_have_finite_densities(self) -> None:
        """Black, white and everything between: pixels of exactly 0 and 1 are common."""
        grey = _images((IMAGES,))
        for images in (torch.zeros_like(grey), torch.ones_like(grey), grey, grey.round()):
            log_density = self._part()(_z((IMAGES,))).log_prob(images)
            check(
                log_density.isfinite().all(),
                f"log_prob of images in {images.min():.2g}..{images.max():.2g} is {log_density.tolist()}, expected "
                "finite numbers. Clamp pixels, or take a distribution whose support holds 0 and 1",
            )

    def test_density_integrates_to_one(self) -> None:
        """Over an image of one pixel, by quadrature."""
        if not self.normalized:
            raise unittest.SkipTest("its densities are not normalized, as declared")
        with seeded():
            likelihood = self.make(TinyDecoder(LATENT, (1, 1, 1))).to(DOUBLE).eval()
        for z in _z((3, 1)):
            check_density(likelihood(z), "an image of one pixel")

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
                close(together[name][index], value.squeeze(0), message)
        shared, expected = likelihood(z).log_prob(images[0]), likelihood(z).log_prob(images[:1].expand_as(images))
        close(shared, expected, "images without the particles' dimension are not broadcast over them")

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
            f"under network_precision(torch.bfloat16) the decoder ran in {ran_in[-1]} and log_prob is {low.dtype}, "
            "expected bfloat16 and float32: call the decoder by apply_network(self.decoder, z, event_dim=1)",
        )
        message = "log_prob with a decoder in bfloat16 is far from that in float32"
        torch.testing.assert_close(low, full, rtol=0.1, atol=1.0, msg=lambda found: f"{message}\n{found}")

    # What the checks run on

    def _new(self) -> Likelihood:
        return self.make(TinyDecoder(LATENT))

    def _inputs(self, part: Likelihood, dtype: torch.dtype = DOUBLE) -> tuple[Tensor, ...]:
        return _z((VIEWS, IMAGES)).to(dtype), _images((VIEWS, IMAGES)).to(dtype)

    def _outputs(self, part: Likelihood, *inputs: Tensor) -> dict[str, Tensor]:
        z, images = inputs
        found = part(z)
        return {"log_prob": found.log_prob(images), ".mean": found.mean}

    def _fits(self, part: Likelihood) -> list[tuple[SimVE, Guide, None]]:
        prior = GaussianPrior(LATENT)
        with seeded():
            return [(SimVE(prior, part), AmortizedGuide(TinyEncoder(), prior), None)]


def _z(leading: tuple[int, ...]) -> Tensor:
    with seeded(3):
        return torch.randn(*leading, LATENT, dtype=DOUBLE)


def _images(leading: tuple[int, ...]) -> Tensor:
    """Grey noise with some pixels exactly black and white."""
    with seeded(4):
        return (1.2 * torch.rand(*leading, *SHAPE, dtype=DOUBLE) - 0.1).clamp(0, 1)
