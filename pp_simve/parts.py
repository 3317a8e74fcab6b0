"""Parts by name: ``gaussian``, ``gaussian(style_variance=0.3)`` or a user's own ``package.module:Class(option=1)``."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from pp_simve.errors import ConfigError, unknown_name
from pp_simve.inference import AmortizedGuide, Guide, MLPEncoder, PointGuide, ResidualEncoder, ResNet18Encoder
from pp_simve.models import (
    Bernoulli,
    FlatPrior,
    Gaussian,
    GaussianPrior,
    Likelihood,
    MLPDecoder,
    Prior,
    ResidualDecoder,
    StandardPrior,
)

T = TypeVar("T")

PRIORS: Mapping[str, Callable[..., Prior]] = {"gaussian": GaussianPrior, "flat": FlatPrior, "standard": StandardPrior}
GUIDES: Mapping[str, Callable[..., Guide]] = {"amortized": AmortizedGuide, "point": PointGuide}
LIKELIHOODS: Mapping[str, Callable[..., Likelihood]] = {"bernoulli": Bernoulli, "gaussian": Gaussian}
ENCODERS: Mapping[str, Callable[..., nn.Module]] = {
    "mlp": MLPEncoder,
    "residual": ResidualEncoder,
    "resnet18": ResNet18Encoder,
}
DECODERS: Mapping[str, Callable[..., nn.Module]] = {"mlp": MLPDecoder, "residual": ResidualDecoder}


def make_part(flag: str, text: str, named: Mapping[str, Callable[..., T]], kind: type[Any], *arguments: object) -> T:
    """Builds the part that ``text`` describes.

    Args:
        flag: the setting, for errors (``prior``).
        text: ``name``, ``name(option=value, ...)`` or ``package.module:Class(option=value, ...)``; values are Python
            literals.
        named: the parts that go by a name.
        kind: what the part must be an instance of.
        arguments: what every part of this kind is built from, before its options.

    Raises:
        ConfigError: no such name, module or class; an option it does not have; a value it does not accept.
    """
    name, options = _parse(flag, text)
    factory = named.get(name) if ":" not in name else _imported(flag, name)
    if factory is None:
        raise unknown_name(flag, name, named, also=", or your own package.module:Class")
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # a module, a constant, a class written in C
        raise ConfigError(
            f"--{flag} {text}: {factory!r} is no class to build a {flag} from; "
            f"expected a {kind.__module__}.{kind.__name__}"
        ) from None
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        accepted = list(signature.parameters)[len(arguments) :]
        raise ConfigError(
            f"--{flag} {text}: {error}. {name} is built from {len(arguments)} argument(s) given to every {flag}; "
            f"its options are: {', '.join(accepted) or 'none'}"
        ) from None
    try:
        part = factory(*arguments, **options)
    except (TypeError, ValueError, RuntimeError) as error:  # torch refuses sizes with a RuntimeError
        raise ConfigError(f"--{flag} {text}: {error}") from error
    if not isinstance(part, kind):
        raise ConfigError(
            f"--{flag} {text}: it made a {type(part).__name__}, expected a {kind.__module__}.{kind.__name__}"
        )
    return part


def _parse(flag: str, text: str) -> tuple[str, dict[str, Any]]:
    name, bracket, rest = text.partition("(")
    name = name.strip()
    if not bracket:
        return name, {}
    try:
        call = ast.parse(f"part({rest.strip()}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise SyntaxError
        options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
        if len(options) < len(call.keywords):  # an option twice, or **options
            raise SyntaxError
        return name, options
    except (SyntaxError, ValueError, TypeError):
        raise ConfigError(
            f"--{flag} {text!r} cannot be read; expected NAME or NAME(option=value, ...) with numbers, strings, lists "
            'or True/False as values, in quotes for the shell: --prior "gaussian(style_variance=0.3)"'
        ) from None


def _imported(flag: str, name: str) -> Callable[..., Any]:
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError, TypeError) as error:  # the latter two for ":Class" and ".relative:Class"
        raise ConfigError(
            f"--{flag} {name}: {error}; the module must be importable from the folder the command runs in"
        ) from None
    try:
        factory: Callable[..., Any] = getattr(module, class_name)
    except AttributeError:
        classes = [key for key, value in vars(module).items() if inspect.isclass(value)]
        raise unknown_name(f"class in {module_name}", class_name, classes) from None
    return factory
