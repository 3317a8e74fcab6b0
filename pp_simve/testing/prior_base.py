"""What the suite of priors is made of: how a prior is made, and latents, draws and answers of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from pp_simve.models import ConjugatePrior, Prior
from pp_simve.testing.checks import check, seeded, skip
from pp_simve.testing.latents import Values, answers_of, posteriors_of
from pp_simve.testing.quadrature import Grid, grid_for

# All different, so that no dimension passes for another.
PARTICLES, VIEWS, IMAGES = 5, 3, 4
# Tolerances in float64: of what differs by rounding only, and of a limit.
EXACT, LIMIT = 1e-7, 1e-4


class PriorChecks:
    """What each part of `PriorSuite` builds on; the attributes are described there."""

    proper: ClassVar[bool] = True
    independent_images: ClassVar[bool] = True
    latents: ClassVar[tuple[int, ...]] = (1, 2)

    def make(self, latent_dim: int) -> Prior:
        """A new prior of that many latent dimensions; where it starts at random, from the current random state."""
        raise NotImplementedError(f"{type(self).__name__} must define make(latent), which returns the prior to check")

    def _made(self, latent_dim: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Prior:
        """A prior in evaluation mode that was shown a batch, as guides do."""
        with seeded(seed):
            prior = self.make(latent_dim).to(dtype)
            prior.train()
            prior.remember(torch.randn(2, IMAGES + 2, latent_dim, dtype=dtype))
        prior.eval()
        content = prior.content()
        check(
            content.batch_shape == () and len(content.event_shape) == 1,
            f"content() has {shapes(content)}, expected batch () and one event dimension; is a .to_event(1) missing, "
            "or are there plates in it?",
        )
        return prior

    def _exact(self, latent_dim: int, kind: type[Any]) -> Any:
        """As `_made`; skips priors of another kind."""
        prior = self._made(latent_dim)
        if not isinstance(prior, kind):
            skip(f"{type(prior).__name__} is no {kind.__name__}")
        return prior

    def _contents(self, prior: Prior, plates: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        content = prior.content()
        with seeded(1):
            if self.proper:
                try:
                    return content.expand(plates).sample().detach()
                except NotImplementedError as error:
                    message = f"content() cannot be drawn ({error}); set proper = False if its density is improper"
                    raise AssertionError(message) from error
            return torch.randn(*plates, *content.event_shape, dtype=dtype)

    def _values(
        self,
        prior: Prior,
        leading: tuple[int, ...] = (),
        views: int = VIEWS,
        images: int = IMAGES,
        dtype: torch.dtype = torch.float64,
    ) -> Values:
        content = self._contents(prior, (*leading, 1, images), dtype)
        check_style(prior, content)
        with seeded(2):
            style = prior.style(content).expand((*leading, views, images)).sample().detach()
            z = prior.compose(content, style).detach()
            precision = torch.empty_like(z).uniform_(2.0, 20.0)
        return Values(content, style, z, precision)

    def _drawn(self, prior: Prior, values: Values) -> dict[str, Tensor]:
        """Draws of every distribution under a seed."""
        drawn = {}
        with seeded(8):
            if self.proper:
                drawn["content().sample()"] = prior.content().sample((IMAGES,))
            drawn["style(content).sample()"] = prior.style(values.content).sample()
            for call, posterior in posteriors_of(prior, values).items():
                drawn[f"{call}.sample()"] = posterior.sample()
            if isinstance(prior, ConjugatePrior):
                posterior = prior.style_posterior(values.content, values.z, values.precision)
                drawn["style_posterior(content, z, precision).sample()"] = posterior.sample()
        return drawn

    def _everything(self, prior: Prior, values: Values) -> dict[str, Tensor]:
        """Draws and answers."""
        return self._drawn(prior, values) | {name: answer.value for name, answer in answers_of(prior, values).items()}

    def _grids(
        self, kind: type[Any], views: tuple[int, ...], potentials: bool = False
    ) -> Iterator[tuple[Any, Values, Any, Grid]]:
        """A prior, latents of one image, content's posterior and a grid for it, wherever there is one."""
        found = False
        for latent_dim in self.latents:
            prior = self._exact(latent_dim, kind)
            for count in views:
                values = self._values(prior, views=count, images=1)
                posterior = prior.content_posterior(values.z, *([values.precision] if potentials else []))
                grid = grid_for(posterior)
                if grid is not None:
                    found = True
                    yield prior, values, posterior, grid
        if not found:
            skip("content has more than two dimensions for every latent in `latents`")


def shapes(distribution: Any) -> str:
    return f"batch {tuple(distribution.batch_shape)} and event {tuple(distribution.event_shape)}"


def check_style(prior: Prior, content: Tensor) -> None:
    """Checks that style given content is an event of one dimension, in plates that hold content's."""
    plates = content.shape[:-1]
    style = prior.style(content)
    try:
        held = torch.broadcast_shapes(style.batch_shape, plates) == plates
    except RuntimeError:
        held = False
    check(
        held and len(style.event_shape) == 1,
        f"style(content of shape {tuple(content.shape)}) has {shapes(style)}, expected batch {tuple(plates)} and one "
        "event dimension; is a .to_event(1) missing?",
    )
