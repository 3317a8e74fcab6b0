"""Many samplers that each want one gradient at a time, served by one batched gradient for all.

A gradient of one image costs a thousand microseconds of Python and almost no arithmetic, and that of a hundred images
hardly more. So each sampler runs in a thread of its own until it asks, and waits; when all wait, all are answered. Only
one thread ever runs, in a fixed order and with random numbers of its own, so that nothing depends on the scheduler.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Answer = tuple[Tensor, Tensor]
Ask = Callable[[Tensor], Answer]


class Lockstep(Generic[T]):
    """Runs samplers side by side.

    Args:
        samplers: each called with a function that answers for a point, shape ``(size,)``, with a value and its
            gradient, and returns what it found.
        answer: from the numbers of the samplers that ask and their points ``(asking, size)`` to values ``(asking,)``
            and gradients ``(asking, size)``.
        seeds: of each sampler's random numbers.
        device: they are drawn on.
    """

    def __init__(
        self,
        samplers: Sequence[Callable[[Ask], T]],
        answer: Callable[[tuple[int, ...], Tensor], Answer],
        seeds: Sequence[int],
        device: torch.device,
    ) -> None:
        self._samplers, self._answer, self._device = samplers, answer, device
        self._turns = [threading.Semaphore(0) for _ in samplers]
        self._main = threading.Semaphore(0)
        self._asked: dict[int, Tensor] = {}
        self._answers: dict[int, Answer] = {}
        self._found: dict[int, T] = {}
        self._failure: BaseException | None = None
        self._random = []
        for seed in seeds:
            torch.manual_seed(seed)
            self._random.append(self._random_state())

    def run(self) -> list[T]:
        """What each sampler found. Torch's random state is for the caller to keep.

        Raises:
            BaseException: whatever a sampler raised; the others are ended.
        """
        places = range(len(self._turns))
        threads = [threading.Thread(target=self._thread, args=(place,), daemon=True) for place in places]
        for thread in threads:
            thread.start()
        try:
            for place in places:
                self._give_turn(place)
            while self._asked:
                asking = tuple(self._asked)
                values, gradients = self._answer(asking, torch.stack([self._asked.pop(place) for place in asking]))
                self._answers = dict(zip(asking, zip(values, gradients, strict=True), strict=True))
                for place in asking:
                    self._give_turn(place)
        except BaseException as failure:
            self._failure = self._failure or failure
            raise
        finally:
            for turn in self._turns:  # ends those that still wait; to the others it is nothing
                turn.release()
            for thread in threads:
                thread.join()
        return [self._found[place] for place in places]

    def _give_turn(self, place: int) -> None:
        """Lets a sampler run until it asks or ends."""
        self._restore(self._random[place])
        self._turns[place].release()
        self._main.acquire()
        self._random[place] = self._random_state()
        if self._failure is not None:
            raise self._failure

    def _thread(self, place: int) -> None:
        self._turns[place].acquire()
        try:
            if self._failure is None:
                self._found[place] = self._samplers[place](lambda point: self._ask(place, point))
        except BaseException as failure:
            self._failure = self._failure or failure
        finally:
            self._main.release()

    def _ask(self, place: int, point: Tensor) -> Answer:
        self._asked[place] = point.detach()
        self._main.release()
        self._turns[place].acquire()
        if self._failure is not None:
            raise self._failure
        return self._answers.pop(place)

    def _random_state(self) -> Tensor:
        return torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else torch.get_rng_state()

    def _restore(self, state: Tensor) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(state, self._device)
        else:
            torch.set_rng_state(state)
