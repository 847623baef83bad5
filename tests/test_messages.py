"""Messages and help texts name flags that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = [ROOT / "train.py", ROOT / "test.py", *sorted(ROOT.glob("scripts/*.py"))]
# Where the flags of a program are, beside its own file.
ALSO = dict.fromkeys(("train.py", "test.py", "upscale.py"), "config/command.py") | {
    "analyse.py": "scripts/analyses/*.py"
}
# Whose messages modules of ours write: a flag in them has to be one of all these programs; elsewhere, of any.
SPEAKS_FOR = {
    "models/training/batch_limit.py": ("train.py",),
    "models/training/": ("train.py", "scripts/run_recipe.py"),
    "models/recipe.py": ("scripts/run_recipe.py",),
    "models/inference/": ("scripts/upscale.py",),
    "data/prepare/benchmarks.py": ("scripts/prepare_benchmarks.py",),
}
OTHERS = {
    *("--nproc-per-node", "--nnodes", "--max-restarts", "--standalone", "--master-port", "--rdzv-backend"),  # torchrun
    *("--help", "--version"),
}
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def texts(path: Path) -> Iterator[str]:
    """The texts in a module: messages, help; docstrings only of programs, whose ``--help`` shows them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node for node in ast.walk(tree) if isinstance(node, documented)]
    docstrings = {id(node.body[0].value) for node in bodies if node.body and isinstance(node.body[0], ast.Expr)}
    if path in PROGRAMS and isinstance(tree.body[0], ast.Expr):
        docstrings.discard(id(tree.body[0].value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def defined(path: Path) -> set[str]:
    """The flags that a program takes."""
    also = ALSO.get(path.name)
    sources = [path] if also is None else [path, *ROOT.glob(also)]
    return {name for source in sources for name in texts(source) if FLAG.fullmatch(name)} | {"--help"}


EVERY = set().union(*(defined(path) for path in PROGRAMS))
MODULES = sorted(
    path for package in ROOT.glob("*/__init__.py") if package.parent.name not in ("scripts", "tests")
    for path in package.parent.rglob("*.py")
)  # fmt: skip


def known_to(module: str) -> set[str]:
    """The flags that messages of a module may name."""
    programs = next((names for start, names in SPEAKS_FOR.items() if module.startswith(start)), None)
    return EVERY if programs is None else set.intersection(*(defined(ROOT / name) for name in programs))


def test_messages_name_flags_that_exist() -> None:
    named = [
        (name, flag)
        for name, path in ((str(path.relative_to(ROOT)), path) for path in MODULES)
        for text in texts(path)
        for flag in FLAG.findall(text)
    ]
    assert len(named) > 10
    assert not [(name, flag) for name, flag in named if flag not in known_to(name) | OTHERS]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_a_program_names_its_own_flags(path: Path) -> None:
    named = {flag for text in texts(path) for flag in FLAG.findall(text)}
    assert named <= defined(path) | OTHERS, named - defined(path) - OTHERS
