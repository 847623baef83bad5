"""Follow a page of the documentation in a copy of the repository: write the files and the lines that it shows.

A block whose first line is ``# PATH`` is a file of that name; in a block of the kind ``diff`` the lines behind it are
an edit of that file: ``+`` is written, ``-`` is taken out, and the others have to be there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.pages import DOCS, ROOT

_PRODUCED = shutil.ignore_patterns("__pycache__", "*.pyc")
_FOLDERS = (
    ".ci", "analysis", "archs", "config", "data", "docs", "losses", "metrics", "models", "ops", "options", "scripts", "tests",
    "utils",
)  # fmt: skip


def copy_of_the_repository(target: Path) -> Path:
    """A copy without environments, data and results, and without ``.git``: no command in it reaches the original."""
    target.mkdir(parents=True)
    for folder in _FOLDERS:
        shutil.copytree(ROOT / folder, target / folder, ignore=_PRODUCED)
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":  # a file where the original is a worktree
            shutil.copy(path, target)
    return target


def follow(page: str, root: Path) -> list[str]:
    """Do what a page of ``docs`` shows, in a copy; returns the files that it made or changed.

    Raises:
        ValueError: the page shows no file, or an edit of lines that the file does not have.
    """
    text = (DOCS / page).read_text(encoding="utf-8")
    touched = []
    for kind, block in re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        head, _, rest = block.partition("\n")
        named = re.fullmatch(r"# ([\w/]+\.\w+)", head)
        if named is None:
            continue
        path = root / named[1]
        if kind == "diff":
            _edit(path, rest.splitlines())
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(rest, encoding="utf-8")
        touched.append(named[1])
    if not touched:
        raise ValueError(f"{page}: no block begins with the name of a file")
    return list(dict.fromkeys(touched))


def _edit(path: Path, lines: Sequence[str]) -> None:
    before = "".join(f"{line[1:]}\n" for line in lines if line[:1] in " -")
    after = "".join(f"{line[1:]}\n" for line in lines if line[:1] in " +")
    text = path.read_text(encoding="utf-8")
    if text.count(before) != 1:
        raise ValueError(f"{path}: these lines are there {text.count(before)} times:\n{before}")
    path.write_text(text.replace(before, after), encoding="utf-8")


def run_in(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python ARGUMENTS`` in a copy."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *arguments], cwd=root, env=variables, capture_output=True, text=True, timeout=300, check=False
    )
