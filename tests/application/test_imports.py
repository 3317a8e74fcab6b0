"""Where the packages come from, and which may import which."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = ("models", "inference", "evaluation")
ALLOWED = {
    "pp_simve.models": {"pp_simve.models"},
    "pp_simve.inference": {"pp_simve.models", "pp_simve.inference"},
    "pp_simve.evaluation": {"pp_simve.models", "pp_simve.inference", "pp_simve.evaluation"},
}
SCRIPT = """
import pathlib
import pp_simve, pp_simve.models, pp_simve.inference, pp_simve.evaluation, pp_simve.data, pp_simve.fit
for package in (pp_simve, pp_simve.models, pp_simve.inference, pp_simve.evaluation, pp_simve.data, pp_simve.fit):
    print(pathlib.Path(package.__file__).resolve())
"""


def modules() -> dict[str, Path]:
    """Every module of ours by the name it is imported under."""
    found = {}
    for folder in ("pp_simve", *FLOORS):
        prefix = folder if folder == "pp_simve" else f"pp_simve.{folder}"
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join([prefix, *parts])] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of ours that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            # `from package import x` may name a module x of the package, or something the package offers.
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                names.add(module if module in known else str(node.module))
    return {name for name in names if name.split(".")[0] in ("pp_simve", *FLOORS)}


def floor(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_the_modules_are_found() -> None:
    names = modules()
    assert {"pp_simve", "pp_simve.fit", "pp_simve.models.priors.gaussian", "pp_simve.inference.augmentations"} <= set(
        names
    )


@pytest.mark.parametrize("name", modules())
def test_imports_go_down(name: str) -> None:
    known = modules()
    targets = imported(known[name], known)
    assert targets <= set(known), "imported under another name than pp_simve.…"
    if floor(name) in ALLOWED:
        assert {floor(target) for target in targets} <= ALLOWED[floor(name)]


def test_there_are_no_circles() -> None:
    known = modules()
    graph = {name: imported(path, known) - {name} for name, path in known.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" <- ".join(circle.args[1]))


def test_the_package_list_is_whole() -> None:
    """A folder that the build does not list works from the checkout, and is missing in the wheel."""
    listed = (ROOT / "pyproject.toml").read_text()
    packages = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert {name for name in packages if f'"{name}"' not in listed} == set()


@pytest.mark.parametrize("where", ["root", "elsewhere"])
def test_imports_come_from_the_package(tmp_path: Path, where: str) -> None:
    for name in FLOORS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('the folder of somebody else')\n")
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT if where == "root" else tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    paths = [Path(line) for line in ended.stdout.split()]
    assert not [path for path in paths if tmp_path in path.parents]
    assert [path.parent.name for path in paths] == ["pp_simve", *FLOORS, "data", "pp_simve"]
