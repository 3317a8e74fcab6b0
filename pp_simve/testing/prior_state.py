"""Checks of priors: dtype, device, what is saved, and seeds."""

from __future__ import annotations

import torch
from torch import Tensor

from pp_simve.testing.checks import check, check_moves, check_no_plain_tensors, perturb, seeded
from pp_simve.testing.latents import answers_of
from pp_simve.testing.prior_base import PriorChecks


class StateChecks(PriorChecks):
    """What a prior says depends on its parameters and buffers, and moves along with them."""

    def test_keeps_dtype(self) -> None:
        """float64 after .double(), float32 as made: draws and densities."""
        latent_dim = self.latents[-1]
        with seeded():
            check_no_plain_tensors(self.make(latent_dim))
        for dtype in (torch.float32, torch.float64):
            prior = self._made(latent_dim, dtype)
            values = self._values(prior, dtype=dtype)
            for name, value in self._everything(prior, values).items():
                if name == "content().log_prob" and not self.proper:
                    continue  # Pyro's improper density is a plain zero, in the default dtype
                check(
                    value.dtype == dtype,
                    f"{name} is {value.dtype} in a prior of {dtype}; look for a tensor or cast of fixed dtype "
                    "(torch.tensor(...), .float()), and make constants buffers",
                )

    def test_moves_to_another_device(self) -> None:
        """Draws and densities are where the prior is."""

        def numbers(device: torch.device) -> dict[str, Tensor]:
            prior = self._made(self.latents[-1], torch.float32)
            values = self._values(prior, dtype=torch.float32).to(device)
            prior = prior.to(device)
            prior.remember(values.z)
            found = self._everything(prior, values)
            if not self.proper:
                del found["content().log_prob"]  # Pyro's improper density is a plain zero, on the CPU
            return found

        check_moves(numbers)

    def test_state_dict_holds_everything(self) -> None:
        """A second prior that loads it says the same, bit for bit."""
        latent_dim = self.latents[-1]
        first, second = self._made(latent_dim, seed=0), self._made(latent_dim, seed=1)
        values = self._values(first)
        with seeded(2):
            perturb(first)
            first.train()
            first.remember(torch.randn_like(values.z))
            first.eval()
        try:
            second.load_state_dict(first.state_dict())
        except RuntimeError as error:
            raise AssertionError(f"the state_dict of one prior does not load into another: {error}") from error
        # Guides show the batch at hand to it before they ask, loaded or not.
        first.remember(values.z)
        second.remember(values.z)
        loaded = self._everything(second, values)
        for name, value in self._everything(first, values).items():
            check(
                torch.equal(value, loaded[name]),
                f"{name} differs after state_dict was loaded into a second prior, so a run could not be resumed; "
                "what is drawn at random, learned or remembered must be a parameter or a buffer",
            )

    def test_same_seed_same_numbers(self) -> None:
        """Building and drawing depend on torch's seed alone, and densities on nothing random."""
        latent_dim = self.latents[-1]
        first, second = self._made(latent_dim), self._made(latent_dim)
        values = self._values(first)
        drawn, again = self._drawn(first, values), self._drawn(second, values)
        for name, value in drawn.items():
            check(
                torch.equal(value, again[name]),
                f"{name} differs between two priors made and drawn from under one seed; take all randomness from "
                "torch's global generator",
            )
        repeated = answers_of(first, values)
        for name, answer in answers_of(first, values).items():
            same = torch.equal(answer.value, repeated[name].value)
            check(same, f"{name} differs when asked twice; expected no noise in densities and means")
