"""Training loop: gradient steps on views drawn on the device, and the state from which any step can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Tensor, nn

from pp_simve.inference.data import Source
from pp_simve.inference.metrics import MetricBuffer
from pp_simve.inference.plan import Plan
from pp_simve.inference.schedules import annealed_parts
from pp_simve.inference.tools import random_state_kept
from pp_simve.models import PlainViews

if TYPE_CHECKING:  # only `fit` needs it, and it takes as long to import as torch itself
    from lightning_fabric import Fabric

# Pyro's checks are on for the first step only: they cost time, and would raise for a NaN before the metrics, which name
# its step and term, are fetched.
VALIDATED_STEPS = 1

Observer = Callable[[PlainViews, Tensor], Mapping[str, Tensor]]
"""Observer of a fit: called after each step with its views and the images' places in the data, ``(image,)``, returns
finite scalars by name, the same names each time, which are kept with the objective's terms.

It is called without gradients, on each process with that process's share of the batch, and the global random state is
restored afterwards, so a random observer needs its own generator. It must leave parameters and buffers as they are and
read nothing back from the device. Its state is not part of a checkpoint: in a resumed fit it starts anew.
"""


class Loop:
    """Draws batches and views on the device and takes gradient steps; `step` reads nothing back.

    Args:
        fabric: launched; determines device and processes.
        objective: module from views to named terms.
        source: of the views.
        plan: the settings.
        observer: called after each step.
    """

    def __init__(
        self, fabric: Fabric, objective: nn.Module, source: Source, plan: Plan, observer: Observer | None = None
    ) -> None:
        self.fabric = fabric
        self.plan = plan
        self.observer = observer
        # Convolutions run faster with channels last (a fifth on a CPU); other parameters keep their layout.
        objective.to(memory_format=torch.channels_last)
        objective.train()
        self.objective = objective
        self.annealed = annealed_parts(objective)
        self.indexed = bool(getattr(objective, "indexed", False))
        self.parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(self.parameters, lr=plan.lr, fused=True)
        self.module, self.optimizer = fabric.setup(objective, optimizer)
        self.source = source.to(fabric.device)

        # Views are random by process, the order of images is the same for all: each process takes its share of it.
        rank_seed = plan.seed * 1000 + fabric.global_rank
        self.generator = torch.Generator(fabric.device).manual_seed(rank_seed)
        self.shuffler = torch.Generator(fabric.device).manual_seed(plan.seed)
        torch.manual_seed(rank_seed)  # Pyro draws from the global stream
        self.order = torch.empty(0, dtype=torch.long, device=fabric.device)
        self.buffer = MetricBuffer(plan.fetch_every, fabric.device)
        self.steps = 0
        self._validated = 0

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in the data."""
        return len(self.source) // self.plan.batch_size

    def step(self) -> None:
        """One gradient step."""
        plan = self.plan
        position = self.steps % self.steps_per_epoch
        if position == 0:
            self.order = torch.randperm(len(self.source), generator=self.shuffler, device=self.fabric.device)
        batch = self.order[position * plan.batch_size : (position + 1) * plan.batch_size]
        share = batch[self.fabric.global_rank :: self.fabric.world_size]
        for group in self.optimizer.param_groups:
            group["lr"] = plan.lr * plan.schedule(self.steps, plan.total_steps)
        for part in self.annealed:
            part.move(self.steps, plan.total_steps)
        with pyro.validation_enabled(self._validated < VALIDATED_STEPS):
            views = self.source.draw(share, self.generator)
            terms = self.module(views, share) if self.indexed else self.module(views)
            self.fabric.backward(terms["loss"])
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.observer is not None:
                with torch.no_grad(), random_state_kept(self.fabric.device):
                    seen = self.observer(views, share)
                if both := terms.keys() & seen.keys():
                    raise ValueError(f"observer and objective both have a term {', '.join(sorted(both))}; rename one")
                terms = {**terms, **seen}
            self.buffer.add(terms)
        self._validated += 1
        self.steps += 1

    def fetch(self) -> list[dict[str, float]]:
        """The terms of the steps since the last call, averaged over processes.

        Raises:
            NonFiniteError: a term is NaN or infinite.
        """
        rows = self.buffer.rows()
        if self.fabric.world_size > 1:
            rows = torch.as_tensor(self.fabric.all_reduce(rows, reduce_op="mean"))
        return self.buffer.fetch(rows, self.steps)

    def finite(self) -> bool:
        """Whether all parameters are finite, so that the state is worth keeping; reads from the device."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.parameters)

    def state(self) -> dict[str, Any]:
        """The state from which `restore` resumes bit for bit; every process must call it."""
        random = {
            "global": torch.get_rng_state(),
            "views": self.generator.get_state(),
            "order": self.shuffler.get_state(),
        }
        if self.fabric.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.fabric.device)
        randoms: list[Any] = [random]
        if self.fabric.world_size > 1:
            randoms = [None] * self.fabric.world_size
            torch.distributed.all_gather_object(randoms, random)
        return {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": randoms,
            "order": self.order,
            "steps": self.steps,
            **self._settings(),
        }

    def _settings(self) -> dict[str, Any]:
        """Settings that a fit must share with the one it resumes."""
        plan = self.plan
        return {
            "images": len(self.source),
            "views": self.source.n_views,
            "batch_size": plan.batch_size,
            "total_steps": plan.total_steps,
            "lr": plan.lr,
            "seed": plan.seed,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Resumes from a `state`.

        Raises:
            ValueError: it is of another fit.
        """
        try:
            for name, mine in self._settings().items():
                if state[name] != mine:
                    raise ValueError(f"it has {name} = {state[name]}, this fit has {mine}")
            if len(state["random"]) != self.fabric.world_size:
                raise ValueError(f"it ran on {len(state['random'])} devices, this fit on {self.fabric.world_size}")
            ran_on, runs_on = ("cuda" if "cuda" in state["random"][0] else "cpu"), self.fabric.device.type
            if ran_on != runs_on:
                raise ValueError(f"it ran on {ran_on}, whose random numbers this fit on {runs_on} cannot go on with")
            self.objective.load_state_dict(state["objective"])
            self.optimizer.load_state_dict(state["optimizer"])
            random = state["random"][self.fabric.global_rank]
            torch.set_rng_state(random["global"])
            self.generator.set_state(random["views"])
            self.shuffler.set_state(random["order"])
            if self.fabric.device.type == "cuda":
                torch.cuda.set_rng_state(random["cuda"], self.fabric.device)
            self.order = state["order"].to(self.fabric.device)
            self.steps = state["steps"]
        except KeyError as error:
            raise ValueError(f"it has no entry {error}") from None
        except (TypeError, RuntimeError) as error:
            raise ValueError(str(error).splitlines()[0]) from None
