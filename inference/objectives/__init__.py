"""Objectives: modules called with views that return named terms, `loss` among them, without reading from the device."""

from pp_simve.inference.objectives.elbo import ELBO, ProgramError

__all__ = ["ELBO", "ProgramError"]
