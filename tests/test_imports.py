"""Imports point down only, as pyproject.toml draws the layers, and importing does nothing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.api import read_configuration

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = [ROOT / "train.py", ROOT / "test.py", *sorted(ROOT.glob("scripts/*.py"))]
FORBIDDEN = {"train", "test", "tests"}
CONTRACT = "from importlinter.cli import lint_imports_command as check; check()"
IMPORT_ALL = """
import importlib, logging, sys
import torch

seed = torch.initial_seed()
for name in sys.argv[1:]:
    importlib.import_module(name)
assert torch.initial_seed() == seed, "importing seeded torch"
assert "basicsr" not in sys.modules, "importing looked for BasicSR"
assert not logging.getLogger("focalsr").handlers, "importing set up the logger"
"""


def packages() -> list[str]:
    return sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))


def modules() -> list[Path]:
    return sorted(path for package in packages() for path in (ROOT / package).rglob("*.py"))


def imported_by(path: Path) -> set[str]:
    """The top-level names that a module imports."""
    return imported(ast.parse(path.read_text(encoding="utf-8")))


def imported(tree: ast.AST) -> set[str]:
    """The top-level names of the modules that are imported in a piece of code."""
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    # In a process of its own: import-linter sets up logging for the whole process.
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )


def test_imports_keep_to_the_layers() -> None:
    done = python("-c", CONTRACT, "--no-logo", "--no-cache")
    assert done.returncode == 0, done.stdout


def layers_of_pyproject() -> list[list[str]]:
    """The layers that import-linter checks, from the top down."""
    contracts = read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]
    [layers] = [contract["layers"] for contract in contracts if contract["id"] == "layers"]
    return [[name.strip() for name in layer.split("|")] for layer in layers]


def picture_of(page: Path) -> list[list[str]]:
    """The layers that a page draws, one a line from the top down; remarks in parentheses are no part of it."""
    drawn = re.compile(r"^```\n(train\.py  test\.py  scripts\n.*?)^```", re.MULTILINE | re.DOTALL)
    [picture] = drawn.findall(page.read_text(encoding="utf-8"))
    lines = [re.sub(r"\(.*", "", line).strip() for line in picture.splitlines()]
    return [re.split(r" \| |  ", line) for line in lines]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_page_draws_the_layers_of_pyproject(name: str) -> None:
    top, *rest = layers_of_pyproject()
    assert picture_of(ROOT / name) == [["train.py", "test.py", *top], *rest]


@pytest.mark.shared
def test_design_draws_the_layers_of_pyproject(shared: Path) -> None:
    planned = [["analysis"]] if not (ROOT / "analysis").exists() else []  # drawn before it is built
    top, *rest = layers_of_pyproject()
    picture = [layer for layer in picture_of(shared / "design.md") if layer not in planned]
    assert picture == [["train.py", "test.py", *top], *rest]


def test_every_package_has_its_layer() -> None:
    settings = read_configuration(str(ROOT / "pyproject.toml"))
    named = {name for layer in layers_of_pyproject() for name in layer}
    assert named == {*packages(), "scripts"}
    assert set(settings["session_options"]["root_packages"]) == named


def test_packages_do_not_import_the_programs() -> None:
    wrong = [(str(path.relative_to(ROOT)), name) for path in modules() for name in imported_by(path) & FORBIDDEN]
    assert not wrong


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_programs_are_ready_for_signals_before_they_import_what_takes_time(program: Path) -> None:
    """``utils.start.start`` comes first; only sys and pathlib, to find it, are imported before."""
    body = ast.parse(program.read_text(encoding="utf-8")).body
    first = next(place for place, node in enumerate(body) if isinstance(node, ast.If))
    guard = 'if __name__ == "__main__":\n    from utils.start import start\n    start()'
    assert ast.dump(body[first]) == ast.dump(ast.parse(guard).body[0])
    before = ast.Module([node for node in body[:first] if isinstance(node, ast.Import | ast.ImportFrom)], [])
    assert imported(before) <= {"__future__", "sys", "pathlib"}


def test_importing_does_nothing() -> None:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in modules()]
    names.remove("archs.basicsr_bridge")  # whose import is a registration with a library that need not be there
    done = python("-W", "error", "-c", IMPORT_ALL, *names)
    assert done.returncode == 0, done.stdout
    assert done.stdout == ""
