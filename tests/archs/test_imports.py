"""What the modules of networks import, as docs/adding_a_network.md says."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ARCHS = Path(__file__).resolve().parents[2] / "archs"
PACKAGES = sorted(path.parent.name for path in ARCHS.glob("*/network.py"))
OURS = ("archs", "config", "data", "losses", "metrics", "models", "ops", "scripts", "utils")


def imported(path: Path) -> Iterator[ast.stmt]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))


def modules(path: Path) -> set[str]:
    names = set()
    for node in imported(path):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(node.module or "")
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_a_network_imports_operators_helpers_layers_and_its_own_files_only(package: str) -> None:
    allowed = ("ops", "utils", "archs.contract", "archs.layers", "archs.observation", f"archs.{package}")
    found = {name for path in (ARCHS / package).glob("*.py") for name in modules(path)}
    ours = {name for name in found if name.split(".")[0] in OURS}
    assert not {name for name in ours if not any(name == top or name.startswith(f"{top}.") for top in allowed)}


def test_files_of_networks_import_each_other_in_one_direction() -> None:
    def name(path: Path) -> str:
        parts = ("archs", *path.relative_to(ARCHS).with_suffix("").parts)
        return ".".join(parts).removesuffix(".__init__")

    files = {name(path): path for path in ARCHS.rglob("*.py")}
    graph = {module: modules(path) & files.keys() for module, path in files.items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("package", PACKAGES)
def test_networks_import_at_the_top_of_their_files(package: str) -> None:
    for path in (ARCHS / package).glob("*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        top = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert len(top) == len(list(imported(path))), path
