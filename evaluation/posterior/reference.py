"""A reference: the posterior of a few images by Hamiltonian Monte Carlo, with model and decoder fixed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor

from pp_simve.evaluation.posterior.chain import Chain, ChainSettings, run_chain
from pp_simve.evaluation.posterior.coordinates import Whitening
from pp_simve.evaluation.posterior.lockstep import Answer, Lockstep
from pp_simve.evaluation.posterior.mixing import Array, worst_axis
from pp_simve.evaluation.posterior.target import Target
from pp_simve.inference import Guide, draw
from pp_simve.inference.tools import frozen, random_state_kept
from pp_simve.models import SimVE
from pp_simve.models.modalities import PlainViews as Views
from pp_simve.models.modalities import some_images, view_and_image_counts

GUIDE_DRAWS = 100
CURVATURE_DRAWS = 16
START_SPREAD = 2.0
"""Of the chains' starts, in standard deviations of what is expected: wider, so that chains which agree have moved."""

LARGEST_RHAT = 1.05

ProgressBar = Callable[[int, int, int, int], None]
"""Told of each draw: image, chain, draw (from 1, warm-up included), and how many draws a chain has. Chains take turns,
each in a thread of its own."""


@dataclass(frozen=True)
class Reference:
    """Draws of the posterior by NUTS, and whether to believe them.

    Attributes:
        content: shape ``(chain, draw, image, content)``.
        style: shape ``(chain, draw, image, view, style)``; views counted over all modalities.
        z: shape ``(chain, draw, image, view, latent)``.
        diverging: draws whose trajectory lost its energy, bool ``(chain, draw, image)``. Some of them: the sampler
            cannot enter a part of the posterior.
        leapfrogs: gradients each draw took, ``(chain, draw, image)``.
        acceptance: mean acceptance probability, ``(chain, image)``, to three digits.
        step_size: after warm-up, ``(chain, image)``.
        rhat: of the worst axis of content and style, or of z where content is discrete, ``(image,)``. Near 1 where
            chains from different starts agree; it cannot see a mode that no chain has found.
        ess: effective draws of the worst axis, over all chains, ``(image,)``: means are known to sd / √ess.
        seconds: wall clock of all images together.
        settings: of the sampler.
    """

    content: Array
    style: Array
    z: Array
    diverging: Array
    leapfrogs: Array
    acceptance: Array
    step_size: Array
    rhat: Array
    ess: Array
    seconds: float
    settings: dict[str, int | float | bool]

    @property
    def tree_depth(self) -> Array:
        """How often each draw's trajectory was doubled, ``(chain, draw, image)``."""
        depth: Array = np.ceil(np.log2(self.leapfrogs + 1)).astype(np.int64)
        return depth

    @property
    def converged(self) -> Array:
        """Images whose R-hat is at most `LARGEST_RHAT` and of whose draws none diverged, bool ``(image,)``."""
        good: Array = (self.rhat <= LARGEST_RHAT) & ~self.diverging.any((0, 1))
        return good


def nuts_reference(
    model: SimVE,
    views: Views,
    *,
    guide: Guide | None = None,
    draws: int = 500,
    warmup: int = 300,
    chains: int = 4,
    seed: int = 0,
    target_accept: float = 0.8,
    max_tree_depth: int = 10,
    progress: ProgressBar | None = None,
) -> Reference:
    """Pyro's NUTS (Hoffman and Gelman 2014) on content and style of each image, apart from the others.

    The target is the model's own program with its parameters fixed, in evaluation mode. Constrained content and style
    are sampled in unconstrained coordinates. Discrete content is summed out, and drawn from its exact conditional given
    z. The prior may be improper if the posterior is not.

    Chains of all images run side by side, so that their gradients can be computed together (`Lockstep`).

    Args:
        model: in which pixels are modelled. It is left as it was.
        views: ``(view, image, channel, height, width)`` in [0, 1], or one such tensor per modality.
        guide: says where each posterior lies, and so how it is shaped (`Whitening`): a good one saves most of the
            warm-up and makes trajectories short, a bad one costs time; none changes the target. Without one the sampler
            learns the scale of each axis.
        draws, warmup: of each chain.
        chains: of each image, from starts twice as far apart as the posterior is expected to be wide.
        seed: decides all, on one machine and for one batch of images (rounding depends on it). Torch's own generators
            are left as they were.
        target_accept: acceptance probability the step size is adapted to; raise it where draws diverge.
        max_tree_depth: trajectories have at most 2^depth − 1 steps.
        progress: told of each draw.

    Raises:
        ValueError: numbers too small; pixels are not modelled; discrete content that cannot be summed out; a density
            that is not finite where a chain is to start.
    """
    for name, number, least in (("draws", draws, 4), ("warmup", warmup, 1), ("chains", chains, 1)):
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")
    if not 0 < target_accept < 1:
        raise ValueError(f"target_accept must be between 0 and 1, got {target_accept}")
    model.likelihood_of(None if isinstance(views, Tensor) else next(iter(views)))  # says so if there is none
    _, images = view_and_image_counts(views)
    like = views if isinstance(views, Tensor) else next(iter(views.values()))
    started = time.perf_counter()
    settings = ChainSettings(draws, warmup, target_accept, max_tree_depth, adapt_scales=guide is None)
    with frozen(model), pyro.validation_enabled(False), poutine.block(), random_state_kept(like.device):
        target = Target(model, views)
        whitening = Whitening.none(images, target.size, like)
        if guide is not None:
            whitening = _whitening(model, guide, views, seed)
        places = [(image, chain) for image in range(images) for chain in range(chains)]
        steps = [partial(progress, *place) if progress else lambda *_: None for place in places]
        found = Lockstep(
            [_sampler(settings, like.new_empty(target.size), step) for step in steps],
            _Potential(model, views, whitening, [image for image, _ in places]),
            [int(np.random.SeedSequence((seed, *place)).generate_state(1)[0]) for place in places],
            like.device,
        ).run()
        by_chain = [found[chain::chains] for chain in range(chains)]
        torch.manual_seed(seed)  # for content that is drawn given z
        with torch.no_grad():
            latents = [target.latents(whitening(torch.stack([run.u for run in runs], 1))) for runs in by_chain]
            content, style = (torch.stack(values) for values in zip(*latents, strict=True))
            z = model.prior.compose(content.unsqueeze(2), style)
    style, z = style.movedim(2, 3), z.movedim(2, 3)
    moved = z.flatten(3) if target.collapsed else torch.cat([content, style.flatten(3)], -1)
    rhat, ess = worst_axis(moved.cpu().numpy())
    return Reference(
        content=content.cpu().numpy(),
        style=style.cpu().numpy(),
        z=z.cpu().numpy(),
        diverging=np.stack([np.stack([run.diverging.numpy() for run in runs], 1) for runs in by_chain]),
        leapfrogs=np.stack([np.stack([run.leapfrogs.numpy() for run in runs], 1) for runs in by_chain]),
        acceptance=np.array([[run.acceptance for run in runs] for runs in by_chain]),
        step_size=np.array([[run.step_size for run in runs] for runs in by_chain]),
        rhat=rhat,
        ess=ess,
        seconds=time.perf_counter() - started,
        settings={
            "draws": draws,
            "warmup": warmup,
            "chains": chains,
            "seed": seed,
            "target_accept": target_accept,
            "max_tree_depth": max_tree_depth,
            "whitened": guide is not None,
            "content_summed_out": target.collapsed,
        },
    )


class _Potential:
    """−log p of the chains that ask, and its gradient, at points in whitened coordinates.

    Args:
        images: of which each chain is.
    """

    def __init__(self, model: SimVE, views: Views, whitening: Whitening, images: list[int]) -> None:
        @lru_cache(maxsize=1)  # the same chains ask again, until one of them has ended
        def of_chains(chains: tuple[int, ...]) -> tuple[Target, Whitening]:
            asking = [images[chain] for chain in chains]
            return Target(model, some_images(views, asking)), whitening.of(asking)

        self._of_chains = of_chains

    def __call__(self, chains: tuple[int, ...], points: Tensor) -> Answer:
        target, whitening = self._of_chains(chains)
        with torch.enable_grad():
            points = points.requires_grad_()
            values = -target.log_density(whitening(points))
            (gradients,) = torch.autograd.grad(values.sum(), points)
        return values.detach(), gradients


def _sampler(settings: ChainSettings, like: Tensor, step: Callable[[int, int], None]) -> Callable[..., Chain]:
    total = settings.warmup + settings.draws

    def run(ask: Callable[[Tensor], Answer]) -> Chain:
        start = START_SPREAD * torch.randn_like(like)
        return run_chain(ask, start, settings, lambda number: step(number, total))

    return run


def _whitening(model: SimVE, guide: Guide, views: Views, seed: int) -> Whitening:
    """By the draws of a guide. Curvatures take memory: they are found one image after the other."""
    drawn = draw(model, guide, views, GUIDE_DRAWS, seed=seed)
    points = Target(model, views).coordinates(drawn.content, drawn.style)
    parts = []
    with torch.enable_grad():
        for image in range(points.shape[1]):
            alone = Target(model, some_images(views, [image]))
            parts.append(Whitening.around(alone, points[:, [image]], CURVATURE_DRAWS))
    whitening = Whitening(*(torch.cat([getattr(part, name) for part in parts]) for name in ("centre", "map")))
    if not torch.isfinite(whitening.map).all() or not torch.isfinite(whitening.centre).all():
        raise ValueError(
            "log p(views, content, style) has no finite curvature at draws of the guide; see that parameters are "
            "finite and the guide stays within the prior's support, or leave the guide out"
        )
    return whitening
