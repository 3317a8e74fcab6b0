"""Named recipes: functions from settings to model, guide and objective. Every part of one can be replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from pp_simve.config import FitConfig
from pp_simve.errors import ConfigError, unknown_name
from pp_simve.inference import ELBO, Guide
from pp_simve.models import Likelihood, Prior, SimVE
from pp_simve.parts import DECODERS, ENCODERS, GUIDES, LIKELIHOODS, PRIORS, make_part

ImageShape = tuple[int, int, int]


@dataclass(frozen=True)
class Program:
    """A matched model and guide, and what they are fitted by."""

    model: SimVE
    guide: Guide
    objective: nn.Module


def simve(config: FitConfig, image_shape: ImageShape) -> Program:
    """Views share content and differ in style (Bizeul, Schölkopf, Allen, TMLR 2024)."""
    return _generative(config, image_shape, prior="gaussian")


def vae(config: FitConfig, image_shape: ImageShape) -> Program:
    """Every view an image of its own: z ~ N(0, I) (Kingma and Welling, 2014)."""
    return _generative(config, image_shape, prior="standard")


Recipe = Callable[[FitConfig, ImageShape], Program]

METHODS: Mapping[str, Recipe] = {"simve": simve, "vae": vae}


def build(config: FitConfig, image_shape: ImageShape) -> Program:
    """Model, guide and objective for settings whose choices are made (`FitConfig.chosen_for`).

    Raises:
        ConfigError: an unknown name, or a part that does not fit.
    """
    if config.method not in METHODS:
        raise unknown_name("method", config.method, METHODS)
    return METHODS[config.method](config, image_shape)


def _generative(config: FitConfig, image_shape: ImageShape, prior: str) -> Program:
    """A decoder, a guide over the same latents, and the evidence lower bound."""
    latent = config.latent
    assert latent is not None
    assert config.decoder is not None
    assert config.encoder is not None
    assert config.likelihood is not None
    prior_part = make_part("prior", config.prior or prior, PRIORS, Prior, latent)
    decoder = make_part("decoder", config.decoder, DECODERS, nn.Module, latent, image_shape)
    likelihood = make_part("likelihood", config.likelihood, LIKELIHOODS, Likelihood, decoder)
    encoder = _with_features(
        make_part("encoder", config.encoder, ENCODERS, nn.Module, image_shape), config, image_shape
    )
    guide = make_part("guide", config.guide or "amortized", GUIDES, Guide, encoder, prior_part)
    model = SimVE(prior_part, likelihood)
    return Program(model, guide, ELBO(model, guide))


def _with_features(encoder: nn.Module, config: FitConfig, image_shape: ImageShape) -> nn.Module:
    """Tells the guide how wide a user's encoder is, by a trial pass where the encoder does not say."""
    if isinstance(getattr(encoder, "features", None), int):
        return encoder
    training = encoder.training
    try:
        with torch.no_grad():
            outputs = encoder.eval()(torch.zeros(2, *image_shape))
    except RuntimeError as error:
        raise ConfigError(
            f"--encoder {config.encoder} does not accept a batch of images of shape {tuple(image_shape)}: {error}"
        ) from error
    if outputs.ndim != 2:
        raise ConfigError(
            f"--encoder {config.encoder} must map images to (image, features), "
            f"got an output of shape {tuple(outputs.shape)}"
        )
    encoder.train(training)
    encoder.features = outputs.shape[1]
    return encoder
