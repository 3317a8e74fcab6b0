"""Training loop: gradient steps on views drawn on the device, and the state from which any step can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from pp_simve.inference.data import Source
from pp_simve.inference.metrics import MetricBuffer, StepMeans
from pp_simve.inference.plan import FitError, Plan
from pp_simve.inference.tools import random_state_kept
from pp_simve.models import PlainViews
from pp_simve.models.schedules import annealed_parts

if TYPE_CHECKING:  # only `fit` needs it, and it takes as long to import as torch itself
    from lightning_fabric import Fabric

# Pyro's checks are on for the first step only: they cost time, and would raise for a NaN before the metrics, which name
# its step and term, are fetched.
VALIDATED_STEPS = 1

FORMER = {"optimizer_type": "Adam", "clip_norm": None, "accumulate": 1, "ema": None, "means": [0, {}]}
"""Entries of checkpoints of earlier versions, which do not hold these."""

Observer = Callable[[PlainViews, Tensor], Mapping[str, Tensor]]
"""Observer of a fit: called after each step with its views and the images' places in the data, ``(image,)``, once for
each batch of the step, returns finite scalars by name, the same names each time, which are kept with the objective's
terms.

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
        optimizer = plan.optimizer([parameter for parameter in objective.parameters() if parameter.requires_grad])
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise FitError(f"optimizer must return a torch.optim.Optimizer, got {type(optimizer).__name__}")
        self.optimizer_type = type(optimizer).__name__
        self.rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.parameters: list[nn.Parameter] = [one for group in optimizer.param_groups for one in group["params"]]
        self.module, self.optimizer = fabric.setup(objective, optimizer)
        # The exponential moving average of the parameters, in their order; it starts with those after the first step.
        self.average = [] if plan.ema is None else [parameter.detach().clone() for parameter in self.parameters]
        self.source = source.to(fabric.device)

        # Views are random by process, the order of images is the same for all: each process takes its share of it.
        rank_seed = plan.seed * 1000 + fabric.global_rank
        self.generator = torch.Generator(fabric.device).manual_seed(rank_seed)
        self.shuffler = torch.Generator(fabric.device).manual_seed(plan.seed)
        torch.manual_seed(rank_seed)  # Pyro draws from the global stream
        self.order = torch.empty(0, dtype=torch.long)
        self.buffer = MetricBuffer(plan.fetch_every, fabric.device)
        self.means = StepMeans(plan.log_every, plan.total_steps)
        self.steps = 0
        self._validated = 0

    @property
    def steps_per_epoch(self) -> int:
        """Steps of full batches in the data."""
        return len(self.source) // self.plan.images

    def step(self) -> None:
        """One gradient step."""
        plan = self.plan
        position = self.steps % self.steps_per_epoch
        if position == 0:
            self.order = self.source.order(self.shuffler)
        factor = plan.schedule(self.steps, plan.total_steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        for part in self.annealed:
            part.move(self.steps, plan.total_steps)
        with pyro.validation_enabled(self._validated < VALIDATED_STEPS):
            found, observed = [], []
            for number in range(plan.accumulate):
                place = position * plan.accumulate + number
                share = self._share(place)
                views = self.source.draw(share, self.generator)
                self.source.expect(self._share(place + 1))
                share = share.to(self.fabric.device)
                with self.fabric.no_backward_sync(self.module, enabled=number + 1 < plan.accumulate):
                    terms = self.module(views, share) if self.indexed else self.module(views)
                    loss = terms["loss"]
                    self.fabric.backward(loss if plan.accumulate == 1 else loss / plan.accumulate)
                found.append(terms)
                if self.observer is not None:
                    observed.append((views, share))
            if self._validated < VALIDATED_STEPS and self.fabric.world_size > 1:
                self._check_gradients()
            self._update()
            terms = _mean(found)
            if self.observer is not None:
                with torch.no_grad(), random_state_kept(self.fabric.device):
                    seen = _mean([self.observer(*batch) for batch in observed])
                if both := terms.keys() & seen.keys():
                    raise ValueError(f"observer and objective both have a term {', '.join(sorted(both))}; rename one")
                terms = {**terms, **seen}
            self.buffer.add(terms)
        self._validated += 1
        self.steps += 1

    def _share(self, place: int) -> Tensor:
        """The images of this process in a batch of the epoch."""
        batch = self.order[place * self.plan.batch_size : (place + 1) * self.plan.batch_size]
        return batch[self.fabric.global_rank :: self.fabric.world_size]

    def _check_gradients(self) -> None:
        """Gradients are averaged once there is one of each parameter; without one, the next step would not end."""
        named = self.objective.named_parameters()
        if unused := [name for name, parameter in named if parameter.requires_grad and parameter.grad is None]:
            raise FitError(
                f"several processes need a gradient of every parameter, but {', '.join(unused[:5])}"
                f"{f' and {len(unused) - 5} more' if len(unused) > 5 else ''} do not enter the loss; use them, or "
                "requires_grad_(False), or fit with one process"
            )

    def _update(self) -> None:
        """Moves the parameters by their gradients, and the average of the parameters."""
        if self.plan.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.plan.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.plan.ema is not None:
            with torch.no_grad():
                torch._foreach_lerp_(self.average, list(self.parameters), 1 - self.plan.ema if self.steps else 1.0)

    def finish(self) -> None:
        """Leaves the objective as it is evaluated: averaged weights, last values of schedules, evaluation mode."""
        if self.average:
            with torch.no_grad():
                torch._foreach_copy_(list(self.parameters), self.average)
        for part in self.annealed:
            part.finish()
        self.objective.eval()

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
            "average": self.average,
            "random": randoms,
            "order": self.order,
            "source": self.source.state(),
            "steps": self.steps,
            "means": self.means.state(),
            **self.settings(),
        }

    def settings(self) -> dict[str, Any]:
        """Settings that a fit must share with the one it resumes."""
        plan = self.plan
        return {
            "images": len(self.source),
            "views": self.source.n_views,
            "batch_size": plan.batch_size,
            "total_steps": plan.total_steps,
            "optimizer_type": self.optimizer_type,
            "lr": self.rates[0] if len(set(self.rates)) == 1 else self.rates,
            "seed": plan.seed,
            "clip_norm": plan.clip_norm,
            "accumulate": plan.accumulate,
            "ema": plan.ema,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Resumes from a `state`.

        Raises:
            ValueError: it is of another fit.
        """
        state = FORMER | state
        try:
            for name, mine in self.settings().items():
                if state[name] != mine:
                    raise ValueError(f"it has {name} = {state[name]}, this fit has {mine}")
            if len(state["random"]) != self.fabric.world_size:
                raise ValueError(f"it ran on {len(state['random'])} devices, this fit on {self.fabric.world_size}")
            ran_on, runs_on = ("cuda" if "cuda" in state["random"][0] else "cpu"), self.fabric.device.type
            if ran_on != runs_on:
                raise ValueError(f"it ran on {ran_on}, whose random numbers this fit on {runs_on} cannot go on with")
            self.objective.load_state_dict(state["objective"])
            self.optimizer.load_state_dict(state["optimizer"])
            for mine, stored in zip(self.average, state["average"] if self.average else [], strict=True):
                mine.copy_(stored)
            self.source.restore(state.get("source"))  # before the random state, as it may draw from it
            random = state["random"][self.fabric.global_rank]
            torch.set_rng_state(random["global"])
            self.generator.set_state(random["views"])
            self.shuffler.set_state(random["order"])
            if self.fabric.device.type == "cuda":
                torch.cuda.set_rng_state(random["cuda"], self.fabric.device)
            self.order = state["order"].to(self.source.device)
            self.steps = state["steps"]
            self.means.restore(state["means"])
        except KeyError as error:
            raise ValueError(f"it has no entry {error}") from None
        except (TypeError, RuntimeError) as error:
            raise ValueError(str(error).splitlines()[0]) from None


def keep_frozen(*modules: nn.Module) -> None:
    """Puts norm and dropout layers of frozen parts, whose parameters are all without gradient, into evaluation mode.

    Only these layers: priors and group likelihoods need the training mode for what they compute over processes.
    """
    for part in (part for module in modules for part in module.modules()):
        parameters = list(part.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            for layer in part.modules():
                if isinstance(layer, _NormBase | _DropoutNd):
                    layer.eval()


def _mean(rows: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """Terms of a step: the mean over its batches."""
    if len(rows) == 1:
        return rows[0]
    return {name: torch.stack([row[name].detach() for row in rows]).mean(0) for name in rows[0]}
