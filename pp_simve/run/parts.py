"""Parts by name: ``gaussian``, ``gaussian(style_variance=0.3)`` or a user's own ``package.module:Class(option=1)``.

An option may be a part itself: ``block(content=flat(latent_dim=8))``, ``elbo(beta=linear(until=0.3))``.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from pp_simve.errors import ConfigError, unknown_name
from pp_simve.inference import (
    BYOL,
    ELBO,
    IWAE,
    AmortizedGuide,
    AnalyticELBO,
    BarlowTwins,
    ConsistencyELBO,
    Cyclic,
    DecoderFreeELBO,
    DeltaGuide,
    DenoisingELBO,
    EntropyEstimate,
    FlowGuide,
    GaussianEntropy,
    Geometric,
    Guide,
    InstanceDiscrimination,
    KernelEntropy,
    Linear,
    MLPEncoder,
    Objective,
    PointGuide,
    ResidualEncoder,
    ResNet18Encoder,
    StructuredGuide,
    SwAV,
    VICRegEntropy,
)
from pp_simve.models import (
    Bernoulli,
    BlockPrior,
    EmpiricalPrior,
    FlatPrior,
    Gaussian,
    GaussianPrior,
    GroupLikelihood,
    InfoNCE,
    Likelihood,
    MixturePrior,
    MLPDecoder,
    NTXent,
    Prior,
    ResidualDecoder,
    StandardPrior,
    StudentTPrior,
)

T = TypeVar("T")

PRIORS: Mapping[str, Callable[..., Prior]] = {
    "gaussian": GaussianPrior,
    "flat": FlatPrior,
    "mixture": MixturePrior,
    "empirical": EmpiricalPrior,
    "block": BlockPrior,
    "standard": StandardPrior,
    "student": StudentTPrior,
}
GUIDES: Mapping[str, Callable[..., Guide]] = {
    "amortized": AmortizedGuide,
    "structured": StructuredGuide,
    "flow": FlowGuide,
    "point": PointGuide,
    "delta": DeltaGuide,
}
GROUPS: Mapping[str, Callable[..., GroupLikelihood]] = {"views": NTXent, "images": InfoNCE}
OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
    "elbo": ELBO,
    "iwae": IWAE,
    "analytic": AnalyticELBO,
    "consistency": ConsistencyELBO,
    "denoising": DenoisingELBO,
    "implied": DecoderFreeELBO,
    "swapped": SwAV,
    "instances": InstanceDiscrimination,
    "bootstrap": BYOL,
    "correlation": BarlowTwins,
}
LIKELIHOODS: Mapping[str, Callable[..., Likelihood]] = {"bernoulli": Bernoulli, "gaussian": Gaussian}
ENCODERS: Mapping[str, Callable[..., nn.Module]] = {
    "mlp": MLPEncoder,
    "residual": ResidualEncoder,
    "resnet18": ResNet18Encoder,
}
DECODERS: Mapping[str, Callable[..., nn.Module]] = {"mlp": MLPDecoder, "residual": ResidualDecoder}
SCHEDULES: Mapping[str, Callable[..., Any]] = {"linear": Linear, "geometric": Geometric, "cyclic": Cyclic}
ENTROPIES: Mapping[str, Callable[..., EntropyEstimate]] = {
    "kernel": KernelEntropy,
    "logdet": GaussianEntropy,
    "vicreg": VICRegEntropy,
}
# What an option may be: built from its options alone.
NESTED: Mapping[str, Callable[..., Any]] = {**PRIORS, **SCHEDULES, **ENTROPIES}

_QUOTED = re.compile(r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")""")
_OWN_CALL = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)\s*\(")
_MODULE = "_module_of_"


def make_part(flag: str, text: str, named: Mapping[str, Callable[..., T]], kind: type[Any], *arguments: object) -> T:
    """Builds the part that ``text`` describes.

    Args:
        flag: the setting, for errors (``prior``).
        text: ``name``, ``name(option=value, ...)`` or ``package.module:Class(option=value, ...)``; values are Python
            literals, or parts (priors, schedules, a user's own) written the same way, with brackets.
        named: the parts that go by a name.
        kind: what the part must be an instance of.
        arguments: what every part of this kind is built from, before its options.

    Raises:
        ConfigError: no such name, module or class; an option it does not have; a value it does not accept.
    """
    name, options = _parse(flag, text)
    return _built(flag, text, name, options, named, kind, *arguments)


def _built(
    flag: str,
    text: str,
    name: str,
    options: Mapping[str, Any],
    named: Mapping[str, Callable[..., T]],
    kind: type[Any],
    *arguments: object,
) -> T:
    factory = named.get(name) if ":" not in name else _imported(flag, name)
    if factory is None:
        what = f"part in --{flag}" if named is NESTED else flag
        raise unknown_name(what, name, named, also=", or your own package.module:Class")
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
    except (TypeError, ValueError, RuntimeError, ImportError) as error:  # torch refuses sizes with a RuntimeError
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
    # A class of one's own, module:Class(...), is no Python; as an attribute it is.
    pieces = _QUOTED.split(rest.strip())
    pieces[::2] = [_OWN_CALL.sub(rf"\1.{_MODULE}.\2(", piece) for piece in pieces[::2]]
    try:
        call = ast.parse(f"part({''.join(pieces)}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise SyntaxError
        return name, _options(flag, text, call)
    except (SyntaxError, ValueError, TypeError):
        raise ConfigError(
            f"--{flag} {text!r} cannot be read; expected NAME or NAME(option=value, ...) with numbers, strings, lists, "
            "True/False or parts like linear(until=0.3) as values, in quotes for the shell: "
            '--prior "gaussian(style_variance=0.3)"'
        ) from None


def _options(flag: str, text: str, call: ast.Call) -> dict[str, Any]:
    options = {keyword.arg: _value(flag, text, keyword.value) for keyword in call.keywords if keyword.arg}
    if call.args or len(options) < len(call.keywords):  # an option without a name, twice, or **options
        raise SyntaxError
    return options


def _value(flag: str, text: str, node: ast.expr) -> Any:
    if not isinstance(node, ast.Call):
        return ast.literal_eval(node)
    name = ast.unparse(node.func).replace(f".{_MODULE}.", ":")
    return _built(flag, text, name, _options(flag, text, node), NESTED, object)


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
