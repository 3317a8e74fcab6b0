"""The conformance suite of likelihoods."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pp_simve.inference import AmortizedGuide, MLPEncoder
from pp_simve.models import GaussianPrior, Likelihood, SimVE, network_precision
from pp_simve.testing.checks import (
    check,
    check_finite_differences,
    check_five_steps,
    check_gradients,
    check_moves,
    check_no_plain_tensors,
    close,
    perturb,
    seeded,
    skip,
)
from pp_simve.testing.quadrature import check_normalised

# All different, so that no dimension passes for another.
PARTICLES, VIEWS, IMAGES, LATENT = 5, 3, 4, 2
SHAPE, ONE_PIXEL = (1, 6, 7), (1, 1, 1)
LEADING = ((IMAGES,), (VIEWS, IMAGES), (PARTICLES, VIEWS, IMAGES))
EXACT = 1e-7


class TinyDecoder(nn.Module):
    """Smooth, of one hidden layer; knows one batch dimension as networks do, and which dtype it last ran in.

    Args:
        latent: latent dimensions.
        image_shape: ``(channel, height, width)``.
    """

    def __init__(self, latent_dim: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.hidden = nn.Linear(latent_dim, 5)
        self.pixels = nn.Linear(5, math.prod(image_shape))
        self.image_shape = image_shape
        self.ran_in: torch.dtype | None = None

    def forward(self, z: Tensor) -> Tensor:
        if z.ndim != 2:
            raise ValueError(
                f"the decoder was given z of shape {tuple(z.shape)}, expected (batch, latent): networks know one batch "
                "dimension. Call it through apply_network(self.decoder, z, event_dim=1)"
            )
        pixels: Tensor = self.pixels(self.hidden(z).tanh())
        self.ran_in = pixels.dtype
        return pixels.reshape(-1, *self.image_shape)


class LikelihoodSuite:
    """Checks of a likelihood of one's own: subclass it, say how to make one, and let pytest collect the subclass.

        class TestMyLikelihood(LikelihoodSuite):
            def make(self, decoder: nn.Module) -> MyLikelihood:
                return MyLikelihood(decoder)

    Every check is on a few small images, in float64 where numbers are compared.

    Attributes:
        normalised: whether the density of an image integrates to one (or sums, where the distribution can enumerate
            its support). False where grey values are scored by what is no density of theirs (`Bernoulli`).
    """

    normalised: ClassVar[bool] = True

    def make(self, decoder: nn.Module) -> Likelihood:
        """A new likelihood around a decoder that maps ``(batch, latent)`` to ``(batch, channel, height, width)``."""
        raise NotImplementedError(f"{type(self).__name__} must define make(decoder), which returns the likelihood")

    def test_one_event_over_a_whole_image(self) -> None:
        """The event is the image, the batch is z's leading dimensions, particles included."""
        likelihood = self._made()
        for leading in LEADING:
            found = likelihood(self._z(leading))
            check(
                found.batch_shape == leading and found.event_shape == SHAPE,
                f"for z of shape {(*leading, LATENT)} it has batch {tuple(found.batch_shape)} and event "
                f"{tuple(found.event_shape)}, expected batch {leading} and event {SHAPE}: pixels are not independent "
                "observations. End with .to_event(3), and call the decoder with apply_network(..., event_dim=1)",
            )
            shape = found.log_prob(self._images(leading)).shape
            check(
                shape == leading,
                f"log_prob of images {(*leading, *SHAPE)} has shape {tuple(shape)}, expected {leading}, one an image",
            )

    def test_mean_is_an_image(self) -> None:
        """Figures and samples show it."""
        likelihood = self._made()
        for leading in LEADING:
            try:
                mean = likelihood(self._z(leading)).mean
            except (AttributeError, NotImplementedError) as error:
                raise AssertionError(
                    f"the distribution has no mean ({type(error).__name__}: {error}), which figures of "
                    "reconstructions need; give it a property `mean`"
                ) from error
            expected = (*leading, *SHAPE)
            check(mean.shape == expected, f".mean has shape {tuple(mean.shape)}, expected {expected}")
            check(bool(torch.isfinite(mean).all()), ".mean is not finite")

    def test_grey_images_have_finite_densities(self) -> None:
        """Black, white and everything between: pixels of exactly 0 and 1 are common."""
        likelihood = self._made()
        grey = self._images((IMAGES,))
        kinds = {
            "black": torch.zeros_like(grey),
            "white": torch.ones_like(grey),
            "grey": grey,
            "black and white": grey.round(),
        }
        for kind, images in kinds.items():
            log_density = likelihood(self._z((IMAGES,))).log_prob(images)
            check(
                bool(torch.isfinite(log_density).all()),
                f"log_prob of {kind} images is {log_density.tolist()}, expected finite numbers; images have values in "
                "[0, 1], both ends included. Clamp them, or take a distribution whose support holds them",
            )

    def test_density_integrates_to_one(self) -> None:
        """Over an image of one pixel, by quadrature."""
        if not self.normalised:
            skip("its densities are not normalised, as declared")
        likelihood = self._made(shape=ONE_PIXEL)
        for z in self._z((3,)):
            check_normalised(_OnePixel(likelihood(z.unsqueeze(0))), "an image of one pixel")

    def test_every_parameter_and_z_get_a_gradient(self) -> None:
        """From log p(x | z)."""
        likelihood = self._made()
        z, images = self._z((IMAGES,)), self._images((IMAGES,))
        check_gradients(likelihood, likelihood(z).log_prob(images).sum(), "expected one from log p(x | z)")
        z.requires_grad_()
        (gradient,) = torch.autograd.grad(likelihood(z).log_prob(images).sum(), z, allow_unused=True)
        check(
            gradient is not None and bool(torch.isfinite(gradient).all() and (gradient != 0).any()),
            f"the gradient of log p(x | z) with respect to z is {gradient}, expected a finite one that is not zero: "
            "nothing else trains the guide. Look for a detach()",
        )

    def test_gradients_equal_finite_differences(self) -> None:
        """Of log p(x | z) and of the mean, with respect to parameters and z."""
        likelihood = self._made()
        z, images = self._z((IMAGES,)).requires_grad_(), self._images((IMAGES,))

        def functions() -> dict[str, Tensor]:
            found = likelihood(z)
            return {"log p(x | z)": found.log_prob(images), ".mean": found.mean}

        check_finite_differences(functions, (z, *likelihood.parameters()))

    def test_batch_equals_loop(self) -> None:
        """An image's density and mean do not depend on views, images and particles beside it."""
        likelihood = self._made()
        leading = LEADING[-1]
        z, images = self._z(leading), self._images(leading)
        together = likelihood(z)
        log_density, mean = together.log_prob(images), together.mean
        message = "{} of a batch is not what it is one by one; look for a sum or mean over more than the image"
        for index in ((0, 0, 0), (1, 2, 3), (4, 1, 2)):
            alone = likelihood(z[index].unsqueeze(0))
            expected = alone.log_prob(images[index].unsqueeze(0)).squeeze(0)
            close(log_density[index], expected, message.format("log_prob"), EXACT, EXACT)
            close(mean[index], alone.mean.squeeze(0), message.format(".mean"), EXACT, EXACT)
        shared = likelihood(z).log_prob(images[0])
        expected = together.log_prob(images[:1].expand_as(images))
        close(shared, expected, "images without the particles' dimension are not broadcast over them", EXACT, EXACT)

    def test_keeps_dtype(self) -> None:
        """float64 after .double(), float32 as made."""
        with seeded():
            likelihood = self.make(TinyDecoder(LATENT, SHAPE))
        check_no_plain_tensors(likelihood)
        for dtype in (torch.float32, torch.float64):
            likelihood = self._made(dtype)
            found = likelihood(self._z((IMAGES,), dtype))
            for name, value in {
                "log_prob": found.log_prob(self._images((IMAGES,), dtype)),
                ".mean": found.mean,
            }.items():
                check(
                    value.dtype == dtype,
                    f"{name} is {value.dtype} in a likelihood of {dtype}; look for a tensor or cast of fixed dtype "
                    "(torch.tensor(...), .float()), and make constants buffers",
                )

    def test_networks_may_run_in_bfloat16(self) -> None:
        """Under `network_precision` the decoder runs in bfloat16, densities stay in float32, near what they were."""
        likelihood = self._made(torch.float32)
        decoder = next((part for part in likelihood.modules() if isinstance(part, TinyDecoder)), None)
        check(decoder is not None, "the decoder is no submodule of the likelihood; keep it as self.decoder = decoder")
        z, images = self._z((VIEWS, IMAGES), torch.float32), self._images((VIEWS, IMAGES), torch.float32)
        full = likelihood(z).log_prob(images)
        with network_precision(torch.bfloat16):
            low = likelihood(z).log_prob(images)
        ran_in = decoder.ran_in if decoder is not None else None
        check(
            ran_in == torch.bfloat16,
            f"the decoder ran in {ran_in} under network_precision(torch.bfloat16); call it through "
            "apply_network(self.decoder, z, event_dim=1)",
        )
        check(
            low.dtype == torch.float32,
            f"log_prob is {low.dtype} with a decoder in bfloat16, expected float32: a sum over pixels has no digits "
            "left otherwise. Call the decoder through apply_network, which gives its output in full precision",
        )
        close(low, full, "log_prob with a decoder in bfloat16 is far from that in float32", rtol=0.1, atol=1.0)

    def test_moves_to_another_device(self) -> None:
        """Densities and means are where the likelihood is."""

        def numbers(device: torch.device) -> dict[str, Tensor]:
            found = self._made(torch.float32).to(device)(self._z((IMAGES,), torch.float32).to(device))
            images = self._images((IMAGES,), torch.float32).to(device)
            return {"log_prob": found.log_prob(images), ".mean": found.mean}

        check_moves(numbers)

    def test_state_dict_holds_everything(self) -> None:
        """A second likelihood that loads it says the same, bit for bit."""
        first, second = self._made(seed=0), self._made(seed=1)
        with seeded(2):
            perturb(first)
        try:
            second.load_state_dict(first.state_dict())
        except RuntimeError as error:
            raise AssertionError(f"the state_dict of one likelihood does not load into another: {error}") from error
        z, images = self._z((IMAGES,)), self._images((IMAGES,))
        check(
            torch.equal(first(z).log_prob(images), second(z).log_prob(images)),
            "log_prob differs after state_dict was loaded into a second likelihood, so a run could not be resumed; "
            "what is drawn at random or learned must be a parameter or a buffer",
        )

    def test_same_seed_same_numbers(self) -> None:
        """Building depends on torch's seed alone, and densities on nothing random."""
        first, second = self._made(), self._made()
        z, images = self._z((IMAGES,)), self._images((IMAGES,))
        value = first(z).log_prob(images)
        check(torch.equal(first(z).log_prob(images), value), "log_prob differs when asked twice; expected no noise")
        check(
            torch.equal(second(z).log_prob(images), value),
            "log_prob differs between two likelihoods made under one seed; take all randomness from torch's global "
            "generator",
        )

    def test_five_steps_of_a_fit(self) -> None:
        """Its losses are finite and its parameters move."""
        with seeded():
            likelihood = self.make(TinyDecoder(LATENT, SHAPE))
            prior = GaussianPrior(LATENT)
            guide = AmortizedGuide(MLPEncoder(SHAPE, hidden=(8,)), prior)
        check_five_steps(likelihood, SimVE(prior, likelihood), guide, SHAPE)

    def _made(
        self, dtype: torch.dtype = torch.float64, seed: int = 0, shape: tuple[int, int, int] = SHAPE
    ) -> Likelihood:
        with seeded(seed):
            return self.make(TinyDecoder(LATENT, shape)).to(dtype).eval()

    def _z(self, leading: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
        with seeded(3):
            return torch.randn(*leading, LATENT, dtype=torch.float64).to(dtype)

    def _images(self, leading: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
        """Grey noise with some pixels exactly black and white."""
        with seeded(4):
            return (1.2 * torch.rand(*leading, *SHAPE, dtype=torch.float64) - 0.1).clamp(0, 1).to(dtype)


class _OnePixel:
    """An image of one pixel as a vector of one number, for quadrature; batch of one.

    Args:
        image: distribution of batch ``(1,)``, event ``(1, 1, 1)``.
    """

    event_shape = torch.Size((1,))
    batch_shape = torch.Size(())

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
