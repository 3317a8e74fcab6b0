"""Named recipes: functions from settings to model, guide and objective. Every part of one can be replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pp_simve.data.types import DataShape, ImageShape
from pp_simve.errors import ConfigError, unknown_name
from pp_simve.inference import Guide, Objective
from pp_simve.models import GroupLikelihood, Likelihood, Prior, SimVE
from pp_simve.run.config import FitConfig
from pp_simve.run.parts import DECODERS, ENCODERS, GROUPS, GUIDES, LIKELIHOODS, OBJECTIVES, PRIORS, make_part
from pp_simve.run.viewing import is_vector, modalities_of, unwrapped

# With nothing to keep views apart, the batch norm of a projection head is what keeps z from collapsing.
NORMED = "delta(projection=[256])"
# Of vectors, whatever reads and draws the pictures beside them.
VECTOR_NETWORK = "mlp(hidden=[256])"


@dataclass(frozen=True)
class Program:
    """A matched model and guide, and what they are fitted by."""

    model: SimVE
    guide: Guide
    objective: Objective


def simve(config: FitConfig, shape: DataShape) -> Program:
    """Views share content and differ in style (Bizeul, Schölkopf, Allen, TMLR 2024)."""
    return _generative(config, shape, prior="gaussian")


def vae(config: FitConfig, shape: DataShape) -> Program:
    """Every view an image of its own: z ~ N(0, I) (Kingma and Welling 2014)."""
    return _generative(config, shape, prior="standard")


def beta_vae(config: FitConfig, shape: DataShape) -> Program:
    """A VAE whose divergence weighs more than its reconstruction (Higgins et al. 2017)."""
    return _generative(config, shape, prior="standard", objective="elbo(beta=4.0)")


def cr_vae(config: FitConfig, shape: DataShape) -> Program:
    """A VAE of images and their views, whose posteriors are to agree (Sinha and Dieng 2021)."""
    return _generative(config, shape, prior="standard", objective="consistency")


def aavae(config: FitConfig, shape: DataShape) -> Program:
    """The original image decoded from its views, which take the place of the divergence (Falcon et al. 2021)."""
    return _generative(config, shape, prior="standard", objective="denoising")


def iwae(config: FitConfig, shape: DataShape) -> Program:
    """A VAE fitted by the importance-weighted bound (Burda et al. 2016)."""
    return _generative(config, shape, prior="standard", objective="iwae(samples=8)")


def group_vae(config: FitConfig, shape: DataShape) -> Program:
    """Half of z the same for all views of an image, the evidence about it accumulated (Bouchacourt et al. 2018).

    The variance of 1e-4 stands for zero: content is the same up to a hundredth of its own standard deviation.
    """
    assert config.latent_dim is not None
    prior = f"block(content=gaussian(latent_dim={max(1, config.latent_dim // 2)}, style_variance=1e-4))"
    return _generative(config, shape, prior=prior, guide="structured")


def infonce(config: FitConfig, shape: DataShape) -> Program:
    """Tells an image's views from those of others, by points, in all directions (van den Oord et al. 2018)."""
    return _discriminative(config, shape, group="images")


def simclr(config: FitConfig, shape: DataShape) -> Program:
    """The same among all other views of the batch: NT-Xent (Chen et al. 2020)."""
    return _discriminative(config, shape, group="views")


def clip(config: FitConfig, shape: DataShape) -> Program:
    """Which views of two modalities belong together: one encoder each, learned temperature (Radford et al. 2021)."""
    return _discriminative(config, shape, group="images(temperature=0.07, learn_temperature=True)")


def vicreg(config: FitConfig, shape: DataShape) -> Program:
    """Views agree, axes vary and do not covary (Bardes et al. 2022); the flat prior's variance is its invariance."""
    assert config.latent_dim is not None
    prior = f"flat(style_variance={config.latent_dim / (4 * 25.0)})"
    return _program(config, shape, None, prior=prior, guide="delta", objective="implied(entropy=vicreg())", group=None)


def swav(config: FitConfig, shape: DataShape) -> Program:
    """A view predicts which prototype another view was assigned to, all getting equal shares (Caron et al. 2020)."""
    return _program(
        config,
        shape,
        None,
        prior="mixture(prototypes=100, unit_norm=True, style_variance=0.1)",
        guide="delta(unit_norm=True)",
        objective="swapped",
        group=None,
    )


def instance(config: FitConfig, shape: DataShape) -> Program:
    """Each training image a class of its own, its prototype what was last seen of it (Wu et al. 2018)."""
    bank = f"prototypes={max(1, shape.images)}, learn_prototypes=False, unit_norm=True, style_variance=0.07"
    return _program(
        config,
        shape,
        None,
        prior=f"mixture({bank})",
        guide="delta(unit_norm=True)",
        objective="instances",
        group=None,
    )


def barlow(config: FitConfig, shape: DataShape) -> Program:
    """Standardised axes correlate with themselves across views, and with no other (Zbontar et al. 2021)."""
    return _program(config, shape, None, prior="flat", guide="delta", objective="correlation", group=None)


def simsiam(config: FitConfig, shape: DataShape) -> Program:
    """A view predicts the other's embedding, which is held fixed (Chen and He 2021)."""
    return _program(config, shape, None, prior="flat", guide=NORMED, objective="bootstrap", group=None)


def byol(config: FitConfig, shape: DataShape) -> Program:
    """A view predicts the other's embedding by a slower copy of the guide (Grill et al. 2020)."""
    objective = "bootstrap(momentum=0.99)"
    return _program(config, shape, None, prior="flat", guide=NORMED, objective=objective, group=None)


def bridge(config: FitConfig, shape: DataShape) -> Program:
    """Pixels and groups both observed: SimVE, whose first half of z also tells images apart."""
    assert config.latent_dim is not None
    width = max(1, config.latent_dim // 2)
    return _generative(
        config,
        shape,
        prior=f"block(content={width})",
        group=f"views(width={width})",
        objective="elbo(alpha=20.0)",
    )


Recipe = Callable[[FitConfig, DataShape], Program]

METHODS: Mapping[str, Recipe] = {
    "simve": simve,
    "vae": vae,
    "beta-vae": beta_vae,
    "cr-vae": cr_vae,
    "aavae": aavae,
    "iwae": iwae,
    "group-vae": group_vae,
    "infonce": infonce,
    "simclr": simclr,
    "clip": clip,
    "vicreg": vicreg,
    "swav": swav,
    "instance": instance,
    "barlow": barlow,
    "simsiam": simsiam,
    "byol": byol,
    "bridge": bridge,
}


def build(config: FitConfig, shape: DataShape) -> Program:
    """Model, guide and objective for settings whose choices are made (`FitConfig.chosen_for`).

    Raises:
        ConfigError: an unknown name, or a part that does not fit.
    """
    if config.method not in METHODS:
        raise unknown_name("method", config.method, METHODS)
    return METHODS[config.method](config, shape)


def _generative(
    config: FitConfig,
    shape: DataShape,
    *,
    prior: str,
    guide: str = "amortized",
    objective: str = "elbo",
    group: str | None = None,
) -> Program:
    """A decoder, a guide over the same latents, and a bound; the settings' own parts come before the method's."""
    shapes = _shapes(config, shape)
    likelihoods = {modality: _likelihood(config, of_modality) for modality, of_modality in shapes.items()}
    return _program(config, shape, unwrapped(likelihoods), prior=prior, guide=guide, objective=objective, group=group)


def _shapes(config: FitConfig, shape: DataShape) -> dict[str | None, ImageShape]:
    """Shapes of the modalities; without modalities the only modality is called None."""
    modalities = modalities_of(config)
    return {None: shape.image} if modalities is None else dict(modalities.shapes(shape).items())


def _likelihood(config: FitConfig, shape: ImageShape) -> Likelihood:
    assert config.latent_dim is not None
    assert config.decoder is not None
    assert config.likelihood is not None
    decoder_text = VECTOR_NETWORK if is_vector(shape) else config.decoder
    decoder = make_part("decoder", decoder_text, DECODERS, nn.Module, config.latent_dim, shape)
    likelihood_text = "bernoulli" if is_vector(shape) else config.likelihood
    likelihood = make_part("likelihood", likelihood_text, LIKELIHOODS, Likelihood, decoder)
    _check_images(likelihood, config, config.latent_dim, shape)
    return likelihood


def _encoder(config: FitConfig, shape: ImageShape) -> nn.Module:
    assert config.encoder is not None
    text = VECTOR_NETWORK if is_vector(shape) else config.encoder
    return _with_features(make_part("encoder", text, ENCODERS, nn.Module, shape), config, shape)


def _discriminative(config: FitConfig, shape: DataShape, *, group: str) -> Program:
    """No pixels, only groups: the limit of the bridge for a guide without noise and a group term that outweighs all."""
    objective = "elbo(beta=0.0)"
    return _program(config, shape, None, prior="flat", guide="delta", objective=objective, group=group)


def _program(
    config: FitConfig,
    shape: DataShape,
    likelihood: Likelihood | dict[str, Likelihood] | None,
    *,
    prior: str,
    guide: str,
    objective: str,
    group: str | None,
) -> Program:
    """The parts put together; the settings' own come before the method's."""
    assert config.latent_dim is not None
    prior_part = make_part("prior", config.prior or prior, PRIORS, Prior, config.latent_dim)
    group = config.group or group
    group_part = make_part("group", group, GROUPS, GroupLikelihood) if group else None
    model = SimVE(prior_part, likelihood, group_part)
    encoders = {modality: _encoder(config, of_modality) for modality, of_modality in _shapes(config, shape).items()}
    guide_part = make_part("guide", config.guide or guide, GUIDES, Guide, unwrapped(encoders), prior_part)
    objective_part = make_part("objective", config.objective or objective, OBJECTIVES, Objective, model, guide_part)
    return Program(model, guide_part, objective_part)


def _check_images(likelihood: Likelihood, config: FitConfig, latent_dim: int, image_shape: ImageShape) -> None:
    """Refuses a user's decoder or likelihood that makes other images than the data's, by a trial pass."""
    parts = f"--likelihood {config.likelihood} with --decoder {config.decoder}"
    training = likelihood.training
    try:
        with torch.no_grad():
            images = likelihood.eval()(torch.zeros(2, latent_dim))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"{parts} does not accept latents of shape (2, {latent_dim}): {error}") from error
    likelihood.train(training)
    if tuple(images.batch_shape) != (2,):
        raise ConfigError(
            f"{parts} must be a distribution with one event over a whole image, batch shape (2,) for 2 latents; "
            f"got batch shape {tuple(images.batch_shape)}, event shape {tuple(images.event_shape)}"
        )
    if tuple(images.event_shape) != tuple(image_shape):
        raise ConfigError(
            f"{parts} makes images of shape {tuple(images.event_shape)}, but those of the data are {tuple(image_shape)}"
        )


def _with_features(encoder: nn.Module, config: FitConfig, image_shape: ImageShape) -> nn.Module:
    """An encoder that tells the guide how wide it is: a user's own that does not say is asked by a trial pass."""
    if isinstance(getattr(encoder, "features", None), int):
        return encoder
    training = encoder.training
    try:
        with torch.no_grad():
            outputs = encoder.eval()(torch.zeros(2, *image_shape))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"--encoder {config.encoder} does not accept a batch of images of shape {tuple(image_shape)}: {error}"
        ) from error
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != 2:
        got = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"type {type(outputs).__name__}"
        raise ConfigError(
            f"--encoder {config.encoder} must map 2 images to an output of shape (2, features), got {got}"
        )
    # The width is set on a wrapper, because `features` may be the name of one of the encoder's own layers.
    measured = nn.Sequential(encoder.train(training))
    measured.features = outputs.shape[1]  # type: ignore[assignment]
    return measured
