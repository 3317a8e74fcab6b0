"""MoCo against loops from the paper: keys of the copy, the queue of earlier ones, and its limits."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from pp_simve.inference import ELBO, DeltaGuide, Guide, MoCo
from pp_simve.models import FlatPrior, GroupLikelihood, InfoNCE, SimVE

from .programs import (
    DOUBLE,
    GROUPS,
    IMAGES,
    LATENT,
    SmoothEncoder,
    WithoutPixels,
    assert_same,
    draw_views,
    embeddings,
    on_sphere,
)

TEMPERATURE = 0.3


def make(group: type[GroupLikelihood] = InfoNCE, queue: int = 0, momentum: float = 0.9, **options: Any) -> Any:
    prior = FlatPrior(LATENT)
    model = SimVE(prior, group=group(TEMPERATURE, **options))
    return MoCo(model, DeltaGuide(SmoothEncoder(), prior), queue=queue, momentum=momentum).to(DOUBLE)


def moved(objective: Any) -> Any:
    """With a copy that is no longer the guide."""
    with torch.no_grad():
        for parameter in objective.target.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return objective


def by_loops(modality: str, queries: Tensor, keys: Tensor, queue: Tensor) -> Tensor:
    """−Σ over ordered pairs of views of equation 1, mean over images, of unit vectors."""
    views, images, _ = queries.shape
    total = torch.zeros((), dtype=DOUBLE)
    for image in range(images):
        for j in range(views):
            for i in (i for i in range(views) if i != j):
                others = [(i, b) for b in range(images) if b != image]
                if modality == "views":
                    others += [(v, b) for v in range(views) if v != i for b in range(images) if b != image]
                negatives = [keys[place] for place in others] + list(queue)
                # As densities: rows of the queue may have another norm than 1.
                logits = [
                    -(queries[j, image] - key).square().sum() / (2 * TEMPERATURE)
                    for key in [keys[i, image], *negatives]
                ]
                total = total - logits[0] + torch.stack(logits).logsumexp(0)
    return total / images


@pytest.mark.parametrize("queue", [0, 7])
@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("modality", GROUPS)
def test_it_is_the_equation_of_the_paper_with_keys_of_the_batch_beside_the_queue(
    modality: str, views: int, queue: int
) -> None:
    objective, batch = moved(make(GROUPS[modality], queue)).eval(), draw_views(views)
    terms = objective(batch)
    queries = on_sphere(embeddings(objective.guide, batch))
    keys = on_sphere(embeddings(objective.target[0], batch)).detach()
    expected = by_loops(modality, queries, keys, objective.queue)
    assert_same(terms["loss"], expected, list(objective.guide.parameters()))
    assert set(terms) == {"loss", "group"}
    assert not terms["group"].requires_grad


@pytest.mark.parametrize("modality", GROUPS)
def test_without_queue_and_with_keys_of_the_guide_it_is_the_group_likelihood(modality: str) -> None:
    objective, views = make(GROUPS[modality], momentum=0.0), draw_views(2)
    plain = ELBO(objective.model, objective.guide, beta=0)
    torch.testing.assert_close(objective(views)["loss"], plain(views)["loss"], rtol=1e-12, atol=1e-12)


def test_a_queue_of_the_batch_itself_adds_the_logarithm_of_two() -> None:
    """Of two equal views the queue doubles every candidate: log p falls by log 2 for each of the two."""
    objective, view = make(queue=IMAGES).eval(), draw_views(1)
    views = view.expand(2, *view.shape[1:])
    objective.queue = on_sphere(embeddings(objective.guide, view))[0].detach()
    plain = ELBO(objective.model, objective.guide, beta=0).eval()
    expected = plain(views)["loss"] + 2 * math.log(2)
    torch.testing.assert_close(objective(views)["loss"], expected, rtol=1e-12, atol=1e-12)


def test_keys_enter_the_queue_after_they_were_compared_and_in_training_only() -> None:
    objective, batches = make(queue=4 * IMAGES, projection=(5,)), [draw_views(2) for _ in range(3)]
    seen = []
    for views in batches:
        before = objective.queue
        objective(views)["loss"].backward()
        guide, group = objective.target
        seen.append(group.embed(embeddings(guide, views)).transpose(0, 1).flatten(0, 1).detach())
        assert not torch.equal(objective.queue, before)
    expected = torch.cat(seen[1:])
    torch.testing.assert_close(objective.queue.roll(-int(objective.start), 0), expected, rtol=1e-12, atol=1e-12)
    assert not objective.queue.requires_grad
    before = objective.queue
    objective.eval()(batches[0])
    assert objective.queue is before


def test_the_copy_follows_guide_and_projection_head() -> None:
    objective = make(momentum=0.5, projection=(5,))
    own = [*objective.guide.parameters(), *objective.model.group.parameters()]
    assert {id(one) for one in objective.parameters() if one.requires_grad} == {id(one) for one in own}
    with torch.no_grad():
        for parameter in own:
            parameter.add_(1.0)
    before = [parameter.clone() for parameter in objective.target.parameters()]
    objective(draw_views(2))
    for was, parameter in zip(before, objective.target.parameters(), strict=True):
        torch.testing.assert_close(parameter, was + 0.5)


# The suite that users run on theirs.


class TestSuite(WithoutPixels):
    additive: ClassVar[bool] = False  # images are compared with each other

    def make(self, model: SimVE, guide: Guide) -> nn.Module:
        return MoCo(SimVE(model.prior, group=InfoNCE()), guide, queue=8)
