"""Parts by name: ``gaussian``, ``gaussian(style_variance=0.3)`` or a user's own ``package.module:Class(option=1)``.

An option may be a part itself: ``block(content=flat(latent_dim=8))``, ``elbo(beta=linear(until=0.3))``. Only classes
derived from the interface of the part are built: a text cannot call anything else.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from pp_simve import inference, models
from pp_simve.errors import ConfigError, nearest, unknown_name
from pp_simve.inference import optimizers
from pp_simve.models import schedules

T = TypeVar("T")
Named = Mapping[str, Callable[..., T]]
"""Parts by name."""

PRIORS: Named[models.Prior] = {
    "gaussian": models.GaussianPrior,
    "flat": models.FlatPrior,
    "mixture": models.MixturePrior,
    "empirical": models.EmpiricalPrior,
    "block": models.BlockPrior,
    "standard": models.StandardPrior,
    "student": models.StudentTPrior,
}
GUIDES: Named[inference.Guide] = {
    "amortized": inference.AmortizedGuide,
    "structured": inference.StructuredGuide,
    "flow": inference.FlowGuide,
    "point": inference.PointGuide,
    "delta": inference.DeltaGuide,
}
GROUPS: Named[models.GroupLikelihood] = {"ntxent": models.NTXent, "infonce": models.InfoNCE}
OBJECTIVES: Named[inference.Objective] = {
    "elbo": inference.ELBO,
    "iwae": inference.IWAE,
    "analytic": inference.AnalyticELBO,
    "consistency": inference.ConsistencyELBO,
    "denoising": inference.DenoisingELBO,
    "decoder-free": inference.DecoderFreeELBO,
    "swav": inference.SwAV,
    "instances": inference.InstanceDiscrimination,
    "byol": inference.BYOL,
    "moco": inference.MoCo,
    "barlow-twins": inference.BarlowTwins,
}
LIKELIHOODS: Named[models.Likelihood] = {"bernoulli": models.Bernoulli, "gaussian": models.Gaussian}
ENCODERS: Named[nn.Module] = {
    "mlp": inference.MLPEncoder,
    "residual": inference.ResidualEncoder,
    "resnet18": inference.ResNet18Encoder,
    "timm": inference.timm_encoder,
}
DECODERS: Named[nn.Module] = {"mlp": models.MLPDecoder, "residual": models.ResidualDecoder}
OPTIMIZERS: Named[optimizers.OptimizerFactory] = {
    "adam": optimizers.Adam,
    "adamw": optimizers.AdamW,
    "sgd": optimizers.SGD,
    "lars": optimizers.LARS,
}
# Options may be parts themselves, built from their options alone.
SCHEDULES: Named[inference.Schedule] = schedules.SCHEDULES
ENTROPIES: Named[inference.EntropyEstimate] = {
    "kernel": inference.KernelEntropy,
    "logdet": inference.GaussianEntropy,
    "vicreg": inference.VICRegEntropy,
}
WEIGHTS: Named[inference.Balanced] = {"balanced": inference.Balanced}
NESTED: Named[Any] = {**PRIORS, **GROUPS, **SCHEDULES, **ENTROPIES, **WEIGHTS}
NESTED_KINDS = (models.Prior, models.GroupLikelihood, inference.Schedule, inference.EntropyEstimate, inference.Balanced)

RENAMED: Mapping[str, Mapping[str, str]] = {
    "objective": {
        "implied": "decoder-free",
        "swapped": "swav",
        "bootstrap": "byol",
        "correlation": "barlow-twins",
    },
    "group": {"views": "ntxent", "images": "infonce"},
}
"""Names of earlier versions, by setting: they are refused with the new name."""

REFUSALS = (TypeError, ValueError, RuntimeError, ImportError, AssertionError, ArithmeticError)
"""Errors by which parts refuse values; torch refuses sizes with a RuntimeError, timm with any of the last three."""

_QUOTED = re.compile(r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")""")
_OWN = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")
_OWN_CALL = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)\s*\(")
_MODULE = "_module_of_"


@dataclass(frozen=True)
class _Described:
    """A part as its text describes it: nothing is imported or built yet."""

    name: str
    options: Mapping[str, Any]
    """Literals, and parts."""

    def own(self) -> Iterator[str]:
        """The user's classes, this one and those among its options."""
        if ":" in self.name:
            yield self.name
        for value in self.options.values():
            if isinstance(value, _Described):
                yield from value.own()


def make_part(flag: str, text: str, named: Named[T], kind: type[Any], *arguments: object) -> T:
    """Builds the part that ``text`` describes.

    Args:
        flag: the setting, for errors (``prior``).
        text: ``name``, ``name(option=value, ...)`` or ``package.module:Class(option=value, ...)``; values are Python
            literals, or parts (priors, schedules, a user's own) written the same way, with brackets.
        named: the parts that go by a name.
        kind: what a user's own class must be derived from.
        arguments: what every part of this kind is built from, before its options.

    Raises:
        ConfigError: no such name, module or class; an option it does not have; a value it does not accept.
    """
    return _built(flag, text, _described(flag, text), named, (kind,), *arguments)


def call_own(flag: str, text: str, **arguments: object) -> Any:
    """What a user's own function returns, ``package.module:function`` or ``package.module:function(option=value)``.

    Args:
        flag: the setting, for errors.
        text: names the function, which must be defined in that module.
        arguments: given to it before its options, by position; their names are for errors.

    Raises:
        ConfigError: no such module or function; an option it does not have; a value it does not accept.
    """
    part = _described(flag, text)
    found = _imported(flag, text, part.name)
    if not (inspect.isfunction(found) and f"{found.__module__}:{found.__qualname__}" == part.name):
        raise ConfigError(f"--{flag} {text}: {part.name} is not a function defined in that module")
    return _called(flag, text, part, found, arguments)


def own_parts(flag: str, text: str) -> list[str]:
    """Each ``package.module:Class`` that `make_part` would import for a text, nested ones included.

    Raises:
        ConfigError: the text cannot be read.
    """
    return list(dict.fromkeys(_described(flag, text).own()))


def _built(
    flag: str,
    text: str,
    part: _Described,
    named: Named[T],
    kinds: tuple[type[Any], ...],
    *arguments: object,
) -> T:
    name = part.name.replace("_", "-") if part.name not in named else part.name
    factory = _derived(flag, text, part.name, kinds) if ":" in part.name else named.get(name)
    if factory is None:
        if new := RENAMED.get(flag, {}).get(part.name):
            raise ConfigError(
                f"--{flag} {part.name} is now called {new}; write --{flag} {text.replace(part.name, new, 1)}"
            )
        what = f"part in --{flag}" if named is NESTED else flag
        raise ConfigError(unknown_name(what, part.name, named, also=", or your own package.module:Class"))
    first = list(inspect.signature(next(iter(named.values()))).parameters)[: len(arguments)]
    return _called(flag, text, part, factory, dict(zip(first, arguments, strict=True)))


def _called(flag: str, text: str, part: _Described, factory: Callable[..., T], arguments: Mapping[str, object]) -> T:
    """The factory's product.

    Args:
        arguments: given to every factory of the flag, in this order, by the names that the built-in ones have for them.
    """
    options = {
        name: _built(flag, text, value, NESTED, NESTED_KINDS) if isinstance(value, _Described) else value
        for name, value in part.options.items()
    }
    signature = inspect.signature(factory)
    try:
        signature.bind(*arguments.values(), **options)
    except TypeError as error:
        accepted = list(signature.parameters)[len(arguments) :]
        unknown = [nearest(option, accepted) for option in options if option not in accepted]
        hint = f"; did you mean {unknown[0]!r}?" if unknown and unknown[0] else ""
        given = f"every {flag} is first given {', '.join(arguments)}; " if arguments else ""
        raise ConfigError(
            f"--{flag} {text}: {error}{hint} ({given}options of {part.name}: {', '.join(accepted) or 'none'})"
        ) from None
    try:
        return factory(*arguments.values(), **options)
    except REFUSALS as error:
        raise ConfigError(f"--{flag} {text}: {error}") from error


def _described(flag: str, text: str) -> _Described:
    name, bracket, rest = text.partition("(")
    name = name.strip()
    if ":" in name and not _OWN.fullmatch(name):
        raise ConfigError(f"--{flag} {text!r} cannot be read; expected NAME or package.module:Class before any bracket")
    if not bracket:
        return _Described(name, {})
    # A class of one's own, module:Class(...), is no Python; as an attribute it is.
    pieces = _QUOTED.split(rest.strip())
    pieces[::2] = [_OWN_CALL.sub(rf"\1.{_MODULE}.\2(", piece) for piece in pieces[::2]]
    try:
        call = ast.parse(f"part({''.join(pieces)}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise SyntaxError
        return _Described(name, _options(call))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):  # the last two of brackets in brackets
        raise ConfigError(
            f"--{flag} {text!r} cannot be read; expected NAME or NAME(option=value, ...) with numbers, strings, lists, "
            "True/False or parts like linear(until=0.3) as values, in quotes for the shell: "
            '--prior "gaussian(style_variance=0.3)"'
        ) from None


def _options(call: ast.Call) -> dict[str, Any]:
    options = {keyword.arg: _value(keyword.value) for keyword in call.keywords if keyword.arg}
    if call.args or len(options) < len(call.keywords):  # an option without a name, twice, or **options
        raise SyntaxError
    return options


def _value(node: ast.expr) -> Any:
    if not isinstance(node, ast.Call):
        return ast.literal_eval(node)
    name = ast.unparse(node.func).replace(f".{_MODULE}.", ":")
    if ":" in name and not _OWN.fullmatch(name):
        raise SyntaxError
    return _Described(name, _options(node))


def _imported(flag: str, text: str, name: str) -> Any:
    """What goes by that name in the user's module."""
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"--{flag} {name}: {error}; the module must be importable from the folder the command runs in"
        ) from None
    try:
        return getattr(module, class_name)
    except AttributeError:
        classes = [key for key, value in vars(module).items() if inspect.isclass(value)]
        raise ConfigError(f"--{flag} {text}: {unknown_name(f'class in {module_name}', class_name, classes)}") from None


def _derived(flag: str, text: str, name: str, kinds: tuple[type[Any], ...]) -> Callable[..., Any]:
    """The user's class of that name; whatever is not derived from one of ``kinds`` is refused before it is called."""
    found = _imported(flag, text, name)
    if not (inspect.isclass(found) and issubclass(found, kinds)):
        expected = " or ".join(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
        raise ConfigError(f"--{flag} {text}: {name} is not a class derived from {expected}")
    return found
