"""NUTS for the latents of a few images, the model's parameters fixed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.poutine as poutine
import torch
from pyro.distributions import TorchDistribution
from pyro.infer.mcmc import NUTS
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn
from torch.distributions import biject_to

from pp_simve.inference.guides import Guide
from pp_simve.inference.sampling import draw
from pp_simve.inference.tools import frozen, random_state_kept
from pp_simve.inference.tracing import GROUP, PLATES, densities
from pp_simve.models import ExactPrior, PlainViews, SimVE, Views

GUIDE_DRAWS = 100
CURVATURE_DRAWS = 16
LEAST_CURVATURE = 1e-3
"""Relative to an image's largest, so that the scale of directions in which the density is flat stays finite."""

START_SPREAD = 2.0
"""Standard deviation of the starts in whitened coordinates: overdispersed, so that R-hat has a meaning."""

Array = np.ndarray[Any, Any]
ProgressBar = Callable[[int, int, int], None]
"""Called after each draw with the chain, its number of draws so far (warm-up included), and the total of each chain."""


@dataclass(frozen=True)
class MarkovChains:
    """Draws of the posterior by NUTS, and statistics of the sampler. A chain moves all images at once.

    Attributes:
        content: shape ``(chain, draw, image, content)``.
        style: shape ``(chain, draw, image, view, style)``; views counted over all modalities.
        z: shape ``(chain, draw, image, view, latent)``.
        diverging: draws whose trajectory diverged (an energy error above 1000 nats), bool ``(chain, draw)``: the
            sampler cannot enter a part of the posterior of some image.
        leapfrogs: leapfrog steps of each draw, ``(chain, draw)``, one gradient for all images each.
        acceptance: mean acceptance probability, ``(chain,)``, to three digits.
        step_size: after warm-up, ``(chain,)``.
        seconds: wall clock.
        settings: of the sampler.
    """

    content: Array
    style: Array
    z: Array
    diverging: Array
    leapfrogs: Array
    acceptance: Array
    step_size: Array
    seconds: float
    settings: dict[str, int | float | bool]


def nuts(
    model: SimVE,
    views: PlainViews,
    *,
    guide: Guide | None = None,
    draws: int = 500,
    warmup: int = 300,
    chains: int = 4,
    seed: int = 0,
    target_accept: float = 0.8,
    max_tree_depth: int = 10,
    progress: ProgressBar | None = None,
) -> MarkovChains:
    """Pyro's NUTS (Hoffman and Gelman 2014) on content and style of all images jointly.

    The target is the model's own program with its parameters fixed, in evaluation mode; given these, images are
    independent, and share no more than step size and trajectory lengths. Constrained content and style are sampled in
    unconstrained coordinates. Discrete content is summed out, and drawn from its exact conditional given z. The prior
    may be improper if the posterior is not.

    Args:
        model: with a likelihood of pixels. It is not changed.
        views: ``(view, image, channel, height, width)`` in [0, 1], or one such tensor per modality.
        guide: location and shape of each posterior (`Whitening`): a good one saves most of the warm-up and makes
            trajectories short, a bad one costs time; none changes the target. Without one, warm-up learns the scale of
            each axis.
        draws, warmup: of each chain.
        chains: from starts with twice the standard deviation that the whitening expects.
        seed: decides everything on one machine, for one batch of images. Torch's global generators are left as they
            were.
        target_accept: acceptance probability the step size is adapted to; raise it where draws diverge.
        max_tree_depth: trajectories have at most 2^depth − 1 steps.
        progress: called after each draw.

    Raises:
        ValueError: numbers too small; no likelihood of pixels; discrete content that cannot be summed out; a density
            that is not finite at a start.
    """
    settings: dict[str, int | float | bool] = {"draws": draws, "warmup": warmup, "chains": chains, "seed": seed}
    for name in ("draws", "warmup", "chains"):
        if settings[name] < 1:
            raise ValueError(f"{name} must be at least 1, got {settings[name]}")
    if not 0 < target_accept < 1:
        raise ValueError(f"target_accept must be between 0 and 1, got {target_accept}")
    model.likelihood_of(Views.of(views).modalities[0])  # raises if there is none
    like = Views.of(views).tensors()[0]
    started = time.perf_counter()
    with frozen(model), pyro.validation_enabled(False), poutine.block(), random_state_kept(like.device):
        target = Target(model, views)
        whitening = None if guide is None else Whitening.by_guide(model, guide, views, seed)

        def place(u: Tensor) -> Tensor:
            u = u.to(like.dtype)
            return u if whitening is None else whitening(u)

        def potential(at: dict[str, Tensor]) -> Tensor:
            # Summed in double precision: energies of many large images exceed single precision.
            return -target.log_density(place(at["u"])).double().sum()

        runs = []
        for chain in range(chains):
            torch.manual_seed(int(np.random.SeedSequence((seed, chain)).generate_state(1)[0]))
            start = START_SPREAD * torch.randn(target.images, target.size, dtype=torch.float64, device=like.device)
            kernel = NUTS(
                potential_fn=potential,
                adapt_mass_matrix=guide is None,
                target_accept_prob=target_accept,
                max_tree_depth=max_tree_depth,
            )
            runs.append(_run(kernel, potential, start, draws, warmup, partial(progress or (lambda *_: None), chain)))
        torch.manual_seed(seed)  # for content drawn given z
        with torch.no_grad():
            latents = [target.latents(place(run["u"])) for run in runs]
            content, style = (torch.stack(values) for values in zip(*latents, strict=True))
            z = model.prior.compose(content.unsqueeze(2), style)
    return MarkovChains(
        content=content.cpu().numpy(),
        style=style.movedim(2, 3).cpu().numpy(),
        z=z.movedim(2, 3).cpu().numpy(),
        **{name: np.array([run[name] for run in runs]) for name in runs[0] if name != "u"},
        seconds=time.perf_counter() - started,
        settings=settings
        | {"target_accept": target_accept, "max_tree_depth": max_tree_depth}
        | {"whitened": guide is not None, "content_summed_out": target.collapsed},
    )


def _run(
    kernel: NUTS,
    potential: Callable[[dict[str, Tensor]], Tensor],
    start: Tensor,
    draws: int,
    warmup: int,
    step: Callable[[int, int], None],
) -> dict[str, Any]:
    """One chain, by the kernel's own methods: `pyro.infer.MCMC` counts no leapfrog steps."""
    gradients = 0

    def counted(at: dict[str, Tensor]) -> Tensor:
        nonlocal gradients
        gradients += 1
        return potential(at)

    kernel.potential_fn = counted
    kernel.initial_params = at = {"u": start}
    if not torch.isfinite(potential(at)):
        raise ValueError(
            "log p(views, content, style) is not finite where a chain is to start; check that parameters are finite "
            "and that the prior's density reaches that far"
        )
    found, leapfrogs = [], []
    with torch.enable_grad():
        kernel.setup(warmup)
        for number in range(warmup + draws):
            before = gradients
            at = kernel.sample(at)
            if number >= warmup:
                found.append(at["u"].detach().clone())
                leapfrogs.append(gradients - before)
            step(number + 1, warmup + draws)
    diverging = np.zeros(draws, dtype=bool)
    diverging[kernel.diagnostics()["divergences"]] = True
    return {
        "u": torch.stack(found),
        "diverging": diverging,
        "leapfrogs": leapfrogs,
        "acceptance": float(kernel.logging()["acc. prob"]),
        "step_size": float(kernel.step_size),
    }


@dataclass(frozen=True)
class Whitening:
    """Affine map, coordinates = centre + map · u, under which each image's posterior is nearly N(0, I).

    Attributes:
        centre: shape ``(image, size)``.
        map: shape ``(image, size, size)``.
    """

    centre: Tensor
    map: Tensor

    def __call__(self, u: Tensor) -> Tensor:
        """Coordinates of u, shape ``(..., image, size)``."""
        return self.centre + (self.map @ u.unsqueeze(-1)).squeeze(-1)

    @classmethod
    def by_guide(cls, model: SimVE, guide: Guide, views: PlainViews, seed: int) -> Whitening:
        """From the curvature of the target at draws of the guide, whose mean is the centre.

        The covariance is the inverse of −∇² log p, averaged over `CURVATURE_DRAWS` draws: that of the Gaussian closest
        to the posterior, if the draws were the posterior's (Opper and Archambeau 2009). Unlike the covariance of the
        guide it includes the dependence of axes through the decoder. Directions in which the density is
        convex count by the size of their curvature (SoftAbs, Betancourt 2013).

        Raises:
            ValueError: a curvature that is not finite.
        """
        drawn = draw(model, guide, views, GUIDE_DRAWS, seed=seed)
        points = Target(model, views).coordinates(drawn.content, drawn.style)
        # One image after the other, because second derivatives take memory.
        curvature = torch.cat(
            [
                _curvature(Target(model, Views.of(views)[[image]].plain), points[:CURVATURE_DRAWS, [image]])
                for image in range(points.shape[1])
            ]
        )
        if not (torch.isfinite(curvature).all() and torch.isfinite(points).all()):
            raise ValueError(
                "log p(views, content, style) has no finite curvature at draws of the guide; check that parameters are "
                "finite and the guide stays within the prior's support, or leave the guide out"
            )
        values, vectors = torch.linalg.eigh((curvature + curvature.mT) / 2)
        size = values.abs()
        scale = size.clamp_min(LEAST_CURVATURE * size.amax(-1, keepdim=True)).rsqrt()
        return cls(points.mean(0), (vectors * scale.unsqueeze(-2)).to(points.dtype))


@torch.enable_grad()
def _curvature(target: Target, points: Tensor) -> Tensor:
    """−∇² log p averaged over points ``(point, image, size)``, shape ``(image, size, size)``, in double precision."""
    points = points.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(-target.log_density(points).sum(), points, create_graph=True)
    rows = [torch.autograd.grad(row.sum(), points, retain_graph=True)[0].mean(0) for row in gradient.unbind(-1)]
    return torch.stack(rows, -2).double()


class Target:
    """Log joint density of images' views and latents, by the model's own program, in unconstrained coordinates.

    The coordinates of an image are content and then the style of each view; what is constrained is mapped to the reals
    (biject_to) and the density includes the Jacobian. Discrete content is summed out: the coordinates are z of each
    view, and log p(views, z) = log p(views, content, style) − log p(content | z) for any content.

    Args:
        model: the program, frozen.
        views: ``(view, image, channel, height, width)``, or so by modality.

    Attributes:
        images: number of images.
        size: number of coordinates of an image.
        collapsed: whether content is summed out.

    Raises:
        ValueError: content is discrete and the prior has no ``content_posterior``, or content depends on the batch.
    """

    def __init__(self, model: SimVE, views: PlainViews) -> None:
        self.views, self.prior = views, model.prior
        # Without PyroModule's parameter statements, which would file every parameter in Pyro's global store.
        self._program: Any = partial(nn.Module.__call__, model)
        self._count, self.images = Views.of(views).n_views, Views.of(views).n_images
        if model.prior.depends_on_batch:
            raise ValueError(
                f"under {type(model.prior).__name__} of the batch an image's posterior depends on other images, "
                "and has no separate density; give the prior a memory"
            )
        of_content = model.prior.content()
        self.collapsed = is_discrete(of_content)
        if self.collapsed:
            if not isinstance(model.prior, ExactPrior):
                raise ValueError(
                    f"content of {type(model.prior).__name__} is discrete ({type(of_content).__name__}), which NUTS "
                    "cannot sample; derive the prior from ExactPrior, so that content can be summed out given z"
                )
            self.size = self._count * model.prior.latent_dim
            return
        like = Views.of(views).tensors()[0]
        self._to_content = biject_to(of_content.support)
        self._contents = torch.Size(self._to_content.inverse_shape(of_content.event_shape)).numel()
        of_style = model.prior.style(self._to_content(like.new_zeros(self._contents)))
        self._to_style = biject_to(of_style.support)
        self.size = (
            self._contents + self._count * torch.Size(self._to_style.inverse_shape(of_style.event_shape)).numel()
        )

    def log_density(self, coordinates: Tensor) -> Tensor:
        """Of coordinates ``(image, size)`` or ``(point, image, size)``: nats, without the last dimension."""
        if self.collapsed:
            z = self._by_view(coordinates)
            conditional = self._content_given(z)
            content = conditional.mode
            joint = self._joint(content, self.prior.decompose(content, z))
            return joint - conditional.log_prob(content).sum(-2)
        free_content, free_style, content, style = self._mapped(coordinates)
        volume = self._to_content.log_abs_det_jacobian(free_content, content).sum(-2)
        return self._joint(content, style) + volume + self._to_style.log_abs_det_jacobian(free_style, style).sum(-2)

    @torch.no_grad()
    def latents(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """Content ``(point, image, content)`` and style ``(point, view, image, style)`` of ``(point, image, size)``.

        Discrete content is drawn given z.
        """
        if self.collapsed:
            z = self._by_view(coordinates)
            content = self._content_given(z).sample()
            return content.squeeze(1), self.prior.decompose(content, z)
        *_, content, style = self._mapped(coordinates)
        return content.squeeze(1), style

    @torch.no_grad()
    def coordinates(self, content: Tensor, style: Tensor) -> Tensor:
        """The inverse of `latents`: shape ``(point, image, size)``."""
        if self.collapsed:
            return self.prior.compose(content.unsqueeze(1), style).movedim(1, 2).flatten(2)
        free = self._to_style.inv(style).movedim(1, 2).flatten(2)
        return torch.cat([self._to_content.inv(content), free], -1)

    def _mapped(self, coordinates: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Content ``(..., 1, image, content)`` and style ``(..., view, image, style)``: free, and constrained."""
        content = coordinates[..., : self._contents].unsqueeze(-3)
        style = self._by_view(coordinates[..., self._contents :])
        return content, style, self._to_content(content), self._to_style(style)

    def _by_view(self, values: Tensor) -> Tensor:
        """``(..., view, image, width)`` from ``(..., image, view · width)``."""
        return values.unflatten(-1, (self._count, -1)).movedim(-2, -3)

    def _content_given(self, z: Tensor) -> TorchDistribution:
        assert isinstance(self.prior, ExactPrior)
        return self.prior.content_posterior(z)

    def _joint(self, content: Tensor, style: Tensor) -> Tensor:
        points, program = style.shape[:-3], self._program
        if points:
            program = pyro.plate("particles", points[0], dim=-PLATES - 1)(program)
        else:
            content = content.squeeze(-3)
        held = poutine.condition(program, data={"content": content, "style": style})
        total = style.new_zeros(*points, self.images)
        for density in densities(prune_subsample_sites(poutine.trace(held).get_trace(self.views)), Trace()):
            if density.term != GROUP:  # a site of the batch, not of an image
                log_prob = density.log_prob.sum(-2) if density.log_prob.ndim > 1 else density.log_prob
                # Pyro's improper density is a zero on the CPU, wherever the others are.
                total = total + log_prob.to(total.device)
        return total


def is_discrete(content: TorchDistribution) -> bool:
    """Whether a distribution has points of positive probability, between which no gradient leads."""
    support = content.support
    return bool(content.has_enumerate_support or (support is not None and support.is_discrete))
