"""The names of `pp_simve` and where they are documented; imports that stay light, and help without torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import pp_simve
from pp_simve.__main__ import main
from pp_simve.commands.list_parts import KINDS
from pp_simve.run.config import FitConfig
from pp_simve.run.console import parsed
from pp_simve.run.named_parts import NESTED

ROOT = Path(__file__).parents[2]
COMMANDS = ("fit", "evaluate", "diagnose", "compare", "embed", "export")
CHOICE = {"export": "--to"}
HEAVY = ("torch", "matplotlib", "sklearn", "xarray", "arviz", "torchvision", "lightning_fabric")
RUN = """
import runpy, sys
module, *arguments = sys.argv[1:]
sys.argv = [module, *arguments]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    code = end.code
else:
    code = 0
print("code", code)
"""


def loaded(script: str, *arguments: str) -> tuple[set[str], subprocess.CompletedProcess[str]]:
    """Those of the heavy libraries that a script in a process of its own has imported, and how it ended."""
    script += f"\nimport sys\nprint('imported', *(name for name in {HEAVY} if name in sys.modules))"
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.splitlines()[-1].split()[1:]), ended


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("import pp_simve; dir(pp_simve)", set()),
        ("import pp_simve.fit, pp_simve.evaluate, pp_simve.diagnose, pp_simve.compare", set()),
        ("import pp_simve.inference", {"torch"}),
        ("from pp_simve import SimVE, GaussianPrior, AmortizedGuide, ELBO, ResNet18Encoder, draw", {"torch"}),
    ],
)
def test_imports_are_light(script: str, expected: set[str]) -> None:
    assert loaded(script)[0] == expected


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, "usage: python -m pp_simve.{}"),
        (["--device"], 2, "Missing value for argument '--device'"),
        (["--device", "gpu"], 2, "invalid choice 'gpu'"),
        (["--quite"], 2, "--quiet"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_and_wrong_flags_need_no_torch(command: str, arguments: list[str], code: int, words: str) -> None:
    choice = CHOICE.get(command, "--device")
    arguments, words = ([choice if one == "--device" else one for one in arguments], words.replace("--device", choice))
    imported, ended = loaded(RUN, f"pp_simve.{command}", *arguments)
    assert imported == set()
    assert f"code {code}" in ended.stdout
    text = ended.stdout + ended.stderr
    assert words.format(command) in text
    assert "--no-" not in text


@pytest.mark.parametrize("arguments", [["--views", "0"], ["--epochs", "2", "--steps", "3"]], ids=" ".join)
def test_values_out_of_range_need_no_torch(arguments: list[str]) -> None:
    imported, ended = loaded(RUN, "pp_simve.fit", *arguments)
    assert (imported, "code 2" in ended.stdout) == (set(), True)


@pytest.mark.parametrize("name", pp_simve.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert name in dir(pp_simve)
    assert getattr(pp_simve, name).__doc__
    if name in COMMANDS:
        assert getattr(pp_simve, name).__name__ == f"pp_simve.{name}"


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'pp_simve' has no attribute 'SimVAE'"):
        _ = pp_simve.SimVAE  # type: ignore[attr-defined]


def test_the_console_script_and_the_package_are_the_same_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"pp-simve": "pp_simve.__main__:main"}
    assert "*.pyi" in project["tool"]["setuptools"]["package-data"]["pp_simve"]  # the names are read from it


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 0, "evaluate  Evaluates the representations of fitted runs in full."),
        (("--help",), 0, "usage: pp-simve COMMAND [OPTIONS], or pp-simve COMMAND --help\n\nProbabilistic"),
        (("--version",), 0, pp_simve.__version__),
        (("fit", "--help"), 0, "usage: pp-simve fit"),
        (("diagnose", "--refin", "1"), 2, "--refine INT"),
        (("compare", "--seeds", "0"), 2, "--seeds must be at least 1, got 0"),
        (("evalute",), 2, "unknown command 'evalute'; did you mean 'evaluate'?"),
        (("parts", "gude"), 2, "unknown kind of part 'gude'; did you mean 'guide'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_the_console_script(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, words: str
) -> None:
    try:
        ended = main(arguments)
    except SystemExit as end:  # by tyro
        ended = int(end.code or 0)
    printed = capsys.readouterr()
    assert ended == code
    assert words in (printed.err if code else printed.out)


@pytest.mark.parametrize(
    ("typed", "default", "quiet"),
    [
        ([], None, False),
        (["--quiet"], None, True),
        (["--no-quiet"], None, False),
        ([], FitConfig(quiet=True), True),
        (["--quiet"], FitConfig(quiet=True), True),
        (["--no-quiet"], FitConfig(quiet=True), False),
    ],
)
def test_a_flag_can_be_undone(typed: list[str], default: FitConfig | None, quiet: bool) -> None:
    assert parsed(FitConfig, typed, "fit", default=default) == FitConfig(quiet=quiet)


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("command", [*COMMANDS, "parts"])
def test_help_fits_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= columns
    assert not re.search(r"\w-\n", text), "a path or a flag is broken at a hyphen"
    groups = re.findall(r"(\w+) options[^.\w]*\n", text)
    assert groups == (["data", "model", "optimization", "run", "logging"] if command == "fit" else [])


def test_every_part_of_a_part_is_listed() -> None:
    assert set(NESTED) <= {name for named, _ in KINDS.values() for name in named}


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_listed_with_their_options(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["parts", kind]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert kind in heading
    assert [line.split()[0] for line in lines if re.match("  [a-z]", line)] == list(KINDS[kind][0])
    assert not re.search("``|built from|<class|object at", "".join(lines))
    options = {"prior": "prototypes=10, weights=None", "track": "project='pp_simve'", "entropy": "shrinkage=0.01"}
    assert options.get(kind, "") in "".join(lines)
    with pytest.raises(SystemExit):
        main(["parts", "--help"])
    assert re.search(rf"[ ,]{kind}[,.]", capsys.readouterr().out)


PACKAGES = ("models", "inference", "evaluation", "evaluation.posterior", "data", "testing")


def public(package: ModuleType) -> list[str]:
    """What a package exports: its `__all__`, or what its `__init__.py` imports."""
    found = [name for name, value in vars(package).items() if name[0] != "_" and not isinstance(value, ModuleType)]
    return getattr(package, "__all__", found)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_of_a_package_is_in_the_reference(package: str) -> None:
    page = (ROOT / "docs/reference" / f"{package.rpartition('.')[2]}.md").read_text()
    entries = {line.rpartition(".")[2] for line in page.splitlines() if line.startswith("::: pp_simve.")}
    assert entries.issuperset(public(import_module(f"pp_simve.{package}")))


def test_every_public_name_is_in_the_table_of_the_reference() -> None:
    table = (ROOT / "docs/reference/index.md").read_text()
    linked = set(re.findall(r"\[`(\w+)`\][\[(]", table))  # a broken link fails the build of the site
    assert linked == set(pp_simve.__all__)
