"""Methods by name: the recipe of each, and the program that settings build from it. Every part can be replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pp_simve.data.types import DataShape, ImageShape
from pp_simve.errors import ConfigError, unknown_name
from pp_simve.inference import (
    BYOL,
    ELBO,
    IWAE,
    AmortizedGuide,
    Balanced,
    BarlowTwins,
    ConsistencyELBO,
    DecoderFreeELBO,
    DeltaGuide,
    DenoisingELBO,
    Guide,
    InstanceDiscrimination,
    MLPEncoder,
    MoCo,
    Objective,
    StructuredGuide,
    SwAV,
    VICRegEntropy,
)
from pp_simve.models import (
    Bernoulli,
    BlockPrior,
    FlatPrior,
    GaussianPrior,
    GroupLikelihood,
    InfoNCE,
    Likelihood,
    MixturePrior,
    MLPDecoder,
    NTXent,
    Prior,
    SimVE,
    StandardPrior,
)
from pp_simve.run.config import FROM_PYTHON, Settings, is_own
from pp_simve.run.named_parts import (
    DECODERS,
    ENCODERS,
    GROUPS,
    GUIDES,
    LIKELIHOODS,
    OBJECTIVES,
    PRIORS,
    REFUSALS,
    Named,
    call_own,
    make_part,
)
from pp_simve.run.viewing import by_modality, is_vector, shapes_of

T = TypeVar("T")


@dataclass(frozen=True)
class Program:
    """A matched model and guide, and what they are fitted by."""

    model: SimVE
    guide: Guide
    objective: nn.Module


@dataclass(frozen=True)
class Recipe:
    """The parts of a method. Each is built when the program is, unless the settings name another in its place.

    Attributes:
        prior: from the latent dimensions.
        guide: from an encoder (or one a modality) and the prior.
        objective: from model and guide.
        group: the group likelihood, if the group is observed.
        pixels: whether the pixels are observed; without them there is no decoder.
    """

    prior: Callable[[int], Prior]
    guide: Callable[[Any, Any], Guide] = AmortizedGuide
    objective: Callable[[SimVE, Guide], Objective] = ELBO
    group: Callable[[], GroupLikelihood] | None = None
    pixels: bool = True


def simve(settings: Settings, shape: DataShape) -> Recipe:
    """Views share content and differ in style (Bizeul, Schölkopf, Allen, TMLR 2024)."""
    return Recipe(GaussianPrior)


def vae(settings: Settings, shape: DataShape) -> Recipe:
    """Every view an image by itself: z ~ N(0, I) (Kingma and Welling 2014)."""
    return Recipe(StandardPrior)


def beta_vae(settings: Settings, shape: DataShape) -> Recipe:
    """A VAE whose divergence weighs more than its reconstruction (Higgins et al. 2017)."""
    return Recipe(StandardPrior, objective=partial(ELBO, beta=4.0))


def cr_vae(settings: Settings, shape: DataShape) -> Recipe:
    """A VAE of images and their views, whose posteriors are to agree (Sinha and Dieng 2021)."""
    return Recipe(StandardPrior, objective=ConsistencyELBO)


def aavae(settings: Settings, shape: DataShape) -> Recipe:
    """The original image decoded from its views, which take the place of the divergence (Falcon et al. 2021)."""
    return Recipe(StandardPrior, objective=DenoisingELBO)


def iwae(settings: Settings, shape: DataShape) -> Recipe:
    """A VAE fitted by the importance-weighted bound (Burda et al. 2016)."""
    return Recipe(StandardPrior, objective=partial(IWAE, samples=8))


def group_vae(settings: Settings, shape: DataShape) -> Recipe:
    """Half of z the same for all views of an image, the evidence about it accumulated (Bouchacourt et al. 2018).

    The variance of 1e-4 stands for zero: content is the same up to a hundredth of its own standard deviation.
    """
    content = GaussianPrior(_half(settings), style_variance=1e-4)
    return Recipe(partial(BlockPrior, content=content), StructuredGuide)


def infonce(settings: Settings, shape: DataShape) -> Recipe:
    """Tells an image's views from those of others, by points, in all directions (van den Oord et al. 2018)."""
    return _contrastive(InfoNCE)


def simclr(settings: Settings, shape: DataShape) -> Recipe:
    """The same among all other views of the batch: NT-Xent (Chen et al. 2020)."""
    return _contrastive(NTXent)


def clip(settings: Settings, shape: DataShape) -> Recipe:
    """Which views of two modalities belong together: one encoder each, learned temperature (Radford et al. 2021)."""
    return _contrastive(partial(InfoNCE, temperature=0.07, learn_temperature=True))


def moco(settings: Settings, shape: DataShape) -> Recipe:
    """The same as infonce, among keys of a slower copy of the guide and a queue of earlier ones (He et al. 2020)."""
    return Recipe(FlatPrior, DeltaGuide, MoCo, InfoNCE, pixels=False)


def vicreg(settings: Settings, shape: DataShape) -> Recipe:
    """Views agree, axes vary and do not covary (Bardes et al. 2022); the flat prior's variance is its invariance."""
    prior = partial(FlatPrior, style_variance=settings.latent_dim / (4 * 25.0))
    return Recipe(prior, DeltaGuide, partial(DecoderFreeELBO, entropy=VICRegEntropy()), pixels=False)


def swav(settings: Settings, shape: DataShape) -> Recipe:
    """A view predicts which prototype another view was assigned to, all getting equal shares (Caron et al. 2020)."""
    prior = partial(MixturePrior, prototypes=100, unit_norm=True, style_variance=0.1)
    return Recipe(prior, partial(DeltaGuide, unit_norm=True), SwAV, pixels=False)


def instance(settings: Settings, shape: DataShape) -> Recipe:
    """Each training image a class by itself, its prototype its last embedding (Wu et al. 2018)."""
    images = max(1, shape.images)
    prior = partial(MixturePrior, prototypes=images, learn_prototypes=False, unit_norm=True, style_variance=0.07)
    return Recipe(prior, partial(DeltaGuide, unit_norm=True), InstanceDiscrimination, pixels=False)


def barlow(settings: Settings, shape: DataShape) -> Recipe:
    """Standardised axes correlate with themselves across views, and with no other (Zbontar et al. 2021)."""
    return Recipe(FlatPrior, DeltaGuide, BarlowTwins, pixels=False)


def simsiam(settings: Settings, shape: DataShape) -> Recipe:
    """A view predicts the other's embedding, which is held fixed (Chen and He 2021)."""
    return Recipe(FlatPrior, PROJECTED, BYOL, pixels=False)


def byol(settings: Settings, shape: DataShape) -> Recipe:
    """A view predicts the other's embedding by a slower copy of the guide (Grill et al. 2020)."""
    return Recipe(FlatPrior, PROJECTED, partial(BYOL, momentum=0.99), pixels=False)


def bridge(settings: Settings, shape: DataShape) -> Recipe:
    """Pixels and groups both observed: SimVE, whose backbone and first half of z also tell images apart.

    The ELBO's gradient at the backbone is held at a fixed ratio to the group's, and each group term has a projection
    head, so the settings are the same for grey and colour images. Encoders per modality have no joint backbone: there
    the group is observed from z alone.
    """
    width, head = _half(settings), [256]
    balance = partial(ELBO, alpha=Balanced())
    if not settings.modalities:
        balance = partial(balance, backbone=NTXent(projection=head))
    return Recipe(
        partial(BlockPrior, content=width),
        objective=balance,
        group=partial(NTXent, width=width, projection=head),
    )


# With nothing to keep views apart, the batch norm of a projection head is what keeps z from collapsing.
PROJECTED = partial(DeltaGuide, projection=[256])

RECIPES = (
    *(simve, vae, beta_vae, cr_vae, aavae, iwae, group_vae),
    *(infonce, simclr, clip, moco, vicreg, swav, instance, barlow, simsiam, byol, bridge),
)
METHODS: Mapping[str, Callable[[Settings, DataShape], Recipe]] = {
    recipe.__name__.replace("_", "-"): recipe for recipe in RECIPES
}
"""Recipes by the name of the method."""


def build(settings: Settings, shape: DataShape) -> Program:
    """Model, guide and objective of the settings' method, with the parts that the settings name in place of its own.

    Raises:
        ConfigError: an unknown name, or a part that does not fit.
    """
    shapes = shapes_of(settings, shape)
    if settings.method == FROM_PYTHON and not settings.optimizer:  # with one it was typed
        raise ConfigError(
            "the run's programs were built in Python, and how is not stored: pass them, load_run(path, model=..., "
            "guide=...), or save the run with build=, a function of the image shape in a module of yours"
        )
    if is_own(settings.method):
        return own_program(settings.method, shapes)
    if settings.method not in METHODS:
        raise ConfigError(
            unknown_name("method", settings.method, METHODS, also=", or your own package.module:function")
        )
    recipe = METHODS[settings.method](settings, shape)

    def part(flag: str, default: Callable[..., T], named: Named[T], kind: Any, *built: Any) -> T:
        if text := getattr(settings, flag):
            return make_part(flag, text, named, kind, *built)
        try:
            return default(*built)
        except REFUSALS as error:
            raise ConfigError(f"the {flag} of --method {settings.method}: {error}") from error

    likelihoods = by_modality(partial(_likelihood, settings), shapes) if recipe.pixels else None
    prior = part("prior", recipe.prior, PRIORS, Prior, settings.latent_dim)
    observes_group = settings.group or recipe.group
    group = part("group", recipe.group or NTXent, GROUPS, GroupLikelihood) if observes_group else None
    try:
        model = SimVE(prior, likelihoods, group)
    except ValueError as error:
        raise ConfigError(f"the prior, likelihood and group of --method {settings.method}: {error}") from error
    encoders = by_modality(partial(_encoder, settings), shapes)
    guide = part("guide", recipe.guide, GUIDES, Guide, encoders, prior)
    return Program(model, guide, part("objective", recipe.objective, OBJECTIVES, Objective, model, guide))


def own_program(text: str, shapes: ImageShape | Mapping[str, ImageShape]) -> Program:
    """The program of a user's own function, ``package.module:function``, of the image shape (or shapes by modality).

    Raises:
        ConfigError: the function cannot be imported, fails, or returns something else than model and guide.
    """
    built = call_own("method", text, image_shape=shapes)
    kinds = tuple(map(type, built)) if isinstance(built, tuple) else ()
    if not all(map(issubclass, kinds, (SimVE, Guide, nn.Module))) or len(kinds) not in (2, 3):
        got = ", ".join(kind.__name__ for kind in kinds) or type(built).__name__
        raise ConfigError(f"--method {text} must return (SimVE, Guide) or (SimVE, Guide, objective), got {got}")
    model, guide, *objective = built
    return Program(model, guide, objective[0] if objective else ELBO(model, guide))


def _contrastive(group: Callable[[], GroupLikelihood]) -> Recipe:
    """No pixels, only groups: the limit of the bridge for a guide without noise and a group term that outweighs all."""
    return Recipe(FlatPrior, DeltaGuide, partial(ELBO, beta=0.0), group, pixels=False)


def _half(settings: Settings) -> int:
    return max(1, settings.latent_dim // 2)


def _likelihood(settings: Settings, shape: ImageShape) -> Likelihood:
    """Of images of one modality; vectors, whose entries are black or white, have an MLP and Bernoulli likelihoods."""
    if is_vector(shape):
        return Bernoulli(MLPDecoder(settings.latent_dim, shape, hidden=[256]))
    decoder = make_part("decoder", settings.decoder, DECODERS, nn.Module, settings.latent_dim, shape)
    likelihood = make_part("likelihood", settings.likelihood, LIKELIHOODS, Likelihood, decoder)
    parts = f"--likelihood {settings.likelihood} with --decoder {settings.decoder}"
    images = _tried(likelihood, (2, settings.latent_dim), f"{parts} does not accept latents of shape")
    if tuple(images.batch_shape) != (2,):
        raise ConfigError(
            f"{parts} must be a distribution with one event over a whole image, batch shape (2,) for 2 latents; "
            f"got batch shape {tuple(images.batch_shape)}, event shape {tuple(images.event_shape)}"
        )
    if tuple(images.event_shape) != shape:
        raise ConfigError(
            f"{parts} makes images of shape {tuple(images.event_shape)}, but those of the data are {shape}"
        )
    return likelihood


def _encoder(settings: Settings, shape: ImageShape) -> nn.Module:
    """Of images of one modality; vectors have an MLP. The width of a user's own is measured if it has no `features`."""
    if is_vector(shape):
        return MLPEncoder(shape, hidden=[256])
    encoder = make_part("encoder", settings.encoder, ENCODERS, nn.Module, shape)
    if isinstance(getattr(encoder, "features", None), int):
        return encoder
    outputs = _tried(encoder, (2, *shape), f"--encoder {settings.encoder} does not accept a batch of images of shape")
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != 2:
        got = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"type {type(outputs).__name__}"
        raise ConfigError(
            f"--encoder {settings.encoder} must map 2 images to an output of shape (2, features), got {got}"
        )
    # The width is set on a wrapper, because `features` may be the name of one of the encoder's own layers.
    measured = nn.Sequential(encoder)
    measured.features = outputs.shape[1]  # type: ignore[assignment]  # not a tensor
    return measured


def _tried(module: nn.Module, shape: tuple[int, ...], refused: str) -> Any:
    """The output of a user's module for zeros of a shape, in evaluation mode: nothing of it changes."""
    training = module.training
    try:
        with torch.no_grad():
            return module.eval()(torch.zeros(shape))
    except REFUSALS as error:
        raise ConfigError(f"{refused} {shape}: {error}") from error
    finally:
        module.train(training)
