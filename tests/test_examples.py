"""Every example runs, and every flag the documentation shows exists."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pyro
import pytest

from pp_simve import compare, diagnose, embed, evaluate, export, fit

ROOT = Path(__file__).parent.parent
SHORT = {
    "any_model.py": [],
    "diagnose_digits.py": ["--epochs", "1", "--images", "4", "--draws", "50", "--steps", "5"],
    "digits.py": ["--epochs", "1"],
    "full_covariance.py": ["--epochs", "1"],
    "known_factors.py": ["--epochs", "1"],
    "labelled_content.py": ["--steps", "3"],
    "limits.py": ["--draws", "1"],
    "methods.py": ["--methods", "simclr", "swav", "--epochs", "1"],
    "own_encoder.py": ["--epochs", "1"],
    "own_guide.py": ["--epochs", "1"],
    "own_prior.py": ["--epochs", "1"],
    "plain_pyro.py": ["--steps", "3"],
    "posterior_checks.py": ["--epochs", "1", "--images", "20", "--draws", "50"],
    "posterior_tree.py": ["--epochs", "1"],
    "reference.py": ["--epochs", "1", "--images", "1", "--draws", "20", "--warmup", "10", "--steps", "5"],
    "spherical_prior.py": ["--epochs", "1"],
}


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_example_runs(script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), *SHORT[script.name]])
    runpy.run_path(str(script), run_name="__main__")
    pyro.clear_param_store()
    assert "content" in capsys.readouterr().out


@pytest.mark.parametrize("page", ["digits", "own_parts", "limits", "posterior"])
def test_tutorial_runs(page: str) -> None:
    """The code that runs when the site is built, each fit shortened to one epoch."""

    def section(snippet: re.Match[str]) -> str:
        path, name = snippet.groups()
        marked = re.search(rf"(?s)\[start:{name}\]\n(.*?)\n *# --8<-- \[end:{name}\]", (ROOT / path).read_text())
        assert marked, f"{path} has no section {name}"
        return marked[1]

    text = (ROOT / f"docs/tutorials/{page}.md").read_text()
    blocks = re.findall(r"(?s)```python exec[^\n]*\n(.*?)```", text)
    code = re.sub(r'--8<-- "(.+?):(\w+)"', section, "\n".join(blocks))
    shorter = re.sub("(draws|steps|simulations)=[0-9]{2,}", r"\1=40", re.sub("epochs=[0-9]+", "epochs=1", code))
    exec(compile(shorter, page, "exec"), {"__name__": page})


PAGES = [
    "README.md",
    *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")),
]
COMMANDS = {
    "fit": fit,
    "evaluate": evaluate,
    "compare": compare,
    "diagnose": diagnose,
    "embed": embed,
    "export": export,
}


def test_the_readme_and_the_first_page_have_the_same_code() -> None:
    """The first page runs it when the site is built, for fewer epochs."""
    code = re.search(r"(?s)```python\n(.*?)```", (ROOT / "README.md").read_text())
    assert code
    assert code[1].replace("epochs=150", "epochs=5") in (ROOT / "docs/index.md").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_in_the_documentation_have_only_flags_that_exist(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        COMMANDS[command].main(["--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    pages = [(ROOT / page).read_text().replace("\\\n", " ") for page in PAGES]
    commands = [line for page in pages for line in re.findall(rf"python -m pp_simve\.{command}\b(.*)", page)]
    assert commands
    shown = [command.partition("#")[0].partition("`")[0] for command in commands]
    assert {flag for line in shown for flag in re.findall(r"--[a-z-]+", line)} <= known
