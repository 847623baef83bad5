"""The shell scripts: --help helps, and an argument that a script does not know is an error before anything is done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASH = shutil.which("bash")

pytestmark = pytest.mark.skipif(BASH is None, reason="needs bash")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The scripts with what they read before they work; a script that would go on has nothing to work with."""
    root = tmp_path / "a folder"
    shutil.copytree(ROOT / "scripts", root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "utils", root / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    (root / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", root / ".ci")
    shutil.copy(ROOT / "pyproject.toml", root)
    for path in (*ROOT.glob("requirements*.txt"), ROOT / "constraints.txt"):
        shutil.copy(path, root)
    # An environment in which all is installed already.
    (root / ".venv/bin").mkdir(parents=True)
    python = root / ".venv/bin/python"
    python.write_text(f'#!/usr/bin/env bash\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    command = f'source "{root}/scripts/lib/environment.sh"; environment_key'
    key = subprocess.run([str(BASH), "-c", command], text=True, capture_output=True, check=True).stdout.strip()
    (root / ".venv/.installed-requirements-dev").write_text(f"{key}\n", encoding="utf-8")
    return root


def run(root: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script without the variables that would lead it elsewhere."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "FOCALSR_SHARED")}
    return subprocess.run(
        [str(BASH), str(root / script), *arguments],
        cwd=root.parent, env=environment, text=True, capture_output=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("scripts/quickstart.sh", ["From a fresh clone", "--force_yml", "--auto_resume", "FOCALSR_SHARED"]),
        ("scripts/run_tests.sh", ["All checks", "-k schedule", "FOCALSR_SHARED"]),
        ("scripts/run_gpu.sh", ["--stage", "--output", "compute-sanitizer"]),
    ],
)
def test_help_is_shown_and_nothing_is_run(root: Path, script: str, words: list[str], flag: str) -> None:
    done = run(root, script, flag)
    assert done.returncode == 0, done.stderr
    assert not [word for word in words if word not in done.stdout]
    assert "==>" not in done.stdout
    assert not done.stderr


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("scripts/quickstart.sh", ["--hlep"], "unknown flag --hlep; there are --help, --auto_resume and --force_yml"),
        ("scripts/quickstart.sh", ["--check"], "unknown flag --check"),
        ("scripts/quickstart.sh", ["train:total_iter=3"], "unknown argument train:total_iter=3"),
        ("scripts/quickstart.sh", ["--force_yml", "name=mine"], "name=mine: the quick start evaluates"),
        ("scripts/run_tests.sh", ["--hlep"], "unrecognized arguments: --hlep"),
        ("scripts/run_gpu.sh", ["--stgae", "1"], "unrecognized arguments: --stgae 1"),
        (".ci/run", ["-k", "x"], "takes no arguments"),
    ],
)
def test_unknown_arguments_are_errors_before_anything_is_done(
    root: Path, script: str, arguments: list[str], message: str
) -> None:
    done = run(root, script, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "lint" not in done.stdout
    assert "training" not in done.stdout
    assert "installing" not in done.stdout
