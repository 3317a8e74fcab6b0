"""`PyroProgram`, a `PyroModule` that warns where Pyro's parameter store has another module's parameters."""

from __future__ import annotations

import warnings
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule


class PyroProgram(PyroModule):
    """Base of the model and of guides: a `PyroModule` that compares its parameters with those of Pyro's global store.

    `pyro.infer.SVI` optimizes what the store holds. It finds parameters by name, and those of the next pair have the
    names of the first: the second would be evaluated and the first one's parameters updated, hence a warning.
    `pp_simve.fit` optimizes the parameters of the modules, and does not use the store.
    """

    _store_checked = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._store_checked and self.training and torch.is_grad_enabled():
            self.__dict__["_store_checked"] = True  # not through nn.Module, once per module
            self._check_store()
        return super().__call__(*args, **kwargs)

    def _check_store(self) -> None:
        if pyro.settings.get("module_local_params"):
            return
        own = {name.removesuffix("_unconstrained"): parameter for name, parameter in self.named_parameters()}
        for name, stored in pyro.get_param_store().named_parameters():
            parameter = own.get(name.replace("$$$", "."))
            if parameter is not None and parameter is not stored:
                warnings.warn(
                    f"Pyro's parameter store has {name} of another model or guide, which pyro.infer.SVI would optimize "
                    f"instead of those of this {type(self).__name__}; call pyro.clear_param_store() before the first "
                    "step of a second pair, or fit it by pp_simve.inference.fit",
                    stacklevel=3,
                )
                return
